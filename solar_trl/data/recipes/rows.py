"""What the recipes share: draws that do not depend on the order of rows, and rows that are added to an item."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value, concatenate_datasets
from datasets.fingerprint import Hasher, generate_random_fingerprint

from ..._logging import get_logger
from ..example_iterables import group_items
from ..pairing import PairingColumns, read_keys
from ..streaming import CARRIED_PIVOT_COLUMN, MAX_ROWS_PER_ITEM, copy_row
from ..tables import (
    batch_of,
    by_split,
    read_column,
    read_ids,
    refuse_column,
    require_columns,
    row_id,
    rows_of,
    set_column,
)
from .texts import RowTexts


class Item(NamedTuple):
    """
    The rows of an item, as far as a recipe needs to know them to choose.

    Args:
        id (`int`, `str`, *optional*): Its id; `None` for a row without one, which is an item on its own.
        languages (`list[str | None]`): Language of each row.
        numbers (`list[int]`): Of each row, how many rows of its language come before it.
    """

    id: int | str | None
    languages: list[str | None]
    numbers: list[int]

    @classmethod
    def build(cls, parallel_id: Any, languages: list[str | None]) -> Item:
        seen: Counter[str | None] = Counter()
        numbers = []
        for language in languages:
            numbers.append(seen[language])
            seen[language] += 1
        return cls(plain(parallel_id), languages, numbers)


NO_PARALLEL = -1  # stands for the row that a chosen row lacks
# From an item to pairs of positions in it: (the row to change, the row to take something from, or NO_PARALLEL)
Choose = Callable[[Item], Iterable[tuple[int, int]]]
# From two rows, which are copies, to a new one, or None if nothing can be made of them
Combine = Callable[[RowTexts, dict[str, Any], dict[str, Any]], dict[str, Any] | None]


def plain(value: Any) -> Any:
    """An id as a Python value, so that tables and streams draw alike."""
    return int(value) if isinstance(value, np.integer) else value


def digest(*key: Any) -> int:
    """A number of 64 bits that follows from the key alone: the same on every machine, rank and worker."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def draw(*key: Any) -> float:
    """A number in [0, 1) that follows from the key alone."""
    return (digest(*key) >> 11) / 2**53


def pick(values: Sequence[Any], *key: Any) -> Any:
    """One of some values, which follows from the key alone."""
    return values[int(draw(*key) * len(values))]


def check_share(name: str, value: float, zero: bool = False) -> None:
    """Raise a `ValueError` unless a share or probability is in (0, 1], or [0, 1]."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 <= value <= 1) or (not value and not zero):
        raise ValueError(f"`{name}` is {value!r}, expected a number {'from' if zero else 'above'} 0, up to 1.")


def refuse_carried(names: Sequence[str]) -> None:
    """Raise a `ValueError` for rows that carry their pivot: it would not follow what happens to them."""
    refuse_column(names, CARRIED_PIVOT_COLUMN, "apply this before `carry_pivots`, or rename the column.")


def pairing_meaning(columns: PairingColumns) -> dict[str, str]:
    """Which option named a column, for messages."""
    return dict.fromkeys(columns.parallel_id, "`parallel_id_column`") | {columns.language: "`language_column`"}


def without_pair(row: dict[str, Any], columns: PairingColumns) -> None:
    """Take the id from a row (the last column, if there are several), so that it pairs with nothing."""
    row[columns.parallel_id[-1]] = None


def named_languages(rows: Dataset | IterableDataset, column: str) -> Dataset | IterableDataset:
    """The rows with strings instead of class labels in the language column."""
    if rows.features is None or not isinstance(rows.features[column], ClassLabel):
        return rows
    if isinstance(rows, Dataset):
        return set_column(rows, column, read_column(rows, column))
    names = rows.features[column].names
    features = Features({**rows.features, column: Value("string")})
    return rows.map(functools.partial(_name_language, column=column, names=names), features=features)


def _name_language(row: dict[str, Any], column: str, names: list[str]) -> dict[str, Any]:
    label = row[column]
    return {column: None if label is None or label < 0 else names[label]}


def language_of(row: dict[str, Any], column: str) -> str | None:
    """Language of a row of a stream."""
    language = row[column]
    if language is not None and not isinstance(language, str):
        raise TypeError(f"The language column {column!r} holds {language!r}; languages must be strings such as 'sw'.")
    return language


def unformatted(rows: Dataset, change: Callable[[Dataset], Dataset]) -> Dataset:
    """Change the rows themselves, and show them in the user's format again."""
    form = rows.format
    return change(rows.with_format(None)).with_format(form["type"], columns=form["columns"], **form["format_kwargs"])


@contextmanager
def naming(row: dict[str, Any], columns: PairingColumns) -> Iterator[None]:
    """Say which row an error is about."""
    try:
        yield
    except (ValueError, TypeError) as error:
        shown = ", ".join(f"{name}={row.get(name)!r}" for name in columns.names)
        raise type(error)(f"The row {shown}: {error}") from error


