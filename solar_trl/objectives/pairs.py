"""What a distance sees: both sides of each pair, and whom else it may be compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Candidates:
    """
    Examples of other pairs, as negatives of a contrastive distance.

    Args:
        vectors (`torch.Tensor` of shape `(C, d)`):
            Their summaries.
        items (`torch.Tensor` of shape `(C,)` and dtype int64):
            Which item each is a translation of.
        first (`int`, *optional*, defaults to `0`):
            Where the pairs' own ones begin among them: behind those of lower ranks.
    """

    vectors: torch.Tensor
    items: torch.Tensor
    first: int = 0

    def own(self, n_pairs: int) -> torch.Tensor:
        """Which candidate is the pair's own partner, `(P, C)` and dtype bool."""
        places = torch.arange(len(self.items), device=self.items.device)
        return (places - self.first).unsqueeze(0) == torch.arange(n_pairs, device=self.items.device).unsqueeze(1)


@dataclass(frozen=True)
class Pairs:
    """
    Both sides of each of `P` pairs.

    Args:
        aligned (`torch.Tensor` of shape `(P, d)`), pivots (`torch.Tensor` of shape `(P, d)`):
            Summaries of the non-pivot examples, and what each is pulled toward. Token clouds have shape `(P, K, d)`.
        items (`torch.Tensor` of shape `(P,)` and dtype int64, *optional*):
            Which item each pair belongs to. `None` where no two pairs share one.
        aligned_mask (`torch.Tensor` of shape `(P, K)` and dtype bool, *optional*), pivot_mask (likewise, *optional*):
            Which tokens of a cloud are there. `None` for all.
        other_pivots ([`Candidates`], *optional*), other_aligned ([`Candidates`], *optional*):
            Where contrastive distances look for negatives. `None` for the pairs themselves.
        matches (`torch.Tensor` of shape `(P, M, 2)` and dtype int64, *optional*):
            Only for `"kl"`: tokens of both clouds that are the same, as positions in `aligned` and `pivots`; -1 where
            there are fewer.
    """

    aligned: torch.Tensor
    pivots: torch.Tensor
    items: torch.Tensor | None = None
    aligned_mask: torch.Tensor | None = None
    pivot_mask: torch.Tensor | None = None
    other_pivots: Candidates | None = None
    other_aligned: Candidates | None = None
    matches: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.aligned)

    def item_numbers(self) -> torch.Tensor:
        """The item of each pair, `(P,)`."""
        return torch.arange(len(self), device=self.aligned.device) if self.items is None else self.items

    def layer(self, index: int) -> Pairs:
        """One layer of summaries of shape `(P, L, d)`, or of clouds `(P, K, L, d)`."""

        def pick(candidates: Candidates | None) -> Candidates | None:
            return None if candidates is None else replace(candidates, vectors=candidates.vectors[..., index, :])

        return replace(
            self,
            aligned=self.aligned[..., index, :],
            pivots=self.pivots[..., index, :],
            other_pivots=pick(self.other_pivots),
            other_aligned=pick(self.other_aligned),
        )


@dataclass(frozen=True)
class DistanceSettings:
    """
    What distances can be set to; explained in [`Objective`].

    Args:
        temperature (`float`, *optional*, defaults to `0.1`):
            Of the similarities in `"info_nce"`, and of both distributions in `"kl"`.
        direction (`str`, *optional*, defaults to `"to_pivot"`):
            `"to_pivot"`, `"from_pivot"` or `"both"`.
        negatives (`str`, *optional*, defaults to `"items"`):
            `"items"` or `"naive"`.
        normalize (`bool`, *optional*, defaults to `True`):
            Cosine similarities, or dot products.
    """

    temperature: float = 0.1
    direction: str = "to_pivot"
    negatives: str = "items"
    normalize: bool = True
