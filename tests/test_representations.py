"""Representation × positions × pooling: summaries equal those formed by loops on the model's ordinary outputs."""

import copy
from itertools import product

import pytest
import torch
from helpers import SEQUENTIAL, SPEC, needs_sequential, relative_error, solar_trainer, step_gradients, token_rows
from models import MODEL_NAMES, TRANSFORMERS_5, tiny_model
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from reference import float64_copy
from reference_objectives import (
    reference_embedding,
    reference_frame,
    reference_pool,
    reference_positions,
    reference_values,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from solar_trl._compat import capture_hidden_states
from solar_trl.modeling import add_soft_token_head
from solar_trl.objectives import Objective
from solar_trl.pooling import Pooling
from solar_trl.sequence_tokens import SequenceTokens


POOLINGS = ("mean", "last", "position_weighted", "none")
LAYERS = (0, 1, 2, 0.5, -1)
POINTS = [
    *(
        Objective(
            description="",
            representation=representation,
            layers=LAYERS,
            positions=positions,
            pooling=pooling,
            distance="mmd" if pooling == "none" else "cosine",
        )
        for representation, positions, pooling in product(
            ("soft_token", "hard_token", "hidden_state"), ("response", "prompt", "all"), POOLINGS
        )
    ),
    Objective(
        description="", representation="logits", positions="answer", pooling="none", distance="kl", answer_tokens=3
    ),
]
IDS = [f"{o.representation}-{o.positions}-{o.pooling}" for o in POINTS]


def ragged_rows():
    """A response with a hole, one of a single token, one that nothing precedes."""
    rows = token_rows([("sw", 1), ("en", 1), ("th", 2), ("en", 2)])
    rows[0]["input_ids"] += [11, 12, 13, 14]
    rows[0]["labels"] += [-100, 12, -100, -100]
    rows[1]["labels"] = list(rows[1]["input_ids"])
    rows[2]["labels"] = [-100] * (len(rows[2]["labels"]) - 1) + rows[2]["labels"][-1:]
    return rows


def batch_of(rows, layout):
    """A batch of all rows, on its own: `right`, `left` or `flat`."""
    lengths = [len(row["input_ids"]) for row in rows]
    if layout == "flat":
        batch = {
            "input_ids": torch.tensor([[t for row in rows for t in row["input_ids"]]]),
            # As TRL's collator does: nothing predicts the first token of a sequence
            "labels": torch.tensor([[t for row in rows for t in [-100, *row["labels"][1:]]]]),
            "position_ids": torch.tensor([[t for length in lengths for t in range(length)]]),
        }
    else:
        width = max(lengths) + 2

        def pad(values, fill):
            out = []
            for value in values:
                filling = [fill] * (width - len(value))
                out.append([*filling, *value] if layout == "left" else [*value, *filling])
            return torch.tensor(out)

        batch = {
            "input_ids": pad([row["input_ids"] for row in rows], 0),
            "labels": pad([row["labels"] for row in rows], -100),
            "attention_mask": pad([[1] * length for length in lengths], 0),
            "position_ids": pad([list(range(length)) for length in lengths], 0),
        }
    return batch, SequenceTokens.count(batch["labels"], lengths, batch.get("attention_mask"))


def pooling_of(objective, tokens, rows, **options):
    layers = (0, 1, 2, 1, 2) if objective.representation == "hidden_state" else ()
    return Pooling(
        tokens=tokens,
        rows=tuple(rows),
        representation=objective.representation,
        positions=objective.positions,
        pooling=objective.pooling,
        embeddings=objective.embeddings,
        layers=layers,
        answer_tokens=objective.answer_tokens,
        **options,
    )


def expected_summaries(model, rows, objective, **options):
    """Of each row: a tensor, `(d,)` or a cloud `(K, d)`, with a dimension for the layers before the last."""
    embedding, found = reference_embedding(model, objective), []
    for row in rows:
        outputs = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False, output_hidden_states=True)
        places = reference_positions(row, objective)
        if not places:
            found.append(None)
            continue
        layers = [
            reference_pool(values, objective.pooling)
            for values in reference_values(outputs, row, objective, embedding, places, **options)
        ]
        layers = [torch.stack(layer) if isinstance(layer, list) else layer for layer in layers]
        found.append(torch.stack(layers, dim=-2) if objective.representation == "hidden_state" else layers[0])
    return found


