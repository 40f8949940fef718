"""A model on a benchmark: responses, answers, scores with intervals, and every row on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .._logging import get_logger
from .answers import canonical_answer, choice_letter, extract_answer, is_correct
from .benchmarks import load_benchmark
from .comparison import score_intervals
from .fidelity import fidelity_scores, judge_languages
from .generation import generate_responses
from .language_id import LanguageDecision
from .likelihood import score_choices
from .metrics import consistency_report
from .prompts import Prompt, build_prompts, stop_strings
from .registry import BENCHMARKS
from .results import EvaluationResult, Record, score_table
from .sampling import Response
from .scores import accuracy_scores
from .statistics import Interval, bootstrap_mean


def evaluate_model(
    model: Any,
    tokenizer: Any,
    benchmark: str | Dataset,
    languages: Iterable[str] | None = None,
    *,
    path: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    exemplars: Dataset | None = None,
    num_shots: int = 0,
    chat: bool | None = None,
    instruction: str | dict[str, str] | None = None,
    method: str = "generate",
    pivot_language: str = "en",
    identifier: str = "auto",
    name: str | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    **generation: Any,
) -> EvaluationResult:
    """
    Evaluate a model on a benchmark.

    Args:
        model, tokenizer:
            As in [`generate_responses`].
        benchmark (`str` or [`~datasets.Dataset`]):
            Name or path for [`load_benchmark`], or its rows.
        languages, path, split, limit:
            For [`load_benchmark`]; with a dataset, `languages` chooses among its languages.
        exemplars ([`~datasets.Dataset`], *optional*), num_shots (`int`), instruction:
            For [`build_prompts`]. Benchmarks that publish worked examples beside their items (`mgsm`, `xcopa`,
            `global_mmlu`, `mmlu_prox`), read from the Hub, need no `exemplars`.
        chat (`bool`, *optional*):
            Whether to use the chat template; by default if the tokenizer has one. Base models are given texts, which
            they continue, until they would ask the next question.
        method (`str`, *optional*, defaults to `"generate"`):
            `"generate"` a response and extract the answer, or `"likelihood"`: the option's letter that is most likely
            right after the prompt ([`score_choices`]; multiple choice only).
        pivot_language (`str`, *optional*, defaults to `"en"`):
            Language with which the others are compared.
        identifier (`str`, *optional*, defaults to `"auto"`):
            For [`LanguageFidelity`].
        name (`str`, *optional*):
            What to call the result; the benchmark's name by default.
        confidence (`float`), resamples (`int`):
            For the intervals.
        **generation:
            For [`generate_responses`] (`max_new_tokens`, `batch_size`, `temperature`, `num_samples`, `output_file`,
            `backend`, ...), or `normalization`, `batch_size` and `progress` of [`score_choices`].

    Returns:
        [`EvaluationResult`]

    Raises:
        ValueError: From loading, prompts and generation; for an unknown method, or likelihood without choices.

    Examples:
    ```python
    >>> from solar_trl.evaluation import evaluate_model

    >>> result = evaluate_model(model, tokenizer, "mgsm", ["en", "sw"], max_new_tokens=512, output_file="mgsm.jsonl")
    >>> result.metrics["accuracy/sw"], result.intervals["accuracy/sw"], result.counts["sw"]["unextractable"]
    ```
    """
    if method not in ("generate", "likelihood"):
        raise ValueError(f"`method` is {method!r}, expected 'generate' or 'likelihood'.")
    dataset, title = benchmark_rows(benchmark, languages, path, split, limit)
    if chat is None and tokenizer is None:
        raise ValueError("Without a `tokenizer` nothing tells whether there is a chat template: pass it, or `chat=`.")
    if chat is None:
        chat = getattr(tokenizer, "chat_template", None) is not None
    if num_shots and exemplars is None:
        exemplars = _published_exemplars(benchmark, languages, path)
    prompts = build_prompts(dataset, exemplars, num_shots, chat, instruction)
    settings = {
        "benchmark": title,
        "languages": list(dict.fromkeys(dataset["language"])),
        "num_shots": num_shots,
        "chat": chat,
        "method": method,
        "pivot_language": pivot_language,
        **{key: str(value) if isinstance(value, Path) else value for key, value in generation.items()},
    }
    if method == "likelihood":
        records = _scored(model, tokenizer, dataset, prompts, chat, generation)
    else:
        if not chat and "stop" not in generation:
            generation["stop"] = settings["stop"] = stop_strings(dataset)
        records = response_records(dataset, prompts, generate_responses(model, tokenizer, prompts, **generation))
    return score_records(records, name or title, pivot_language, identifier, settings, confidence, resamples)


def response_records(
    dataset: Dataset, prompts: Sequence[Prompt], responses: Sequence[Sequence[Response]]
) -> list[Record]:
    """Records of responses to the rows of a benchmark: the answer of each is extracted and compared."""
    records = []
    for row, prompt, samples in zip(dataset, prompts, responses, strict=True):
        for sample, response in enumerate(samples):
            extracted = extract_answer(response.text, row["kind"], row["choices"] or None)
            records.append(_record(row, sample, prompt, response.text, extracted, response.finished))
    return records


def score_records(
    records: Sequence[Record],
    name: str = "",
    pivot_language: str = "en",
    identifier: str = "auto",
    settings: dict[str, Any] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> EvaluationResult:
    """
    Scores of responses, wherever they come from.

    With several samples per item, a language's accuracy is the mean over items of the share of right samples;
    consistency compares first samples with first ones, second with second, and takes the mean.

    Args:
        records (`Sequence[Record]`):
            Responses; `in_language` is filled in where an output was generated.
        name, pivot_language, identifier, settings, confidence, resamples:
            As in [`evaluate_model`].

    Raises:
        ValueError: If there are no records, a language and item stands there twice for one sample, samples are
            missing, or languages share no item.
    """
    if not records:
        raise ValueError("There are no records to score.")
    table = score_table(records)
    ones = table.present.astype(float)
    scores = accuracy_scores(table.accuracy, ones, table.languages, pivot_language, np.ones((1, len(ones))))
    metrics = {key: float(value[0]) for key, value in scores.items()}
    if len(table.languages) > 1:
        metrics |= consistency_report(table, pivot_language)
    generated = [record for record in records if record.language_by != "scored"]
    if generated:
        decisions = _judged(generated, identifier)
        metrics |= fidelity_scores(decisions, [record.language for record in generated])
    counts = _counts(records)
    _report(counts["all"], name)
    intervals = score_intervals(table, pivot_language, confidence, resamples)
    if generated:
        intervals |= _fidelity_intervals(generated, confidence, resamples)
    return EvaluationResult(name, metrics, intervals, counts, dict(settings or {}), list(records))


def _judged(records: Sequence[Record], identifier: str) -> list[LanguageDecision]:
    decisions = judge_languages(
        [record.output for record in records], [record.language for record in records], identifier
    )
    for record, decision in zip(records, decisions, strict=True):
        record.in_language, record.language_by = decision.in_language, decision.by
    return decisions


def _fidelity_intervals(records: Sequence[Record], confidence: float, resamples: int) -> dict[str, Interval]:
    """Intervals of the shares of outputs in the right language, among those that were decided."""
    by_name: dict[str, list[Record]] = {}
    for record in records:
        if record.in_language is not None:
            for name in ("fidelity", f"fidelity/{record.language}"):
                by_name.setdefault(name, []).append(record)
    return {
        name: bootstrap_mean(
            [float(record.in_language is True) for record in found],
            [record.parallel_id for record in found],
            confidence,
            resamples,
        )
        for name, found in by_name.items()
    }


def benchmark_rows(
    benchmark: str | Dataset,
    languages: Iterable[str] | None = None,
    path: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> tuple[Dataset, str]:
    """Rows of a benchmark, by name or as they are, in some languages and up to some number of items; and its name."""
    if isinstance(benchmark, str):
        return load_benchmark(benchmark, languages, path, split, limit=limit), Path(benchmark).stem
    if not isinstance(benchmark, Dataset):
        raise TypeError(f"`benchmark` must be a name, a path or a Dataset, got {type(benchmark).__name__}.")
    if path is not None or split is not None:
        raise ValueError("`path` and `split` are for benchmarks by name; the dataset is loaded already.")
    known = benchmark["language"][:]
    if languages is not None:
        wanted = list(languages)
        if missing := [language for language in wanted if language not in known]:
            raise ValueError(f"The dataset has no {missing}; its languages are {', '.join(dict.fromkeys(known))}.")
        benchmark = benchmark.select([place for place, language in enumerate(known) if language in wanted])
    if limit is not None:
        ids = benchmark["parallel_id"][:]
        kept = set(list(dict.fromkeys(ids))[:limit])
        benchmark = benchmark.select([place for place, item in enumerate(ids) if item in kept])
    return benchmark, "dataset"


def _published_exemplars(benchmark, languages, path) -> Dataset | None:
    """The worked examples that are on the Hub beside a benchmark's items, `None` if there are none."""
    known = BENCHMARKS.get(benchmark) if isinstance(benchmark, str) and path is None else None
    if known is None or known.exemplar_split is None:
        return None
    return load_benchmark(known.name, languages, split=known.exemplar_split)


