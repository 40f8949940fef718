"""Small operations on datasets that leave the texts where they are."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value
from datasets.fingerprint import Hasher

from .messages import no_column
from .pairing import column_values, composed, id_kind


# Dataset, IterableDataset, DatasetDict or IterableDatasetDict: what comes out is of the type that went in
SplitDataset = TypeVar("SplitDataset")


def by_split(dataset: Any, table: Callable[[Dataset], Any], stream: Callable[[IterableDataset], Any]) -> Any:
    """Apply `table` to a dataset or `stream` to a lazy one, split by split."""
    if isinstance(dataset, Dataset):
        return table(dataset)
    if isinstance(dataset, IterableDataset):
        return stream(dataset)
    if isinstance(dataset, dict):
        return type(dataset)({split: by_split(part, table, stream) for split, part in dataset.items()})
    raise TypeError(
        f"Expected a Dataset, an IterableDataset or a dict of splits, got {type(dataset).__name__}. Make one with "
        "`datasets.load_dataset`, `Dataset.from_list` or `Dataset.from_dict`."
    )


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """Column names; a stream that does not know them is asked for its first row."""
    names = dataset.column_names
    return list(next(iter(dataset.take(1)), {})) if names is None else list(names)


def require_columns(
    dataset: Dataset | IterableDataset, columns: Mapping[str, str], what: str = "dataset"
) -> list[str]:
    """Raise a `ValueError` unless the columns are there. The values say which option named them. Returns the names."""
    names = column_names(dataset)
    for name, option in columns.items():
        if name not in names:
            raise ValueError(no_column(what, name, option, names))
    return names


def refuse_column(names: Sequence[str], column: str, way_out: str, what: str = "dataset") -> None:
    """Raise a `ValueError` if a column that is to be added is there already."""
    if column in names:
        raise ValueError(f"The {what} already has a column {column!r}: {way_out}")


def without_indices(dataset: Dataset) -> tuple[Dataset, np.ndarray | None]:
    """
    All rows that a dataset's table holds, and which of them the dataset shows (`numpy.ndarray` of shape `(n,)`; None
    for all, in order). After `filter`, `shuffle` or `select`, working on the table spares a copy of the texts.
    """
    if dataset._indices is None:  # private, read in datasets 5.2; there is no public way to tell
        return dataset, None
    fingerprint = Hasher.hash([dataset._fingerprint, "without indices"])
    everything = Dataset(dataset.data, info=dataset.info.copy(), split=dataset.split, fingerprint=fingerprint)
    return everything, dataset._indices.column(0).to_numpy().astype(np.int64)


def rows_of(batch: Mapping[str, list]) -> list[dict[str, Any]]:
    """The rows of a batch of columns."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def batch_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Rows as a batch of columns, with `None` where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def read_integers(dataset: Dataset, name: str) -> np.ndarray:
    """A column of integers, `(n,)`."""
    return np.asarray(dataset.with_format("numpy")[name][:])


def read_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column as it stands in the table, or its rows in the order of the dataset; dictionaries are resolved."""
    everything, indices = without_indices(dataset)
    column = column_values(everything, name)
    return column if indices is None else column.take(pa.array(indices))


def set_column(dataset: Dataset, name: str, values: pa.Array | pa.ChunkedArray) -> Dataset:
    """Add or replace one column (in place). The others are referenced, not copied."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    everything, indices = without_indices(dataset)
    if indices is not None:
        places = np.full(len(everything), -1)
        places[indices] = np.arange(len(indices))
        if np.array_equal(places[indices], np.arange(len(indices))):
            spread = values.take(pa.array(places, mask=places < 0))
            return set_column(everything, name, spread).select(indices)
        # A row that is there twice may get two values: `add_column` writes the rows out
    order = dataset.column_names
    feature = Value(str(values.type))
    if name not in order:
        return dataset.add_column(name, values, feature=feature)
    former = f"_{name}"
    while former in order:
        former = f"_{former}"
    dataset = dataset.rename_column(name, former).add_column(name, values, feature=feature)
    return dataset.select_columns(order)


def text_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column of strings, also if every value is missing; a `TypeError` for anything else."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TypeError(f"Column {name!r} holds {column.type}, expected strings.")
    return column


