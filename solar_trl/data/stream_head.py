"""The pairs of a stream as a whole, and what its first rows tell at construction."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import IterableDataset

from .messages import no_config_column
from .pairing import UNKNOWN_LANGUAGE, Keys, PairingColumns
from .pivots import ADDED_COLUMNS, PIVOT_COLUMN, TOKENIZED_PIVOT_COLUMN
from .report import PairingReport, TokenCounts
from .resolve import NothingToAlign
from .stream_pairs import (
    OTHER_LANGUAGES,
    PairedRow,
    Rows,
    StreamPairing,
    TokensOfRow,
    same_preparation,
)
from .streaming import CARRIED_PIVOT_COLUMN


PEEKED_ROWS = 1_000  # rows that are read at construction
BATCH_SIZE = 32  # rows whose pivots are tokenized at once


@dataclass
class PairedStream:
    """
    A stream with its pairs.

    Args:
        dataset ([`~datasets.IterableDataset`]):
            The rows with the pairing columns.
        head (list of `dict`):
            The first of them.
        report ([`PairingReport`]):
            What was found in these.
    """

    dataset: IterableDataset
    head: Rows
    report: PairingReport

    def sample(self, columns: Sequence[str] | None) -> Rows:
        """Two rows as a collator sees them: all columns, or some, without those that were added."""
        return [
            {
                name: value
                for name, value in row.items()
                if name not in ADDED_COLUMNS and (not columns or name in columns)
            }
            for row in self.head[:2]
        ]

    @property
    def pivot(self) -> dict[str, Any]:
        """Tokens of the first pivot."""
        return next(tokens for row in self.head if (tokens := row[TOKENIZED_PIVOT_COLUMN]) is not None)


def pair_stream(
    dataset: IterableDataset,
    name: str,
    columns: PairingColumns,
    prepare: Callable[[IterableDataset], IterableDataset],
    languages: list[str],
    missing_pivot: str = "keep",
    truncated_pairs: str = "keep",
    max_length: int | None = None,
    all_columns: bool = False,
) -> PairedStream:
    """
    Add the pairs to a stream of prepared rows that carry their pivot.

    Args:
        dataset ([`~datasets.IterableDataset`]):
            Prepared rows, not yet split over ranks.
        name (`str`):
            What to call the stream in messages, e.g. `"train dataset"`.
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        prepare (callable):
            The preparation that the rows went through, for their pivots.
        languages (`list[str]`):
            All languages of the trainer; those of the first rows are appended if they are new, and `"other"` for all
            that come later: the list must be the same on every rank.
        missing_pivot (`str`, *optional*, defaults to `"keep"`):
            `"keep"`, `"drop"` or `"error"`, which is raised where such a row is met.
        truncated_pairs (`str`, *optional*, defaults to `"keep"`):
            `"keep"`, or `"skip"` to leave pairs out of alignment in which a side fills `max_length`.
        max_length (`int`, *optional*):
            Length at which rows were truncated.
        all_columns (`bool`, *optional*, defaults to `False`):
            Whether the collator may read more than the tokens of a pivot.

    Returns:
        [`PairedStream`]

    Raises:
        NothingToAlign: A `ValueError`, if nothing pairs in the first rows.
        ValueError: If a column is missing, or `missing_pivot="error"` meets a row without a pivot among the first.
        TypeError: If languages are not strings, or pivots not dicts.
    """
    head = peek(dataset)
    sample = require_carried_pivots(head, columns, name)
    dataset = dataset.with_format(None)
    found = [UNKNOWN_LANGUAGE if row[columns.language] is None else row[columns.language] for row in head]
    for language in [*found, OTHER_LANGUAGES]:
        if language not in languages:
            languages.append(language)
    pairing = StreamPairing(
        columns,
        {language: index for index, language in enumerate(languages)},
        same_preparation(prepare, sample),
        name,
        missing_pivot,
        truncated_pairs,
        max_length,
        all_columns,
    )
    paired = pairing.pair(head)
    report = _report(paired, pairing, max_length)
    if not report.pairs:
        raise NothingToAlign(
            f"Nothing is left to align in the first {len(head):,} rows of the {name}: no pair has a response on both "
            f"sides after truncation (`max_length={max_length}`, `truncated_pairs={truncated_pairs!r}`). Raise "
            "`max_length`, or set `truncated_pairs='keep'`."
        )
    rows = [item.row for item in paired if not (item.is_missing and missing_pivot == "drop")]
    return PairedStream(dataset.map(pairing, batched=True, batch_size=BATCH_SIZE), rows, report)


def peek(stream: IterableDataset) -> Rows:
    """The first rows, the same on every rank."""
    return list(itertools.islice(stream.with_format(None), PEEKED_ROWS))


def require_carried_pivots(rows: Rows, columns: PairingColumns, name: str) -> dict[str, Any]:
    """
    The first pivot that is carried.

    Args:
        rows (list of `dict`):
            The first rows of a stream.
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        name (`str`):
            What to call the stream in messages.

    Returns:
        `dict`: The pivot, as the stream has it.

    Raises:
        ValueError: If a column is missing.
        TypeError: If a language is not a string, or a pivot not a dict.
        NothingToAlign: If none of the rows carries a pivot.
    """
    languages: dict[str, int] = {}
    found = None
    for row in rows:
        if columns.language not in row:
            raise ValueError(no_config_column(name, columns.language, "`language_column`", row))
        language = row[columns.language]
        if language is not None and not isinstance(language, str):
            raise TypeError(
                f"The language column {columns.language!r} of the {name} holds {language!r}; languages must be "
                f"strings such as {columns.pivot_languages[0]!r}."
            )
        language = UNKNOWN_LANGUAGE if language is None else language
        languages[language] = languages.get(language, 0) + 1
        pivot = row.get(CARRIED_PIVOT_COLUMN)
        if pivot is not None and not isinstance(pivot, dict):
            raise TypeError(
                f"The column {CARRIED_PIVOT_COLUMN!r} of the {name} holds {type(pivot).__name__!r}, expected a dict "
                "with the fields of the row's pivot, or `None`. `solar_trl.data.carry_pivots` makes such a column."
            )
        if found is None and language not in columns.pivot_languages:
            found = pivot
    if found is None:
        shown = ", ".join(f"{language!r} ({count} rows)" for language, count in list(languages.items())[:20])
        raise NothingToAlign(
            f"None of the first {len(rows):,} rows of the {name} that are not in the pivot language "
            f"({' or '.join(map(repr, columns.pivot_languages))}) carries a pivot. Languages found: "
            f"{shown or 'none'}. Before `solar_trl.data.carry_pivots`, the translations of an item must be adjacent "
            "and have the same id, and one of them must be in the pivot language. To train without alignment, set "
            "`alignment_objective='none'`."
        )
    return found


def _report(paired: Sequence[PairedRow], pairing: StreamPairing, max_length: int | None) -> PairingReport:
    """What the pairing found in the first rows of a stream."""
    names = list(dict.fromkeys(pairing.language(item.row) for item in paired))
    keys = Keys(
        language=np.array([names.index(pairing.language(item.row)) for item in paired], np.int64),
        language_names=names,
        item=np.empty(0, np.int64),
        is_pivot=np.array([item.is_pivot for item in paired], bool),
    )
    # Pivots have the number, too, but carry none
    pivots = {
        item.row[PIVOT_COLUMN]: tokens for item in paired if (tokens := item.row[TOKENIZED_PIVOT_COLUMN]) is not None
    }
    position = {digest: i for i, digest in enumerate(pivots)}
    has_pivot = np.array([item.row[TOKENIZED_PIVOT_COLUMN] is not None for item in paired], bool)
    return PairingReport.build(
        name=f"First {len(paired):,} rows of the {pairing.name}",
        keys=keys,
        paired=has_pivot,
        unusable=np.array([not item.usable for item in paired], bool),
        missing=np.flatnonzero([item.is_missing for item in paired]),
        skipped=np.array([item.is_cut for item in paired], bool),
        dropped=pairing.missing_pivot == "drop",
        table_size=len(pivots),
        pivot=np.array([position.get(item.row[PIVOT_COLUMN], -1) for item in paired], np.int64),
        tokens=_stack([item.row for item in paired]),
        pivot_tokens=_stack(list(pivots.values())),
        max_length=max_length,
    )


def _stack(rows: Sequence[dict[str, Any]]) -> TokenCounts:
    tokens = [TokensOfRow.read(row) for row in rows]
    response, total = [row.response for row in tokens], [row.total for row in tokens]
    return TokenCounts(np.array(response, np.int64), np.array(total, np.int64))
