"""Pairs from a dataset of their own, and micro-batches that take turns: what the original mid-align does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
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

from solar_trl.data import PIVOT_COLUMN, PivotTable
from solar_trl.data.side_pairs import SidePairs


ALIGNED = [("en", 1), ("sw", 1), ("th", 1), ("en", 2), ("sw", 2)]  # three pairs
# In one batch, in a fixed order
WHOLE = {"per_device_train_batch_size": 8, "max_steps": 1, "pivot_batching": "random"}
SFT_WHOLE = {name: value for name, value in WHOLE.items() if name != "pivot_batching"}
OBJECTIVES = {
    "solar": {},
    "mid_align": {"alignment_objective": "mid_align", "alignment_kwargs": {"negatives": "naive"}},
    "all positions": {
        "alignment_objective": "hidden_cosine",
        "alignment_kwargs": {"positions": "all", "layers": [1], "pivot_gradient": "both"},
    },
}


def plain(rows):
    """Rows of monolingual task data, as a user of an alignment dataset has them."""
    return [{name: row[name] for name in ("input_ids", "labels")} for row in rows]


def add(*gradients, minus=()):
    """Sum of gradients by parameter, those in `minus` subtracted."""
    names = set().union(*gradients, *minus)
    return {
        name: sum(g[name].double() for g in gradients if name in g) - sum(g[name].double() for g in minus if name in g)
        for name in names
    }


def alignment_gradient(rows, tokenizer, tmp_path, config):
    """Gradient of the alignment term alone: with it minus without."""
    model, config = "qwen2", {**WHOLE, "alignment_weight": 0.7, **config}
    whole = step_gradients(solar_trainer(tiny_model(model), rows, tokenizer, tmp_path, config=config))
    sft = step_gradients(sft_trainer(tiny_model(model), rows, tokenizer, tmp_path, config=SFT_WHOLE))
    return add(whole, minus=[sft])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_task_and_pairs_apart(name, tokenizer, tmp_path):
    task, aligned = token_rows([("x", 0)] * 3, seed=3), token_rows(ALIGNED, seed=4)
    trainer = solar_trainer(
        tiny_model("qwen2"),
        plain(task),
        tokenizer,
        tmp_path,
        config={**WHOLE, "alignment_weight": 0.7, **OBJECTIVES[name]},
        alignment_dataset=Dataset.from_list(aligned),
    )
    got = step_gradients(trainer)
    sft = step_gradients(sft_trainer(tiny_model("qwen2"), plain(task), tokenizer, tmp_path, config=SFT_WHOLE))
    term = alignment_gradient(aligned, tokenizer, tmp_path, OBJECTIVES[name])
    assert relative_error(got, add(sft, term)) < 1e-5
    assert relative_error(got, sft) > 1e-2  # the term matters
    logs = trainer.state.log_history[0]
    assert logs["aligned_pairs"] == 3 and "pivot_similarity/th" in logs and "sft_loss/unknown" in logs


@needs_sequential
@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_take_turns(name, tokenizer, tmp_path):
    """The update is that of the SFT loss on the first micro-batch plus that of the alignment term on the second."""
    rows = token_rows([("en", 1), ("sw", 1), ("th", 1), ("en", 2), ("sw", 2), ("de", 1)])
    config = {
        "alignment_alternate": True,
        "alignment_weight": 0.7,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 1,
        **SEQUENTIAL,
        **OBJECTIVES[name],
    }
    trainer = solar_trainer(tiny_model("qwen2"), rows, tokenizer, tmp_path, config=config)
    got = step_gradients(trainer)
    task, aligned = rows[:3], rows[3:]
    sft = step_gradients(sft_trainer(tiny_model("qwen2"), task, tokenizer, tmp_path, config=SFT_WHOLE))
    # The pivot of ("de", 1) is in the other micro-batch: give it to the reference as a pivot only
    whole = step_gradients(
        solar_trainer(
            tiny_model("qwen2"),
            aligned[1:],
            tokenizer,
            tmp_path,
            config={**WHOLE, "alignment_weight": 0.7, **OBJECTIVES[name]},
            pivot_dataset=Dataset.from_list([rows[0], rows[3]]),
        )
    )
    rest = step_gradients(sft_trainer(tiny_model("qwen2"), aligned[1:], tokenizer, tmp_path, config=SFT_WHOLE))
    expected = add(sft, whole, minus=[rest])
    assert relative_error(got, expected) < 1e-5
    assert relative_error(got, sft) > 1e-2
    assert trainer.state.log_history[0]["aligned_pairs"] == 2


def test_turns_go_on_over_steps(tokenizer, tmp_path):
    """Without accumulation, steps take turns."""
    rows = token_rows([("en", 1), ("sw", 1), ("en", 2), ("sw", 2)])
    config = {
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "alignment_alternate": True,
        "multiple_pivots": "first",
    }
    trainer = solar_trainer(tiny_model("qwen2"), rows, tokenizer, tmp_path, config=config)
    trainer.train()
    steps = trainer.state.log_history[:4]
    assert [logs["aligned_pairs"] for logs in steps] == [0, 1, 0, 1]
    assert [logs["loss"] > 2 for logs in steps] == [True, False, True, False]  # 1 - cos is at most 2


def test_all_pairs_are_drawn_before_one_comes_again():
    table = PivotTable()
    n_pairs, n_rows = 7, 5
    rows = [{"input_ids": [i, i], PIVOT_COLUMN: 0, "solar_own_pivot": -1, "solar_language": 0} for i in range(n_pairs)]
    rows += [{"input_ids": [99, 99], PIVOT_COLUMN: 0, "solar_own_pivot": 0, "solar_language": 0}]
    drawn, by_epoch = [], {}
    for epoch in range(7):
        table.set_epoch(epoch)
        pairs = SidePairs(Dataset.from_list(rows), table, n_rows, seed=1)  # anew, as after a resume
        found = [row["input_ids"][0] for number in range(n_rows) for row in pairs.draw([number])]
        assert found == [row["input_ids"][0] for row in pairs.draw(list(range(n_rows)))] or len(set(found)) < n_rows
        drawn += found
        by_epoch[epoch] = found
    assert Counter(drawn) == dict.fromkeys(range(n_pairs), 5)  # 35 draws, 7 pairs; never a pivot
    laps = np.array(drawn).reshape(-1, n_pairs)
    assert all(sorted(lap) == list(range(n_pairs)) for lap in laps.tolist())
    assert len({tuple(lap) for lap in laps.tolist()}) > 1  # in another order


def test_the_original_mid_align(tokenizer, tmp_path):
    """Plain parallel sentences beside monolingual task data, in turns, all positions, every other pair a negative."""
    sentences = [
        {"text": row["question"], "language": row["language"], "parallel_id": row["parallel_id"]}
        for row in parallel_rows()
    ]
    task = [{"prompt": row["question"], "completion": row["response"]} for row in parallel_rows(["sw"])]
    trainer = solar_trainer(
        tiny_model("llama"),
        task,
        tokenizer,
        tmp_path,
        config={
            "alignment_objective": "mid_align",
            "alignment_kwargs": {"positions": "all", "negatives": "naive"},
            "alignment_alternate": True,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "optim": "adamw_torch",
            "learning_rate": 1e-3,
            "max_steps": 20,
        },
        alignment_dataset=Dataset.from_list(sentences),
    )
    trainer.train()
    losses = [logs["alignment_loss"] for logs in trainer.state.log_history if "alignment_loss" in logs]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    assert trainer.state.log_history[0]["aligned_pairs"] == 4


def test_no_row_of_it_is_trained_on(tokenizer, tmp_path):
    """At a vanishing weight the update is that of SFT on the training rows, in its order."""
    rows, config = plain(token_rows(SPEC)), {"max_steps": 2, "per_device_train_batch_size": 3}
    aligned = Dataset.from_list(token_rows(ALIGNED, seed=4))
    solar = solar_trainer(
        tiny_model("qwen2"),
        rows,
        tokenizer,
        tmp_path,
        config={**config, "alignment_weight": 1e-12},
        alignment_dataset=aligned,
    )
    sft = sft_trainer(tiny_model("qwen2"), rows, tokenizer, tmp_path, config=config)
    solar.train(), sft.train()
    for got, expected in zip(solar.model.parameters(), sft.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert [x["num_tokens"] for x in solar.state.log_history[:2]] == [
        x["num_tokens"] for x in sft.state.log_history[:2]
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pivot_dataset": Dataset.from_list(token_rows([("en", 1)]))}, "`pivot_dataset` and `alignment_dataset`"),
        ({"config": {"packing": True, "max_length": 64}}, "`packing=True`"),
        ({"config": {"alignment_kwargs": {"step_delimiters": ["."]}}}, "`step_delimiters`"),
        ({"alignment_dataset": Dataset.from_list(token_rows([("en", 1), ("sw", 2)]))}, "alignment dataset"),
        ({"alignment_dataset": Dataset.from_list(plain(token_rows(ALIGNED)))}, "alignment dataset"),
    ],
)
def test_bad_input(changes, message, tokenizer, tmp_path):
    changes = {"alignment_dataset": Dataset.from_list(token_rows(ALIGNED)), **changes}
    with pytest.raises(ValueError) as info:
        solar_trainer(tiny_model("qwen2"), plain(token_rows(SPEC)), tokenizer, tmp_path, **changes)
    assert message in str(info.value)


def test_streams_do_not_draw(tokenizer, tmp_path):
    rows = plain(token_rows(SPEC))
    stream = IterableDataset.from_generator(lambda: iter(rows)).cast(Dataset.from_list(rows).features)
    with pytest.raises((TypeError, ValueError), match="IterableDataset"):
        solar_trainer(
            tiny_model("qwen2"),
            stream,
            tokenizer,
            tmp_path,
            config={"max_steps": 1},
            alignment_dataset=Dataset.from_list(token_rows(ALIGNED)),
        )
