"""Numbers in text of any language, as strings that can be compared across languages."""

from __future__ import annotations

import re
from functools import lru_cache


# Marks that only group digits. A point or a comma may group or start the decimals: see `_parse`.
_SPACES = " \u00a0\u2007\u2009\u202f"
_GROUPING = "'’ʼ٬" + _SPACES
_MINUS = "-−–－﹣‐‑"
_PUNCTUATION = "،؛।\u2010-\u206f\u3000-\u303f！-／：-＠"  # for a character class
_CURRENCY = "$€£¥₹₽₩฿₫₦₺₴₪＄￥￡￦"

# Digits of any script joined by marks; a space only joins groups of three. Whether it is one number, `_parse` says.
_CLUSTER = re.compile(rf"\d+(?:[.,٫'’ʼ٬]\d+|[{_SPACES}]\d{{3}}(?!\d))*")
_ONE_GROUPING = re.compile(rf"([1-9]\d{{0,2}}(?:([.,{_GROUPING}])\d{{3}})(?:\2\d{{3}})*)(?:((?!\2)[.,٫])(\d+))?")
_INDIAN = re.compile(r"([1-9]\d?(?:,\d{2})+,\d{3})(?:\.(\d+))?")
_DECIMAL = re.compile(r"(\d+)[.,٫](\d+)")

# What before a minus makes it a subtraction, a range or a hyphen: a digit (with its unit or its bracket), a letter of
# a script that writes spaces between words, another dash. Where words are not spaced, "答案是-5" is a negative number.
_NOT_A_SIGN = re.compile(
    rf"(?:[\d)\]}}%٪％°²³][\t{_SPACES}{_CURRENCY}%٪％°]*|\d[^\s\x00-\x7f{_PUNCTUATION}]{{1,3}}"
    rf"|[A-Za-zÀ-ɏͰ-ԯ_]|[{_MINUS}—])\Z"
)
_FULL_WIDTH_MARK = re.compile(r"(?<=[０-９])[，．](?=[０-９])")
_BIDI_MARK = re.compile("[\u061c\u200b\u200e\u200f\u2060\u2066-\u2069\ufeff]")
_LATEX_MARK = re.compile(r"\{([,.])\}|([,.])\\!|(?<=\d)\\[,;:! ](?=\d{3}(?!\d))")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")


def _decimal_string(integer: str, fraction: str = "") -> str:
    integer, fraction = integer.lstrip("0") or "0", fraction.rstrip("0")
    return f"{integer}.{fraction}" if fraction else integer


def _single(cluster: str, decimal_separator: str | None) -> str | None:
    """The cluster of ASCII digits and marks as one number, or None if it is not one."""
    if cluster.isdigit():
        return _decimal_string(cluster)
    if match := _ONE_GROUPING.fullmatch(cluster):
        digits, mark, _, fraction = match.groups()
        if fraction is None and mark == decimal_separator and digits.count(mark) == 1:
            return _decimal_string(*digits.split(mark))
        return _decimal_string(digits.replace(mark, ""), fraction or "")
    if match := _INDIAN.fullmatch(cluster):
        return _decimal_string(match[1].replace(",", ""), match[2] or "")
    if match := _DECIMAL.fullmatch(cluster):
        return _decimal_string(match[1], match[2])
    return None


@lru_cache(maxsize=65_536)
def _parse(cluster: str, decimal_separator: str | None) -> tuple[str, ...]:
    """The numbers of a cluster: one, or the parts of a list, a date, a version."""
    if not cluster.isascii():
        cluster = "".join(str(int(char)) if char.isdecimal() else char for char in cluster)
    if (number := _single(cluster, decimal_separator)) is not None:
        return (number,)
    for marks in (_SPACES, ",", "."):
        parts = re.split(f"[{marks}]", cluster)
        if len(parts) > 1:
            numbers = [_single(part, decimal_separator) for part in parts]
            if all(number is not None for number in numbers):
                return tuple(number for number in numbers if number is not None)
    return tuple(_decimal_string(part) for part in re.findall(r"\d+", cluster))


