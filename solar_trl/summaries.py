"""Summaries of sequences, alone and in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Summaries:
    """
    Summaries of sequences.

    Args:
        values (`torch.Tensor` of shape `(R, d)`, `(R, L, d)` for several layers or `(R, K, d)` for token clouds):
            One row per sequence.
        mask (`torch.Tensor` of shape `(R, K)`, *optional*):
            Which tokens of a cloud are there.
    """

    values: torch.Tensor
    mask: torch.Tensor | None = None

    @classmethod
    def of(cls, outputs: Any) -> Summaries:
        return cls(outputs.summaries, outputs.summary_mask)

    def detach(self) -> Summaries:
        return Summaries(self.values.detach(), self.mask)

    def __getitem__(self, index: torch.Tensor) -> Summaries:
        return Summaries(self.values[index], None if self.mask is None else self.mask[index])

    def followed_by(self, other: Summaries | None) -> Summaries:
        """These and others, in one."""
        if other is None:
            return self
        own, others, device = self, other, self.values.device
        if self.mask is not None and other.mask is not None:
            width = max(self.mask.size(1), other.mask.size(1))
            own, others = self.padded(width), other.padded(width)
        values = torch.cat([own.values, others.values.to(device)])
        if own.mask is None or others.mask is None:
            return Summaries(values)
        return Summaries(values, torch.cat([own.mask, others.mask.to(device)]))

    def padded(self, width: int) -> Summaries:
        """Clouds of `width` tokens."""
        assert self.mask is not None, "only clouds have tokens"
        missing = width - self.mask.size(1)
        others = (0, 0) * (self.values.dim() - 2)
        return Summaries(F.pad(self.values, (*others, 0, missing)), F.pad(self.mask, (0, missing)))

    def vectors(self) -> torch.Tensor:
        """One unit vector per sequence, `(R, d')`, whose products are cosines, averaged over the layers."""
        if self.mask is not None:
            weights = self.mask / self.mask.sum(1, keepdim=True).clamp(min=1)
            return Summaries(torch.einsum("rk,rk...->r...", weights.to(self.values.dtype), self.values)).vectors()
        units = F.normalize(self.values, dim=-1)
        return units if units.dim() == 2 else units.flatten(1) / math.sqrt(units.size(1))


@dataclass
class PairedSummaries:
    """
    Both sides of each pair of a micro-batch.

    Args:
        aligned ([`Summaries`] of `P` sequences), pivots ([`Summaries`] of `P` sequences):
            Of the non-pivot examples, and of what they are pulled toward.
        distances (`torch.Tensor` of shape `(P,)`):
            Unweighted alignment loss of each pair.
        anchors (`torch.Tensor` of shape `(P,)`, *optional*):
            Distance of each pair's pivot from where it was at the start of training.
    """

    aligned: Summaries
    pivots: Summaries
    distances: torch.Tensor
    anchors: torch.Tensor | None = None
