"""The site builds without a warning, its links lead somewhere, and what its pages say of the package holds."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_pages import blocks

import solar_trl
import solar_trl.analysis
import solar_trl.analysis.plots
import solar_trl.benchmark
import solar_trl.data
import solar_trl.data.recipes
import solar_trl.evaluation
import solar_trl.objectives


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Pages whose code other tests run
RUN_ELSEWHERE = {
    "analysis.md": "test_analysis_docs.py",
    "data.md": "test_data_docs.py",
    "evaluation.md": "test_evaluation_docs.py",
}


def load(name: str):
    """A module of docs/_ext."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_blocks(page: str) -> list[str]:
    return [block.text for block in blocks((DOCS / page).read_text(encoding="utf-8"), "python")]


# What the pages say


def test_tutorial_runs(tmp_path, monkeypatch, capsys, caplog):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = python_blocks("tutorial.md")
    assert len(blocks) == 7
    for block in blocks:
        exec(
            block.replace('"max_steps": 400', '"max_steps": 20').replace('"logging_steps": 100', '"logging_steps": 5'),
            names,
        )
    assert names["solar"].state.global_step == names["grouped"].state.global_step == 20
    assert set(names["scores"]) == {"SFT", "SOLAR"} and "accuracy/sw" in names["scores"]["SOLAR"]
    assert len(names["logs"]) >= 4 and "pivot_similarity/sw" in names["logs"][0]
    # The table that the page shows is the one that is printed
    shown = re.search(
        r"\[solar-trl\] (train dataset: .*?)\n```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL
    )
    printed = [line.split() for line in caplog.text.replace("train dataset:", "\ntrain dataset:").splitlines()]
    for line in shown[1].splitlines():
        assert line.split() in printed, line
    assert "sft_loss" in capsys.readouterr().out


def test_concepts_run(capsys):
    for block in python_blocks("concepts.md"):
        exec(block, {})
    assert capsys.readouterr().out.strip() == "tensor([[[0.5000, 0.5000]]])"


def test_every_page_with_code_is_run():
    pages = {path.name for path in DOCS.glob("*.md") if python_blocks(path.name)}
    tested = {"tutorial.md", "concepts.md"} | set(RUN_ELSEWHERE)
    others = {name for name in pages - tested if not _named_in_a_test(name)}
    assert not others, "pages whose code no test runs"
    for page, test in RUN_ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text(encoding="utf-8")


def _named_in_a_test(page: str) -> bool:
    return any(page in path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))


def messages() -> list[str]:
    """Every string of the package, with `…` where a value is filled in."""
    found = []
    for path in (ROOT / "solar_trl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return [re.sub("…+", "…", " ".join(text.split())) for text in found]


def test_quoted_messages_exist():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [block.text.strip() for block in blocks(page, "text")]
    assert len(quoted) == len(set(quoted)) > 40
    known = messages()
    gone = [text for text in quoted if not any(text in message for message in known)]
    assert not gone, "messages that solar_trl no longer has"


def test_metrics_page_names_every_measure():
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name in solar_trl.analysis.MEASURES:
        assert name in page or name.startswith("centered_"), name
    for name in ("macro_accuracy", "pivot_gap", "consistency", "ac3", "clc", "co", "fidelity", "macro_fidelity"):
        assert f"`{name}`" in page, name


def test_stable_names_exist():
    page = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    named = re.findall(r"\{py:(?:func|class)\}`[^<`]+<(solar_trl[\w.]*)\.(\w+)>`", page)
    assert len(named) >= 14
    for module, name in named:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.slow
def test_pictures_can_be_made_again(tmp_path):
    pytest.importorskip("matplotlib")
    if not (ROOT / "examples").exists():
        pytest.skip("no examples here")
    script = [sys.executable, str(DOCS / "figures" / "make_figures.py"), "--steps", "2", "--output_dir", str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in (DOCS / "figures").iterdir() if path.suffix in (".svg", ".json")}
    numbers = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    probabilities = numbers["soft_token"]
    assert sum(probabilities["probabilities"].values()) + probabilities["others"] == pytest.approx(1)
    assert all(-1 <= cosine <= 1 for cosine in numbers["cosine_of_summaries"].values())


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (DOCS / "figures").glob("*.svg")}
    assert sizes and max(sizes.values()) < 150_000


# From Hugging Face's docstrings to reStructuredText


