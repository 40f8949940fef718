"""README's code does what it says, and the command lines of README and the docs are understood by their programs."""

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
from datasets import Dataset
from markdown_pages import blocks
from models import tiny_model
from peft import LoraConfig
from tiny_tokenizer import parallel_rows, train_tokenizer

from solar_trl import SolarSFTConfig
from solar_trl.benchmark.__main__ import make_parser as benchmark_parser
from solar_trl.objectives import OBJECTIVES
from solar_trl.scripts import sft


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ON_CPU = ("--use_cpu", "--bf16", "false")
# What is not ours to check, and what is run elsewhere
FOREIGN = ("lm_eval", "TASKS=")
RUN_ELSEWHERE = ("solar-trl evaluate", "solar-trl compare", "solar-trl analyze")  # test_cli.py


def texts(page: Path, kind: str) -> list[str]:
    return [block.text for block in blocks(page.read_text(encoding="utf-8"), kind)]


def commands() -> list[tuple[str, str]]:
    found = []
    for page in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        if page.exists():  # CONTRIBUTING.md is not in an sdist
            for text in texts(page, "bash"):
                found += [(page.name, line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(page, line) for page, line in found if not line.startswith(FOREIGN + RUN_ELSEWHERE)]


def understood(line: str, monkeypatch) -> None:
    """Raise unless the program of a command line takes all of its arguments."""
    words = shlex.split(line, comments=True)
    if "&&" in words:
        for part in line.partition("#")[0].split("&&"):
            understood(part, monkeypatch)
    elif words[0] == "make":
        (target,) = words[1:]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target
    elif words[0] == "pip":
        assert words[1] == "install" and len(words) == 3
        extras = re.fullmatch(r"solar-trl(?:\[(.+)\])?", words[2])
        known = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in (extras[1] or "").split(",") if extras else ():
            assert not extra or re.search(rf"^{extra} = \[", known, re.MULTILINE), extra
        assert extras or words[2] == "pre-commit"
    elif words[:2] == ["pre-commit", "install"]:
        assert (ROOT / ".pre-commit-config.yaml").exists() or not (ROOT / ".git").exists()
    elif words[:3] == ["python", "-m", "solar_trl.benchmark"]:
        benchmark_parser().parse_args(words[3:])
    elif words[:2] == ["solar-trl", "sft"] or words[:2] == ["accelerate", "launch"]:
        arguments = [word for word in words[2:] if word not in ("...", "examples/sft_solar.py")]
        required = [] if "--output_dir" in arguments else ["--output_dir", "out"]
        sft.make_parser().parse_args_and_config([*arguments, *required, *ON_CPU])
    elif words[0] == "python" and words[1].startswith("examples/benchmarks/"):
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        monkeypatch.setattr(sys, "argv", words[1:])
        from benchmarks import data_cost, step_cost

        {"step_cost.py": step_cost, "data_cost.py": data_cost}[Path(words[1]).name].parse_args()
    else:
        raise AssertionError(f"no program is known for: {line}")


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: " ".join(text.split()[:4]))
def test_command_is_understood(page, line, monkeypatch):
    understood(line, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "make dem",
        'pip install "solar-trl[evaluation]"',
        "python -m solar_trl.benchmark run --sede 100",
        "accelerate launch examples/sft_solar.py --model_name_or_path m --alignment_wait 1",
        "python examples/benchmarks/step_cost.py --batches 8x160",
        "python other.py",
    ],
)
def test_a_wrong_command_is_not(line, monkeypatch):
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        understood(line, monkeypatch)


# README


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A tiny model in the place of README's, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Qwen" / "Qwen3-0.6B"
    tiny_model("qwen3", vocab_size=384).save_pretrained(path)
    train_tokenizer().save_pretrained(path)
    return path


def test_swap_of_the_trainer_runs(model):
    """Both sides of the diff."""
    (diff,) = texts(README, "diff")
    rows = [json.loads(line) for line in texts(README, "json")[0].splitlines()]
    assert {row["language"] for row in rows} == {"en", "sw"} and len({row["parallel_id"] for row in rows}) == 1
    names = {}
    for sign in "-+":
        code = "\n".join(line[2:] for line in diff.splitlines() if line[:1] in (" ", sign))
        assert code.count('output_dir="out"') == 1
        code = code.replace('output_dir="out"', 'output_dir="out", use_cpu=True, bf16=False, report_to="none"')
        names[sign] = {"dataset": Dataset.from_list(rows), "LoraConfig": LoraConfig}
        exec(code, names[sign])
    plain, solar = (names[sign]["trainer"] for sign in "-+")
    assert type(plain).__name__ == "SFTTrainer" and type(solar).__name__ == "SolarSFTTrainer"
    assert solar.state.global_step == plain.state.global_step > 0
    assert any("pivot_similarity" in name for name in solar.state.log_history[0] | solar.state.log_history[-1])


def test_python_of_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = texts(README, "python")
    assert found
    for code in found:
        exec(code, {"SolarSFTConfig": partial(SolarSFTConfig, use_cpu=True, bf16=False)})


def test_command_of_readme_trains(model, tmp_path):
    (command,) = [line for page, line in commands() if page == README.name and line.startswith("accelerate")]
    words = shlex.split(command)[3:]
    (tmp_path / "data").mkdir()
    for name in (word for word in words if word.endswith(".jsonl")):
        rows = [
            {"id" if key == "parallel_id" else key: row[key] for key in row}
            for row in parallel_rows([Path(name).stem])
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parts = sft.make_parser().parse_args_and_config([*words, "--max_steps", "1", *ON_CPU])
    trainer = sft.main(*parts)
    assert trainer.state.global_step == 1 and (tmp_path / "Qwen3-0.6B-SOLAR" / "adapter_model.safetensors").exists()


def test_readme_names_every_objective():
    text = README.read_text(encoding="utf-8")
    assert not [name for name in OBJECTIVES if f'"{name}"' not in text]
