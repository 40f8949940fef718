"""Accuracy and cross-lingual consistency as arithmetic on a table of items and languages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from ..data.tables import shorten


_ABSENT, _NO_ANSWER = -2, -1


def _codes(values: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Position of each value in the list of distinct values, in order of first appearance."""
    places: dict[Any, int] = {}
    codes = np.array([places.setdefault(value, len(places)) for value in values], dtype=np.int64)
    return codes, list(places)


@dataclass
class ScoreTable:
    """
    Answers to parallel items: `n` items, `L` languages, `S` samples per row.

    Args:
        languages (`list[str]`): Languages in order of first appearance.
        items (`list`): Parallel ids in order of first appearance.
        answers (`np.ndarray` of shape `(S, n, L)`, int64):
            Equal numbers for equal answers; -1 where there was a row but no answer, -2 where there was no row.
        correct (`np.ndarray` of shape `(S, n, L)`, bool): Whether the answer was right; False where there was no row.
    """

    languages: list[str]
    items: list[Any]
    answers: np.ndarray
    correct: np.ndarray

    @classmethod
    def from_rows(
        cls,
        answers: Sequence[Hashable | None],
        correct: Sequence[bool] | np.ndarray,
        languages: Sequence[str],
        parallel_ids: Sequence[Hashable],
        samples: Sequence[int] | None = None,
    ) -> ScoreTable:
        """
        Build the table from one row per language, item and sample.

        Args:
            answers (`Sequence`):
                Extracted answers, comparable with `==`; `None` where none was found.
            correct (`Sequence[bool]`):
                Whether each is right.
            languages (`Sequence[str]`), parallel_ids (`Sequence`):
                Language and item of each row.
            samples (`Sequence[int]`, *optional*):
                Number of the sample, 0 to `S - 1`. Every language and item must have all or none of them.

        Raises:
            ValueError: If there are no rows, lengths differ, a language and item has several rows for one sample, or
                only some samples.
        """
        samples = [0] * len(answers) if samples is None else samples
        lengths = {len(answers), len(correct), len(languages), len(parallel_ids), len(samples)}
        if lengths == {0}:
            raise ValueError("There are no rows to score.")
        if len(lengths) > 1:
            raise ValueError(
                f"Columns differ in length: {len(answers)} answers, {len(correct)} scores, {len(languages)} "
                f"languages, {len(parallel_ids)} parallel ids, {len(samples)} samples."
            )
        language_codes, language_names = _codes(languages)
        item_codes, items = _codes(parallel_ids)
        sample_codes = np.asarray(samples, dtype=np.int64)
        shape = (int(sample_codes.max()) + 1, len(items), len(language_names))
        cells = np.ravel_multi_index((sample_codes, item_codes, language_codes), shape)
        filled = np.bincount(cells, minlength=np.prod(shape)).reshape(shape)
        if (filled > 1).any():
            repeated = [f"{language_names[lang]}/{items[item]}" for _, item, lang in np.argwhere(filled > 1)]
            raise ValueError(
                f"{shorten(repeated)}: several rows with the same language and parallel id. Ids must name an item "
                "once per language; several answers to one item are samples."
            )
        if (filled != filled[:1]).any():
            uneven = np.argwhere(filled.any(0) & ~filled.all(0))
            names = [f"{language_names[lang]}/{items[item]}" for item, lang in uneven]
            raise ValueError(f"{shorten(names)}: some samples are missing.")
        known = [_NO_ANSWER if answer is None else answer for answer in answers]
        answer_codes, distinct = _codes(known)
        if _NO_ANSWER in distinct:
            answer_codes[answer_codes == distinct.index(_NO_ANSWER)] = _NO_ANSWER
        table = np.full(shape, _ABSENT, dtype=np.int64)
        table.flat[cells] = answer_codes
        right = np.zeros(shape, dtype=bool)
        right.flat[cells] = np.asarray(correct, dtype=bool)
        return cls(language_names, items, table, right)

    @property
    def present(self) -> np.ndarray:
        """Which items each language has: shape `(n, L)`, bool."""
        return self.answers[0] != _ABSENT

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right samples per item and language: shape `(n, L)`, float64; 0 where there is no row."""
        return self.correct.mean(0)

    def pivot(self, language: str) -> int | None:
        """Column of a language, `None` if it is not there."""
        return self.languages.index(language) if language in self.languages else None


def accuracy_scores(
    sums: np.ndarray, counts: np.ndarray, languages: Sequence[str], pivot_language: str, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """
    Accuracies under `R` weightings of the items (all ones for the value itself, resampling counts for a bootstrap).

    Args:
        sums, counts (`np.ndarray` of shape `(n, L)`):
            Right rows, and rows, of each item and language.
        languages (`Sequence[str]`), pivot_language (`str`):
            The `L` languages, and the pivot's.
        weights (`np.ndarray` of shape `(R, n)`):
            Weight of each item.

    Returns:
        `dict[str, np.ndarray]`: `accuracy`, `macro_accuracy`, `accuracy/<language>`, `pivot_gap`, each of shape
        `(R,)`. NaN where nothing is left to average.
    """
    right, rows = weights @ sums, weights @ counts
    by_language = _ratio(right, rows)
    scores = {"accuracy": _ratio(right.sum(1), rows.sum(1)), "macro_accuracy": _mean(by_language)}
    scores |= {f"accuracy/{name}": by_language[:, i] for i, name in enumerate(languages)}
    others = [i for i, name in enumerate(languages) if name != pivot_language]
    if len(others) < len(languages) and others:
        pivot = by_language[:, list(languages).index(pivot_language)]
        scores["pivot_gap"] = pivot - _mean(by_language[:, others])
    else:
        scores["pivot_gap"] = np.full(len(weights), np.nan)
    return scores


def consistency_scores(
    table: ScoreTable, pivot_language: str, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """
    Cross-lingual consistency under `R` weightings of the items; definitions in [`CrossLingualConsistency`].

    Args:
        table ([`ScoreTable`]):
            Answers.
        pivot_language (`str`):
            For `clc`.
        weights (`np.ndarray` of shape `(R, n)`, *optional*):
            Weight of each item; all ones by default.

    Returns:
        `dict[str, np.ndarray]`: `consistency`, `ac3`, `clc`, `co`, each of shape `(R,)`. NaN where undefined.
    """
    weights = np.ones((1, len(table.items))) if weights is None else weights
    present, pivot = table.present, table.pivot(pivot_language)
    n_weights = len(weights)
    rate_sum, pairs = np.zeros(n_weights), np.zeros(n_weights)
    both_sum, either_sum = np.zeros(n_weights), np.zeros(n_weights)
    # One language against all later ones at a time: never a table of items by pairs
    for i in range(len(table.languages) - 1):
        common, agree, both, either = _compare(table, present, i, slice(i + 1, None))
        rows = weights @ common
        rate = _ratio(weights @ agree, rows)
        rate_sum += np.nansum(rate, axis=1)
        pairs += (rows > 0).sum(1)
        both_sum += weights @ both.sum(1)
        either_sum += weights @ either.sum(1)
    consistency = _ratio(rate_sum, pairs)
    macro = _mean(_ratio(weights @ table.accuracy, weights @ present.astype(float)))
    clc = np.full(n_weights, np.nan)
    if pivot is not None and len(table.languages) > 1:
        others = [i for i in range(len(table.languages)) if i != pivot]
        common, _, both, _ = _compare(table, present, pivot, others)
        clc = _mean(_ratio(weights @ both, weights @ common))
    return {
        "consistency": consistency,
        "ac3": harmonic_mean(macro, consistency),
        "clc": clc,
        "co": _ratio(both_sum, either_sum),
    }


def item_contributions(table: ScoreTable, pivot_language: str) -> dict[str, np.ndarray]:
    """
    What each item adds to `consistency` and `clc`, which are sums over items: arrays of shape `(n,)`.

    A score that is undefined is left out.
    """
    present, pivot = table.present, table.pivot(pivot_language)
    total, pairs = np.zeros(len(table.items)), 0
    for i in range(len(table.languages) - 1):
        common, agree, _, _ = _compare(table, present, i, slice(i + 1, None))
        shared = common.sum(0) > 0
        total += (agree[:, shared] / common[:, shared].sum(0)).sum(1)
        pairs += int(shared.sum())
    parts = {"consistency": total / pairs} if pairs else {}
    others = [i for i in range(len(table.languages)) if i != pivot]
    if pivot is not None and others:
        common, _, both, _ = _compare(table, present, pivot, others)
        shared = common.sum(0) > 0
        if shared.any():
            parts["clc"] = (both[:, shared] / common[:, shared].sum(0)).mean(1)
    return parts


def subset_consistency(table: ScoreTable, size: int) -> float:
    """
    SeaEval's consistency over subsets of `size` languages, on the items that all languages have.

    Mean over all subsets of the share of items where the answers in all languages of the subset are equal. Among `g`
    equal answers there are C(g, size) such subsets, so no subset is enumerated. NaN if no item is in all languages.

    Raises:
        ValueError: If `size` is below 2 or above the number of languages.
    """
    n_languages = len(table.languages)
    if not 2 <= size <= n_languages:
        raise ValueError(f"A subset of {size} languages was asked for; there are {n_languages}: 2 to {n_languages}.")
    complete = table.present.all(1)
    if not complete.any():
        return float("nan")
    total = 0
    for sample in table.answers[:, complete]:
        for row in sample:
            _, counts = np.unique(row[row >= 0], return_counts=True)
            total += sum(comb(int(count), size) for count in counts)
    return total / (len(table.answers) * int(complete.sum()) * comb(n_languages, size))


def consistency_matrix(table: ScoreTable) -> np.ndarray:
    """Share of common items with equal answers, by pair of languages: `(L, L)`, 1 on the diagonal, NaN without."""
    n_languages = len(table.languages)
    matrix = np.eye(n_languages)
    for i in range(n_languages - 1):
        common, agree, _, _ = _compare(table, table.present, i, slice(i + 1, None))
        matrix[i, i + 1 :] = matrix[i + 1 :, i] = _ratio(agree.sum(0), common.sum(0))
    return matrix


def harmonic_mean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """2·a·b / (a + b), and 0 where both are 0."""
    total = one + other
    return np.where(total == 0, 0.0, 2 * one * other / np.where(total == 0, 1.0, total))


def _compare(table: ScoreTable, present: np.ndarray, one: int, others: slice | list[int]) -> tuple[np.ndarray, ...]:
    """Items in common of one language and others; on these: equal answers, both right, either right; `(n, others)`."""
    common = (present[:, one, None] & present[:, others]).astype(float)
    mine, theirs = table.answers[:, :, one, None], table.answers[:, :, others]
    right, theirs_right = table.correct[:, :, one, None], table.correct[:, :, others]
    agree = ((mine == theirs) & (mine >= 0)).mean(0) * common
    return common, agree, (right & theirs_right).mean(0) * common, (right | theirs_right).mean(0) * common


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the second axis of what is not NaN; NaN if nothing is."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1))
