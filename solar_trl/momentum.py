"""A slowly moving copy of a model, what it made of past pivots, and what pairs are told from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .gathering import RankRows
from .objectives import Candidates, Pairs


class AveragedWeights:
    """
    Exponential moving average of the trainable parameters of a model, in at least float32: in bfloat16, the steps of a
    slow average would be rounded away.

    Args:
        model (`nn.Module`):
            The unwrapped model, whose parameters are where the average starts.
        momentum (`float`):
            Share of the average that stays at each step.
    """

    def __init__(self, model: nn.Module, momentum: float):
        self.momentum = momentum
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move toward the parameters as they are now."""
        for name, average in self.values.items():
            average.lerp_(self._parameters[name].to(average.dtype), 1 - self.momentum)

    def call(self, model: nn.Module, **kwargs) -> Any:
        """
        Call the model with the averaged parameters. Its own stay untouched: others take their places for the time of
        the call, so that nothing that autograd has saved changes.
        """
        values = {name: value.to(self._parameters[name].dtype) for name, value in self.values.items()}
        return torch.func.functional_call(model, values, args=(), kwargs=kwargs)

    def load(self, values: dict[str, torch.Tensor]) -> None:
        """
        Take the place of an average that was saved.

        Raises:
            ValueError: If it is one of other parameters.
        """
        for name, average in self.values.items():
            saved = values.get(name)
            if saved is None or saved.shape != average.shape:
                found = "has none" if saved is None else f"has one of shape {tuple(saved.shape)}"
                raise ValueError(
                    f"The averaged weights of the checkpoint do not fit the model: for {name}, of shape "
                    f"{tuple(average.shape)}, it {found}. Resume with the model and the adapter that were trained."
                )
            average.copy_(saved)


class PivotQueue:
    """
    Summaries of past pivots, the newest first, the same on all ranks.

    Args:
        size (`int`):
            How many are kept.
        n_ranks (`int`):
            Number of ranks. [`push`] is collective if there are several.
    """

    def __init__(self, size: int, n_ranks: int):
        self.size = size
        self.n_ranks = n_ranks
        self.vectors: torch.Tensor | None = None
        self.items: torch.Tensor | None = None

    @torch.no_grad()
    def push(self, vectors: torch.Tensor, items: torch.Tensor) -> None:
        """
        Add pivots, and drop the oldest of those that are too many.

        Args:
            vectors (`torch.Tensor` of shape `(A, d)` or `(A, L, d)`):
                Their summaries on this rank.
            items (`torch.Tensor` of shape `(A,)` and dtype int64):
                Which item each belongs to.
        """
        if self.n_ranks > 1:
            rows = RankRows(len(vectors), vectors.device)
            vectors, items = rows.gather(vectors), rows.gather(items)
        if self.vectors is not None and self.items is not None:
            vectors, items = torch.cat([vectors, self.vectors]), torch.cat([items, self.items])
        # A copy: a slice would keep all of what it was cut from
        self.vectors, self.items = vectors[: self.size].detach().clone(), items[: self.size].clone()

    def load(self, vectors: torch.Tensor, items: torch.Tensor) -> None:
        """Take the place of a queue that was saved."""
        self.vectors, self.items = vectors[: self.size], items[: self.size]

    def behind(self, candidates: Candidates) -> Candidates:
        """Candidates, followed by the queue."""
        if self.vectors is None or self.items is None:
            return candidates
        vectors = torch.cat([candidates.vectors, self.vectors.to(candidates.vectors.dtype)])
        return Candidates(vectors, torch.cat([candidates.items, self.items]), candidates.first)


def with_negatives(pairs: Pairs, direction: str, gathers: bool, queue: PivotQueue | None) -> Pairs:
    """
    Pairs with what they are to be told from.

    Args:
        pairs ([`Pairs`]):
            The pairs of a micro-batch.
        direction (`str`):
            `"to_pivot"`, `"from_pivot"` or `"both"`.
        gathers (`bool`):
            Whether these are the pairs of all ranks, with gradients. The call is then collective.
        queue ([`PivotQueue`], *optional*):
            Pivots of past steps, besides them.

    Returns:
        [`Pairs`]: The same with `other_pivots` and `other_aligned`.
    """
    items = pairs.item_numbers()
    pivots, aligned = Candidates(pairs.pivots, items), Candidates(pairs.aligned, items)
    if gathers:
        ranks = RankRows(len(pairs), items.device)
        items = ranks.gather(items)
        if direction in ("to_pivot", "both"):
            pivots = Candidates(ranks.gather(pairs.pivots), items, ranks.first)
        if direction in ("from_pivot", "both"):
            aligned = Candidates(ranks.gather(pairs.aligned), items, ranks.first)
    return replace(pairs, other_pivots=pivots if queue is None else queue.behind(pivots), other_aligned=aligned)
