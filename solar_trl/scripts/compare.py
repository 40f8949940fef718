"""`solar-trl compare`: saved results on the same items."""

# ruff: noqa: RUF009 (`option` and `required` are `dataclasses.field`)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .options import OutputOptions, existing_file, option, parse_options, split_list


DESCRIPTION = """\
Compare saved results of `solar-trl evaluate` (or `EvaluationResult.save`) on the same items.

  solar-trl compare reports/mgsm/base.json reports/mgsm/sft.json reports/mgsm/solar.json --low-resource bn,sw,te,th

Each result is tested against the first one: by language with McNemar's exact test on its items (with several samples
per item, and for all languages together, with random signs of whole items), corrected for the number of languages and
results with Holm's method. Intervals of differences are bootstraps over items."""


@dataclass
class CompareOptions:
    """How they are compared."""

    _argument_group_name = "comparison"

    low_resource: list[str] | None = option("Low-resource languages, compared as a group, as are the others.")
    pivot_language: str = option("Language of the gap and of CLC.", "en")
    common_rows: bool = option(
        "Compare the rows that both results have and count the others. By default other rows are an error.", False
    )
    confidence: float = option("Coverage of the intervals.", 0.95)
    resamples: int = option("Bootstrap samples of the intervals.", 2000)


def run(arguments: Sequence[str]) -> None:
    """Parse, compare, report."""
    comparing, output, files = parse_options(
        "solar-trl compare",
        DESCRIPTION,
        (CompareOptions, OutputOptions),
        arguments,
        ("results", "JSON files of results, the one to compare with first."),
    )
    from ..evaluation.paired import compare_results, correct
    from ..evaluation.results import EvaluationResult
    from ..report import Section, comparison_sections, text_of, write_report
    from ..report.evaluation import DEFINITIONS

    if not files or len(files) < 2:
        raise ValueError(f"Name two files of results or more, the one to compare with first; got {files or 'none'}.")
    results: list[EvaluationResult] = []
    for file in files:
        try:
            result = EvaluationResult.load(existing_file(file))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is no result of `solar-trl evaluate` ({error!r}).") from error
        if result.name in [other.name for other in results]:
            result.name = f"{result.name} ({Path(file).parent.name}/{Path(file).stem})"
        results.append(result)
    low_resource = split_list(comparing.low_resource)
    comparisons = [
        compare_results(
            results[0],
            result,
            low_resource,
            comparing.pivot_language,
            comparing.common_rows,
            comparing.confidence,
            comparing.resamples,
        )
        for result in results[1:]
    ]
    correct(comparisons)
    sections, tables = comparison_sections(comparisons, comparing.confidence)
    sections.append(Section("Terms", definitions=DEFINITIONS))
    names = ", ".join(result.name for result in results[1:])
    title = output.title or f"{names} against {results[0].name}"
    data = {"comparisons": [_without_nan(asdict(comparison)) for comparison in comparisons]}
    page = write_report(output.output_dir, title, "Paired comparison on the same items", sections, data)
    print(f"{text_of(tables)}\n\nReport: {page}")


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and value != value else value
