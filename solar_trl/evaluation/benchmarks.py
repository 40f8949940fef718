"""Benchmarks in one long format, from the Hub or from local files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from datasets import load_dataset as load_from_hub

from .._logging import get_logger
from ..data.tables import shorten
from .answers import KINDS, canonical_answer
from .files import SUFFIXES, of_split, read_local
from .registry import BENCHMARKS, Benchmark, read_custom


FEATURES = Features(
    {
        "language": Value("string"),
        "parallel_id": Value("string"),
        "kind": Value("string"),
        "question": Value("string"),
        "context": Value("string"),
        "relation": Value("string"),
        "choices": List(Value("string")),
        "answer": Value("string"),
        "response": Value("string"),
        "subject": Value("string"),
    }
)


def load_benchmark(
    name: str,
    languages: Iterable[str] | None = None,
    path: str | Path | None = None,
    split: str | None = None,
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    repository: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """
    Load a benchmark in the long format: one row per item and language.

    Without `path`, rows come from the Hub through `datasets.load_dataset`: `mgsm`, `msvamp`, `xcopa`, `belebele`,
    `global_mmlu`, `global_mmlu_lite`, `mmlu_prox`, `mmlu_prox_lite`, `aime2024` and `aime2025` (translated AIME of
    XReasoning). Where each is published and how that was verified stands in
    `solar_trl.evaluation.registry.BENCHMARKS[name]`; nothing was downloaded to test it, so a name may have moved:
    `repository` names a copy. [`register_benchmark`] adds a benchmark.

    With `path`, rows come from a folder with one file per language, or a single file with a field `language`; JSON
    Lines, JSON, TSV, CSV or Parquet. A file of your own needs no name: `load_benchmark("items.jsonl")`. Its fields:
    `language`, `parallel_id` (or `id`), `question` (or `prompt`, `problem`), `answer`, and, where there are any,
    `choices` (a list, or `choice1`, `choice2`, ...; the answer is the option's text, its letter or its number from 1),
    `context`, `response` (a worked solution, for few-shot prompts) and `subject`.

    Args:
        name (`str`):
            Benchmark, or the path of a file or folder of your own.
        languages (iterable of `str`, *optional*):
            Languages to load; all of the benchmark by default. Belebele takes any FLORES code (`"swh_Latn"`) too.
        path (`str` or `Path`, *optional*):
            File or folder to read instead of the Hub.
        split (`str`, *optional*):
            `"test"` by default. Local rows are chosen by their field `split`, if they have one.
        kind (`str`, *optional*):
            `"number"`, `"choice"`, `"math"` or `"text"`, for files of your own; by default `"choice"` where there are
            choices, else `"number"`.
        columns (`dict[str, str]`, *optional*):
            Fields of the file and what they should be called, e.g. `{"frage": "question"}`.
        repository (`str`, *optional*):
            Dataset on the Hub with the same fields, in place of the registered one.
        limit (`int`, *optional*):
            Only the first items, in the order of the first language: the same ones in every language.

    Returns:
        [`~datasets.Dataset`] with the string columns `language`, `parallel_id`, `kind`, `question`, `context`,
        `relation` (`"cause"` or `"effect"` in XCOPA), `answer` (a number as published, or the letter of the right
        option), `response`, `subject` and the list column `choices`; empty where a benchmark has none. Rows of one
        language follow one another.

    Raises:
        ValueError: If the benchmark, a language or a split is unknown, a field is missing, an id stands twice in a
            language, or languages share no id. Items missing from some languages, and answers that differ between
            languages, are counted in a warning.
        FileNotFoundError: If there is no such file.

    Examples:
    ```python
    >>> from solar_trl.evaluation import load_benchmark

    >>> mgsm = load_benchmark("mgsm", ["en", "sw"])
    >>> own = load_benchmark("items.jsonl")
    ```
    """
    if name not in BENCHMARKS and path is None and (Path(name).suffix in SUFFIXES or Path(name).exists()):
        name, path = "custom", name
    if name not in BENCHMARKS and path is None:
        raise ValueError(
            f"There is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}. For a file of your own pass its path."
        )
    if kind is not None and kind not in KINDS:
        raise ValueError(f"`kind` is {kind!r}, expected {', '.join(map(repr, KINDS))}.")
    if isinstance(languages, str):
        raise TypeError(f"`languages` must be a list, got the string {languages!r}.")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` is {limit}, expected at least 1.")
    benchmark = BENCHMARKS.get(name) or Benchmark(name, kind or "", "", {}, read_custom)
    if repository is not None:
        benchmark = replace(benchmark, repository=repository)
    if path is None:
        by_language = _from_hub(benchmark, languages, split or benchmark.split)
    else:
        by_language = read_local(Path(path), languages, benchmark.header)
        if split or name in BENCHMARKS:
            wanted = split or benchmark.split
            by_language = {key: of_split(rows, wanted, f"{path} ({key})") for key, rows in by_language.items()}
    rows = []
    for language, found in by_language.items():
        for place, row in enumerate(found):
            row = {(columns or {}).get(key, key): value for key, value in row.items()}
            rows.append(_normalise(benchmark, row, language, place, kind))
    if benchmark.number_repeats:
        _number_repeats(rows, name)
    _check(rows, name)
    if limit is not None:
        kept = set(list(dict.fromkeys(row["parallel_id"] for row in rows))[:limit])
        rows = [row for row in rows if row["parallel_id"] in kept]
    return Dataset.from_list(rows, features=FEATURES)


def _from_hub(benchmark: Benchmark, languages: Iterable[str] | None, split: str) -> dict[str, Any]:
    chosen = list(benchmark.languages if languages is None else languages)
    sources = {}
    for language in chosen:
        known = benchmark.languages.get(language) or (language if language in benchmark.languages.values() else None)
        if known is None and benchmark.name == "belebele" and "_" in language:
            known = language
        if known is None:
            raise ValueError(
                f"{benchmark.name} has no {language!r} on the Hub; its languages are "
                f"{', '.join(benchmark.languages)}. Others can come from files: `path=`."
            )
        sources[language] = known
    try:
        if benchmark.by_split:
            return {key: load_from_hub(benchmark.repository, split=name) for key, name in sources.items()}
        return {key: load_from_hub(benchmark.repository, name, split=split) for key, name in sources.items()}
    except Exception as error:
        error.add_note(
            f"While loading {benchmark.name!r} from the Hub ({benchmark.repository}). Pass `path=` for local files, "
            "or `repository=` for another copy with the same fields."
        )
        raise


def _normalise(benchmark: Benchmark, row: Mapping[str, Any], language: str, place: int, kind: str | None) -> dict:
    try:
        read = benchmark.read(row)
    except ValueError as error:
        raise ValueError(f"Row {place} of {language!r} in {benchmark.name}: {error}") from error
    answer = read["answer"]
    empty: dict[str, Any] = dict.fromkeys(FEATURES, "") | {"choices": []}
    return (
        empty
        | read
        | {
            "language": language,
            "parallel_id": str(read.get("parallel_id", place)),
            "kind": kind or benchmark.kind or ("choice" if read.get("choices") else "number"),
            "question": str(read["question"]).strip(),
            # 18.0 of a float column is 18
            "answer": str(answer).strip() if isinstance(answer, str) else canonical_answer(answer) or "",
        }
    )


def _number_repeats(rows: list[dict], name: str) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        key = (row["language"], row["parallel_id"])
        seen[key] += 1
        if seen[key] > 1:
            row["parallel_id"] += f"/{seen[key]}"
    if repeated := sum(count > 1 for count in seen.values()):
        get_logger().warning(
            f"{name}: {repeated} ids stand in several rows, which are joined in the order of the files."
        )


def _check(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    if not rows:
        raise ValueError(f"{name}: there are no rows.")
    items: dict[str, dict[str, str | None]] = {}
    for row in rows:
        answers = items.setdefault(row["parallel_id"], {})
        where = f"{row['language']}/{row['parallel_id']}"
        if row["language"] in answers:
            raise ValueError(f"{name}: the item {where} is there twice. Ids must name an item once per language.")
        if not row["question"] or canonical_answer(row["answer"]) is None:
            raise ValueError(f"{name}: the item {where} has no {'answer' if row['question'] else 'question'}.")
        answers[row["language"]] = canonical_answer(row["answer"])
    languages = list(dict.fromkeys(row["language"] for row in rows))
    counts = [len(answers) for answers in items.values()]
    if len(languages) > 1 and max(counts) == 1:
        raise ValueError(
            f"{name}: no two of the languages {', '.join(languages)} share an id. Give the translations of an item "
            "the same `parallel_id` (or `id`)."
        )
    if incomplete := sum(count < len(languages) for count in counts):
        get_logger().warning(f"{name}: {incomplete} of {len(items)} items are missing in some languages.")
    differing = [item for item, answers in items.items() if len(set(answers.values())) > 1]
    if differing:
        get_logger().warning(
            f"{name}: the answers of {len(differing)} of {len(items)} items differ between languages "
            f"({shorten(differing)}). Are the rows parallel?"
        )