def read_ids(dataset: Dataset, columns: Sequence[str], what: str) -> tuple[pa.ChunkedArray, list[str]]:
    """
    One id per row from one or several columns.

    Strings are brought to Unicode's composed form (NFC), so that ids that read the same are the same. Several columns
    are joined with slashes (slashes and backslashes in them are escaped: no two combinations give the same id). An id
    of which a part is missing, or an empty string, is missing.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
        columns (list of `str`):
            Columns of integers or strings.
        what (`str`):
            What to call the dataset in messages.

    Returns:
        tuple of the ids (`pyarrow.ChunkedArray` of int64, or of strings) and the kinds of the columns (`list[str]`).
    """
    parts, kinds = [], []
    for name in columns:
        column = read_column(dataset, name)
        kind = id_kind(column, name, what)
        kinds.append(str(kind).removeprefix("large_"))
        if not pa.types.is_integer(kind) and not pa.types.is_null(kind):
            column = composed(column)
        elif not pa.types.is_null(kind):
            column = column.cast(kind)
        parts.append(column)
    if len(parts) == 1:
        return parts[0], kinds
    for i, part in enumerate(parts):
        text = part.cast(pa.large_string())
        text = pc.replace_substring(text, "\\", "\\\\")
        parts[i] = pc.replace_substring(text, "/", "\\/")
    joined = pc.binary_join_element_wise(*parts, pa.scalar("/", pa.large_string()), null_handling="emit_null")
    return joined.cast(pa.string()), kinds


def row_id(row: Mapping[str, Any], columns: Sequence[str]) -> int | str | None:
    """The id of one row, as in `read_ids`."""
    values = [row[name] for name in columns]
    for name, value in zip(columns, values, strict=True):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, str, np.integer))):
            raise TypeError(f"The id column {name!r} holds {value!r}; ids must be integers or strings.")
    values = [unicodedata.normalize("NFC", value) or None if isinstance(value, str) else value for value in values]
    if len(values) == 1:
        return values[0]
    if any(value is None for value in values):
        return None
    return "/".join(str(value).replace("\\", "\\\\").replace("/", "\\/") for value in values)


def shorten(values: Sequence[Any], limit: int = 5) -> str:
    """The first few of some values, for messages."""
    shown = ", ".join(map(repr, values[:limit]))
    return f"{shown}, ..." if len(values) > limit else shown


def add_features(features: Features | None, added: Mapping[str, str]) -> Features | None:
    """Features of a stream with columns added, as far as they are known."""
    if features is None:
        return None
    return Features({**features, **{name: Value(dtype) for name, dtype in added.items()}})


def same_types(datasets: Mapping[str, Dataset]) -> list[Dataset]:
    """Cast the columns whose types differ harmlessly between languages; raise a `ValueError` for other differences."""
    result = list(datasets.values())
    names = dict.fromkeys(name for dataset in result for name in dataset.column_names)
    for name in names:
        kinds: dict[str, str] = {}  # type -> the first language that has it
        for language, dataset in datasets.items():
            feature = dataset.features.get(name)
            if isinstance(feature, Value) and feature.dtype != "null":
                kinds.setdefault(feature.dtype, language)
        if len(kinds) < 2:
            continue
        if set(kinds) <= {"string", "large_string"}:
            target = pa.large_string()
        elif all(kind.startswith(("int", "uint")) for kind in kinds):
            target = pa.int64()
        else:
            shown = ", ".join(f"{kind} in {language!r}" for kind, language in kinds.items())
            raise ValueError(
                f"Column {name!r} differs in type: {shown}. Cast one of them, e.g. `dataset.cast_column({name!r}, "
                "datasets.Value('string'))`, or remove the column."
            )
        result = [
            set_column(dataset, name, text_or_integer.cast(target))
            if (text_or_integer := _typed(dataset, name)) is not None
            else dataset
            for dataset in result
        ]
    return result


def _typed(dataset: Dataset, name: str) -> pa.ChunkedArray | None:
    feature = dataset.features.get(name)
    return read_column(dataset, name) if isinstance(feature, Value) and feature.dtype != "null" else None
