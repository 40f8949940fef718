"""Translation tasks made of the parallels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..pairing import PairingColumns
from ..tables import SplitDataset
from .names import language_name
from .rows import NO_PARALLEL, Item, add_rows, check_share, draw, without_pair
from .texts import RowTexts, template_fields


_NAME = "mix_translation"
_DIRECTIONS = ("x2en", "en2x", "both")
_FIELDS = ("prompt", "completion")


def mix_translation(
    dataset: SplitDataset,
    ratio: float = 0.25,
    direction: str = "both",
    field: str = "prompt",
    template: str = "Translate the following text from {source} to {target}.\n\n{text}",
    language_names: Mapping[str, str] | None = None,
    seed: int = 0,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
) -> SplitDataset:
    """
    Add translation tasks: "Translate the following text from Swahili to English", made of the parallels themselves.

    By default questions are translated, without their answers. The new row is labelled with the language that it
    translates into. It gets no id (null), so that it pairs with nothing and trains with the SFT loss alone: its
    response is a question, which is no translation of its item's response. The report counts the rows into other
    languages as unpaired; `missing_pivot="drop"` would remove them, and `"error"` refuses them. System prompts and
    earlier turns are left out of the new rows; columns other than the texts are those of the row that is translated.

    The existing rows stay as they are. Which rows are made depends on the seed, the id, the language, and the number
    of the row among those with the same id and language: not on the order of items, shards or workers.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in the long format, with `prompt` and `completion` (text or messages) or `messages`. In a stream, the
            rows of an item must be adjacent, and [`carry_pivots`] comes after this. New rows come last in a table, and
            after their item in a stream.
        ratio (`float`, *optional*, defaults to `0.25`):
            Translation tasks per row that has a pivot: the probability of each to give one. With English and four
            languages in full, 0.25 makes one row in six a translation. The published recipes use a stage of their own
            or fixed numbers of rows, so this value is ours.
        direction (`str`, *optional*, defaults to `"both"`):
            `"x2en"` into the pivot language, `"en2x"` out of it, or `"both"`, one of them with probability 1/2.
        field (`str`, *optional*, defaults to `"prompt"`):
            What is translated: the `"prompt"` (of conversations: the last user turn), or the `"completion"` (the last
            assistant turn).
        template (`str`, *optional*, defaults to `"Translate the following text from {source} to ..."`):
            The instruction, with `{text}`, and `{source}` and `{target}`, the names of the languages (either may be
            left out).
        language_names (`dict[str, str]`, *optional*):
            What languages are called, by the values of the language column. By default their English names, which need
            `pip install 'solar-trl[data]'`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all draws.
        language_column, parallel_id_column, pivot_language:
            As in [`find_pivots`]. Of several pivots of an item the first is taken.

    Returns:
        The same type as `dataset`.

    Raises:
        ValueError: If an option has no such value, a column is missing, the rows are plain text or tokenized, nothing
            in a table has a pivot, or a language has no known name.
        TypeError: If languages are not strings, ids neither integers nor strings, or texts neither strings nor
            messages.
        ImportError: If a language's name is to be looked up and `langcodes` or `language_data` is not installed.

    Source: question translation of QAlign (arXiv:2401.07817) and of arXiv:2405.13816; translation out of English mixed
    into instruction data, x-LLaMA (arXiv:2308.04948).

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.recipes import mix_translation

    >>> rows = {"language": ["en", "sw"], "parallel_id": [1, 1], "prompt": ["2 + 2?", "2 + 2 ni ngapi?"]}
    >>> rows = Dataset.from_dict({**rows, "completion": ["It is 4.", "Ni 4."]})
    >>> mix_translation(rows, 1.0, "en2x", template="To {target}: {text}", language_names={"sw": "Swahili"})[2]
    {'language': 'sw', 'parallel_id': None, 'prompt': 'To Swahili: 2 + 2?', 'completion': '2 + 2 ni ngapi?'}
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    check_share("ratio", ratio)
    for option, value, choices in (("direction", direction, _DIRECTIONS), ("field", field, _FIELDS)):
        if value not in choices:
            raise ValueError(f"`{option}` is {value!r}, expected {' or '.join(map(repr, choices))}.")
    _check_template(template)
    choose = functools.partial(_choose, columns=columns, ratio=ratio, direction=direction, seed=seed)
    combine = functools.partial(_combine, columns=columns, field=field, template=template, names=language_names)
    return add_rows(dataset, columns, choose, combine, _NAME)


def _check_template(template: str) -> None:
    fields = template_fields(template)
    if "text" not in fields or fields - {"text", "source", "target"}:
        raise ValueError(f"`template` is {template!r}, expected `{{text}}`, and `{{source}}` or `{{target}}`.")


def _choose(item: Item, columns: PairingColumns, ratio: float, direction: str, seed: int) -> Iterable[tuple[int, int]]:
    pivots = [i for i, language in enumerate(item.languages) if language in columns.pivot_languages]
    for i, (language, number) in enumerate(zip(item.languages, item.numbers, strict=True)):
        if language is None or language in columns.pivot_languages:
            continue
        key = (_NAME, seed, item.id, language, number)
        if item.id is None or not pivots:
            yield i, NO_PARALLEL
        elif draw(*key, "ratio") < ratio:
            into_pivot = direction == "x2en" or (direction == "both" and draw(*key, "direction") < 0.5)
            yield (i, pivots[0]) if into_pivot else (pivots[0], i)


def _combine(
    texts: RowTexts,
    row: dict[str, Any],
    other: dict[str, Any],
    columns: PairingColumns,
    field: str,
    template: str,
    names: Mapping[str, str] | None,
) -> dict[str, Any] | None:
    read = texts.last_input if field == "prompt" else texts.response
    text, translation = read(row), read(other)
    if not text.strip() or not translation.strip():
        return None
    source = language_name(row[columns.language], names) if "{source" in template else ""
    target = language_name(other[columns.language], names) if "{target" in template else ""
    texts.rewrite(row, template.format(text=text, source=source, target=target), translation)
    row[columns.language] = other[columns.language]
    without_pair(row, columns)
    return row
