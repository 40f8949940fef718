"""The comparison itself: train the base and both arms, measure, write tables and pictures."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import datasets
import torch
import transformers
import trl
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

import solar_trl
from solar_trl import SolarSFTConfig

from .data import LANGUAGES, DemoData, make_data, vocabulary
from .evaluate import Evaluation, evaluate_model, pivot_similarity, response_states, score_responses
from .model import build_model, build_tokenizer
from .plots import plot_accuracy, plot_curves, plot_map
from .report import results_table, setup_text
from .train import (
    ARM_LEARNING_RATE,
    BASE_LEARNING_RATE,
    BATCH_SIZE,
    arguments,
    arm_trainer,
    base_trainer,
    train,
)


class Probe:
    """Moves the progress bar on, and measures held-out problems at intervals: the same way for every arm."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[dict],
        steps: int,
        every: int | None,
    ):
        self.bar = tqdm(total=steps, desc=f"{name:5}", unit="step", ncols=90, mininterval=0.5)
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self.steps, self.every = steps, every
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0  # of CPU time, spent here and not in training

    def __call__(self, step: int) -> None:
        self.bar.update(step - self.bar.n)
        if self.every and (step % self.every == 0 or step == self.steps):
            start, training = time.process_time(), self.model.training
            loss, soft_tokens = score_responses(self.model, self.tokenizer, self.rows)
            hidden = pivot_similarity(response_states(self.model, self.tokenizer, self.rows))
            self.model.train(training)
            self.points.append(
                {
                    "step": step,
                    "loss_high": loss["high"],
                    "loss_low": loss["low"],
                    "soft_matched": soft_tokens["matched"],
                    "soft_random": soft_tokens["random"],
                    "hidden_matched": hidden["matched"],
                    "hidden_random": hidden["random"],
                }
            )
            self.seconds += time.process_time() - start
        if step == self.steps:
            self.bar.close()


def run_arms(args: argparse.Namespace, data: DemoData) -> tuple[dict[str, Evaluation], dict[str, list[dict]], dict]:
    """Train the base and both arms; returns evaluations, curves, and facts about the run."""
    tokenizer = build_tokenizer(vocabulary())
    base = build_model(tokenizer, args.seed)
    counts = (args.num_high_resource, args.num_low_resource)
    settings = (args.alignment_weight, args.pivot_batching)
    print(setup_text(base.num_parameters(), len(tokenizer), *counts, *settings), end="\n\n", flush=True)
    probe_rows = data.evaluation[: min(args.num_eval, 25) * len(LANGUAGES)]
    scratch = str(args.output_dir)  # nothing is saved, but a trainer wants a place
    evaluations, curves, seconds = {}, {}, {}

    config = arguments(SFTConfig, scratch, args.seed, args.base_steps, BASE_LEARNING_RATE)
    trainer = base_trainer(base, tokenizer, data.base, config)
    train(trainer, Probe("Base", base, tokenizer, probe_rows, args.base_steps, every=None))
    # A trainer patches the model's forward: weights go into fresh models, not into copies of a patched one
    weights = base.state_dict()
    evaluations["Base"] = evaluate_model(base, tokenizer, data.evaluation)

    common = (scratch, args.seed, args.steps, ARM_LEARNING_RATE)
    arms = {
        "SFT": arguments(SFTConfig, *common),
        "SOLAR": arguments(
            SolarSFTConfig,
            *common,
            alignment_weight=args.alignment_weight,
            pivot_batching=args.pivot_batching,
        ),
    }
    batches = {}
    for name, config in arms.items():
        model = build_model(tokenizer, args.seed)
        model.load_state_dict(weights)
        trainer = arm_trainer(name, model, tokenizer, data.train, config, args.pivot_batching == "grouped")
        probe = Probe(name, model, tokenizer, probe_rows, args.steps, args.probe_every)
        start = time.process_time()
        train(trainer, probe)
        seconds[name] = time.process_time() - start - probe.seconds
        batches[name], curves[name] = trainer.batches, probe.points
        evaluations[name] = evaluate_model(model, tokenizer, data.evaluation)
    if batches["SFT"] != batches["SOLAR"]:
        raise RuntimeError("The two arms did not see the same batches in the same order: the comparison is void.")
    return evaluations, curves, {"same_batches": len(batches["SFT"]), "training_cpu_seconds": seconds}


def compare(args: argparse.Namespace) -> None:
    """Run the demo with the arguments of `run.py`."""
    start = time.perf_counter()
    # Matrices this small gain little from a second thread, and lose a lot where other programs keep the cores busy
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    data = make_data(
        args.seed,
        num_base=args.base_steps * BATCH_SIZE // 2,  # one epoch, half of which are stories
        num_high_resource=args.num_high_resource,
        num_low_resource=args.num_low_resource,
        num_eval=args.num_eval,
    )
    evaluations, curves, facts = run_arms(args, data)

    pictures = {
        "curves.png": lambda path: plot_curves(path, curves),
        "accuracy.png": lambda path: plot_accuracy(path, evaluations, args.num_eval),
        "map.png": lambda path: plot_map(path, {name: evaluations[name] for name in ("SFT", "SOLAR")}),
    }
    for name, plot in pictures.items():
        plot(args.output_dir / name)
    results = {
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "versions": {m.__name__: m.__version__ for m in (solar_trl, trl, transformers, torch)},
        **facts,
        "results": {name: evaluation.numbers() for name, evaluation in evaluations.items()},
        "curves": curves,
    }
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    table = results_table(evaluations, args.num_eval)
    (args.output_dir / "results.txt").write_text(table + "\n")
    print("\n" + table + "\n")
    example = data.evaluation[LANGUAGES.index("sw")]
    print(f"The first held-out problem in Swahili\n  {'':7}{example['prompt']}")
    for name in ("SFT", "SOLAR"):
        print(f"  {name:7}{evaluations[name].samples['sw']}")
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in facts["training_cpu_seconds"].items())
    print(
        f"\nBoth arms saw the same {facts['same_batches']} batches in the same order. CPU seconds: {seconds}."
        "\nOne seed is an illustration, not evidence: from seed to seed the accuracy in a language moves by tens of"
        "\npoints, for either arm. `--seed 1` shows another draw."
    )
    files = ", ".join((*pictures, "results.json", "results.txt"))
    print(f"\n{time.perf_counter() - start:.0f} seconds. In {args.output_dir}: {files}")
