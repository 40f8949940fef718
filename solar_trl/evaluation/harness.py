"""Results of lm-evaluation-harness as records of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._logging import get_logger
from ..data.tables import shorten
from .answers import canonical_answer, choice_letter
from .files import read_rows
from .registry import BENCHMARKS
from .results import Record
from .templates import TEMPLATES, short_code


# Metrics that say of one sample whether it is right, in the order of preference
_METRICS = ("exact_match", "acc", "math_verify", "acc_norm")
_FILTERS = ("flexible-extract", "strict-match", "custom-extract", "remove_whitespace", "none")
_FILE = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d\-.:]+\.jsonl\Z")
_KNOWN = {*TEMPLATES, *(code for benchmark in BENCHMARKS.values() for code in benchmark.languages)}
# Words of task names that are also language codes
_NO_CODES = {"is", "am", "so", "no", "or", "to", "ha", "he", "it", "id", "as", "my", "st", "la"}


def read_harness_results(
    path: str | Path,
    tasks: Sequence[str] | None = None,
    languages: Mapping[str, str] | Callable[[str], str] | None = None,
    metric: str | None = None,
    filter: str | None = None,
    id_fields: Sequence[str] | None = None,
) -> list[Record]:
    """
    Read the samples that lm-evaluation-harness logged (`--log_samples --output_path DIR`).

    Pass the records to [`score_records`] for our scores and intervals, and two models' results to [`compare_tables`].
    Read with lm-eval 0.4.13.

    Args:
        path (`str` or `Path`):
            A `samples_<task>_<date>.jsonl`, or a folder with such files, at any depth. Of several runs of a task the
            latest is taken; a warning says so.
        tasks (`Sequence[str]`, *optional*):
            Tasks to read, all by default. Each language may have several tasks (subjects).
        languages (`dict[str, str]` or callable, *optional*):
            The language of each task. By default the part of its name that is a language's code (`"sw"` of
            `mgsm_direct_sw`, `"swh_Latn"` of `belebele_swh_Latn`).
        metric (`str`, *optional*):
            Metric of the sample that says whether it is right (1) or not (0); by default the first found of
            `exact_match`, `acc`, `math_verify`, `acc_norm`.
        filter (`str`, *optional*):
            Which of the harness's extractions to read, where a task has several; by default the first found of
            `flexible-extract`, `strict-match`, `custom-extract`, `remove_whitespace`, `none`.
        id_fields (`Sequence[str]`, *optional*):
            Fields of the published row that name the item in all languages, e.g. `["link", "question_number"]`. By
            default an item is its place in the data set, together with the task's name without the language.

    Returns:
        `list[Record]`: With the prompt, output, the harness's extracted answer and its judgement.

    Raises:
        FileNotFoundError: If there are no samples.
        ValueError: If a task's language is not known, a task, metric, filter or field is not there, or the metric is
            neither 0 nor 1.
    """
    path = Path(path)
    files = _latest([path] if path.is_file() else sorted(path.rglob("samples_*.jsonl")))
    if not files:
        raise FileNotFoundError(
            f"{str(path)!r} holds no samples_<task>_<date>.jsonl. Run lm-eval with `--log_samples`."
        )
    if tasks is not None:
        if missing := [task for task in tasks if task not in files]:
            raise ValueError(f"There are no samples of {shorten(missing)}; there are of {', '.join(files)}.")
        files = {task: files[task] for task in tasks}
    records = []
    for task, file in files.items():
        language = _language(task, languages)
        family = _family(task, language)
        samples = read_rows(file)
        chosen = _filter(samples, filter, task)
        for sample in samples:
            if sample.get("filter", "none") == chosen:
                records.append(_record(sample, language, _item(sample, family, id_fields, task), metric, task))
    return records


def _latest(files: Sequence[Path]) -> dict[str, Path]:
    latest: dict[str, Path] = {}
    older = 0
    for file in sorted(files, key=lambda file: file.name):
        match = _FILE.match(file.name)
        task = match[1] if match else file.stem.removeprefix("samples_")
        older += task in latest
        latest[task] = file
    if older:
        get_logger().warning(f"{older} files hold older runs of the same tasks; only the latest are read.")
    return latest


def _language(task: str, languages: Mapping[str, str] | Callable[[str], str] | None) -> str:
    if callable(languages):
        return languages(task)
    if languages is not None:
        if task not in languages:
            raise ValueError(f"`languages` does not name the language of the task {task!r}.")
        return languages[task]
    if flores := re.search(r"(?<![A-Za-z])[a-z]{3}_[A-Z][a-z]{3}(?![A-Za-z])", task):
        return flores[0]
    # From the end; the first part names the benchmark. Codes that are words too only count at the end.
    parts = task.split("_")[1:]
    for place in range(len(parts) - 1, -1, -1):
        part = short_code(parts[place])
        if part in _KNOWN and (place == len(parts) - 1 or part not in _NO_CODES):
            return part
    for part in parts:
        if part in _KNOWN:
            return part
    raise ValueError(f"The name of the task {task!r} tells no language. Pass `languages={{{task!r}: 'sw', ...}}`.")


def _family(task: str, language: str) -> str:
    """The task's name without its language: the same for all languages."""
    parts = re.split(rf"(?:\A|_){re.escape(language)}(?=_|\Z)", task)
    return "_".join(part.strip("_") for part in parts if part.strip("_"))


