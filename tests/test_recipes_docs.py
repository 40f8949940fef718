"""The code of docs/recipes.md runs, and what it makes trains with the pairs that are expected."""

import functools
from pathlib import Path

import pytest
from datasets import load_dataset
from helpers import QUIET
from markdown_pages import anchor, blocks, sections, write_files
from models import tiny_model
from tiny_tokenizer import train_tokenizer

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.data import find_pivots
from solar_trl.data.recipes import __all__ as exported


PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
HEAD, SECTIONS = sections(PAGE)
# Section -> rows of its dataset, of which so many pair. 4 of the 6 rows pair to begin with
EXPECTED = {
    "Answers in another language": (6 + 18, None),
    "Translation mixed in": (None, 4),
    "Code-switching": (6, 4),
    "Share of English": (8, 4),
    "Romanised copies": (8, 6),
    "The placebo": (6, 4),
}


def test_every_recipe_and_section_is_there():
    assert list(SECTIONS) == list(EXPECTED)
    for title in SECTIONS:
        assert f"({anchor(title)})" in HEAD
    assert all(f"`{name}(rows" in HEAD for name in exported if name != "romanized_label")
    assert all("*Source.*" in text for text in SECTIONS.values())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model"))
    tiny_model("qwen3", vocab_size=384).save_pretrained(path)
    train_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("title", EXPECTED)
def test_a_section_runs_and_trains(title, model, tmp_path, monkeypatch):
    pytest.importorskip("langcodes")
    monkeypatch.chdir(tmp_path)
    write_files(HEAD)
    monkeypatch.setattr("datasets.load_dataset", functools.partial(load_dataset, cache_dir=str(tmp_path / "cache")))
    names: dict = {}
    names["model"] = model
    names["args"] = SolarSFTConfig("out", **QUIET, per_device_train_batch_size=32, max_steps=1)
    (setup,) = [block.text for block in blocks(HEAD, "python") if block.info == "setup"]
    exec(setup, names)
    for block in blocks(SECTIONS[title], "python"):
        exec(block.text, names)
    dataset = names["dataset"]
    size, pairs = EXPECTED[title]
    found = int((find_pivots(dataset) >= 0).sum())
    assert size in (None, len(dataset)) and pairs in (None, found) and found >= 4
    trainers = [SolarSFTTrainer(model, names["args"], train_dataset=dataset)]
    if title == "Share of English":
        assert {row["language"] for row in names["stream"]} >= {"sw", "th"}
        trainers.append(names["trainer"])
    for trainer in trainers:
        trainer.train()
        logged = next(entry for entry in trainer.state.log_history if "aligned_pairs" in entry)
        assert logged["aligned_pairs"] == found
