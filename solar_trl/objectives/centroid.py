"""Targets that are made of all languages."""

from __future__ import annotations

import torch

from .pairs import Pairs


def centroids(pairs: Pairs) -> torch.Tensor:
    """
    For each pair, the mean over the pivot and the other translations of its item: the barycentre of the item's other
    languages under squared Euclidean distance.

    Args:
        pairs ([`Pairs`]):
            The pairs of a batch, with their items. Those of one item have the same pivot.

    Returns:
        `torch.Tensor` of shape `(P, d)`: Targets; that of an item with one translation is its pivot.
    """
    items = pairs.item_numbers()
    others = (items.unsqueeze(1) == items.unsqueeze(0)).to(pairs.aligned.dtype)
    others = others - torch.eye(len(pairs), dtype=others.dtype, device=others.device)
    flat = pairs.aligned.flatten(1)
    total = pairs.pivots.flatten(1) + others @ flat
    return (total / (1 + others.sum(1, keepdim=True))).view_as(pairs.aligned)
