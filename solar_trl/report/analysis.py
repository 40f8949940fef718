"""The report of an analysis: measures by layer, maps and heat maps, for one or several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.measures import MEASURES, values_of
from ..analysis.plots import (
    plot_comparison,
    plot_language_map,
    plot_language_pairs,
    plot_layer_comparison,
    plot_layer_heat_map,
    plot_layers,
)
from .page import Section
from .pictures import embed
from .table import Column, Table


# Pictures, and columns of tables; everything else is in the JSON file
_LINES = ("difference", "centered_difference", "retrieval", "mexa", "neuronxa", "mixed_pool_map",
          "incline_held_out_fit", "mmd")  # fmt: skip
_COLUMNS = ("matched", "random", *_LINES[:6], "silhouette", "probe_accuracy", *_LINES[6:])
_DEFINITIONS = [
    ("Cosine, parallel minus unrelated", "How much closer translations are than unrelated texts; 0 at random."),
    ("Centred cosine", "The same after each language's mean is taken off."),
    ("Retrieval", "Share of texts whose nearest text in the other language is the translation; 1 / n at random."),
    ("MEXA", "Share of texts nearest to their translation in both directions at once."),
    ("NeuronXA", "MEXA on the feed-forward neurons in place of hidden states."),
    ("Mixed-pool mean average precision", "Translations found when all languages are searched at once: meaning must "
     "count for more than language."),
    ("Silhouette of languages", "How far apart the languages' clouds are; 0: not at all."),
    ("Language probe", "Share of texts whose language a linear classifier finds."),
    ("INCLINE", "How well one linear map leads from a language to the pivot, on texts it was not fitted on."),
    ("MMD²", "Distance of the two clouds of states, pairs ignored; compare equal numbers of texts only."),
]  # fmt: skip


def analysis_sections(
    analyses: Mapping[str, Mapping[str, Any]],
    layer: int,
    projections: Mapping[str, Mapping[str, Any]],
    matrices: Mapping[str, Mapping[str, Any]],
    soft_tokens: Mapping[str, Mapping[str, Any]] | None = None,
    warnings: Sequence[str] = (),
) -> tuple[list[Section], list[Table]]:
    """
    What a report says of an analysis.

    Args:
        analyses (`dict[str, dict]`):
            Model to what [`analyze_layers`] returned for it.
        layer (`int`):
            The layer of tables, maps and heat maps.
        projections, matrices (`dict[str, dict]`):
            Model to what [`project_states`] and [`language_pair_matrix`] returned for that layer.
        soft_tokens (`dict[str, dict]`, *optional*):
            Model to the analysis of its soft-token summaries, as layer 0.
        warnings (`Sequence[str]`, *optional*):
            What was warned of.

    Returns:
        `tuple[list[Section], list[Table]]`: The sections of the page, and the tables for a terminal.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    overview = _summary(analyses, layer)
    tables = [_by_language(model, analysis, layer) for model, analysis in analyses.items()]
    first = next(iter(analyses.values()))
    computed = {record["measure"] for record in first["records"]}
    sections = [Section(f"Layer {layer}", warnings=list(warnings), tables=[overview, *tables])]
    shown = [measure for measure in _LINES if measure in computed]
    if len(analyses) > 1:
        compared = Section("Models side by side")
        for measure in shown:
            label = MEASURES[measure].label
            figure = plot_layer_comparison(analyses, measure)
            caption = f"{label} by layer: mean over languages, and the range of the middle 80 % of them."
            compared.pictures.append(embed(figure, caption))
            if layer in next(iter(values_of(first, measure).values())):
                figure = plot_comparison(analyses, measure, layer)
                compared.pictures.append(embed(figure, f"{label} by language at layer {layer}."))
        sections.append(compared)
    for model, analysis in analyses.items():
        section = Section(f"{model} by layer")
        for measure in shown:
            caption = f"{model}: {MEASURES[measure].label}, by layer and language."
            section.pictures.append(embed(plot_layers(analysis, measure), caption))
        if "retrieval" in computed:
            caption = f"{model}: retrieval by language and layer."
            section.pictures.append(embed(plot_layer_heat_map(analysis, "retrieval"), caption))
        sections.append(section)
    for model in analyses:
        section = Section(f"{model}: languages at layer {layer}")
        caption = f"{model}: every text as a point, coloured by language. Texts of one meaning should meet."
        section.pictures.append(embed(plot_language_map(projections[model]), caption))
        caption = f"{model}: {MEASURES[matrices[model]['measure']].label.lower()}, for each pair of languages."
        section.pictures.append(embed(plot_language_pairs(matrices[model]), caption))
        sections.append(section)
    if soft_tokens:
        text = [
            "These vectors are what SOLAR's loss compares. That they agree after training shows that the loss went "
            "down, and nothing else."
        ]
        found = [_by_language(model, analysis, 0, "soft tokens") for model, analysis in soft_tokens.items()]
        tables += found
        sections.append(Section("Soft tokens", text, tables=found))
    sections.append(Section("Terms", definitions=_DEFINITIONS))
    return sections, [overview, *tables]


def _at(analysis: Mapping[str, Any], layer: int) -> dict[str | None, dict[str, float | None]]:
    """Language (`None`: over all) to measure to value at one layer."""
    values: dict[str | None, dict[str, float | None]] = {}
    for record in analysis["records"]:
        if record["layer"] == layer:
            values.setdefault(record["language"], {})[record["measure"]] = record["value"]
    return values


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    found = [measure for measure in _COLUMNS if any(measure in row for row in rows)]
    return [Column(name, name.replace("_", " "), "number", MEASURES[name].label) for name in found]


def _summary(analyses: Mapping[str, Mapping[str, Any]], layer: int) -> Table:
    rows = [{"model": model, **_at(analysis, layer).get(None, {})} for model, analysis in analyses.items()]
    pivot = next(iter(analyses.values()))["pivot_language"]
    note = f"Measures of pairs are means over the languages other than {pivot}."
    return Table(f"All languages at layer {layer}", [Column("model", "Model"), *_columns(rows)], rows, [], note)


def _by_language(model: str, analysis: Mapping[str, Any], layer: int, what: str = "") -> Table:
    values = _at(analysis, layer)
    found = [language for language in analysis["languages"] if language in values]
    rows = [{"language": language, "pairs": analysis["pairs"].get(language), **values[language]} for language in found]
    columns = [Column("language", "Language"), Column("pairs", "Pairs", "count"), *_columns(rows)]
    return Table(f"{model}: {what or f'layer {layer}'}", columns, rows)
