"""Bad input: a clear error at construction that names the value and the way out."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from helpers import BY_LENGTH, SPEC, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig
from transformers import DataCollatorWithFlattening
from trl import SFTConfig

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.objectives import OBJECTIVES


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("alignment_weight", -0.5, ValueError, "-0.5"),
        ("alignment_weight", float("nan"), ValueError, "nan"),
        ("alignment_weight", float("inf"), ValueError, "inf"),
        ("alignment_weight", "heavy", TypeError, "'heavy'"),
        ("alignment_warmup_ratio", 1.5, ValueError, "1.5"),
        ("soft_token_temperature", 0.0, ValueError, "0.0"),
        ("soft_token_temperature", -1, ValueError, "-1"),
        ("soft_token_top_k", 0, ValueError, "0"),
        ("soft_token_top_k", 2.5, TypeError, "2.5"),
        ("alignment_objective", "lunar", ValueError, "'lunar'"),
        ("alignment_schedule", "step", ValueError, "'step'"),
        ("pivot_batching", "sorted", ValueError, "'sorted'"),
        ("missing_pivot", "ignore", ValueError, "'ignore'"),
        ("multiple_pivots", "last", ValueError, "'last'"),
        ("truncated_pairs", "cut", ValueError, "'cut'"),
        ("pivot_language", [], ValueError, "[]"),
        ("parallel_id_column", ["a", 1], ValueError, "['a', 1]"),
        ("language_column", "", ValueError, "''"),
    ],
)
def test_config(field, value, error, message, tmp_path):
    with pytest.raises(error) as info:
        SolarSFTConfig(str(tmp_path), **{field: value})
    assert f"`{field}`" in str(info.value) and message in str(info.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"packing": True, "packing_strategy": "wrapped"}, "`packing=True` with `packing_strategy='wrapped'`"),
        ({"packing": True, "packing_strategy": "bfd_split"}, "`packing_strategy='bfd_split'`"),
        ({"eval_packing": True, "packing_strategy": "wrapped"}, "`eval_packing=True`"),
        ({"packing": True, "max_length": None}, "`packing=True` needs a `max_length`"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is 0.1"),
        ({**BY_LENGTH, "pivot_batching": "grouped"}, "'group_by_length'"),
        ({"accelerator_config": {"split_batches": True}, "pivot_batching": "grouped"}, "`split_batches=True`"),
        ({"accelerator_config": {"dispatch_batches": True}}, "`dispatch_batches=True`"),
        (
            {"accelerator_config": {"dispatch_batches": True}, "pivot_batching": "grouped"},
            "`dispatch_batches=True`",
        ),
        ({"soft_token_top_k": 390}, "`soft_token_top_k` is 390"),
        ({"language_column": "lang"}, "no column 'lang'"),
        ({"parallel_id_column": ["parallel_id", "source"]}, "no column 'source'"),
        ({"pivot_language": "fr"}, "none has language 'fr'"),
        ({"missing_pivot": "error"}, "1 rows of the train dataset have no pivot, e.g. parallel_id=3"),
    ],
)
def test_trainer_settings(config, message, tokenizer, tmp_path):
    with pytest.raises(ValueError) as info:
        solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config)
    assert message in str(info.value)


def refuses(error, message, tokenizer, tmp_path, model=None, rows=None, **kwargs):
    with pytest.raises(error) as info:
        solar_trainer(model or tiny_model("qwen3"), rows or token_rows(SPEC), tokenizer, tmp_path, **kwargs)
    assert message in str(info.value)


def test_compute_loss_func(tokenizer, tmp_path):
    refuses(ValueError, "`compute_loss_func` is set", tokenizer, tmp_path, compute_loss_func=lambda *a, **k: 0)


def test_streaming(tokenizer, tmp_path):
    stream = Dataset.from_list(token_rows(SPEC)).to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    args = SolarSFTConfig(str(tmp_path), report_to="none", max_steps=1, bf16=False)
    with pytest.raises(TypeError, match="`IterableDataset`"):
        SolarSFTTrainer(tiny_model("qwen3"), args, train_dataset=stream, processing_class=tokenizer)
    with pytest.raises(TypeError, match=r"must be a `datasets\.Dataset`, got `list`"):
        SolarSFTTrainer(tiny_model("qwen3"), args, train_dataset=token_rows(SPEC), processing_class=tokenizer)


def test_vision_dataset(tokenizer, tmp_path):
    rows = [{**row, "images": [1]} for row in token_rows(SPEC)]
    refuses(ValueError, "column 'images'", tokenizer, tmp_path, rows=rows)


def test_nothing_pairs(tokenizer, tmp_path):
    rows = token_rows([("en", 1), ("sw", 2)])
    refuses(ValueError, "Nothing pairs in the train dataset", tokenizer, tmp_path, rows=rows)


def test_different_pivots(tokenizer, tmp_path):
    rows = token_rows([("en", 1), ("en", 1), ("sw", 1)])
    refuses(ValueError, "parallel_id=1 in rows 0 and 1", tokenizer, tmp_path, rows=rows)


def test_ids_of_different_type(tokenizer, tmp_path):
    pivots = Dataset.from_list(token_rows([("en", "1")]))
    refuses(ValueError, "differ in type", tokenizer, tmp_path, pivot_dataset=pivots)


@pytest.mark.parametrize(
    "collator", [DataCollatorWithFlattening(return_position_ids=False), lambda rows: {"input_ids": rows}]
)
def test_collator_that_hides_the_pairing(collator, tokenizer, tmp_path):
    refuses(ValueError, "hides the pairing", tokenizer, tmp_path, data_collator=collator)


def test_lora_on_the_head(tokenizer, tmp_path):
    config = LoraConfig(r=2, target_modules=["lm_head"])
    refuses(ValueError, "`lm_head`", tokenizer, tmp_path, model=tiny_model("qwen3", tied=False), peft_config=config)


def test_dora_on_embeddings(tokenizer, tmp_path):
    config = LoraConfig(r=2, target_modules=["embed_tokens"], use_dora=True)
    refuses(ValueError, "DoRA", tokenizer, tmp_path, peft_config=config)


def test_integer_head_and_embedding(tokenizer, tmp_path):
    for module, message in (
        ("lm_head", "LM head is stored as torch.int8"),
        ("model.embed_tokens", "embedding is stored"),
    ):
        model = tiny_model("qwen3", tied=False)
        layer = model.get_submodule(module)
        layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
        refuses(ValueError, message, tokenizer, tmp_path, model=model)


def test_vocabularies_that_differ(tokenizer, tmp_path):
    model = tiny_model("qwen3", tied=False)
    model.model.embed_tokens = torch.nn.Embedding(400, 32)
    refuses(ValueError, "389 tokens but the input embedding has 400 rows", tokenizer, tmp_path, model=model)


def test_errors_come_before_the_model_is_loaded(tokenizer, tmp_path):
    """A wrong column name costs a second, not the minutes in which a model is loaded and texts are tokenized."""
    args = SolarSFTConfig(str(tmp_path), parallel_id_column="uid", report_to="none", bf16=False)
    with pytest.raises(ValueError, match="no column 'uid'"):
        SolarSFTTrainer("no/such-model", args, train_dataset=Dataset.from_list(token_rows(SPEC)))


def test_reentrant_checkpointing_under_ddp():
    """The check itself; the refusal needs two ranks."""
    from types import SimpleNamespace

    from solar_trl.checks import check_parallelism

    args = SimpleNamespace(
        detach_pivot=False,
        alignment_objective="solar",
        objective=OBJECTIVES["solar"].override({"pivot_gradient": "both"}),
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": True},
    )
    accelerator = SimpleNamespace(
        num_processes=2, parallelism_config=None, distributed_type=SimpleNamespace(value="MULTI_CPU")
    )
    with pytest.raises(ValueError, match=r"`detach_pivot=False`.*reentrant"):
        check_parallelism(args, accelerator)
    accelerator.num_processes = 1
    check_parallelism(args, accelerator)
    for kind, message in (("FSDP", "FSDP1"), ("XLA", "XLA"), ("MEGATRON_LM", "MEGATRON_LM")):
        accelerator.distributed_type.value, accelerator.is_fsdp2 = kind, False
        with pytest.raises(ValueError, match=message):
            check_parallelism(args, accelerator)
    accelerator.distributed_type.value, accelerator.is_fsdp2 = "FSDP", True
    check_parallelism(args, accelerator)
    accelerator.parallelism_config = SimpleNamespace(tp_enabled=True, tp_size=2)
    with pytest.raises(ValueError, match="`tp_size=2`"):
        check_parallelism(args, accelerator)


def test_off_means_off(tokenizer, tmp_path):
    """Whatever alignment would refuse is fine without it."""
    config = {"alignment_objective": "none", "max_steps": 1, **BY_LENGTH}
    with_error = token_rows([("en", 1), ("en", 1), ("sw", 2)])
    solar_trainer(tiny_model("qwen3"), with_error, tokenizer, tmp_path, config=config).train()


def test_plain_config_is_accepted(tokenizer, tmp_path):
    args = SFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_steps=1)
    trainer = SolarSFTTrainer(
        tiny_model("qwen3"), args, train_dataset=Dataset.from_list(token_rows(SPEC)), processing_class=tokenizer
    )
    assert isinstance(trainer.args, SolarSFTConfig) and trainer.args.max_steps == 1
