"""What the runs say: tables in Markdown and JSON, tuning and reported seeds apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..report.table import Table
from .contrasts import PRIMARY, Contrast, compare, correct_family
from .criteria import criteria
from .report_tables import (
    ArmResults,
    Result,
    contrasts_table,
    languages_table,
    layers_table,
    levels_table,
    to_markdown,
    tuning_table,
)
from .results import by_condition, read_json, read_results, write_json


MAX_FINALISTS = 3


def write_report(folder: Path, finalists: Sequence[str] = ()) -> Path:
    """
    Write `report.md` and `report.json` of all results in a folder.

    Args:
        folder (`Path`): Where results are.
        finalists (`Sequence[str]`): At most three arms, named before the reported runs: Holm's correction is over
            their primary outcomes.

    Returns:
        `Path`: Of the Markdown file.

    Raises:
        ValueError: If there are no results, too many finalists, one without results, or tuning seeds among the
            reported.
    """
    if len(finalists) > MAX_FINALISTS:
        raise ValueError(f"There are {len(finalists)} finalists, the protocol allows {MAX_FINALISTS}.")
    reported, tuning = read_results(folder, "reported"), read_results(folder, "tuning")
    if not reported and not tuning:
        raise ValueError(f"There are no results in {folder}. Make some with `run`.")
    lines = ["# Benchmark report", "", _PREFACE, ""]
    record: dict[str, list[Any]] = {"reported": [], "tuning": [], "tuned": []}
    groups = by_condition(reported)
    for conditions in groups.values():
        part = ArmResults.of(conditions)
        if missing := [name for name in finalists if name not in part.arms]:
            raise ValueError(f"There are no reported results of the finalists {', '.join(missing)}.")
        heading = f"Reported runs: {describe(conditions[0])}"
        tables, contrasts = reported_tables(part, finalists)
        lines += [f"## {heading}", "", *_seeds(part), "", *_markdown(tables)]
        record["reported"].append(
            {
                "conditions": conditions[0]["identity"]["conditions"],
                "seeds": {name: [r["seed"] for r in members] for name, members in part.arms.items()},
                "tables": [table.to_dict() for table in tables],
                "contrasts": [contrast.to_dict() for contrast in contrasts],
                "versions": conditions[0]["versions"],
            }
        )
    if not groups:
        lines += ["There are no reported runs yet.", ""]
    for conditions in by_condition(tuning).values():
        table = tuning_table(ArmResults.of(conditions))
        lines += [f"## Tuning runs: {describe(conditions[0])}", "", _TUNING, "", *_markdown([table])]
        record["tuning"].append(table.to_dict())
    for path in sorted((folder / "tuned").glob("*.json")):
        chosen = read_json(path)
        record["tuned"].append(chosen)
        edge = f" (at the edge of the grid: {', '.join(chosen['on_edge'])})" if chosen["on_edge"] else ""
        values = ", ".join(f"{name} {value}" for name, value in chosen["chosen"].items())
        lines.append(f"- {chosen['arm']}: {values}; {100 * chosen['score']:.1f} % on tuning seeds{edge}")
    write_json(folder / "report.json", record)
    path = folder / "report.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


_PREFACE = (
    "Accuracy is exact match of the final answer by greedy decoding, on held-out problems; groups are means over "
    "their languages. Differences are paired by seed, each with a base model, training data and held-out items of its "
    "own; intervals are 95 %, bootstrapped over bases and items. Soft-token metrics are what SOLAR trains: they are "
    "no evidence and are not shown. Protocol: docs/evidence_protocol.md."
)
_TUNING = (
    "Settings were chosen on these seeds, on validation items: what the best of many candidates scores here is too "
    "good to be expected anywhere else."
)


def describe(result: Result) -> str:
    """The model and the data in a line."""
    conditions = result["identity"]["conditions"]
    model, data = conditions["model"], conditions["data"]
    tied = "tied" if model["tied"] else "untied"
    return (
        f"{model['architecture']} {model['size']} ({result['parameters'] / 1e6:.2f}M parameters), {tied}, "
        f"{data['n_high']} / {data['n_low']} items, {conditions['training']['steps']} steps, {conditions['device']}"
    )


def reported_tables(part: ArmResults, finalists: Sequence[str]) -> tuple[list[Table], list[Contrast]]:
    """All tables of runs under one set of conditions, and the contrasts in them."""
    contrasts = [
        contrast
        for name, control in part.controls().items()
        for outcome in PRIMARY
        if (contrast := compare(part.arms[name], part.arms[control], outcome.name)) is not None
    ]
    family = correct_family([each for each in contrasts if each.arm in finalists])
    corrected = {(each.arm, each.outcome): each for each in family}
    contrasts = [corrected.get((each.arm, each.outcome), each) for each in contrasts]
    tables = [levels_table(part), contrasts_table(contrasts, finalists), languages_table(part), layers_table(part)]
    found = criteria(part.arms, finalists or [name for name in ("solar",) if name in part.arms])
    if found:
        tables.insert(0, found)
    return [table for table in tables if table.rows], contrasts


def _markdown(tables: Sequence[Table]) -> list[str]:
    return [part for table in tables for part in (to_markdown(table), "")]


def _seeds(part: ArmResults) -> list[str]:
    """Which seeds there are, and which arms lack some: their differences are over fewer."""
    everything = sorted({result["seed"] for results in part.arms.values() for result in results})
    lines = [f"Seeds {_ranges(everything)}."]
    for name, results in part.arms.items():
        missing = sorted(set(everything) - {result["seed"] for result in results})
        if missing:
            lines.append(f"{name} lacks seeds {_ranges(missing)}.")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
