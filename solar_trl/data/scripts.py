"""The script that a language is written in, and the one that a letter belongs to."""

from __future__ import annotations

import unicodedata
from importlib import import_module

import numpy as np

from .languages import normalize_language


# Script -> languages (ISO 639-1, and some codes of ISO 639-3 and FLORES); other spellings are left to `langcodes`
_LANGUAGES = {
    "Latin": "en de fr es it pt nl sv da no nb nn fi et lv lt pl cs sk sl hr bs hu ro tr id ms vi tl fil jv su sw swa "
    "swh ha yo ig zu xh so rw lg ln sn st tn wo om mg ht qu que quy gn ay af ca eu gl ga cy is mt sq lb eo la mi haw "
    "ceb eng deu fra spa ita por tur vie ind",
    "Cyrillic": "ru uk be bg mk ky tg tt ba rus ukr",
    "Greek": "el ell",
    "Hebrew": "he iw yi heb",
    "Arabic": "ar ara arb fa fas ur urd ps ug ckb",
    "Devanagari": "hi hin mr ne sa mai bho",
    "Bengali": "bn ben as",
    "Tamil": "ta tam",
    "Telugu": "te tel",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Gujarati": "gu",
    "Oriya": "or",
    "Sinhala": "si",
    "Thai": "th tha",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my",
    "Tibetan": "bo dz",
    "Ethiopic": "am ti amh",
    "Georgian": "ka",
    "Armenian": "hy",
    "Hangul+Han": "ko kor",
    "Han": "zh zho cmn yue",
    "Kana+Han": "ja jpn",
    "Cyrillic+Latin": "sr uz az kk tk",
    "Cyrillic+Mongolian": "mn",
    "Gurmukhi+Arabic": "pa",
    "Latin+Arabic": "ku",
    "Arabic+Devanagari": "sd ks",
}
_BY_LANGUAGE = {name: scripts for scripts, names in _LANGUAGES.items() for name in names.split()}
_BY_SUBTAG = {
    "latn": "Latin", "cyrl": "Cyrillic", "grek": "Greek", "hebr": "Hebrew", "arab": "Arabic", "deva": "Devanagari",
    "beng": "Bengali", "taml": "Tamil", "telu": "Telugu", "knda": "Kannada", "mlym": "Malayalam", "gujr": "Gujarati",
    "guru": "Gurmukhi", "orya": "Oriya", "sinh": "Sinhala", "thai": "Thai", "laoo": "Lao", "khmr": "Khmer",
    "mymr": "Myanmar", "tibt": "Tibetan", "ethi": "Ethiopic", "geor": "Georgian", "armn": "Armenian",
    "hang": "Hangul+Han", "kore": "Hangul+Han", "hans": "Han", "hant": "Han", "hani": "Han", "jpan": "Kana+Han",
    "mong": "Mongolian",
}  # fmt: skip
SCRIPTS = ["", "another script", *sorted({part for name in _LANGUAGES for part in name.split("+")})]
_BY_UNICODE = {name.upper(): code for code, name in enumerate(SCRIPTS)} | {
    "CJK": SCRIPTS.index("Han"), "IDEOGRAPHIC": SCRIPTS.index("Han"),
    "HIRAGANA": SCRIPTS.index("Kana"), "KATAKANA": SCRIPTS.index("Kana"),
    "KATAKANA-HIRAGANA": SCRIPTS.index("Kana"),
}  # fmt: skip
_NOT_MET = 255
_script_of = np.full(0x110000, _NOT_MET, np.uint8)  # by code point, filled as letters are met


def expected_script(language: str) -> str | None:
    """
    Script, or scripts joined by `+`, that a language is written in.

    Args:
        language (`str`):
            `"sw"`, `"zh-Hant"`, `"swh_Latn"`. A script in the code counts first, then the table of this module, then,
            if `langcodes` and `language_data` are installed, what they know, also of names (`"Swahili"`).

    Returns:
        `str`, *optional*: E.g. `"Latin"` or `"Kana+Han"`; `None` if unknown: nothing is checked then.

    Examples:
    ```python
    >>> from solar_trl.data.scripts import expected_script

    >>> expected_script("th"), expected_script("srp_Latn"), expected_script("ja-JP"), expected_script("xx")
    ('Thai', 'Latin', 'Kana+Han', None)
    ```
    """
    parts = language.strip().lower().replace("_", "-").split("-")
    for part in parts[1:]:
        if part in _BY_SUBTAG:
            return _BY_SUBTAG[part]
    if parts[0] in _BY_LANGUAGE:
        return _BY_LANGUAGE[parts[0]]
    try:
        code = normalize_language(language)
        script = import_module("langcodes").Language.get(code).maximize().script
    except (ImportError, ValueError):  # not installed; no language
        return None
    return _BY_LANGUAGE.get(code) or _BY_SUBTAG.get((script or "").lower())


def letter_scripts(text: str) -> np.ndarray:
    """Index into `SCRIPTS` of each character's script, shape `(len(text),)`, dtype uint8; 0 if it is no letter."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    scripts = _script_of[codes]
    new = scripts == _NOT_MET
    if new.any():
        for code in np.unique(codes[new]):
            _script_of[code] = _look_up(chr(code))
        scripts = _script_of[codes]
    return scripts


def _look_up(char: str) -> int:
    if unicodedata.category(char)[0] != "L":
        return 0
    words = unicodedata.name(char, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split()
    if not words or words[0] in ("MATHEMATICAL", "MODIFIER", "FEMININE", "MASCULINE", "SCRIPT", "DOUBLE-STRUCK"):
        return 0
    return _BY_UNICODE.get(words[0], SCRIPTS.index("another script"))
