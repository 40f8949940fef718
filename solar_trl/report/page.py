"""One self-contained HTML page: sections of text, tables and pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pictures import Picture
from .table import Table


@dataclass(frozen=True)
class Example:
    """
    A response to show.

    Args:
        heading (`str`): Language, item and verdict.
        right (`bool`): Whether it is right.
        parts (`list[tuple[str, str]]`): Labels and texts, such as the question, the response and the right answer.
    """

    heading: str
    right: bool
    parts: list[tuple[str, str]]


@dataclass
class Section:
    """
    A part of a page; what is empty is not shown.

    Args:
        title (`str`): Heading.
        text (`list[str]`): Paragraphs.
        warnings (`list[str]`): What the reader must know about the numbers, shown as such.
        tables (`list[Table]`): Tables.
        pictures (`list[Picture]`): Pictures.
        examples (`dict[str, list[Example]]`): Responses under headings that can be opened.
        definitions (`list[tuple[str, str]]`): Terms and what they mean.
    """

    title: str
    text: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    definitions: list[tuple[str, str]] = field(default_factory=list)


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """
    The page as HTML.

    Styles and pictures stand in it; it has no script, and a policy in its head forbids it to load anything. All texts
    are escaped: model names, languages, prompts and outputs come from anywhere.

    Args:
        title, subtitle (`str`):
            Heading and the line below it.
        sections (`Sequence[Section]`):
            Its parts.

    Returns:
        `str`: The page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    anchors = [re.sub(r"\W+", "-", section.title.lower()).strip("-") + f"-{i}" for i, section in enumerate(sections)]
    page = environment.get_template("page.html.jinja")
    return page.render(title=title, subtitle=subtitle, sections=list(zip(anchors, sections, strict=True)), told=set())


def write_report(
    folder: str | Path, title: str, subtitle: str, sections: Sequence[Section], data: Mapping[str, Any] | None = None
) -> Path:
    """
    Write `report.html`, and `report.json` with the tables and warnings of all sections beside it.

    Args:
        folder (`str` or `Path`):
            Where to; it is made if it is not there.
        title, subtitle, sections:
            As in [`render_page`].
        data (`dict`, *optional*):
            What else the JSON file should hold; it must be ready for JSON.

    Returns:
        `Path`: The page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "title": title,
        "subtitle": subtitle,
        "warnings": list(dict.fromkeys(warning for section in sections for warning in section.warnings)),
        "tables": [table.to_dict() for section in sections for table in section.tables],
        **(data or {}),
    }
    text = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    page = folder / "report.html"
    page.write_text(render_page(title, subtitle, sections), encoding="utf-8", errors="replace")
    return page
