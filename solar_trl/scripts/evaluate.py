"""`solar-trl evaluate`: models on a benchmark in many languages."""

# ruff: noqa: RUF009 (`option` and `required` are `dataclasses.field`)

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._logging import get_logger
from .options import ModelOptions, OutputOptions, file_name, json_object, option, parse_options, required, split_list


DESCRIPTION = """\
Let models answer a benchmark in many languages.

  solar-trl evaluate --model Qwen/Qwen3-0.6B --benchmark mgsm --low-resource bn,sw,te,th --output-dir reports/mgsm
  solar-trl evaluate --model Qwen/Qwen3-0.6B --adapter none out/sft out/solar --name base sft solar --benchmark mgsm

Prints a table by language and writes, into --output-dir: report.html (one page that needs nothing else), report.json
(its tables), NAME.json for each model (every prompt, output and score, for `solar-trl compare`) and
NAME.responses.jsonl: a run that was stopped goes on from there when it is called again. With several models, each is
also tested against the first one on the same items."""


@dataclass
class BenchmarkOptions:
    """Which items, in which languages, and how they are asked."""

    _argument_group_name = "items"

    benchmark: str = required(
        "Name of a benchmark (mgsm, msvamp, xcopa, belebele, global_mmlu, mmlu_prox, aime2024, ...), or a file of "
        "your own with language, parallel_id, question and answer (JSON Lines, JSON, TSV, CSV or Parquet)."
    )
    path: str | None = option("Local folder or file with the benchmark's items, in place of the Hub.")
    split: str | None = option("Split; each benchmark knows its own (mostly `test`).")
    languages: list[str] | None = option("Languages, with spaces or commas between; by default all there are.")
    low_resource: list[str] | None = option(
        "Low-resource languages: their mean and that of the others are shown. No default, as it depends on the model."
    )
    pivot_language: str = option("Language with which the others are compared.", "en")
    limit: int | None = option("Only so many items, the same ones in every language.")
    exemplars: str | None = option("File with worked examples for few-shot prompts, like that of the items.")
    num_shots: int = option("Worked examples per prompt; 0, as chat models need none.", 0)
    chat: bool | None = option(
        "Whether to use the chat template; by default if the tokenizer has one. Base models get a text to continue."
    )
    instruction: str | None = option("In place of the instruction in the item's language, for all languages.")


@dataclass
class GenerationOptions:
    """How answers are produced."""

    _argument_group_name = "generation"

    method: Literal["generate", "likelihood"] = option(
        "`generate` a response and find the answer in it, or take the `likelihood` of each option's letter "
        "(multiple choice only).",
        "generate",
    )
    backend: Literal["transformers", "vllm"] = option(
        "What generates. vLLM is faster; merge adapters first.", "transformers"
    )
    max_new_tokens: int = option(
        "Most tokens of a response. Enough for grade-school maths; reasoning models need thousands. How many outputs "
        "were cut off is shown.",
        512,
    )
    batch_size: int = option("Prompts at a time; changes speed and memory only, unless sampling.", 8)
    temperature: float = option("0 takes the most likely token: the same answers each time.", 0.0)
    top_p: float | None = option("Draw from the most likely tokens of this total probability.")
    top_k: int | None = option("Draw from so many tokens.")
    min_p: float | None = option("Draw from tokens of at least this share of the highest probability.")
    num_samples: int = option(
        "Responses per item (needs a temperature); an item counts with its share of right ones.", 1
    )
    seed: int = option("Of the draws.", 0)
    chat_template_kwargs: str | None = option("For the chat template, as JSON: '{\"enable_thinking\": false}'.")


