"""The pairs of a stream, row by row: each row carries its pivot, which is tokenized along with it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import IterableDataset

from .pairing import UNKNOWN_LANGUAGE, PairingColumns
from .pivots import LANGUAGE_COLUMN, OWN_COLUMN, PIVOT_COLUMN, TOKENIZED_PIVOT_COLUMN
from .streaming import CARRIED_PIVOT_COLUMN, copy_row
from .tables import rows_of


OTHER_LANGUAGES = "other"  # languages that are not among the rows read at construction
_INDEX = "solar_index"

Rows = list[dict[str, Any]]
# Tokenizes rows; `None` for those that the preparation drops
Tokenize = Callable[[Rows], list[dict[str, Any] | None]]


def same_preparation(prepare: Callable[[IterableDataset], IterableDataset], sample: dict[str, Any]) -> Tokenize:
    """
    Turn a preparation of streams into one of rows.

    The preparation (TRL's, which waits for other ranks) runs once, on a stand-in whose rows are then replaced. What is
    returned can be called in a dataloader worker, and on one rank alone.

    Args:
        prepare (callable):
            Adds the steps that tokenize a stream.
        sample (`dict`):
            A row, which shows the format.

    Returns:
        callable: From raw rows to prepared ones, `None` where the preparation dropped one.
    """
    box = [sample]

    def rows():
        yield from ({**copy_row(row), _INDEX: i} for i, row in enumerate(box))

    prepared = prepare(IterableDataset.from_generator(rows))

    def tokenize(new: Rows) -> list[dict[str, Any] | None]:
        box[:] = new
        found: list[dict[str, Any] | None] = [None] * len(new)
        # By batch: `__iter__` would yield to each dataloader worker its share only
        for batch in prepared.iter(batch_size=1):
            row = {name: values[0] for name, values in batch.items()}
            found[row.pop(_INDEX)] = row
        return found

    return tokenize


class StreamPairing:
    """
    Batched map over prepared rows that carry their pivot: adds the pairing columns, and the tokens of the pivot.

    Pivots are named by a digest of their tokens, so that a pivot row and the copies that its translations carry are
    the same. It has no state, so that it can run in any dataloader worker and start anywhere.

    Args:
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        languages (`dict[str, int]`):
            Index of each known language.
        tokenize (callable):
            See [`same_preparation`].
        name (`str`):
            What to call the stream in messages.
        missing_pivot (`str`, *optional*, defaults to `"keep"`):
            `"keep"`, `"drop"` or `"error"`.
        truncated_pairs (`str`, *optional*, defaults to `"keep"`):
            `"keep"`, or `"skip"` to leave pairs out of alignment in which a side fills `max_length`.
        max_length (`int`, *optional*):
            Length at which rows were truncated.
        all_columns (`bool`, *optional*, defaults to `False`):
            Whether the collator may read more than the tokens of a pivot.
    """

    def __init__(
        self,
        columns: PairingColumns,
        languages: dict[str, int],
        tokenize: Tokenize,
        name: str,
        missing_pivot: str = "keep",
        truncated_pairs: str = "keep",
        max_length: int | None = None,
        all_columns: bool = False,
    ):
        self.columns = columns
        self.languages = languages
        self.tokenize = tokenize
        self.name = name
        self.missing_pivot = missing_pivot
        self.max_length = max_length if truncated_pairs == "skip" else None
        self.all_columns = all_columns

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        kept = [
            paired.row
            for paired in self.pair(rows_of(batch))
            if not (paired.is_missing and self.missing_pivot == "drop")
        ]
        names = [*batch, PIVOT_COLUMN, OWN_COLUMN, LANGUAGE_COLUMN, TOKENIZED_PIVOT_COLUMN]
        return {name: [row[name] for row in kept] for name in names}

    def pair(self, rows: Rows) -> list[PairedRow]:
        """The rows with the columns added, and what became of each."""
        pivots = self._tokenized_pivots(rows)
        return [self._pair(row, pivot) for row, pivot in zip(rows, pivots, strict=True)]

    def _tokenized_pivots(self, rows: Rows) -> list[dict[str, Any] | None]:
        """Each row's pivot; those with the same content are tokenized once."""
        pivots = [None if self.is_pivot(row) else row.get(CARRIED_PIVOT_COLUMN) for row in rows]
        contents = [None if pivot is None else pickle.dumps(pivot) for pivot in pivots]
        distinct = {c: pivot for c, pivot in zip(contents, pivots, strict=True) if c is not None and pivot is not None}
        found = dict(zip(distinct, self.tokenize(list(distinct.values())) if distinct else [], strict=True))
        return [None if content is None else found[content] for content in contents]

    def _pair(self, row: dict[str, Any], pivot: dict[str, Any] | None) -> PairedRow:
        tokens, pivot_tokens = TokensOfRow.read(row), None if pivot is None else TokensOfRow.read(pivot)
        is_pivot, usable = self.is_pivot(row), tokens.response > 0
        is_missing, is_cut = False, False
        first = own = -1
        if is_pivot and usable:
            first = own = tokens.digest()
        elif usable and (pivot_tokens is None or pivot_tokens.response == 0):
            is_missing = True
            if self.missing_pivot == "error":
                raise ValueError(self._missing(row))
        elif usable and pivot_tokens is not None:
            is_cut = self.max_length is not None and max(tokens.total, pivot_tokens.total) >= self.max_length
            first = -1 if is_cut else pivot_tokens.digest()
        carried = pivot if first >= 0 else None
        if carried is not None and not self.all_columns:
            carried = {name: values for name, values in carried.items() if name in ("input_ids", "labels")}
        added = {
            PIVOT_COLUMN: first,
            OWN_COLUMN: own,
            LANGUAGE_COLUMN: self.languages.get(self.language(row), self.languages[OTHER_LANGUAGES]),
            TOKENIZED_PIVOT_COLUMN: carried,
        }
        return PairedRow({**row, **added}, is_pivot, usable, is_missing, is_cut)

    def language(self, row: dict[str, Any]) -> str:
        """Language of a row, `"unknown"` if it is missing."""
        language = row.get(self.columns.language)
        return UNKNOWN_LANGUAGE if language is None else language

    def is_pivot(self, row: dict[str, Any]) -> bool:
        """Whether a row is in the pivot language."""
        return self.language(row) in self.columns.pivot_languages

    def _missing(self, row: dict[str, Any]) -> str:
        found = ", ".join(f"{name}={row.get(name)!r}" for name in (self.columns.language, *self.columns.parallel_id))
        return (
            f"A row of the {self.name} has no pivot: {found} (`missing_pivot='error'`). Add its "
            f"{self.columns.pivot_languages[0]!r} row next to it before `carry_pivots`, or set `missing_pivot` to "
            "'keep' or 'drop'."
        )


@dataclass
class PairedRow:
    """
    A row of a stream with its pairing columns.

    Args:
        row (`dict`): The row.
        is_pivot (`bool`): Whether it is in the pivot language.
        usable (`bool`): Whether it has a response token.
        is_missing (`bool`): Whether it lacks a pivot that it could pair with.
        is_cut (`bool`): Whether it is left out of alignment since a side was truncated.
    """

    row: dict[str, Any]
    is_pivot: bool
    usable: bool
    is_missing: bool
    is_cut: bool


@dataclass
class TokensOfRow:
    """
    The tokens of a prepared row.

    Args:
        ids (`numpy.ndarray` of shape `(T,)` and dtype int64): Its `input_ids`.
        labels (`numpy.ndarray` of shape `(T,)` and dtype int64): Its `labels`, the `input_ids` without any.
    """

    ids: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, row: dict[str, Any]) -> TokensOfRow:
        ids = np.asarray(row["input_ids"], dtype=np.int64)
        labels = row.get("labels")
        return cls(ids, ids if labels is None else np.asarray(labels, dtype=np.int64))

    @property
    def response(self) -> int:
        """Positions whose next-token label is not -100."""
        return int(np.count_nonzero(self.labels[1:] != -100))

    @property
    def total(self) -> int:
        """All tokens."""
        return len(self.ids)

    def digest(self) -> int:
        """A number ≥ 0 that stands for the tokens and labels."""
        content = self.ids.tobytes() + self.labels.tobytes()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


class CarriedPivots(dict[int, dict[str, Any]]):
    """
    The pivots that the rows of a batch carry: what [`PivotTable`] is to a dataset.

    Args:
        examples (list of `dict`):
            Rows of a stream with the pairing columns.
    """

    def __init__(self, examples: Sequence[dict[str, Any]]):
        super().__init__(
            (int(row[PIVOT_COLUMN]), row[TOKENIZED_PIVOT_COLUMN])
            for row in examples
            if row[TOKENIZED_PIVOT_COLUMN] is not None
        )

    def draw(self, first: int) -> int:
        """The only pivot of a row."""
        return first
