"""
Docstrings as Hugging Face writes them (Markdown, ``Args:`` with ``name (`type`):``) to what Sphinx reads.

Napoleon expects reStructuredText inside of Google's sections; ours hold Markdown, so both are converted here.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any


# "Args:", "Returns:", also "Args of `compute`:" and "Returns of `compute`, a `dict[str, float]`:"
SECTION = re.compile(r"(Args|Parameters|Attributes|Returns|Yields|Raises|Examples?)\b((?: of `\w+`)?(?:, [^:]*)?):")
HEADINGS = {"Args": "Parameters", "Example": "Example", "Examples": "Examples"}
ENTRIES = {"Args", "Parameters", "Attributes", "Raises"}
BULLET = re.compile(r"(?:-|\d+\.) +")
# Code, references to our own names, links, in this order: code may hold brackets
INLINE = re.compile(
    r"\[`(?P<name>[^`\]]+)`\]|(?P<code>`[^`]+`)|\[(?P<text>[^\]]+)\]\((?P<url>[^)\s]+)\)|(?P<bare>https?://[^\s),]+[\w/])"
)


def inline(text: str) -> str:
    """One paragraph of Markdown in reStructuredText."""
    text = " ".join(text.split())
    parts, end = [], 0
    for match in INLINE.finditer(text):
        parts += [_plain(text[end : match.start()]), _marked(match)]
        end = match.end()
    return "".join(parts) + _plain(text[end:])


def _marked(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    # Inline mark-up ends at a space or punctuation only; an escaped space does without showing
    space = "\\ " if before and not before.isspace() and before not in "([{<'\"-/:" else ""
    if name := match["name"]:
        *package, last = name.lstrip("~").split(".")
        ours = not package or package[0] == "solar_trl"
        shown = f":py:obj:`{last} <{'.' if not package else ''}{name.lstrip('~')}>`" if ours else f"``{last}``"
        return f"{space}{shown}\\ "
    if match["code"]:
        return f"{space}``{match['code'][1:-1].strip()}``\\ "
    return f"{space}`{match['text'] or match['bare']} <{match['url'] or match['bare']}>`__\\ "


def _plain(text: str) -> str:
    """Text without code: what reStructuredText would take for mark-up is escaped; emphasis is the same in both."""
    text = text.replace("\\", "\\\\").replace("|", "\\|")
    text = re.sub(r"(\w)_(?=\W|$)", r"\1\\_", text)
    return re.sub(r"(?<![*\w])\*(?=[\s)\d])|(?<=[\s(])\*(?=\s)", r"\\*", text)


def blocks(lines: list[str]) -> Iterator[str]:
    """Paragraphs, lists, code and quoted headings."""
    paragraph: list[str] = []
    i = 0

    def finished() -> Iterator[str]:
        if paragraph:
            yield inline(" ".join(paragraph))
            yield ""
            paragraph.clear()

    while i < len(lines):
        line = lines[i]
        if line.startswith("```"):
            yield from finished()
            end = next((j for j in range(i + 1, len(lines)) if lines[j].startswith("```")), len(lines))
            yield f".. code-block:: {line[3:].split(' ')[0] or 'text'}"
            yield ""
            yield from (f"    {code}".rstrip() for code in lines[i + 1 : end])
            yield ""
            i = end + 1
        elif BULLET.match(line):
            yield from finished()
            end = _end_of_indented(lines, i + 1)
            mark = BULLET.match(line)
            inner = [line[mark.end() :], *textwrap.dedent("\n".join(lines[i + 1 : end])).splitlines()]  # type: ignore[union-attr]
            yield from _hanging("- " if line.startswith("-") else "#. ", blocks(inner))
            i = end
        elif line.startswith("    ") and not paragraph:
            end = _end_of_indented(lines, i + 1)
            yield "::"
            yield ""
            yield from lines[i:end]
            yield ""
            i = end
        else:
            if line.strip():
                paragraph.append(line)
            else:
                yield from finished()
            i += 1
    yield from finished()


def entries(lines: list[str]) -> Iterator[str]:
    """``name (`type`): text`` with its indented text, as a definition list."""
    i = 0
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            i += 1
            continue
        end = _end_of_indented(lines, i + 1)
        body = textwrap.dedent("\n".join(lines[i + 1 : end])).splitlines()
        if line.startswith("> "):
            yield f".. rubric:: {inline(line[2:])}"
            yield ""
            yield from blocks(body)
        else:
            head, text = split_entry(line)
            names, bracket, kind = head.partition(" (")
            shown = ", ".join(f"**{name.strip()}**" for name in names.split(","))
            yield f"{shown} {inline(bracket.strip() + kind) if bracket else ''}".strip()
            yield from _hanging("    ", blocks([text, *body] if text else body), first="    ")
        i = end


def split_entry(line: str) -> tuple[str, str]:
    """The head and the text of an entry: at the first colon outside of code and brackets."""
    depth, in_code = 0, False
    for i, char in enumerate(line):
        if char == "`":
            in_code = not in_code
        elif not in_code and char in "([":
            depth += 1
        elif not in_code and char in ")]":
            depth -= 1
        elif char == ":" and not in_code and depth == 0 and line[i + 1 : i + 2] in ("", " "):
            return line[:i], line[i + 1 :].strip()
    return line, ""


def convert(lines: list[str]) -> list[str]:
    """A whole docstring."""
    result: list[str] = []
    plain: list[str] = []
    i = 0
    while i < len(lines):
        match = SECTION.match(lines[i])
        if not match:
            plain.append(lines[i])
            i += 1
            continue
        result += blocks(plain)
        plain = []
        name = match[1]
        comma = "" if match[2].startswith(",") else " "
        result += [f".. rubric:: {HEADINGS.get(name, name)}{comma}{inline(match[2])}".rstrip(), ""]
        end = _end_of_section(lines, i + 1)
        rest = lines[i][match.end() :].strip()
        body = textwrap.dedent("\n".join(lines[i + 1 : end])).splitlines()
        result += entries(body) if name in ENTRIES else blocks([rest, *body] if rest else body)
        i = end
    return [*result, *blocks(plain)]


def _end_of_indented(lines: list[str], start: int) -> int:
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
        end += 1
    return end


def _end_of_section(lines: list[str], start: int) -> int:
    """Indented lines, or a fence at the level of the heading, as in ``Examples:``."""
    first = next((j for j in range(start, len(lines)) if lines[j].strip()), len(lines))
    if first < len(lines) and lines[first].startswith("```"):
        closing = next((j for j in range(first + 1, len(lines)) if lines[j].startswith("```")), first)
        return closing + 1
    return _end_of_indented(lines, start)


def _hanging(mark: str, lines: Iterator[str], first: str | None = None) -> Iterator[str]:
    prefix = mark if first is None else first
    for line in lines:
        yield f"{prefix}{line}".rstrip()
        prefix = " " * len(mark)
    yield ""


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = convert(lines)


def process_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
):
    """A configuration has every field of `TrainingArguments`: its signature would fill pages, and says nothing."""
    if signature and signature.count(",") > 40:
        return "(output_dir, **fields)", returns
    return None


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("autodoc-process-signature", process_signature)
    return {"parallel_read_safe": True}
