"""
Say in what is about to be built where the repository is: `python .github/scripts/link_repository.py URL TAG`.

README's links and pictures are relative, which holds in every clone and fork; on PyPI they would lead nowhere. The
workflow that publishes knows its repository: there they become absolute, at the tag, and `pyproject.toml` gets its
addresses.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
URLS = "[project.urls]\n"


def absolute_links(text: str, url: str, tag: str, root: Path) -> str:
    """
    A Markdown text with absolute links, to files of the repository as they are at the tag.

    Raises:
        ValueError: If a link leads to a file that is not there.
    """

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        if not (root / target.partition("#")[0]).exists():
            raise ValueError(f"README.md links to {target!r}, which is not there.")
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({url}/{kind}/{tag}/{target})"

    return LINK.sub(absolute, text)


def with_urls(text: str, url: str, tag: str) -> str:
    """
    `pyproject.toml` with the addresses that PyPI shows beside a project.

    Raises:
        ValueError: If it has no section for them.
    """
    if text.count(URLS) != 1:
        raise ValueError("pyproject.toml has no section [project.urls].")
    added = {"Repository": url, "Issues": f"{url}/issues", "Changelog": f"{url}/blob/{tag}/CHANGELOG.md"}
    return text.replace(URLS, URLS + "".join(f'{name} = "{value}"\n' for name, value in added.items()))


def main(url: str, tag: str, root: Path) -> None:
    for name, change in (
        ("README.md", lambda text: absolute_links(text, url, tag, root)),
        ("pyproject.toml", lambda text: with_urls(text, url, tag)),
    ):
        path = root / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1].rstrip("/"), sys.argv[2], Path(__file__).parents[2])
