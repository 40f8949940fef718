"""Streams whose rows carry their pivot."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Features, IterableDataset, Value

from .example_iterables import group_items
from .pairing import PairingColumns
from .tables import batch_of, by_split, refuse_column, require_columns, row_id


# Column with the fields of a row's pivot, as a dict
CARRIED_PIVOT_COLUMN = "pivot"
MAX_ROWS_PER_ITEM = 10_000


def carry_pivots(
    dataset: IterableDataset,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
    multiple_pivots: str = "error",
    shuffle_buffer: int | None = None,
    seed: int = 0,
) -> IterableDataset:
    """
    Put each row's pivot into the row, so that a stream can be paired without looking back or ahead.

    The translations of an item must be adjacent, in any order: as they come from [`to_long_format`],
    [`concatenate_parallel`] and [`assign_parallel_id`], or from a file that is sorted by id.
    The same id further down the stream is another item, and so are rows that another rank or worker reads since they
    are in another shard. At most one item and the shuffle buffer are held in memory.

    Sources with ids of their own are mixed with `datasets.interleave_datasets` after this, not before: from then on
    every row stands alone, and ids are not compared any more.

    Args:
        dataset ([`~datasets.IterableDataset`] or a dict of splits):
            Rows in the long format, one per language.
        language_column (`str`, *optional*, defaults to `"language"`):
            Column with each row's language (strings).
        parallel_id_column (`str` or `list[str]`, *optional*, defaults to `"parallel_id"`):
            Column, or columns, with the same value on every translation of an item (integers or strings). A row in
            which one is missing (null, or an empty string) pairs with nothing.
        pivot_language (`str` or `list[str]`, *optional*, defaults to `"en"`):
            Value, or aliases, of the pivot language.
        multiple_pivots (`str`, *optional*, defaults to `"error"`):
            What to do with an item that has several pivots of different content (any column but language and id):
            raise an `"error"` when it is met, or take the `"first"`.
        shuffle_buffer (`int`, *optional*):
            Shuffle items within a buffer of this many items, and the shards. Items stay whole, so that translations
            meet in a batch. `.shuffle()` on the result would scatter them, and before this function it would take
            them apart (unless there is one row per item then: shuffling wide rows is fine).
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order, which is another one in each epoch (`set_epoch`).

    Returns:
        [`~datasets.IterableDataset`] (or a dict of splits): The rows with the column `"pivot"`: the fields of the
        row's pivot as a dict; `None` for rows without one, and for the rows in the pivot language themselves. Class
        labels in the language column become strings.

    Raises:
        ValueError: If a column is missing or in the way, or an option has no such value; while the stream is read, if
            an item has several different pivots or more than 10,000 rows.
        TypeError: For a `Dataset`; while the stream is read, if languages are not strings, or ids neither integers
            nor strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import carry_pivots

    >>> rows = Dataset.from_dict({"prompt": ["Moja?", "One?"], "language": ["sw", "en"], "parallel_id": [7, 7]})
    >>> for row in carry_pivots(rows.to_iterable_dataset()):
    ...     print(row["prompt"], row["pivot"])
    Moja? {'prompt': 'One?', 'language': 'en', 'parallel_id': 7}
    One? None
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    if multiple_pivots not in ("error", "first"):
        raise ValueError(
            f"`multiple_pivots` is {multiple_pivots!r}, expected 'error' or 'first': a row of a stream carries one "
            "pivot."
        )
    if shuffle_buffer is not None and (isinstance(shuffle_buffer, bool) or shuffle_buffer < 1):
        raise ValueError(f"`shuffle_buffer` is {shuffle_buffer!r}, expected a number of items ≥ 1, or `None`.")

    def refuse_table(rows):
        raise TypeError(
            "A `Dataset` is paired as it is: pass it to the trainer. To stream it all the same, pass "
            "`dataset.to_iterable_dataset()`."
        )

    def carry(rows):
        meaning = dict.fromkeys(columns.parallel_id, "`parallel_id_column`") | {columns.language: "`language_column`"}
        names = require_columns(rows, meaning)
        refuse_column(names, CARRIED_PIVOT_COLUMN, "does it carry pivots already? Rename or remove the column.")
        features, labels = _features(rows.features, columns.language)
        items = group_items(rows, functools.partial(row_id, columns=columns.parallel_id), MAX_ROWS_PER_ITEM)
        if shuffle_buffer is not None:
            items = items.shuffle(seed=seed, buffer_size=shuffle_buffer)
        # One item at a time, so that none is held beyond the buffer
        return items.map(
            _carry_within,
            batched=True,
            batch_size=1,
            remove_columns="rows",
            features=features,
            fn_kwargs={"columns": columns, "first": multiple_pivots == "first", "labels": labels},
        )

    return by_split(dataset, refuse_table, carry)


def _features(features: Features | None, language: str) -> tuple[Features | None, list[str] | None]:
    """Features of the result, as far as they are known, and the names of the languages if they are class labels."""
    if features is None:
        return None, None
    labels = features[language].names if isinstance(features[language], ClassLabel) else None
    features = Features({**features, **({} if labels is None else {language: Value("string")})})
    return Features({**features, CARRIED_PIVOT_COLUMN: dict(features)}), labels


def _carry_within(
    batch: dict[str, list], columns: PairingColumns, first: bool, labels: list[str] | None
) -> dict[str, list]:
    """Rows of the items of a batch, with their pivots."""
    result = []
    for rows in batch["rows"]:
        if labels is not None:
            rows = [{**row, columns.language: _name(row[columns.language], labels)} for row in rows]
        is_pivot = [_is_pivot(row, columns) for row in rows]
        pivots = [row for row, is_one in zip(rows, is_pivot, strict=True) if is_one]
        missing_id = row_id(rows[0], columns.parallel_id) is None
        if not first and len(pivots) > 1:
            _raise_if_different(pivots, columns)
        pivot = pivots[0] if pivots and not missing_id else None
        for row, is_one in zip(rows, is_pivot, strict=True):
            result.append({**row, CARRIED_PIVOT_COLUMN: None if is_one or pivot is None else copy_row(pivot)})
    return batch_of(result)


def copy_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row that shares nothing: TRL converts some formats in place, messages included."""
    return pickle.loads(pickle.dumps(row))  # several times faster than `deepcopy` for lists of tokens


def _name(label: int | None, labels: list[str]) -> str | None:
    return None if label is None else labels[label]


def _is_pivot(row: dict[str, Any], columns: PairingColumns) -> bool:
    language = row[columns.language]
    if language is not None and not isinstance(language, str):
        raise TypeError(
            f"The language column {columns.language!r} holds {language!r}; languages must be strings such as "
            f"{columns.pivot_languages[0]!r}."
        )
    return language in columns.pivot_languages


def _raise_if_different(pivots: list[dict[str, Any]], columns: PairingColumns) -> None:
    first, *others = ({k: v for k, v in pivot.items() if k not in columns.names} for pivot in pivots)
    if all(pa.array([first]).equals(pa.array([other])) for other in others):
        return
    found = ", ".join(f"{name}={pivots[0][name]!r}" for name in columns.parallel_id)
    raise ValueError(
        f"The item {found} has {len(pivots)} pivots of different content. Where ids repeat across sources, carry the "
        "pivots of each source before they are mixed, or name all id columns in `parallel_id_column`; where an item "
        "has several answers, pass `multiple_pivots='first'` to `carry_pivots`."
    )