def compare(model, rows, objective, layout, gradients=False, tolerance=1e-5, **options):
    """Values, and the gradient of a random functional of all summaries and of the SFT loss."""
    distribution = {name: value for name, value in options.items() if name != "tile_bytes"}
    expected = expected_summaries(model, rows, objective, **distribution)
    pooled = [i for i, summary in enumerate(expected) if summary is not None]
    batch, tokens = batch_of(rows, layout)
    can_pool = tokens.can_pool(objective.positions, objective.representation != "hidden_state")
    assert [i for i, usable in enumerate(can_pool) if usable] == pooled and pooled
    outputs = model(**batch, soft_token_pooling=pooling_of(objective, tokens, pooled, **options))
    got, mask = outputs.summaries, outputs.summary_mask
    if objective.pooling == "none":
        assert mask.sum(1).tolist() == [len(expected[i]) for i in pooled]
        got = [cloud[present] for cloud, present in zip(got, mask, strict=True)]
    else:
        assert mask is None
    for value, i in zip(got, pooled, strict=True):
        torch.testing.assert_close(value.double(), expected[i], rtol=tolerance, atol=tolerance)
    if not gradients:
        return
    generator = torch.Generator().manual_seed(1)
    ours = theirs = 0.0
    for value, i in zip(got, pooled, strict=True):
        functional = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ours, theirs = ours + (value * functional).sum(), theirs + (expected[i] * functional).sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(value, parameters, allow_unused=True) for value in (ours, theirs))
    total = sum(grad.square().sum() for grad in theirs if grad is not None).sqrt()
    difference = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = (torch.zeros(()) if grad is None else grad for grad in (a, b))
        difference = difference + (a - b).square().sum()
    assert total > 0 and difference.sqrt() <= tolerance * total


def double_model(name, tied=False):
    model = tiny_model(name, tied=tied, dtype=torch.float64)
    add_soft_token_head(model)
    return model


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_point_of_the_frame(name):
    number, rows = MODEL_NAMES.index(name), ragged_rows()
    model = double_model(name, tied=number % 2 == 0)
    # The eager attention of Gemma 2 makes NaN of padding on the left in float64
    layouts = ("right", "right" if name == "gemma2" else "left")
    for i, objective in enumerate(POINTS):
        # Each family meets another part of the points with gradients
        compare(model, rows, objective, layouts[i % 2], gradients=(i + number) % 5 == 0)


@pytest.mark.parametrize("layout", ["left", "flat"])
@pytest.mark.parametrize("objective", POINTS, ids=IDS)
def test_every_layout(objective, layout):
    rows = ragged_rows()
    if layout == "flat":
        rows[1]["labels"][0] = -100
    compare(double_model("qwen3"), rows, objective, layout, gradients=True)


@pytest.mark.parametrize("options", [{"top_k": 7}, {"temperature": 0.6}, {"top_k": 5, "temperature": 2.0}], ids=str)
@pytest.mark.parametrize(
    "objective", [o for o in POINTS if o.representation == "soft_token"], ids=lambda o: f"{o.positions}-{o.pooling}"
)
def test_top_k_and_temperature(objective, options):
    compare(double_model("gemma2"), ragged_rows(), objective, "right", gradients=True, **options)


@pytest.mark.parametrize(
    "objective",
    [o for o in POINTS if o.representation == "soft_token" and o.positions == "all"],
    ids=lambda o: f"{o.positions}-{o.pooling}",
)
def test_tiles_of_logits(objective, monkeypatch):
    """Less memory than for one position at a time."""
    compare(double_model("cohere"), ragged_rows(), objective, "right", gradients=True, tile_bytes=1)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "non-reentrant"])
