"""Named points in the frame of alignment objectives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """
    An alignment objective: what is compared, and how far apart it is.

    Args:
        distance (`str`):
            Name of the distance between the soft-token summaries, see [`pair_distances`].
        description (`str`):
            One sentence for the model card.
    """

    distance: str
    description: str


# `None` turns alignment off
OBJECTIVES: dict[str, Objective | None] = {
    "solar": Objective(
        distance="cosine",
        description="Cosine distance between the soft-token summary of each response and that of its pivot parallel.",
    ),
    "none": None,
}
