"""Packing that keeps the translations of an item in one sequence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .pivots import PAIRING_COLUMNS, PIVOT_COLUMN
from .tables import read_integers


# Rows that are packed at a time; the groups at the border of two chunks may be cut apart
CHUNK = 10_000
LENGTHS_COLUMN = "seq_lengths"  # TRL's name


def pack_pairs(dataset: Dataset, max_length: int) -> Dataset:
    """
    Pack paired rows into sequences of up to `max_length` tokens, translations of an item together.

    Best-fit decreasing, as TRL's `"bfd"`, but of whole items instead of rows. An item that does not fit into one
    sequence is cut between rows; its pivot is then missing from one of the batches, where
    [`DataCollatorForPivotAlignment`] appends it. No row is cut or lost.

    Args:
        dataset ([`~datasets.Dataset`]):
            Tokenized rows of at most `max_length` tokens, with the columns `PAIRING_COLUMNS`.
        max_length (`int`):
            Tokens of a sequence.

    Returns:
        [`~datasets.Dataset`]: One row per sequence: `input_ids` (and `labels`) one after the other, their
        `seq_lengths`, and a list for each of `PAIRING_COLUMNS`.
    """
    groups = _groups(dataset)
    # Items in order of appearance, each in one piece
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort((np.arange(len(groups)), first[group]))
    tokens = [name for name in ("input_ids", "labels") if name in dataset.column_names]
    rows = dataset.select_columns([*tokens, *PAIRING_COLUMNS]).select(order).with_format("arrow")
    packed = rows.map(
        _pack_chunk,
        batched=True,
        batch_size=CHUNK,
        remove_columns=rows.column_names,
        fn_kwargs={"max_length": max_length},
        desc="Packing parallel rows",
    )
    return packed.with_format(None)


def _groups(dataset: Dataset) -> np.ndarray:
    """A number for each item; rows without a pivot stand alone."""
    pivots = read_integers(dataset, PIVOT_COLUMN)
    return np.where(pivots >= 0, pivots, -1 - np.arange(len(pivots)))


def _pack_chunk(table: pa.Table, max_length: int) -> pa.Table:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    ids = columns["input_ids"]
    lengths = np.diff(ids.offsets.to_numpy())
    pivots = columns[PIVOT_COLUMN].to_numpy()
    units = _units(pivots, lengths, max_length)
    bins = _best_fit([int(lengths[unit].sum()) for unit in units], max_length)
    members = [np.concatenate([units[unit] for unit in content]) for content in bins]
    order = np.concatenate(members)
    rows_per_bin = np.array([len(rows) for rows in members])
    row_bounds = np.concatenate([[0], np.cumsum(rows_per_bin)])
    token_bounds = np.concatenate([[0], np.cumsum(lengths[order])])[row_bounds]
    result = {}
    for name, column in columns.items():
        taken = column.take(pa.array(order))
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            result[name] = _as_lists(taken.flatten(), token_bounds)
        else:
            result[name] = _as_lists(taken, row_bounds)
    result[LENGTHS_COLUMN] = _as_lists(pa.array(lengths[order].astype(np.int64)), row_bounds)
    return pa.table(result)


def _as_lists(values: pa.Array, bounds: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(bounds.astype(np.int64)), values).cast(pa.list_(values.type))


def _units(pivots: np.ndarray, lengths: np.ndarray, max_length: int) -> list[np.ndarray]:
    """Rows that must stay together: neighbours of one item, as many as fit into a sequence."""
    units: list[list[int]] = []
    item, room = None, 0
    for row, (pivot, length) in enumerate(zip(pivots.tolist(), lengths.tolist(), strict=True)):
        if pivot < 0 or pivot != item or length > room:
            units.append([])
            item, room = (pivot if pivot >= 0 else None), max_length
        units[-1].append(row)
        room -= length
    return [np.asarray(unit) for unit in units]


def _best_fit(sizes: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: each unit goes into the fullest sequence that it still fits into."""
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # room left -> sequences
    rooms = 0  # bit r is set where `by_room[r]` is not empty
    for unit in sorted(range(len(sizes)), key=lambda unit: -sizes[unit]):
        size = min(sizes[unit], capacity)
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            index = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, index = capacity, len(bins)
            bins.append([])
        bins[index].append(unit)
        by_room.setdefault(room - size, []).append(index)
        rooms |= 1 << (room - size)
    return bins
