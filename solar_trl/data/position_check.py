"""Do rows that stand next to each other speak of the same thing? Their numbers tell, in any language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .numbers import extract_numbers, unsigned


SAMPLED_ROWS = 4096
_BLOCK = 32  # sampled rows come in runs: a row that is missing shifts a whole run
_WINDOW = 16  # rows with numbers that are judged together
_FEWEST = 4  # rows with numbers below which nothing can be said

Numbers = dict[str, list[frozenset[str]]]  # column -> numbers of each row


def numbers_in(value: Any) -> frozenset[str]:
    """
    The numbers in a value (a text, an integer, or lists and dicts of them), without signs, in a form that languages
    share. Booleans and floats hold none.

    Examples:
    ```python
    >>> from solar_trl.data.position_check import numbers_in

    >>> numbers_in("$1,234.50") == numbers_in("1.234,50 €") == numbers_in(["১,২৩৪.৫০"])
    True
    ```
    """
    if isinstance(value, str):
        return frozenset(map(unsigned, extract_numbers(value)))
    if isinstance(value, int) and not isinstance(value, bool):
        return frozenset([str(abs(value))])
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return frozenset().union(*map(numbers_in, value))
    return frozenset()


def sample_rows(n: int) -> np.ndarray:
    """All of `n` rows, or runs of rows at even distances, the first and the last included."""
    if n <= SAMPLED_ROWS:
        return np.arange(n)
    starts = np.linspace(0, n - _BLOCK, SAMPLED_ROWS // _BLOCK).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(_BLOCK))


def read_numbers(dataset: Dataset, rows: np.ndarray, columns: Sequence[str]) -> Numbers:
    """Numbers of some rows, by column; columns that look like ids, which differ by nature, are left out."""
    chosen = dataset.select(rows).select_columns(list(columns)).with_format(None)[:] if len(columns) else {}
    return {name: [numbers_in(value) for value in values] for name, values in chosen.items() if not is_id(values)}


def is_id(values: Sequence[Any]) -> bool:
    def opaque(value):
        return isinstance(value, int) or (isinstance(value, str) and value.isascii() and not re.search(r"\s", value))

    return len(values) > 1 and all(map(opaque, values)) and len(set(values)) == len(values)


def find_other_order(
    reference: pa.ChunkedArray, other: pa.ChunkedArray, column: str, names: tuple[str, str]
) -> str | None:
    """What tells that two columns of ids hold the same ids in another order; None if nothing does."""
    if reference.type != other.type or len(reference) < 2:
        return None
    elsewhere = np.flatnonzero(~pc.fill_null(pc.equal(reference, other), True).to_numpy())
    if len(elsewhere) < len(reference) / 2:
        return None
    if pa.types.is_integer(reference.type) and len(pc.unique(pc.subtract(other, reference))) == 1:
        return None  # row numbers that start elsewhere
    shared = pc.is_in(other, value_set=reference.unique() if reference.num_chunks else reference)
    if pc.sum(shared).as_py() < 0.9 * len(other):
        return None
    row = int(elsewhere[0])
    example = f"row {row} has {reference[row].as_py()!r} in {names[0]!r} and {other[row].as_py()!r} in {names[1]!r}"
    return (
        f"The rows of {names[1]!r} are in another order than those of {names[0]!r}: column {column!r} holds the same "
        f"values, but {len(elsewhere)} of {len(reference)} stand elsewhere, e.g. {example}."
    )


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one and other else np.nan


def _scores(reference: Numbers, other: Numbers, columns: Sequence[str], shift: int = 0) -> np.ndarray:
    """
    How much the numbers of row `i` and row `i + shift` have in common (1 = the same), in the column where they agree
    best; NaN where they cannot be compared. Shape `(n,)`, dtype float64.
    """
    n = len(next(iter(reference.values())))
    scores = np.full((len(columns), n), np.nan)
    for row, column in enumerate(columns):
        partners = other[column]
        for i, numbers in enumerate(reference[column]):
            if 0 <= i + shift < n:
                scores[row, i] = _overlap(numbers, partners[i + shift])
    return np.where(np.isnan(scores).all(0), np.nan, np.nanmax(np.nan_to_num(scores, nan=-1.0), 0, initial=-1.0))


def _by_chance(numbers: Numbers, columns: Sequence[str]) -> float:
    """How much the numbers of different rows of one language have in common."""
    n = len(next(iter(numbers.values())))
    rolled = [{c: v[k:] + v[:k] for c, v in numbers.items()} for k in sorted({max(n // 2, 1), max(n // 3, 1)})]
    scores = np.concatenate([_scores(numbers, other, columns) for other in rolled])
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 1.0


def find_disagreement(reference: Numbers, other: Numbers, rows: np.ndarray, names: tuple[str, str]) -> str | None:
    """
    What tells that two sets of rows are not parallel, row by row; None if nothing does.

    The numbers of parallel texts agree far more often than those of any two rows. Windows of rows with numbers whose
    agreement is close to what chance gives are out of step: all of them after a shuffle, those from some row on
    where one is missing. Texts without numbers say nothing.

    Args:
        reference, other (`dict[str, list[frozenset[str]]]`):
            Numbers by column, from [`read_numbers`].
        rows (`numpy.ndarray` of shape `(n,)`):
            Which rows of the datasets they are.
        names (tuple of two `str`):
            What to call the two.

    Returns:
        `str`, *optional*: The finding, with examples.
    """
    # A column in which every row has the same numbers (a source called "gsm8k") would vouch for anything
    columns = [column for column in reference if column in other and _by_chance(reference, [column]) < 0.5]
    if not columns:
        return None
    scores = _scores(reference, other, columns)
    known = np.flatnonzero(np.isfinite(scores))
    chance = _by_chance(reference, columns)
    if len(known) < _FEWEST or chance > 0.6:
        return None
    windows = np.array_split(known, max(len(known) // _WINDOW, 1))
    limit = chance + 0.25 * (1 - chance)
    out_of_step = np.array([scores[window].mean() < limit for window in windows])
    if len(windows) >= 8:  # a single window among many may be an accident
        beside = np.zeros_like(out_of_step)
        beside[1:] |= out_of_step[:-1]
        beside[:-1] |= out_of_step[1:]
        out_of_step &= beside
    if not out_of_step.any():
        return None
    bad = np.concatenate([window for window, is_bad in zip(windows, out_of_step, strict=True) if is_bad])
    share = f"{scores[bad].mean():.0%}" if scores[bad].mean() >= 0.005 else "none"
    examples = []
    for i in bad[np.argsort(scores[bad], kind="stable")][:3]:
        column = next(c for c in columns if reference[c][i] and other[c][i])
        pair = " and ".join(
            f"{', '.join(sorted(part, key=lambda number: (len(number), number))[:6])} in {name!r}"
            for name, part in zip(names, (reference[column][i], other[column][i]), strict=True)
        )
        examples.append(f"row {rows[i]}, column {column!r}: {pair}")
    text = (
        f"The rows of {names[1]!r} do not look parallel to those of {names[0]!r}: from row {rows[bad[0]]} to row "
        f"{rows[bad[-1]]}, {share} of the numbers in {len(bad)} compared rows agree (different rows share "
        f"{chance:.0%}). E.g. {'; '.join(examples)}."
    )
    shifted = {shift: _scores(reference, other, columns, shift)[bad] for shift in (-3, -2, -1, 1, 2, 3)}
    means = {shift: np.nanmean(found) for shift, found in shifted.items() if np.isfinite(found).sum() >= _FEWEST}
    best = max(means, key=lambda shift: means[shift], default=0)
    if best and means[best] > limit:
        text += f" There, row i of {names[0]!r} looks like row i{best:+d} of {names[1]!r}: a row is missing or extra."
    return text
