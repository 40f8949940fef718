"""Whether a tag may be released: `python .github/scripts/check_release.py v0.1.0`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def problems(tag: str, root: Path) -> list[str]:
    """What keeps a tag from being released: the version is that of `pyproject.toml`, and all other files follow it."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found = []
    if tag != f"v{version}":
        found.append(f"The tag is {tag}, but pyproject.toml has the version {version}: expected v{version}.")
    cited = re.search(
        r"^version: *[\"']?([^\s\"']+)", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )
    if cited is None or cited[1] != version:
        found.append(f"CITATION.cff has the version {cited[1] if cited else None}, expected {version}.")
    if not re.search(
        rf"^## \[{re.escape(version)}\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    ):
        found.append(f"CHANGELOG.md has no section `## [{version}]`: give what is unreleased its version and date.")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if found := problems(sys.argv[1], Path(__file__).parents[2]):
        sys.exit("\n".join(found))