@pytest.fixture(scope="module")
def docstrings():
    return load("docstrings")


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("Share of `x[i]` in [0, 1].", "Share of ``x[i]``\\  in [0, 1]."),
        ("see [`mmd`]", "see :py:obj:`mmd <.mmd>`\\ "),
        ("[`~trl.SFTTrainer`]", "``SFTTrainer``\\ "),
        ("[`~solar_trl.data.carry_pivots`]", ":py:obj:`carry_pivots <solar_trl.data.carry_pivots>`\\ "),
        ("[TRL](https://x.org/a_b)", "`TRL <https://x.org/a_b>`__\\ "),
        ("`SFTTrainer`'s own", "``SFTTrainer``\\ 's own"),
        ("a |x| and a_ b", "a \\|x\\| and a\\_ b"),
        ("3 * 4 and *emphasis*", "3 \\* 4 and *emphasis*"),
        ("wraps `a\nb` here", "wraps ``a b``\\  here"),
    ],
)
def test_inline(docstrings, markdown, expected):
    assert docstrings.inline(markdown) == expected


def test_sections(docstrings):
    text = """Summary.

Args:
    x, y (`np.ndarray` of shape `(n, d)`, *optional*, defaults to `{"a": 1}`):
        States: of all.

        - one
        - two
    z: Short.

Returns:
    `dict`:
    - `a`: first.

Raises:
    ValueError: If bad,
        or worse.

Examples:
```python
>>> f(1)
```
After.""".splitlines()
    lines = docstrings.convert(text)
    assert lines[0] == "Summary."
    assert '**x**, **y** (``np.ndarray``\\  of shape ``(n, d)``\\ , *optional*, defaults to ``{"a": 1}``\\ )' in lines
    assert "    States: of all." in lines and "    - one" in lines and "**z**" in lines and "    Short." in lines
    assert lines[lines.index("**ValueError**") + 1] == "    If bad, or worse."
    assert lines[lines.index("- ``a``\\ : first.") - 1] == ""
    assert lines[lines.index(".. code-block:: python") + 2] == "    >>> f(1)"
    assert lines[-2] == "After."
    (title,) = [
        line for line in docstrings.convert(["Returns of `compute`, a `dict`:", "    - `a`: 1."]) if "rubric" in line
    ]
    assert title == ".. rubric:: Returns of ``compute``\\ , a ``dict``\\"


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("sphinx", "furo", "myst_parser", "sphinx_copybutton", "latex2mathml"):
        pytest.importorskip(package)
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", str(output / "doctrees"), str(DOCS), str(output / "html")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stderr
    return output / "html"


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(values["id"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        for name in ("src", "href"):
            if tag in ("img", "script", "link", "iframe") and values.get(name):
                self.sources.append(values[name])


@pytest.fixture(scope="module")
def pages(site):
    parsed = {}
    for path in site.rglob("*.html"):
        parsed[path] = _Page()
        parsed[path].feed(path.read_text(encoding="utf-8"))
    return parsed


@pytest.mark.slow
def test_links_lead_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead
    assert sum(len(page.links) for page in pages.values()) > 300


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(pages):
    assert not [source for page in pages.values() for source in page.sources if urlsplit(source).netloc]


@pytest.mark.slow
def test_formulas_are_mathml(site):
    text = (site / "metrics.html").read_text(encoding="utf-8")
    assert (
        text.count("<math") > 40
        and "$$" not in text
        and "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", text)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("data", solar_trl.data),
        ("objectives", solar_trl.objectives),
        ("evaluation", solar_trl.evaluation),
        ("analysis", solar_trl.analysis),
        ("analysis", solar_trl.analysis.plots),
        ("benchmark", solar_trl.benchmark),
        ("data", solar_trl.data.recipes),
        ("trainer", solar_trl),
    ],
)
def test_every_public_name_is_in_the_reference(pages, site, page, module):
    ids = pages[site / "reference" / f"{page}.html"].ids | pages[site / "reference" / "data.html"].ids
    for name in getattr(module, "__all__", []):
        described = getattr(module, name)
        if callable(described) and getattr(described, "__module__", "").startswith("solar_trl"):
            home = "solar_trl.data" if hasattr(solar_trl.data, name) else module.__name__
            assert f"{home}.{name}" in ids, name


@pytest.mark.slow
def test_no_mark_up_is_left_in_the_reference(site):
    for path in (site / "reference").glob("*.html"):
        text = re.sub(r"<(pre|script|style)\b.*?</\1>|<[^>]+>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for mark in ("``", "[`", ":py:obj:", "Args:", "Returns:", "Raises:"):
            assert mark not in text, f"{path.name}: {text[max(text.find(mark) - 80, 0) : text.find(mark) + 40]}"
