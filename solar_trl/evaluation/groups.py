"""Low- and high-resource languages, and the distance of each language to the pivot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..data.tables import shorten
from .scores import ScoreTable, accuracy_scores
from .statistics import Interval, bootstrap, wilson_interval


HIGH, LOW = "high-resource", "low-resource"


def language_groups(languages: Sequence[str], low_resource: Iterable[str] | None) -> dict[str, list[str]]:
    """
    Languages by group: the low-resource ones that were named, and all others, the pivot among them.

    Args:
        languages (`Sequence[str]`):
            All languages.
        low_resource (iterable of `str`, *optional*):
            Those with few resources. Which ones these are depends on the model, so there is no default; without them
            there are no groups.

    Returns:
        `dict[str, list[str]]`: `"high-resource"` and `"low-resource"`, each if it has a language.

    Raises:
        ValueError: If one of `low_resource` is not among the languages.
    """
    low = list(dict.fromkeys(low_resource or []))
    if missing := [language for language in low if language not in languages]:
        raise ValueError(
            f"`low_resource` names {shorten(missing)}, which were not evaluated; the languages are "
            f"{shorten(list(languages), 30)}."
        )
    if not low:
        return {}
    groups = {HIGH: [language for language in languages if language not in low], LOW: low}
    return {name: members for name, members in groups.items() if members}


def group_intervals(
    table: ScoreTable,
    groups: Mapping[str, Sequence[str]],
    pivot_language: str = "en",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """
    Accuracy of groups of languages and gaps to the pivot, with bootstrap intervals over items.

    Args:
        table ([`ScoreTable`]):
            Answers of one model.
        groups (`dict[str, Sequence[str]]`):
            Name of a group to its languages.
        pivot_language, confidence, resamples, seed:
            As in [`score_intervals`].

    Returns:
        `dict[str, Interval]`: `group/<name>`, the mean accuracy of its languages, each counting the same, and
        `gap/<name>`, the pivot's accuracy minus the mean over the group's other languages; `gap/<language>` for each
        language. No gaps without rows of the pivot. Where all resamples agree, as between two languages without any
        right answer, resampling cannot tell how sure a gap is, and its ends are NaN.
    """
    right, rows = table.accuracy, table.present.astype(float)
    compared = {**groups, **{language: [language] for language in table.languages}}
    others = {name: [lang for lang in members if lang != pivot_language] for name, members in compared.items()}

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        accuracy = accuracy_scores(right, rows, table.languages, pivot_language, weights)

        def mean(members: Sequence[str]) -> np.ndarray:
            return np.mean([accuracy[f"accuracy/{language}"] for language in members], axis=0)

        found = {f"group/{name}": mean(members) for name, members in groups.items()}
        if table.pivot(pivot_language) is not None:
            pivot = accuracy[f"accuracy/{pivot_language}"]
            found |= {f"gap/{name}": pivot - mean(members) for name, members in others.items() if members}
        return found

    if not groups and len(table.languages) == 1:
        return {}
    intervals = bootstrap(scores, len(table.items), confidence, resamples, seed)
    for name, interval in intervals.items():
        if name.startswith("gap/") and interval.low == interval.high:
            intervals[name] = Interval(interval.value, float("nan"), float("nan"))
    for name, members in groups.items():
        value = intervals[f"group/{name}"].value
        if value in (0.0, 1.0):  # as for one language: resampling cannot tell
            n_items = int(rows[:, [table.languages.index(language) for language in members]].any(1).sum())
            intervals[f"group/{name}"] = wilson_interval(value * n_items, n_items, confidence)
    return intervals
