"""What tells that datasets of several languages do not fit together, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from .._logging import get_logger
from .position_check import Numbers, find_disagreement, find_other_order, is_id, numbers_in, read_numbers, sample_rows
from .tables import read_column, shorten


def check_language(values: Sequence[Any], language: str, column: str) -> None:
    """Raise a `ValueError` unless a language column that is there already holds the language."""
    if any(value != language for value in values):
        raise ValueError(
            f"The {language!r} rows already have a column {column!r}, which holds {shorten(values)}. Use its values "
            f"as the keys of `datasets`, remove it (`remove_columns({column!r})`), or choose another "
            "`language_column`."
        )


def different_lengths(lengths: Mapping[str, int], where: str, found: str | None) -> str:
    """Message for a join by position of datasets that differ in length."""
    shown = ", ".join(f"{language!r} has {length}" for language, length in lengths.items())
    return (
        f"The languages differ in their number of rows{where}: {shown}. Without `on`, row i of each must be a "
        "translation of row i of the others. Join by a column (`on='id'`), or add what is missing."
        + (f" {found}" if found else "")
    )


def report_numbers(found: str, where: str, check_numbers: str) -> None:
    """Raise or warn, as `check_numbers` says, that rows at the same position are no translations."""
    text = (
        f"{found} A join by position{where} would pair rows that are no translations. Join by a column "
        "(`on='id'`) if there is one, or repair the files."
    )
    if check_numbers == "error":
        raise ValueError(f"{text} If they are parallel nevertheless, set `check_numbers` to 'warn' or 'off'.")
    get_logger().warning(text)


def compare_tables(datasets: Mapping[str, Dataset]) -> str | None:
    """What tells that rows at the same position are no translations, if anything does. Lengths are the same."""
    columns = sorted(set.intersection(*(set(dataset.column_names) for dataset in datasets.values())))
    first, *others = datasets
    rows = sample_rows(len(datasets[first]))
    numbers, id_columns = {}, columns
    for language, dataset in datasets.items():
        numbers[language] = read_numbers(dataset, rows, columns)
        id_columns = [name for name in id_columns if name not in numbers[language]]
    for name in id_columns:
        ids = read_column(datasets[first], name)
        for language in others:
            if found := find_other_order(ids, read_column(datasets[language], name), name, (first, language)):
                return found
    return _first_disagreement(numbers, rows)


def compare_rows(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The same for the first rows of streams; by their numbers alone."""
    shared = set.intersection(*({name for row in own for name in row} for own in rows.values()))
    numbers: dict[str, Numbers] = {}
    for language, own in rows.items():
        values = {name: [row.get(name) for row in own] for name in sorted(shared)}
        numbers[language] = {name: [*map(numbers_in, v)] for name, v in values.items() if not is_id(v)}
    return _first_disagreement(numbers, np.arange(len(next(iter(rows.values())))))


def _first_disagreement(numbers: Mapping[str, Numbers], rows: np.ndarray) -> str | None:
    first, *others = numbers
    for language in others:
        if found := find_disagreement(numbers[first], numbers[language], rows, (first, language)):
            return found
    return None
