"""Pairs that are aligned but not trained on, drawn along with the training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from .pairing import UNKNOWN_LANGUAGE, column_values
from .pivots import DRAW_COLUMN, LANGUAGE_COLUMN, OWN_COLUMN, PIVOT_COLUMN, PivotTable, add_integers, language_codes
from .resolve import is_paired
from .tables import read_integers


class SidePairs:
    """
    The pairs of an alignment dataset. Each training row draws one of them, by its number and the epoch alone: the same
    whatever batch, worker or rank it is in, and again after a resume. All pairs are drawn before one comes again.

    Args:
        dataset ([`~datasets.Dataset`]):
            Prepared rows with the pairing columns.
        table ([`PivotTable`]):
            Where their pivots are kept.
        n_rows (`int`):
            Number of training rows.
        seed (`int`):
            Seed of the order.
    """

    def __init__(self, dataset: Dataset, table: PivotTable, n_rows: int, seed: int):
        pivot, own = read_integers(dataset, PIVOT_COLUMN), read_integers(dataset, OWN_COLUMN)
        self._rows = np.flatnonzero(is_paired(pivot, own))
        self._dataset = dataset.with_format(None)
        self._table = table
        self._n_rows = n_rows
        self._seed = seed
        self._order: tuple[int, np.ndarray] = (-1, self._rows)

    def draw(self, numbers: list[int]) -> list[dict[str, Any]]:
        """
        The pairs that training rows draw.

        Args:
            numbers (`list[int]`):
                The rows' numbers.

        Returns:
            `list[dict]`: Rows of the dataset, each once.
        """
        laps, places = zip(
            *(divmod(self._table.epoch * self._n_rows + n, len(self._rows)) for n in numbers), strict=True
        )
        chosen = [int(self._shuffled(lap)[place]) for lap, place in zip(laps, places, strict=True)]
        return [self._dataset[row] for row in dict.fromkeys(chosen)]

    def _shuffled(self, lap: int) -> np.ndarray:
        if self._order[0] != lap:
            self._order = lap, np.random.default_rng([self._seed, lap]).permutation(self._rows)
        return self._order[1]


def attach_draws(dataset: Dataset, language_column: str, languages: list[str]) -> Dataset:
    """
    Add the pairing columns to training rows that draw their pairs from elsewhere.

    Args:
        dataset ([`~datasets.Dataset`]):
            Prepared training rows.
        language_column (`str`):
            Name of the column with each row's language, if there is one.
        languages (`list[str]`):
            All languages of the trainer; those of the dataset are appended if they are new.

    Returns:
        [`~datasets.Dataset`]: The rows with the columns `PAIRING_COLUMNS` and `DRAW_COLUMN`.
    """
    known = language_column in dataset.column_names
    found = column_values(dataset, language_column).to_pylist() if known else [None] * len(dataset)
    names = [UNKNOWN_LANGUAGE if name is None else str(name) for name in found]
    none = np.full(len(dataset), -1)
    added = {
        PIVOT_COLUMN: none,
        OWN_COLUMN: none,
        LANGUAGE_COLUMN: np.asarray(language_codes(names, languages), dtype=np.int64),
        DRAW_COLUMN: np.arange(len(dataset)),
    }
    return add_integers(dataset, added)