def extract_numbers(text: str, decimal_separator: str | None = None) -> list[str]:
    """
    The numbers of a text in any language, in order, as plain decimal strings.

    `"5,600"`, `"5.600"`, `"5 600"`, `"5'600"`, `"৫৬০০"` and `"5600.0"` all give `"5600"`, so that the numbers of
    translations can be compared as strings. Exactly:

    - *Digits* are those of any script with decimal digits (Unicode category Nd: Western, Arabic-Indic, Devanagari,
      Bengali, Telugu, Thai, full-width, ...). Number words ("two", "二"), fractions ("½"), superscripts and the
      additive numerals of Ethiopic, Tamil or Chinese are not read.
    - *Grouping*: a first group of one to three digits that does not start with 0, then groups of exactly three, all
      with the same mark: point, comma, apostrophe, Arabic `٬`, a space (ordinary, no-break, thin), or in LaTeX `{,}`,
      `,\\!` and `\\,`. Indian grouping (`1,23,456`) with commas. An ordinary space does not join if a digit and a
      space come before (`"1 2 300"` is a list).
    - *Decimals* follow a point, a comma or the Arabic `٫`. With two kinds of marks the last one starts the decimals
      (`"1,234.5"`, `"1.234,5"`). A leading point counts where nothing is before it (`"= .5"`).
    - *Ambiguous*: one point or comma with one to three digits before it, the first not 0, and exactly three after it
      (`"1.234"`, `"1,234"`) groups thousands, in every language. So a decimal with exactly three places is read as
      thousands, but in all its translations alike. `decimal_separator` decides such cases otherwise.
    - *Lists*: marks that can be none of these separate numbers: `"1,2,3"`, `"12.05.2024"`, `"1.5,2.5"`; but `"1,2"`
      is 1.2. Full-width `，` and `．` belong to a number between full-width digits only, else they are punctuation.
    - *Sign*: a minus (`-`, `−`, `–`, full-width) right before the number, or before its currency sign. It is none
      after a digit on the same line (also with its unit or a bracket), a dash, or a Latin, Greek or Cyrillic letter:
      `"5-6"`, `"5 -6"`, `"5円-6円"` and `"COVID-19"` hold no negative number, `"= -5"`, `"($-5)"`, `"答案是-5"` do.
    - *Times, ranges, fractions, dates, powers* give their parts: `"3:30"` 3 and 30, `"5-6"` 5 and 6, `"1/2"` 1 and 2.
      Percent signs, currencies and units are left out.

    Args:
        text (`str`):
            Text in any language.
        decimal_separator (`str`, *optional*):
            `"."` or `","`: the mark that starts the decimals in an ambiguous number. By default both group thousands.

    Returns:
        `list[str]`: Numbers without leading zeros, without trailing zeros in the decimals, with `-` if negative.

    Raises:
        TypeError: If `text` is not a string.
        ValueError: If `decimal_separator` is neither `"."` nor `","`.

    Examples:
    ```python
    >>> from solar_trl.data.numbers import extract_numbers

    >>> extract_numbers("৫টি বল + 1.234,50 € - 3:30")
    ['5', '1234.5', '3', '30']
    >>> extract_numbers("5,600 = 5.600")
    ['5600', '5600']
    >>> extract_numbers("3.125", decimal_separator=".")
    ['3.125']
    ```
    """
    if not isinstance(text, str):
        raise TypeError(f"Numbers are read from a string, got {type(text).__name__} ({text!r:.50}).")
    if decimal_separator not in (None, ".", ","):
        raise ValueError(f"`decimal_separator` must be '.' or ',', or None for the rule, got {decimal_separator!r}.")
    if not text.isascii():
        if _FULL_WIDTH_MARK.search(text):
            text = _FULL_WIDTH_MARK.sub(lambda match: "," if match[0] == "，" else ".", text)
        text = _BIDI_MARK.sub("", text)
    if "\\" in text or "{" in text:
        text = _LATEX_MARK.sub(lambda match: match[1] or match[2] or "\u00a0", text)
    numbers: list[str] = []
    for match in _CLUSTER.finditer(text):
        cluster, start = match[0], match.start()
        before = text[start - 1] if start else ""
        if " " in cluster and before == " " and text[start - 2 : start - 1].isdecimal():
            numbers += [number for part in cluster.split(" ") for number in _parse(part, decimal_separator)]
            continue
        found = _parse(cluster, decimal_separator)
        if before == "." and cluster.isdecimal() and _starts_decimals(text, start - 1):
            found = _parse(f"0.{cluster}", decimal_separator)
            start -= 1
            before = text[start - 1] if start else ""
        if before and before in _CURRENCY and start > 1:
            start -= 1
            before = text[start - 1]
        if before and before in _MINUS and not _NOT_A_SIGN.search(text, max(0, start - 7), start - 1):
            found = (found[0] if found[0] == "0" else f"-{found[0]}", *found[1:])
        numbers += found
    return numbers


def unsigned(number: str) -> str:
    """A number of [`extract_numbers`] without its sign: what a dash before one means differs between scripts."""
    return number.lstrip("-")


def _starts_decimals(text: str, point: int) -> bool:
    """Whether a point with a digit after it stands alone, as in "= .5", not at the end of a sentence."""
    before = text[point - 1] if point else " "
    return before.isspace() or before in "([{=+*/×<>~≈" or before in _CURRENCY or before in _MINUS


def final_number(text: str, decimal_separator: str | None = None) -> str | None:
    """
    The number a response ends with: its answer, where it is a worked solution.

    The last number in the last `\\boxed{...}` that holds one; else, if the last line starts with `####`, the first
    number on it; else the last number of the text.

    Args:
        text (`str`):
            Text in any language.
        decimal_separator (`str`, *optional*):
            As in [`extract_numbers`].

    Returns:
        `str`, *optional*: The number as [`extract_numbers`] writes it, or `None` if there is none.

    Raises:
        TypeError: If `text` is not a string.
        ValueError: If `decimal_separator` is neither `"."` nor `","`.

    Examples:
    ```python
    >>> from solar_trl.data.numbers import final_number

    >>> final_number("5 + 6 = 11. उत्तर ११ है।")
    '11'
    >>> final_number("So \\\\boxed{1{,}234} in 2 steps.")
    '1234'
    ```
    """
    return final_of(text, extract_numbers(text, decimal_separator), decimal_separator)


def final_of(text: str, numbers: list[str], decimal_separator: str | None = None) -> str | None:
    """[`final_number`] of a text whose numbers are known already."""
    if "\\boxed" in text:
        for content in reversed(_BOXED.findall(text)):
            if boxed := extract_numbers(content, decimal_separator):
                return boxed[-1]
    if "####" in text:
        last_line = text.rstrip().rpartition("\n")[2].lstrip()
        if last_line.startswith("####") and (marked := extract_numbers(last_line, decimal_separator)):
            return marked[0]
    return numbers[-1] if numbers else None
