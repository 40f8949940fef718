"""InfoNCE between parallel examples."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from .pairs import Candidates, DistanceSettings, Pairs


def info_nce_distance(pairs: Pairs, settings: DistanceSettings) -> torch.Tensor:
    """
    InfoNCE of each pair: how hard its partner is to tell from those of other items.

    `-log( exp(s(x, y)/T) / (exp(s(x, y)/T) + Σ_n exp(s(x, n)/T)) )` with `s` the cosine (or the dot product), `y` the
    partner of `x`, and `n` the negatives: the pivots of other items, each once (`direction="to_pivot"`), or the
    non-pivot examples of other items (`"from_pivot"`). With `negatives="naive"`, the partners of all other pairs of
    the batch, also those that are translations of the same item, as in code written for bilingual batches (mid-align,
    AFP). A pair without negatives has distance 0.

    Args:
        pairs ([`Pairs`]):
            The pairs, as single vectors.
        settings ([`DistanceSettings`]):
            Temperature, direction, negatives, and whether vectors are normalised.

    Returns:
        `torch.Tensor` of shape `(P,)`: Distances ≥ 0.
    """
    items = pairs.item_numbers()
    aligned, pivots = Candidates(pairs.aligned, items), Candidates(pairs.pivots, items)
    naive = settings.negatives == "naive"
    distances = []
    if settings.direction in ("to_pivot", "both"):
        candidates = pairs.other_pivots or pivots
        # A pivot stands beside each of its translations, and is one negative
        candidates = candidates if naive else _distinct(candidates)
        distances.append(_info_nce(aligned, pivots, candidates, naive, settings))
    if settings.direction in ("from_pivot", "both"):
        distances.append(_info_nce(pivots, aligned, pairs.other_aligned or aligned, naive, settings))
    return torch.stack(distances).mean(0)


def _distinct(candidates: Candidates) -> Candidates:
    """The first candidate of each item. Its shape stays, so that nothing waits for the device: the rest is marked."""
    same = candidates.items.unsqueeze(1) == candidates.items.unsqueeze(0)
    repeated = same.tril(diagonal=-1).any(1)
    return replace(candidates, items=candidates.items.masked_fill(repeated, _NOBODY))


_NOBODY = -(2**62)  # the item of a candidate that is none


def _info_nce(
    anchors: Candidates, partners: Candidates, candidates: Candidates, naive: bool, settings: DistanceSettings
) -> torch.Tensor:
    x, y, others = anchors.vectors, partners.vectors, candidates.vectors
    if settings.normalize:
        x, y, others = (F.normalize(vectors, dim=-1) for vectors in (x, y, others))
    own = (x * y).sum(-1, keepdim=True) / settings.temperature
    rest = x @ others.t() / settings.temperature
    if naive:
        no_negative = candidates.own(len(x))
    else:
        same_item = anchors.items.unsqueeze(1) == candidates.items.unsqueeze(0)
        no_negative = same_item | (candidates.items == _NOBODY)
    rest = rest.masked_fill(no_negative, -torch.inf)
    return (torch.cat([own, rest], dim=1).logsumexp(1, keepdim=True) - own).squeeze(1)
