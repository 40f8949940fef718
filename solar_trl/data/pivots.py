"""Pivots, kept once."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset

from .resolve import ResolvedPairs
from .tables import column_names, set_column


# Columns added to a dataset once its pairs are resolved; integers, so that texts are never duplicated
PIVOT_COLUMN = "solar_pivot"  # first pivot of the row's item in the pivot table, or -1
OWN_COLUMN = "solar_own_pivot"  # which entry of the pivot table the row itself is, or -1
LANGUAGE_COLUMN = "solar_language"  # index into the trainer's languages
PAIRING_COLUMNS = (PIVOT_COLUMN, OWN_COLUMN, LANGUAGE_COLUMN)
# Beside them, in streams the tokens of the row's pivot, and with an alignment dataset the row's number, by which it
# draws a pair
TOKENIZED_PIVOT_COLUMN = "solar_pivot_tokens"
DRAW_COLUMN = "solar_draw"
ADDED_COLUMNS = (*PAIRING_COLUMNS, TOKENIZED_PIVOT_COLUMN, DRAW_COLUMN)


Rows = TypeVar("Rows", Dataset, IterableDataset)


class PivotTable:
    """
    The pivots of all datasets of a trainer, each stored once (a view of the rows it came from, not a copy).

    Args:
        seed (`int`, *optional*, defaults to `0`):
            Seed of [`draw`].
        all_columns (`bool`, *optional*, defaults to `False`):
            Whether to keep more than the tokens, for a collator that reads other columns.
    """

    def __init__(self, seed: int = 0, all_columns: bool = False):
        self.seed = seed
        self.all_columns = all_columns
        self._offsets: list[int] = [0]
        self._tables: list[Dataset] = []
        self._counts: list[np.ndarray] = []
        self._n_lasting: int | None = None
        # In shared memory: dataloader workers see the epoch that the main process sets
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self._offsets[-1]

    @property
    def n_lasting(self) -> int:
        """Pivots that stay: those of the datasets that were there at construction, not of one to evaluate on once."""
        return len(self) if self._n_lasting is None else self._n_lasting

    def set_lasting(self) -> None:
        """All that are there by now stay."""
        self._n_lasting = len(self)

    def is_lasting(self, pivot: int) -> bool:
        """Whether a pivot is one that stays."""
        return pivot < self.n_lasting

    @property
    def epoch(self) -> int:
        """The epoch whose draws the next batches use."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose draws the next batches use."""
        self._epoch.fill_(epoch)

    def add(self, source: Dataset, pairs: ResolvedPairs) -> int:
        """Add the pivots of a dataset; returns the index of the first one."""
        offset = len(self)
        columns = [name for name in source.column_names if self.all_columns or name in ("input_ids", "labels")]
        self._tables.append(source.select(pairs.table_rows).select_columns(columns).with_format(None))
        self._counts.append(pairs.counts)
        self._offsets.append(offset + len(pairs.table_rows))
        return offset

    def truncate_last(self) -> None:
        """Forget the pivots of the dataset that was added last."""
        self._tables.pop()
        self._counts.pop()
        self._offsets.pop()

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"Pivot {index} is not in the table of {len(self)} pivots.")
        table = bisect.bisect_right(self._offsets, index) - 1
        return table, index - self._offsets[table]

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        table, row = self._locate(index)
        return self._tables[table][row]

    def draw(self, first: int) -> int:
        """
        One pivot of the item whose first pivot is `first`.

        With several candidates the choice depends on `(seed, epoch, item)` alone: all translations of an item get the
        same partner within an epoch, whatever batch, worker or rank they are in, and again after a resume.
        """
        table, row = self._locate(first)
        count = int(self._counts[table][row])
        if count == 1:
            return first
        rng = np.random.default_rng([self.seed, self.epoch, first])
        return first + int(rng.integers(count))


def attach_pairs(dataset: Dataset, pairs: ResolvedPairs, offset: int, languages: list[str]) -> Dataset:
    """
    Add the pairing columns to a dataset, and drop the rows that `missing_pivot="drop"` names.

    Args:
        dataset ([`~datasets.Dataset`]):
            The prepared rows that `pairs` was resolved on.
        pairs ([`ResolvedPairs`]):
            Their pairs.
        offset (`int`):
            Index of their first pivot in the [`PivotTable`].
        languages (`list[str]`):
            All languages of the trainer; those of the dataset are appended if they are new.

    Returns:
        [`~datasets.Dataset`]: The rows with the columns `PAIRING_COLUMNS`.
    """
    language = np.asarray(language_codes(pairs.language_names, languages) or [0])[pairs.language]
    added = {
        PIVOT_COLUMN: np.where(pairs.pivot >= 0, pairs.pivot + offset, -1),
        OWN_COLUMN: np.where(pairs.own >= 0, pairs.own + offset, -1),
        LANGUAGE_COLUMN: language,
    }
    return add_integers(dataset, added, pairs.keep)


def language_codes(names: Sequence[str], languages: list[str]) -> list[int]:
    """The index of each name into the trainer's languages, to which new ones are appended."""
    languages += [name for name in dict.fromkeys(names) if name not in languages]
    codes = {name: code for code, name in enumerate(languages)}
    return [codes[name] for name in names]


def add_integers(dataset: Dataset, added: Mapping[str, np.ndarray], keep: np.ndarray | None = None) -> Dataset:
    """
    Put columns of integers in place of the pairing columns.

    Args:
        dataset ([`~datasets.Dataset`]):
            Prepared rows.
        added (`dict[str, numpy.ndarray]`):
            Values of shape `(n,)` by column.
        keep (`numpy.ndarray` of shape `(k,)`, *optional*):
            Rows to keep; all of them by default.

    Returns:
        [`~datasets.Dataset`]: The rows, in the user's format, in which the new columns are not hidden.
    """
    form, dataset = dataset.format, without_pairing(dataset).with_format(None)
    keep = np.arange(len(dataset)) if keep is None else keep
    if len(keep) < len(dataset):
        dataset = dataset.select(keep)
    for name, values in added.items():
        dataset = set_column(dataset, name, pa.array(values[keep]))
    shown = [name for name in form["columns"] if name in dataset.column_names and name not in added]
    return dataset.with_format(form["type"], columns=[*shown, *added], **form["format_kwargs"])


def without_pairing(dataset: Rows) -> Rows:
    """A dataset without the columns that pairing adds, which only mean something to the trainer that made them."""
    added = [name for name in column_names(dataset) if name in ADDED_COLUMNS]
    return dataset.remove_columns(added) if added else dataset
