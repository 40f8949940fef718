"""The training of the demo: one base model, then two arms that see the same batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from solar_trl.benchmark import training
from solar_trl.benchmark.training import SFTArm, SolarArm, row_groups


BATCH_SIZE = 32
# The best of 5e-3, 8e-3 and 1.2e-2 for the SFT arm, by its accuracy in low-resource languages on seeds 1 and 2
ARM_LEARNING_RATE = 8e-3
BASE_LEARNING_RATE = 5e-3


def arguments(
    config_class: type[SFTConfig], output_dir: str, seed: int, steps: int, learning_rate: float, **fields: Any
) -> SFTConfig:
    """What all three trainings share."""
    fields = {"learning_rate": learning_rate, "logging_steps": 10, **fields}
    return training.training_arguments(config_class, seed, output_dir, steps, BATCH_SIZE, **fields)


def train(trainer: SFTTrainer, on_step: Callable[[int], None]) -> list[dict[str, float]]:
    """Run a training; returns what the trainer logged."""
    trainer.remove_callback(PrinterCallback)
    return training.train(trainer, on_step)


def base_trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], args: SFTConfig
) -> SFTTrainer:
    """Language modeling on plain text, to get a model that reasons in English and has seen the other languages."""
    return SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def arm_trainer(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    args: SFTConfig,
    grouped: bool,
) -> SFTArm | SolarArm:
    """The trainer of `"SOLAR"`, or of `"SFT"`, in the order of rows that SOLAR has if they are `grouped`."""
    dataset = Dataset.from_list(rows)
    if name == "SOLAR":
        return SolarArm(model, args, train_dataset=dataset, processing_class=tokenizer)
    groups = row_groups(dataset) if grouped else None
    return SFTArm(model, args, train_dataset=dataset, processing_class=tokenizer, groups=groups)
