"""The report of evaluations: each model by language, all models side by side, and pairs of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..evaluation.groups import group_intervals, language_groups
from ..evaluation.paired import Comparison
from ..evaluation.results import EvaluationResult, Record
from ..evaluation.scores import consistency_matrix
from .page import Example, Section
from .pictures import Picture, embed, plot_agreement, plot_scores
from .table import Column, Table, interval_ends


_LONGEST = 1500  # characters of a text that is shown

DEFINITIONS = [
    ("Accuracy", "Share of items answered right. An output without a readable answer is wrong."),
    ("Mean accuracy", "Mean over languages of their accuracy: each language counts the same."),
    (
        "Gap to the pivot",
        "Accuracy of the pivot language minus that of the language, or minus the mean of the others.",
    ),
    (
        "Consistency",
        "Share of items on which two languages give the same answer, right or wrong; mean over all pairs of languages "
        "(SeaEval). A missing answer equals no other.",
    ),
    ("AC3", "Harmonic mean of mean accuracy and consistency (SeaEval): high only if both are."),
    (
        "CLC (cross-lingual consistency with the pivot)",
        "Share of items that are right both in the pivot language and in another one; mean over the other languages.",
    ),
    (
        "CO (correct overlap)",
        "Of the items that are right in at least one of two languages, the share that is right in both; over all "
        "pairs of languages.",
    ),
    (
        "In language",
        "Share of outputs in the language of their prompt, of those where it could be told: by script, or by a "
        "language identifier where scripts coincide. Bare numbers are not judged.",
    ),
    (
        "Interval",
        "Bootstrap over items with all their translations, which are right or wrong together; where all or none of a "
        "language's items are right, Wilson's interval.",
    ),
]


def evaluation_sections(
    results: Sequence[EvaluationResult],
    low_resource: Sequence[str] = (),
    comparisons: Sequence[Comparison] = (),
    confidence: float = 0.95,
    resamples: int = 2000,
    warnings: Sequence[str] = (),
    num_examples: int = 2,
) -> tuple[list[Section], list[Table]]:
    """
    What a report says of evaluations.

    Args:
        results (`Sequence[EvaluationResult]`):
            One for each model.
        low_resource (`Sequence[str]`, *optional*):
            Low-resource languages, for the groups.
        comparisons (`Sequence[Comparison]`, *optional*):
            Pairs of the models.
        confidence (`float`), resamples (`int`):
            For the intervals of groups and gaps; the same as those of the results.
        warnings (`Sequence[str]`, *optional*):
            What was warned of while evaluating.
        num_examples (`int`, *optional*, defaults to `2`):
            Responses shown for each language.

    Returns:
        `tuple[list[Section], list[Table]]`: The sections of the page, and the tables for a terminal.

    Raises:
        ValueError: If `low_resource` names a language that was not evaluated.
    """
    level = f"{100 * confidence:g} %"
    by_language = [_by_language(result, low_resource, level, confidence, resamples) for result in results]
    overview = _overview(results, by_language, level)
    first = Section("Results", warnings=list(warnings), tables=[overview])
    sections = [first]
    if pictures := _accuracy_pictures(results, level):
        first.pictures = pictures
    else:
        first.warnings = [*first.warnings, "No pictures: matplotlib is not installed (`solar-trl[plot]`)."]
    for result, table in zip(results, by_language, strict=True):
        section = Section(f"{result.name} by language", tables=[table])
        scores = result.table()
        if pictures and len(scores.languages) > 1:
            figure = plot_agreement(consistency_matrix(scores), scores.languages)
            caption = f"{result.name}: share of items on which two languages give the same answer, right or wrong."
            section.pictures.append(embed(figure, caption))
        sections.append(section)
    compared, tables = comparison_sections(comparisons, confidence)
    sections += compared
    if num_examples:
        sections += [section for result in results if (section := _responses(result, num_examples)).examples]
    sections.append(Section("Terms", definitions=DEFINITIONS))
    sections.append(Section("Settings", tables=[_settings(results)]))
    return sections, [overview, *by_language, *tables]


def comparison_sections(
    comparisons: Sequence[Comparison], confidence: float = 0.95
) -> tuple[list[Section], list[Table]]:
    """The sections of the page, and the tables for a terminal, of paired comparisons."""
    level = f"{100 * confidence:g} %"
    sections, tables = [], []
    for comparison in comparisons:
        table = _comparison_table(comparison, level)
        title = f"{comparison.second} against {comparison.first}"
        text = [
            f"Differences are {comparison.second} minus {comparison.first} on the same items, in percentage points. A "
            "positive one means that the second is better, but for the gap, which should fall."
        ]
        section = Section(title, text, comparison.warnings, [table])
        differences = {
            name.removeprefix("accuracy/"): (test.difference, test.low, test.high)
            for name, test in comparison.tests.items()
            if name.startswith("accuracy/")
        }
        if picture := _scores_picture(
            {comparison.second: differences},
            "Difference of accuracy (percentage points)",
            f"Difference of accuracy by language, {comparison.second} minus {comparison.first}, with {level} "
            "intervals: right of 0 the second is better.",
            zero_line=True,
        ):
            section.pictures.append(picture)
        else:
            section.warnings = [*section.warnings, "No pictures: matplotlib is not installed (`solar-trl[plot]`)."]
        sections.append(section)
        tables.append(table)
    return sections, tables


def _overview(results: Sequence[EvaluationResult], tables: Sequence[Table], level: str) -> Table:
    rows = []
    for result, table in zip(results, tables, strict=True):
        metrics, counts = result.metrics, result.counts["all"]
        row: dict[str, Any] = {key: metrics.get(key) for key in ("macro_accuracy", "pivot_gap", "consistency")}
        row |= {key: metrics.get(key) for key in ("ac3", "clc", "co")}
        row |= {key: counts[key] for key in ("rows", "empty", "unextractable", "unfinished")}
        row |= {summary["language"]: summary["accuracy"] for summary in table.summaries}
        all_languages = table.summaries[-1]
        row |= {key: all_languages[key] for key in ("interval", "fidelity", "undecided")}
        rows.append({**row, "model": result.name})
    groups = [summary["language"] for summary in tables[0].summaries if summary["language"] != _ALL]
    pivot = results[0].settings.get("pivot_language", "en")
    columns = [
        Column("model", "Model"),
        Column("macro_accuracy", "Mean accuracy (%)", "percent"),
        Column("interval", f"{level} interval", "percent_interval"),
        *(Column(group, f"{group.capitalize()} (%)", "percent") for group in groups),
        Column("pivot_gap", f"Gap to {pivot}", "points", f"accuracy in {pivot} minus the mean of the others"),
        Column("consistency", "Consistency (%)", "percent", "two languages give the same answer, right or wrong"),
        Column("ac3", "AC3 (%)", "percent", "harmonic mean of mean accuracy and consistency"),
        Column("clc", "CLC (%)", "percent", f"right both in {pivot} and in another language"),
        Column("co", "CO (%)", "percent", "right in both of two languages, of those right in at least one"),
        *_COUNTS,
    ]
    return Table("All languages", columns, rows)


_ALL = "all"
_COUNTS = [
    Column("fidelity", "In language (%)", "percent", "outputs in the language of their prompt, of those judged"),
    Column("undecided", "Not judged", "count", "outputs that are empty, too short for a language, or in a script of "
           "several languages while no identifier is installed"),
    Column("rows", "Outputs", "count"),
    Column("empty", "Empty", "count", "outputs without any text; they count as wrong"),
    Column("unextractable", "No answer", "count", "outputs in which no answer was found; they count as wrong"),
    Column("unfinished", "Cut off", "count", "outputs that reached the limit of new tokens"),
]  # fmt: skip


def _by_language(
    result: EvaluationResult, low_resource: Sequence[str], level: str, confidence: float, resamples: int
) -> Table:
    scores = result.table()
    pivot = result.settings.get("pivot_language", "en")
    groups = language_groups(scores.languages, low_resource)
    everything = {**groups, _ALL: scores.languages}
    intervals = group_intervals(scores, everything, pivot, confidence, resamples)
    group_of = {language: group for group, members in groups.items() for language in members}
    place = {language: i for i, language in enumerate(scores.languages)}
    order = sorted(
        scores.languages, key=lambda language: (language != pivot, group_of.get(language, ""), place[language])
    )
    undecided = Counter(record.language for record in result.records if record.in_language is None)
    judged = "fidelity" in result.metrics  # where outputs were generated
    rows: list[Mapping[str, Any]] = []
    for language in order:
        row: dict[str, Any] = {
            "language": f"{language} (pivot)" if language == pivot else language,
            "group": group_of.get(language),
            "items": int(scores.present[:, place[language]].sum()),
            "accuracy": result.metrics[f"accuracy/{language}"],
            "interval": interval_ends(result.intervals, f"accuracy/{language}"),
            "fidelity": result.metrics.get(f"fidelity/{language}"),
            "undecided": undecided[language] if judged else None,
            **{key: result.counts[language][key] for key in ("rows", "empty", "unextractable", "unfinished")},
        }
        rows.append({**row, **_gap(intervals, language)})
    summaries: list[Mapping[str, Any]] = []
    for group, members in everything.items():
        summary: dict[str, Any] = {
            "language": group,
            "group": f"{len(members)} language{'s' * (len(members) > 1)}",
            "items": int(scores.present[:, [place[member] for member in members]].any(1).sum()),
            "accuracy": intervals[f"group/{group}"].value,
            "interval": interval_ends(intervals, f"group/{group}"),
            "undecided": sum(undecided[member] for member in members) if judged else None,
            "fidelity": _mean([result.metrics.get(f"fidelity/{member}", float("nan")) for member in members]),
            **{key: sum(result.counts[member][key] for member in members) for key in result.counts["all"]},
        }
        summaries.append({**summary, **_gap(intervals, group)})
    columns = [
        Column("language", "Language"),
        *([Column("group", "Resources")] if groups else []),
        Column("items", "Items", "count"),
        Column("accuracy", "Accuracy (%)", "percent"),
        Column("interval", f"{level} interval", "percent_interval"),
        Column("gap", f"Gap to {pivot}", "points", f"accuracy in {pivot} minus that of the language, in % points"),
        Column("gap_interval", f"{level} interval", "points_interval"),
        *_COUNTS,
    ]
    note = "Shares of several languages are means over languages: each counts the same."
    return Table(f"{result.name} by language", columns, rows, summaries, note)


def _mean(values: Sequence[float]) -> float:
    """Mean of what is defined; NaN if nothing is."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _gap(intervals: Mapping[str, Any], name: str) -> dict[str, Any]:
    if f"gap/{name}" not in intervals:
        return {}
    return {"gap": intervals[f"gap/{name}"].value, "gap_interval": interval_ends(intervals, f"gap/{name}")}