def test_captured_states_are_those_of_transformers(name, checkpointing):
    model = tiny_model(name).train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    batch = {"input_ids": torch.randint(3, 380, (2, 9))}
    with capture_hidden_states(model, (2, 0, 1)) as states:
        last = model.base_model(**batch, use_cache=False).last_hidden_state
    hidden = model(**batch, use_cache=False, output_hidden_states=True).hidden_states
    assert len(hidden) == 3 and states[0] is None
    for got, expected in zip((last, states[1], states[2]), (hidden[2], hidden[0], hidden[1]), strict=True):
        assert torch.equal(got, expected)
    # What is kept is what the next block was given, in the graph; nothing stays on the model
    states[2].retain_grad()
    last.square().sum().backward()
    assert states[2].grad.abs().max() > 0
    assert not any(module._forward_pre_hooks for module in model.modules())


# The gradient of a whole step through the trainer

TOLERANCE = 2e-5
FRAME = {
    "per_device_train_batch_size": len(SPEC),
    "max_steps": 1,
    "max_length": None,
    "alignment_weight": 3.0,
}


def shared_rows(spec=SPEC, seed=0):
    """Rows of a small vocabulary, so that parallels share tokens."""
    return token_rows(spec, vocab_size=9, seed=seed)


def check_frame(model, tokenizer, tmp_path, changes, config=None, rows=None, tolerance=TOLERANCE, **kwargs):
    """`changes` of SOLAR; the reference is that of the resulting objective."""
    rows, options = rows or shared_rows(), kwargs.pop("reference", {})
    config = {**FRAME, "alignment_kwargs": changes, **(config or {})}
    trainer = solar_trainer(model, rows, tokenizer, tmp_path, config=config, **kwargs)
    objective = trainer.args.objective
    options = {
        "temperature": config.get("soft_token_temperature", 1.0),
        "top_k": config.get("soft_token_top_k"),
        "detach_embeddings": config.get("detach_embeddings", False),
        **options,
    }
    expected, plain, alignment_loss = frame_gradients(trainer.model, rows, objective, weight=3.0, **options)
    got = step_gradients(trainer)
    assert relative_error(got, expected) <= tolerance
    assert relative_error(plain, expected) > 50 * tolerance  # the term is in it
    log = next(log for log in trainer.state.log_history if "alignment_loss" in log)
    assert log["alignment_loss"] == pytest.approx(alignment_loss, rel=max(10 * tolerance, 1e-4))
    return trainer, got, expected


