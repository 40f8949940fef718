"""Sharded weights on two ranks against one process: the same gradient, whoever holds which part of which matrix."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import needs_sequential, relative_error


WORKER = Path(__file__).with_name("sharded_worker.py")
IN_ORDER = {"train_sampling_strategy": "sequential"}
CASES = {
    "tied": {"model": "qwen2", "model_options": {"tied": True}, "config": IN_ORDER},
    "untied": {"model": "qwen3", "model_options": {"tied": False}, "config": IN_ORDER},
    "head bias, top-k": {"model": "llama_head_bias", "config": {**IN_ORDER, "soft_token_top_k": 5}},
    "moving pivots": {
        "model": "qwen3",
        "model_options": {"tied": False},
        "config": {**IN_ORDER, "detach_pivot": False, "soft_token_temperature": 0.7},
    },
    "accumulation": {
        "model": "gemma2",
        "model_options": {"tied": True},
        "config": {**IN_ORDER, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    },
    "lora": {"model": "qwen3", "lora": ["q_proj", "v_proj"], "config": IN_ORDER},
    "model by name": {"model": "qwen2", "by_name": True, "config": {**IN_ORDER, "soft_token_top_k": 7}},
    "lora on embeddings": {
        "model": "qwen3",
        "model_options": {"tied": False},
        "lora": ["q_proj", "embed_tokens"],
        "config": IN_ORDER,
    },
    "hidden states": {
        "model": "qwen3",
        "model_options": {"tied": False},
        "config": {
            **IN_ORDER,
            "alignment_objective": "hidden_cosine",
            "alignment_kwargs": {"layers": [1, -1], "positions": "all", "pivot_gradient": "both"},
            "gradient_checkpointing": True,
        },
    },
    "hard tokens": {
        "model": "qwen3",
        "model_options": {"tied": False},
        "config": {**IN_ORDER, "alignment_objective": "hard_token"},
    },
    "soft tokens of the head": {
        "model": "qwen3",
        "model_options": {"tied": False},
        "config": {**IN_ORDER, "alignment_kwargs": {"embeddings": "output"}},
    },
    "hard tokens of the head": {
        "model": "qwen3",
        "model_options": {"tied": False},
        "config": {**IN_ORDER, "alignment_objective": "hard_token", "alignment_kwargs": {"embeddings": "output"}},
    },
    "soft tokens of prompts": {
        "model": "qwen2",
        "model_options": {"tied": True},
        "config": {**IN_ORDER, "alignment_kwargs": {"positions": "prompt"}},
    },
}


@functools.cache
def results(sharding: str, ranks: int, plain: bool = False) -> dict[str, dict]:
    """All cases, in one launch."""
    cases = [{"sharding": sharding, "plain": plain, **case} for case in CASES.values()]
    if plain:
        for case in cases:
            ours = ("soft_token", "pivot", "alignment")
            case["config"] = {k: v for k, v in case["config"].items() if not any(part in k for part in ours)}
    if ranks == 1:  # the two rows of both ranks
        for case in cases:
            size = case["config"].get("per_device_train_batch_size", 2)
            case["config"] = {**case["config"], "per_device_train_batch_size": 2 * size}
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.pt"
        command = [sys.executable, str(WORKER), json.dumps(cases), out]
        if ranks > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
            command = [sys.executable, *launcher, *command[1:]]
        environment = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1"}
        if sharding in ("none", "ddp"):
            environment["ACCELERATE_USE_CPU"] = "true"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return dict(zip(CASES, torch.load(out, weights_only=False), strict=True))


needs_deepspeed = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles an operator on its first CPU run"),
]
SHARDINGS = [
    "fsdp2",
    pytest.param("zero2", marks=needs_deepspeed),
    pytest.param("zero3", marks=needs_deepspeed),
]


@pytest.mark.distributed
@needs_sequential
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_one_process(case, sharding):
    got, expected = results(sharding, 2)[case], results("none", 1)[case]
    assert got["world_size"] == 2 and expected["world_size"] == 1
    assert got["kind"] == {"fsdp2": "FSDP"}.get(sharding, "DEEPSPEED")
    assert got["sharded"] or sharding == "zero2"
    assert relative_error(got["gradients"], expected["gradients"]) < 1e-5
    for where, names in (
        ("logs", ["alignment_loss", "aligned_pairs"]),
        ("eval", ["eval_alignment_loss", "eval_sft_loss"]),
    ):
        for name in names:
            assert got[where][name] == pytest.approx(expected[where][name], rel=1e-4), name


@pytest.mark.distributed
@needs_sequential
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_sft_gradient_is_another(sharding):
    """The alignment term is in what was compared, and plain SFT takes another step."""
    plain, solar = results("none", 1, plain=True), results("none", 1)
    for case in CASES:
        assert relative_error(solar[case]["gradients"], plain[case]["gradients"]) > 1e-2
