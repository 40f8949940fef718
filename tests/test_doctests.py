"""Examples in docstrings run as they stand, offline; those that need a model or a file get a tiny one."""

from __future__ import annotations

import ast
import doctest
import json
import textwrap
from pathlib import Path

import pytest
from datasets import Dataset
from helpers import QUIET
from markdown_pages import blocks
from models import tiny_model
from tiny_tokenizer import train_tokenizer

from solar_trl import SolarSFTConfig, SolarSFTTrainer


PACKAGE = Path(__file__).parents[1] / "solar_trl"
# What the words of an example stand for is random here: its values are not compared, but its code runs
NEEDS_MODEL = {
    "analysis.layers.analyze_layers",
    "analysis.states.hidden_state_summaries",
    "callbacks.CrossLingualEvalCallback",
    "evaluation.benchmarks.load_benchmark",
    "evaluation.evaluator.evaluate_model",
    "evaluation.generation.generate_responses",
    "evaluation.likelihood.score_choices",
    "evaluation.prompts.build_prompts",
    "trainer.SolarSFTTrainer",
}
# What an example would download, and what takes long: in this order
OURS = {
    '"Qwen/Qwen3-0.6B"': '"tiny", args=args',
    '"mgsm", ["sw"], path="mgsm_cot"': '"shots.jsonl", ["sw"]',
    '"mgsm"': '"items.jsonl"',
    'languages=["en", "sw", "th"]': 'languages=["en", "sw"], max_new_tokens=4',
    "max_new_tokens=512": "max_new_tokens=4",
    "num_shots=8": "num_shots=1",
}
NEEDS_PACKAGE = {
    "analysis.layers.analyze_layers": ("pandas", "sklearn"),
    "data.ids.assign_parallel_id": ("langcodes",),
    "data.languages.normalize_language": ("langcodes", "language_data"),
    "data.languages.normalize_languages": ("langcodes", "language_data"),
    "evaluation.fidelity.LanguageFidelity": ("py3langid",),
    "evaluation.math_answers.math_equal": ("math_verify",),
}


def examples() -> dict[str, str]:
    """Name of a public object to the fenced Python code in its docstring."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                codes = [block.text for block in blocks(_docstring(node), "python")]
                if codes:
                    found[f"{module}.{node.name}"] = "\n".join(codes)
    return found


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Also one that is an f-string assigned to `__doc__`; its doubled braces are single ones in the syntax tree."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__doc__":
            parts = statement.value.values if isinstance(statement.value, ast.JoinedStr) else [statement.value]
            return textwrap.dedent("".join(part.value for part in parts if isinstance(part, ast.Constant)))
    return ast.get_docstring(node) or ""


EXAMPLES = examples()


def run(name: str, code: str, names: dict) -> None:
    """As `python -m doctest` does; a failure shows what was expected and what came."""
    test = doctest.DocTestParser().get_doctest(code, names, name, None, 0)
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
    assert results.attempted and not results.failed, "".join(report)


def test_none_is_overlooked():
    prompts = sum(path.read_text(encoding="utf-8").count(">>> ") for path in PACKAGE.rglob("*.py"))
    assert sum(code.count(">>> ") for code in EXAMPLES.values()) == prompts
    assert len(EXAMPLES) >= 35
    assert set(EXAMPLES) >= NEEDS_MODEL | set(NEEDS_PACKAGE)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - NEEDS_MODEL))
def test_example(name):
    for package in NEEDS_PACKAGE.get(name, ()):
        pytest.importorskip(package)
    run(name, EXAMPLES[name], {})


@pytest.mark.parametrize("name", sorted(NEEDS_MODEL))
def test_example_with_a_model(name, tmp_path, monkeypatch):
    for package in NEEDS_PACKAGE.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    tokenizer = train_tokenizer()
    tiny_model("qwen3", vocab_size=384).save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    names, code = stand_ins(tokenizer), EXAMPLES[name]
    for published, ours in OURS.items():
        code = code.replace(published, ours)
    if ">>>" not in code:
        exec(code, names)
        assert names["trainer"].state.global_step == 1
        return
    # Values are those of a real model: the code runs, without what it would print
    parsed = doctest.DocTestParser().get_examples(code)
    for example in parsed:
        exec(example.source, names)
    assert parsed


def stand_ins(tokenizer) -> dict:
    """The names that examples take as given, and the files that they read."""
    texts = {"en": ["What is {} + 2?", "It is {}."], "sw": ["{} + 2 ni ngapi?", "Ni {}."]}
    items = [
        {
            "language": lang,
            "parallel_id": i,
            "question": question.format(i),
            "answer": i + 2,
            "response": answer.format(i + 2),
        }
        for i in range(4)
        for lang, (question, answer) in texts.items()
    ]
    Path("items.jsonl").write_text("\n".join(map(json.dumps, items[:4])), encoding="utf-8")
    Path("shots.jsonl").write_text("\n".join(map(json.dumps, items[4:])), encoding="utf-8")
    rows = Dataset.from_list([{**item, "text": item["question"]} for item in items])
    args = SolarSFTConfig("out", **QUIET, max_steps=1, eval_strategy="no")
    train = rows.rename_columns({"question": "prompt", "response": "completion"})
    train = train.select_columns(["prompt", "completion", "language", "parallel_id"])
    model = tiny_model("qwen3", vocab_size=384)
    return {
        "model": model,
        "tokenizer": tokenizer,
        "rows": rows,
        "english_texts": rows["question"][::2],
        "swahili_texts": rows["question"][1::2],
        "args": args,
        "trainer": SolarSFTTrainer(
            tiny_model("qwen3", vocab_size=384), args, train_dataset=train, processing_class=tokenizer
        ),
    }
