"""Divergence between next-token distributions, where two languages give the same token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .pairs import DistanceSettings, Pairs


def kl_distance(pairs: Pairs, settings: DistanceSettings) -> torch.Tensor:
    """
    `T² · KL(softmax(pivot/T) ‖ softmax(aligned/T))`, mean over the tokens that both sides of a pair share.

    Args:
        pairs ([`Pairs`]):
            The pairs, as clouds of logits, with their `matches`.
        settings ([`DistanceSettings`]):
            Temperature T.

    Returns:
        `torch.Tensor` of shape `(P,)`: Distances ≥ 0, up to rounding; 0 for a pair that shares no token.
    """
    assert pairs.matches is not None, "which tokens match is known to the collator"
    rows = torch.arange(len(pairs), device=pairs.aligned.device).unsqueeze(1)
    # A cloud may have fewer tokens than the tail is long; what stands at -1 is masked
    own, other = pairs.matches.clamp(min=0).unbind(-1)
    log_p, log_q = (
        F.log_softmax(logits[rows, places] / settings.temperature, dim=-1)
        for logits, places in ((pairs.pivots, other), (pairs.aligned, own))
    )
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    present = (pairs.matches[..., 0] >= 0).to(divergence.dtype)
    return settings.temperature**2 * (divergence * present).sum(1) / present.sum(1).clamp(min=1)
