"""InfoNCE with negatives from all ranks: two ranks equal one with the same global batch, gradient included."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gathering_worker
import pytest
import torch
from helpers import needs_sequential, relative_error
from test_sharding import SHARDINGS


WORKER = Path(__file__).with_name("gathering_worker.py")
HIDDEN = {"representation": "hidden_state", "layers": [0.5, -1], "pooling": "last"}
# (rows, settings of the objective, configuration)
SETTINGS = {
    "detached": ("ragged", {}, {}),
    "to pivot": ("ragged", {"pivot_gradient": "both"}, {}),
    "from pivot": ("ragged", {"direction": "from_pivot"}, {}),
    "from moving pivot": ("ragged", {"direction": "from_pivot", "pivot_gradient": "both"}, {}),
    "both directions": ("ragged", {"direction": "both", "pivot_gradient": "both"}, {}),
    "rank without pairs": ("a rank without pairs", {"direction": "both", "pivot_gradient": "both"}, {}),
    "rank without pairs, detached": ("a rank without pairs", {}, {}),
    "shared items": ("items on both ranks", {"direction": "both", "pivot_gradient": "both"}, {}),
    "shared items, detached": ("items on both ranks", {}, {}),
    "naive": ("items on both ranks", {"direction": "both", "pivot_gradient": "both", "negatives": "naive"}, {}),
    "hidden states": ("items on both ranks", {**HIDDEN, "direction": "both", "pivot_gradient": "both"}, {}),
    "accumulation": (
        "items on both ranks",
        {"direction": "both", "pivot_gradient": "both"},
        {"batch_size": 4, "gradient_accumulation_steps": 2},
    ),
    "queue": (
        "items on both ranks",
        {"pivot_gradient": "momentum", "momentum": 0.5, "queue_size": 16},
        {"max_steps": 3, "batch_size": 4, "gradient_accumulation_steps": 1},
    ),
}
SETTINGS["queue, rank without pairs"] = ("a rank without pairs", SETTINGS["queue"][1], {"max_steps": 3})
CASES = {name: {"rows": rows, "kwargs": kwargs, "config": config} for name, (rows, kwargs, config) in SETTINGS.items()}
ALONE = {name: {**CASES[name], "kwargs": {**CASES[name]["kwargs"], "gather": False}} for name in ("to pivot", "queue")}
BROKEN = {name: {**CASES[name], "broken": True} for name in ("both directions", "shared items", "from pivot")}


@functools.cache
def two_ranks() -> dict[str, dict]:
    """All cases, in one launch."""
    cases = {**CASES, **{f"alone: {k}": v for k, v in ALONE.items()}, **{f"broken: {k}": v for k, v in BROKEN.items()}}
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.pt"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, str(WORKER), json.dumps(list(cases.values())), out]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CI": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        results = dict(zip(cases, torch.load(out, weights_only=False), strict=True))
    assert all(result["world_size"] == 2 for result in results.values())
    return results


@functools.cache
def one_rank(name: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        result = gathering_worker.run(CASES[name], Path(folder))
    assert result["world_size"] == 1
    return result


@pytest.mark.distributed
@needs_sequential
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(name):
    two, one = two_ranks()[name], one_rank(name)
    assert len(two["gradients"]) == len(one["gradients"]) == CASES[name]["config"].get("max_steps", 1)
    for got, expected in zip(two["gradients"], one["gradients"], strict=True):
        assert relative_error(got, expected) <= 1e-5
    for got, expected in zip(two["logs"], one["logs"], strict=True):
        assert got["aligned_pairs"] == expected["aligned_pairs"] > 0
        assert got["alignment_loss"] == pytest.approx(expected["alignment_loss"], rel=1e-5)
    assert two["eval"]["eval_alignment_loss"] == pytest.approx(one["eval"]["eval_alignment_loss"], rel=1e-5)


@pytest.mark.distributed
@needs_sequential
@pytest.mark.parametrize("name", BROKEN)
def test_without_the_gradient_of_other_ranks_it_is_another(name):
    assert relative_error(two_ranks()[f"broken: {name}"]["gradients"][0], one_rank(name)["gradients"][0]) > 1e-3


@pytest.mark.distributed
@needs_sequential
@pytest.mark.parametrize("name", ALONE)
def test_without_gathering_it_is_another(name):
    alone, one = two_ranks()[f"alone: {name}"], one_rank(name)
    assert relative_error(alone["gradients"][0], one["gradients"][0]) > 1e-3
    assert alone["logs"][0]["alignment_loss"] < one["logs"][0]["alignment_loss"]  # fewer negatives


SHARDED = {
    "gathered": {"alignment_objective": "soft_info_nce", "alignment_kwargs": {"gather": True, "direction": "both"}},
    "gathered, moving": {
        "alignment_objective": "soft_info_nce",
        "alignment_kwargs": {"gather": True, "direction": "both", "pivot_gradient": "both"},
    },
    "anchored": {"alignment_kwargs": {"pivot_gradient": "anchored"}, "per_device_eval_batch_size": 2},
    "held back": {
        "alignment_objective": "l2_anchor",
        "per_device_eval_batch_size": 2,
        "max_steps": 2,
        "learning_rate": 0.01,
    },
}


@functools.cache
def sharded(sharding: str, ranks: int) -> dict[str, dict]:
    size = 8 // ranks
    cases = [
        {
            "model": "qwen3",
            "model_options": {"tied": False},
            "sharding": sharding,
            "config": {"train_sampling_strategy": "sequential", "per_device_train_batch_size": size, **config},
        }
        for config in SHARDED.values()
    ]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    worker = WORKER.with_name("sharded_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.pt"
        command = [sys.executable, *launcher, str(worker), json.dumps(cases), out]
        environment = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1"}
        if sharding == "none":
            environment["ACCELERATE_USE_CPU"] = "true"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return dict(zip(SHARDED, torch.load(out, weights_only=False), strict=True))


@pytest.mark.distributed
@pytest.mark.slow
@needs_sequential
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_weights(name, sharding):
    """Weights that ranks gather for each forward: summaries at the start, and negatives of all ranks."""
    two, one = sharded(sharding, 2)[name], sharded("none", 1)[name]
    assert two["world_size"] == 2 and one["world_size"] == 1
    assert two["sharded"] or sharding == "zero2"
    # Updates, which are small against the weights that they are read off from
    assert relative_error(two["gradients"], one["gradients"]) < (1e-4 if name == "held back" else 1e-5)
    for key in ("eval_alignment_loss", "eval_anchor_loss"):
        if "gathered" not in name and key in one["eval"]:  # the last batch of an evaluation is filled up
            assert two["eval"][key] == pytest.approx(one["eval"][key], rel=1e-4)


@pytest.mark.distributed
@needs_sequential
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("detached", 0),
        ("rank without pairs, detached", 0),
        ("queue", 0),
        ("to pivot", 1),
        ("from pivot", 1),
        ("both directions", 2),
        ("rank without pairs", 2),
        ("accumulation", 4),
    ],
)
def test_collectives_of_the_backward(name, calls):
    """As many on each rank, those without pairs too, and none where no rank's gradient needs one."""
    result = two_ranks()[name]
    assert result["calls"] == [calls, calls]
    assert result["calls in evaluation"] == 0
