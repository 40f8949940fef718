"""What is said at the start and at the end of a run."""

import logging

import numpy as np
import pytest
from datasets import Dataset
from helpers import SPEC, solar_trainer, token_rows
from models import tiny_model

from solar_trl.data import ALIGNMENT_KEY
from solar_trl.run_summary import count_batches, final_summary


ITEMS = [(language, item) for item in range(12) for language in ("en", "sw", "th", "de")[: 2 + item % 3]]


@pytest.mark.parametrize("batching", ["grouped", "random"])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_share_of_appended_pivots_is_that_of_the_batches(batching, batch_size, tokenizer, tmp_path):
    config = {"per_device_train_batch_size": batch_size, "pivot_batching": batching}
    trainer = solar_trainer(tiny_model("qwen2"), token_rows(ITEMS), tokenizer, tmp_path, config=config)
    counts = []
    for epoch in range(1 if batching == "grouped" else 60):
        trainer._set_epoch(epoch)
        appended = [batch[ALIGNMENT_KEY]["pivot_tokens"] for batch in trainer.get_train_dataloader()]
        counts.append(sum(len(tokens.counts) for tokens in appended if tokens is not None) / len(ITEMS))
    got = trainer._side_passes(trainer._count_batches())
    mean = sum(counts) / len(counts)
    # The first epoch of the sampler exactly; of a random order one draw of many
    tolerance = 1e-9 if batching == "grouped" else 0.15
    assert got.rows == pytest.approx(mean, abs=tolerance)
    assert got.extra_time == pytest.approx(got.rows / 3)


@pytest.mark.parametrize("uses_batch", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 40])
def test_different_items_are_counted(batch_size, uses_batch):
    rng = np.random.default_rng(batch_size)
    item = rng.integers(6, size=30)
    first = np.unique(item, return_index=True)[1]  # the first row of each item is its pivot
    own = np.full(30, -1)
    own[first] = item[first]
    pivot = np.where(rng.random(30) < 0.2, -1, item)
    pivot[first] = item[first]
    order = rng.permutation(30)
    batches = [order[start : start + batch_size] for start in range(0, 30, batch_size)]
    # An unpaired row is an item of its own
    expected = [len({("item", pivot[i]) if pivot[i] >= 0 else ("row", i) for i in batch}) for batch in batches]
    found = count_batches(order, pivot, own, batch_size, uses_batch)
    assert found.items == pytest.approx(np.mean(expected))
    assert count_batches(order[:0], pivot, own, batch_size).items == 0


@pytest.mark.parametrize(
    ("config", "rows", "per_row"),
    [
        ({"alignment_kwargs": {"pivot_gradient": "both"}}, None, 1.0),
        ({"alignment_kwargs": {"pivot_gradient": "anchored"}}, 0.0, None),
        ({"gradient_checkpointing": True}, None, 1 / 4),
        ({"alignment_objective": "info_xlm", "per_device_train_batch_size": 60}, 12 / len(ITEMS), 1 / 3),
    ],
)
def test_what_a_side_pass_costs(config, rows, per_row, tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("qwen2"),
        token_rows(ITEMS),
        tokenizer,
        tmp_path,
        config={"per_device_train_batch_size": 1, **config},
    )
    got = trainer._side_passes(trainer._count_batches())
    if rows is not None:
        assert got.rows == pytest.approx(rows)
    if per_row is not None:
        assert got.rows > 0 and got.extra_time == pytest.approx(got.rows * per_row)


def test_both_summaries(tokenizer, tmp_path, caplog):
    config = {"per_device_train_batch_size": 1, "max_steps": 4, "alignment_weight": 0.5, "logging_steps": 1}
    with caplog.at_level(logging.INFO, logger="solar_trl"):
        trainer = solar_trainer(tiny_model("qwen2"), token_rows(SPEC), tokenizer, tmp_path, config=config)
        start = [record.message for record in caplog.records if record.message.startswith("solar: ")]
        assert len(start) == 1 and "Weight 0.5, constant." in start[0] and "forward pass of their own" in start[0]
        assert "Larger micro-batches than 1 rows" in start[0]
        trainer.train()
    end = [record.message for record in caplog.records if record.message.startswith("alignment over the run")]
    logged = [logs["sft_loss"] for logs in trainer.state.log_history if "sft_loss" in logs]
    assert len(end) == 1
    assert "sft_loss" in end[0] and f"{logged[0]:8.4f} -> {logged[-1]:8.4f}" in end[0]
    trainer.create_model_card()
    card = (tmp_path / "solar" / "README.md").read_text()
    assert f"{logged[0]:.4f} | {logged[-1]:.4f} |" in card


def test_drawn_pairs_and_nothing_to_say(tokenizer, tmp_path, caplog):
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in token_rows(SPEC)]
    with caplog.at_level(logging.INFO, logger="solar_trl"):
        trainer = solar_trainer(
            tiny_model("qwen2"), rows, tokenizer, tmp_path, alignment_dataset=Dataset.from_list(token_rows(SPEC))
        )
    assert trainer._side_passes(trainer._count_batches()).rows == 2
    assert any("2.00 sequences per row" in record.message for record in caplog.records)
    assert final_summary([{"loss": 1.0}]) is None


def test_pairs_without_negatives_are_named(tokenizer, tmp_path, caplog):
    config = {"alignment_objective": "mid_align", "per_device_train_batch_size": 2}
    with caplog.at_level(logging.INFO, logger="solar_trl"):
        trainer = solar_trainer(tiny_model("qwen2"), token_rows(ITEMS), tokenizer, tmp_path, config=config)
        alone = n_pairs = 0
        for batch in trainer.get_train_dataloader():
            items = batch[ALIGNMENT_KEY]["items"]
            n_pairs += len(items)
            alone += len(items) * (len(items.unique()) == 1)
        assert trainer._count_batches().lonely == pytest.approx(alone / n_pairs) and alone > 0
        assert any("they have no negatives" in record.message for record in caplog.records)
        caplog.clear()
        config["per_device_train_batch_size"] = 18
        solar_trainer(tiny_model("qwen2"), token_rows(ITEMS), tokenizer, tmp_path, config=config)
        assert not any("they have no negatives" in record.message for record in caplog.records)
