"""Every map-style dataset type of TRL, with its own tokenizer and chat template."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers import QUIET, solar_trainer
from models import tiny_model
from tiny_tokenizer import parallel_rows


def keys(row):
    return {"language": row["language"], "parallel_id": row["parallel_id"]}


def pre_tokenized(tokenizer, masks):
    rows = []
    for row in parallel_rows():
        prompt = tokenizer(row["question"])["input_ids"]
        response = tokenizer(row["response"])["input_ids"]
        new = {"input_ids": prompt + response, **keys(row)}
        if masks == "labels":
            new["labels"] = [-100] * len(prompt) + response
        elif masks:
            new[masks] = [0] * len(prompt) + [1] * len(response)
        rows.append(new)
    return rows


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


FORMATS = {
    "text": lambda t: [{"text": r["question"] + r["response"], **keys(r)} for r in parallel_rows()],
    "prompt-completion": lambda t: [
        {"prompt": r["question"], "completion": r["response"], **keys(r)} for r in parallel_rows()
    ],
    "messages": lambda t: [
        {"messages": [user(r["question"]), assistant(r["response"])], **keys(r)} for r in parallel_rows()
    ],
    "conversational prompt-completion": lambda t: [
        {"prompt": [user(r["question"])], "completion": [assistant(r["response"])], **keys(r)} for r in parallel_rows()
    ],
    "ShareGPT conversations": lambda t: [
        {
            "conversations": [{"from": "human", "value": r["question"]}, {"from": "gpt", "value": r["response"]}],
            **keys(r),
        }
        for r in parallel_rows()
    ],
    "pre-tokenized": lambda t: pre_tokenized(t, None),
    "pre-tokenized with labels": lambda t: pre_tokenized(t, "labels"),
    "pre-tokenized with completion_mask": lambda t: pre_tokenized(t, "completion_mask"),
    "formatting_func": lambda t: [{"q": r["question"], "a": r["response"], **keys(r)} for r in parallel_rows()],
}
EXTRA = {
    "messages": {"assistant_only_loss": True},
    "pre-tokenized with completion_mask": {"completion_only_loss": True},
}
WHOLE_SEQUENCE = {"text", "pre-tokenized", "formatting_func", "ShareGPT conversations"}


GROUPED = {"per_device_train_batch_size": 8, "pivot_batching": "grouped"}


@pytest.mark.parametrize("name", FORMATS)
def test_trains_on(name, tokenizer, tmp_path, caplog):
    kwargs = {"formatting_func": lambda row: row["q"] + row["a"]} if name == "formatting_func" else {}
    dataset = Dataset.from_list(FORMATS[name](tokenizer))
    trainer = solar_trainer(
        tiny_model("qwen3"),
        dataset,
        tokenizer,
        tmp_path,
        config={**QUIET, **GROUPED, "max_steps": 4, **EXTRA.get(name, {})},
        eval_dataset=dataset,
        **kwargs,
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(not torch.equal(before[n], p) for n, p in trainer.model.named_parameters())
    logs = [log for log in trainer.state.log_history if "alignment_loss" in log]
    # 8 items in 4 languages, whole groups per batch: every non-English row meets its pivot
    assert [log["aligned_pairs"] for log in logs] == [6, 6, 6, 6]
    assert ("pool the prompt as well" in caplog.text) == (name in WHOLE_SEQUENCE)
    metrics = trainer.evaluate()
    assert metrics["eval_aligned_pairs"] == 24
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_sft_loss"], rel=0.05)  # a mean of batch means


def test_skip_prepare_dataset(tokenizer, tmp_path):
    dataset = Dataset.from_list(pre_tokenized(tokenizer, "labels"))
    trainer = solar_trainer(
        tiny_model("qwen3"),
        dataset,
        tokenizer,
        tmp_path,
        config={"max_steps": 1, "dataset_kwargs": {"skip_prepare_dataset": True}},
        eval_dataset=dataset.select(range(8)),
    )
    trainer.train()
    assert trainer.state.log_history[0]["aligned_pairs"] > 0
    assert trainer.evaluate()["eval_aligned_pairs"] == 6
    assert trainer.evaluate(dataset)["eval_aligned_pairs"] == 24


def rows(languages=("en", "de", "sw", "th")):
    return [{"prompt": r["question"], "completion": r["response"], **keys(r)} for r in parallel_rows(languages)]


def test_evaluation_sets(tokenizer, tmp_path, caplog):
    """Each set pairs within itself; sets without parallels are normal."""
    train = Dataset.from_list(rows())
    other = Dataset.from_list([{**row, "parallel_id": row["parallel_id"]} for row in rows(("en", "th"))])
    sets = {
        "parallel": other.select([i for i, row in enumerate(other) if row["parallel_id"] % 2 == 0]),
        "swahili": Dataset.from_list(rows(("sw",))),
        "plain": train.remove_columns(["language", "parallel_id"]),
    }
    trainer = solar_trainer(
        tiny_model("qwen3"), train, tokenizer, tmp_path, config={"max_steps": 1}, eval_dataset=DatasetDict(sets)
    )
    # Not even though train pivots share the ids
    assert "The eval dataset 'swahili' gets the SFT metrics only" in caplog.text
    assert (
        "The eval dataset 'plain' gets the SFT metrics only" in caplog.text and "no column 'language'" in caplog.text
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_parallel_aligned_pairs"] == len(sets["parallel"]) // 2
    assert 0 < metrics["eval_parallel_alignment_loss"] < 2
    assert "eval_swahili_loss" in metrics and "eval_swahili_alignment_loss" not in metrics
    assert "eval_plain_loss" in metrics and "eval_plain_alignment_loss" not in metrics

    # By name, and as a dict of new sets
    assert trainer.evaluate("parallel")["eval_aligned_pairs"] == len(sets["parallel"]) // 2
    size = len(trainer._pairs.table)
    several = trainer.evaluate({"a": other, "b": sets["swahili"]})
    assert several["eval_a_aligned_pairs"] == 8 and "eval_b_alignment_loss" not in several
    passed = trainer.evaluate(other, metric_key_prefix="test")
    assert passed["test_aligned_pairs"] == 8
    assert len(trainer._pairs.table) == size


def test_eval_pivot_dataset_and_best_model(tokenizer, tmp_path):
    train, pivots = Dataset.from_list(rows()), Dataset.from_list(rows(("en",))).remove_columns("language")
    trainer = solar_trainer(
        tiny_model("qwen3"),
        train,
        tokenizer,
        tmp_path,
        config={
            "max_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_alignment_loss",
            "greater_is_better": False,
        },
        eval_dataset=Dataset.from_list(rows(("sw",))),
        eval_pivot_dataset=pivots,
    )
    trainer.train()
    logged = [log["eval_alignment_loss"] for log in trainer.state.log_history if "eval_alignment_loss" in log]
    assert len(logged) == 2 and trainer.state.best_metric == pytest.approx(min(logged))


def test_prediction_with_logits(tokenizer, tmp_path):
    """`compute_metrics` asks for a second forward with logits, which is not the fused one."""
    seen = {}

    def compute_metrics(prediction):
        seen["shape"] = prediction.predictions.shape
        return {"answer": 42.0}

    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows(),
        tokenizer,
        tmp_path,
        config={"max_steps": 1},
        eval_dataset=Dataset.from_list(rows()),
        compute_metrics=compute_metrics,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_answer"] == 42.0 and metrics["eval_aligned_pairs"] == 24
    assert seen["shape"][-1] == trainer.model.config.vocab_size


def test_truncation_drops_a_pivot(tokenizer, tmp_path):
    """Rows are paired by id after preparation: without its response, a pivot leaves its translations unpaired."""
    long = rows()
    pivot = next(i for i, row in enumerate(long) if row["language"] == "en")
    long[pivot] = {**long[pivot], "prompt": "word " * 400}
    trainer = solar_trainer(tiny_model("qwen3"), long, tokenizer, tmp_path, config={"max_steps": 1, "max_length": 300})
    report = trainer._pairs.reports["train dataset"]
    assert report.rows == 31 and report.pairs == 21 and report.unpaired == 3


def test_several_pivots_are_sampled_by_epoch(tokenizer, tmp_path):
    data = rows(("en", "sw"))
    data += [{**row, "completion": "So: " + row["completion"]} for row in data if row["language"] == "en"]
    trainer = solar_trainer(
        tiny_model("qwen3"),
        data,
        tokenizer,
        tmp_path,
        config={"num_train_epochs": 2, "multiple_pivots": "sample", "per_device_train_batch_size": 4},
    )
    drawn = []
    trainer.data_collator.pivots.draw, draw = (
        lambda first: drawn.append(draw(first)) or drawn[-1],
        (trainer.data_collator.pivots.draw),
    )
    trainer.train()
    assert len(drawn) == 16 and sorted(drawn[:8]) != sorted(drawn[8:])


def test_dataloader_workers(tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("qwen3"), rows(), tokenizer, tmp_path, config={"max_steps": 2, "dataloader_num_workers": 2}
    )
    trainer.train()
    assert trainer.state.log_history[0]["aligned_pairs"] > 0


def test_own_collator_and_extra_columns(tokenizer, tmp_path):
    """A padding collator of the user's is kept, and sees its own columns if unused ones are not removed."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    seen = set()

    class Collator(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            seen.update(*map(set, examples))
            return super().torch_call(examples)

    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows(),
        tokenizer,
        tmp_path,
        config={"max_steps": 1, "remove_unused_columns": False},
        data_collator=Collator(pad_token_id=0),
    )
    trainer.train()
    assert trainer.state.log_history[0]["aligned_pairs"] > 0
    assert {"language", "prompt"} <= seen and not any(name.startswith("solar") for name in seen)
