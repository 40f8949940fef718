"""One optimizer step equals a float64 reference that shares no code with the package."""

import copy

import pytest
import torch
from helpers import SPEC, relative_error, solar_trainer, step_gradients, token_rows
from models import MODEL_NAMES, TRANSFORMERS_5, tiny_model
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from reference import float64_copy, reference_gradients, reference_objective

from solar_trl import kernels
from solar_trl.kernels.plan import TilePlan


TOLERANCE = 2e-5
WHOLE = {"per_device_train_batch_size": len(SPEC), "max_steps": 1, "alignment_weight": 3.0}


def reference_options(config):
    return {
        "weight": config["alignment_weight"],
        "temperature": config.get("soft_token_temperature", 1.0),
        "top_k": config.get("soft_token_top_k"),
        "detach_pivot": config.get("detach_pivot", True),
        "detach_embeddings": config.get("detach_embeddings", False),
    }


def check_step(model, tokenizer, tmp_path, config, rows=None, tolerance=TOLERANCE, **kwargs):
    rows = rows or token_rows(SPEC)
    config = {**WHOLE, **config}
    extra = kwargs.pop("reference", {})
    trainer = solar_trainer(model, rows, tokenizer, tmp_path, config=config, **kwargs)
    expected = reference_gradients(trainer.model, rows, **reference_options(config), **extra)
    plain = reference_gradients(trainer.model, rows, **{**reference_options(config), "weight": 0.0}, **extra)
    got = step_gradients(trainer)
    assert relative_error(got, expected) <= tolerance
    # Not vacuous: without the alignment term the gradient is another one
    assert relative_error(plain, expected) > 100 * tolerance
    return trainer, got, expected


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_architecture(name, tied, tokenizer, tmp_path):
    check_step(tiny_model(name, tied=tied), tokenizer, tmp_path, {})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["qwen2", "gemma2", "cohere"])
@pytest.mark.parametrize(
    "config",
    [
        {"soft_token_temperature": 0.6},
        {"soft_token_temperature": 2.0, "detach_pivot": False},
        {"soft_token_top_k": 7},
        {"soft_token_top_k": 7, "soft_token_temperature": 1.5, "detach_pivot": False},
        {"detach_embeddings": True},
        {"detach_pivot": False},
        {"detach_pivot": False, "detach_embeddings": True},
    ],
    ids=lambda config: ",".join(f"{k}={v}" for k, v in config.items()),
)
def test_every_option(name, tied, config, tokenizer, tmp_path):
    check_step(tiny_model(name, tied=tied), tokenizer, tmp_path, config)


@pytest.mark.parametrize("detach_pivot", [True, False])
def test_pivots_from_their_own_dataset(detach_pivot, tokenizer, tmp_path):
    """All pivots are appended, none is trained on."""
    from datasets import Dataset

    rows = token_rows([("sw", 1), ("th", 1), ("sw", 2), ("de", 9)])
    pivots = token_rows([("en", 2), ("en", 1), ("en", 5)], seed=1)
    check_step(
        tiny_model("qwen3"),
        tokenizer,
        tmp_path,
        {"detach_pivot": detach_pivot},
        rows=rows,
        pivot_dataset=Dataset.from_list(pivots),
        reference={"pivot_rows": pivots},
    )


def test_tiles_smaller_than_a_sequence(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels.head, "plan_tiles", lambda *args: TilePlan(forward=3, backward=5))
    monkeypatch.setattr(kernels.linalg, "VOCAB_BLOCK", 100)
    check_step(tiny_model("gemma2"), tokenizer, tmp_path, {"soft_token_temperature": 1.3})


ADAPTERS = {
    "lora": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    "lora on embeddings": LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False),
    "modules_to_save": LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False
    ),
    "embeddings saved only": LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], init_lora_weights=False
    ),
    "token indices": LoraConfig(
        r=4,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [3, 5, 50, 200]},
        init_lora_weights=False,
    ),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_effective_embedding_under_peft(name, tied, adapter, tokenizer, tmp_path):
    model = tiny_model(name, tied=tied)
    _, got, expected = check_step(model, tokenizer, tmp_path, {}, peft_config=copy.deepcopy(ADAPTERS[adapter]))
    assert all("lora" in name or "modules_to_save" in name or "token" in name for name in got)
    if adapter != "lora":
        assert any(expected[name].norm() > 0 for name in expected if "embed" in name)


