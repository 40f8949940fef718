"""Alignment objectives: tensors in, tensors out, no Trainer."""

from .distances import alignment_loss, cosine_distance, pair_distances
from .presets import OBJECTIVES, Objective
from .schedule import SCHEDULES, scheduled_weight
from .soft_tokens import soft_token_summary, soft_tokens


__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "Objective",
    "alignment_loss",
    "cosine_distance",
    "pair_distances",
    "scheduled_weight",
    "soft_token_summary",
    "soft_tokens",
]
