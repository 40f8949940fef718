"""Scores of one model with intervals, and two models on the same rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .scores import ScoreTable, accuracy_scores, consistency_scores, item_contributions
from .statistics import Interval, bootstrap, mcnemar, sign_flip, wilson_interval


@dataclass(frozen=True)
class PairedTest:
    """
    Two models on the same items.

    Args:
        difference (`float`): Score of the second minus that of the first.
        low, high (`float`): Ends of its bootstrap interval over items.
        p_value (`float`): Two-sided, of no difference.
        wins, losses, ties (`int`): Items where the second is better, worse, equal.
        test (`str`): `"mcnemar"` or `"sign_flip"`.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int
    test: str

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def score_intervals(
    table: ScoreTable,
    pivot_language: str = "en",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """
    All scores of [`MultilingualAccuracy`] and [`CrossLingualConsistency`] with bootstrap intervals over items.

    Where all rows of a language are right, or all wrong, resampling cannot tell how sure that is: its interval is
    Wilson's, on the number of items.

    Args:
        table ([`ScoreTable`]):
            Answers of one model; with several samples per row, their mean counts.
        pivot_language, confidence, resamples, seed:
            As in [`bootstrap`] and the metrics.

    Returns:
        `dict[str, Interval]`.
    """
    right, rows = table.accuracy, table.present.astype(float)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = accuracy_scores(right, rows, table.languages, pivot_language, weights)
        if len(table.languages) > 1:
            found |= consistency_scores(table, pivot_language, weights)
        return found

    intervals = bootstrap(scores, len(table.items), confidence, resamples, seed)
    for i, language in enumerate(table.languages):
        interval = intervals[f"accuracy/{language}"]
        if interval.value in (0.0, 1.0):
            n_items = int(rows[:, i].sum())
            intervals[f"accuracy/{language}"] = wilson_interval(interval.value * n_items, n_items, confidence)
    return intervals


def compare_tables(
    first: ScoreTable,
    second: ScoreTable,
    pivot_language: str = "en",
    confidence: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, PairedTest]:
    """
    Paired comparison of two models on the same rows: is the second one better?

    For every language, McNemar's exact test on its items (or, with several samples per item, the sign-flip test on
    the items' mean scores). For `accuracy`, `macro_accuracy`, `pivot_gap`, `consistency` and `clc`, which are sums
    over items, the sign-flip test on items, whose translations keep their sign together. Intervals are bootstraps over
    items, each drawn for both models.

    Args:
        first, second ([`ScoreTable`]):
            With the same languages, items and rows, in any order.
        pivot_language (`str`, *optional*, defaults to `"en"`):
            For `pivot_gap`.
        confidence, resamples, permutations, seed:
            As in [`bootstrap`] and [`sign_flip`].

    Returns:
        `dict[str, PairedTest]`: `accuracy`, `macro_accuracy`, `accuracy/<language>` and, where they are defined,
        `pivot_gap`, `consistency` and `clc`.
        P-values are not corrected for the number of languages: see [`holm`].

    Raises:
        ValueError: If the models were not run on the same languages and items.
    """
    second = _aligned(second, first)
    rows = first.present.astype(float)
    before, after = first.accuracy, second.accuracy

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        one = accuracy_scores(before, rows, first.languages, pivot_language, weights)
        other = accuracy_scores(after, rows, first.languages, pivot_language, weights)
        if len(first.languages) > 1:
            one |= consistency_scores(first, pivot_language, weights)
            other |= consistency_scores(second, pivot_language, weights)
        return {name: other[name] - one[name] for name in one}

    intervals = bootstrap(scores, len(first.items), confidence, resamples, seed)
    change = after - before
    by_language = change / rows.sum(0)  # each item's share of the difference in a language's accuracy
    shares = {"accuracy": change.sum(1) / rows.sum(), "macro_accuracy": by_language.mean(1)}
    pivot = first.pivot(pivot_language)
    if pivot is not None and len(first.languages) > 1:
        others = [i for i in range(len(first.languages)) if i != pivot]
        shares["pivot_gap"] = by_language[:, pivot] - by_language[:, others].mean(1)
    theirs = item_contributions(second, pivot_language)
    for name, mine in item_contributions(first, pivot_language).items():
        shares[name] = theirs[name] - mine
    tests = {}
    for name, parts in shares.items():
        tests[name] = _test(intervals[name], parts, sign_flip(parts, permutations, seed), "sign_flip")
    single = len(first.answers) == len(second.answers) == 1
    for i, language in enumerate(first.languages):
        parts = change[first.present[:, i], i]
        if single:
            p_value = mcnemar(int((parts > 0).sum()), int((parts < 0).sum()))
        else:
            p_value = sign_flip(parts, permutations, seed)
        name = f"accuracy/{language}"
        tests[name] = _test(intervals[name], parts, p_value, "mcnemar" if single else "sign_flip")
    return tests


def _test(interval: Interval, parts: np.ndarray, p_value: float, test: str) -> PairedTest:
    wins, losses = int((parts > 0).sum()), int((parts < 0).sum())
    return PairedTest(
        interval.value, interval.low, interval.high, p_value, wins, losses, len(parts) - wins - losses, test
    )


def _aligned(table: ScoreTable, like: ScoreTable) -> ScoreTable:
    """The table with items and languages in the order of another."""
    for what, mine, theirs in (("languages", table.languages, like.languages), ("items", table.items, like.items)):
        if set(mine) != set(theirs):
            only = [sorted(map(str, set(one) - set(other)))[:5] for one, other in ((theirs, mine), (mine, theirs))]
            raise ValueError(
                f"The models were run on different {what}: only the first has {only[0]}, the second {only[1]}."
            )
    items = {item: place for place, item in enumerate(table.items)}
    rows = [items[item] for item in like.items]
    columns = [table.languages.index(language) for language in like.languages]
    moved = ScoreTable(
        like.languages, like.items, table.answers[:, rows][:, :, columns], table.correct[:, rows][:, :, columns]
    )
    if (moved.present != like.present).any():
        item, lang = np.argwhere(moved.present != like.present)[0]
        raise ValueError(f"Only one of the models was run on {like.languages[lang]}/{like.items[item]}.")
    return moved
