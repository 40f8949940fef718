"""How much of the training set is in the pivot language."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, IterableDataset

from ..._logging import get_logger
from ..pairing import PairingColumns, read_keys
from ..streaming import CARRIED_PIVOT_COLUMN, copy_row
from ..tables import SplitDataset, by_split, read_ids, require_columns, row_id, rows_of
from .rows import digest, draw, language_of, named_languages, pairing_meaning, plain


_NAME = "sample_pivot_ratio"


def sample_pivot_ratio(
    dataset: SplitDataset,
    ratio: float,
    lower: str = "repeat",
    current_ratio: float | None = None,
    seed: int = 0,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
) -> SplitDataset:
    """
    Make the rows in the pivot language a given share of all rows.

    A higher share repeats pivot rows: identical pivots of an item count as one, so the pairs stay. A lower one repeats
    the other rows (`lower="repeat"`), whose pairs stay too, or leaves pivots out (`lower="drop"`). The translations
    of a pivot that is left out still need it:

    - of a table, pass the rows as they were to the trainer, `pivot_dataset=dataset`: these are pivots only, never in
      the SFT loss;
    - the rows of a stream must carry their pivots already ([`carry_pivots`] before this).

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in the long format, of any type, tokenized ones too.
        ratio (`float`):
            Rows in the pivot language per row. Above 0 (0 itself with `lower="drop"`) and below 1.
        lower (`str`, *optional*, defaults to `"repeat"`):
            How the share becomes lower: `"repeat"` the other rows, or `"drop"` pivot rows.
        current_ratio (`float`, *optional*):
            For streams, which cannot be counted: the share as it is. Tables are counted.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the choice. In a table each row comes as often as any other of its kind, or once more, which
            depends on the seed, the id, the language, and the number of the row among those with the same id and
            language; the share is exact up to one row. In a stream it depends on the seed and the row alone, and the
            share is met on average.
        language_column, parallel_id_column, pivot_language:
            As in [`find_pivots`].

    Returns:
        The same type as `dataset`. Rows keep their order, repeated ones next to each other; no text of a table is
        copied.

    Raises:
        ValueError: If an option has no such value, a column is missing, a table has no pivot rows or no others, or a
            stream comes without `current_ratio`, or without carried pivots where they are to be dropped.
        TypeError: If languages are not strings, or ids neither integers nor strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.recipes import sample_pivot_ratio

    >>> rows = Dataset.from_dict({"language": ["en", "sw", "th", "de"], "parallel_id": [1, 1, 1, 1]})
    >>> sample_pivot_ratio(rows, 0.5)["language"][:]
    ['en', 'en', 'en', 'sw', 'th', 'de']
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    if lower not in ("repeat", "drop"):
        raise ValueError(f"`lower` is {lower!r}, expected 'repeat' or 'drop'.")
    _check_ratio("ratio", ratio, zero=lower == "drop")

    def table(rows: Dataset) -> Dataset:
        require_columns(rows, pairing_meaning(columns))
        if current_ratio is not None:
            raise ValueError(f"`current_ratio` is {current_ratio!r}, but a table is counted: leave it out.")
        return rows.select(np.repeat(np.arange(len(rows)), _counts(rows, columns, ratio, lower, seed)))

    def stream(rows: IterableDataset) -> IterableDataset:
        names = require_columns(rows, pairing_meaning(columns))
        if current_ratio is None:
            raise ValueError(
                "A stream cannot be counted: pass the share of rows in the pivot language as `current_ratio`."
            )
        _check_ratio("current_ratio", current_ratio)
        drops = lower == "drop" and ratio < current_ratio
        if drops and CARRIED_PIVOT_COLUMN not in names:
            raise ValueError(
                f"The rows carry no pivots (column {CARRIED_PIVOT_COLUMN!r}), and would lose those that are left out "
                "(`lower='drop'`). Apply `carry_pivots` before this."
            )
        factor = ratio * (1 - current_ratio) / (current_ratio * (1 - ratio))
        times = {True: factor, False: 1.0} if factor > 1 or drops else {True: 1.0, False: 1 / factor}
        rows = named_languages(rows, columns.language)
        repeat = functools.partial(_repeated, columns=columns, times=times, seed=seed)
        return rows.map(repeat, batched=True, batch_size=1, features=rows.features)

    return by_split(dataset, table, stream)


def _check_ratio(name: str, value: float, zero: bool = False) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1 or (not value and not zero):
        raise ValueError(
            f"`{name}` is {value!r}, expected a number {'from' if zero else 'above'} 0 and below 1"
            + ("; 0 goes with `lower='drop'`." if name == "ratio" and value == 0 else ".")
        )


def _counts(rows: Dataset, columns: PairingColumns, ratio: float, lower: str, seed: int) -> np.ndarray:
    """How often each row comes. Shape `(n,)`, dtype int64."""
    (keys,) = read_keys([("dataset", rows)], columns)
    pivots, others = np.flatnonzero(keys.is_pivot), np.flatnonzero(~keys.is_pivot)
    if not len(pivots) or not len(others):
        wanted = " or ".join(map(repr, columns.pivot_languages))
        raise ValueError(
            f"{len(pivots):,} of {len(rows):,} rows are in the pivot language ({columns.language} {wanted}): there is "
            "no share to change. Set `pivot_language` to the pivot's value in your data."
        )
    total = round(ratio * len(others) / (1 - ratio))
    changed = pivots
    if ratio * len(rows) < len(pivots) and lower == "repeat":
        changed, total = others, round(len(pivots) * (1 - ratio) / ratio)
    counts = np.ones(len(rows), np.int64)
    counts[changed] = total // len(changed)
    # Ties of the draws are out of the question: rows with the same id and language have different numbers
    ids = read_ids(rows, columns.parallel_id, "dataset")[0].to_pylist()
    languages = [keys.language_names[code] for code in keys.language]
    seen: dict[tuple, int] = {}
    draws = []
    for row in changed.tolist():
        key = (plain(ids[row]), languages[row])
        seen[key] = seen.get(key, -1) + 1
        draws.append(digest(_NAME, seed, *key, seen[key]))
    first = np.argsort(np.array(draws, np.uint64), kind="stable")[: total % len(changed)]
    counts[changed[first]] += 1
    dropped = np.isin(keys.item, keys.item[counts == 0]) & (keys.item >= 0) & ~keys.is_pivot
    lost = int((dropped & ~np.isin(keys.item, keys.item[keys.is_pivot & (counts > 0)])).sum())
    get_logger().info(
        f"{_NAME}: {counts[pivots].sum():,} rows in the pivot language (of {len(pivots):,}) and "
        f"{counts[others].sum():,} others (of {len(others):,})."
        + (
            f" The pivots of {lost:,} rows are left out: pass the rows as they were as `pivot_dataset`."
            if lost
            else ""
        )
    )
    return counts


def _repeated(batch: dict[str, list], columns: PairingColumns, times: dict[bool, float], seed: int) -> dict[str, list]:
    result = []
    for row in rows_of(batch):
        language = language_of(row, columns.language)
        expected = times[language in columns.pivot_languages]
        content = repr([(name, value) for name, value in row.items() if name != CARRIED_PIVOT_COLUMN])
        key = (plain(row_id(row, columns.parallel_id)), language, content)
        count = int(expected) + (draw(_NAME, seed, *key) < expected % 1)
        result += [row if not i else copy_row(row) for i in range(count)]
    return {name: [row[name] for row in result] for name in batch}
