"""The answer in a response, in any language, and whether it is right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from ..data.numbers import extract_numbers, final_number
from .choices import choice_index, extract_choice
from .math_answers import math_equal
from .responses import AFTER_CUE, boxed_contents, final_part


_SIGNS = re.compile(r"[^\w\n]{0,40}")  # "**", ": ", "= $", but no words
KINDS = ("number", "choice", "math", "text")


def extract_number(text: str, decimal_separator: str | None = None) -> str | None:
    """
    The number that a response gives as its answer.

    Of the part after the thinking (see [`final_part`]), the first of:

    1. the number in the last `\\boxed{...}`, or on a last line that starts with `####`
       ([`~solar_trl.data.numbers.final_number`]);
    2. the number right after the last words that announce an answer in one of the languages of the templates ("The
       answer is 42, for 3 people", "答案是 42", "Jibu ni 42"), with nothing but signs between; of a calculation
       ("5 + 6 = 11") its result;
    3. the last number.

    Digits of all scripts, decimals, signs, separators of thousands in both styles and units are read as
    [`~solar_trl.data.numbers.extract_numbers`] says, which also tells what is ambiguous.

    Args:
        text (`str`):
            Response in any language.
        decimal_separator (`str`, *optional*):
            `"."` or `","`, which decides numbers such as `"3.125"`; by default three places are thousands.

    Returns:
        `str`, *optional*: A plain decimal string such as `"-1234.5"`, or `None` if there is no number.

    Raises:
        TypeError: If `text` is not a string.

    Examples:
    ```python
    >>> from solar_trl.evaluation import extract_number

    >>> extract_number("<think>3 or 4?</think>The answer is 1,234 apples for 2 boys."), extract_number("答えは39個。")
    ('1234', '39')
    ```
    """
    text = final_part(text)
    marked = "\\boxed" in text or text.rstrip().rpartition("\n")[2].lstrip().startswith("####")
    if not marked and (tail := _after_last_cue(text)) is not None:
        # To the end of the sentence; a point between digits ends none
        sentence = re.split(r"[.!?](?!\d)|[。।！？\n]", tail)[0]
        result = sentence.rpartition("=")[2] if "=" in sentence else sentence
        if numbers := extract_numbers(result, decimal_separator):
            return numbers[0]
    return final_number(text, decimal_separator)


def _after_last_cue(text: str) -> str | None:
    """What follows the last cue that a number comes right after."""
    for cue in reversed(list(AFTER_CUE.finditer(text))):
        signs = _SIGNS.match(text, cue.end())
        if signs and text[signs.end() : signs.end() + 1].isdecimal():
            return text[cue.end() :]
    return None


def extract_math(text: str) -> str | None:
    """
    The mathematical answer of a response as it is written.

    The content of the last `\\boxed{...}` that is not blank, after the thinking (see [`final_part`]); without one, the
    number of [`extract_number`], which covers answers that are integers, as in AIME.

    Raises:
        TypeError: If `text` is not a string.
    """
    for content in boxed_contents(final_part(text)):
        if content.strip():
            return content.strip()
    return extract_number(text)


def canonical_answer(value: Any) -> str | None:
    """
    An answer in the form in which answers are compared.

    A value that is one number, however written (`18`, `18.0`, `"18"`, `"1,234"`, `"१८"`), becomes its plain decimal
    string; other strings are brought to Unicode NFKC, stripped and case-folded. `None`, NaN and blank strings are no
    answer: `None`.

    Raises:
        TypeError: If it is neither a string nor a number.
    """
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, bool) or not (isinstance(value, (str, int, float)) or hasattr(value, "item")):
        raise TypeError(f"An answer must be a string or a number, got {value!r} ({type(value).__name__}).")
    if not isinstance(value, str):
        value = value.item() if hasattr(value, "item") else value
        return _plain(float(value)) if isinstance(value, float) else str(value)
    text = unicodedata.normalize("NFKC", value).strip().casefold()
    if re.fullmatch(r"[-−+]?[\d.,٫٬'’ \u202f]*\d", text):
        numbers = extract_numbers(text.removeprefix("+"))
        if len(numbers) == 1:
            return numbers[0]
    return text or None


def _plain(value: float) -> str:
    return (
        str(int(value)) if value.is_integer() else format(value, "f").rstrip("0") if abs(value) > 1e-4 else str(value)
    )


def extract_answer(
    text: str, kind: str = "number", choices: Sequence[str] | None = None, decimal_separator: str | None = None
) -> str | None:
    """
    The answer in a response, in the form of [`canonical_answer`]; `None` if there is none.

    Args:
        text (`str`):
            Response.
        kind (`str`, *optional*, defaults to `"number"`):
            `"number"` ([`extract_number`]), `"choice"` ([`extract_choice`], as a letter), `"math"` (LaTeX in the last
            `\\boxed{}`, see [`extract_math`]) or `"text"` (the part after the thinking as it is).
        choices (`Sequence[str]`, *optional*):
            The options' texts; needed for `"choice"`.
        decimal_separator (`str`, *optional*):
            As in [`extract_number`].

    Raises:
        ValueError: If the kind is unknown, or choices are missing.
    """
    if kind == "number":
        return extract_number(text, decimal_separator)
    if kind == "choice":
        if not choices:
            raise ValueError("A multiple-choice answer needs `choices`, the texts of the options.")
        index = extract_choice(text, choices)
        return None if index is None else canonical_answer(choice_letter(index))
    if kind == "math":
        return extract_math(text)
    if kind == "text":
        return canonical_answer(final_part(text))
    raise ValueError(f"`kind` is {kind!r}, expected {', '.join(map(repr, KINDS))}.")


def choice_letter(index: int) -> str:
    """`"A"` for 0, `"B"` for 1, ..."""
    return chr(ord("A") + index)


def is_correct(answer: Any, reference: Any, kind: str = "number") -> bool:
    """
    Whether an extracted answer equals the reference.

    Args:
        answer, reference (`str`, `int` or `float`):
            Compared in the form of [`canonical_answer`]; no answer (`None`) is wrong. For `kind="math"` as
            mathematical expressions, see [`math_equal`]; for `kind="choice"` a label in any script or its letter.
        kind (`str`, *optional*, defaults to `"number"`):
            As in [`extract_answer`].

    Raises:
        ValueError: If the reference is empty: then nothing can be right.
    """
    expected, given = canonical_answer(reference), canonical_answer(answer)
    if expected is None:
        raise ValueError(f"The reference is empty ({reference!r}): it must hold the right answer.")
    if given is None:
        return False
    if given == expected:
        return True
    if kind == "math":
        return math_equal(str(answer), str(reference))
    if kind == "choice":
        place = choice_index(given)
        return place is not None and place == choice_index(expected)
    return False
