"""From a prepared dataset to index columns and a table of pivots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .pairing import (
    Keys,
    PairingColumns,
    describe_ids,
    distinct_pivots,
    first_pivots,
    raise_if_ambiguous,
    read_keys_with_pivots,
)
from .report import PairingReport, TokenCounts


class NothingToAlign(ValueError):
    """A dataset holds no pairs at all: an error for training, normal for an evaluation set."""


@dataclass
class ResolvedPairs:
    """
    The pairs of one dataset.

    Args:
        pivot (`numpy.ndarray` of shape `(n,)` and dtype int64):
            First pivot of the row's item in the pivot table, on the paired rows and on their pivots; -1 elsewhere.
        own (`numpy.ndarray` of shape `(n,)` and dtype int64):
            Which entry of the pivot table the row itself is, or -1.
        table_rows (`numpy.ndarray` of shape `(m,)` and dtype int64):
            Rows of the pivot source that make up the table. Pivots of the same item are next to each other.
        counts (`numpy.ndarray` of shape `(m,)` and dtype int64):
            At the first pivot of each item, how many there are.
        keep (`numpy.ndarray` of shape `(k,)` and dtype int64):
            Rows to keep, all of them unless `missing_pivot="drop"`. The arrays above are over all rows.
        language (`numpy.ndarray` of shape `(n,)` and dtype int64):
            Index into `language_names`.
        language_names (`list[str]`):
            Languages of the dataset.
        replaced (`numpy.ndarray` of shape `(r,)` and dtype int64):
            Rows that would be pivots, had no pivot dataset been given.
        tokens ([`TokenCounts`], *optional*), pivot_tokens ([`TokenCounts`], *optional*):
            Of the rows and of the pivot table, if the rows are prepared.
        report ([`PairingReport`]):
            What was found.
    """

    pivot: np.ndarray
    own: np.ndarray
    table_rows: np.ndarray
    counts: np.ndarray
    keep: np.ndarray
    language: np.ndarray
    language_names: list[str]
    replaced: np.ndarray
    tokens: TokenCounts | None
    pivot_tokens: TokenCounts | None
    report: PairingReport


def is_paired(pivot: np.ndarray, own: np.ndarray) -> np.ndarray:
    """
    Which rows are aligned with a pivot.

    Args:
        pivot (`numpy.ndarray` of shape `(n,)`), own (`numpy.ndarray` of shape `(n,)`):
            First pivot of each row's item, and which pivot a row is itself; -1 for none.

    Returns:
        `numpy.ndarray` of shape `(n,)` and dtype bool: Those that have a pivot and are none.
    """
    return (pivot >= 0) & (own < 0)


def count_tokens(dataset: Dataset) -> TokenCounts:
    """
    Count the tokens of each row, and those of its response.

    Args:
        dataset ([`~datasets.Dataset`]):
            Prepared rows with `input_ids` and, optionally, `labels` (the input IDs without it, as in TRL's collator).

    Returns:
        [`TokenCounts`]
    """
    column = "labels" if "labels" in dataset.column_names else "input_ids"
    responses, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        for chunk in table.column(column).chunks:
            if pa.types.is_fixed_size_list(chunk.type):
                chunk = chunk.cast(pa.list_(chunk.type.value_type))
            offsets = chunk.offsets.to_numpy().astype(np.int64)
            values = chunk.values.to_numpy(zero_copy_only=False)
            valid = np.concatenate([[0], np.cumsum(values != -100)])
            first = np.minimum(offsets[:-1] + 1, offsets[1:])  # position 0 predicts nothing that precedes it
            responses.append(valid[offsets[1:]] - valid[first])
            lengths.append(np.diff(offsets))
    return TokenCounts(np.concatenate(responses).astype(np.int64), np.concatenate(lengths))


def resolve_pairs(
    dataset: Dataset,
    columns: PairingColumns,
    name: str,
    pivot_dataset: Dataset | None = None,
    missing_pivot: str = "keep",
    multiple_pivots: str = "error",
    truncated_pairs: str = "keep",
    max_length: int | None = None,
    pivot_option: str | None = "pivot_dataset",
) -> ResolvedPairs:
    """
    Resolve who is whose parallel in a dataset.

    Works on raw rows too (then only the keys are checked, nothing is known about lengths yet). Rows without any
    supervised position have no summary: they neither pair nor serve as pivots.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in the long format.
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        name (`str`):
            What to call the dataset in messages, e.g. `"train dataset"`.
        pivot_dataset ([`~datasets.Dataset`], *optional*):
            Where the pivots stand, if not in `dataset`. Without the language column, every row of it is a pivot.
        missing_pivot (`str`, *optional*, defaults to `"keep"`):
            `"keep"`, `"drop"` or `"error"`.
        multiple_pivots (`str`, *optional*, defaults to `"error"`):
            `"error"`, `"first"` or `"sample"`.
        truncated_pairs (`str`, *optional*, defaults to `"keep"`):
            `"keep"`, or `"skip"` to leave pairs out of alignment in which a side fills `max_length`.
        max_length (`int`, *optional*):
            Length at which rows were truncated.
        pivot_option (`str`, *optional*, defaults to `"pivot_dataset"`):
            The trainer's argument that takes pivots for this dataset, for messages; `None` if it has none.

    Returns:
        [`ResolvedPairs`]

    Raises:
        NothingToAlign: A `ValueError`, if there are no pivots or nothing pairs.
        ValueError: If columns are missing, or a policy is `"error"` and meets its case.
        TypeError: If languages or ids have a wrong type.
    """
    prepared = "input_ids" in dataset.column_names
    source_name = name if pivot_dataset is None else "pivot dataset"
    keys, pivot_keys, source = read_keys_with_pivots(dataset, name, pivot_dataset, columns)
    tokens = count_tokens(dataset) if prepared else None
    pivot_tokens = tokens if pivot_dataset is None or not prepared else count_tokens(source)
    usable = np.ones(len(dataset), bool) if tokens is None else tokens.response > 0
    pivot_usable = np.ones(len(source), bool) if pivot_tokens is None else pivot_tokens.response > 0

    candidates = np.flatnonzero(pivot_keys.is_pivot & (pivot_keys.item >= 0) & pivot_usable)
    if not len(candidates):
        option = pivot_option if pivot_dataset is None else None
        raise NothingToAlign(_no_pivots(pivot_keys, columns, source_name, option))
    wants = ~keys.is_pivot & (keys.item >= 0) & usable
    candidates = candidates[np.isin(pivot_keys.item[candidates], keys.item[wants])]
    if not len(candidates):
        raise NothingToAlign(_nothing_pairs(dataset, source, keys, pivot_keys, columns, name))
    candidates = candidates[np.argsort(pivot_keys.item[candidates], kind="stable")]
    has_pivot = np.isin(keys.item, pivot_keys.item[candidates])
    row_is_cut = np.zeros(len(dataset), bool)
    if truncated_pairs == "skip" and tokens is not None and pivot_tokens is not None and max_length is not None:
        row_is_cut = tokens.total >= max_length
        candidates = candidates[pivot_tokens.total[candidates] < max_length]
        if not len(candidates):
            raise NothingToAlign(_all_truncated(name, max_length))
    items = pivot_keys.item[candidates]

    # Whether raw rows clash is only known once they are prepared: different columns can be one sequence of tokens
    representatives = np.arange(len(candidates))
    if prepared:
        representatives = distinct_pivots(source, candidates, items, columns)
        if multiple_pivots == "error":
            raise_if_ambiguous(source, candidates, items, representatives, columns, source_name)
    in_table = representatives == np.arange(len(candidates))
    if multiple_pivots != "sample":
        in_table &= np.concatenate([[True], items[1:] != items[:-1]])
    entry = np.where(in_table, np.cumsum(in_table) - 1, -1)[representatives]  # candidate -> table
    table_rows, table_items = candidates[in_table], items[in_table]
    starts = np.flatnonzero(np.concatenate([[True], table_items[1:] != table_items[:-1]]))
    counts = np.zeros(len(table_rows), np.int64)
    counts[starts] = np.diff(np.append(starts, len(table_rows)))

    wants &= ~row_is_cut
    own = np.full(len(dataset), -1, np.int64)
    replaced = np.empty(0, np.int64)
    if pivot_dataset is None:
        own[candidates] = entry
    else:
        replaced = np.flatnonzero(keys.is_pivot & usable & np.isin(keys.item, items))
    pivot = np.where(wants | (own >= 0), first_pivots(keys.item, starts, table_items[starts]), -1)

    paired = is_paired(pivot, own)
    if not paired.any():
        raise NothingToAlign(_all_truncated(name, max_length))
    # A row without a response token lacks nothing that a pivot could give; a truncated pivot is one all the same
    missing = np.flatnonzero(~keys.is_pivot & ~paired & usable & ~has_pivot)
    if missing_pivot == "error" and len(missing):
        examples = "; ".join(describe_ids(dataset, missing[:5], columns))
        raise ValueError(
            f"{len(missing)} rows of the {name} have no pivot, e.g. {examples} (`missing_pivot='error'`). Add their "
            f"{columns.pivot_languages[0]!r} rows, or set `missing_pivot` to 'keep' or 'drop'."
        )
    keep = np.arange(len(dataset))
    if missing_pivot == "drop":
        keep = np.setdiff1d(keep, missing)
    table_tokens = None if pivot_tokens is None else pivot_tokens.select(table_rows)
    report = PairingReport.build(
        name=name,
        keys=keys,
        paired=paired,
        unusable=~usable,
        missing=missing,
        skipped=~keys.is_pivot & ~paired & usable & has_pivot,
        dropped=missing_pivot == "drop",
        table_size=len(table_rows),
        pivot=pivot,
        tokens=tokens,
        pivot_tokens=table_tokens,
        max_length=max_length,
    )
    return ResolvedPairs(
        pivot=pivot,
        own=own,
        table_rows=table_rows,
        counts=counts,
        keep=keep,
        language=keys.language,
        language_names=keys.language_names,
        replaced=replaced,
        tokens=tokens,
        pivot_tokens=table_tokens,
        report=report,
    )


def _languages(keys: Keys) -> str:
    counts = np.bincount(keys.language, minlength=len(keys.language_names))
    shown = ", ".join(
        f"{name!r} ({count} rows)" for name, count in zip(keys.language_names[:20], counts, strict=False)
    )
    return shown + (f" and {len(keys.language_names) - 20} more" if len(keys.language_names) > 20 else "")


def _no_pivots(keys: Keys, columns: PairingColumns, name: str, option: str | None) -> str:
    if not len(keys.is_pivot):
        return f"The {name} has no rows. Look at how it was loaded and filtered."
    wanted = " or ".join(map(repr, columns.pivot_languages))
    if keys.is_pivot.any():
        return (
            f"None of the {int(keys.is_pivot.sum())} pivot rows ({columns.language} {wanted}) of the {name} can be "
            f"used: their id ({', '.join(columns.parallel_id)}) is missing, or no response token was left after "
            "truncation (see `max_length`)."
        )
    elsewhere = "" if option is None else f" If the pivots are in another dataset, pass it as `{option}`."
    return (
        f"The {name} has no pivot rows: none has {columns.language} {wanted}. Found: {_languages(keys)}. Set "
        "`pivot_language` to the pivot's value in your data, or give languages their codes with "
        f"`solar_trl.data.normalize_languages`.{elsewhere}"
    )


def _all_truncated(name: str, max_length: int | None) -> str:
    return (
        f"Every pair of the {name} was truncated at `max_length={max_length}` (`truncated_pairs='skip'`). Raise "
        "`max_length`, or set `truncated_pairs='keep'`."
    )


def _nothing_pairs(
    dataset: Dataset, source: Dataset, keys: Keys, pivot_keys: Keys, columns: PairingColumns, name: str
) -> str:
    others = np.flatnonzero(~keys.is_pivot)
    if not len(others):
        return (
            f"Nothing pairs in the {name}: all of its {len(keys.is_pivot)} rows are in the pivot language "
            f"({columns.language} {' or '.join(map(repr, columns.pivot_languages))}). Add their translations, with "
            "the same ids. To train without alignment, set `alignment_objective='none'`."
        )
    ids = "; ".join(describe_ids(dataset, others[:3], columns))
    pivot_ids = "; ".join(describe_ids(source, np.flatnonzero(pivot_keys.is_pivot)[:3], columns))
    return (
        f"Nothing pairs in the {name}: no row in another language shares its id ({', '.join(columns.parallel_id)}) "
        f"with a pivot row ({columns.language} {' or '.join(map(repr, columns.pivot_languages))}). Languages found: "
        f"{_languages(keys)}. Ids of non-pivot rows: {ids}. Ids of pivot rows: {pivot_ids}. Every translation of an "
        "item must carry the same id. To train without alignment, set `alignment_objective='none'`."
    )