def frame_gradients(model, rows, objective, **options):
    """Gradients of the loss and of its SFT part, and the alignment loss."""
    model = float64_copy(model)
    if getattr(model, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_disable()
    result = reference_frame(model, rows, objective, **options)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = []
    for loss in (result["sft_loss"], result["loss"]):
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
        gradients.append(
            {
                name: torch.zeros_like(p) if grad is None else grad
                for (name, p), grad in zip(parameters.items(), grads, strict=True)
            }
        )
    return gradients[1], gradients[0], result["alignment_loss"].item()


HIDDEN = {"representation": "hidden_state", "layers": [1]}
STEPS = {
    "hidden": HIDDEN,
    "embedding output": {**HIDDEN, "layers": [0]},
    "several layers": {**HIDDEN, "layers": [0, 0.5, -1], "positions": "all", "distance": "mse"},
    "layers with negatives": {
        **HIDDEN,
        "layers": [0.5, -1],
        "positions": "prompt",
        "distance": "info_nce",
        "pivot_gradient": "both",
        "direction": "both",
    },
    "last prompt token": {
        **HIDDEN,
        "positions": "prompt",
        "pooling": "last",
        "distance": "info_nce",
        "direction": "from_pivot",
        "pivot_gradient": "both",
        "temperature": 0.05,
        "negatives": "naive",
    },
    "dot products": {"distance": "info_nce", "normalize": False, "temperature": 2.0},
    "weighted soft tokens": {"pooling": "position_weighted", "pivot_gradient": "both"},
    "soft tokens of prompts": {"positions": "prompt", "pooling": "last", "distance": "mse"},
    "all soft tokens": {"positions": "all"},
    "last soft token": {"pooling": "last"},
    "hard tokens": {"representation": "hard_token", "pivot_gradient": "both"},
    "hard tokens everywhere": {"representation": "hard_token", "positions": "all", "pooling": "position_weighted"},
    "soft tokens of the head": {"embeddings": "output"},
    "weighted soft tokens of the head": {"embeddings": "output", "pooling": "position_weighted", "positions": "all"},
    "hard tokens of the head": {"embeddings": "output", "representation": "hard_token"},
    "soft clouds": {"pooling": "none", "distance": "mmd"},
    "hidden clouds": {**HIDDEN, "pooling": "none", "distance": "mmd", "positions": "prompt", "pivot_gradient": "both"},
    "clouds of several layers": {
        **HIDDEN,
        "layers": [1, -1],
        "positions": "prompt",
        "pooling": "none",
        "distance": "mmd",
    },
    "centroid": {"target": "centroid"},
    "moving centroid": {"target": "centroid", "pivot_gradient": "both", **HIDDEN, "layers": [1, 2]},
    "answer": {
        "representation": "logits",
        "positions": "answer",
        "pooling": "none",
        "distance": "kl",
        "answer_tokens": 4,
        "temperature": 2.0,
    },
}


@pytest.mark.parametrize("changes", STEPS.values(), ids=STEPS)
def test_a_step(changes, tokenizer, tmp_path):
    check_frame(tiny_model("qwen3", tied=False), tokenizer, tmp_path, changes)


@needs_sequential
@pytest.mark.parametrize("changes", STEPS.values(), ids=STEPS)
def test_a_step_whose_pivots_are_appended(changes, tokenizer, tmp_path):
    """Two rows at a time, mostly without their pivot. Distances that see one pair only do not notice."""
    if changes.get("distance") == "info_nce" or "target" in changes:
        pytest.skip("depends on what else is in the micro-batch")
    config = {**SEQUENTIAL, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    check_frame(tiny_model("llama", tied=True), tokenizer, tmp_path, changes, config)


@needs_sequential
@pytest.mark.parametrize("layout", ["padding_free", "packing", "left"])
@pytest.mark.parametrize(
    "name",
    [
        "several layers",
        "last prompt token",
        "weighted soft tokens",
        "hard tokens everywhere",
        "hidden clouds",
        "answer",
        "all soft tokens",
    ],
)
def test_layouts(name, layout, tokenizer, tmp_path):
    config, options = {**SEQUENTIAL}, {}
    if layout == "packing":
        config = {"packing": True, "max_length": 200, "per_device_train_batch_size": 1}
    elif layout == "padding_free":
        config["padding_free"] = True
    else:
        options["data_collator"] = LeftPadding(pad_token_id=0)
    check_frame(tiny_model("qwen3"), tokenizer, tmp_path, STEPS[name], config, **options)


class LeftPadding(DataCollatorForLanguageModeling):
    def torch_call(self, examples):
        batch = super().torch_call(examples)
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            for name, values in batch.items():
                batch[name][row] = values[row].roll(values.size(1) - length)
        return batch


@pytest.mark.parametrize(
    "changes", [{}, {"positions": "all", **HIDDEN}, {"pooling": "last"}], ids=["solar", "hidden", "last"]
)
def test_left_padding_of_plain_text(changes, tokenizer, tmp_path):
    """The padding before a supervised first token predicts it: in the SFT loss of TRL, but not pooled."""
    rows = shared_rows()
    for row in rows:
        row["labels"] = list(row["input_ids"])
    config = {**FRAME, "alignment_kwargs": changes, "alignment_weight": 1e4}
    trainer = solar_trainer(
        tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config, data_collator=LeftPadding(pad_token_id=0)
    )
    expected, _, alignment_loss = frame_gradients(trainer.model, rows, trainer.args.objective, weight=1e4)
    assert relative_error(step_gradients(trainer), expected) < 1e-3  # but for the SFT loss at padding
    assert trainer.state.log_history[0]["alignment_loss"] == pytest.approx(alignment_loss, rel=1e-4)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    "name", ["several layers", "embedding output", "weighted soft tokens", "hidden clouds", "hard tokens", "answer"]
)
def test_gradient_checkpointing(name, reentrant, tokenizer, tmp_path):
    config = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    changes = {**STEPS[name]}
    if name == "several layers":
        changes["pivot_gradient"] = "both"
    check_frame(tiny_model("qwen3"), tokenizer, tmp_path, changes, config)


ADAPTERS = {
    "lora": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    "lora on embeddings": LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False),
    "modules_to_save": LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False
    ),
    "token indices": LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3, 5, 7]}, init_lora_weights=False
    ),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "name", ["several layers", "weighted soft tokens", "all soft tokens", "hard tokens", "soft clouds", "answer"]
)
def test_peft(name, adapter, tokenizer, tmp_path):
    if (name, adapter) == ("hard tokens", "lora"):
        pytest.skip("refused, since only embeddings could change")
    peft_config = copy.deepcopy(ADAPTERS[adapter])
    _, _, expected = check_frame(
        tiny_model("qwen2", tied=False),
        tokenizer,
        tmp_path,
        STEPS[name],
        {"gradient_checkpointing": True},
        peft_config=peft_config,
    )
    if adapter != "lora":
        assert any(value.norm() > 0 for key, value in expected.items() if "embed" in key)


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 counts the first token too, so the SFT part differs")
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize(
    "name", ["several layers", "soft tokens of prompts", "all soft tokens", "hidden clouds", "answer"]
)
def test_prompt_learning(name, kind, tokenizer, tmp_path):
    config = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind](
        task_type="CAUSAL_LM", num_virtual_tokens=3
    )
    # The embedding output of real tokens does not depend on virtual ones
    changes = {**STEPS[name], **({"layers": [1, 2]} if name == "several layers" else {})}
    virtual = 3 if kind == "prompt" else 0
    rows = shared_rows()
    rows[0]["labels"] = list(rows[0]["input_ids"])  # the last virtual token predicts its first
    if changes.get("positions") == "prompt":
        rows = shared_rows()
    check_frame(
        tiny_model("llama"),
        tokenizer,
        tmp_path,
        changes,
        rows=rows,
        peft_config=config,
        reference={"num_virtual_tokens": virtual},
    )


