"""Pairing within a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .pivots import LANGUAGE_COLUMN, OWN_COLUMN, PAIRING_COLUMNS, PIVOT_COLUMN, PivotTable


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
        batch[ALIGNMENT_KEY] = self._pair(examples)
        return batch

    def _pair(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        present: dict[int, int] = {}  # pivot -> row of the batch
        for row, example in enumerate(examples):
            if example[OWN_COLUMN] >= 0:
                present.setdefault(example[OWN_COLUMN], row)
        partners = {
            row: self.pivots.draw(example[PIVOT_COLUMN])
            for row, example in enumerate(examples)
            if example[PIVOT_COLUMN] >= 0 and example[OWN_COLUMN] < 0
        }
        rows = sorted({*partners, *(present[pivot] for pivot in partners.values() if pivot in present)})
        position = {row: i for i, row in enumerate(rows)}
        missing = {pivot: None for pivot in partners.values() if pivot not in present}
        pivot_position = {pivot: len(rows) + i for i, pivot in enumerate(missing)}
        pivot_position.update({pivot: position[row] for pivot, row in present.items() if row in position})
        return {
            "languages": torch.tensor([example[LANGUAGE_COLUMN] for example in examples]),
            "rows": rows,
            "examples": torch.tensor([position[row] for row in partners], dtype=torch.int64),
            "pivots": torch.tensor([pivot_position[pivot] for pivot in partners.values()], dtype=torch.int64),
            "pair_languages": torch.tensor([examples[row][LANGUAGE_COLUMN] for row in partners], dtype=torch.int64),
            "pivot_batch": self.collator([self.pivots[pivot] for pivot in missing]) if missing else None,
        }
