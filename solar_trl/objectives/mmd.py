"""Maximum mean discrepancy between token clouds."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from .pairs import DistanceSettings, Pairs


SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd_distance(pairs: Pairs, settings: DistanceSettings | None = None) -> torch.Tensor:
    """
    Squared maximum mean discrepancy between the token clouds of each pair, with an inverse multiquadric kernel.

    `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)` over all tokens of both sides, with `k(x, y) = mean over s of
    C/(C + |x - y|²)`, `C = 2·d·s·v` and s in `SCALES` (Minotaur; the kernel is that of Wasserstein auto-encoders). It
    sees neither the order nor the number of tokens, and is 0 only if both clouds have the same distribution. `v`, 1 in
    the original, whose latent states are standard normal, is the mean squared entry of the pivot's tokens here, so
    that the distance does not depend on the scale of the embeddings.

    Args:
        pairs ([`Pairs`]):
            The pairs, as token clouds.
        settings ([`DistanceSettings`], *optional*):
            Not read.

    Returns:
        `torch.Tensor` of shape `(P,)`: Distances in `[0, 2]`, up to rounding.
    """
    if not len(pairs):
        return pairs.aligned.sum((1, 2)) + pairs.pivots.sum((1, 2))
    distances = []
    for i in range(len(pairs)):  # clouds × clouds of one pair at a time, recomputed in the backward
        x, y = pairs.aligned[i], pairs.pivots[i]
        weights = (_weights(x, pairs.aligned_mask, i), _weights(y, pairs.pivot_mask, i))
        distances.append(checkpoint(_squared_mmd, x, y, *weights, use_reentrant=False, preserve_rng_state=False))
    return torch.stack(distances)


def _weights(cloud: torch.Tensor, mask: torch.Tensor | None, index: int) -> torch.Tensor:
    """Weight of each token in the mean over the cloud."""
    present = cloud.new_ones(len(cloud)) if mask is None else mask[index].to(cloud.dtype)
    return present / present.sum()


def _squared_mmd(x: torch.Tensor, y: torch.Tensor, x_weights: torch.Tensor, y_weights: torch.Tensor) -> torch.Tensor:
    # As one signed measure: the diagonal of the kernel is then exactly 1
    points, weights = torch.cat([x, y]), torch.cat([x_weights, -y_weights])
    variance = y_weights @ y.detach().square().mean(-1)
    norms = points.square().sum(-1)
    squared = (norms.unsqueeze(1) + norms.unsqueeze(0) - 2 * points @ points.t()).clamp(min=0)
    squared = squared.masked_fill(torch.eye(len(points), dtype=torch.bool, device=points.device), 0)
    widths = 2 * points.size(1) * variance.clamp(min=torch.finfo(points.dtype).tiny)
    kernel = torch.stack([widths * s / (widths * s + squared) for s in SCALES]).mean(0)
    return weights @ kernel @ weights
