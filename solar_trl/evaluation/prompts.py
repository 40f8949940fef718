"""Prompts in the language of each item, with worked examples that are parallel across languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from .._logging import get_logger
from ..data.tables import shorten
from .answers import choice_letter
from .templates import Template, template_for


Message = dict[str, str]
Prompt = str | list[Message]


def build_prompts(
    dataset: Dataset,
    exemplars: Dataset | None = None,
    num_shots: int = 0,
    chat: bool = True,
    instruction: str | Mapping[str, str] | None = None,
) -> list[Any]:
    """
    One prompt per row of a benchmark, in the row's language.

    The instruction asks for the words that announce the answer in that language ("The answer is"), which the
    extraction looks for. Languages without a template of ours get the English one; a warning names them.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows of [`load_benchmark`].
        exemplars ([`~datasets.Dataset`], *optional*):
            Worked examples: rows of [`load_benchmark`], such as its `split="train"`. Each language must have the
            examples used; all languages get the same ones, in the same order (the first by appearance). For numbers
            they need a `response`; for choices the answer's letter will do.
        num_shots (`int`, *optional*, defaults to `0`):
            Worked examples per prompt.
        chat (`bool`, *optional*, defaults to `True`):
            Messages for models with a chat template, or one text that ends where the answer begins, for base models.
        instruction (`str` or `dict[str, str]`, *optional*):
            In place of the template's, for all languages or by language.

    Returns:
        list of `list[dict]` (messages) or `str`, in the order of the rows.

    Raises:
        ValueError: If exemplars are missing, also in one language, or one of them is among the items.

    Examples:
    ```python
    >>> from solar_trl.evaluation import build_prompts, load_benchmark

    >>> exemplars = load_benchmark("mgsm", ["sw"], path="mgsm_cot")
    >>> prompts = build_prompts(load_benchmark("mgsm", ["sw"]), exemplars, num_shots=8, chat=False)
    ```
    """
    if num_shots < 0:
        raise ValueError(f"`num_shots` is {num_shots}, expected 0 or more.")
    languages = list(dict.fromkeys(dataset["language"]))
    if without := [language for language in languages if not template_for(language)[1]]:
        get_logger().warning(f"{shorten(without)}: no template in this language; its prompts are worded in English.")
    shots = _shots(dataset, exemplars, num_shots, languages) if num_shots else {}
    prompts: list[Prompt] = []
    for row in dataset:
        language = row["language"]
        template, _ = template_for(language)
        asked = instruction.get(language) if isinstance(instruction, Mapping) else instruction
        asked = _instruction(template, row) if asked is None else asked
        examples = shots.get(language, [])
        prompts.append(
            _as_messages(row, template, asked, examples) if chat else _as_text(row, template, asked, examples)
        )
    return prompts


def render_item(row: Mapping[str, Any], template: Template) -> str:
    """The text of an item: passage, question and options."""
    question = row["question"]
    if row.get("relation"):
        question = f"{question}\n{template.cause if row['relation'] == 'cause' else template.effect}"
    options = [f"{choice_letter(place)}. {choice}" for place, choice in enumerate(row.get("choices") or [])]
    passage = [row["context"]] if row.get("context") else []
    return "\n".join([*passage, question, *options])


def stop_strings(dataset: Dataset) -> list[str]:
    """What begins the next question of a few-shot prompt for base models, in the languages of the rows."""
    headings = {template_for(language)[0].question for language in dict.fromkeys(dataset["language"])}
    return sorted(f"\n{heading}:" for heading in headings)


def _instruction(template: Template, row: Mapping[str, Any]) -> str:
    text = template.choose if row["kind"] == "choice" else template.solve
    return text.format(cue=template.cues[0])


def _solution(row: Mapping[str, Any], template: Template) -> str:
    if row["response"]:
        return row["response"]
    if row["kind"] != "choice":
        raise ValueError(
            f"The exemplar {row['language']}/{row['parallel_id']} has no `response`: worked examples need a solution."
        )
    cue = template.cues[0]
    return f"{cue} {row['answer']}"


def _as_messages(row, template: Template, instruction: str, examples: Sequence[Mapping]) -> list[Message]:
    messages: list[Message] = []
    for example in examples:
        messages.append({"role": "user", "content": f"{render_item(example, template)}\n\n{instruction}"})
        messages.append({"role": "assistant", "content": _solution(example, template)})
    return [*messages, {"role": "user", "content": f"{render_item(row, template)}\n\n{instruction}"}]


def _as_text(row, template: Template, instruction: str, examples: Sequence[Mapping]) -> str:
    blocks = [instruction]
    for example in examples:
        solved = _solution(example, template)
        blocks.append(f"{template.question}: {render_item(example, template)}\n{template.answer}: {solved}")
    return "\n\n".join([*blocks, f"{template.question}: {render_item(row, template)}\n{template.answer}:"])


def _shots(
    dataset: Dataset, exemplars: Dataset | None, num_shots: int, languages: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The same examples for each language, in the same order."""
    if exemplars is None:
        raise ValueError(f"`num_shots={num_shots}` needs `exemplars`: worked examples in the languages of the items.")
    by_language: dict[str, dict[str, dict[str, Any]]] = {}
    for row in exemplars:
        by_language.setdefault(row["language"], {})[row["parallel_id"]] = row
    if missing := [language for language in languages if language not in by_language]:
        raise ValueError(f"There are no exemplars in {shorten(missing)}; there are in {shorten(list(by_language))}.")
    ids = [item for item in by_language[languages[0]] if all(item in by_language[name] for name in languages)]
    if len(ids) < num_shots:
        raise ValueError(f"Only {len(ids)} exemplars are in all of the languages; `num_shots` is {num_shots}.")
    shots = {language: [by_language[language][item] for item in ids[:num_shots]] for language in languages}
    asked = set(zip(dataset["language"], dataset["question"], dataset["relation"], strict=True))
    for language, rows in shots.items():
        for row in rows:
            if (language, row["question"], row["relation"]) in asked:
                raise ValueError(
                    f"The exemplar {language}/{row['parallel_id']} is one of the items: its answer would be in the "
                    "prompt. Use exemplars of another split."
                )
    return shots
