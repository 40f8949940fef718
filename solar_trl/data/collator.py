"""Pairing within a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..sequence_tokens import SequenceTokens
from .packing import LENGTHS_COLUMN
from .pivots import PAIRING_COLUMNS, PIVOT_COLUMN, PivotTable
from .stream_pairs import TOKENIZED_PIVOT_COLUMN, CarriedPivots


_ADDED_COLUMNS = (*PAIRING_COLUMNS, TOKENIZED_PIVOT_COLUMN)
# Key of the pairing in a batch. It comes last, and the trainer pops it before the model sees the batch.
ALIGNMENT_KEY = "alignment"


class DataCollatorForPivotAlignment:
    """
    Data collator that pairs each non-pivot example of a batch with its pivot parallel.

    It leaves the padding to another collator and adds one key, `"alignment"`. Every distinct pivot is present once: as
    the row of the batch that it is, or, if it is not there, in a side batch for the missing ones. The side batch never
    mixes with the main one, so that token counts, the SFT loss and its metrics stay what they were.

    Args:
        collator (callable):
            Collates rows of `input_ids` and `labels`, in order: one row of the result per example, or all of them one
            after the other in a single row (TRL's `DataCollatorForLanguageModeling`, padded or padding-free).
        pivots ([`PivotTable`]):
            Where the pivots of datasets are kept. Rows of a stream carry theirs.

    A packed row counts as as many examples as it was packed from.

    The value of `"alignment"` is a dict with, for `B` examples, `P` pairs and `R` rows that need a summary:
    - `"tokens"`: [`SequenceTokens`], the supervised tokens of each example,
    - `"positions"`: `None` if the batch has one row per example, else (`padding_free`) `torch.Tensor` of shape `(T,)`
      and dtype int64, the example that each position belongs to,
    - `"dataset_rows"`: list of `B` ints, the dataset row of this batch that each example came in,
    - `"languages"`: `torch.Tensor` of shape `(B,)` and dtype int64, the language of each example,
    - `"rows"`: list of `R` ints, the rows of the batch to summarise, ascending,
    - `"examples"`: `torch.Tensor` of shape `(P,)` and dtype int64, the non-pivot example of each pair as a position in
      `"rows"`,
    - `"pivots"`: `torch.Tensor` of shape `(P,)` and dtype int64, its pivot as a position in `"rows"` followed by the
      side batch,
    - `"pair_languages"`: `torch.Tensor` of shape `(P,)` and dtype int64,
    - `"pivot_batch"`: the collated side batch, or `None`,
    - `"pivot_tokens"`: [`SequenceTokens`], the supervised tokens of each pivot in it, or `None`.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]], pivots: PivotTable):
        self.collator = collator
        self.pivots = pivots

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if PIVOT_COLUMN not in examples[0]:  # an evaluation set without parallels
            return self.collator(examples)
        batch = self.collator([{k: v for k, v in row.items() if k not in _ADDED_COLUMNS} for row in examples])
        pivots = CarriedPivots(examples) if TOKENIZED_PIVOT_COLUMN in examples[0] else self.pivots
        # In a formatted dataset they are tensors, whose hash is their identity
        first, own, languages = (_flatten(row[name] for row in examples) for name in PAIRING_COLUMNS)
        lengths = _lengths(examples)
        # A collator of the user's may mask a response altogether: such a row has no summary
        tokens = SequenceTokens.count(batch["labels"], lengths)
        usable = [count > 0 for count in tokens.counts]
        present: dict[int, int] = {}  # pivot -> row of the batch
        for row, pivot in enumerate(own):
            if pivot >= 0 and usable[row]:
                present.setdefault(pivot, row)
        partners = {
            row: pivots.draw(first[row])
            for row in range(len(first))
            if first[row] >= 0 and own[row] < 0 and usable[row]
        }
        missing = list(dict.fromkeys(pivot for pivot in partners.values() if pivot not in present))
        pivot_batch, pivot_tokens = self._collate_pivots(missing, pivots)
        if pivot_tokens is not None and not all(pivot_tokens.counts):
            lost = {pivot for pivot, count in zip(missing, pivot_tokens.counts, strict=True) if not count}
            partners = {row: pivot for row, pivot in partners.items() if pivot not in lost}
            missing = [pivot for pivot in missing if pivot not in lost]
            pivot_batch, pivot_tokens = self._collate_pivots(missing, pivots)

        rows = sorted({*partners, *(present[pivot] for pivot in partners.values() if pivot in present)})
        position = {row: i for i, row in enumerate(rows)}
        target = {pivot: len(rows) + i for i, pivot in enumerate(missing)}
        target.update({pivot: position[row] for pivot, row in present.items() if row in position})
        batch[ALIGNMENT_KEY] = {
            "tokens": tokens,
            "positions": _example_of_position(batch["labels"], lengths),
            "dataset_rows": [i for i, row in enumerate(examples) for _ in _flatten([row[PIVOT_COLUMN]])],
            "languages": torch.tensor(languages),
            "rows": rows,
            "examples": torch.tensor([position[row] for row in partners], dtype=torch.int64),
            "pivots": torch.tensor([target[pivot] for pivot in partners.values()], dtype=torch.int64),
            "pair_languages": torch.tensor([languages[row] for row in partners], dtype=torch.int64),
            "pivot_batch": pivot_batch,
            "pivot_tokens": pivot_tokens,
        }
        return batch

    def _collate_pivots(
        self, wanted: list[int], pivots: PivotTable | CarriedPivots
    ) -> tuple[dict[str, Any] | None, SequenceTokens | None]:
        if not wanted:
            return None, None
        rows = [pivots[pivot] for pivot in wanted]
        batch = self.collator(rows)
        return batch, SequenceTokens.count(batch["labels"], _lengths(rows))


def _flatten(values: Iterable[Any]) -> list[int]:
    """Integers of all examples; packed rows hold a list of them."""
    return [int(item) for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]


def _lengths(examples: list[dict[str, Any]]) -> list[int]:
    """Tokens of each example."""
    return _flatten(row.get(LENGTHS_COLUMN, len(row["input_ids"])) for row in examples)


def _example_of_position(labels: torch.Tensor, lengths: list[int]) -> torch.Tensor | None:
    """Which example each position of a flattened batch belongs to; padding goes to the last one."""
    n_rows, width = labels.shape
    if n_rows == len(lengths):
        return None
    owners = torch.repeat_interleave(torch.tensor(lengths))
    return torch.cat([owners, owners.new_full((width - len(owners),), len(lengths) - 1)])
