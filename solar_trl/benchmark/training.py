"""Training on the real trainers: the base model, and the arms on the same batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..config import SolarSFTConfig
from ..data import find_pivots
from ..data.recipes import shuffle_parallels
from ..data.sampler import ParallelGroupSampler
from ..trainer import SolarSFTTrainer
from .arithmetic import load_base_corpus, load_parallel_arithmetic
from .arms import Arm
from .models import size_of
from .settings import PIVOT, DataSettings, Settings


class _RecordsBatches:
    """
    Remembers a digest of all batches, and takes rows in groups where the trainer would not.

    Args:
        groups (`np.ndarray`, *optional*): Group of each row for [`ParallelGroupSampler`].
    """

    def __init__(self, *args: Any, groups: np.ndarray | None = None, **kwargs: Any):
        self._fixed_groups = groups
        self._digest = hashlib.sha256()
        super().__init__(*args, **kwargs)

    @property
    def batches(self) -> str:
        """Stands for all batches so far, in their order."""
        return self._digest.hexdigest()

    def training_step(self, model, inputs, *args, **kwargs):
        ids = inputs["input_ids"]
        # Its shape too: padding is part of the batch
        self._digest.update(f"{tuple(ids.shape)}".encode() + ids.cpu().numpy().tobytes())
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self._fixed_groups is None:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        args = self.args  # type: ignore[attr-defined]
        return ParallelGroupSampler(self._fixed_groups, args.per_device_train_batch_size, seed=args.seed)


class SFTArm(_RecordsBatches, SFTTrainer):
    """[`~trl.SFTTrainer`], with a record of its batches."""


class SolarArm(_RecordsBatches, SolarSFTTrainer):
    """[`SolarSFTTrainer`], with a record of its batches."""


class StepCallback(TrainerCallback):
    """Calls `function(step)` before the first step and after each one."""

    def __init__(self, function: Callable[[int], None]):
        self.function = function

    def on_train_begin(self, args, state, control, **kwargs):
        self.function(0)

    def on_step_end(self, args, state, control, **kwargs):
        self.function(state.global_step)


@lru_cache(maxsize=4)
def training_rows(data: DataSettings, seed: int) -> Dataset:
    """The training rows of all arms of a seed."""
    resources = dict.fromkeys(data.low, data.n_low)
    return load_parallel_arithmetic(
        data.languages, n=data.n_high, seed=seed, split="train", resources=resources, **data.problems
    )


def unsolved_rows(data: DataSettings, n: int, seed: int) -> Dataset:
    """The `n` problems after a seed's training items, without solutions, in English and low-resource languages."""
    languages = (PIVOT, *data.low)
    rows = load_parallel_arithmetic(languages, n=data.n_high + n, seed=seed, split="train", **data.problems)
    rows = rows.select(range(data.n_high * len(languages), len(rows)))
    return rows.select_columns(["prompt", "language", "parallel_id"]).rename_column("prompt", "text")


@lru_cache(maxsize=8)
def held_out_rows(data: DataSettings, split: str, items: int, seed: int) -> Dataset:
    """Held-out rows of a seed: every item in every language, item by item."""
    return load_parallel_arithmetic(data.languages, n=items, seed=seed, split=split, **data.problems)


def base_trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings, seed: int, output_dir: str
) -> SFTArm:
    """The trainer of a base model."""
    base = settings.base
    rows = base.steps * base.batch_size
    stories = round(rows * base.story_share)
    corpus = load_base_corpus(settings.data.languages, rows - stories, stories, seed, **settings.data.problems)
    rate = size_of(settings.model).base_learning_rate if base.learning_rate is None else base.learning_rate
    args = _arguments(SFTConfig, settings, seed, output_dir, base.steps, base.batch_size, learning_rate=rate)
    trainer = SFTArm(model, args, train_dataset=corpus.select_columns("text"), processing_class=tokenizer)
    return _silent(trainer)


def arm_trainer(
    arm: Arm,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    seed: int,
    output_dir: str,
    **config: Any,
) -> SFTArm | SolarArm:
    """
    The trainer of an arm.

    Args:
        arm ([`Arm`]): Which.
        model, tokenizer: The base model, to be trained in place, and its tokenizer.
        settings ([`Settings`]), seed (`int`): Of the run.
        output_dir (`str`): A place that the trainer wants, though nothing is saved there.
        config: Fields of the configuration that differ from the arm's.
    """
    rows = training_rows(settings.data, seed)
    groups = None
    if arm.order == "grouped" and not _orders_itself(arm, config):
        pivots = find_pivots(rows)
        groups = np.where(pivots < 0, np.arange(len(pivots)), pivots)
    if arm.pairs == "shuffled":
        rows = shuffle_parallels(rows, seed=seed)
    fields: dict[str, Any] = {"learning_rate": arm.learning_rate(settings), **arm.config, **config}
    solar = arm.trainer == "solar"
    if solar:
        fields["pivot_batching"] = "grouped" if arm.order == "grouped" and groups is None else "random"
    columns = ["prompt", "completion"]
    aligned: dict[str, Any] = {}
    if arm.unsolved:
        aligned["alignment_dataset"] = unsolved_rows(settings.data, arm.unsolved, seed)
    else:
        columns += ["language", "parallel_id"]
    training = settings.training
    args = _arguments(
        SolarSFTConfig if solar else SFTConfig,
        settings,
        seed,
        output_dir,
        training.steps,
        training.batch_size,
        warmup_steps=training.warmup_steps,
        **fields,
    )
    trainer = (SolarArm if solar else SFTArm)(
        model,
        args,
        train_dataset=rows.select_columns(columns),
        processing_class=tokenizer,
        groups=groups,
        peft_config=_peft_config(arm, settings),
        **aligned,
    )
    return _silent(trainer)


def _orders_itself(arm: Arm, config: dict[str, Any]) -> bool:
    """Whether the trainer groups the rows by their true parallels of its own accord."""
    values = {**arm.config, **config}
    off = values.get("alignment_weight") == 0 or values.get("alignment_objective") == "none"
    return arm.trainer == "solar" and arm.pairs == "true" and not off


def _peft_config(arm: Arm, settings: Settings) -> Any:
    if arm.peft is None:
        return None
    from peft import LoraConfig

    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.training.lora_rank,
        lora_alpha=2 * settings.training.lora_rank,
        lora_dropout=0.0,
        target_modules=[*linear, "embed_tokens"] if arm.peft == "lora_embeddings" else linear,
        modules_to_save=["embed_tokens"] if arm.peft == "lora_saved_embeddings" else None,
    )


def _arguments(
    config_class: type[SFTConfig],
    settings: Settings,
    seed: int,
    output_dir: str,
    steps: int,
    batch_size: int,
    **fields: Any,
) -> SFTConfig:
    """What all trainings share."""
    values: dict[str, Any] = {
        "output_dir": output_dir,
        "seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "max_length": None,
        "logging_steps": max(1, steps // 20),
        # TRL's defaults suit a large model
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": settings.device == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return config_class(**(values | fields))


def _silent(trainer: Any) -> Any:
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def train(trainer: SFTTrainer, on_step: Callable[[int], None] | None = None) -> list[dict[str, float]]:
    """Run a training; returns what the trainer logged."""
    if on_step is not None:
        trainer.add_callback(StepCallback(on_step))
    trainer.train()
    return trainer.state.log_history
