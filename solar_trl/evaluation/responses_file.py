"""Generated responses on disk, so that an evaluation can stop and go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class ResponsesFile:
    """
    A JSON Lines file: the settings on the first line, then a line per prompt with all of its samples.

    A batch is appended and flushed at once. A last line that was torn when the process died is cut off; its prompt is
    generated again.

    Args:
        path (`str` or `Path`):
            File; made if it is not there.
        settings (`dict`):
            What the responses depend on. A file with other settings is refused.
        prompts (`list`):
            Prompts, text or messages. A file with another prompt at a place is refused.

    Raises:
        ValueError: If the file belongs to other settings or prompts, or is no such file.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], prompts: Sequence[Any]):
        self.path = Path(path)
        self.digests = [digest(prompt) for prompt in prompts]
        self.samples: dict[int, list[dict[str, Any]]] = {}
        known = json.loads(json.dumps(settings))
        if self.path.exists() and self.path.stat().st_size:
            self._read(known)
        if not (self.path.exists() and self.path.stat().st_size):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self._line({"settings": known}), encoding="utf-8")

    def append(self, responses: Iterable[tuple[int, list[dict[str, Any]]]]) -> None:
        """Add the samples of prompts, given by their places."""
        with self.path.open("a", encoding="utf-8") as file:
            for place, samples in responses:
                file.write(self._line({"prompt": place, "digest": self.digests[place], "samples": samples}))
                self.samples[place] = samples

    @staticmethod
    def _line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n"

    def _read(self, settings: dict[str, Any]) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        lines = data[:whole].decode("utf-8").split("\n")[:-1]
        if not lines:
            return
        try:
            records = [json.loads(line) for line in lines]
            known = records[0]["settings"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} holds no responses of this package ({error!r}). Name another file."
            ) from error
        if known != settings:
            names = sorted(name for name in {*known, *settings} if known.get(name) != settings.get(name))
            changes = "; ".join(f"{name}: {known.get(name)!r} there, {settings.get(name)!r} now" for name in names)
            raise ValueError(
                f"{self.path} holds responses of another run ({changes}). Delete it or name another file."
            )
        for record in records[1:]:
            place = record["prompt"]
            if place >= len(self.digests) or record["digest"] != self.digests[place]:
                raise ValueError(
                    f"{self.path} holds a response to another prompt {place}: the prompts have changed since. Delete "
                    "it or name another file."
                )
            self.samples[place] = record["samples"]
