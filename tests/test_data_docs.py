"""The code of docs/data.md runs on the files that the page shows."""

import functools
from pathlib import Path

import pytest
from datasets import load_dataset
from helpers import QUIET
from markdown_pages import anchor, blocks, sections, write_files
from models import tiny_model
from tiny_tokenizer import train_tokenizer

from solar_trl import SolarSFTConfig


PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
# Section -> pairs that its data holds
PAIRS = {
    "One file per language, joined by row order": 2,
    "One file per language, with ids": 3,
    "Several sources whose ids collide": 2,
    "Several responses per question": 2,
    "Wide rows with prefixes": 3,
    "Wide rows with suffixes": 2,
    "Language and number in one id": 1,
    "No ids, English first": 3,
    "Streams": 8,  # 2 in each pass, of which a batch takes four
    "Language names": 2,
    "Is it parallel?": 3,
}


HEAD, SECTIONS = sections(PAGE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model"))
    tiny_model("qwen3", vocab_size=384).save_pretrained(path)
    train_tokenizer().save_pretrained(path)
    return path


def test_every_section_is_tested_and_linked():
    assert list(SECTIONS) == list(PAIRS)
    for title in SECTIONS:
        assert f"({anchor(title)})" in HEAD


@pytest.mark.parametrize("title", PAIRS)
def test_five_lines_to_a_trainer(title, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(SECTIONS[title])
    ((_, _, code),) = blocks(SECTIONS[title], "python")
    lines = code.strip().splitlines()
    assert len(lines) <= 5 and "load_dataset(" in lines[0] and lines[-1].startswith("trainer = SolarSFTTrainer(")

    names: dict = {}
    (setup,) = [block.text for block in blocks(HEAD, "python") if block.info == "setup"]
    exec(setup.partition("\nmodel = ")[0], names)  # the imports; model and options are ours
    names["model"] = model
    names["args"] = SolarSFTConfig("out", **QUIET, per_device_train_batch_size=16, max_steps=1)
    names["load_dataset"] = functools.partial(load_dataset, cache_dir=str(tmp_path / "cache"))
    exec(code, names)
    names["trainer"].train()
    logged = next(entry for entry in names["trainer"].state.log_history if "aligned_pairs" in entry)
    assert logged["aligned_pairs"] == PAIRS[title]
