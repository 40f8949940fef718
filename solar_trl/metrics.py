"""What is logged: ratios of sums over the logging window and all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ._logging import get_logger


# Variance below which there was but one item in a window
ONE_ITEM = 1e-12


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
        anchors: torch.Tensor | None = None,
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
            anchors (`torch.Tensor` of shape `(P,)`, *optional*):
                Distance of each pair's pivot from its start; given on all ranks or on none.
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
        if anchors is not None:
            parts["anchor"] = by_language(anchors, pair_languages, pair_weights)
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
            if "anchor" in sums:
                logs["anchor_loss"] = sum(sums["anchor"]) / n_pairs
            logs["pivot_similarity"] = sum(sums["similarity"]) / n_pairs
            # Mean squared distance of unit vectors from their mean; of one item it is rounding alone
            variance = 1 - (self._sums["units"] / n_pairs).square().sum().item()
            if not variance <= ONE_ITEM:
                logs["summary_variance"] = variance
        # Shares of steps add up to a whole number, but for rounding
        logs["aligned_pairs"] = n_pairs / round(self.steps, 6) if self.steps else n_pairs
        for language, loss, tokens in zip(languages, sums["loss"], sums["tokens"], strict=False):
            if tokens:
                logs[f"sft_loss/{language}"] = loss / tokens
        for language, similarity, pairs in zip(languages, sums["similarity"], sums["pairs"], strict=False):
            if pairs:
                logs[f"pivot_similarity/{language}"] = similarity / pairs
        return logs


class TrainingAlarms:
    """
    Warns once when what is logged shows that training went wrong.

    - Collapse: the between-item variance of the pivot summaries has fallen by [`COLLAPSE`] since its largest value
      after the first window.
      The summaries of all items are then nearly the same, which meets the alignment term without aligning anything.
    - A value that is not finite, which the Trainer leaves out of its own `loss` (`logging_nan_inf_filter`).
    """

    COLLAPSE = 100.0
    # Windows in a row: with few pairs each, a single one can hold items that are alike
    PATIENCE = 3

    def __init__(self):
        # In the first window a model may move so much that its own way counts as a difference between items
        self._windows = 0
        self._largest = 0.0
        self._low = 0
        self._warned: set[str] = set()

    def check(self, logs: dict[str, float], step: int) -> None:
        """
        Look at the values of a logging window.

        Args:
            logs (`dict[str, float]`):
                Names and values, as [`AlignmentMeter.compute`] returns them.
            step (`int`):
                Optimizer step, for the message.
        """
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            self._warn(
                "finite",
                f"At step {step}, {', '.join(f'`{name}` is {logs[name]}' for name in bad)}: the model gives values "
                "that are not finite. Lower the learning rate, look for broken rows, or train in bf16, not fp16.",
            )
        variance = logs.get("summary_variance")
        if variance is None or not math.isfinite(variance):
            return
        self._windows += 1
        if self._windows == 1:
            return
        self._low = self._low + 1 if variance < self._largest / self.COLLAPSE else 0
        if self._low == self.PATIENCE:
            self._warn(
                "collapse",
                f"At step {step}, `summary_variance` is {variance:.2g}, less than 1/{self.COLLAPSE:.0f} of the "
                f"{self._largest:.2g} that it was: the summaries of all items are becoming alike. If "
                "`eval_summary_variance` falls more than it does with a weight of 1e-9, the alignment term does it: "
                "lower `alignment_weight`, let it decay (`alignment_schedule='linear_decay'`), or keep "
                "`detach_embeddings=False`.",
            )
        self._largest = max(self._largest, variance)

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            get_logger().warning(message)
