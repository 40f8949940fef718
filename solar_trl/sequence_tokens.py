"""Counts of supervised tokens, taken while a batch is still on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class SequenceTokens:
    """
    Supervised tokens of each sequence of a batch, counted where the batch is put together: on the device one would
    have to wait for the count.

    Args:
        counts (`tuple[int, ...]`):
            Positions of each of the `B` sequences whose next-token label is not -100, in order. A padded batch has one
            sequence per row, a flattened one (padding-free, packed) has all of them in its only row.
        first (`tuple[int, ...]`):
            Whether (0 or 1) the first token of each sequence is supervised. It only has a position that predicts it
            where prompt-learning PEFT puts virtual tokens in front.
        width (`int`):
            Length of the labels.
    """

    counts: tuple[int, ...]
    first: tuple[int, ...]
    width: int

    @classmethod
    def count(cls, labels: torch.Tensor, lengths: Sequence[int]) -> SequenceTokens:
        """
        Count the supervised tokens of a batch.

        Args:
            labels (`torch.Tensor` of shape `(B, T)` or `(1, T)`):
                Labels of a padded or a flattened batch, on the host.
            lengths (sequence of `B` ints):
                Tokens of each sequence; only read if the batch is flattened.

        Returns:
            [`SequenceTokens`]: The counts.
        """
        supervised = labels.numpy() != -100
        if len(labels) == len(lengths):
            counts, first = np.count_nonzero(supervised[:, 1:], axis=1).tolist(), supervised[:, 0].tolist()
        else:
            parts = np.split(supervised[0, : sum(lengths)], np.cumsum(lengths)[:-1])
            counts, first = [int(part[1:].sum()) for part in parts], [bool(part[0]) for part in parts]
        return cls(tuple(counts), tuple(map(int, first)), labels.size(1))


def first_row(batch: dict[str, Any], tokens: SequenceTokens) -> tuple[dict[str, Any], SequenceTokens]:
    """The first row of a padded batch, or the only one of a flattened batch, with its counts."""
    n_rows = len(batch["labels"])
    if n_rows != len(tokens.counts):
        return batch, tokens
    row = {k: v[:1] if isinstance(v, torch.Tensor) and v.dim() and len(v) == n_rows else v for k, v in batch.items()}
    return row, SequenceTokens(tokens.counts[:1], tokens.first[:1], tokens.width)
