"""Pairing within a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .pivots import PAIRING_COLUMNS, PIVOT_COLUMN, PivotTable


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
            Collates rows of `input_ids` and `labels`, one row of the result per example, in order (TRL's
            `DataCollatorForLanguageModeling`, padded layout).
        pivots ([`PivotTable`]):
            Where the pivots are kept.

    The value of `"alignment"` is a dict with, for `B` examples, `P` pairs and `R` rows that need a summary:
    - `"languages"`: `torch.Tensor` of shape `(B,)` and dtype int64, the language of each example,
    - `"rows"`: list of `R` ints, the rows of the batch to summarise, ascending,
    - `"examples"`: `torch.Tensor` of shape `(P,)` and dtype int64, the non-pivot example of each pair as a position in
      `"rows"`,
    - `"pivots"`: `torch.Tensor` of shape `(P,)` and dtype int64, its pivot as a position in `"rows"` followed by the
      side batch,
    - `"pair_languages"`: `torch.Tensor` of shape `(P,)` and dtype int64,
    - `"pivot_batch"`: the collated side batch, or `None`.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]], pivots: PivotTable):
        self.collator = collator
        self.pivots = pivots

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if PIVOT_COLUMN not in examples[0]:  # an evaluation set without parallels
            return self.collator(examples)
        batch = self.collator([{k: v for k, v in row.items() if k not in PAIRING_COLUMNS} for row in examples])
        # In a formatted dataset they are tensors, whose hash is their identity
        first, own, languages = ([int(row[name]) for row in examples] for name in PAIRING_COLUMNS)
        # A collator of the user's may mask a response altogether: such a row has no summary
        usable = _has_response(batch)
        present: dict[int, int] = {}  # pivot -> row of the batch
        for row, pivot in enumerate(own):
            if pivot >= 0 and usable[row]:
                present.setdefault(pivot, row)
        partners = {
            row: self.pivots.draw(first[row])
            for row in range(len(examples))
            if first[row] >= 0 and own[row] < 0 and usable[row]
        }
        missing = list(dict.fromkeys(pivot for pivot in partners.values() if pivot not in present))
        pivot_batch = self._collate_pivots(missing)
        if pivot_batch is not None and not all(kept := _has_response(pivot_batch)):
            lost = {pivot for pivot, keep in zip(missing, kept, strict=True) if not keep}
            partners = {row: pivot for row, pivot in partners.items() if pivot not in lost}
            missing = [pivot for pivot in missing if pivot not in lost]
            pivot_batch = self._collate_pivots(missing)

        rows = sorted({*partners, *(present[pivot] for pivot in partners.values() if pivot in present)})
        position = {row: i for i, row in enumerate(rows)}
        target = {pivot: len(rows) + i for i, pivot in enumerate(missing)}
        target.update({pivot: position[row] for pivot, row in present.items() if row in position})
        batch[ALIGNMENT_KEY] = {
            "languages": torch.tensor(languages),
            "rows": rows,
            "examples": torch.tensor([position[row] for row in partners], dtype=torch.int64),
            "pivots": torch.tensor([target[pivot] for pivot in partners.values()], dtype=torch.int64),
            "pair_languages": torch.tensor([languages[row] for row in partners], dtype=torch.int64),
            "pivot_batch": pivot_batch,
        }
        return batch

    def _collate_pivots(self, pivots: list[int]) -> dict[str, Any] | None:
        return self.collator([self.pivots[pivot] for pivot in pivots]) if pivots else None


def _has_response(batch: dict[str, Any]) -> list[bool]:
    """Whether each row has a position whose next-token label is not -100."""
    return (batch["labels"][:, 1:] != -100).any(1).tolist()
