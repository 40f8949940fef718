"""A run that is killed and resumed is the straight run, bit for bit; unfinished checkpoints are passed over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import solar_trainer, token_rows
from kill_worker import CONFIG, SPEC
from models import TRANSFORMERS_5, tiny_model

from solar_trl.checkpoints import checkpoint_damage


WORKER = Path(__file__).with_name("kill_worker.py")
ACCUMULATION = {"config": {"gradient_accumulation_steps": 2}}
CASES = {
    "full, in the second epoch": {"kill": ("step", 7)},
    "lora with dropout, accumulation": {"lora": True, **ACCUMULATION, "kill": ("step", 4)},
    "while saving": {"kill": ("save", 6)},
    "nf4": {"nf4": True, "lora": True, "config": {"bf16": False}, "kill": ("step", 6)},
    "worker": {"config": {"dataloader_num_workers": 1}, "kill": ("step", 8)},
    "grouped order": {"config": {"pivot_batching": "grouped"}, "kill": ("step", 7)},
    "in the first step": {"config": {"save_steps": 2}, "kill": ("step", 3)},
    "two ranks, accumulation": {
        "ranks": 2,
        "config": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        "kill": ("step", 4),
    },
}
FAST = ("full, in the second epoch", "while saving")


def launch(case: dict, folder: Path, mode: str) -> subprocess.CompletedProcess:
    ranks = case.get("ranks", 1)
    command = [sys.executable, str(WORKER), json.dumps(case), str(folder), mode]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command = [sys.executable, *launcher, *command[1:]]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CI": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 resumes exactly at the end of an epoch only")
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_killed_and_resumed_is_the_straight_run(name, tmp_path):
    case = CASES[name]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    done = launch(case, straight, "straight")
    assert done.returncode == 0, done.stderr[-4000:]
    done = launch(case, killed, "kill")
    assert done.returncode != 0 and "it was to be killed" not in done.stderr
    assert not (killed / "kill.pt").exists()
    done = launch(case, killed, "resume")
    assert done.returncode == 0, done.stderr[-4000:]
    assert ("optimizer.pt is cut off" in done.stderr or "trainer_state.json is missing" in done.stderr) == (
        case["kill"][0] == "save"
    )
    expected = torch.load(straight / "straight.pt", weights_only=False)
    got = torch.load(killed / "resume.pt", weights_only=False)
    assert expected["world_size"] == got["world_size"] == case.get("ranks", 1)
    assert all(torch.equal(value, got["weights"][n]) for n, value in expected["weights"].items())
    for parameter, state in expected["optimizer"].items():
        assert all(torch.equal(value, got["optimizer"][parameter][key]) for key, value in state.items())
    # The order of the pairs is in the losses of each step
    assert expected["logs"][:-1] == got["logs"][:-1]
    assert len({log["loss"] for log in expected["logs"][:-1]}) > 2


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = {**CONFIG, "max_steps": 3}
    solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, folder, config=config).train()
    return folder / "solar"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {
    "optimizer.pt": (cut, "optimizer.pt is cut off"),
    "model.safetensors": (cut, "model.safetensors is cut off"),
    "trainer_state.json": (cut, "trainer_state.json is cut off"),
    "scheduler.pt": (cut, "scheduler.pt is cut off"),
    "rng_state.pth": (Path.unlink, "the random state is missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_torn_checkpoints(name, checkpoint, tokenizer, tmp_path, caplog):
    folder = tmp_path / "solar"
    shutil.copytree(checkpoint, folder)
    damage, message = FAULTS[name]
    damage(folder / "checkpoint-3" / name)
    trainer = solar_trainer(
        tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={**CONFIG, "max_steps": 4}
    )
    with pytest.raises(ValueError, match=message) as info:
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert str(folder / "checkpoint-2") in str(info.value)
    trainer.train(resume_from_checkpoint=True)
    assert message in caplog.text and trainer.state.global_step == 4
    for step in (1, 2, 3, 4):
        damage(folder / f"checkpoint-{step}" / name)
    with pytest.raises(ValueError, match="None of the 4 checkpoints"):
        trainer.train(resume_from_checkpoint=True)


def test_missing_parts(checkpoint, tmp_path):
    assert checkpoint_damage(checkpoint / "checkpoint-2") is None
    for name, message in (("optimizer.pt", "optimizer state"), ("model.safetensors", "weights")):
        folder = shutil.copytree(checkpoint / "checkpoint-2", tmp_path / name)
        (folder / name).unlink()
        assert message in checkpoint_damage(folder)
    only_model = shutil.copytree(checkpoint / "checkpoint-2", tmp_path / "only")
    for name in ("optimizer.pt", "rng_state.pth"):
        (only_model / name).unlink()
    assert checkpoint_damage(only_model) and checkpoint_damage(only_model, only_model=True) is None
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model-00001-of-00002.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint_damage(folder) == "model-00002-of-00002.safetensors is missing"


def test_no_checkpoint_is_the_trainers_own_error(tokenizer, tmp_path):
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=CONFIG)
    (tmp_path / "solar").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="No valid checkpoint"):
        trainer.train(resume_from_checkpoint=True)
