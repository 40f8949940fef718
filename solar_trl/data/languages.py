"""Languages under one name: codes of every standard, English names and own names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .._logging import get_logger
from .tables import SplitDataset, by_split, read_column, require_columns, set_column, text_column


# A language subtag, then script, region or variants, joined by hyphens or, as in FLORES and POSIX, underscores
_CODE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")
_NO_LANGUAGE = {None, "und", "mul", "mis", "zxx"}  # undetermined, multiple, uncoded, no linguistic content


def _library() -> Any:
    try:
        import_module("language_data")  # the names; without it only codes are known
        return import_module("langcodes")
    except ImportError as error:
        raise ImportError(
            "Recognising languages needs `langcodes` and `language_data`: `pip install 'solar-trl[data]'`. Without "
            "them, name the languages yourself (`languages=`), or map the column with `dataset.map`."
        ) from error


@lru_cache(maxsize=10_000)
def _standard_tag(name: str) -> str | None:
    """The BCP-47 tag that a code or a name stands for, in its shortest form; None if it is no language."""
    langcodes = _library()
    name = unicodedata.normalize("NFC", name).strip()
    tag = None
    if _CODE.fullmatch(name):
        tag = name.replace("_", "-")
        try:
            language = langcodes.Language.get(tag)
        except langcodes.LanguageTagError:
            tag = None
        else:
            tag = tag if language.is_valid() and not language.extlangs else None
    for spelling in (name, name.replace("_", " ")):
        if tag is None and (len(name) > 3 or not name.isascii()):  # "a" and "abc" are names by chance
            with suppress(LookupError):
                tag = langcodes.find(spelling).to_tag()
    if tag is None:
        return None
    tag = langcodes.standardize_tag(tag, macro=True)
    code = langcodes.Language.get(tag).language
    private = code is not None and len(code) == 3 and "qaa" <= code <= "qtz"
    return None if code in _NO_LANGUAGE or private else tag


def _hint(name: str) -> str:
    """For a country's code ("jp"), the language that is probably meant."""
    langcodes = _library()
    if not re.fullmatch("[A-Za-z]{2}", name):
        return ""
    territory = langcodes.Language.make(territory=name.upper())
    if not territory.is_valid() or "Unknown" in territory.territory_name():
        return ""
    language = territory.maximize().language
    country = territory.territory_name()
    return f" {name!r} is a country ({country}); for its main language, `aliases={{{name!r}: {language!r}}}`."


def normalize_language(name: str, aliases: Mapping[str, str] | None = None) -> str:
    """
    The code of a language, however it is written.

    Script, region and variants are left out, and the standard member of a macrolanguage gets the code of the whole
    (`"cmn"` is `"zh"`, `"swh"` is `"sw"`), so that the same language is called the same in every source. Languages
    with a two-letter code get that one.

    Args:
        name (`str`):
            A code (`"en"`, `"EN"`, `"eng"`), also of FLORES (`"zho_Hans"`) or BCP-47 (`"pt-BR"`), an English name
            (`"Swahili"`), or the language's name in itself (`"Kiswahili"`, `"Deutsch"`), in any case.
        aliases (`dict[str, str]`, *optional*):
            Names of your own and what they become. They come first, and are returned as they are: with
            `{"zho_Hant": "zh-Hant"}` traditional Chinese stays a language of its own.

    Returns:
        `str`: The code.

    Raises:
        ValueError: If it is no language.
        TypeError: If it is not a string.
        ImportError: If `langcodes` or `language_data` is not installed (`pip install 'solar-trl[data]'`).

    Examples:
    ```python
    >>> from solar_trl.data import normalize_language

    >>> [normalize_language(name) for name in ["EN", "eng_Latn", "zho_Hans", "pt-BR", "Swahili", "Deutsch", "ไทย"]]
    ['en', 'en', 'zh', 'pt', 'sw', 'de', 'th']
    >>> normalize_language("jp", aliases={"jp": "ja"})
    'ja'
    ```
    """
    if not isinstance(name, str):
        raise TypeError(f"A language must be a string, got {name!r} ({type(name).__name__}).")
    if aliases and name in aliases:
        return aliases[name]
    tag = _standard_tag(name)
    if tag is None:
        raise ValueError(
            f"{name!r} is no language: neither a code (such as 'sw', 'swh_Latn', 'pt-BR') nor a name that is known "
            f"(such as 'Swahili').{_hint(name)} Say what it stands for, e.g. `aliases={{{name!r}: 'sw'}}`."
        )
    return tag.split("-")[0]