@pytest.mark.parametrize("name", ["all soft tokens", "weighted soft tokens", "soft clouds"])
@pytest.mark.parametrize(
    "config",
    [
        {"soft_token_top_k": 6, "soft_token_temperature": 1.5},
        {"detach_embeddings": True},
        {"soft_token_temperature": 0.5},
    ],
    ids=["top-k", "detached embeddings", "temperature"],
)
def test_settings_of_soft_tokens(name, config, tokenizer, tmp_path):
    check_frame(tiny_model("gemma2", tied=True), tokenizer, tmp_path, STEPS[name], config)


@pytest.mark.parametrize(
    "name", ["several layers", "weighted soft tokens", "soft clouds", "layers with negatives", "answer"]
)
def test_bfloat16_autocast(name, tokenizer, tmp_path):
    """No further from float64 than the reference itself is in autocast."""
    config, steps = {**FRAME, "alignment_kwargs": STEPS[name], "bf16": True}, []
    for weight in (3.0, 1e-12):
        trainer = solar_trainer(
            tiny_model("qwen3"), shared_rows(), tokenizer, tmp_path, config={**config, "alignment_weight": weight}
        )
        objective = trainer.args.objective
        steps.append(step_gradients(trainer))
    got = {name: steps[0][name] - steps[1][name] for name in steps[0]}
    expected, naive = (
        term_gradients(model, objective) for model in (tiny_model("qwen3").double(), tiny_model("qwen3"))
    )
    assert relative_error(naive, expected) > 1e-4
    assert relative_error(got, expected) <= 1.2 * relative_error(naive, expected) + 1e-3


def term_gradients(model, objective):
    """Of three times the alignment loss; in autocast unless the model is in float64."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype != torch.float64):
        result = reference_frame(model, shared_rows(), objective)
    (3 * result["alignment_loss"]).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
