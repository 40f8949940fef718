"""Who is whose parallel: rows are paired by id, never by position."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from .messages import ids_differ, no_config_column


def as_list(value: str | Sequence[str]) -> list[str]:
    """A string or a list of strings, as a list."""
    return [value] if isinstance(value, str) else list(value)


@dataclass(frozen=True)
class PairingColumns:
    """
    Where the language and the id of a row stand.

    Args:
        language (`str`):
            Name of the language column.
        parallel_id (`tuple[str, ...]`):
            Names of the columns that together are the same on every translation of an item.
        pivot_languages (`tuple[str, ...]`):
            Values of the language column that mark pivots.
    """

    language: str = "language"
    parallel_id: tuple[str, ...] = ("parallel_id",)
    pivot_languages: tuple[str, ...] = ("en",)

    @classmethod
    def build(cls, language: str, parallel_id: str | Sequence[str], pivot_language: str | Sequence[str]):
        return cls(language, tuple(as_list(parallel_id)), tuple(as_list(pivot_language)))

    @property
    def names(self) -> list[str]:
        return [self.language, *self.parallel_id]


@dataclass
class Keys:
    """
    Languages and items of a dataset as integers.

    Args:
        language (`numpy.ndarray` of shape `(n,)` and dtype int64):
            Index into `language_names`.
        language_names (`list[str]`):
            Languages in order of first appearance; a missing language is `"unknown"`.
        item (`numpy.ndarray` of shape `(n,)` and dtype int64):
            The same number on all rows with the same id; -1 where a part of the id is missing.
        is_pivot (`numpy.ndarray` of shape `(n,)` and dtype bool):
            Whether the row is in the pivot language.
    """

    language: np.ndarray
    language_names: list[str]
    item: np.ndarray
    is_pivot: np.ndarray


UNKNOWN_LANGUAGE = "unknown"


def column_values(dataset: Dataset, name: str) -> pa.ChunkedArray:
    table = dataset.select_columns([name]).with_format("arrow")[:]
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    feature = dataset.features[name]
    if isinstance(feature, ClassLabel):
        names = pa.array(feature.names)
        # -1 is what datasets call unlabelled
        indices = pc.if_else(pc.less(column, 0), pa.scalar(None, column.type), column)
        column = pa.chunked_array([names.take(chunk) for chunk in indices.chunks], type=names.type)
    return column


def _require_columns(dataset: Dataset, columns: Sequence[str], what: str, options: dict[str, str]) -> None:
    for name in columns:
        if name not in dataset.column_names:
            raise ValueError(no_config_column(what, name, options[name], dataset.column_names))


def id_kind(column: pa.ChunkedArray, name: str, what: str) -> pa.DataType:
    """The type ids are compared in: 64-bit integers or strings."""
    if pa.types.is_integer(column.type) and not pa.types.is_boolean(column.type):
        return pa.int64()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pa.large_string()
    if pa.types.is_null(column.type):
        return pa.null()
    raise TypeError(
        f"The id column {name!r} of the {what} holds {column.type}; ids must be integers or strings. Cast it, e.g. "
        f"`dataset.cast_column({name!r}, datasets.Value('string'))`."
    )


def composed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings in Unicode's composed form (NFC): ids that read the same are the same. Empty ones become null."""
    chunks = []
    for chunk in column.chunks:
        if not pc.all(pc.string_is_ascii(chunk), min_count=0).as_py():
            # Not Arrow's `utf8_normalize`, which up to version 24 leaves decomposed characters apart
            encoded = chunk.dictionary_encode()
            values = [unicodedata.normalize("NFC", value) for value in encoded.dictionary.to_pylist()]
            chunk = pa.array(values, type=column.type).take(encoded.indices)
        chunks.append(chunk)
    column = pa.chunked_array(chunks, type=column.type)
    return pc.if_else(pc.equal(column, pa.scalar("", column.type)), pa.scalar(None, column.type), column)


def encode(column: pa.ChunkedArray) -> np.ndarray:
    """Equal values -> equal integers from 0, in order of first appearance; nulls -> -1."""
    if not len(column):
        return np.empty(0, dtype=np.int64)
    encoded = pc.dictionary_encode(column).combine_chunks()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    indices = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate(indices).astype(np.int64) if indices else np.empty(0, np.int64)