def _comparison_table(comparison: Comparison, level: str) -> Table:
    labels = {
        "macro_accuracy": "mean accuracy",
        "accuracy": "all rows",
        "pivot_gap": "gap to the pivot",
        "consistency": "consistency",
        "clc": "CLC",
    }
    rows, summaries = [], []
    for name, test in comparison.tests.items():
        before, after = comparison.accuracy.get(name, (None, None))
        # Where nothing differs, resampling cannot tell how sure that is
        ends = (test.low, test.high) if test.wins + test.losses else None
        row: dict[str, Any] = {**asdict(test), "first": before, "second": after, "interval": ends}
        if name == "pivot_gap":  # it should fall
            row |= {"wins": test.losses, "losses": test.wins}
        row["corrected"] = comparison.corrected.get(name)
        if name.startswith("accuracy/"):
            language = name.removeprefix("accuracy/")
            rows.append({**row, "what": language, "items": comparison.rows[language]})
        else:
            summaries.append({**row, "what": labels.get(name, name.removeprefix("group/"))})
    columns = [
        Column("what", "Language"),
        Column("items", "Items", "count"),
        Column("first", f"{comparison.first} (%)", "percent"),
        Column("second", f"{comparison.second} (%)", "percent"),
        Column("difference", "Difference", "points"),
        Column("interval", f"{level} interval", "points_interval"),
        Column("wins", "Better", "count", "items on which the second is better"),
        Column("losses", "Worse", "count", "items on which the second is worse"),
        Column("p_value", "p", "p_value", "two-sided: McNemar's exact test for a language with one output per item, "
               "else random signs of whole items"),
        Column("corrected", "p, Holm", "p_value", "corrected for all languages and models compared in this report"),
    ]  # fmt: skip
    return Table(f"{comparison.second} against {comparison.first}", columns, rows, summaries)


