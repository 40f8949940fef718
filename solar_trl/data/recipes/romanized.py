"""Romanised copies of rows."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from ..pairing import PairingColumns
from ..scripts import expected_script
from ..tables import SplitDataset
from .rows import Item, add_rows
from .texts import RowTexts


_NAME = "add_romanized"
_SCRIPT = re.compile(r"(?<=[-_])[A-Z][a-z]{3}(?=$|[-_])")


def add_romanized(
    dataset: SplitDataset,
    romanize: Callable[[str, str], str] | None = None,
    completion: bool = False,
    languages: Sequence[str] | None = None,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
) -> SplitDataset:
    """
    Add a copy of each row with the prompt, and on request the completion, in Latin letters.

    The copy keeps its id, and is labelled with the script, `"hi-Latn"` for a copy of `"hi"` (`"hin_Latn"` of
    `"hin_Deva"`): a language of its own in metrics and reports. It is one more positive of its item: it pairs with the
    item's pivot, as the row itself does. To align copies with the native rows instead, without any parallel data, make
    these the pivots (`pivot_language="hi"`).

    Without `completion` the label names the script of the input, and the response is in the native one: a model learns
    to read romanised text, and writes as it did. [`parallel_report`] then remarks on the script of the responses.

    Nothing is drawn: the result does not depend on the order of rows, shards or workers.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in the long format, with `prompt` and `completion` (text or messages; user turns are romanised, system
            prompts are not) or `messages`. [`carry_pivots`] comes after this. Copies come last in a table, and after
            the rows of their item in a stream.
        romanize (callable, *optional*):
            From a text and its language (the value of the language column) to the text in Latin letters. By default
            uroman, which needs `pip install uroman`.
        completion (`bool`, *optional*, defaults to `False`):
            Whether to romanise the completion (of conversations: assistant turns) too.
        languages (`list[str]`, *optional*):
            Values of the language column whose rows are copied. By default those that are not known to be written in
            Latin letters. Rows that romanisation does not change are not copied.
        language_column, parallel_id_column, pivot_language:
            As in [`find_pivots`].

    Returns:
        The same type as `dataset`.

    Raises:
        ValueError: If a column is missing, the rows are plain text or tokenized, or a language of `languages` is
            labelled as romanised already.
        TypeError: If `romanize` is not callable or gives no string, languages are not strings, or texts neither
            strings nor messages.
        ImportError: If `romanize` is not given and `uroman` is not installed.

    Source: romanised copies as positives, Transliteration-PPA (arXiv:2406.19759); romanised training data, RomanSetu
    (arXiv:2401.14280). Both adapted.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.recipes import add_romanized

    >>> rows = {"language": ["el"], "parallel_id": [1], "prompt": ["Πόσα;"], "completion": ["Τέσσερα."]}
    >>> add_romanized(Dataset.from_dict(rows), romanize=lambda text, language: "Posa?")[1]
    {'language': 'el-Latn', 'parallel_id': 1, 'prompt': 'Posa?', 'completion': 'Τέσσερα.'}
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    if romanize is None:
        _uroman()  # an error now, not in a worker
        romanize = _romanize
    elif not callable(romanize):
        raise TypeError(f"`romanize` is {romanize!r:.80}, expected a function of a text and its language.")
    if isinstance(languages, str):
        raise TypeError(f"`languages` is {languages!r}, expected a list such as [{languages!r}].")
    for language in languages or ():
        if romanized_label(language) == language:
            raise ValueError(f"`languages` names {language!r}, which is labelled as Latin already.")
    choose = functools.partial(_choose, languages=None if languages is None else tuple(languages))
    combine = functools.partial(_combine, columns=columns, romanize=romanize, completion=completion)
    return add_rows(dataset, columns, choose, combine, _NAME)


def romanized_label(language: str) -> str:
    """
    Label of romanised rows of a language: with the script subtag `Latn`.

    Examples:
    ```python
    >>> from solar_trl.data.recipes.romanized import romanized_label

    >>> romanized_label("hi"), romanized_label("hin_Deva"), romanized_label("zh-Hant-TW")
    ('hi-Latn', 'hin_Latn', 'zh-Latn-TW')
    ```
    """
    if _SCRIPT.search(language):
        return _SCRIPT.sub("Latn", language, count=1)
    code, separator, rest = re.fullmatch(r"([^-_]*)([-_]?)(.*)", language, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{code}{separator or '-'}Latn{separator}{rest}"


def _choose(item: Item, languages: tuple[str, ...] | None) -> Iterable[tuple[int, int]]:
    for i, language in enumerate(item.languages):
        if language is not None and (language in languages if languages is not None else not _is_latin(language)):
            yield i, i


@lru_cache(maxsize=10_000)
def _is_latin(language: str) -> bool:
    return "Latin" in (expected_script(language) or "").split("+")


def _combine(
    texts: RowTexts,
    row: dict[str, Any],
    _: dict[str, Any],
    columns: PairingColumns,
    romanize: Callable[[str, str], str],
    completion: bool,
) -> dict[str, Any] | None:
    language = row[columns.language]
    changed = False

    def edit(text: str) -> str:
        nonlocal changed
        result = romanize(text, language)
        if not isinstance(result, str):
            raise TypeError(f"`romanize` gave {result!r:.80} for {text!r:.80} ({language!r}), expected a string.")
        changed |= result != text
        return result

    texts.edit_inputs(row, edit)
    if completion:
        texts.edit_targets(row, edit)
    row[columns.language] = romanized_label(language)
    return row if changed else None


def _romanize(text: str, language: str) -> str:
    return _uroman().romanize_string(text, lcode=_three_letters(language))


@lru_cache(maxsize=1)
def _uroman() -> Any:
    """Once per process: its tables take seconds to load."""
    try:
        return import_module("uroman").Uroman()
    except ImportError as error:
        raise ImportError(
            "Romanising text needs `uroman`: `pip install uroman`. Or pass a function of your own as `romanize`."
        ) from error


@lru_cache(maxsize=10_000)
def _three_letters(language: str) -> str | None:
    """The code that uroman knows a language by; without `langcodes`, or for an unknown language, none."""
    try:
        return import_module("langcodes").Language.get(re.split("[-_]", language)[0]).to_alpha3()
    except (ImportError, LookupError, ValueError):
        return None
