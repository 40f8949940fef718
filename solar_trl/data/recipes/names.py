"""What a language is called in an instruction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module

from ..languages import normalize_language


def language_name(label: str, names: Mapping[str, str] | None = None) -> str:
    """
    English name of a language: "Swahili" for "sw", "Chinese (Traditional)" for "zh-Hant".

    Args:
        label (`str`): What the language column holds.
        names (`dict[str, str]`, *optional*): Names of your own, by label. They come first.

    Raises:
        ValueError: If it is no language.
        ImportError: If `names` has none and `langcodes` or `language_data` is not installed.
    """
    if names is not None and label in names:
        return names[label]
    try:
        return _english_name(label)
    except ValueError as error:
        raise ValueError(
            f"{label!r} is no language that is known. Say what it is called, e.g. "
            f"`language_names={{{label!r}: 'Swahili'}}`."
        ) from error
    except ImportError as error:
        raise ImportError(
            f"What {label!r} is called is looked up in `langcodes` and `language_data`: `pip install "
            f"'solar-trl[data]'`, or name it yourself, e.g. `language_names={{{label!r}: 'Swahili'}}`."
        ) from error


@lru_cache(maxsize=10_000)
def _english_name(label: str) -> str:
    code = normalize_language(label)
    langcodes = import_module("langcodes")
    tag = label.replace("_", "-")
    if langcodes.tag_is_valid(tag):
        code = langcodes.standardize_tag(tag, macro=True)
    return langcodes.Language.get(code).display_name("en")
