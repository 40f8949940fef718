"""Labels in all scripts: fonts that have the characters, or the language code where none does."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from .._logging import get_logger


_DEFAULT = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic, Lao
_LONGEST = 24  # characters of a label
# Blocks whose letters join, reorder or stack: without shaping they come out wrong, not as boxes
_SHAPED = (
    "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA",
    "TIBETAN", "MYANMAR", "KHMER", "MONGOLIAN",
)  # fmt: skip


def display_names(languages: Sequence[str], names: Mapping[str, str] | None) -> dict[str, str]:
    """
    The label of each language in a picture.

    Args:
        languages (`Sequence[str]`):
            Codes.
        names (`dict[str, str]`, *optional*):
            Code to the name to show, in any script. A code that is absent is shown itself.

    Returns:
        `dict[str, str]`: Code to label, cut to 24 characters. Where no installed font has all characters of a name, or
        matplotlib cannot shape its script (before 3.11), the label is the code and a warning says so.
    """
    labels, lacking = {}, []
    for number, language in enumerate(languages, start=1):
        label = (names or {}).get(language, language)
        if fonts_for([label])[1]:
            lacking.append(label)
            label = language if not fonts_for([language])[1] else f"language {number}"
        labels[language] = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
    if lacking:
        _warn_once(
            f"No installed font can show {', '.join(map(repr, sorted(lacking)))}: the codes are shown. Install fonts "
            "such as Noto Sans for these scripts, and matplotlib 3.11 or later for Arabic, Hebrew and Indic ones."
        )
    return labels


def display_text(text: str) -> str:
    """Free text without the characters that cannot be shown: an ellipsis and a warning in their place."""
    lacking = fonts_for([text])[1]
    if not lacking:
        return text
    _warn_once(f"No installed font can show {''.join(sorted(lacking))!r} in {text!r}; they are left out.")
    shown = "".join("…" if char in lacking else char for char in text)
    while "……" in shown or "… …" in shown:
        shown = shown.replace("……", "…").replace("… …", "…")
    return shown


def fonts_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """
    Font families that together have the characters of `texts`, the default first, and the characters none has.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('Plots need matplotlib: `pip install "solar-trl[plot]"`.') from error
    needed = {char for text in texts for char in text if not char.isspace()}
    lacking = set() if _can_shape() else {char for char in needed if _needs_shaping(char)}
    families, open_chars = [_DEFAULT], needed - lacking
    open_chars -= {char for char in open_chars if ord(char) in _characters(_default_path())}
    if open_chars:
        for family, path in _installed():
            found = {char for char in open_chars if ord(char) in _characters(path)}
            if found:
                families.append(family)
                open_chars -= found
            if not open_chars:
                break
    return families, lacking | open_chars


@lru_cache(maxsize=128)
def _warn_once(message: str) -> None:
    get_logger().warning(message)


def _can_shape() -> bool:
    from matplotlib import ft2font

    return hasattr(ft2font, "__libraqm_version__")


def _needs_shaping(char: str) -> bool:
    return unicodedata.bidirectional(char) in ("R", "AL") or unicodedata.name(char, "").startswith(_SHAPED)


def _default_path() -> str:
    from matplotlib.font_manager import findfont

    return findfont(_DEFAULT)


def _installed() -> list[tuple[str, str]]:
    """Family and file of upright fonts of normal weight, sans serif first."""
    from matplotlib.font_manager import fontManager

    fonts = {
        font.name: font.fname
        for font in fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular") and "Last Resort" not in font.name
    }
    return sorted(fonts.items(), key=lambda font: ("Sans" not in font[0], "Mono" in font[0], font[0]))


@lru_cache(maxsize=512)
def _characters(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())