def _scored(model, tokenizer, dataset, prompts, chat: bool, options: dict[str, Any]) -> list[Record]:
    if any(not choices for choices in dataset["choices"]):
        raise ValueError('`method="likelihood"` compares options, and some items have none. Use "generate".')
    space = "" if chat else " "
    letters = [[f"{space}{choice_letter(place)}" for place in range(len(choices))] for choices in dataset["choices"]]
    scores = score_choices(model, tokenizer, prompts, letters, **options)
    records = []
    for row, prompt, values in zip(dataset, prompts, scores, strict=True):
        record = _record(row, 0, prompt, "", canonical_answer(choice_letter(int(values.argmax()))), True)
        record.language_by = "scored"
        records.append(record)
    return records


def _record(row, sample: int, prompt: Prompt, output: str, extracted: str | None, finished: bool) -> Record:
    return Record(
        language=row["language"],
        parallel_id=row["parallel_id"],
        sample=sample,
        prompt=prompt,
        output=output,
        extracted=extracted,
        reference=row["answer"],
        correct=is_correct(extracted, row["answer"], row["kind"]),
        finished=finished,
        subject=row["subject"],
    )


def _counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    kinds = ("rows", "correct", "empty", "unextractable", "unfinished")
    counts: dict[str, Counter[str]] = {}
    for record in records:
        empty = record.language_by != "scored" and not record.output.strip()
        for key in ("all", record.language):
            count = counts.setdefault(key, Counter())
            count["rows"] += 1
            count["correct"] += record.correct
            count["empty"] += empty
            count["unextractable"] += record.extracted is None and not empty
            count["unfinished"] += not record.finished
    return {key: {kind: count[kind] for kind in kinds} for key, count in counts.items()}


def _report(counts: dict[str, int], name: str) -> None:
    parts = [f"{counts[kind]} {kind}" for kind in ("empty", "unextractable", "unfinished") if counts[kind]]
    if parts:
        get_logger().warning(f"{name}: of {counts['rows']} outputs, {', '.join(parts)}. Without an answer is wrong.")