def normalize_languages(
    dataset: SplitDataset, language_column: str = "language", aliases: Mapping[str, str] | None = None
) -> SplitDataset:
    """
    Give each language of a column its code, see [`normalize_language`].

    Each distinct value is looked up once. Missing values stay missing. Where values that differ in script, region or
    variant become one language (`"zho_Hans"` and `"zho_Hant"`), a warning names them: as long as both are there,
    items have two rows in that language.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Rows with a language column of strings. Streams stay lazy.
        language_column (`str`, *optional*, defaults to `"language"`):
            The column, which is replaced.
        aliases (`dict[str, str]`, *optional*):
            Names of your own and what they become; they come first.

    Returns:
        The same type as `dataset`. No other column is copied.

    Raises:
        ValueError: If the column is missing, or a value is no language.
        TypeError: If the column holds no strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import normalize_languages

    >>> rows = Dataset.from_dict({"language": ["English", "Swahili", None], "text": ["Hi", "Jambo", "?"]})
    >>> normalize_languages(rows)["language"][:]
    ['en', 'sw', None]
    ```
    """
    aliases = dict(aliases or {})

    def normalize_table(rows):
        require_columns(rows, {language_column: "`language_column`"})
        column = text_column(read_column(rows, language_column), language_column)
        names = [name for name in pc.unique(column).to_pylist() if name is not None]
        codes = {name: normalize_language(name, aliases) for name in names}
        _warn_of_merged(codes, aliases)
        _tell_guesses(codes, aliases)
        # Positions in `names`, then the codes at these positions
        positions = pc.index_in(column, value_set=pa.array(names, column.type))
        return set_column(rows, language_column, pc.take(pa.array(list(codes.values()), pa.string()), positions))

    def normalize_stream(rows):
        require_columns(rows, {language_column: "`language_column`"})

        def normalize(row):
            name = row[language_column]
            return {language_column: None if name is None else normalize_language(name, aliases)}

        return rows.map(normalize, features=rows.features)

    return by_split(dataset, normalize_table, normalize_stream)


def _tell_guesses(codes: Mapping[str, str], aliases: Mapping[str, str]) -> None:
    """Say which names are neither a code nor exactly a language's name, and what they were taken for."""
    guesses = []
    for name, code in codes.items():
        if name in aliases or _CODE.fullmatch(name.strip()):
            continue
        language = _library().Language.get(code)
        if name.strip().casefold() not in {language.display_name().casefold(), language.autonym().casefold()}:
            guesses.append(f"{name!r} is {code!r} ({language.display_name()})")
    if guesses:
        get_logger().info(f"Languages by a name like theirs: {'; '.join(guesses)}. `aliases` overrides that.")


def _warn_of_merged(codes: Mapping[str, str], aliases: Mapping[str, str]) -> None:
    merged: dict[str, dict[str | None, str]] = {}
    for name, code in codes.items():
        if name not in aliases:
            merged.setdefault(code, {}).setdefault(_standard_tag(name), name)
    for code, names in merged.items():
        if len(names) > 1:
            shown = ", ".join(map(repr, names.values()))
            get_logger().warning(
                f"{shown} all become {code!r}. If they are different translations, keep them apart with `aliases`, "
                f"e.g. `aliases={{{list(names.values())[-1]!r}: {list(names)[-1]!r}}}`."
            )
