"""Two evaluations on the same rows: what may be compared, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._logging import get_logger
from ..data.tables import shorten
from .comparison import PairedTest, compare_tables
from .groups import language_groups
from .results import EvaluationResult, Record, score_table
from .statistics import holm


_OWN = {"output_file", "model", "adapter", "tokenizer", "batch_size", "progress", "languages"}


@dataclass
class Comparison:
    """
    A second evaluation against a first one, on the same rows.

    Args:
        first, second (`str`): Their names.
        rows (`dict[str, int]`): Items compared in each language.
        accuracy (`dict[str, tuple[float, float]]`): Accuracy of the first and of the second for each name of `tests`
            that is an accuracy.
        tests (`dict[str, PairedTest]`): As [`compare_tables`] returns them, and `group/<name>` for each group.
        corrected (`dict[str, float]`): Holm's p-values of the languages; see [`correct`].
        left_out (`int`): Rows of the two that only one of them has, left out.
        warnings (`list[str]`): What makes the comparison doubtful.
    """

    first: str
    second: str
    rows: dict[str, int]
    accuracy: dict[str, tuple[float, float]]
    tests: dict[str, PairedTest]
    corrected: dict[str, float] = field(default_factory=dict)
    left_out: int = 0
    warnings: list[str] = field(default_factory=list)


def compare_results(
    first: EvaluationResult,
    second: EvaluationResult,
    low_resource: Iterable[str] | None = None,
    pivot_language: str = "en",
    common_rows: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Comparison:
    """
    Compare two evaluations row by row.

    Args:
        first, second ([`EvaluationResult`]):
            Evaluations of the same benchmark.
        low_resource (iterable of `str`, *optional*):
            Low-resource languages; they and the others are then also compared as groups, by the mean over languages.
        pivot_language, confidence, resamples:
            As in [`compare_tables`].
        common_rows (`bool`, *optional*, defaults to `False`):
            Compare the rows that both have, where they differ, and count the others. By default that is an error.

    Returns:
        [`Comparison`]

    Raises:
        ValueError: If they were run on different rows (without `common_rows`), share none, were given different
            references for one row, or drew different numbers of samples.
    """
    before, after, left_out = _common(first, second, common_rows)
    warnings = _differences(first.settings, second.settings)
    if left_out:
        total = len(first.records) + len(second.records)
        warnings.append(f"{left_out} of {total} rows are in only one of {first.name!r} and {second.name!r}: left out.")
    for warning in warnings:
        get_logger().warning(warning)
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples}
    one, other = score_table(before), score_table(after)
    tests = compare_tables(one, other, pivot_language, **options)
    accuracy: dict[str, tuple[float, float]] = {
        f"accuracy/{language}": (_accuracy(before, [language]), _accuracy(after, [language]))
        for language in one.languages
    }
    accuracy["macro_accuracy"] = _accuracy(before, one.languages), _accuracy(after, one.languages)
    for name, members in language_groups(one.languages, low_resource).items():
        one_group, other_group = (
            score_table([record for record in side if record.language in members]) for side in (before, after)
        )
        tests[f"group/{name}"] = compare_tables(one_group, other_group, pivot_language, **options)["macro_accuracy"]
        accuracy[f"group/{name}"] = _accuracy(before, members), _accuracy(after, members)
    rows = {language: int(count) for language, count in zip(one.languages, one.present.sum(0), strict=True)}
    comparison = Comparison(first.name, second.name, rows, accuracy, tests, {}, left_out, warnings)
    correct([comparison])
    return comparison


def correct(comparisons: Sequence[Comparison]) -> None:
    """Fill in `corrected`: Holm's correction over the languages of all the comparisons that are shown together."""
    p_values = {
        f"{place} {name}": test.p_value
        for place, comparison in enumerate(comparisons)
        for name, test in comparison.tests.items()
        if name.startswith("accuracy/")
    }
    for key, p_value in holm(p_values).items():
        place, name = key.split(" ", 1)
        comparisons[int(place)].corrected[name] = p_value


def _accuracy(records: Sequence[Record], languages: Sequence[str]) -> float:
    """Mean over languages of the share of right rows."""
    shares = []
    for language in languages:
        right = [record.correct for record in records if record.language == language]
        shares.append(sum(right) / len(right))
    return sum(shares) / len(shares)


def _common(
    first: EvaluationResult, second: EvaluationResult, common_rows: bool
) -> tuple[list[Record], list[Record], int]:
    known = {(record.language, record.parallel_id): record for record in first.records}
    theirs = {(record.language, record.parallel_id): record for record in second.records}
    shared = known.keys() & theirs.keys()
    if not shared:
        raise ValueError(
            f"{first.name!r} and {second.name!r} share no row: the first has {shorten(_names(known))}, the second "
            f"{shorten(_names(theirs))}. Both must be evaluations of the same benchmark."
        )
    only = [[key for key in one if key not in shared] for one in (known, theirs)]
    if any(only) and not common_rows:
        raise ValueError(
            f"{first.name!r} and {second.name!r} were run on different rows: {len(only[0])} only in the first"
            f"{_examples(only[0])}, {len(only[1])} only in the second{_examples(only[1])}, {len(shared)} in both. "
            "Evaluate both on the same items, or compare what both have (`common_rows=True`, `--common_rows`)."
        )
    if others := sorted(key for key in shared if known[key].reference != theirs[key].reference):
        raise ValueError(
            f"{len(others)} rows have different right answers in {first.name!r} and {second.name!r}"
            f"{_examples(others)}: they are evaluations of different benchmarks."
        )
    before, after = (
        [record for record in result.records if (record.language, record.parallel_id) in shared]
        for result in (first, second)
    )
    return before, after, len(first.records) + len(second.records) - len(before) - len(after)


def _names(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{language}/{item}" for language, item in rows]


def _examples(rows: Sequence[tuple[str, str]]) -> str:
    return f" ({shorten(_names(rows))})" if rows else ""


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Settings that are no part of the model and differ."""
    names = [name for name in {**first, **second} if name not in _OWN and first.get(name) != second.get(name)]
    if not names:
        return []
    changes = "; ".join(f"{name}: {first.get(name)!r} and {second.get(name)!r}" for name in names)
    return [f"The two were run with different settings ({changes}); the difference is not the model's alone."]