def add_rows(dataset: Any, columns: PairingColumns, choose: Choose, combine: Combine, recipe: str) -> Any:
    """
    Add rows that are made of the rows of each item.

    Those of a table come after all its rows; those of a stream after the rows of their item. Both get the same ones.

    Args:
        dataset (a dataset, a stream or a dict of splits of either):
            Rows in the long format. In a stream, the rows of an item must be adjacent.
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        choose (callable):
            Which rows of an item to make something of.
        combine (callable):
            What to make of them.
        recipe (`str`):
            Its name, for messages.

    Raises:
        ValueError: If a column is missing, the rows are in a format that does not tell prompts from completions, or
            there is nothing in a table that a row could be made of.
    """

    def table(rows: Dataset) -> Dataset:
        names = require_columns(rows, pairing_meaning(columns))
        texts = RowTexts.find(names, recipe)
        return unformatted(named_languages(rows, columns.language), lambda plain: _extended(plain, texts))

    def _extended(rows: Dataset, texts: RowTexts) -> Dataset:
        chosen = np.array([pair for item in _items(rows, columns) for pair in item_pairs(*item)], np.int64)
        chosen = chosen.reshape(-1, 2)
        pairs = chosen[chosen[:, 1] >= 0]
        if not len(pairs) and len(chosen):
            raise ValueError(
                f"`{recipe}` finds nothing to work with: of {len(chosen):,} row(s) that were chosen, none has the "
                f"parallel that it asks for (columns {', '.join(map(repr, columns.names))}, pivot language "
                f"{' or '.join(map(repr, columns.pivot_languages))})."
            )
        added = _made(rows, pairs, columns, texts, combine, recipe)
        left_out = [
            f"{len(chosen) - len(pairs):,} lacked a parallel" if len(chosen) > len(pairs) else "",
            f"{len(pairs) - len(added):,} gave nothing new" if len(pairs) > len(added) else "",
        ]
        shown = f" ({', '.join(filter(None, left_out))})" if any(left_out) else ""
        get_logger().info(f"{recipe}: {len(added):,} rows added to {len(rows):,}{shown}.")
        return concatenate_datasets([rows, added]) if len(added) else rows

    def item_pairs(rows: np.ndarray, item: Item) -> Iterable[tuple[int, int]]:
        for source, other in choose(item):
            yield int(rows[source]), NO_PARALLEL if other == NO_PARALLEL else int(rows[other])

    def stream(rows: IterableDataset) -> IterableDataset:
        names = require_columns(rows, pairing_meaning(columns))
        refuse_carried(names)
        texts = RowTexts.find(names, recipe)
        rows = named_languages(rows, columns.language)
        items = group_items(rows, functools.partial(row_id, columns=columns.parallel_id), MAX_ROWS_PER_ITEM)
        # One item at a time, so that none is held back
        return items.map(
            _expanded,
            batched=True,
            batch_size=1,
            remove_columns="rows",
            features=rows.features,
            fn_kwargs={"columns": columns, "texts": texts, "choose": choose, "combine": combine},
        )

    return by_split(dataset, table, stream)


def _items(rows: Dataset, columns: PairingColumns) -> Iterable[tuple[np.ndarray, Item]]:
    """Row numbers and [`Item`] of each item of a table, rows without an id on their own."""
    (keys,) = read_keys([("dataset", rows)], columns)
    known = read_column(rows, columns.language).is_valid().to_pylist()
    languages = [keys.language_names[code] if has else None for code, has in zip(keys.language, known, strict=True)]
    ids = read_ids(rows, columns.parallel_id, "dataset")[0].to_pylist()
    group = np.where(keys.item < 0, keys.item.max(initial=-1) + 1 + np.arange(len(rows)), keys.item)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    for members in np.split(order, starts) if len(rows) else []:
        yield members, Item.build(ids[members[0]], [languages[row] for row in members])


def _made(
    rows: Dataset, pairs: np.ndarray, columns: PairingColumns, texts: RowTexts, combine: Combine, recipe: str
) -> Dataset:
    sources, others = rows.select(pairs[:, 0]), rows.select(pairs[:, 1])

    def make(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        result = []
        for row, other in zip(rows_of(batch), rows_of(others[indices]), strict=True):
            with naming(row, columns):
                new = combine(texts, copy_row(row), copy_row(other))
            if new is not None:
                result.append(new)
        return {name: [row[name] for row in result] for name in batch}

    try:
        fingerprint = Hasher.hash([rows._fingerprint, recipe, pairs.tobytes(), combine])
    except Exception:  # a function of the user's that cannot be pickled: nothing is cached then
        fingerprint = generate_random_fingerprint()
    return sources.map(
        make, batched=True, with_indices=True, features=rows.features, new_fingerprint=fingerprint, desc=recipe
    )


def _expanded(
    batch: dict[str, list], columns: PairingColumns, texts: RowTexts, choose: Choose, combine: Combine
) -> dict[str, list]:
    result = []
    for rows in batch["rows"]:
        parallel_id = row_id(rows[0], columns.parallel_id)
        item = Item.build(parallel_id, [language_of(row, columns.language) for row in rows])
        made = []
        for source, other in choose(item):
            if other != NO_PARALLEL:
                with naming(rows[source], columns):
                    made.append(combine(texts, copy_row(rows[source]), copy_row(rows[other])))
        # Those that lost their id come last, or the rows after them would be another item to `carry_pivots`
        new = [row for row in made if row is not None]
        result += rows + sorted(new, key=lambda row: row_id(row, columns.parallel_id) is None)
    return batch_of(result)
