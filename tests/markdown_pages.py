"""What the tests of the pages read from Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


_BLOCK = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, what follows that on the line (`"file=x.json"`), and the text."""

    kind: str
    info: str
    text: str


def blocks(page: str, kind: str | None = None) -> list[Block]:
    """The fenced blocks of a page, all or those of one language."""
    found = [Block(*parts) for parts in _BLOCK.findall(page)]
    return [block for block in found if kind in (None, block.kind)]


def write_files(page: str, folder: Path = Path()) -> None:
    """Write the blocks that are files (`json file=x.json`) as these files."""
    for block in blocks(page):
        if block.info.startswith("file="):
            (folder / block.info.removeprefix("file=")).write_text(block.text, encoding="utf-8")


def sections(page: str) -> tuple[str, dict[str, str]]:
    """What stands before the first section, and the sections by their titles."""
    head, *rest = re.split(r"^## ", page, flags=re.MULTILINE)
    return head, {title: text for title, _, text in (part.partition("\n") for part in rest)}


def anchor(title: str) -> str:
    """What a link to a section ends in."""
    return "#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
