"""The option that a response chooses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from .responses import AFTER_CUE, boxed_contents, final_part


# Labels in their order. Cyrillic is left out: its В is B to the eye and C in order.
_ALPHABETS = [
    "abcdefghij",
    "কখগঘঙচছজঝঞ",
    "कखगघङचछजझञ",
    "กขคงจฉชซฌญ",
    "アイウエオカキクケコ",
    "甲乙丙丁戊己庚辛壬癸",
    "가나다라마바사아자차",
]
_PLACE = {letter: place for alphabet in _ALPHABETS for place, letter in enumerate(alphabet)}
_PLACE |= {"أ": 0, "ا": 0, "ب": 1, "ج": 2, "د": 3}
_LABEL = rf"(?:10|[\d{''.join(_PLACE)}A-J])(?![^\W_]|[\u0300-\u036f\u093a-\u094f\u09bc-\u09cd\u0e31\u0e34-\u0e4e])"
_OPENING = r"[\s*_`\"'“”‘’«»„「『(\[{:=$]*"
_CLOSING = r"[\s*_`\"'”’»」』]*(?:\Z|[).\]}:;、,。!?$|-])"
# "a" with a space after it may be a word: "The answer is a dog"
_AFTER_CUE_LABEL = re.compile(rf"{_OPENING}(?:(?:option|choice)\s*{_OPENING})?((?!a){_LABEL}|a(?={_CLOSING}))")
_AT_START = re.compile(rf"[\s*_`\"'“「(\[]*({_LABEL})(?:{_CLOSING}|[*_`]*\s*\n)")
_BRACKETED = re.compile(rf"(?:\(|\[|\*\*)({_LABEL})(?:\)|\]|\*\*)")
_TEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\b|[{}]")


def choice_index(label: str) -> int | None:
    """0 for `"A"`, `"a"`, `"1"`, `"১"`, `"①"`, `"ক"`, `"ア"`, ...; `None` if it is no label of an option."""
    label = unicodedata.normalize("NFKC", label).strip().casefold()
    if label in _PLACE:
        return _PLACE[label]
    if label.isdecimal() and 1 <= int(label) <= 10:
        return int(label) - 1
    return None


def extract_choice(text: str, choices: Sequence[str]) -> int | None:
    """
    The position of the option that a response chooses.

    Of the part after the thinking (see [`final_part`]), the first of:

    1. the label or option in the last `\\boxed{...}`;
    2. the option's text, or the label, right after the last words that announce an answer ("The answer is (B)",
       "答案是B", "คำตอบคือ ข");
    3. the whole response, if it is an option's text or a label;
    4. a label that the response starts with, followed by a mark ("B.", "(B)", "**B**:");
    5. the last label in brackets or bold: "(B)";
    6. the only option whose text occurs in the response (of options inside other options the longest).

    Labels are letters A to J in either case and full width, numbers 1 to 10 in the digits of any script (also ① and
    ⑴), and the first letters of the Arabic, Bengali, Devanagari, Thai, Kana, Hangul and Chinese lists (甲乙丙丁).
    Labels beyond the number of options do not count; a number that is the text of an option is that option. Texts are
    compared in Unicode NFKC without case and marks.

    Args:
        text (`str`):
            Response in any language.
        choices (`Sequence[str]`):
            The options' texts.

    Returns:
        `int`, *optional*: Position in `choices`, or `None` if none or several could be meant.

    Raises:
        TypeError: If `text` is not a string.
        ValueError: If there are fewer than two options.

    Examples:
    ```python
    >>> from solar_trl.evaluation import extract_choice

    >>> options = ["The cup fell.", "It rained."]
    >>> [extract_choice(text, options) for text in ["B", "Jibu ni (a).", "① 因为…", "It rained", "Hmm."]]
    [1, 0, None, 1, None]
    ```
    """
    if isinstance(choices, str) or len(choices) < 2:
        raise ValueError(f"There must be at least two options, got {choices!r}.")
    text = unicodedata.normalize("NFKC", final_part(text)).strip()
    options = [_plain(choice) for choice in choices]
    for content in boxed_contents(text):
        if (place := _label_or_text(_TEX.sub("", content), options)) is not None:
            return place
    reach = 100 + 2 * max(map(len, choices))  # signs, and the longest option
    for cue in reversed(list(AFTER_CUE.finditer(text))):
        tail = text[cue.end() : cue.end() + reach]
        if (place := _only_text(tail.partition("\n")[0], options, at_start=True)) is not None:
            return place
        if (place := _valid(_AFTER_CUE_LABEL.match(tail), options)) is not None:
            return place
    if (place := _label_or_text(text, options)) is not None:
        return place
    if (place := _valid(_AT_START.match(text), options)) is not None:
        return place
    bracketed = [_valid(match, options) for match in _BRACKETED.finditer(text)]
    if labels := [place for place in bracketed if place is not None]:
        return labels[-1]
    return _only_text(text, options)


def _valid(match: re.Match | None, options: list[str]) -> int | None:
    place = choice_index(match[1]) if match else None
    return place if place is not None and place < len(options) else None


def _label_or_text(text: str, options: list[str]) -> int | None:
    """For a text that is an option or a label (in brackets, with a point) and nothing else."""
    plain = _plain(text)
    if options.count(plain) == 1:
        return options.index(plain)
    place = choice_index(plain)
    return place if place is not None and place < len(options) else None


def _only_text(text: str, options: list[str], at_start: bool = False) -> int | None:
    plain = _plain(text)
    found = []
    for place, option in enumerate(options):
        # Whole words, where letters of the option's script stand apart
        left = r"(?<![^\W_])" if option[:1].isascii() else ""
        right = r"(?![^\W_])" if option[-1:].isascii() else ""
        pattern = re.compile(f"{left}{re.escape(option)}{right}")
        if option and (pattern.match(plain) if at_start else pattern.search(plain)):
            found.append(place)
    longest = [
        place for place in found if not any(options[place] in options[other] for other in found if other != place)
    ]
    return longest[0] if len(longest) == 1 else None


def _plain(text: str) -> str:
    """Without case, punctuation, symbols and repeated spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = (char if unicodedata.category(char)[0] not in "PSC" else " " for char in text)
    return " ".join("".join(kept).split())
