"""Datasets, models and checkpoints that another trainer had before, and logs that are not the trainer's own."""

import pytest
import torch
from datasets import ClassLabel, Dataset
from helpers import needs_sequential, sft_trainer, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback


ROWS = token_rows([(language, item) for item in range(6) for language in ("en", "sw")])
SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_train_batch_size": 2}


class Begin(TrainerCallback):
    """Keeps the step at which training begins."""

    step: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


def resumed_at(model, checkpoint, tokenizer, tmp_path, **config) -> int | None:
    begin = Begin()
    trainer = solar_trainer(model, ROWS, tokenizer, tmp_path, config={**SAVES, **config}, callbacks=[begin])
    trainer.train(resume_from_checkpoint=checkpoint)
    return begin.step


# Checkpoints


def test_a_checkpoint_may_be_a_path(tokenizer, tmp_path):
    solar_trainer(tiny_model("qwen2"), ROWS, tokenizer, tmp_path, config=SAVES).train()
    checkpoint = tmp_path / "solar" / "checkpoint-2"
    assert resumed_at(tiny_model("qwen2"), checkpoint, tokenizer, tmp_path) == 2
    assert resumed_at(tiny_model("qwen2"), str(checkpoint), tokenizer, tmp_path) == 2
    assert resumed_at(tiny_model("qwen2"), True, tokenizer, tmp_path) == 6


def named_adapter():
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return get_peft_model(tiny_model("qwen2"), config, adapter_name="solar")


def test_an_adapter_of_another_name_is_resumed(tokenizer, tmp_path):
    solar_trainer(named_adapter(), ROWS, tokenizer, tmp_path, config=SAVES).train()
    checkpoint = tmp_path / "solar" / "checkpoint-2"
    assert not (checkpoint / "adapter_model.safetensors").exists()
    assert resumed_at(named_adapter(), checkpoint, tokenizer, tmp_path) == 2
    weights = checkpoint / "solar" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be resumed from"):
        resumed_at(named_adapter(), checkpoint, tokenizer, tmp_path)


def test_weights_alone_are_resumed_with_a_word(tokenizer, tmp_path, caplog):
    config = {**SAVES, "save_only_model": True}
    solar_trainer(tiny_model("qwen2"), ROWS, tokenizer, tmp_path, config=config).train()
    checkpoint = tmp_path / "solar" / "checkpoint-2"
    assert resumed_at(tiny_model("qwen2"), checkpoint, tokenizer, tmp_path / "elsewhere") == 2
    assert "holds the weights alone (`save_only_model=True`)" in caplog.text
    # A part of the state that is missing is damage all the same
    (checkpoint / "scheduler.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be resumed from"):
        resumed_at(tiny_model("qwen2"), checkpoint, tokenizer, tmp_path / "elsewhere")


# Datasets


def alignment_metrics(metrics: dict[str, float]) -> dict[str, float]:
    names = ("eval_alignment_loss", "eval_aligned_pairs", "eval_pivot_similarity/sw")
    return {name: metrics[name] for name in names if name in metrics}


@pytest.fixture
def translations():
    """An evaluation set whose pivots stand elsewhere."""
    return [
        Dataset.from_list(token_rows([(language, item) for item in range(100, 106)], seed=seed))
        for seed, language in ((3, "sw"), (4, "en"))
    ]


def test_pairs_of_another_trainer_are_not_taken_over(translations, tokenizer, tmp_path, caplog):
    rows, pivots = translations
    first = solar_trainer(tiny_model("qwen2"), ROWS, tokenizer, tmp_path, eval_dataset=rows, eval_pivot_dataset=pivots)
    assert alignment_metrics(first.evaluate())["eval_aligned_pairs"] == 6
    many = token_rows([(language, item) for item in range(30) for language in ("en", "sw")])
    second = solar_trainer(tiny_model("qwen2"), many, tokenizer, tmp_path, eval_dataset=first.eval_dataset)
    assert "gets the SFT metrics only" in caplog.text
    assert alignment_metrics(second.evaluate()) == {}


def test_own_evaluation_set_is_known_again(translations, tokenizer, tmp_path, caplog):
    rows, pivots = translations
    trainer = solar_trainer(
        tiny_model("qwen2"), ROWS, tokenizer, tmp_path, eval_dataset=rows, eval_pivot_dataset=pivots
    )
    expected = alignment_metrics(trainer.evaluate())
    assert len(expected) == 3
    assert alignment_metrics(trainer.evaluate(trainer.eval_dataset)) == expected
    assert "gets the SFT metrics only" not in caplog.text


