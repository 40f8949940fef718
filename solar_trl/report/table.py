"""Tables of numbers, for the terminal, for HTML and for JSON."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _difference(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _ends(show: Callable[[float], str]) -> Callable[[Sequence[float]], str]:
    return lambda ends: f"[{show(ends[0])}, {show(ends[1])}]"


# How the values of a column are written
KINDS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "count": lambda value: f"{value:,}",
    "percent": _percent,  # of a share in [0, 1]
    "percent_interval": _ends(_percent),
    "points": _points,  # difference of shares
    "points_interval": _ends(_points),
    "number": lambda value: f"{value:.3f}".replace("-", "−"),
    "difference": _difference,  # of numbers
    "difference_interval": _ends(_difference),
    "p_value": _p_value,
}
UNDEFINED = "–"


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    Args:
        key (`str`): Key of its value in each row.
        label (`str`): Heading.
        kind (`str`): How values are written, a key of `KINDS`.
        help (`str`): What it means, in a sentence; shown below the table. Empty where the label says it.
    """

    key: str
    label: str
    kind: str = "text"
    help: str = ""

    def show(self, value: Any) -> str:
        """The value as text; what is missing or undefined is a dash."""
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if any(number is None or (isinstance(number, float) and math.isnan(number)) for number in numbers):
            return UNDEFINED
        return KINDS[self.kind](value)


@dataclass
class Table:
    """
    A titled table.

    Args:
        title (`str`): What it shows.
        columns (`list[Column]`): Columns from left to right; the first names the row.
        rows (`list[dict]`): Values by key of the column. A key that is missing is an undefined value.
        summaries (`list[dict]`): Rows below a rule, such as means.
        note (`str`): Below the table.
    """

    title: str
    columns: list[Column]
    rows: Sequence[Mapping[str, Any]]
    summaries: Sequence[Mapping[str, Any]] = field(default_factory=list)
    note: str = ""

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """The texts of a row."""
        return [column.show(row.get(column.key)) for column in self.columns]

    def legend(self, told: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Columns and what they mean, but for those that were `told` above; these join them."""
        found = [(column.label, column.help) for column in self.columns if column.help]
        new = [entry for entry in dict.fromkeys(found) if entry not in told]
        told.update(new)
        return new

    def to_text(self, told: set[tuple[str, str]] | None = None) -> str:
        """For a terminal: columns aligned, whatever the script, and what they mean below (see [`legend`])."""
        body = [self.cells(row) for row in self.rows]
        last = [self.cells(row) for row in self.summaries]
        headings = [column.label.split() for column in self.columns]  # a word on each line, unless there is room
        widths = [
            max(_width(text) for text in (*words, *(line[place] for line in [*body, *last])))
            for place, words in enumerate(headings)
        ]
        wrapped = [textwrap.wrap(" ".join(words), width) for words, width in zip(headings, widths, strict=True)]
        height = max(map(len, wrapped))
        header = list(zip(*([""] * (height - len(lines)) + lines for lines in wrapped), strict=True))
        right = [column.kind != "text" for column in self.columns]
        lines = ["  ".join(map(_pad, line, widths, right)).rstrip() for line in [*header, *body, *last]]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        sums = height + len(body)
        parts = [self.title, *lines[:height], rule, *lines[height:sums], *([rule, *lines[sums:]] if last else [])]
        parts += [f"  {label}: {text}" for label, text in self.legend(set() if told is None else told)]
        return "\n".join([*parts, *([f"  {self.note}"] if self.note else [])])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the values as they are, with NaN as `None`."""
        keys = [column.key for column in self.columns]
        return {
            "title": self.title,
            "columns": {column.key: column.label for column in self.columns},
            "rows": [{key: _json(row.get(key)) for key in keys} for row in [*self.rows, *self.summaries]],
        }


def interval_ends(intervals: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Both ends of a named interval, if there is one."""
    return (intervals[name].low, intervals[name].high) if name in intervals else None


def text_of(tables: Iterable[Table]) -> str:
    """Several tables, with an empty line between them; what a column means is told once."""
    told: set[tuple[str, str]] = set()
    return "\n\n".join(table.to_text(told) for table in tables)


def _json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_json(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me", "Cf") for char in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