def read_keys(datasets: Sequence[tuple[str, Dataset]], columns: PairingColumns) -> list[Keys]:
    """
    Read the languages and ids of datasets that share their ids.

    Args:
        datasets (sequence of `(name, dataset)`):
            Map-style datasets; the name is for error messages. Item numbers are common to all of them.
        columns ([`PairingColumns`]):
            Where to look.

    Returns:
        list of [`Keys`], one per dataset.

    Raises:
        ValueError: If a column is missing, or ids are integers in one dataset and strings in another.
        TypeError: If languages are not strings, or ids neither integers nor strings.
    """
    meaning = dict.fromkeys(columns.parallel_id, "`parallel_id_column`") | {columns.language: "`language_column`"}
    for what, dataset in datasets:
        _require_columns(dataset, columns.names, what, meaning)

    sizes = [len(dataset) for _, dataset in datasets]
    item = np.zeros(sum(sizes), np.int64)
    known = np.ones(sum(sizes), bool)
    for name in columns.parallel_id:
        parts = [column_values(dataset, name) for _, dataset in datasets]
        kinds = [id_kind(part, name, what) for part, (what, _) in zip(parts, datasets, strict=True)]
        distinct = {str(kind): what for kind, (what, _) in zip(kinds, datasets, strict=True) if kind != pa.null()}
        if len(distinct) > 1:
            found = (f"{kind.removeprefix('large_')} in the {what}" for kind, what in distinct.items())
            raise ValueError(ids_differ(name, found))
        kind = next((kind for kind in kinds if kind != pa.null()), pa.int64())
        try:
            cast = pa.chunked_array([chunk.cast(kind) for part in parts for chunk in part.chunks], type=kind)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"The ids in column {name!r} do not fit 64-bit signed integers ({error}). Cast them, e.g. "
                f"`dataset.cast_column({name!r}, datasets.Value('string'))`."
            ) from None
        codes = encode(composed(cast) if pa.types.is_large_string(kind) else cast)
        known &= codes >= 0
        # Numbers stay below (rows so far) × (distinct values), then are made dense again
        item = np.unique(item * (codes.max(initial=0) + 1) + np.maximum(codes, 0), return_inverse=True)[1].reshape(-1)
    item = np.where(known, item, -1)

    keys, start = [], 0
    for (what, dataset), size in zip(datasets, sizes, strict=True):
        column = column_values(dataset, columns.language)
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise TypeError(
                f"The language column {columns.language!r} of the {what} holds {column.type}; languages must be "
                f"strings such as {columns.pivot_languages[0]!r}."
            )
        column = pc.fill_null(column, UNKNOWN_LANGUAGE)
        names = pc.unique(column).to_pylist()
        language = encode(column)
        is_pivot = np.isin(language, [i for i, name in enumerate(names) if name in columns.pivot_languages])
        keys.append(Keys(language, names, item[start : start + size], is_pivot))
        start += size
    return keys


def read_keys_with_pivots(
    dataset: Dataset, name: str, pivot_dataset: Dataset | None, columns: PairingColumns
) -> tuple[Keys, Keys, Dataset]:
    """
    Keys of a dataset and of the source of its pivots, and that source.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in the long format.
        name (`str`):
            What to call it in messages.
        pivot_dataset ([`~datasets.Dataset`], *optional*):
            Where its pivots stand, if not in the dataset itself. Without the language column, every row is a pivot.
        columns ([`PairingColumns`]):
            Where to look.

    Returns:
        tuple of ([`Keys`], [`Keys`], [`~datasets.Dataset`]).
    """
    if pivot_dataset is None:
        (keys,) = read_keys([(name, dataset)], columns)
        return keys, keys, dataset
    if columns.language not in pivot_dataset.column_names:
        pivot_dataset = pivot_dataset.add_column(columns.language, [columns.pivot_languages[0]] * len(pivot_dataset))
    keys, pivot_keys = read_keys([(name, dataset), ("pivot dataset", pivot_dataset)], columns)
    return keys, pivot_keys, pivot_dataset


def first_pivots(items: np.ndarray, pivot_rows: np.ndarray, pivot_items: np.ndarray) -> np.ndarray:
    """For each of `items` (-1 for unknown), the first of `pivot_rows` that is of the same item, or -1."""
    n_items = max(items.max(initial=-1), pivot_items.max(initial=-1)) + 1
    first = np.full(n_items + 1, -1, np.int64)  # the last entry answers for item -1
    first[pivot_items[::-1]] = pivot_rows[::-1]
    first[-1] = -1
    return first[items]


