"""What users do with a trainer besides training it once."""

import os

import pytest
import torch
from datasets import Dataset
from helpers import QUIET, SPEC, relative_error, sft_trainer, solar_trainer, step_gradients, token_rows
from models import tiny_model
from reference import reference_gradients
from transformers import TrainerCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_bf16_training(tokenizer, tmp_path):
    """Real mixed precision: autocast by accelerate, in the main forward and in that of appended pivots."""

    def gradients(make, **config):
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # transformers 4 leaves it set
        cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 1}
        return step_gradients(
            make(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={**cut, **config})
        )

    error, sft_error = (
        relative_error(gradients(make, bf16=True), gradients(make)) for make in (solar_trainer, sft_trainer)
    )
    assert 0 < error < 1.5 * sft_error + 1e-3


@pytest.mark.parametrize("batching", ["grouped", "random"])
def test_torch_compile_on_ragged_batches(batching, tokenizer, tmp_path):
    def run(**config):
        trainer = solar_trainer(
            tiny_model("qwen3"),
            token_rows(SPEC),
            tokenizer,
            tmp_path,
            config={
                **QUIET,
                "per_device_train_batch_size": 2,
                "max_steps": 4,
                "pivot_batching": batching,
                "learning_rate": 1e-3,
                **config,
            },
        )
        trainer.train()
        return losses(trainer)

    torch._dynamo.reset()
    compiled = run(torch_compile=True, torch_compile_backend="aot_eager")
    assert compiled == pytest.approx(run(), rel=1e-5)


def test_dataset_formats(tokenizer, tmp_path):
    """`with_format` and `set_format` as users set them; a hidden column does not hide the pairs."""
    expected = None
    for form in (
        {"type": None},
        {"type": "torch"},
        {"type": "numpy"},
        {"type": "torch", "columns": ["input_ids", "labels"]},
    ):
        dataset = Dataset.from_list(token_rows(SPEC))
        dataset.set_format(**form)
        trainer = solar_trainer(
            tiny_model("qwen3"),
            dataset,
            tokenizer,
            tmp_path,
            config={"per_device_train_batch_size": 3, "max_steps": 1, "gradient_accumulation_steps": 3},
        )
        gradients = step_gradients(trainer)
        expected = expected or gradients
        assert relative_error(gradients, expected) <= 1e-6, form


def test_second_train_call_and_generation_in_between(tokenizer, tmp_path):
    class Generate(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.eval()  # and left so: the next step sets it back, the log must not be lost
            assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=2).shape == (1, 4)

    trainer = solar_trainer(
        tiny_model("qwen3"),
        token_rows(SPEC),
        tokenizer,
        tmp_path,
        config={"max_steps": 2, "per_device_train_batch_size": 4},
        callbacks=[Generate()],
    )
    trainer.train()
    first = [log["alignment_loss"] for log in trainer.state.log_history if "alignment_loss" in log]
    trainer.train()
    second = [log["alignment_loss"] for log in trainer.state.log_history if "alignment_loss" in log]
    assert len(first) == len(second) == 2 and first != second


def test_nothing_of_the_users_is_changed(tokenizer, tmp_path):
    from solar_trl import SolarSFTConfig, SolarSFTTrainer

    dataset = Dataset.from_list(token_rows(SPEC))
    args = SolarSFTConfig(str(tmp_path), max_steps=1, **QUIET)
    before, columns = args.to_dict(), dataset.column_names
    collator = DataCollatorForLanguageModeling(pad_token_id=0)
    results = []
    for _ in range(2):
        trainer = SolarSFTTrainer(tiny_model("qwen3"), args, collator, dataset, dataset, processing_class=tokenizer)
        trainer.train()
        results.append(losses(trainer))
    assert args.to_dict() == before and dataset.column_names == columns
    assert results[0] == results[1]


def test_trainers_of_one_model_keep_their_settings(tokenizer, tmp_path):
    model, rows = tiny_model("qwen3"), token_rows(SPEC)
    config = {"per_device_train_batch_size": 8, "max_steps": 1, "alignment_weight": 1.0}
    first = solar_trainer(model, rows, tokenizer, tmp_path, config=config)
    solar_trainer(
        model, rows, tokenizer, tmp_path, config={**config, "soft_token_temperature": 0.3, "soft_token_top_k": 2}
    )
    expected = reference_gradients(model, rows, weight=1.0)
    assert relative_error(step_gradients(first), expected) <= 2e-5


