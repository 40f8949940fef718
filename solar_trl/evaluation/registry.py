"""Benchmarks that can be loaded by name: where they are published, and how a row is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .answers import choice_letter
from .choices import choice_index


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """
    A benchmark: where it is on the Hub, and how a published row becomes a row of ours.

    Args:
        name (`str`): Name for `load_benchmark`.
        kind (`str`): Kind of the answers: `"number"`, `"choice"`, `"math"` or `"text"`.
        repository (`str`): Dataset on the Hub.
        languages (`dict[str, str]`): Language code -> configuration (or split) on the Hub.
        read (callable): From a row to some of the fields `parallel_id`, `question`, `context`, `relation`, `choices`,
            `answer`, `response`, `subject`. Without `parallel_id`, the row's position is its id.
        split (`str`): Split with the items.
        exemplar_split (`str`, *optional*): Split with worked examples for few-shot prompts.
        by_split (`bool`): Whether languages are splits of one configuration on the Hub instead of configurations.
        header (`tuple[str, ...]`, *optional*): Columns of its published TSV files, which have no header.
        number_repeats (`bool`): Whether ids may repeat in published files; then the second one gets `/2`, and so on.
        checked (`str`): How the names and fields above were verified.
    """

    name: str
    kind: str
    repository: str
    languages: Mapping[str, str]
    read: Callable[[Row], dict[str, Any]]
    split: str = "test"
    exemplar_split: str | None = None
    by_split: bool = False
    header: tuple[str, ...] | None = None
    number_repeats: bool = False
    checked: str = field(default="", compare=False)


BENCHMARKS: dict[str, Benchmark] = {}


def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """
    Make a benchmark known to [`load_benchmark`].

    Raises:
        ValueError: If another benchmark has its name.
    """
    if BENCHMARKS.get(benchmark.name, benchmark) != benchmark:
        raise ValueError(f"There already is a benchmark {benchmark.name!r}.")
    BENCHMARKS[benchmark.name] = benchmark
    return benchmark


def first(row: Row, *names: str, default: Any = None) -> Any:
    """The first of these fields that a row has and that is not missing."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    if default is not None:
        return default
    raise ValueError(
        f"A row has none of the fields {', '.join(map(repr, names))}; it has {', '.join(map(repr, row))}."
    )


def _same(codes: str) -> dict[str, str]:
    return {code: code for code in codes.split()}


def read_custom(row: Row) -> dict[str, Any]:
    """A row in the user's own file: the fields of [`load_benchmark`] under their usual names."""
    choices = row.get("choices")
    if isinstance(choices, str):
        raise ValueError(
            f"`choices` must be a list, got {choices!r}; in CSV and TSV files use `choice1`, `choice2`, ..."
        )
    choices = list(choices) if choices is not None else _numbered(row, "choice", 1) or _lettered(row)
    answer = first(row, "answer", "answer_number", "label", "target", "solution")
    read = {
        "question": first(row, "question", "prompt", "problem", "query", "instruction"),
        "context": row.get("context") or row.get("passage") or "",
        "choices": choices,
        "answer": _own_label(answer, choices) if choices else answer,
        "response": row.get("response") or "",
        "subject": row.get("subject") or row.get("category") or "",
    }
    return read | _id(row, "parallel_id", "id")


def _id(row: Row, *names: str) -> dict[str, Any]:
    parts = [row[name] for name in names if row.get(name) is not None]
    return {"parallel_id": parts[0]} if parts else {}


def _numbered(row: Row, prefix: str, start: int) -> list[str]:
    choices = []
    while row.get(f"{prefix}{start}") not in (None, ""):
        choices.append(str(row[f"{prefix}{start}"]))
        start += 1
    return choices


def _lettered(row: Row) -> list[str]:
    names = [f"option_{letter}" for letter in "abcdefghij"]
    return [str(row[name]) for name in names if row.get(name) not in (None, "")]


def _label(answer: Any, choices: Sequence[str], name: str) -> str:
    """The letter of the right option, from a letter or a number from 1."""
    place = choice_index(str(answer))
    if place is None or place >= len(choices):
        raise ValueError(f"`{name}` is {answer!r}, no label of one of {list(choices)!r}.")
    return choice_letter(place)


def _own_label(answer: Any, choices: Sequence[str]) -> str:
    """The same in the user's own file, where the answer may also be the option's text."""
    if isinstance(answer, str) and list(choices).count(answer) == 1:
        return choice_letter(list(choices).index(answer))
    return _label(answer, choices, "answer")


def _read_mgsm(row: Row) -> dict[str, Any]:
    question = first(row, "question")
    if "answer_number" not in row:  # local files: one field for the number
        return {"question": question, "answer": first(row, "answer"), "response": row.get("response") or ""} | _id(
            row, "parallel_id", "id"
        )
    # On the Hub, the worked examples begin with labels ("Question:"), and `answer` is their solution
    response = row.get("answer") or ""
    if response:
        question, response = (re.sub(r"\A[^:：\n\d.]{1,40}[:：]\s*", "", text) for text in (question, response))
    return {"question": question, "answer": first(row, "answer_number"), "response": response}


def _read_msvamp(row: Row) -> dict[str, Any]:
    read = {"question": first(row, "m_query", "question"), "answer": first(row, "response", "answer")}
    return read | _id(row, "parallel_id", "id")


def _read_xcopa(row: Row) -> dict[str, Any]:
    return {
        "question": first(row, "premise"),
        "relation": first(row, "question"),
        "choices": [first(row, "choice1"), first(row, "choice2")],
        "answer": choice_letter(int(first(row, "label"))),
        "parallel_id": first(row, "parallel_id", "id", "idx"),
    }