def find_pivots(
    dataset: Dataset,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
    pivot_dataset: Dataset | None = None,
    multiple_pivots: str = "error",
) -> np.ndarray:
    """
    Index of each row's pivot: the row in the pivot language with the same id.

    Vectorised: time and memory are those of a few integers per row, whatever the texts.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in the long format, one per language.
        language_column (`str`, *optional*, defaults to `"language"`):
            Column with each row's language (strings).
        parallel_id_column (`str` or `list[str]`, *optional*, defaults to `"parallel_id"`):
            Column, or columns, with the same value on every translation of an item (integers or strings). A row in
            which one is missing (null, or an empty string) pairs with nothing.
        pivot_language (`str` or `list[str]`, *optional*, defaults to `"en"`):
            Value, or aliases, of the pivot language.
        pivot_dataset ([`~datasets.Dataset`], *optional*):
            Where to look for pivots instead of `dataset` itself. Without the language column, every row of it is a
            pivot.
        multiple_pivots (`str`, *optional*, defaults to `"error"`):
            What to do with an id that has several pivots of different content (any column but language and id): raise
            an
            `"error"`, or take the `"first"`.

    Returns:
        `numpy.ndarray` of shape `(len(dataset),)` and dtype int64: Index into `pivot_dataset` (or `dataset`); -1 for a
        row without a pivot and for the rows in the pivot language themselves. Of several identical pivots the first
        counts.

    Raises:
        ValueError: If a column is missing, ids differ in type between the two datasets, or a row's id has several
            different pivots.
        TypeError: If languages are not strings, or ids neither integers nor strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import find_pivots

    >>> rows = Dataset.from_dict({"language": ["sw", "en", "th"], "parallel_id": [7, 7, 8]})
    >>> find_pivots(rows).tolist()
    [1, -1, -1]
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    if multiple_pivots not in ("error", "first"):
        raise ValueError(f"`multiple_pivots` is {multiple_pivots!r}, expected 'error' or 'first'.")
    keys, pivot_keys, source = read_keys_with_pivots(dataset, "dataset", pivot_dataset, columns)
    rows = np.flatnonzero(pivot_keys.is_pivot & (pivot_keys.item >= 0))
    rows = rows[np.isin(pivot_keys.item[rows], keys.item[~keys.is_pivot])]
    rows = rows[np.argsort(pivot_keys.item[rows], kind="stable")]
    if multiple_pivots == "error":
        representatives = distinct_pivots(source, rows, pivot_keys.item[rows], columns)
        what = "dataset" if pivot_dataset is None else "pivot dataset"
        raise_if_ambiguous(source, rows, pivot_keys.item[rows], representatives, columns, what)
    found = first_pivots(keys.item, rows, pivot_keys.item[rows])
    return np.where(keys.is_pivot, -1, found)


def distinct_pivots(dataset: Dataset, rows: np.ndarray, items: np.ndarray, columns: PairingColumns) -> np.ndarray:
    """
    The first pivot of the same item with the same content, for each pivot.

    Args:
        dataset ([`~datasets.Dataset`]):
            Where the pivots stand.
        rows (`numpy.ndarray` of shape `(p,)`):
            Their indices, sorted by item.
        items (`numpy.ndarray` of shape `(p,)`):
            Their items, ascending.
        columns ([`PairingColumns`]):
            Columns that are not content.

    Returns:
        `numpy.ndarray` of shape `(p,)`: Positions in `rows`.
    """
    result = np.arange(len(rows))
    repeated = np.zeros(len(rows), bool)
    same = items[1:] == items[:-1]
    repeated[1:] |= same
    repeated[:-1] |= same
    positions = np.flatnonzero(repeated)
    if not len(positions):
        return result
    # What the model sees, once it is known; until then everything that is not the key
    content = [name for name in ("input_ids", "labels") if name in dataset.column_names]
    content = content or [name for name in dataset.column_names if name not in columns.names]
    seen: dict[tuple[int, bytes], int] = {}
    digests = _digests(dataset.select(rows[positions]).select_columns(content)) if content else [b""] * len(positions)
    for position, digest in zip(positions.tolist(), digests, strict=True):
        result[position] = seen.setdefault((int(items[position]), digest), position)
    return result


def _digests(dataset: Dataset) -> Iterator[bytes]:
    """A hash of each row's content, in bounded memory."""
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        rows = [hashlib.blake2b(digest_size=16) for _ in range(table.num_rows)]
        for column in table.columns:
            for digest, value in zip(rows, _values(column), strict=True):
                digest.update(b"%d:" % len(value) + value)
        for digest in rows:
            yield digest.digest()


def _values(column: pa.ChunkedArray) -> Iterator[bytes]:
    """The values of a column as bytes; token lists without a Python object per token."""
    for chunk in column.chunks:
        if pa.types.is_list(chunk.type) and pa.types.is_integer(chunk.type.value_type) and not chunk.null_count:
            values, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_pylist()
            for start, stop in itertools.pairwise(offsets):
                yield values[start:stop].astype(np.int64).tobytes()
        else:
            for value in chunk.to_pylist():
                yield repr(value).encode("utf-8", "surrogatepass")


def raise_if_ambiguous(
    dataset: Dataset,
    rows: np.ndarray,
    items: np.ndarray,
    representatives: np.ndarray,
    columns: PairingColumns,
    what: str,
) -> None:
    """Raise a `ValueError` if an item has several different pivots, naming the ids and the rows."""
    distinct = np.flatnonzero(representatives == np.arange(len(rows)))
    clash = np.flatnonzero(items[distinct][1:] == items[distinct][:-1])
    if not len(clash):
        return
    first, second = rows[distinct[clash[0]]], rows[distinct[clash[0] + 1]]
    example = describe_ids(dataset, [first], columns)[0]
    raise ValueError(
        f"{len(np.unique(items[distinct][1:][clash]))} ids of the {what} have several different pivots, e.g. "
        f"{example} in rows {first} and {second}. Where ids repeat across sources, name all id columns in "
        "`parallel_id_column`; where an item has several answers, set `multiple_pivots` to 'first' or 'sample'."
    )


def describe_ids(dataset: Dataset, rows: Sequence[int] | np.ndarray, columns: PairingColumns) -> list[str]:
    """Readable ids of a few rows, for messages."""
    values = dataset.select(rows).select_columns(list(columns.parallel_id)).with_format(None)
    return [", ".join(f"{name}={value!r}" for name, value in row.items()) for row in values]