def _filter(samples: Sequence[Mapping[str, Any]], wanted: str | None, task: str) -> str:
    found = list(dict.fromkeys(sample.get("filter", "none") for sample in samples))
    if wanted is not None:
        if wanted not in found:
            raise ValueError(f"{task} has no filter {wanted!r}; it has {', '.join(map(repr, found))}.")
        return wanted
    return next((name for name in _FILTERS if name in found), found[0] if found else "none")


def _item(sample: Mapping[str, Any], family: str, id_fields: Sequence[str] | None, task: str) -> str:
    if id_fields is None:
        return f"{family}/{sample['doc_id']}"
    if missing := [name for name in id_fields if name not in sample["doc"]]:
        raise ValueError(f"{task}: the rows have no field {shorten(missing)}; they have {', '.join(sample['doc'])}.")
    return "/".join(str(sample["doc"][name]) for name in id_fields)


def _record(sample: Mapping[str, Any], language: str, item: str, metric: str | None, task: str) -> Record:
    name = metric or next((each for each in _METRICS if each in sample), None)
    if name is None or name not in sample:
        numbers = [key for key, value in sample.items() if isinstance(value, (int, float)) and key != "doc_id"]
        raise ValueError(f"{task}: the samples have no metric {metric!r}; pass `metric=`, one of {numbers}.")
    if sample[name] not in (0, 1):
        raise ValueError(f"{task}: the metric {name!r} is {sample[name]!r}, expected 0 or 1 for each sample.")
    prompt, output, extracted, scored = _output(sample)
    reference = sample["target"]
    if scored and str(reference).isdecimal():
        reference = choice_letter(int(reference))
    return Record(
        language=language,
        parallel_id=item,
        sample=0,
        prompt=prompt,
        output=output,
        extracted=extracted,
        reference=str(reference),
        correct=bool(sample[name]),
        language_by="scored" if scored else "",
    )


def _output(sample: Mapping[str, Any]) -> tuple[str, str, str | None, bool]:
    """Prompt, output, extracted answer, and whether options were scored instead of generated."""
    arguments, filtered = sample["arguments"], sample["filtered_resps"]
    if isinstance(arguments, dict):
        prompt, continuation = arguments["gen_args_0"]["arg_0"], arguments["gen_args_0"]["arg_1"]
    else:  # before 0.4.9
        prompt, continuation = arguments[0][:2]
    if isinstance(continuation, str):  # else the options of generation
        scores = [float(value) for value, _ in filtered]
        return prompt, "", canonical_answer(choice_letter(scores.index(max(scores)))), True
    answer = filtered[0] if filtered else None
    answer = answer[0] if isinstance(answer, (list, tuple)) and answer else answer
    # The harness writes this where its pattern found nothing
    extracted = None if answer in (None, "[invalid]") else canonical_answer(answer)
    output = sample["resps"][0]
    return prompt, output[0] if isinstance(output, (list, tuple)) else output, extracted, False
