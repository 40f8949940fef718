"""What is logged: ratios of sums over the logging window and all ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


class AlignmentMeter:
    """
    Sums over a logging window, on the device and already reduced over ranks, so that logging needs no collective.

    Args:
        reduce (callable):
            Sums a tensor over all ranks.
    """

    def __init__(self, reduce: Callable[[torch.Tensor], torch.Tensor]):
        self._reduce = reduce
        self.reset()

    def reset(self) -> None:
        """Start a new window."""
        self.steps = 0.0
        self._sums: dict[str, torch.Tensor] = {}

    def update(
        self,
        n_languages: int,
        token_loss: torch.Tensor,
        token_counts: torch.Tensor,
        languages: torch.Tensor,
        distances: torch.Tensor,
        similarities: torch.Tensor,
        pair_languages: torch.Tensor,
        pivots: torch.Tensor,
        steps: float,
        row_weights: torch.Tensor | None = None,
        pair_weights: torch.Tensor | None = None,
    ) -> None:
        """
        Add a micro-batch. Called by every rank the same number of times, with any number of pairs.

        Args:
            n_languages (`int`):
                Number of languages, the same on all ranks.
            token_loss (`torch.Tensor` of shape `(B,)`):
                Summed SFT loss of each row.
            token_counts (`torch.Tensor` of shape `(B,)`):
                Supervised tokens of each row.
            languages (`torch.Tensor` of shape `(B,)`):
                Language of each row.
            distances (`torch.Tensor` of shape `(P,)`):
                Unweighted alignment loss of each pair.
            similarities (`torch.Tensor` of shape `(P,)`):
                Cosine similarity of each pair.
            pair_languages (`torch.Tensor` of shape `(P,)`):
                Language of the pair's non-pivot example.
            pivots (`torch.Tensor` of shape `(P, d)`):
                Summary of each pair's pivot.
            steps (`float`):
                Share of an optimizer step that the micro-batch is.
            row_weights (`torch.Tensor` of shape `(B,)`, *optional*), pair_weights (of shape `(P,)`, *optional*):
                0 for rows that only fill up the last batch of an evaluation.
        """
        dtype = torch.float32 if token_loss.device.type == "mps" else torch.float64

        def by_language(values: torch.Tensor, codes: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
            values = values.detach().to(dtype)
            values = values if weights is None else values * weights
            return values.new_zeros(n_languages).index_add_(0, codes, values)

        # Per pair, so that the variance does not depend on how a step is cut into micro-batches
        units = F.normalize(pivots.detach().to(dtype), dim=-1)
        units = units if pair_weights is None else units * pair_weights.unsqueeze(1)
        parts = {
            "loss": by_language(token_loss, languages, row_weights),
            "tokens": by_language(token_counts, languages, row_weights),
            "distance": by_language(distances, pair_languages, pair_weights),
            "similarity": by_language(similarities, pair_languages, pair_weights),
            "pairs": by_language(torch.ones_like(similarities), pair_languages, pair_weights),
            "units": units.sum(0),
        }
        total = self._reduce(torch.cat(list(parts.values())))
        for (name, part), value in zip(
            parts.items(), total.split([part.numel() for part in parts.values()]), strict=True
        ):
            old = self._sums.get(name)
            if old is not None and old.numel() < part.numel():  # a language joined
                old = F.pad(old, (0, part.numel() - old.numel()))
            self._sums[name] = value if old is None else old + value
        self.steps += steps

    def compute(self, languages: list[str]) -> dict[str, float]:
        """Names and values to log; a ratio whose denominator is zero is left out. Empty without any update."""
        if not self._sums:
            return {}
        sums = {name: value.tolist() for name, value in self._sums.items() if name != "units"}
        n_pairs, n_tokens = sum(sums["pairs"]), sum(sums["tokens"])
        logs = {}
        if n_tokens:
            logs["sft_loss"] = sum(sums["loss"]) / n_tokens
        if n_pairs:
            logs["alignment_loss"] = sum(sums["distance"]) / n_pairs
            logs["pivot_similarity"] = sum(sums["similarity"]) / n_pairs
            # Mean squared distance of unit vectors from their mean
            logs["summary_variance"] = 1 - (self._sums["units"] / n_pairs).square().sum().item()
        # Shares of steps add up to a whole number, but for rounding
        logs["aligned_pairs"] = n_pairs / round(self.steps, 6) if self.steps else n_pairs
        for language, loss, tokens in zip(languages, sums["loss"], sums["tokens"], strict=False):
            if tokens:
                logs[f"sft_loss/{language}"] = loss / tokens
        for language, similarity, pairs in zip(languages, sums["similarity"], sums["pairs"], strict=False):
            if pairs:
                logs[f"pivot_similarity/{language}"] = similarity / pairs
        return logs
