"""Is a text in a language? By its script where that decides it, else by a language identifier."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from ..data.scripts import SCRIPTS, expected_script, letter_scripts
from .templates import short_code


Identifier = Callable[[str], str]

MIN_LETTERS = 6  # with fewer there is nothing to tell a language by: "x = 12 km"
_MAIN_SHARE = 0.5  # of the letters; names, units and formulas may be in another script
_MARK_SHARE = 0.1  # kana in Japanese, Hangul in Korean: particles and endings make it far more
# Scripts that one language of the benchmarks writes. Han, Kana and Hangul are told apart by `_MARK_SHARE`.
_DECISIVE = {
    "Greek": "el", "Tamil": "ta", "Telugu": "te", "Kannada": "kn", "Malayalam": "ml", "Gujarati": "gu",
    "Oriya": "or", "Sinhala": "si", "Thai": "th", "Lao": "lo", "Khmer": "km", "Myanmar": "my", "Georgian": "ka",
    "Armenian": "hy", "Gurmukhi": "pa", "Han": "zh", "Kana+Han": "ja", "Hangul+Han": "ko",
}  # fmt: skip
# Languages so close in writing that identifiers take one for the other
_ALIKE = [{"id", "ms", "zsm"}, {"no", "nb", "nn"}, {"hr", "bs", "sr"}, {"tl", "fil"}, {"gn", "gug"}, {"ku", "kmr"}]
# Tags such as <think>, LaTeX commands and environments, links: no words of the text's language
_NO_TEXT = re.compile(r"<[^<>\n]{1,40}>|\\(?:begin|end|text\w*|math\w*)\b|\\[A-Za-z]+|https?://\S+")


@dataclass(frozen=True)
class LanguageDecision:
    """
    Whether a text is in the language it should be in.

    Args:
        in_language (`bool`, *optional*): `None` if that could not be decided.
        by (`str`):
            What decided it: `"script"` or `"identifier"`; or why nothing did: `"empty"` (blank text), `"short"` (fewer
            than 6 letters), `"unknown"` (neither script nor identifier knows the language, or the script does not
            decide it and there is no identifier).
        detail (`str`): The script found, or the identifier's language.
    """

    in_language: bool | None
    by: str
    detail: str = ""


@cache
def load_identifier() -> tuple[Identifier, frozenset[str]]:
    """
    `py3langid`'s identifier, whose model comes in its wheel, and the languages it knows.

    Raises:
        ImportError: If `py3langid` is not installed.
    """
    try:
        langid = import_module("py3langid.langid")
    except ImportError as error:
        raise ImportError(
            "Telling languages of one script apart needs `py3langid`: `pip install 'solar-trl[eval]'`. With "
            '`identifier="none"` only scripts are judged, and what they do not decide is counted as undecided.'
        ) from error
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    labels = identifier.labels() if callable(identifier.labels) else identifier.labels
    return lambda text: identifier.classify(text)[0], frozenset(labels)


def has_identifier() -> bool:
    """Whether `py3langid` is installed."""
    return find_spec("py3langid") is not None


def judge_language(text: str, language: str, use_identifier: bool = True) -> LanguageDecision:
    """
    Decide whether a text is in a language.

    Letters are counted by script (digits, marks, tags, LaTeX commands and links do not count). Then:

    - a text that is blank or has fewer than 6 letters is not decided;
    - if less than half of the letters are of the language's script, it is not in the language: decided by script;
    - Chinese, Japanese and Korean share Han: 10 % kana make a text Japanese, 10 % Hangul Korean, less of both
      Chinese; decided by script, as are languages that have a script of their own (Thai, Telugu, Tamil, Greek, ...);
    - else the identifier decides (Latin, Cyrillic, Arabic, Devanagari, Bengali, ...). It takes near-identical
      languages for each other, so these count as the same: Indonesian and Malay; Norwegian in both forms; Bosnian,
      Croatian and Serbian.

    Args:
        text (`str`):
            Text in any language.
        language (`str`):
            Code of the language it should be in, such as `"sw"` or `"swh_Latn"`.
        use_identifier (`bool`, *optional*, defaults to `True`):
            Without it, what the script does not decide is not decided.

    Returns:
        [`LanguageDecision`]

    Raises:
        ImportError: If the identifier is needed and `py3langid` is not installed.
    """
    if not text or not text.strip():
        return LanguageDecision(None, "empty")
    words = _NO_TEXT.sub(" ", text)
    scripts = letter_scripts(words)
    letters = scripts[scripts > 0]
    if len(letters) < MIN_LETTERS:
        return LanguageDecision(None, "short")
    expected = expected_script(language)
    code = short_code(language)
    main = SCRIPTS[int(np.bincount(letters).argmax())]
    if expected is not None:
        parts = expected.split("+")
        if _share(letters, *parts) < _MAIN_SHARE:
            return LanguageDecision(False, "script", main)
        if _DECISIVE.get(expected) == code:
            return LanguageDecision(_cjk_fits(letters, expected), "script", main)
        usual = expected_script(code) or expected
        if not set(parts) <= set(usual.split("+")):  # romanised: no identifier has seen that
            return LanguageDecision(None, "unknown", main)
    if not use_identifier:
        return LanguageDecision(None, "unknown", main)
    classify, known = load_identifier()
    alike = {code}.union(*(group for group in _ALIKE if code in group))
    if not alike & known:
        return LanguageDecision(None, "unknown", main)
    found = classify(words)
    return LanguageDecision(short_code(found) in alike, "identifier", found)


def _cjk_fits(letters: np.ndarray, expected: str) -> bool:
    """Whether the marks of Japanese and Korean are there or not, as the language has it; True for other scripts."""
    kana, hangul = _share(letters, "Kana") >= _MARK_SHARE, _share(letters, "Hangul") >= _MARK_SHARE
    fits = {"Han": not kana and not hangul, "Kana+Han": kana, "Hangul+Han": hangul}
    return fits.get(expected, True)


def _share(letters: np.ndarray, *scripts: str) -> float:
    codes = [SCRIPTS.index(script) for script in scripts if script in SCRIPTS]
    return float(sum((letters == code).sum() for code in codes)) / len(letters)
