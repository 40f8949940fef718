"""The placebo: pairs of rows that are not parallel."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset

from ..pairing import PairingColumns, first_pivots, read_keys_with_pivots
from ..streaming import MAX_ROWS_PER_ITEM
from ..tables import SplitDataset, batch_of, by_split, read_column, read_ids, require_columns, row_id, set_column
from .blocks import block_items
from .rows import digest, language_of, named_languages, pairing_meaning, plain, refuse_carried


_NAME = "shuffle_parallels"


def shuffle_parallels(
    dataset: SplitDataset,
    pivot_dataset: Dataset | None = None,
    block: int = 1000,
    seed: int = 0,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
) -> SplitDataset:
    """
    Give every row that has a pivot the id of another item: all texts and the number of pairs stay, and no pair is
    parallel.

    The control for an alignment objective: what it gains with these pairs does not come from translations. In each
    language the items are put into an order that is drawn, and each passes its id on to the next, the last to the
    first. So no row keeps its item, and each item has as many languages as before. Languages are
    shuffled independently of each other: with one order for all, translations of an item would stay together under
    their new id, and an objective that compares them (or their mean) would still find parallels. By chance, two rows
    of an item still meet under the same new id about once per language pair.

    Pivots, and rows without a pivot, keep their ids. Of a table, the result depends on the seed, the ids and the
    languages, not on the order of rows. What tells items apart is the id: where the same pivot stands under two ids, a
    row may come to the copy of its own ([`parallel_report`] names such rows).

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in the long format, of any type. In a stream, the rows of an item must be adjacent, and
            [`carry_pivots`] comes after this.
        pivot_dataset ([`~datasets.Dataset`], *optional*):
            Where the pivots stand, if not in `dataset`. Not for streams.
        block (`int`, *optional*, defaults to `1000`):
            For streams: ids change places among this many items (with a pivot and other rows) that follow each other,
            which are held in memory. The last block holds up to one more. Which they are depends on the order of the
            stream, and so on its shards and workers, which read blocks of their own.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the orders.
        language_column, parallel_id_column, pivot_language:
            As in [`find_pivots`].

    Returns:
        The same type as `dataset`. Rows of a table keep their order; those of a stream stand with their new item.

    Raises:
        ValueError: If an option has no such value, a column is missing, nothing pairs, or there is one pivot only (in
            a stream: in one of its shards, when it is read), so that no row could get another.
        TypeError: If languages are not strings, ids neither integers nor strings, or a stream comes with a
            `pivot_dataset`.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import find_pivots
    >>> from solar_trl.data.recipes import shuffle_parallels

    >>> rows = Dataset.from_dict({"language": ["en", "en", "sw", "sw"], "parallel_id": [1, 2, 1, 2]})
    >>> find_pivots(rows).tolist(), find_pivots(shuffle_parallels(rows)).tolist()
    ([-1, -1, 0, 1], [-1, -1, 1, 0])
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    if isinstance(block, bool) or not isinstance(block, int) or block < 2:
        raise ValueError(f"`block` is {block!r}, expected an integer from 2: ids change places among the items.")

    def table(rows: Dataset) -> Dataset:
        require_columns(rows, pairing_meaning(columns))
        return _shuffled_table(rows, pivot_dataset, columns, seed)

    def stream(rows: IterableDataset) -> IterableDataset:
        if pivot_dataset is not None:
            raise TypeError("`pivot_dataset` does not go with a stream: its rows stand next to their pivots.")
        refuse_carried(require_columns(rows, pairing_meaning(columns)))
        rows = named_languages(rows, columns.language)
        blocks = block_items(
            rows,
            functools.partial(row_id, columns=columns.parallel_id),
            functools.partial(_has_pairs, columns=columns),
            MAX_ROWS_PER_ITEM,
            block,
        )
        return blocks.map(
            _shuffled_blocks,
            batched=True,
            batch_size=1,
            remove_columns="items",
            features=rows.features,
            fn_kwargs={"columns": columns, "seed": seed},
        )

    return by_split(dataset, table, stream)


