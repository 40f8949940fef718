"""Ids that are hidden: in a string with the language, or in the order of rows."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .ordered_examples import number_rows
from .pairing import as_list, encode
from .tables import (
    SplitDataset,
    add_features,
    by_split,
    read_column,
    refuse_column,
    require_columns,
    set_column,
    shorten,
    text_column,
)


ID_PATTERN = r"(?P<language>[^-_]+)[-_](?P<parallel_id>.+)"
_SPLIT_AT_ONCE = 100_000  # rows


def split_id(dataset: SplitDataset, column: str = "id", pattern: str = ID_PATTERN) -> SplitDataset:
    r"""
    Take an id such as `"sw-123"` apart.

    Each named group of the pattern becomes a column of strings.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows. Streams stay lazy.
        column (`str`, *optional*, defaults to `"id"`):
            Column with the composite ids (strings). It stays, unless a group has its name.
        pattern (`str`, *optional*, defaults to `r"(?P<language>[^-_]+)[-_](?P<parallel_id>.+)"`):
            Python regular expression for the whole id, with named groups. For `"gsm8k/12/sw"`:
            `r"(?P<parallel_id>.+)/(?P<language>\w+)"`.

    Returns:
        The same type as `dataset`. No other column is copied.

    Raises:
        ValueError: If the column is missing, ids do not match, or the pattern is none, has no named groups, or names a
            column that is there.
        TypeError: If the column holds no strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import split_id

    >>> rows = split_id(Dataset.from_dict({"id": ["sw-12", "en-12"]}))
    >>> rows["language"][:], rows["parallel_id"][:]
    (['sw', 'en'], ['12', '12'])
    ```
    """
    try:
        matcher = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`pattern` is {pattern!r}, which is no regular expression: {error}.") from error
    groups = list(matcher.groupindex)
    if not groups:
        raise ValueError(f"`pattern` is {pattern!r}, expected named groups such as `(?P<language>...)`.")

    def check(rows):
        names = require_columns(rows, {column: "`column`"})
        for group in groups:
            if group != column:
                way_out = "rename or remove it, or name the group of `pattern` differently."
                refuse_column(names, group, way_out)

    def fail(examples: str, count: int | str, total: int | str) -> NoReturn:
        raise ValueError(
            f"{count} of {total} ids in column {column!r} do not match `pattern` {pattern!r}, e.g. {examples}. Adapt "
            "the pattern; its named groups become columns."
        )

    def split_table(rows):
        check(rows)
        values = text_column(read_column(rows, column), column)
        parts: dict[str, list[pa.Array]] = {group: [] for group in groups}
        wrong = 0
        examples: list[str] = []
        for start in range(
            0, len(values), _SPLIT_AT_ONCE
        ):  # Python's strings and matches take more space than the rest
            some = values.slice(start, _SPLIT_AT_ONCE).to_pylist()
            matches = [None if value is None else matcher.fullmatch(value) for value in some]
            failed = [i for i, match in enumerate(matches) if match is None]
            wrong += len(failed)
            examples += [f"{some[i]!r} (row {start + i})" for i in failed[: 3 - len(examples)]]
            for group in groups:
                parts[group].append(pa.array([match[group] for match in matches if match], pa.string()))
        if wrong:
            fail(", ".join(examples), wrong, len(values))
        for group in groups:
            rows = set_column(rows, group, pa.chunked_array(parts[group], pa.string()))
        return rows

    def split_stream(rows):
        check(rows)

        def split(row):
            value = row[column]
            if value is not None and not isinstance(value, str):
                raise TypeError(f"Column {column!r} holds {value!r}, expected strings.")
            match = None if value is None else matcher.fullmatch(value)
            if match is None:
                fail(repr(value), "Some", "the")
            return {group: match[group] for group in groups}

        return rows.map(split, features=add_features(rows.features, dict.fromkeys(groups, "string")))

    return by_split(dataset, split_table, split_stream)


def assign_parallel_id(
    dataset: SplitDataset,
    language_column: str = "language",
    pivot_language: str | Sequence[str] = "en",
    parallel_id_column: str = "parallel_id",
) -> SplitDataset:
    """
    Number the items of rows that have no id but stand together: a pivot first, then its translations, if any.

    A pivot that is missing altogether can only be noticed if a language comes twice before the next pivot.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in their published order. Streams stay lazy, and are read in one piece, as items may span files: by
            one dataloader worker, in the same order in every epoch (see `shuffle_buffer` of [`carry_pivots`]).
        language_column (`str`, *optional*, defaults to `"language"`):
            Column with the languages (strings).
        pivot_language (`str` or `list[str]`, *optional*, defaults to `"en"`):
            Language, or aliases, of the row that starts an item.
        parallel_id_column (`str`, *optional*, defaults to `"parallel_id"`):
            Column to add: the number of the item (int64), from 0.

    Returns:
        The same type as `dataset`. No other column is copied.

    Raises:
        ValueError: If the language column is missing, the id column is there already, a language is missing, rows
            come before the first pivot, or a language comes twice in an item.
        TypeError: If languages are not strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import assign_parallel_id

    >>> rows = Dataset.from_dict({"language": ["en", "sw", "th", "en", "en", "th"]})
    >>> assign_parallel_id(rows)["parallel_id"][:]
    [0, 0, 0, 1, 2, 2]
    ```
    """
    pivots = as_list(pivot_language)

    def check(rows):
        names = require_columns(rows, {language_column: "`language_column`"})
        refuse_column(names, parallel_id_column, "use it as it is, or choose another `parallel_id_column`.")

    def number_table(rows):
        check(rows)
        column = text_column(read_column(rows, language_column), language_column)
        if column.null_count:
            _no_language(int(pc.index(pc.is_null(column), True).as_py()), column.null_count, language_column)
        is_pivot = pc.is_in(column, value_set=pa.array(pivots, column.type)).to_numpy()
        item = np.cumsum(is_pivot) - 1
        early = int((item < 0).sum())
        if early:
            _before_pivots(early, shorten(column.slice(0, early).unique().to_pylist()), pivots)
        language = encode(column)
        order = np.lexsort((language, item))  # stable: equal rows stay in order
        again = (np.diff(item[order]) == 0) & (np.diff(language[order]) == 0)
        if again.any():
            second = order[1:][again]
            first = order[:-1][again][np.argmin(second)]
            _twice(column[int(second.min())].as_py(), int(first), int(second.min()), len(second), pivots)
        return set_column(rows, parallel_id_column, pa.array(item))

    def number_stream(rows):
        check(rows)
        number = functools.partial(_item_of, language_column=language_column, pivots=pivots)
        features = add_features(rows.features, {parallel_id_column: "int64"})
        return number_rows(rows, number, parallel_id_column, features)

    return by_split(dataset, number_table, number_stream)


def _item_of(row: dict[str, Any], memory: dict[str, Any], language_column: str, pivots: Sequence[str]) -> int:
    """Number of the item of a row. The memory holds the number, and where its languages stand."""
    i, item, seen = memory.get("rows", 0), memory.get("item", -1), memory.get("seen", {})
    language = row[language_column]
    if language is None:
        _no_language(i, 1, language_column)
    if not isinstance(language, str):
        raise TypeError(f"Column {language_column!r} holds {language!r}, expected strings.")
    if language in pivots:
        item, seen = item + 1, {}
    elif item < 0:
        _before_pivots(1, repr(language), pivots)
    if language in seen:
        _twice(language, seen[language], i, 1, pivots)
    memory.update(rows=i + 1, item=item, seen={**seen, language: i})
    return item


def _no_language(row: int, count: int, column: str) -> NoReturn:
    raise ValueError(
        f"{count} row(s) have no language in column {column!r}, e.g. row {row}. Fill it in, or remove these rows."
    )


def _before_pivots(count: int, languages: str, pivots: Sequence[str]) -> NoReturn:
    raise ValueError(
        f"Rows 0 to {count - 1} (language {languages}) come before the first pivot "
        f"({' or '.join(map(repr, pivots))}). The pivot must stand before its "
        "translations: sort the rows so, remove these, or set `pivot_language` to the pivot's value in your data."
    )


def _twice(language: str, first: int, second: int, count: int, pivots: Sequence[str]) -> NoReturn:
    raise ValueError(
        f"Rows {first} and {second} are both {language!r}, with no pivot ({' or '.join(map(repr, pivots))}) between "
        f"them ({count} such case(s)). Either the pivot of row {second} is missing, or an item has several responses: "
        "give the rows an id, and join with it as `parallel_id_column`."
    )
