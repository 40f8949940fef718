"""Rows that ranks hold different numbers of, put together with gradients."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch.autograd.function import once_differentiable


class RankRows:
    """
    The rows of a tensor that each rank holds. Its constructor and [`gather`] are collective: every rank makes the same
    calls in the same order, those without rows too.

    Args:
        count (`int`):
            Rows of this rank.
        device (`torch.device`):
            Where ranks communicate.
    """

    def __init__(self, count: int, device: torch.device):
        self.counts: list[int] = gather(torch.tensor([count], device=device)).tolist()
        self._ends = list(accumulate(self.counts, initial=0))
        self._rank = PartialState().process_index

    @property
    def first(self) -> int:
        """Where the rows of this rank begin among all."""
        return self._ends[self._rank]

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """
        The rows of all ranks, in the order of ranks.

        The gradient of a row is the sum of what all ranks do with it. The backward is collective, and runs if the
        rows need a gradient, which must be so on all ranks or on none.

        Args:
            values (`torch.Tensor` of shape `(P, ...)`):
                Rows of this rank.

        Returns:
            `torch.Tensor` of shape `(C, ...)`: Rows of all ranks.
        """
        return _Gather.apply(values, self) if self._ends[-1] else values

    def compact(self, padded: torch.Tensor) -> torch.Tensor:
        """Rows of all ranks without the padding that makes ranks equally long."""
        width = max(self.counts)
        return torch.cat([padded[i * width : i * width + count] for i, count in enumerate(self.counts)])

    def own(self, gathered: torch.Tensor) -> torch.Tensor:
        """Those of this rank."""
        return gathered[self.first : self._ends[self._rank + 1]]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rows: RankRows) -> torch.Tensor:
        ctx.rows = rows
        padded = values.new_zeros(max(rows.counts), *values.shape[1:])
        padded[: len(values)] = values
        return rows.compact(gather(padded))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.rows.own(reduce(gradient.contiguous(), reduction="sum")), None
