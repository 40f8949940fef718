"""Settings chosen on tuning seeds: successive halving over a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .arms import Arm, change_arm, file_name
from .contrasts import item_values
from .results import Run, read_json, write_json
from .settings import Settings, check_seeds


KEEP = 3  # one in so many candidates goes on from a rung to the next
# Factors of the default learning rate of the model's size
RATE_FACTORS = (0.3, 0.55, 1.0, 1.8)
WEIGHTS = (0.3, 1.0, 3.0)
TUNED_SCHEDULES = ("constant", "linear_decay")


@dataclass(frozen=True)
class Rung:
    """
    A rung of successive halving.

    Args:
        seeds (`list[int]`): Seeds on which every candidate of the rung is run.
        scores (`list[tuple[dict, float]]`): Changes of the arm and their mean score, best first.
        kept (`int`): How many of them went on.
    """

    seeds: list[int]
    scores: list[tuple[dict[str, Any], float]]
    kept: int


def default_grid(arm: Arm, settings: Settings) -> dict[str, list[Any]]:
    """
    What is tuned of an arm: the learning rate, and with an alignment term its weight and schedule.

    The learning rates are the same for all arms without LoRA, and for all with it.
    """
    rate = arm.learning_rate(settings)
    grid: dict[str, list[Any]] = {"learning_rate": [float(f"{rate * factor:.3g}") for factor in RATE_FACTORS]}
    if arm.trainer == "solar":
        grid |= {"alignment_weight": list(WEIGHTS), "alignment_schedule": list(TUNED_SCHEDULES)}
    return grid


def candidates(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of a grid."""
    empty = [name for name, values in grid.items() if not values]
    if empty or not grid:
        raise ValueError(f"The grid has no values for {', '.join(empty) or 'anything'}.")
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def score(result: Mapping[str, Any]) -> float:
    """What is chosen by: low-resource accuracy on validation items."""
    return float(item_values(result, "accuracy", "low").mean())


def successive_halving(
    arm: Arm,
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    make: Callable[[Sequence[Run]], bool],
    rungs: Sequence[int] = (2, 4, 8),
) -> list[Rung] | None:
    """
    Choose settings of an arm.

    All combinations of the grid run on the first few seeds; the best third goes on to more seeds, and so on. The best
    of the last rung is chosen, by the mean over all its seeds.

    Args:
        arm ([`Arm`]): What is tuned.
        grid (`Mapping[str, Sequence]`): Values of each field.
        seeds (`Sequence[int]`): Tuning seeds.
        settings ([`Settings`]): Of the runs.
        folder (`Path`): Where results are.
        make (callable): Makes the runs that are missing; returns whether all are there now.
        rungs (`Sequence[int]`): Number of seeds of each rung, rising; there must be as many seeds as the last says.

    Returns:
        `list[Rung]`, or `None` if `make` did not finish.

    Raises:
        ValueError: If a seed is for reported runs, the rungs do not rise, or there are too few seeds.
    """
    check_seeds(seeds, "tuning")
    if not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] < 1:
        raise ValueError(f"`rungs` is {list(rungs)}, expected rising numbers of seeds such as [2, 4, 8].")
    if rungs[-1] > len(seeds):
        raise ValueError(f"The last rung needs {rungs[-1]} seeds, there are {len(seeds)}.")
    remaining, done = candidates(grid), []
    for place, number in enumerate(rungs):
        used = list(seeds[:number])
        arms = [change_arm(arm, changes) for changes in remaining]
        if not make([Run(each, seed, settings) for seed in used for each in arms]):
            return None
        means = [
            float(np.mean([score(read_json(Run(each, seed, settings).path(folder))) for seed in used]))
            for each in arms
        ]
        # Stable: of equal scores the one that stands first in the grid
        order = sorted(range(len(remaining)), key=lambda i: -means[i])
        kept = 1 if place == len(rungs) - 1 else math.ceil(len(remaining) / KEEP)
        done.append(Rung(used, [(remaining[i], means[i]) for i in order], kept))
        remaining = [remaining[i] for i in order[:kept]]
    return done


def on_edge(grid: Mapping[str, Sequence[Any]], chosen: Mapping[str, Any]) -> list[str]:
    """Fields whose chosen number is the smallest or largest of at least three: the best may lie outside the grid."""
    found = []
    for name, values in grid.items():
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) == len(values) >= 3 and chosen[name] in (min(numbers), max(numbers)):
            found.append(name)
    return found


def tuned_path(folder: Path, arm_name: str) -> Path:
    return folder / "tuned" / f"{file_name(arm_name)}.json"


def write_tuned(
    folder: Path, arm: Arm, grid: Mapping[str, Sequence[Any]], rungs: Sequence[Rung], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Write what was chosen, and everything that was tried."""
    chosen, best = rungs[-1].scores[0]
    record = {
        "arm": arm.name,
        "chosen": chosen,
        "score": best,
        "on_edge": on_edge(grid, chosen),
        "grid": {name: list(values) for name, values in grid.items()},
        "rungs": [
            {"seeds": rung.seeds, "kept": rung.kept, "scores": [[dict(c), s] for c, s in rung.scores]}
            for rung in rungs
        ],
        "conditions": dict(conditions),
    }
    write_json(tuned_path(folder, arm.name), record)
    return record


def apply_tuned(arm: Arm, folder: Path, settings: Settings) -> Arm:
    """
    An arm with the settings that were chosen for it (or for the arm that it is `tuned_as`), under its own name.

    Raises:
        ValueError: If it was not tuned, or under other conditions.
    """
    if arm.trainer == "none":
        return arm
    name = arm.tuned_as or arm.name
    path = tuned_path(folder, name)
    if not path.exists():
        raise ValueError(f"{name!r} was not tuned in {folder}: run `tune --arm {name}` first, or leave out `--tuned`.")
    record = read_json(path)
    here = Run(arm, 0, settings).conditions()
    differing = sorted(key for key in here if record["conditions"].get(key) != _plain(here[key]))
    if differing:
        raise ValueError(
            f"{arm.name!r} was tuned under other conditions ({', '.join(differing)} differ). Tune it again in a "
            "folder of its own, or run with the settings that it was tuned with."
        )
    return change_arm(arm, {**record["chosen"], "name": arm.name})


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
