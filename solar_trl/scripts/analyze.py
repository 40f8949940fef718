"""`solar-trl analyze`: hidden states of parallel texts in one or several models."""

# ruff: noqa: RUF009 (`option` and `required` are `dataclasses.field`)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .evaluate import collected_warnings
from .options import ModelOptions, OutputOptions, option, parse_options, required, split_list


DESCRIPTION = """\
Compare the hidden states of parallel texts, layer by layer: do translations lie close together, and did training
change it?

  solar-trl analyze --model out/solar --baseline-model Qwen/Qwen3-0.6B --path parallel.jsonl --output-dir states

The texts: a file with language, parallel_id (equal for translations) and text, or a folder with a file per language.
Use some hundred items that none of the models was trained on. Prints a table for one layer and writes report.html (one
page that needs nothing else) and report.json (every number). Needs `pip install 'solar-trl[analysis,plot]'`."""


@dataclass
class TextOptions:
    """Which texts."""

    _argument_group_name = "texts"

    path: str = required("File (JSON Lines, JSON, TSV, CSV, Parquet), or folder with one file per language.")
    baseline_model: str | None = option("A model to compare with, shown first.")
    languages: list[str] | None = option("Languages, with spaces or commas between; by default all there are.")
    pivot_language: str = option("Language with which the others are compared.", "en")
    text_column: str = option("Field with the text.", "text")
    prompt_column: str | None = option("Field with a prompt in front of the text, which is read but not pooled.")
    parallel_id_column: str = option("Field that is the same on all translations of an item.", "parallel_id")
    limit: int | None = option("Only so many items, the same ones in every language.")


@dataclass
class AnalysisOptions:
    """What is computed."""

    _argument_group_name = "analysis"

    layers: list[int] | None = option("Layers; 0 is the embeddings, -1 the last one. By default all.")
    layer: int | None = option("Layer of tables, maps and heat maps. By default the middle one, where meaning meets.")
    pooling: Literal["mean", "last", "position_weighted"] = option(
        "How a text's states become one vector; later positions have read more of it.", "position_weighted"
    )
    measures: list[str] | None = option(
        "Groups of measures: similarity, centered_similarity, retrieval, mexa, neuronxa, mixed_pool, separability, "
        "incline, mmd. By default all but neuronxa."
    )
    neurons: bool = option("Whether to add NeuronXA, on the states of feed-forward neurons.", False)
    soft_tokens: bool = option(
        "Whether to add soft-token summaries, which SOLAR trains. Needs --prompt_column.", False
    )
    map: Literal["pca", "tsne"] = option(
        "Map of the languages; distances between clusters of t-SNE say nothing.", "pca"
    )
    common_items: bool = option("Whether to keep only the items that every language has.", False)
    batch_size: int = option("Texts at a time; changes speed and memory only.", 32)
    max_length: int | None = option("Keep so many tokens of each text.")
    seed: int = option("Of folds, principal components and maps.", 0)


