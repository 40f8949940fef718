"""What must not change anything: weight 0, and how an optimizer step is cut into micro-batches and ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import (
    SEQUENTIAL,
    SPEC,
    needs_sequential,
    relative_error,
    sft_trainer,
    solar_trainer,
    step_gradients,
    token_rows,
)
from models import tiny_model
from tiny_tokenizer import parallel_rows


ADAMW = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_grad_norm": 1.0, "max_steps": 6}


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("off", [{"alignment_weight": 0.0}, {"alignment_objective": "none"}], ids=["weight 0", "none"])
@pytest.mark.parametrize("model_name", ["qwen3", "gemma2"])
def test_alignment_off_is_sft_bit_for_bit(off, model_name, tokenizer, tmp_path):
    rows = token_rows(SPEC * 3)
    config = {**ADAMW, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    # Dropout shows whether anything draws random numbers
    models = [tiny_model(model_name) for _ in range(2)]
    for model in models:
        model.config.attention_dropout = 0.1
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1
    # One after the other: each construction seeds the random numbers of its training
    sft = sft_trainer(models[0], rows, tokenizer, tmp_path, config=config)
    sft.train()
    solar = solar_trainer(models[1], rows, tokenizer, tmp_path, config={**config, **off})
    solar.train()
    for name, value in weights(sft).items():
        assert torch.equal(value, weights(solar)[name]), name
    assert [log["loss"] for log in sft.state.log_history if "loss" in log] == [
        log["loss"] for log in solar.state.log_history if "loss" in log
    ]
    on = solar_trainer(
        tiny_model(model_name), rows, tokenizer, tmp_path, config={**config, "multiple_pivots": "first"}
    )
    on.train()
    assert not torch.equal(weights(on)["model.norm.weight"], weights(solar)["model.norm.weight"])


def test_alignment_off_needs_no_columns(tokenizer, tmp_path):
    rows = [{"text": row["response"]} for row in parallel_rows(["en", "sw"])]
    trainer = solar_trainer(tiny_model("llama"), rows, tokenizer, tmp_path, config={**ADAMW, "alignment_weight": 0})
    trainer.train()
    assert not any("alignment_loss" in log for log in trainer.state.log_history)


def test_sft_part_is_that_of_sft(tokenizer, tmp_path):
    """With a vanishing weight, the fused head gives TRL's own gradient and metrics."""
    rows = token_rows(SPEC)
    config = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    sft = sft_trainer(tiny_model("gemma2"), rows, tokenizer, tmp_path, config=config)
    solar = solar_trainer(
        tiny_model("gemma2"),
        rows,
        tokenizer,
        tmp_path,
        config={**config, "alignment_weight": 1e-12, "pivot_batching": "random"},
    )
    assert relative_error(step_gradients(solar), step_gradients(sft)) <= 2e-6
    for key in ("entropy", "mean_token_accuracy", "num_tokens", "loss"):
        assert solar.state.log_history[0][key] == pytest.approx(sft.state.log_history[0][key], rel=1e-5), key


@pytest.mark.parametrize("config", [{}, {"detach_pivot": False}, {"soft_token_top_k": 5}], ids=str)
@pytest.mark.parametrize("batching", ["grouped", "random"])
def test_cut_into_micro_batches(batching, config, tokenizer, tmp_path):
    """Ragged pair counts, micro-batches without a pair, pivots appended here and in the batch there."""
    rows = token_rows(SPEC)

    def gradients(batch_size, accumulation):
        cut = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        trainer = solar_trainer(
            tiny_model("qwen3"),
            rows,
            tokenizer,
            tmp_path,
            config={**cut, "max_steps": 1, "pivot_batching": batching, "alignment_weight": 3.0, **config},
        )
        return step_gradients(trainer)

    whole = gradients(8, 1)
    for batch_size, accumulation in ((4, 2), (3, 3), (2, 4), (1, 8)):
        assert relative_error(gradients(batch_size, accumulation), whole) <= 1e-5, (batch_size, accumulation)


@needs_sequential
def test_cut_where_the_trainer_divides_by_accumulation(tokenizer, tmp_path):
    """Without a token count the Trainer averages over micro-batches; the alignment term must survive that."""
    rows = token_rows(SPEC)

    def alignment_gradients(batch_size, accumulation):
        gradients = []
        for weight in (5.0, 1e-12):
            trainer = solar_trainer(
                tiny_model("qwen3"),
                rows,
                tokenizer,
                tmp_path,
                config={
                    "per_device_train_batch_size": batch_size,
                    "gradient_accumulation_steps": accumulation,
                    "max_steps": 1,
                    "alignment_weight": weight,
                    **SEQUENTIAL,
                },
            )
            trainer.model_accepts_loss_kwargs = False
            gradients.append(step_gradients(trainer))
        return {name: value - gradients[1][name] for name, value in gradients[0].items()}

    assert relative_error(alignment_gradients(2, 4), alignment_gradients(8, 1)) <= 2e-5


WORKER = Path(__file__).parent / "distributed_worker.py"


def run_ranks(options: dict, ranks: int, tmp_path: Path) -> dict:
    """Run `distributed_worker.py` on gloo ranks; returns what rank 0 saved."""
    out = tmp_path / f"ranks{ranks}.pt"
    command = [sys.executable, str(WORKER), json.dumps(options), str(out)]
    if ranks > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={ranks}",
            *command[1:],
        ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CI": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result = torch.load(out, weights_only=False)
    assert result["world_size"] == ranks
    return result


@pytest.mark.distributed
@pytest.mark.parametrize(
    "config",
    [
        {"pivot_batching": "grouped"},
        pytest.param(SEQUENTIAL, marks=needs_sequential),  # a rank without any pair
        pytest.param({**SEQUENTIAL, "detach_pivot": False}, marks=needs_sequential),
        {"pivot_batching": "grouped", "gradient_checkpointing": True, "lora": True},
        pytest.param({**SEQUENTIAL, "uneven": True}, marks=needs_sequential),
    ],
    ids=["grouped", "rank without pairs", "moving pivots", "lora, checkpointing", "uneven last batch"],
)
def test_two_ranks_equal_one(config, tmp_path):
    two = run_ranks({**config, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, 2, tmp_path)
    one = run_ranks({**config, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}, 1, tmp_path)
    assert two["sum_of_pairs"] == one["sum_of_pairs"] > 0
    assert relative_error(two["gradients"], one["gradients"]) <= 1e-5
    for key in ("alignment_loss", "sft_loss", "pivot_similarity", "aligned_pairs", "sft_loss/sw", "summary_variance"):
        assert two["logs"][key] == pytest.approx(one["logs"][key], rel=1e-5, abs=1e-6), key
    # Nine evaluation rows on two ranks: accelerate repeats rows to even out the batches, the metrics do not count them
    for key, value in one["eval"].items():
        if "sft_loss" in key or "alignment" in key or "similarity" in key or "pairs" in key:
            assert two["eval"][key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