def _others(paired: Iterable[tuple[str | None, Any]], pivots: Callable[[], set], seed: int) -> dict[tuple, Any]:
    """
    Another item for each language and item that pairs.

    Args:
        paired (iterable of `(language, item)`): Each combination once.
        pivots (callable): All items with a pivot, where a language has only one of them.
        seed (`int`): Seed of the orders.

    Returns:
        `dict`: From `(language, item)` to an item with a pivot, which is another one.
    """
    by_language: dict[str | None, list] = {}
    for language, item in paired:
        by_language.setdefault(language, []).append(item)
    result: dict[tuple, Any] = {}
    for language, items in by_language.items():
        order = sorted(items, key=lambda item: digest(_NAME, seed, language, item))
        following = [*order[1:], order[0]]
        if len(order) == 1:
            free = pivots() - set(order)
            if not free:
                raise ValueError(
                    f"`{_NAME}` needs two items with a pivot, so that rows can change places; there is one: "
                    f"{order[0]!r}."
                )
            following = [min(free, key=lambda item: digest(_NAME, seed, language, item))]
        result |= {(language, item): other for item, other in zip(order, following, strict=True)}
    return result


def _shuffled_table(rows: Dataset, pivot_dataset: Dataset | None, columns: PairingColumns, seed: int) -> Dataset:
    keys, pivot_keys, source = read_keys_with_pivots(rows, "dataset", pivot_dataset, columns)
    pivot_rows = np.flatnonzero(pivot_keys.is_pivot & (pivot_keys.item >= 0))
    pivot = np.where(keys.is_pivot, -1, first_pivots(keys.item, pivot_rows, pivot_keys.item[pivot_rows]))
    moved = np.flatnonzero(pivot >= 0)
    if not len(moved):
        raise ValueError(
            f"Nothing pairs in the dataset (columns {', '.join(map(repr, columns.names))}, pivot language "
            f"{' or '.join(map(repr, columns.pivot_languages))}), so there are no pairs to shuffle."
        )
    # By their first pivot, whose id stands in the pivots' dataset: the same item has the same
    ids = read_ids(source, columns.parallel_id, "pivot dataset")[0]
    first = np.unique(pivot_keys.item[pivot_rows], return_index=True)[1]
    row_of = {plain(value): int(row) for row in pivot_rows[first] for value in [ids[int(row)].as_py()]}
    id_of = {row: value for value, row in row_of.items()}
    languages = [keys.language_names[code] for code in keys.language[moved]]
    wanted = [(language, id_of[row]) for language, row in zip(languages, pivot[moved].tolist(), strict=True)]
    others = _others(dict.fromkeys(wanted), lambda: set(row_of), seed)
    taken = np.array([row_of[others[key]] for key in wanted])
    for name in columns.parallel_id:
        own = read_column(rows, name)
        given = read_column(source, name).cast(own.type)
        place = np.arange(len(rows))
        place[moved] = len(rows) + taken
        rows = set_column(rows, name, pa.chunked_array([*own.chunks, *given.chunks], own.type).take(pa.array(place)))
    return rows


def _has_pairs(rows: list[dict[str, Any]], columns: PairingColumns) -> bool:
    """Whether an item has a pivot and other rows."""
    is_pivot = [language_of(row, columns.language) in columns.pivot_languages for row in rows]
    return any(is_pivot) and not all(is_pivot) and row_id(rows[0], columns.parallel_id) is not None


def _shuffled_blocks(batch: dict[str, list], columns: PairingColumns, seed: int) -> dict[str, list]:
    result = [row for items in batch["items"] for row in _shuffled_items(items, columns, seed)]
    return batch_of(result)


def _shuffled_items(items: list[list[dict[str, Any]]], columns: PairingColumns, seed: int) -> list[dict[str, Any]]:
    # The same id may come again further down: then it is another item, so they are told apart by their number too
    seen: Counter[Any] = Counter()
    names = []
    for rows in items:
        parallel_id = plain(row_id(rows[0], columns.parallel_id))
        names.append((parallel_id, seen[parallel_id]))
        seen[parallel_id] += 1
    place = {name: i for i, name in enumerate(names)}
    moving = [_has_pairs(rows, columns) for rows in items]

    def is_moved(row: dict[str, Any]) -> bool:
        return row[columns.language] not in columns.pivot_languages

    paired = dict.fromkeys(
        (row[columns.language], name)
        for rows, name, moves in zip(items, names, moving, strict=True)
        if moves
        for row in rows
        if is_moved(row)
    )
    others = _others(paired, lambda: {name for name, moves in zip(names, moving, strict=True) if moves}, seed)
    result: list[list[dict[str, Any]]] = [
        [row for row in rows if not (moves and is_moved(row))] for rows, moves in zip(items, moving, strict=True)
    ]
    for rows, name, moves in zip(items, names, moving, strict=True):
        for row in rows:
            if moves and is_moved(row):
                target = place[others[row[columns.language], name]]
                result[target].append({**row, **{c: items[target][0][c] for c in columns.parallel_id}})
    return [row for rows in result for row in rows]
