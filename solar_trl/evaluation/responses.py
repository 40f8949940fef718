"""The parts of a response: thinking, answer, and what announces the answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from .templates import TEMPLATES


_OPEN, _CLOSE = re.compile(r"<think(?:ing)?>", re.IGNORECASE), re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")
_CUES = {cue.rstrip(":").casefold() for template in TEMPLATES.values() for cue in template.cues}
_CUES |= {unicodedata.normalize("NFKC", cue) for cue in _CUES}  # Thai ำ changes
# Longest first, so that "the answer is" comes before "answer"; whole words where the script has spaces
AFTER_CUE = re.compile(
    "|".join(
        rf"(?<!\w){re.escape(cue)}(?![^\W\d_])" if cue.isascii() else re.escape(cue)
        for cue in sorted(_CUES, key=lambda cue: (-len(cue), cue))
    ),
    re.IGNORECASE,
)


def final_part(text: str) -> str:
    """
    What follows the thinking of a reasoning model.

    The text after the last `</think>`; empty if a `<think>` at the start is never closed, as when generation was cut
    off: then the model has not answered. A text without these marks as it is.

    Raises:
        TypeError: If it is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A response must be a string, got {type(text).__name__} ({text!r:.50}).")
    ends = list(_CLOSE.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    opened = _OPEN.search(rest)
    return rest[: opened.start()] if opened else rest


def boxed_contents(text: str) -> Iterator[str]:
    """Contents of each `\\boxed{...}` with balanced braces, the last one first."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for place in range(match.end(), len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                yield text[match.end() : place]
                break
