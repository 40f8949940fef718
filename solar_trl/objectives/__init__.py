"""Alignment objectives: tensors in, tensors out, no Trainer."""

from .centroid import centroids
from .contrastive import info_nce_distance
from .distances import (
    DISTANCES,
    Distance,
    alignment_loss,
    cosine_distance,
    mse_distance,
    pair_distances,
)
from .divergence import kl_distance
from .frame import FRAME_FIELDS, Objective, layer_indices
from .mmd import mmd_distance
from .pairs import Candidates, DistanceSettings, Pairs
from .presets import OBJECTIVES
from .schedule import SCHEDULES, scheduled_weight
from .soft_tokens import soft_token_summary, soft_tokens
from .sources import Source


__all__ = [
    "DISTANCES",
    "FRAME_FIELDS",
    "OBJECTIVES",
    "SCHEDULES",
    "Candidates",
    "Distance",
    "DistanceSettings",
    "Objective",
    "Pairs",
    "Source",
    "alignment_loss",
    "centroids",
    "cosine_distance",
    "info_nce_distance",
    "kl_distance",
    "layer_indices",
    "mmd_distance",
    "mse_distance",
    "pair_distances",
    "scheduled_weight",
    "soft_token_summary",
    "soft_tokens",
]
