"""Distances between the summaries of parallel examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def cosine_distance(summaries: torch.Tensor, pivots: torch.Tensor) -> torch.Tensor:
    """`1 - cos` of each row with its pivot: `(P, d)`, `(P, d)` -> `(P,)`, in `[0, 2]`."""
    return 1 - F.cosine_similarity(summaries, pivots, dim=-1)


# Distance of each pair, `(P, d), (P, d) -> (P,)`. To add one, write the function and name it here.
DISTANCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"cosine": cosine_distance}


def pair_distances(summaries: torch.Tensor, pivots: torch.Tensor, distance: str = "cosine") -> torch.Tensor:
    """
    Distance of each pair of summaries.

    Args:
        summaries (`torch.Tensor` of shape `(P, d)`):
            Summaries of the non-pivot examples.
        pivots (`torch.Tensor` of shape `(P, d)`):
            Row `i` is the pivot of row `i` of `summaries`.
        distance (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"` for `1 - cos`.

    Returns:
        `torch.Tensor` of shape `(P,)`: Distances, in the inputs' dtype.

    Raises:
        ValueError: If the shapes differ or `distance` is unknown.
    """
    if summaries.shape != pivots.shape or summaries.dim() != 2:
        raise ValueError(
            f"`summaries` and `pivots` must both have shape (P, d), got {tuple(summaries.shape)} and "
            f"{tuple(pivots.shape)}."
        )
    if distance not in DISTANCES:
        raise ValueError(f"Unknown distance {distance!r}, expected one of {', '.join(map(repr, DISTANCES))}.")
    return DISTANCES[distance](summaries, pivots)


def alignment_loss(summaries: torch.Tensor, pivots: torch.Tensor, distance: str = "cosine") -> torch.Tensor:
    """
    Alignment loss of SOLAR (arXiv:2606.26466): the mean distance over pairs.

    No gradient is stopped here: pass `pivots.detach()` for a pivot that does not move.

    Args:
        summaries (`torch.Tensor` of shape `(P, d)`):
            Summaries of the non-pivot examples.
        pivots (`torch.Tensor` of shape `(P, d)`):
            Row `i` is the pivot of row `i` of `summaries`.
        distance (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"` for `1 - cos`.

    Returns:
        `torch.Tensor`: Scalar mean over the pairs; a differentiable zero when there is none.

    Raises:
        ValueError: As [`pair_distances`].

    Examples:
    ```python
    >>> import torch
    >>> from solar_trl.objectives import alignment_loss

    >>> alignment_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    tensor(0.5000)
    ```
    """
    distances = pair_distances(summaries, pivots, distance)
    return distances.sum() / max(distances.numel(), 1)
