"""What is said at construction about settings that are known to hurt."""

import pytest
from helpers import solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig

from solar_trl.advice import FIXED_EMBEDDINGS_WEIGHT


ITEMS = [(language, item) for item in range(4) for language in ("en", "sw")]
LORA = {"r": 2, "target_modules": ["q_proj"]}


def advice_of(tokenizer, tmp_path, caplog, lora=None, tied=True, **config):
    kwargs = {"peft_config": LoraConfig(task_type="CAUSAL_LM", **lora)} if lora else {}
    model = tiny_model("qwen2", tied=tied)
    solar_trainer(model, token_rows(ITEMS), tokenizer, tmp_path, config=config, **kwargs)
    told = [record.message for record in caplog.records]
    return [message for message in told if "embeddings that soft tokens are mixed from" in message]


@pytest.mark.parametrize(
    ("lora", "config"),
    [
        (LORA, {}),
        (LORA, {"alignment_schedule": "linear_decay"}),
        (None, {"detach_embeddings": True}),
        ({**LORA, "modules_to_save": ["embed_tokens"]}, {"detach_embeddings": True}),
        (LORA, {"alignment_kwargs": {"positions": "all"}}),
    ],
)
def test_a_large_weight_with_fixed_embeddings(lora, config, tokenizer, tmp_path, caplog):
    (message,) = advice_of(tokenizer, tmp_path, caplog, lora, alignment_weight=1.0, **config)
    assert "`alignment_weight` is 1" in message and f"`alignment_weight={FIXED_EMBEDDINGS_WEIGHT:g}`" in message
    assert ("`detach_embeddings=True`" in message) == ("detach_embeddings" in config)


@pytest.mark.parametrize(
    ("lora", "config"),
    [
        (None, {"alignment_weight": 1.0}),
        (LORA, {"alignment_weight": FIXED_EMBEDDINGS_WEIGHT}),
        (LORA, {}),
        ({**LORA, "target_modules": ["q_proj", "embed_tokens"]}, {"alignment_weight": 1.0}),
        (LORA, {"alignment_weight": 1.0, "alignment_objective": "hidden_cosine"}),
        (LORA, {"alignment_weight": 0.0}),
    ],
)
def test_nothing_is_said_about_what_is_harmless(lora, config, tokenizer, tmp_path, caplog):
    assert advice_of(tokenizer, tmp_path, caplog, lora, **config) == []


@pytest.mark.parametrize(
    ("tied", "lora", "config", "is_said"),
    [
        (False, None, {}, True),
        (False, None, {"alignment_weight": 0.1}, True),
        (False, {**LORA, "target_modules": ["q_proj", "embed_tokens"]}, {}, False),
        (False, {**LORA, "modules_to_save": ["embed_tokens"]}, {}, False),
        (True, None, {}, False),
        (False, None, {"alignment_kwargs": {"embeddings": "output"}}, False),
        (False, LORA, {}, False),
        (False, None, {"alignment_objective": "hidden_cosine"}, False),
        (False, None, {"alignment_weight": 0.0}, False),
    ],
)
def test_input_embeddings_that_can_move_alone(tied, lora, config, is_said, tokenizer, tmp_path, caplog):
    messages = advice_of(tokenizer, tmp_path, caplog, lora, tied, **config)
    assert len(messages) == is_said
    assert all("`alignment_kwargs={'embeddings': 'output'}`" in message for message in messages)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pivot_batching": "grouped"}, "holds only about 2 different items"),
        ({"pivot_batching": "grouped", "gradient_accumulation_steps": 3}, "holds only about 6 different items"),
        ({"pivot_batching": "grouped", "gradient_accumulation_steps": 6}, None),
        ({"pivot_batching": "random"}, None),
        ({}, None),
        ({"alignment_objective": "centroid"}, "Set `pivot_batching='grouped'`"),
        ({"alignment_objective": "centroid", "pivot_batching": "grouped"}, None),
    ],
)
def test_the_order_of_rows(config, expected, tokenizer, tmp_path, caplog):
    config = {"per_device_train_batch_size": 4, **config}
    solar_trainer(tiny_model("qwen2"), token_rows(ITEMS), tokenizer, tmp_path, config=config)
    told = [record.message for record in caplog.records if "pivot_batching" in record.message]
    assert len(told) == (expected is not None)
    assert expected is None or expected in told[0]


def test_the_advice_can_be_followed(tokenizer, tmp_path, caplog):
    """The term then leaves the input embeddings alone: tokens that are in no text keep theirs."""
    config = {"alignment_kwargs": {"embeddings": "output"}, "max_steps": 1}
    model = tiny_model("qwen2", tied=False)
    trainer = solar_trainer(model, token_rows(ITEMS), tokenizer, tmp_path, config=config)
    before = model.model.embed_tokens.weight.detach().clone()
    trainer.train()
    assert (before == model.model.embed_tokens.weight).all(1).any()