@dataclass
class ScoringOptions:
    """How answers are scored."""

    _argument_group_name = "scores"

    identifier: Literal["auto", "py3langid", "none"] = option(
        "What tells languages of one script apart: py3langid if it is installed (`solar-trl[eval]`), or only scripts.",
        "auto",
    )
    confidence: float = option("Coverage of the intervals.", 0.95)
    resamples: int = option("Bootstrap samples of the intervals.", 2000)
    examples: int = option("Responses per language shown in the report.", 2)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """What the package warns of inside, for the report."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and (message := record.getMessage()) not in found:
                found.append(message)

    handler = Collector()
    get_logger().addHandler(handler)
    try:
        yield found
    finally:
        get_logger().removeHandler(handler)


def run(arguments: Sequence[str]) -> None:
    """Parse, evaluate, report."""
    groups = (ModelOptions, BenchmarkOptions, GenerationOptions, ScoringOptions, OutputOptions)
    models, items, generation, scoring, output = parse_options("solar-trl evaluate", DESCRIPTION, groups, arguments)
    from ..evaluation import evaluate_model, load_benchmark
    from ..evaluation.groups import language_groups
    from ..evaluation.paired import compare_results, correct
    from ..report import evaluation_sections, text_of, write_report
    from .loading import load_tokenizer, loaded, model_sources

    sources = model_sources(models)
    if generation.backend == "vllm" and any(source.adapter for source in sources):
        raise ValueError("vLLM is given whole models: merge the adapters first, or use `--backend transformers`.")
    folder = Path(output.output_dir)
    low_resource = split_list(items.low_resource) or []
    results = []
    with collected_warnings() as warnings:
        dataset = load_benchmark(
            items.benchmark, split_list(items.languages), items.path, items.split, limit=items.limit
        )
        language_groups(list(dict.fromkeys(dataset["language"])), low_resource)  # an unknown one shows before hours
        exemplars = _exemplars(items, dataset)
        for source in sources:
            print(f"{source.name}: {source.model}{f' with {source.adapter}' if source.adapter else ''}", flush=True)
            tokenizer = load_tokenizer(source, models)
            options = _options(generation, folder / f"{file_name(source.name)}.responses.jsonl")
            chosen: dict[str, Any] = {"exemplars": exemplars, "num_shots": items.num_shots, "chat": items.chat}
            chosen |= {"instruction": items.instruction, "pivot_language": items.pivot_language}
            chosen |= {"method": generation.method, "identifier": scoring.identifier, "name": source.name}
            chosen |= {"confidence": scoring.confidence, "resamples": scoring.resamples, **options}
            if generation.backend == "vllm":
                result = evaluate_model(source.model, tokenizer, dataset, **chosen)
            else:
                with loaded(source, models) as model:
                    result = evaluate_model(model, tokenizer, dataset, **chosen)
            result.settings |= {"benchmark": items.benchmark, "model": source.model, "adapter": source.adapter}
            result.save(folder / f"{file_name(source.name)}.json")
            results.append(result)
        comparisons = [
            compare_results(
                results[0], result, low_resource, items.pivot_language, False, scoring.confidence, scoring.resamples
            )
            for result in results[1:]
        ]
    correct(comparisons)
    sections, tables = evaluation_sections(
        results, low_resource, comparisons, scoring.confidence, scoring.resamples, warnings, scoring.examples
    )
    subtitle = f"{len(set(dataset['parallel_id']))} items in {len(results[0].counts) - 1} languages"
    page = write_report(folder, output.title or f"Evaluation on {Path(items.benchmark).stem}", subtitle, sections)
    print(f"\n{text_of(tables)}\n\nReport: {page}")


def _exemplars(items: BenchmarkOptions, dataset: Any) -> Any:
    """Worked examples: of a file, or those that are published beside the benchmark."""
    from ..evaluation import BENCHMARKS, load_benchmark

    if not items.num_shots:
        return None
    languages = list(dict.fromkeys(dataset["language"]))
    if items.exemplars is not None:
        return load_benchmark(items.exemplars, languages)
    known = BENCHMARKS.get(items.benchmark)
    if known is None or known.exemplar_split is None or items.path is not None:
        raise ValueError(f"`--num_shots {items.num_shots}` needs `--exemplars`: a file with worked examples.")
    return load_benchmark(items.benchmark, languages, split=known.exemplar_split)


def _options(generation: GenerationOptions, responses: Path) -> dict[str, Any]:
    """For `generate_responses`, or for `score_choices`."""
    if generation.method == "likelihood":
        return {"batch_size": generation.batch_size}
    names = (
        "backend",
        "max_new_tokens",
        "batch_size",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "num_samples",
        "seed",
    )
    return {
        **{name: getattr(generation, name) for name in names},
        "chat_template_kwargs": json_object(generation.chat_template_kwargs, "chat_template_kwargs"),
        "output_file": responses,
    }
