"""Where the tokens of a batch stand, read off while the batch is still on the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class SequenceTokens:
    """
    The tokens of each sequence of a batch, counted where the batch is put together: on the device one would have to
    wait for the counts.

    A padded batch has one sequence per row, a flattened one (padding-free, packed) has all `B` of them in its only
    row.

    Args:
        counts (`tuple[int, ...]`):
            Positions of each sequence whose next-token label is not -100, in order.
        first (`tuple[int, ...]`):
            Whether (0 or 1) the first token of each sequence is supervised. It only has a position that predicts it
            where prompt-learning PEFT puts virtual tokens in front.
        width (`int`):
            Length of the labels.
        rows (`tuple[int, ...]`):
            Row of the batch that each sequence is in.
        starts (`tuple[int, ...]`):
            Column of its first token.
        lengths (`tuple[int, ...]`):
            Its tokens, padding left out.
        prompts (`tuple[int, ...]`):
            Its tokens before the first supervised one.
        steps (`tuple[tuple[int, ...], ...]`, *optional*, defaults to `()`):
            Where each of its steps ends, as a number of the positions in `counts`. Empty if steps were not asked for.
    """

    counts: tuple[int, ...]
    first: tuple[int, ...]
    width: int
    rows: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    prompts: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def count(
        cls,
        labels: torch.Tensor,
        lengths: Sequence[int],
        attention_mask: torch.Tensor | None = None,
        step_tokens: frozenset[int] = frozenset(),
    ) -> SequenceTokens:
        """
        Count the tokens of a batch.

        Args:
            labels (`torch.Tensor` of shape `(B, T)` or `(1, T)`):
                Labels of a padded or a flattened batch, on the host.
            lengths (sequence of `B` ints):
                Tokens of each sequence.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                Where a padded batch has tokens. `None` for padding on the right, `lengths` long.
            step_tokens (`frozenset[int]`, *optional*):
                Tokens that end a step of a response.

        Returns:
            [`SequenceTokens`]: The counts.
        """
        supervised = labels.numpy() != -100
        n_rows, width = supervised.shape
        if n_rows == len(lengths):
            rows, starts = list(range(n_rows)), [0] * n_rows
            if attention_mask is not None and attention_mask.shape == labels.shape:
                present = attention_mask.numpy() != 0
                starts, lengths = present.argmax(axis=1).tolist(), np.count_nonzero(present, axis=1).tolist()
        else:
            rows, starts = [0] * len(lengths), np.cumsum([0, *lengths])[:-1].tolist()
        parts = [
            supervised[row, start : start + length] for row, start, length in zip(rows, starts, lengths, strict=True)
        ]
        return cls(
            counts=tuple(int(part[1:].sum()) for part in parts),
            first=tuple(int(part[:1].any()) for part in parts),
            width=width,
            rows=tuple(rows),
            starts=tuple(starts),
            lengths=tuple(len(part) for part in parts),
            prompts=tuple(int(part.argmax()) if part.any() else len(part) for part in parts),
            steps=tuple(
                _steps(labels[row, start + 1 : start + length], step_tokens)
                for row, start, length in zip(rows, starts, lengths, strict=True)
            )
            if step_tokens
            else (),
        )

    def can_pool(self, positions: str, of_next_token: bool) -> list[bool]:
        """
        Which sequences have anything to pool.

        Args:
            positions (`str`):
                `"response"`, `"answer"`, `"prompt"` or `"all"`, see [`Objective`].
            of_next_token (`bool`):
                Whether what is pooled stands for the next token, so that the last position has no value.
        """
        found = [count > 0 for count in self.counts]  # a row without a response has no parallel
        if positions in ("prompt", "all"):
            numbers = self.numbers(positions, of_next_token)
            found = [usable and number > 0 for usable, number in zip(found, numbers, strict=True)]
        return found

    def tails(self, labels: torch.Tensor, sequences: Iterable[int], number: int) -> list[list[int]]:
        """The last `number` supervised tokens, those that a position predicts, of each of some sequences."""
        found = []
        for i in sequences:
            start = self.starts[i]
            part = labels[self.rows[i], start + 1 : start + self.lengths[i]]
            found.append(part[part != -100][-number:].tolist())
        return found

    def numbers(self, positions: str, of_next_token: bool) -> tuple[int, ...]:
        """How many positions of each sequence `"prompt"` or `"all"` are: the first ones."""
        if positions == "prompt":
            return self.prompts
        return tuple(max(length - 1, 0) for length in self.lengths) if of_next_token else self.lengths


def _steps(labels: torch.Tensor, step_tokens: frozenset[int]) -> tuple[int, ...]:
    tokens = [token for token in labels.tolist() if token != -100]
    ends = [place for place, token in enumerate(tokens, start=1) if token in step_tokens]
    # What is left after the last delimiter is a step, unless it is a single token: the end of the sequence
    if len(tokens) - (ends[-1] if ends else 0) > 1 or not ends:
        ends.append(len(tokens))
    ends[-1] = len(tokens)
    return tuple(ends)


def first_row(batch: dict[str, Any], tokens: SequenceTokens) -> tuple[dict[str, Any], SequenceTokens]:
    """The first row of a padded batch, or the only one of a flattened batch, with its counts."""
    n_rows = len(batch["labels"])
    if n_rows != len(tokens.counts):
        return batch, tokens
    row = {k: v[:1] if isinstance(v, torch.Tensor) and v.dim() and len(v) == n_rows else v for k, v in batch.items()}
    return row, SequenceTokens(
        tokens.counts[:1],
        tokens.first[:1],
        tokens.width,
        tokens.rows[:1],
        tokens.starts[:1],
        tokens.lengths[:1],
        tokens.prompts[:1],
        tokens.steps[:1],
    )
