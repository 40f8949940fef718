"""The code of docs/evaluation.md runs, block by block, on the files that the page shows and a small model."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest
from markdown_pages import anchor, blocks, sections, write_files
from models import tiny_model
from tiny_tokenizer import train_tokenizer

import solar_trl.evaluation


PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_section_is_linked():
    for title in sections(PAGE)[1]:
        assert f"({anchor(title)})" in PAGE, title


def write_logs(folder):
    """What the page's commands would leave: samples of two tasks."""
    for name, right in (("sft", 0.0), ("solar", 1.0)):
        for task in ("mgsm_direct_en", "mgsm_direct_sw"):
            path = folder / "harness" / name / "model"
            path.mkdir(parents=True, exist_ok=True)
            sample = {"doc_id": 0, "doc": {}, "target": "5", "resps": [["It is 5."]], "filtered_resps": ["5"]}
            sample |= {"filter": "flexible-extract", "exact_match": right}
            sample["arguments"] = {"gen_args_0": {"arg_0": "2 + 3?", "arg_1": {"until": []}}}
            lines = [json.dumps({**sample, "doc_id": place}) for place in range(6)]
            (path / f"samples_{task}_2026-01-02T03-04-05.6.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_all_blocks_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("py3langid")
    monkeypatch.chdir(tmp_path)
    tiny_model("qwen3", vocab_size=384).save_pretrained("model")
    train_tokenizer().save_pretrained("model")
    write_logs(tmp_path)
    names: dict = {}
    write_files(PAGE)
    codes = [block.text for block in blocks(PAGE, "python")]
    for text in codes:
        code = text.replace("Qwen/Qwen3-0.6B", "model").replace("max_new_tokens=256", "max_new_tokens=8")
        code = code.replace('"out/solar", ', '"out/solar", use_cpu=True, bf16=False, report_to="none", ')
        exec(code.replace("max_new_tokens=64", "max_new_tokens=8"), names)
    assert len(codes) == 10
    assert "eval_crosslingual/accuracy/sw" in names["metrics"]
    assert len(names["base"].records) == 4 and Path("base.json").exists()
    assert names["prompts"][2][1]["content"] == "2 + 3 = 5. Jibu ni 5."
    assert len(names["responses"]) == 4 and len(names["responses"][0]) == 2
    assert names["tests"]["macro_accuracy"].difference == 0  # the same model
    printed = capsys.readouterr().out
    assert "'consistency': 0.5" in printed and "'fidelity': 1.0" in printed
    assert printed.rstrip().endswith("1.0 0.03125")  # six wins, no loss: 2 / 2^6


def test_examples_in_docstrings():
    """Those that need no model and no file."""
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(verbose=False)
    ran = set()
    for module in pkgutil.iter_modules(solar_trl.evaluation.__path__, "solar_trl.evaluation."):
        for test in finder.find(importlib.import_module(module.name)):
            source = "\n".join(line for line in (test.docstring or "").splitlines() if "```" not in line)
            if ">>>" in source and not re.search(r"model|load_benchmark\(", source.partition("Examples:")[2]):
                if re.search("identifier|math", test.name):
                    pytest.importorskip("math_verify")
                example = doctest.DocTestParser().get_doctest(source, {}, test.name, None, None)
                runner.run(example)
                ran.add(test.name.rpartition(".")[2])
    assert runner.failures == 0
    assert {"extract_number", "extract_choice", "MultilingualAccuracy", "CrossLingualConsistency", "mcnemar"} <= ran
