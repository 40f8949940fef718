"""Layouts of a batch: padded, padding-free and packed runs take the same step."""

import pytest
import torch
from datasets import Dataset
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
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_model

from solar_trl.data.packing import pack_pairs


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def gradients(tokenizer, tmp_path, config, model="qwen3", rows=None, **kwargs):
    config = {"alignment_weight": 3.0, "max_steps": 1, "max_length": None, **config}
    trainer = solar_trainer(tiny_model(model), rows or token_rows(SPEC), tokenizer, tmp_path, config=config, **kwargs)
    return step_gradients(trainer), trainer.state.log_history[0]


@needs_sequential
@pytest.mark.parametrize("model", ["qwen3", "llama", "gemma3", "gpt2"])
@pytest.mark.parametrize(
    "config",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},  # appended pivots
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "pad_to_multiple_of": 16},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3, "detach_pivot": False},
    ],
    ids=["one batch", "appended pivots", "padded to a multiple", "moving pivots"],
)
def test_padding_free_equals_padded(model, config, tokenizer, tmp_path):
    padded, log = gradients(tokenizer, tmp_path, {**SEQUENTIAL, **config}, model)
    flat, flat_log = gradients(tokenizer, tmp_path, {**SEQUENTIAL, **config, "padding_free": True}, model)
    assert relative_error(flat, padded) < 1e-5
    for name in log:
        if name.startswith(("alignment", "pivot_similarity", "sft_loss", "summary", "aligned")):
            assert flat_log[name] == pytest.approx(log[name], rel=1e-4), name


@needs_sequential
def test_padding_free_evaluation(tokenizer, tmp_path):
    metrics = []
    for padding_free in (False, True):
        trainer = solar_trainer(
            tiny_model("qwen3"),
            token_rows(SPEC),
            tokenizer,
            tmp_path,
            config={"max_length": None, "padding_free": padding_free, "per_device_eval_batch_size": 3},
            eval_dataset=Dataset.from_list(token_rows([*SPEC, ("th", 2)], seed=5)),
        )
        metrics.append(trainer.evaluate())
    padded, flat = metrics
    names = [name for name in padded if "/" in name or name in ("eval_alignment_loss", "eval_sft_loss")]
    assert len(names) > 6
    for name in names:
        assert flat[name] == pytest.approx(padded[name], rel=1e-4), name


@needs_sequential
def test_padding_free_with_weight_zero_is_sft(tokenizer, tmp_path):
    config = {"max_steps": 1, "max_length": None, "padding_free": True, "per_device_train_batch_size": 4}
    plain = step_gradients(sft_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config))
    ours, _ = gradients(tokenizer, tmp_path, {**config, "alignment_weight": 0.0})
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@needs_sequential
@pytest.mark.parametrize("model", ["qwen3", "gemma3"])
def test_packed_equals_padded(model, tokenizer, tmp_path):
    """All rows in one step, whatever the sequences: the same pairs, and the same tokens for the SFT loss."""
    padded, log = gradients(tokenizer, tmp_path, {**SEQUENTIAL, "per_device_train_batch_size": 8}, model)
    for max_length, rows_per_batch in ((64, 8), (24, 2), (24, 1)):  # the last: pivots in other batches
        config = {"packing": True, "max_length": max_length, "per_device_train_batch_size": rows_per_batch}
        trainer = solar_trainer(
            tiny_model(model), token_rows(SPEC), tokenizer, tmp_path, config={**config, "alignment_weight": 3.0}
        )
        packed_rows = len(trainer.train_dataset)
        assert packed_rows < len(SPEC)
        accumulation = -(-packed_rows // rows_per_batch)
        packed, packed_log = gradients(
            tokenizer, tmp_path, {**config, "gradient_accumulation_steps": accumulation}, model
        )
        assert relative_error(packed, padded) < 1e-5
        assert packed_log["aligned_pairs"] == log["aligned_pairs"]
        for name in log:
            if name.startswith(("alignment", "pivot_similarity", "sft_loss", "summary")):
                assert packed_log[name] == pytest.approx(log[name], rel=1e-4), name


def test_packed_evaluation(tokenizer, tmp_path):
    metrics = []
    for packing in (False, True):
        trainer = solar_trainer(
            tiny_model("qwen3"),
            token_rows(SPEC),
            tokenizer,
            tmp_path,
            config={"max_length": 30, "packing": packing, "per_device_eval_batch_size": 2},
            eval_dataset={
                "pairs": Dataset.from_list(token_rows([*SPEC, ("th", 2)], seed=5)),
                "plain": Dataset.from_list(token_rows(SPEC)).select_columns(["input_ids", "labels"]),
            },
        )
        metrics.append(trainer.evaluate())
    padded, packed = metrics
    for name in [
        name for name in padded if "/" in name or name in ("eval_pairs_alignment_loss", "eval_pairs_sft_loss")
    ]:
        assert packed[name] == pytest.approx(padded[name], rel=1e-4), name
    assert packed["eval_plain_loss"] == pytest.approx(padded["eval_plain_loss"], rel=0.2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 6), st.integers(1, 20)), min_size=1, max_size=40),
    st.integers(20, 60),
)
def test_every_row_is_packed_once_and_whole(spec, max_length):
    rows = [
        {
            "input_ids": [1000 * i + t for t in range(length)],
            "labels": [-100] * (length // 2) + [1000 * i + t for t in range(length // 2, length)],
            "solar_pivot": pivot,
            "solar_own_pivot": -1,
            "solar_language": i,
        }
        for i, (pivot, length) in enumerate(spec)
    ]
    packed = pack_pairs(Dataset.from_list(rows), max_length)
    seen, homes = [], {}
    for n, row in enumerate(packed):
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= max_length
        start = 0
        for length, i, pivot in zip(row["seq_lengths"], row["solar_language"], row["solar_pivot"], strict=True):
            part = slice(start, start + length)
            assert row["input_ids"][part] == rows[i]["input_ids"] and row["labels"][part] == rows[i]["labels"]
            assert pivot == rows[i]["solar_pivot"]
            homes.setdefault(pivot, set()).add(n)
            seen.append(i)
            start += length
    assert sorted(seen) == list(range(len(rows)))
    for pivot in {pivot for pivot, _ in spec if pivot >= 0}:
        total = sum(length for other, length in spec if other == pivot)
        if total <= max_length:  # items that fit are whole
            assert len(homes[pivot]) == 1
    # At most one sequence is half empty, where items do not hold their rows together
    if all(pivot < 0 for pivot, _ in spec):
        assert sum(2 * len(row["input_ids"]) <= max_length for row in packed) <= 1
