"""The tables of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..report.table import Column, Table
from .arms import ARMS
from .contrasts import OUTCOMES, Contrast, item_values, layer_value, middle_layer
from .settings import PIVOT


Result = Mapping[str, Any]


@dataclass
class ArmResults:
    """All results of one arm under one set of conditions, by name."""

    arms: dict[str, list[Result]] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Sequence[Result]) -> ArmResults:
        """
        Sort results by arm.

        Raises:
            ValueError: If two results of an arm have one seed, or were made with different settings of the arm.
        """
        found: dict[str, list[Result]] = {}
        for result in results:
            found.setdefault(result["arm"]["name"], []).append(result)
        for name, members in found.items():
            seeds = [member["seed"] for member in members]
            identities = [member["identity"]["arm"] for member in members]
            if len(set(seeds)) < len(seeds) or any(identity != identities[0] for identity in identities):
                raise ValueError(
                    f"The arm {name!r} was run with different settings under one name. Keep each in a folder of its "
                    'own, or give it a name: `--arm "solar:alignment_weight=3,name=solar_3"`.'
                )
        places = {name: place for place, name in enumerate(ARMS)}
        order = sorted(found, key=lambda name: (places.get(name.split("[")[0], len(places)), name))
        return cls({name: found[name] for name in order})

    def controls(self) -> dict[str, str]:
        """Each arm and the control that it has results of."""
        pairs = {name: members[0]["arm"]["control"] for name, members in self.arms.items()}
        return {name: control for name, control in pairs.items() if control in self.arms and control != "base"}


def levels_table(part: ArmResults) -> Table:
    """What each arm reaches."""

    def mean(results: Sequence[Result], value) -> float:
        found = [value(result) for result in results]
        known = [each for each in found if each is not None]
        return float(np.mean(known)) if known else float("nan")

    def of_languages(result: Result, measure: str) -> float | None:
        values = [result["measures"]["languages"][measure][lang] for lang in _low(result)]
        return None if None in values else float(np.mean(values))

    rows = []
    for name, results in part.arms.items():
        has_area = "area" in results[0]["measures"]["items"]
        rows.append(
            {
                "arm": name,
                "seeds": len(results),
                "low": mean(results, lambda r: item_values(r, "accuracy", "low").mean()),
                "high": mean(results, lambda r: item_values(r, "accuracy", "high").mean())
                if results[0]["identity"]["conditions"]["data"]["high"]
                else None,
                "pivot": mean(results, lambda r: item_values(r, "accuracy", "pivot").mean()),
                "area": mean(results, lambda r: item_values(r, "area", "low").mean()) if has_area else None,
                "nll": mean(results, lambda r: item_values(r, "nll", "low").mean()),
                "agreement": mean(results, lambda r: of_languages(r, "agreement_with_pivot")),
                "fidelity": mean(results, lambda r: of_languages(r, "fidelity")),
                "silhouette": mean(results, lambda r: layer_value(r, "silhouette")),
                "retrieval": mean(results, lambda r: layer_value(r, "retrieval")),
                "seconds": round(mean(results, lambda r: r["cpu_seconds"]["training"])),
            }
        )
    columns = [
        Column("arm", "arm"),
        Column("seeds", "seeds", "count"),
        Column("low", "low", "percent", "accuracy in low-resource languages, %"),
        Column("high", "high", "percent", "in high-resource languages without English, %"),
        Column("pivot", "English", "percent", "in English, %"),
        Column("area", "area", "percent", "area under the accuracy curve of low-resource languages, %"),
        Column("nll", "NLL", "number", "of right low-resource responses, nats per token"),
        Column("agreement", "agreement", "percent", "low-resource answers equal to the English one, right or not, %"),
        Column("fidelity", "fidelity", "percent", "words of low-resource responses that are of their language, %"),
        Column("silhouette", "silhouette", "number", "of languages, last layer, held-out responses"),
        Column("retrieval", "retrieval", "percent", "of the parallel response, last layer, both directions, %"),
        Column("seconds", "CPU s", "count", "of training, without measuring"),
    ]
    return Table("What each arm reaches (means over seeds)", columns, rows)


def contrasts_table(contrasts: Sequence[Contrast], finalists: Sequence[str]) -> Table:
    """Primary outcomes against the control of the same order and method."""
    rows = [
        {
            "arm": each.arm,
            "control": each.control,
            "outcome": OUTCOMES[each.outcome].label,
            "seeds": each.seeds,
            "points": each.difference if OUTCOMES[each.outcome].points else None,
            "points_ends": (each.low, each.high) if OUTCOMES[each.outcome].points else None,
            "nats": None if OUTCOMES[each.outcome].points else each.difference,
            "nats_ends": None if OUTCOMES[each.outcome].points else (each.low, each.high),
            "seeds_won": f"{each.wins} : {each.losses}",
            "p": each.p_value,
            "corrected": each.corrected,
        }
        for each in contrasts
    ]
    columns = [
        Column("arm", "arm"),
        Column("control", "against"),
        Column("outcome", "outcome, low-resource"),
        Column("seeds", "seeds", "count"),
        Column("points", "points", "points"),
        Column("points_ends", "95 %", "points_interval"),
        Column("nats", "nats", "difference"),
        Column("nats_ends", "95 % ", "difference_interval"),
        Column("seeds_won", "better : worse", help="seeds; the others are ties"),
        Column("p", "p", "p_value", "random signs of the seeds' differences"),
        Column("corrected", "Holm", "p_value", "corrected over the finalists' primary outcomes"),
    ]
    note = f"Finalists: {', '.join(finalists)}." if finalists else "No finalists were named: p-values are exploratory."
    return Table("Paired differences", columns, rows, note=note)


def languages_table(part: ArmResults) -> Table:
    """Accuracy by language."""
    first = next(iter(part.arms.values()))[0]
    data = first["identity"]["conditions"]["data"]
    languages = [PIVOT, *data["high"], *data["low"]]
    rows = [
        {"arm": name}
        | {lang: float(np.mean([item_values(r, "accuracy", lang).mean() for r in results])) for lang in languages}
        for name, results in part.arms.items()
    ]
    columns = [Column("arm", "arm"), *(Column(lang, lang, "percent") for lang in languages)]
    return Table("Accuracy by language (%)", columns, rows)


def layers_table(part: ArmResults) -> Table:
    """Geometry of hidden states in the middle and at the end."""
    rows = []
    for name, results in part.arms.items():
        middle = middle_layer(results[0])
        for layer, label in ((middle, f"{middle} (middle)"), (-1, "last")):
            means = {
                measure: float(np.mean([layer_value(result, measure, layer) for result in results]))
                for measure in ("difference", "centered_matched", "retrieval", "mexa", "silhouette")
            }
            rows.append({"arm": name, "layer": label, **means})
    columns = [
        Column("arm", "arm"),
        Column("layer", "layer"),
        Column("difference", "matched minus random", "number", "cosine of parallel minus that of unrelated responses"),
        Column("centered_matched", "centred cosine", "number", "of parallels, without each language's mean"),
        Column("retrieval", "retrieval", "percent"),
        Column("mexa", "MEXA", "percent"),
        Column("silhouette", "silhouette", "number"),
    ]
    return Table("Hidden states of held-out responses (mean over languages and seeds)", columns, rows)


def tuning_table(part: ArmResults) -> Table:
    """Every candidate that was run on tuning seeds, the best of an arm first."""
    rows: list[dict[str, Any]] = [
        {
            "arm": name,
            "seeds": len(results),
            "low": float(np.mean([item_values(r, "accuracy", "low").mean() for r in results])),
            "pivot": float(np.mean([item_values(r, "accuracy", "pivot").mean() for r in results])),
            "nll": float(np.mean([item_values(r, "nll", "low").mean() for r in results])),
            "silhouette": float(np.mean([layer_value(r, "silhouette") for r in results])),
        }
        for name, results in part.arms.items()
    ]
    rows.sort(key=lambda row: (row["arm"].split("[")[0], -row["seeds"], -row["low"]))
    columns = [
        Column("arm", "candidate"),
        Column("seeds", "seeds", "count"),
        Column("low", "low", "percent"),
        Column("pivot", "English", "percent"),
        Column("nll", "NLL", "number"),
        Column("silhouette", "silhouette", "number"),
    ]
    return Table("Candidates on tuning seeds", columns, rows)


def to_markdown(table: Table) -> str:
    """A table in Markdown, with its note and what its columns mean below."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---" if column.kind == "text" else "---:" for column in table.columns]
    rows = [line(table.cells(row)) for row in [*table.rows, *table.summaries]]
    parts = [f"### {table.title}", "", line([column.label for column in table.columns]), line(rule), *rows]
    legend = "; ".join(f"{label}: {text}" for label, text in table.legend(set()))
    return "\n".join([*parts, *(["", f"{legend}."] if legend else []), *(["", table.note] if table.note else [])])


def _low(result: Result) -> list[str]:
    return list(result["identity"]["conditions"]["data"]["low"])
