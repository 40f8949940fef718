"""What would count as a win, as the protocol says it before the reported runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.table import KINDS, Column, Table
from .contrasts import Contrast, compare, layer_value, ratio_of_means


LEAST_GAIN = 0.038  # of low-resource accuracy over SFT: what the paper reports
MOST_ENGLISH_LOSS = 0.02  # the interval of the difference in English must lie above minus this
MOST_SILHOUETTE = 0.5  # share of SFT's
RIVALS = ("mid_align", "hard_token")


def criteria(arms: Mapping[str, Sequence[Mapping[str, Any]]], finalists: Sequence[str]) -> Table | None:
    """
    Each criterion for each finalist, met or not; `None` if nothing can be judged.

    Args:
        arms (`Mapping[str, Sequence[Mapping]]`): Results by arm, under one set of conditions.
        finalists (`Sequence[str]`): Whose claims are judged.
    """
    rows = [row for name in finalists for row in _of_arm(arms, name)]
    columns = [
        Column("arm", "arm"),
        Column("criterion", "criterion"),
        Column("found", "found"),
        Column("met", "met"),
    ]
    note = "What would count as a win was written down before the reported runs; all four belong to it."
    return Table("The claim", columns, rows, note=note) if rows else None


def _of_arm(arms: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> list[dict[str, str]]:
    results = arms[name]
    control = arms.get(results[0]["arm"]["control"])
    rows = []

    def add(criterion: str, found: str, met: bool) -> None:
        rows.append({"arm": name, "criterion": criterion, "found": found, "met": "yes" if met else "no"})

    if control and (gain := compare(results, control, "accuracy", "low")):
        met = gain.difference >= LEAST_GAIN and gain.low > 0
        add(f"low-resource accuracy at least +{100 * LEAST_GAIN:.1f} points, interval above 0", _points(gain), met)
    if control and (english := compare(results, control, "accuracy", "pivot")):
        met = english.low > -MOST_ENGLISH_LOSS
        add(f"no loss in English: interval above −{100 * MOST_ENGLISH_LOSS:.0f} points", _points(english), met)
    if control:
        theirs = {result["seed"]: result for result in control}
        shared = [result for result in results if result["seed"] in theirs]
        if shared:
            ratio = ratio_of_means(
                [layer_value(result, "silhouette") for result in shared],
                [layer_value(theirs[result["seed"]], "silhouette") for result in shared],
            )
            found = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            met = 0 <= ratio.value <= MOST_SILHOUETTE
            add(f"silhouette at most {MOST_SILHOUETTE:g} of the control's (last layer)", found, met)
    for rival in RIVALS:
        if rival == name or rival not in arms or arms[rival][0]["arm"]["control"] != results[0]["arm"]["control"]:
            continue  # LoRA is not judged by those that are trained in full
        if ahead := compare(results, arms[rival], "accuracy", "low"):
            add(f"ahead of {rival} in low-resource accuracy: interval above 0", _points(ahead), ahead.low > 0)
    return rows


def _points(contrast: Contrast) -> str:
    ends = KINDS["points_interval"]((contrast.low, contrast.high))
    return f"{KINDS['points'](contrast.difference)} {ends}, {contrast.seeds} seeds"