def test_a_model_that_another_trainer_took_over(tokenizer, tmp_path):
    model, rows = tiny_model("qwen3"), token_rows(SPEC)
    trainer = solar_trainer(model, rows, tokenizer, tmp_path, config={"max_steps": 1})
    sft_trainer(model, rows, tokenizer, tmp_path)
    with pytest.raises(RuntimeError, match="its forward was replaced after this trainer was made"):
        trainer.train()


def test_pairs_of_another_trainer_are_not_trusted(tokenizer, tmp_path):
    rows = token_rows(SPEC)
    others = Dataset.from_list(token_rows([("en", 1), ("sw", 1), ("en", 2), ("sw", 2)], seed=3))
    first = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, eval_dataset=others)
    train = Dataset.from_list(token_rows([("en", 5), ("th", 5)], seed=4))
    fresh = solar_trainer(tiny_model("qwen3"), train, tokenizer, tmp_path, eval_dataset=others).evaluate()
    second = solar_trainer(
        tiny_model("qwen3"), first.train_dataset.select(range(3)), tokenizer, tmp_path, eval_dataset=first.eval_dataset
    )
    metrics = second.evaluate()
    assert metrics["eval_alignment_loss"] == pytest.approx(fresh["eval_alignment_loss"])
    assert metrics["eval_pivot_similarity/sw"] == pytest.approx(fresh["eval_pivot_similarity/sw"])


def test_replaced_after_construction(tokenizer, tmp_path):
    rows = token_rows(SPEC)
    for batching in ("grouped", "random"):
        config = {"max_steps": 1, "pivot_batching": batching}
        trainer = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config)
        trainer.train_dataset = Dataset.from_list(rows)
        with pytest.raises(ValueError, match="`train_dataset` was replaced"):
            trainer.train()
        trainer = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config)
        trainer.data_collator = trainer.data_collator.collator
        with pytest.raises(RuntimeError, match=r"Was `trainer\.data_collator` replaced"):
            trainer.train()


def test_settings_changed_after_construction_are_checked(tokenizer, tmp_path):
    from solar_trl import SolarSFTConfig, SolarSFTTrainer

    args = SolarSFTConfig(str(tmp_path), **QUIET)
    args.alignment_weight = -5
    with pytest.raises(ValueError, match=r"`alignment_weight` is -5\.0"):
        SolarSFTTrainer(
            tiny_model("qwen3"), args, train_dataset=Dataset.from_list(token_rows(SPEC)), processing_class=tokenizer
        )


def test_evaluation_pivots_belong_to_their_sets(tokenizer, tmp_path):
    """A set passed to `evaluate` pairs within itself, even if ids of the construction's pivots would fit."""
    train = token_rows(SPEC)
    validation = Dataset.from_list(token_rows([("sw", 1), ("th", 1)], seed=1))
    pivots = Dataset.from_list(token_rows([("en", 1)], seed=2))
    test = Dataset.from_list(token_rows([("en", 1), ("sw", 1)], seed=3))
    with_pivots = solar_trainer(
        tiny_model("qwen3"), train, tokenizer, tmp_path, eval_dataset=validation, eval_pivot_dataset=pivots
    )
    without = solar_trainer(tiny_model("qwen3"), train, tokenizer, tmp_path)
    assert with_pivots.evaluate()["eval_aligned_pairs"] == 2
    expected = without.evaluate(test)["eval_alignment_loss"]
    assert with_pivots.evaluate(test)["eval_alignment_loss"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="pivots for 'vall', but `eval_dataset` has the sets 'val'"):
        solar_trainer(
            tiny_model("qwen3"),
            train,
            tokenizer,
            tmp_path,
            eval_dataset={"val": validation},
            eval_pivot_dataset={"vall": pivots},
        )


def test_collator_that_reads_other_columns_of_pivots_too(tokenizer, tmp_path):
    class Weighted(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            assert all(example["weight"] == 2.5 for example in examples)
            return super().torch_call(examples)

    rows = [{**row, "weight": 2.5} for row in token_rows(SPEC)]
    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows,
        tokenizer,
        tmp_path,
        data_collator=Weighted(pad_token_id=0),
        config={"max_steps": 4, "per_device_train_batch_size": 1, "remove_unused_columns": False},
    )
    trainer.train()
    assert sum(log.get("aligned_pairs", 0) for log in trainer.state.log_history) > 0


