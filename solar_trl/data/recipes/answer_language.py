"""Answers in another language than the prompt's."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..pairing import PairingColumns
from ..tables import SplitDataset
from .names import language_name
from .rows import NO_PARALLEL, Item, add_rows, check_share, draw, pick, without_pair
from .texts import RowTexts, template_fields


_NAME = "answer_in_other_language"
_DIRECTIONS = ("any", "en2x", "x2en", "x2x")


def answer_in_other_language(
    dataset: SplitDataset,
    share: float = 1.0,
    direction: str = "any",
    p_src: float = 0.0,
    repeats: int = 1,
    template: str = "{prompt}\nAnswer in {language}.",
    language_names: Mapping[str, str] | None = None,
    seed: int = 0,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
) -> SplitDataset:
    """
    Add rows that ask in one language and are answered in another: the prompt of a row, an instruction, and the
    completion of one of its parallels.

    The new row is labelled with the language of its response, which is what alignment compares by default, and keeps
    its id: a Swahili answer to an English prompt pairs with the item's English row, like the Swahili row itself.
    A new row that answers in the pivot language gets no id (it is null): it would be a second, different pivot of its
    item. It trains with the SFT loss alone. Other columns are those of the row that the prompt comes from.

    The existing rows stay as they are. Which rows are made depends on the seed, the id, the language, and the number
    of the row among those with the same id and language: not on the order of items, shards or workers.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in the long format, with `prompt` and `completion` (text or messages) or `messages`. In a stream, the
            rows of an item must be adjacent, and [`carry_pivots`] comes after this. New rows come last in a table, and
            after their item in a stream.
        share (`float`, *optional*, defaults to `1.0`):
            Probability of a row with the right language to be used.
        direction (`str`, *optional*, defaults to `"any"`):
            Languages of prompt and answer: `"en2x"` from the pivot language to another, `"x2en"` from another to the
            pivot language, `"x2x"` between two others, `"any"` for all of these.
        p_src (`float`, *optional*, defaults to `0.0`):
            Probability that a new row keeps the language of its prompt, instruction included. 0.5 in AFP. 0 here,
            since the existing rows, without an instruction, stay.
        repeats (`int`, *optional*, defaults to `1`):
            New rows per row that is used, drawn independently. 3 in AFP.
        template (`str`, *optional*, defaults to `"{prompt}\\nAnswer in {language}."`):
            What becomes of the prompt (of conversations: the last user turn), with `{prompt}`, and `{language}` (the
            English name) or `{code}` (what the language column holds) of the answer.
        language_names (`dict[str, str]`, *optional*):
            What languages are called, by the values of the language column. By default their English names, which need
            `pip install 'solar-trl[data]'`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all draws.
        language_column, parallel_id_column, pivot_language:
            As in [`find_pivots`].

    Returns:
        The same type as `dataset`.

    Raises:
        ValueError: If an option has no such value, a column is missing, the rows are plain text or tokenized, nothing
            in a table has the parallel that is needed, or a language has no known name.
        TypeError: If languages are not strings, ids neither integers nor strings, or texts neither strings nor
            messages.
        ImportError: If a language's name is to be looked up and `langcodes` or `language_data` is not installed.

    Source: cross-lingual instruction following of AFP (arXiv:2311.08089) and CrossIn (arXiv:2404.11932).

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.recipes import answer_in_other_language

    >>> rows = {"language": ["en", "sw"], "parallel_id": [1, 1], "prompt": ["2 + 2?", "2 + 2 ni ngapi?"]}
    >>> rows = Dataset.from_dict({**rows, "completion": ["It is 4.", "Ni 4."]})
    >>> answer_in_other_language(rows, direction="en2x", language_names={"sw": "Swahili"})[2]
    {'language': 'sw', 'parallel_id': 1, 'prompt': '2 + 2?\\nAnswer in Swahili.', 'completion': 'Ni 4.'}
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    check_share("share", share)
    check_share("p_src", p_src, zero=True)
    if direction not in _DIRECTIONS:
        raise ValueError(f"`direction` is {direction!r}, expected {' or '.join(map(repr, _DIRECTIONS))}.")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"`repeats` is {repeats!r}, expected an integer from 1.")
    _check_template(template)
    choose = functools.partial(
        _choose, columns=columns, share=share, direction=direction, p_src=p_src, repeats=repeats, seed=seed
    )
    combine = functools.partial(_combine, columns=columns, template=template, names=language_names)
    return add_rows(dataset, columns, choose, combine, _NAME)


def _check_template(template: str) -> None:
    fields = template_fields(template)
    if "prompt" not in fields or not fields & {"language", "code"} or fields - {"prompt", "language", "code"}:
        raise ValueError(f"`template` is {template!r}, expected `{{prompt}}`, and `{{language}}` or `{{code}}`.")


def _choose(
    item: Item, columns: PairingColumns, share: float, direction: str, p_src: float, repeats: int, seed: int
) -> Iterable[tuple[int, int]]:
    if item.id is None:
        return
    pivots = columns.pivot_languages
    by_language: dict[str, list[int]] = {}  # aliases of the pivot language are one language
    for i, language in enumerate(item.languages):
        if language is not None:
            by_language.setdefault(pivots[0] if language in pivots else language, []).append(i)
    for source, (language, number) in enumerate(zip(item.languages, item.numbers, strict=True)):
        is_pivot = language in pivots
        if language is None or (direction in ("x2en", "x2x") and is_pivot) or (direction == "en2x" and not is_pivot):
            continue
        key = (_NAME, seed, item.id, language, number)
        if draw(*key, "share") >= share:
            continue
        own = pivots[0] if is_pivot else language
        allowed = {"x2en": {pivots[0]}, "x2x": set(by_language) - {pivots[0]}}.get(direction, set(by_language))
        targets = sorted((allowed & set(by_language)) - {own})
        for repeat in range(repeats):
            if draw(*key, "p_src", repeat) < p_src:
                yield source, source
            elif targets:
                yield source, pick(by_language[pick(targets, *key, "language", repeat)], *key, "row", repeat)
            else:
                yield source, NO_PARALLEL


def _combine(
    texts: RowTexts,
    row: dict[str, Any],
    other: dict[str, Any],
    columns: PairingColumns,
    template: str,
    names: Mapping[str, str] | None,
) -> dict[str, Any]:
    code = other[columns.language]
    name = language_name(code, names) if "{language" in template else ""
    texts.edit_last_input(row, lambda prompt: template.format(prompt=prompt, language=name, code=code))
    texts.take_response(row, other)
    row[columns.language] = code
    if code in columns.pivot_languages:
        without_pair(row, columns)
    return row
