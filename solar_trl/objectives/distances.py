"""Distances between the summaries of parallel examples. To add one, write its function and name it in `DISTANCES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .contrastive import info_nce_distance
from .divergence import kl_distance
from .mmd import mmd_distance
from .pairs import DistanceSettings, Pairs


def cosine_distance(summaries: torch.Tensor, pivots: torch.Tensor) -> torch.Tensor:
    """`1 - cos` of each row with its pivot: `(P, d)`, `(P, d)` -> `(P,)`, in `[0, 2]`."""
    return 1 - F.cosine_similarity(summaries, pivots, dim=-1)


def mse_distance(summaries: torch.Tensor, pivots: torch.Tensor) -> torch.Tensor:
    """Mean over the dimensions of the squared difference of each row and its pivot: `(P, d)`, `(P, d)` -> `(P,)`."""
    return (summaries - pivots).square().mean(-1)


@dataclass(frozen=True)
class Distance:
    """
    A distance between the two sides of each pair.

    Args:
        function (callable):
            From [`Pairs`] and [`DistanceSettings`] to distances of shape `(P,)`, in the inputs' dtype. Without pairs,
            a differentiable empty tensor.
        of_clouds (`bool`, *optional*, defaults to `False`):
            Whether it compares token clouds, not single vectors.
    """

    function: Callable[[Pairs, DistanceSettings], torch.Tensor]
    of_clouds: bool = False


DISTANCES: dict[str, Distance] = {
    "cosine": Distance(lambda pairs, _: cosine_distance(pairs.aligned, pairs.pivots)),
    "mse": Distance(lambda pairs, _: mse_distance(pairs.aligned, pairs.pivots)),
    "info_nce": Distance(info_nce_distance),
    "mmd": Distance(mmd_distance, of_clouds=True),
    "kl": Distance(kl_distance, of_clouds=True),
}


def pair_distances(
    summaries: torch.Tensor,
    pivots: torch.Tensor,
    distance: str = "cosine",
    *,
    items: torch.Tensor | None = None,
    settings: DistanceSettings | None = None,
) -> torch.Tensor:
    """
    Distance of each pair of summaries.

    Args:
        summaries (`torch.Tensor` of shape `(P, d)`, or `(P, K, d)` for `"mmd"`):
            Summaries of the non-pivot examples, or their tokens.
        pivots (`torch.Tensor` of the same shape):
            Row `i` is the pivot of row `i` of `summaries`.
        distance (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"` for `1 - cos`, `"mse"`, `"info_nce"` or `"mmd"`.
        items (`torch.Tensor` of shape `(P,)` and dtype int64, *optional*):
            Which item each pair is a translation of: pairs of one item are no negatives of each other. `None` if no
            two pairs share one.
        settings ([`DistanceSettings`], *optional*):
            Temperature and the like.

    Returns:
        `torch.Tensor` of shape `(P,)`: Distances, in the inputs' dtype.

    Raises:
        ValueError: If the shapes differ or do not fit the distance, or `distance` is unknown.
    """
    known = [name for name in DISTANCES if name != "kl"]  # which tokens match is not in the tensors
    if distance not in known:
        raise ValueError(f"Unknown distance {distance!r}, expected one of {', '.join(map(repr, known))}.")
    dim = 3 if DISTANCES[distance].of_clouds else 2
    if summaries.dim() != dim or pivots.dim() != dim or (dim == 2 and summaries.shape != pivots.shape):
        shape = "(P, K, d)" if dim == 3 else "(P, d)"
        raise ValueError(
            f"`summaries` and `pivots` must both have shape {shape}, got {tuple(summaries.shape)} and "
            f"{tuple(pivots.shape)}."
        )
    return DISTANCES[distance].function(Pairs(summaries, pivots, items), settings or DistanceSettings())


def alignment_loss(
    summaries: torch.Tensor,
    pivots: torch.Tensor,
    distance: str = "cosine",
    *,
    items: torch.Tensor | None = None,
    settings: DistanceSettings | None = None,
) -> torch.Tensor:
    """
    Alignment loss: the mean distance over pairs. With the default distance that of SOLAR (arXiv:2606.26466).

    No gradient is stopped here: pass `pivots.detach()` for a pivot that does not move.

    Args:
        summaries, pivots, distance, items, settings:
            As [`pair_distances`].

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
    distances = pair_distances(summaries, pivots, distance, items=items, settings=settings)
    return distances.sum() / max(distances.numel(), 1)