def _accuracy_pictures(results: Sequence[EvaluationResult], level: str) -> list[Picture]:
    nothing = (float("nan"),) * 3
    scores: dict[str, dict[str, tuple[float, float, float]]] = {}
    languages = list(dict.fromkeys(language for result in results for language in result.counts if language != "all"))
    for result in results:
        known = {language: result.intervals.get(f"accuracy/{language}") for language in languages}
        scores[result.name] = {
            language: nothing if interval is None else (interval.value, interval.low, interval.high)
            for language, interval in known.items()
        }
    picture = _scores_picture(scores, "Accuracy (%)", f"Accuracy by language, with {level} intervals.")
    return [] if picture is None else [picture]


def _scores_picture(scores: Mapping, label: str, caption: str, zero_line: bool = False) -> Picture | None:
    """The picture, or `None` without matplotlib: tables say it all."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return None
    return embed(plot_scores(scores, label, zero_line=zero_line), caption)


def _responses(result: EvaluationResult, number: int) -> Section:
    """Some responses of each language, wrong ones first."""
    examples: dict[str, list[Example]] = {}
    for language in result.counts:
        records = [record for record in result.records if record.language == language and record.output]
        chosen = sorted(records, key=lambda record: record.correct)[:number]
        if chosen:
            examples[f"{language}: {len(chosen)} of {len(records)} responses"] = [_example(each) for each in chosen]
    text = ["The first wrong responses of each language, and right ones where there are too few."]
    return Section(f"Responses of {result.name}", text, examples=examples)


def _example(record: Record) -> Example:
    verdict = "right" if record.correct else ("wrong" if record.extracted is not None else "no answer found")
    asked = record.prompt if isinstance(record.prompt, str) else record.prompt[-1]["content"]
    parts = [
        ("Prompt", _shortened(asked, tail=True)),
        ("Response", _shortened(record.output) + ("" if record.finished else " [cut off]")),
        ("Answer found", "–" if record.extracted is None else record.extracted),
        ("Right answer", record.reference),
    ]
    return Example(f"{record.language}, item {record.parallel_id}: {verdict}", record.correct, parts)


def _shortened(text: str, tail: bool = False) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"… {text[-_LONGEST:]}" if tail else f"{text[:_LONGEST]} … ({len(text):,} characters)"


def _settings(results: Sequence[EvaluationResult]) -> Table:
    names = list(dict.fromkeys(name for result in results for name in result.settings))
    rows = [
        {"setting": name, **{str(i): _value(result.settings.get(name)) for i, result in enumerate(results)}}
        for name in names
    ]
    columns = [Column("setting", "Setting"), *(Column(str(i), result.name) for i, result in enumerate(results))]
    return Table("How it was run", columns, rows)


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
