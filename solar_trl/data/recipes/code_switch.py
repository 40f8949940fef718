"""Words of the input replaced by their translations."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from ..._logging import get_logger
from ..pairing import PairingColumns
from ..streaming import copy_row
from ..tables import SplitDataset, by_split, read_column, require_columns, row_id, shorten
from .rows import (
    check_share,
    digest,
    language_of,
    named_languages,
    naming,
    pairing_meaning,
    plain,
    refuse_carried,
    unformatted,
)
from .texts import RowTexts
from .words import Dictionary


_NAME = "code_switch"


def code_switch(
    dataset: SplitDataset,
    dictionary: Mapping[str, Mapping[str, str | Sequence[str]]],
    p: float = 0.05,
    seed: int = 0,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
) -> SplitDataset:
    """
    Replace words of the inputs by translations from a bilingual dictionary; the targets stay as they are.

    Labels and ids stay too: the label is the language of the response. Rows of a language without a dictionary stay as
    they are, so `{"en": ...}` mixes other languages into English prompts, as PreAlign does, and `{"sw": ...}` English
    (or any other language) into Swahili ones.

    Words are matched whole, with the longest entry of the dictionary first (`"ice cream"` before `"ice"`), and without
    regard to case where the dictionary does not have the very case. Then the translation is written like the word:
    capitalised, or in capitals. In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) the longest
    entry is taken from left to right, which now and then cuts a longer word that the dictionary lacks. Code between
    backticks, formulas between `$`, `\\( \\)` or `\\[ \\]`, addresses, tags, `{placeholders}`, names such as `os.path`
    or `print(`, and words with digits are left alone.

    What is replaced depends on the seed, the id, the language and the text alone: not on the order of rows, shards or
    workers, and it is the same in every epoch.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows in the long format, with `prompt` and `completion` (text or messages; of messages the user turns are
            input) or `messages`. Streams in any order; [`carry_pivots`] comes after this.
        dictionary (`dict[str, dict[str, str | list[str]]]`):
            By the language of the row (as the language column has it), its words and their translation, or several of
            which one is drawn.
        p (`float`, *optional*, defaults to `0.05`):
            Probability of each word that the dictionary has to be replaced. 0.05 as in the code of PreAlign.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all draws.
        language_column, parallel_id_column:
            As in [`find_pivots`].

    Returns:
        The same type as `dataset`, with as many rows in the same order.

    Raises:
        ValueError: If `p` is not in (0, 1], a column is missing, the rows are plain text or tokenized, or a table has
            none of the languages of the dictionary.
        TypeError: If the dictionary is none, languages are not strings, ids neither integers nor strings, or texts
            neither strings nor messages.

    Source: input-only code-switching of PreAlign (arXiv:2407.16222), its published code.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.recipes import code_switch

    >>> rows = {"language": ["en"], "parallel_id": [1], "prompt": ["Two eggs, `eggs`."], "completion": ["2 eggs"]}
    >>> code_switch(Dataset.from_dict(rows), {"en": {"two": "mbili", "eggs": ["mayai"]}}, p=1.0)[0]
    {'language': 'en', 'parallel_id': 1, 'prompt': 'Mbili mayai, `eggs`.', 'completion': '2 eggs'}
    ```
    """
    columns = PairingColumns.build(language_column, parallel_id_column, ())
    check_share("p", p)
    tables = _read(dictionary)
    options = {"columns": columns, "tables": tables, "p": p, "seed": seed}

    def table(rows: Dataset) -> Dataset:
        texts = RowTexts.find(require_columns(rows, pairing_meaning(columns)), _NAME)
        languages = [name for name in pc.unique(read_column(rows, columns.language)).to_pylist() if name is not None]
        if languages and not set(languages) & set(tables):
            raise ValueError(
                f"`dictionary` has no language of the rows: it is for {shorten(list(tables))}, the column "
                f"{columns.language!r} holds {shorten(languages)}."
            )
        without = [language for language in languages if language not in tables]
        if without:
            get_logger().info(f"{_NAME}: no dictionary for {shorten(without, 20)}: these rows stay as they are.")
        rows = named_languages(rows, columns.language)
        switch = functools.partial(_switch, texts=texts, **options)
        return unformatted(rows, lambda plain: plain.map(switch, features=plain.features, desc=_NAME))

    def stream(rows: IterableDataset) -> IterableDataset:
        names = require_columns(rows, pairing_meaning(columns))
        refuse_carried(names)
        rows = named_languages(rows, columns.language)
        texts = RowTexts.find(names, _NAME)
        return rows.map(functools.partial(_switch, texts=texts, **options), features=rows.features)

    return by_split(dataset, table, stream)


def _switch(
    row: dict[str, Any],
    texts: RowTexts,
    columns: PairingColumns,
    tables: dict[str, Dictionary],
    p: float,
    seed: int,
) -> dict[str, Any]:
    language = language_of(row, columns.language)
    if language not in tables:
        return dict(row)
    row = copy_row(dict(row))
    parallel_id = plain(row_id(row, columns.parallel_id))

    def edit(text: str) -> str:
        rng = random.Random(digest(_NAME, seed, parallel_id, language, text))
        return tables[language].replace(text, lambda words: rng.choice(words) if rng.random() < p else None)

    with naming(row, columns):
        texts.edit_inputs(row, edit)
    return row


def _read(dictionary: Any) -> dict[str, Dictionary]:
    """The dictionaries by language, checked."""
    expected = "expected `{language: {word: translation, or list of translations}}`"
    if not isinstance(dictionary, Mapping) or not all(isinstance(words, Mapping) for words in dictionary.values()):
        raise TypeError(f"`dictionary` is {dictionary!r:.80}, {expected}.")
    result = {}
    for language, words in dictionary.items():
        found: dict[str, list[str]] = {}
        for word, given in words.items():
            translations = [given] if isinstance(given, str) else given
            fits = isinstance(word, str) and isinstance(translations, Sequence) and len(translations) > 0
            if not fits or not all(isinstance(text, str) and text.strip() for text in (word, *translations)):
                raise TypeError(f"`dictionary[{language!r}]` has the entry {word!r}: {given!r:.80}, {expected}.")
            found[word] = list(translations)
        result[language] = Dictionary(found)
    return result
