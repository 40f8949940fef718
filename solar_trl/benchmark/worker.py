"""One piece of work in one process: a base model, or a run of an arm from it."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import torch
import transformers
import trl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import __version__
from .._files import whole_file
from .._logging import get_logger
from .clones import is_clone, set_clone_alignment
from .measures import answer_problems, area_under_curve, by_language, measure, right_answers
from .models import build_model, load_weights, save_weights
from .placebo import matched_weight
from .results import Run, write_json
from .settings import DataSettings
from .tokenizer import build_tokenizer
from .training import arm_trainer, base_trainer, held_out_rows, train


VERSIONS = {
    "solar_trl": __version__,
    **{module.__name__: str(module.__version__) for module in (datasets, peft, torch, transformers, trl)},
}


def prepare_process(device: str) -> None:
    """
    Settings of a process that does nothing but runs.

    One thread: matrices this small gain little from a second one and lose a lot where other processes keep the cores
    busy, and sums are then added in the same order wherever they are computed.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hundreds of trainings say the same things: only errors are shown, and everything is as before afterwards."""
    ours, bars = get_logger(), datasets.is_progress_bar_enabled()
    level, verbosity = ours.level, transformers.logging.get_verbosity()
    threads = torch.get_num_threads()
    try:
        ours.setLevel(logging.ERROR)
        transformers.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        torch.set_num_threads(1)
        yield
    finally:
        ours.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        torch.set_num_threads(threads)
        if bars:
            datasets.enable_progress_bars()


@lru_cache(maxsize=4)
def tokenizer_of(data: DataSettings) -> PreTrainedTokenizerBase:
    return build_tokenizer(data.languages, data.max_number)


def make_base(run: Run, folder: Path) -> float:
    """Train the base model of a run, if it is not there; returns CPU seconds."""
    path = run.base_path(folder)
    if path.exists():
        return 0.0
    start = time.process_time()
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        tokenizer = tokenizer_of(run.settings.data)
        model = build_model(run.settings.model, tokenizer, run.seed)
        trainer = base_trainer(model, tokenizer, run.settings, run.seed, scratch)
        train(trainer)
        save_weights(model, path)
    return time.process_time() - start


def load_base(run: Run, folder: Path) -> PreTrainedModel:
    """The base model of a run, with its clones as far from English as the settings say."""
    settings, tokenizer = run.settings, tokenizer_of(run.settings.data)
    model = build_model(settings.model, tokenizer, run.seed)
    load_weights(model, run.base_path(folder))
    if settings.training.clone_alignment is not None:
        for code in filter(is_clone, settings.data.languages):
            set_clone_alignment(model, tokenizer, code, settings.training.clone_alignment, run.seed)
    return model.to(settings.device)


def make_run(run: Run, folder: Path, save_states: bool = False) -> float:
    """
    Train an arm from its base, measure it and write the result; returns CPU seconds.

    Args:
        run ([`Run`]): What to run.
        folder (`Path`): Where bases are and results go.
        save_states (`bool`): Whether to keep the last layer's states of the held-out rows, for a map.
    """
    start, wall = time.process_time(), time.perf_counter()
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        result, states = _train_and_measure(run, folder, scratch)
    result["cpu_seconds"]["all"] = round(time.process_time() - start, 2)
    result["wall_seconds"] = round(time.perf_counter() - wall, 2)
    path = run.path(folder)
    if save_states:
        rows = held_out_rows(run.settings.data, run.split, run.settings.evaluation.items, run.seed)
        save_arrays(
            path.with_suffix(".npz"), states=states.astype(np.float16), languages=np.array(rows["language"][:])
        )
    write_json(path, result)
    return result["cpu_seconds"]["all"]


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays in one step."""
    with whole_file(path) as name, name.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _train_and_measure(run: Run, folder: Path, scratch: str) -> tuple[dict[str, Any], np.ndarray]:
    arm, settings, tokenizer = run.arm, run.settings, tokenizer_of(run.settings.data)
    size = settings.evaluation.batch_size
    model = load_base(run, folder)
    curve = _Curve(run, tokenizer)
    facts: dict[str, Any] = {"batches": None, "logs": []}
    training = 0.0
    if arm.trainer == "none":
        curve.measure(0, model)
    else:
        config: dict[str, Any] = {}
        if arm.pairs == "shuffled":
            config["alignment_weight"] = matched_weight(run, lambda: load_base(run, folder), tokenizer, scratch)
            facts["matched_weight"] = config["alignment_weight"]
        start = time.process_time()
        trainer = arm_trainer(arm, model, tokenizer, settings, run.seed, scratch, **config)
        model = trainer.model  # with its adapter, if it has one
        facts["logs"] = train(trainer, lambda step: curve.step(step, model))
        training = time.process_time() - start - curve.seconds
        facts["batches"] = trainer.batches
    start = time.process_time()
    rows = held_out_rows(settings.data, run.split, settings.evaluation.items, run.seed)
    measures, states = measure(model, tokenizer, rows, size)
    seconds = {"training": round(training, 2), "curve": round(curve.seconds, 2)}
    seconds["measures"] = round(time.process_time() - start, 2)
    measures["curve"] = curve.result()
    if arm.trainer != "none":
        measures["items"]["area"] = curve.areas()
    return {
        "arm": {"name": arm.name, "control": arm.control} | asdict(arm),
        "seed": run.seed,
        "purpose": run.purpose,
        "identity": run.identity(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "measures": measures,
        "training": facts,
        "cpu_seconds": seconds,
        "versions": VERSIONS,
    }, states


class _Curve:
    """Accuracy on validation items in the course of a training."""

    def __init__(self, run: Run, tokenizer: PreTrainedTokenizerBase):
        self.evaluation, self.tokenizer = run.settings.evaluation, tokenizer
        self.total = run.settings.training.steps
        # Other items than those of the final measurement, where that uses the validation split too
        rows = held_out_rows(
            run.settings.data, "validation", self.evaluation.items + self.evaluation.curve_items, run.seed
        )
        kept = self.evaluation.items * len(run.settings.data.languages)
        self.rows = rows.select(range(kept, len(rows)))
        self.steps: list[int] = []
        self.hits: list[list[bool]] = []
        self.seconds = 0.0  # of CPU time, spent here and not in training
        points = self.evaluation.curve_points
        self.moments = {round(self.total * i / points) for i in range(points + 1)}

    def step(self, step: int, model: PreTrainedModel) -> None:
        if step in self.moments:
            self.measure(step, model)

    def measure(self, step: int, model: PreTrainedModel) -> None:
        start = time.process_time()
        responses = answer_problems(model, self.tokenizer, self.rows, self.evaluation.batch_size)
        self.hits.append(right_answers(responses, self.rows))
        self.steps.append(step)
        self.seconds += time.process_time() - start

    def result(self) -> dict[str, Any]:
        """Accuracy by language at each step."""
        tables = [by_language(self.rows, hits) for hits in self.hits]
        return {
            "steps": self.steps,
            "accuracy": {name: [float(np.mean(table[name])) for table in tables] for name in tables[0]},
        }

    def areas(self) -> dict[str, list[float]]:
        """Area under the curve of each item, by language."""
        areas = area_under_curve(self.hits, [step / self.total for step in self.steps])
        return by_language(self.rows, areas)