def test_collator_that_masks_whole_responses(tokenizer, tmp_path):
    """Rows, or pivots, of which the user's collator leaves nothing have no summary; the others still pair."""
    rows = token_rows([("en", 1), ("sw", 1), ("th", 1), ("en", 2), ("sw", 2), ("en", 3), ("th", 3)])
    masked = {tuple(rows[i]["input_ids"]) for i in (2, 3)}  # an example, and a pivot

    class Masks(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            batch = super().torch_call(examples)
            for i, example in enumerate(examples):
                if tuple(example["input_ids"]) in masked:
                    batch["labels"][i] = -100
            return batch

    kept = [
        {**row, "labels": [-100] * len(row["labels"])} if tuple(row["input_ids"]) in masked else row for row in rows
    ]
    for batch_size in (7, 1):
        trainer = solar_trainer(
            tiny_model("qwen3"),
            rows,
            tokenizer,
            tmp_path,
            data_collator=Masks(pad_token_id=0),
            config={
                "max_steps": 1,
                "alignment_weight": 1.0,
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": 7 // batch_size,
            },
        )
        expected = reference_gradients(trainer.model, kept, weight=1.0)
        assert relative_error(step_gradients(trainer), expected) <= 2e-5
        assert trainer.state.log_history[0]["aligned_pairs"] == 2


def test_pivots_of_another_format_are_noticed(tokenizer, tmp_path, caplog):
    rows = token_rows([("sw", 1), ("th", 1)])
    pivots = Dataset.from_list([{**row, "labels": row["input_ids"]} for row in token_rows([("en", 1)])])
    solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, pivot_dataset=pivots)
    assert "pool the prompt on one side only" in caplog.text


def test_errors_name_the_dataset_at_fault(tokenizer, tmp_path):
    rows = token_rows([("sw", 1)])
    pivots = Dataset.from_list(token_rows([("en", 1), ("en", 1)]))
    with pytest.raises(ValueError, match=r"1 ids of the pivot dataset .* rows 0 and 1"):
        solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, pivot_dataset=pivots)
    empty = token_rows([("en", 1), ("sw", 1), ("sw", 1)])
    empty[2]["labels"] = [-100] * len(empty[2]["labels"])
    trainer = solar_trainer(
        tiny_model("qwen3"),
        empty,
        tokenizer,
        tmp_path,
        config={"missing_pivot": "error", "dataset_kwargs": {"skip_prepare_dataset": True}},
    )
    assert trainer._pairs.reports["train dataset"].without_response == 1
    with pytest.raises(TypeError, match=r"`DatasetDict` of 'train'; pass one of them, e\.g\. `dataset\['train'\]`"):
        from datasets import DatasetDict

        solar_trainer(tiny_model("qwen3"), DatasetDict(train=Dataset.from_list(rows)), tokenizer, tmp_path)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_the_epoch(persistent, tokenizer, tmp_path):
    """Sampled pivots change from epoch to epoch in workers as they do without them."""
    rows = token_rows([(language, item) for item in range(6) for language in ("en", "en", "en", "sw")])

    def run(**config):
        trainer = solar_trainer(
            tiny_model("qwen3"),
            rows,
            tokenizer,
            tmp_path,
            config={"num_train_epochs": 3, "multiple_pivots": "sample", "learning_rate": 1e-3, **config},
        )
        trainer.train()
        return losses(trainer)

    workers = run(dataloader_num_workers=1, dataloader_persistent_workers=persistent)
    assert workers == run()


def test_auto_find_batch_size(tokenizer, tmp_path):
    """The sampler follows the batch size that is found; no row and no pair is lost."""
    sizes = []

    class Fails(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            sizes.append(len(examples))
            if len(examples) > 4:
                raise RuntimeError("CUDA out of memory.")
            return super().torch_call(examples)

    rows = token_rows([(language, item) for item in range(6) for language in ("en", "sw")])
    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows,
        tokenizer,
        tmp_path,
        data_collator=Fails(pad_token_id=0),
        config={"per_device_train_batch_size": 8, "num_train_epochs": 1, "auto_find_batch_size": True},
    )
    trainer.train()
    pairs = [log["aligned_pairs"] for log in trainer.state.log_history if "aligned_pairs" in log]
    assert sum(pairs) == 6 and max(sizes) == 8
    assert isinstance(trainer, SFTTrainer)