def run(arguments: Sequence[str]) -> None:
    """Parse, analyze, report."""
    models, texts, options, output = parse_options(
        "solar-trl analyze", DESCRIPTION, (ModelOptions, TextOptions, AnalysisOptions, OutputOptions), arguments
    )
    from ..analysis import analyze_layers, language_pair_matrix, project_states, soft_token_summaries
    from ..report import analysis_sections, text_of, write_report
    from .loading import load_tokenizer, loaded, model_sources

    if options.soft_tokens and texts.prompt_column is None:
        raise ValueError("`--soft_tokens` summarises responses to prompts: name the prompts with `--prompt_column`.")
    sources = model_sources(models, texts.baseline_model)
    rows = read_texts(texts)
    columns: tuple[list[str], list[str]] = ([row["language"] for row in rows], [row["parallel_id"] for row in rows])
    analyses: dict[str, Any] = {}
    projections: dict[str, Any] = {}
    matrices: dict[str, Any] = {}
    soft: dict[str, Any] = {}
    layer, measures = options.layer, split_list(options.measures)
    if options.neurons and measures is not None:
        measures = list(dict.fromkeys([*measures, "neuronxa"]))
    with collected_warnings() as warnings:
        for source in sources:
            print(f"{source.name}: {source.model}{f' with {source.adapter}' if source.adapter else ''}", flush=True)
            tokenizer = load_tokenizer(source, models)
            with loaded(source, models) as model:
                states, neurons = _states(model, tokenizer, rows, options)
                if options.soft_tokens:
                    prompts, answers = [row["prompt"] for row in rows], [row["text"] for row in rows]
                    limits: dict[str, Any] = {"batch_size": options.batch_size, "max_length": options.max_length}
                    summaries = soft_token_summaries(model, tokenizer, prompts, answers, **limits)
                    soft[source.name] = analyze_layers(
                        {0: summaries}, *columns, texts.pivot_language, ["similarity", "centered_similarity"]
                    )
            if layer is None:
                layer = list(states)[len(states) // 2]
            if layer not in states:
                known = ", ".join(map(str, states))
                raise ValueError(f"`--layer` is {layer}, but of {source.name!r} there are the layers {known}.")
            analyses[source.name] = analyze_layers(
                states, *columns, texts.pivot_language, measures, neurons, options.common_items, seed=options.seed,
            )  # fmt: skip
            projections[source.name] = project_states(states[layer], columns[0], options.map, seed=options.seed)
            matrices[source.name] = language_pair_matrix(
                states[layer], *columns, "retrieval", common_items=options.common_items
            )
            del states, neurons
    assert layer is not None  # there is a model
    sections, tables = analysis_sections(analyses, layer, projections, matrices, soft, warnings)
    title = output.title or f"Hidden states of {', '.join(analyses)}"
    subtitle = f"{len(set(columns[1]))} items in {len(set(columns[0]))} languages, {options.pooling} pooling"
    data = {"layer": layer, "analyses": analyses, "language_pairs": matrices, "soft_tokens": soft}
    page = write_report(output.output_dir, title, subtitle, sections, data)
    print(f"\n{text_of(tables)}\n\nReport: {page}")


def read_texts(options: TextOptions) -> list[dict[str, Any]]:
    """
    Rows with `language`, `parallel_id`, `text` and, where asked for, `prompt`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a field is missing or empty, or a language is not there.
    """
    from ..evaluation.files import read_local

    names = {"text": options.text_column, "parallel_id": options.parallel_id_column}
    if options.prompt_column is not None:
        names["prompt"] = options.prompt_column
    rows: list[dict[str, Any]] = []
    for language, found in read_local(Path(options.path), split_list(options.languages)).items():
        for place, row in enumerate(found):
            for name in names.values():
                if row.get(name) in (None, ""):
                    raise ValueError(
                        f"{options.path}: row {place} of {language!r} has no {name!r}; its fields are "
                        f"{', '.join(map(repr, row))}."
                    )
            rows.append({"language": language, **{name: str(row[column]) for name, column in names.items()}})
    if options.limit is not None:
        if options.limit < 1:
            raise ValueError(f"`--limit` is {options.limit}, expected at least 1.")
        kept = set(list(dict.fromkeys(row["parallel_id"] for row in rows))[: options.limit])
        rows = [row for row in rows if row["parallel_id"] in kept]
    return rows


def _states(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], options: AnalysisOptions) -> tuple[Any, Any]:
    """Hidden states by layer, counted from 0, and neuron states if they are asked for."""
    from ..analysis import hidden_state_summaries, neuron_state_summaries

    texts = [row["text"] for row in rows]
    prompts = [row["prompt"] for row in rows] if "prompt" in rows[0] else None
    shared: dict[str, Any] = {"batch_size": options.batch_size, "max_length": options.max_length}
    states = hidden_state_summaries(model, tokenizer, texts, options.layers, options.pooling, prompts, **shared)
    count = model.config.get_text_config().num_hidden_layers + 1
    states = {layer % count: values for layer, values in states.items()}
    wanted = split_list(options.measures) or []
    neurons = None
    if options.neurons or "neuronxa" in wanted:
        neurons = neuron_state_summaries(model, tokenizer, texts, prompts=prompts, **shared)
    return states, neurons
