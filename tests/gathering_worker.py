"""Optimizer steps and an evaluation per case, on however many ranks it was launched; rank 0 saves what it saw."""

import json
import os
import sys
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from helpers import SEQUENTIAL, GradientRecorder, leave, solar_trainer, token_rows
from models import tiny_model
from tiny_tokenizer import train_tokenizer

from solar_trl import gathering


# Taken in order, the first four rows are those of rank 0
ROWS = {
    "ragged": [("sw", 1), ("th", 1), ("en", 7), ("de", 8), ("sw", 2), ("en", 1), ("en", 2), ("fr", 9)],
    "a rank without pairs": [("sw", 1), ("th", 1), ("sw", 2), ("en", 2), ("en", 7), ("de", 8), ("en", 1), ("fr", 9)],
    "items on both ranks": [("sw", 1), ("sw", 2), ("en", 1), ("th", 3), ("th", 1), ("de", 2), ("en", 2), ("en", 3)],
}


class Calls:
    """Counts the collectives of the backward; `broken` ones leave each rank its own part of the gradient."""

    def __init__(self, broken: bool):
        self.broken = broken
        self.number = 0
        self.reduce = gathering.reduce

    def __enter__(self):
        def reduce(gradient, reduction):
            self.number += 1
            return gradient if self.broken else self.reduce(gradient, reduction=reduction)

        gathering.reduce = reduce
        return self

    def __exit__(self, *error):
        gathering.reduce = self.reduce


def run(case: dict, folder: Path) -> dict:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    config = {"alignment_objective": "soft_info_nce", "alignment_weight": 3.0, "max_steps": 1, "learning_rate": 0.1}
    config |= SEQUENTIAL | case.get("config", {})
    size = config.pop("batch_size", 8) // ranks
    config["alignment_kwargs"] = {"gather": True, "temperature": 0.5} | case.get("kwargs", {})
    trainer = solar_trainer(
        tiny_model("qwen3"),
        token_rows(ROWS[case["rows"]]),
        train_tokenizer(),
        folder,
        config={**config, "per_device_train_batch_size": size, "per_device_eval_batch_size": size},
        eval_dataset=Dataset.from_list(token_rows(ROWS["items on both ranks"], seed=5)),
    )
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    with Calls(case.get("broken", False)) as calls:
        trainer.train()
        in_training = gather_object([calls.number])
        metrics = trainer.evaluate()
    return {
        "world_size": trainer.accelerator.num_processes,
        "gradients": recorder.steps,
        "logs": [log for log in trainer.state.log_history if "loss" in log],
        "eval": metrics,
        "calls": in_training,
        "calls in evaluation": calls.number - in_training[PartialState().process_index],
    }


def main(cases: list[dict], out: str) -> None:
    torch.set_num_threads(1)
    results = []
    for case in cases:
        results.append(run(case, Path(out).parent))
        AcceleratorState._reset_state()  # the process group stays
    if PartialState().is_main_process:
        torch.save(results, out)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
    leave()
