"""Rows and trainers that tests share."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import pytest
import torch
from datasets import Dataset
from models import TRANSFORMERS_5
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from solar_trl import SolarSFTConfig, SolarSFTTrainer


QUIET = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
}
# Rows as they stand, which transformers 4 cannot be asked for; by length, which it calls by another name
SEQUENTIAL = {"train_sampling_strategy": "sequential", "pivot_batching": "random"}
BY_LENGTH = {"train_sampling_strategy": "group_by_length"} if TRANSFORMERS_5 else {"group_by_length": True}
needs_sequential = pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 has no sequential sampling strategy")

# Plain gradient descent, so that the update is the gradient
SGD = {**QUIET, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}


def token_rows(spec: list[tuple[str, Any]], vocab_size: int = 380, seed: int = 0) -> list[dict[str, Any]]:
    """Pre-tokenized rows for `(language, parallel_id)` pairs: random tokens, ragged prompts and responses."""
    rng = random.Random(seed)
    rows = []
    for language, parallel_id in spec:
        prompt, response = rng.randint(2, 5), rng.randint(1, 9)
        ids = [rng.randrange(3, vocab_size) for _ in range(prompt + response)]
        labels = [-100] * prompt + ids[prompt:]
        rows.append({"input_ids": ids, "labels": labels, "language": language, "parallel_id": parallel_id})
    return rows


# Two whole items, one without its pivot, one pivot without translations; ragged on purpose
SPEC = [("sw", 1), ("en", 1), ("th", 1), ("en", 2), ("sw", 2), ("sw", 3), ("en", 4), ("de", 1)]


class GradientRecorder(TrainerCallback):
    """Keeps the gradients of each optimizer step, before it."""

    def __init__(self):
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(
            {
                name.removeprefix("module."): p.grad.detach().clone()
                for name, p in model.named_parameters()
                if p.grad is not None
            }
        )


def solar_trainer(model, rows, tokenizer, tmp_path, *, config=None, **kwargs) -> SolarSFTTrainer:
    args = SolarSFTConfig(str(tmp_path / "solar"), **{**SGD, **(config or {})})
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    return SolarSFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer, **kwargs)


def sft_trainer(model, rows, tokenizer, tmp_path, *, config=None, **kwargs) -> SFTTrainer:
    args = SFTConfig(str(tmp_path / "sft"), **{**SGD, **(config or {})})
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    return SFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer, **kwargs)


def step_gradients(trainer) -> dict[str, torch.Tensor]:
    """Gradients of the first optimizer step of `trainer.train()`."""
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    return recorder.steps[0]


def relative_error(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """‖got − expected‖ / ‖expected‖ over all parameters together; missing gradients count as zero."""
    assert set(got) <= set(expected), sorted(set(got) - set(expected))
    difference = sum(
        ((got[name].double() if name in got else 0) - value.double()).square().sum()
        for name, value in expected.items()
    )
    norm = sum(value.double().square().sum() for value in expected.values())
    return (difference / norm).sqrt().item()


def leave() -> None:
    """End a worker process, after all ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    # Threads of the backend that outlive it abort the interpreter on its way out, now and then
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
