"""The alignment weight over training."""

from __future__ import annotations

import math


SCHEDULES = ("constant", "linear_decay", "cosine_decay")


def scheduled_weight(weight: float, schedule: str, warmup_ratio: float, progress: float) -> float:
    """
    Weight of the alignment term at a point of training.

    Args:
        weight (`float`):
            The configured weight λ, reached at the end of the warm-up.
        schedule (`str`):
            `"constant"`, `"linear_decay"` or `"cosine_decay"`. The decays go from λ at the end of the warm-up to 0 at
            the end of training.
        warmup_ratio (`float`):
            Share of training in `[0, 1]` over which the weight rises linearly from 0.
        progress (`float`):
            Finished optimizer steps / all optimizer steps, in `[0, 1]`.

    Returns:
        `float`: The current weight.

    Raises:
        ValueError: If `schedule` is unknown.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"Unknown schedule {schedule!r}, expected one of {', '.join(map(repr, SCHEDULES))}.")
    if progress < warmup_ratio:
        return weight * progress / warmup_ratio
    rest = min((progress - warmup_ratio) / (1 - warmup_ratio), 1.0) if warmup_ratio < 1 else 0.0
    if schedule == "linear_decay":
        return weight * (1 - rest)
    if schedule == "cosine_decay":
        return weight * 0.5 * (1 + math.cos(math.pi * rest))
    return weight
