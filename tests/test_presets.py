"""Presets as a user switches between them: each trains, its term falls, and only true pairs help."""

import random

import pytest
import torch
from datasets import Dataset
from helpers import SPEC, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig

from solar_trl.objectives import OBJECTIVES


PRESETS = [name for name, objective in OBJECTIVES.items() if objective is not None]
# Each preset meets families whose heads differ: tied, soft caps, experts, learned positions
FAMILIES = ("qwen3", "gemma2", "qwen2_moe", "gpt2")
# Translations with the same two numbers
TEMPLATES = {
    "en": ("Anna has {a} apples and buys {b} more. How many apples does she have?", "She has {a} + {b} = {c}."),
    "de": ("Anna hat {a} Äpfel und kauft {b} weitere. Wie viele Äpfel hat sie?", "Sie hat {a} + {b} = {c}."),
    "sw": ("Anna ana matofaa {a} na ananunua mengine {b}. Ana matofaa mangapi?", "Ana {a} + {b} = {c}."),
    "th": ("แอนนามีแอปเปิล {a} ผล และซื้อเพิ่มอีก {b} ผล เธอมีแอปเปิลกี่ผล", "เธอมี {a} + {b} = {c}"),
}
ALONE = {
    "per_device_train_batch_size": len(SPEC),
    "per_device_eval_batch_size": len(SPEC),
    "alignment_weight": 1e5,  # beside it the SFT loss is nothing
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    "max_steps": 20,
    "max_length": None,
}


def rows_that_share_tokens(seed=0):
    return token_rows(SPEC, vocab_size=12, seed=seed)


def train_alone(preset, family, lora, tokenizer, tmp_path):
    """The alignment loss of a batch before and after training on its alignment term alone."""
    kwargs, embedding = {}, "wte" if family == "gpt2" else "embed_tokens"
    if lora:
        modules = ["c_attn"] if family == "gpt2" else ["q_proj", "k_proj", "v_proj", "o_proj"]
        if preset == "hard_token":
            modules.append(embedding)
        kwargs["peft_config"] = LoraConfig(r=8, lora_alpha=32, target_modules=modules, fan_in_fan_out=family == "gpt2")
    rows = rows_that_share_tokens()
    trainer = solar_trainer(
        tiny_model(family),
        rows,
        tokenizer,
        tmp_path,
        config={
            **ALONE,
            "alignment_objective": preset,
            "learning_rate": 1e-2 if lora or preset == "hard_token" else 1e-3,
        },
        eval_dataset=Dataset.from_list(rows),
        **kwargs,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_aligned_pairs"] == 4
    return before["eval_alignment_loss"], after["eval_alignment_loss"]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("preset", PRESETS)
def test_its_term_falls(preset, lora, tokenizer, tmp_path):
    family = FAMILIES[(PRESETS.index(preset) + 2 * lora) % len(FAMILIES)]
    if preset == "soft_info_nce" and not lora:
        family = "llama"  # its constant pivots move with the weights: in GPT-2 the term falls at first, then wanders
    before, after = train_alone(preset, family, lora, tokenizer, tmp_path)
    assert 0 <= after < 0.85 * before


def parallel_items(items, shuffled=None):
    """Rows of items in all languages; `shuffled`: a seed by which each language gets the ids in another order."""
    rows = []
    for language, (question, response) in TEMPLATES.items():
        ids = list(range(len(items)))
        if shuffled is not None and language != "en":
            random.Random(f"{shuffled} {language}").shuffle(ids)
        for parallel_id, (a, b) in zip(ids, items, strict=True):
            row = {"prompt": question.format(a=a, b=b), "completion": " " + response.format(a=a, b=b, c=a + b)}
            rows.append({**row, "language": language, "parallel_id": parallel_id})
    return rows


@torch.no_grad()
def retrieval(model, tokenizer, items):
    """How often the nearest English question, by the mean state of the middle layer, is the same question."""
    model.eval()
    states = {}
    for language, (question, _) in TEMPLATES.items():
        vectors = []
        for a, b in items:
            ids = torch.tensor([tokenizer(question.format(a=a, b=b)).input_ids])
            vectors.append(model(input_ids=ids, output_hidden_states=True).hidden_states[1][0].mean(0))
        states[language] = torch.nn.functional.normalize(torch.stack(vectors), dim=-1)
    hits = [
        (states[language] @ states["en"].T).argmax(1) == torch.arange(len(items))
        for language in states
        if language != "en"
    ]
    return torch.cat(hits).float().mean().item()


def test_only_true_pairs_help_retrieval(tokenizer, tmp_path):
    """
    On questions that training did not see. Over seven seeds and with 20 questions to choose from: 0.05 to 0.18 before,
    0.52 to 0.95 after training on true pairs, 0.08 to 0.18 after training on shuffled ones.
    """
    pool = [(a, b) for a in range(11, 60) for b in range(11, 60)]
    random.Random(0).shuffle(pool)
    seen, unseen = pool[:40], pool[40:60]
    config = {
        "alignment_objective": "mid_align",
        "alignment_weight": 1.0,
        "optim": "adamw_torch",
        "learning_rate": 3e-3,
        "max_steps": 30,
        "per_device_train_batch_size": 32,
        "max_length": None,
    }
    scores = {}
    for name, shuffled in (("true", None), ("shuffled", 0)):
        model = tiny_model("qwen3")
        scores["before"] = retrieval(model, tokenizer, unseen)
        solar_trainer(model, parallel_items(seen, shuffled), tokenizer, tmp_path, config=config).train()
        scores[name] = retrieval(model, tokenizer, unseen)
    assert scores["true"] > scores["before"] + 0.3
    assert scores["shuffled"] < scores["before"] + 0.2
