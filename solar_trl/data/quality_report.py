"""What a check of parallel data found: measures by language, and what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .report import format_table


def plural(n: int, noun: str) -> str:
    """`"1 row"`, `"2,000 rows"`."""
    return f"{n:,} {noun}{'s' if n != 1 else ''}"


@dataclass
class Finding:
    """
    One thing that looks wrong.

    Args:
        kind (`str`):
            `"unpaired"`, `"missing"`, `"repeated"`, `"ambiguous"`, `"shuffled"`, `"swapped"`, `"numbers"`, `"pivot"`,
            `"prompt_only"`, `"length"`, `"truncated"`, `"script"`, `"identical"`, `"duplicate"` or `"empty"`.
        languages (`list[str]`):
            Where.
        rows (`list[int]`):
            Rows of the dataset (of the pivots, for the kinds `"missing"` and `"pivot"`) that it is about; may be empty
            if it is about all of them.
        message (`str`):
            In words, with ids.
    """

    kind: str
    languages: list[str]
    rows: list[int]
    message: str


@dataclass
class LanguageQuality:
    """
    What was measured in one language. Shares are between 0 and 1; `None` is "nothing to measure".

    Args:
        rows (`int`): Rows of the language.
        pairs (`int`): Rows with a pivot (0 for the pivot language).
        unpaired (`int`): Non-pivot rows without one.
        missing (`int`): Pivots without a row in this language.
        length_ratio (`float`, *optional*): Median length of the response / length of the pivot's.
        length_spread (`float`, *optional*): Robust standard deviation of the logarithm of that ratio.
        length_correlation (`float`, *optional*): Correlation of the logarithms of the two lengths.
        truncated (`float`, *optional*): Share of the rows (prompt and response, without a chat template) longer than
            `max_length`.
        number_pairs (`int`): Pairs with numbers in both responses: what the two agreements are over.
        final_agreement (`float`, *optional*): Share of them that end with the same number.
        number_agreement (`float`, *optional*): Share of them with the same set of numbers.
        number_overlap (`float`, *optional*): Mean overlap of the two sets (Jaccard).
        prompt_number_overlap (`float`, *optional*): The same for the prompts.
        prompt_length_spread (`float`, *optional*): `length_spread` for the prompts.
        script (`str`, *optional*): Script that the language is written in.
        script_share (`float`, *optional*): Share of the responses' letters that are in it.
        identical (`int`): Responses that are their pivot's text, letter by letter.
        duplicates (`int`): Rows with a response that stands under another id too.
        repeated (`int`): Rows that stand in the data more than once, beyond the first.
        empty (`int`): Rows without a response.
    """

    rows: int
    pairs: int
    unpaired: int
    missing: int = 0
    length_ratio: float | None = None
    length_spread: float | None = None
    length_correlation: float | None = None
    truncated: float | None = None
    number_pairs: int = 0
    final_agreement: float | None = None
    number_agreement: float | None = None
    number_overlap: float | None = None
    prompt_number_overlap: float | None = None
    prompt_length_spread: float | None = None
    script: str | None = None
    script_share: float | None = None
    identical: int = 0
    duplicates: int = 0
    repeated: int = 0
    empty: int = 0


def _percent(share: float) -> str:
    return f"{math.floor(share * 100)}%"  # 100% is all of them


# Heading, measure, how it is written
_COLUMNS: list[tuple[str, str, Callable[[Any], str]]] = [
    *((name, name, "{:,}".format) for name in ("rows", "pairs", "unpaired", "missing")),
    ("length ratio", "length_ratio", "{:.2f}".format),
    ("truncated", "truncated", _percent),
    ("final number", "final_agreement", _percent),
    ("all numbers", "number_agreement", _percent),
    ("script", "script_share", _percent),
    *((name, name, "{:,}".format) for name in ("identical", "duplicates", "repeated")),
]


@dataclass
class ParallelReport:
    """
    What [`~solar_trl.data.quality.parallel_report`] found: `print` it, or ask for `warnings`, `findings`, `languages`,
    [`to_dict`].

    Args:
        rows (`int`): Rows of the dataset.
        pairs (`int`): Rows with a pivot.
        unpaired (`int`): Non-pivot rows without one.
        pivots (`int`): Pivot rows.
        response (`str`): Where responses were found.
        prompt (`str`, *optional*): Where prompts were found.
        unit (`str`): `"characters"` or `"tokens"`: what lengths count.
        languages (`dict[str, LanguageQuality]`): Measures by language.
        findings (`list[Finding]`): What looks wrong.
    """

    rows: int
    pairs: int
    unpaired: int
    pivots: int
    response: str
    prompt: str | None
    unit: str
    languages: dict[str, LanguageQuality] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What looks wrong, one sentence or two each, with ids; empty if nothing does."""
        return [finding.message for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict, with `warnings`."""
        return {**asdict(self), "warnings": self.warnings}

    def __str__(self) -> str:
        head = f"{self.rows:,} rows, {self.pairs:,} pairs with {self.pivots:,} pivots; responses: {self.response}"
        head += f", prompts: {self.prompt}" if self.prompt else ""
        head += f"; lengths in {self.unit}"
        table = [("language", *(heading for heading, _, _ in _COLUMNS))]
        for language, entry in self.languages.items():
            values = ((getattr(entry, name), form) for _, name, form in _COLUMNS)
            table.append((language, *("" if value is None else form(value) for value, form in values)))
        notes = [f"Warning: {message}" for message in self.warnings] or ["Nothing looks wrong."]
        return "\n".join([head, *format_table(table), *notes])
