"""The code of docs/analysis.md runs, from top to bottom, on the file that the page shows."""

import functools
import re
from pathlib import Path

import pytest
from datasets import load_dataset
from markdown_pages import anchor, blocks, sections, write_files
from models import tiny_model
from tiny_tokenizer import train_tokenizer

from solar_trl.analysis import MEASURES
from solar_trl.analysis.measures import GROUPS


pytest.importorskip("matplotlib")
PAGE = (Path(__file__).parents[1] / "docs" / "analysis.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model("qwen3", vocab_size=384).save_pretrained("tiny")
    train_tokenizer().save_pretrained("tiny")
    names: dict = {}
    write_files(PAGE)
    codes = [block.text for block in blocks(PAGE, "python")]
    for text in codes:
        if not names:  # the set-up; the model is ours
            assert text.count('"Qwen/Qwen3-0.6B"') == 1
            monkeypatch.setattr(
                "datasets.load_dataset", functools.partial(load_dataset, cache_dir=str(tmp_path / "cache"))
            )
            exec(text.replace('"Qwen/Qwen3-0.6B"', '"tiny"'), names)
        else:
            exec(text, names)
    pictures = re.findall(r'savefig\("(\w+\.png)"\)', "".join(codes))
    assert len(pictures) == 7 and all(Path(picture).stat().st_size > 5_000 for picture in pictures)
    assert names["analyses"]["SOLAR"]["records"] and names["summaries"].shape == (12, 32)


def test_the_page_knows_every_measure_and_links_every_section():
    described = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert [re.match(r"\| `(\w+)`", line).group(1) for line in described] == GROUPS
    listed = {name for line in described for name in re.findall(r"`(\w+)`", line.split("|")[2])} - {"centered_"}
    assert listed == {name for name in MEASURES if not name.startswith("centered_")}
    for title in sections(PAGE)[1]:
        assert f"- [{title}]({anchor(title)})" in PAGE