def test_drawn_pairs_end_with_their_trainer(tokenizer, tmp_path):
    aligned = Dataset.from_list(token_rows([(language, item) for item in range(4) for language in ("en", "th")]))
    first = solar_trainer(tiny_model("qwen2"), ROWS, tokenizer, tmp_path, alignment_dataset=aligned)
    # Evaluation sets are paired within themselves, also this one
    expected = alignment_metrics(first.evaluate(Dataset.from_list(ROWS)))
    assert expected["eval_aligned_pairs"] == 6
    assert alignment_metrics(first.evaluate(first.train_dataset)) == expected
    second = solar_trainer(tiny_model("qwen2"), first.train_dataset, tokenizer, tmp_path, config={"max_steps": 1})
    assert not [name for name in second.train_dataset.column_names if name == "solar_draw"]
    second.train()
    assert second.state.log_history[0]["aligned_pairs"] > 0


def test_languages_by_number_keep_their_names_beside_drawn_pairs(tokenizer, tmp_path):
    aligned = Dataset.from_list(token_rows([(language, item) for item in range(4) for language in ("en", "th")]))
    rows = Dataset.from_list(ROWS).cast_column("language", ClassLabel(names=["en", "sw"]))
    config = {"max_steps": 1, "per_device_train_batch_size": 12}
    trainer = solar_trainer(tiny_model("qwen2"), rows, tokenizer, tmp_path, config=config, alignment_dataset=aligned)
    trainer.train()
    logged = {name for name in trainer.state.log_history[0] if "/" in name}
    assert logged == {"sft_loss/en", "sft_loss/sw", "pivot_similarity/th"}


@needs_sequential
@pytest.mark.parametrize("columns", [[], ["language"]], ids=["nothing pairs", "no language"])
def test_sets_without_pairs_are_packed_as_trl_does(columns, tokenizer, tmp_path):
    rows = Dataset.from_list(token_rows([("sw", item) for item in range(20)])).remove_columns(columns)
    config = {"packing": True, "max_length": 32, "per_device_eval_batch_size": 2}
    theirs, ours = (
        make(tiny_model("qwen2"), ROWS, tokenizer, tmp_path, config=config, eval_dataset=rows)
        for make in (sft_trainer, solar_trainer)
    )
    assert len(ours.eval_dataset) == len(theirs.eval_dataset) < len(rows)
    assert ours.evaluate()["eval_loss"] == pytest.approx(theirs.evaluate()["eval_loss"], abs=1e-6)
    assert ours.evaluate(rows)["eval_loss"] == pytest.approx(theirs.evaluate(rows)["eval_loss"], abs=1e-6)


# Models


def test_a_model_of_another_trainer_in_mixed_precision(tokenizer, tmp_path, caplog):
    model, config = tiny_model("qwen2"), {"bf16": True, "max_steps": 1}
    solar_trainer(model, ROWS, tokenizer, tmp_path, config=config).train()
    assert "mixed precision" not in caplog.text
    solar_trainer(model, ROWS, tokenizer, tmp_path, config=config)
    assert "does not put mixed precision (bf16) on it again" in caplog.text
    caplog.clear()
    solar_trainer(model.to(torch.bfloat16), ROWS, tokenizer, tmp_path, config=config)
    assert "mixed precision" not in caplog.text


# Logs


class Logs(TrainerCallback):
    """Logs a value of its own, in evaluation and between steps."""

    def on_evaluate(self, args, state, control, **kwargs):
        self.trainer.log({"eval_mine": 1.0})

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.log({"mine": 1.0})


class EvaluatesTraining(TrainerCallback):
    """Evaluates under the prefix of training."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            self.trainer.evaluate(Dataset.from_list(ROWS), metric_key_prefix="train")


@pytest.mark.parametrize("callback", [Logs, EvaluatesTraining])
def test_windows_end_with_the_trainers_own_logs(callback, tokenizer, tmp_path):
    def logged(callback):
        rows = Dataset.from_list(ROWS)
        config = {"max_steps": 5, "per_device_train_batch_size": 2, "logging_steps": 3}
        config |= {"eval_strategy": "steps", "eval_steps": 2}
        sets = {"a": rows, "b": rows}
        trainer = solar_trainer(tiny_model("qwen2"), ROWS, tokenizer, tmp_path, config=config, eval_dataset=sets)
        if callback is not None:
            added = callback()
            added.trainer = trainer
            trainer.add_callback(added)
        trainer.train()
        return [
            (logs["step"], logs["alignment_loss"], logs["aligned_pairs"])
            for logs in trainer.state.log_history
            if "alignment_loss" in logs
        ]

    windows = logged(callback)
    assert [step for step, *_ in windows] == [3, 5] and windows == logged(None)