def test_embedding_adapters_feel_the_alignment_term(tokenizer, tmp_path):
    """The gradient of A, B and of the trained rows differs where only their part of the summary is left out."""
    for adapter in ("lora on embeddings", "token indices"):
        model = tiny_model("qwen2", tied=False)
        config = {**WHOLE, "alignment_weight": 3.0}
        trainer = solar_trainer(
            model, token_rows(SPEC), tokenizer, tmp_path, config=config, peft_config=copy.deepcopy(ADAPTERS[adapter])
        )
        detached = reference_gradients(
            trainer.model, token_rows(SPEC), **{**reference_options(config), "detach_embeddings": True}
        )
        got = step_gradients(trainer)
        names = [name for name in got if "embed" in name]
        assert names
        assert relative_error({n: got[n] for n in names}, {n: detached[n] for n in names}) > 1e-3


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 counts the first token too, so the SFT part differs")
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_prompt_learning_positions_are_not_pooled(kind, tokenizer, tmp_path):
    config = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind](
        task_type="CAUSAL_LM", num_virtual_tokens=3
    )
    rows = token_rows(SPEC)
    for row in rows:  # plain text: the first token is supervised, so the last virtual token predicts it
        row["labels"] = list(row["input_ids"])
    virtual = 3 if kind == "prompt" else 0
    check_step(
        tiny_model("llama"),
        tokenizer,
        tmp_path,
        {},
        rows=rows,
        peft_config=config,
        reference={"num_virtual_tokens": virtual},
    )


def test_gradient_checkpointing_changes_nothing(tokenizer, tmp_path):
    for options in ({}, {"use_reentrant": True}, {"use_reentrant": False}):
        config = {"gradient_checkpointing": True, "detach_pivot": False}
        if options:
            config["gradient_checkpointing_kwargs"] = options
        check_step(tiny_model("qwen3"), tokenizer, tmp_path, config)


def test_dft_loss(tokenizer, tmp_path):
    """The alignment term is added to whatever loss TRL computes."""
    rows = token_rows(SPEC)
    config = {**WHOLE, "loss_type": "dft"}
    with_term = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config)
    dft = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config={**config, "alignment_weight": 0.0})
    options = reference_options(config)
    term = {
        name: value - reference_gradients(with_term.model, rows, **{**options, "weight": 0.0})[name]
        for name, value in reference_gradients(with_term.model, rows, **options).items()
    }
    got, plain = step_gradients(with_term), step_gradients(dft)
    assert relative_error({name: got[name] - plain[name] for name in got}, term) <= 1e-4


def test_router_loss_is_that_of_sft(tokenizer, tmp_path):
    """Appended pivots stay out of the load-balancing loss of a Mixture-of-Experts model."""
    from datasets import Dataset
    from helpers import sft_trainer

    rows = token_rows([("sw", 1), ("th", 2), ("sw", 3)])
    pivots = Dataset.from_list(token_rows([("en", 1), ("en", 2)], seed=1))
    config = {"per_device_train_batch_size": 3, "max_steps": 1, "router_aux_loss_coef": 0.5}
    plain = sft_trainer(tiny_model("qwen2_moe"), rows, tokenizer, tmp_path, config=config)
    solar = solar_trainer(
        tiny_model("qwen2_moe"),
        rows,
        tokenizer,
        tmp_path,
        config={**config, "alignment_weight": 1e-12},
        pivot_dataset=pivots,
    )
    expected, got = step_gradients(plain), step_gradients(solar)
    assert relative_error(got, expected) <= TOLERANCE
    aux = [[log["aux_loss"] for log in t.state.log_history if "aux_loss" in log] for t in (plain, solar)]
    assert aux[0] and aux[0] == pytest.approx(aux[1], rel=1e-6)


def test_logged_values(tokenizer, tmp_path):
    rows = token_rows(SPEC)
    model = tiny_model("gemma2")
    trainer = solar_trainer(model, rows, tokenizer, tmp_path, config=WHOLE)
    with torch.no_grad():
        expected = reference_objective(float64_copy(model), rows, weight=3.0)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["sft_loss"] == pytest.approx(expected["sft_loss"].item(), rel=1e-5)
    assert log["alignment_loss"] == pytest.approx(expected["alignment_loss"].item(), rel=1e-5)
    assert log["loss"] == pytest.approx(expected["loss"].item(), rel=1e-4)
    assert log["aligned_pairs"] == len(expected["pairs"]) == 4
    by_language = {"sw": [], "th": [], "de": []}
    for (row, _), similarity in zip(expected["pairs"], expected["similarities"], strict=True):
        by_language[rows[row]["language"]].append(similarity)
    for language, values in by_language.items():
        assert log[f"pivot_similarity/{language}"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert log["alignment_weight"] == 3.0
    assert "pivot_similarity/en" not in log
    assert {"sft_loss/en", "sft_loss/sw", "summary_variance", "entropy", "mean_token_accuracy"} <= log.keys()
