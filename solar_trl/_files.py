"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """
    Write a file in one step: readers see the whole of it or nothing, whenever the writer is stopped.

    Args:
        path (`Path`):
            Where it goes. Its folder is made.

    Yields:
        `Path`: Where to write it: in the same folder, under a name that no search for such files finds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
