"""The embedding matrix that the lookup really uses, without building it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .linalg import matmul_wide


@dataclass
class EffectiveEmbedding:
    """
    `E_eff = E + Σ s·(B A)ᵀ`, with some rows replaced: what a PEFT model looks tokens up in, unscaled.

    `E_eff` itself is never built (it would be another `V × d` tensor, and a gradient of that size): mixing commutes
    with each of its parts.

    Args:
        weight (`torch.Tensor` of shape `(V, d)`):
            Base matrix.
        low_rank (list of `(A, B, s)`):
            LoRA adapters: `A` of shape `(r, V)`, `B` of shape `(d, r)`, scaling `s`.
        replaced (list of `(indices, rows)`):
            Rows that are replaced: `indices` of shape `(k,)`, `rows` of shape `(k, d)`.
    """

    weight: torch.Tensor
    low_rank: list[tuple[torch.Tensor, torch.Tensor, float]]
    replaced: list[tuple[torch.Tensor, torch.Tensor]]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> EffectiveEmbedding:
        """The same matrix with a function applied to each of its tensors."""
        return EffectiveEmbedding(
            weight=function(self.weight),
            low_rank=[(function(a), function(b), scaling) for a, b, scaling in self.low_rank],
            replaced=[(indices, function(rows)) for indices, rows in self.replaced],
        )

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Base matrix, adapters and replaced rows."""
        pairs = [tensor for a, b, _ in self.low_rank for tensor in (a, b)]
        return [self.weight, *pairs, *(rows for _, rows in self.replaced)]

    @property
    def is_trainable(self) -> bool:
        """Whether any part of it takes a gradient."""
        return any(tensor.requires_grad for tensor in self.tensors)

    def add_adapters(self, summaries: torch.Tensor, mean_probs: torch.Tensor) -> torch.Tensor:
        """
        Complete summaries over the base matrix, `p̄ᵀE`, to `p̄ᵀE_eff`.

        Args:
            summaries (`torch.Tensor` of shape `(R, d)`):
                `p̄ᵀE`.
            mean_probs (`torch.Tensor` of shape `(R, V)`):
                `p̄`.

        Returns:
            `torch.Tensor` of shape `(R, d)`: `p̄ᵀE_eff`, in the dtype of `summaries`.
        """
        dtype = summaries.dtype
        for a, b, scaling in self.low_rank:
            summaries = summaries + scaling * ((mean_probs @ a.to(dtype).t()) @ b.to(dtype).t())
        for indices, rows in self.replaced:
            # The replaced rows of E carry no gradient: the lookup does not see them
            indices = indices.to(mean_probs.device)
            change = rows.to(dtype) - self.weight.detach()[indices].to(dtype)
            summaries = summaries + mean_probs[:, indices] @ change
        return summaries

    def mix(self, mean_probs: torch.Tensor) -> torch.Tensor:
        """`p̄ᵀE_eff` of `(R, V)` mixtures, `(R, d)`. Differentiable; for use outside the fused head."""
        return self.add_adapters(matmul_wide(mean_probs, self.weight), mean_probs)

    def lookup(self, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of `E_eff`, unscaled: `(N,)` tokens -> `(N, d)`."""
        found = F.embedding(tokens, self.weight)
        for a, b, scaling in self.low_rank:
            found = found + scaling * (F.embedding(tokens, a.t()) @ b.t()).to(found.dtype)
        for indices, rows in self.replaced:
            places = (tokens.unsqueeze(1) == indices.to(tokens.device)).to(found.dtype)
            is_replaced = places.sum(1, keepdim=True)
            found = found * (1 - is_replaced) + places @ rows.to(found.dtype)
        return found