def _read_belebele(row: Row) -> dict[str, Any]:
    choices = _numbered(row, "mc_answer", 1)
    # A passage is named by its link, and has one or two questions
    identifier = row.get("parallel_id") or row.get("id") or f"{first(row, 'link')}#{first(row, 'question_number')}"
    return {
        "context": first(row, "flores_passage"),
        "question": first(row, "question"),
        "choices": choices,
        "answer": _label(first(row, "correct_answer_num"), choices, "correct_answer_num"),
        "parallel_id": identifier,
    }


def _read_global_mmlu(row: Row) -> dict[str, Any]:
    choices = _lettered(row)
    return {
        "question": first(row, "question"),
        "choices": choices,
        "answer": _label(first(row, "answer"), choices, "answer"),
        "subject": row.get("subject") or "",
        "parallel_id": first(row, "parallel_id", "sample_id", "id"),
    }


def _read_mmlu_prox(row: Row) -> dict[str, Any]:
    choices = [choice for choice in _numbered(row, "option_", 0) if choice.strip().upper() != "N/A"]
    return {
        "question": first(row, "question"),
        "choices": choices,
        "answer": choice_letter(int(first(row, "answer_index"))),
        "subject": row.get("category") or "",
        "parallel_id": first(row, "parallel_id", "question_id", "id"),
    }


def _read_aime(row: Row) -> dict[str, Any]:
    read = {"question": first(row, "problem", "question", "Problem"), "answer": first(row, "answer", "Answer")}
    return read | _id(row, "parallel_id", "id", "ID")


_MGSM = "bn de en es fr ja ru sw te th zh"
_FLORES = {
    "ar": "arb_Arab", "bn": "ben_Beng", "de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "et": "est_Latn",
    "fr": "fra_Latn", "hi": "hin_Deva", "ht": "hat_Latn", "id": "ind_Latn", "it": "ita_Latn", "ja": "jpn_Jpan",
    "ko": "kor_Hang", "pt": "por_Latn", "ru": "rus_Cyrl", "sw": "swh_Latn", "ta": "tam_Taml", "te": "tel_Telu",
    "th": "tha_Thai", "tr": "tur_Latn", "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip

register_benchmark(
    Benchmark(
        "mgsm",
        "number",
        "juletxara/mgsm",
        _same(_MGSM),
        _read_mgsm,
        exemplar_split="train",
        header=("question", "answer"),
        checked="Fields and splits in lm-evaluation-harness 0.4.13; Parquet since 2026 "
        "(EleutherAI/lm-evaluation-harness#3810). The script-free copy jbross-ibm-research/mgsm has the same fields.",
    )
)
register_benchmark(
    Benchmark(
        "msvamp",
        "number",
        "Mathoctopus/MSVAMP",
        _same("bn de en es fr ja ru sw th zh"),
        _read_msvamp,
        checked="Configurations and split in the dataset's page; fields m_query and response in public code that "
        "loads it. Items are joined by their position.",
    )
)
register_benchmark(
    Benchmark(
        "xcopa",
        "choice",
        "cambridgeltl/xcopa",
        _same("et ht id it qu sw ta th tr vi zh"),
        _read_xcopa,
        exemplar_split="validation",
        checked="Configurations, splits and fields in the TensorFlow Datasets catalogue of Hugging Face sets. English "
        "(COPA) is not part of it: load it from a file.",
    )
)
register_benchmark(
    Benchmark(
        "belebele",
        "choice",
        "facebook/belebele",
        _FLORES,
        _read_belebele,
        number_repeats=True,  # its README makes link, split and number unique; the Hub has no split
        checked="Configurations, split and fields in the dataset's page and README, and lm-evaluation-harness.",
    )
)
register_benchmark(
    Benchmark(
        "global_mmlu",
        "choice",
        "CohereForAI/Global-MMLU",
        _same(
            "am ar bn cs de el en es fa fil fr ha he hi id ig it ja ko ky lt mg ms ne nl ny pl pt ro ru si sn so sr "
            "sv sw te tr uk vi yo zh"
        ),
        _read_global_mmlu,
        exemplar_split="dev",
        checked="Configurations and fields in the dataset's README.",
    )
)
register_benchmark(
    replace(
        BENCHMARKS["global_mmlu"],
        name="global_mmlu_lite",
        repository="CohereForAI/Global-MMLU-Lite",
        languages=_same("ar bn de en es fr hi id it ja ko pt sw yo zh"),
    )
)
register_benchmark(
    Benchmark(
        "mmlu_prox",
        "choice",
        "li-lab/MMLU-ProX",
        _same("af ar bn cs de en es fr hi hu id it ja ko mr ne pt ru sr sw te th uk ur vi wo yo zh zu"),
        _read_mmlu_prox,
        exemplar_split="validation",
        checked="Configurations and splits in lm-evaluation-harness 0.4.13; fields there and in public code.",
    )
)
register_benchmark(
    replace(BENCHMARKS["mmlu_prox"], name="mmlu_prox_lite", repository="li-lab/MMLU-ProX-Lite"),
)
for _year in (2024, 2025):
    register_benchmark(
        Benchmark(
            f"aime{_year}",
            "number",
            f"shanchen/aime_{_year}_multilingual",
            _same(_MGSM),
            _read_aime,
            by_split=True,
            checked="Splits by language and the fields problem and answer in public code that loads it (XReasoning, "
            "arXiv:2505.22888). Items are joined by their id, or their position without one.",
        )
    )
