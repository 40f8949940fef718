"""Targets from before: pivots as they were at the start of training, an average of the weights, a queue."""

import copy
import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from helpers import QUIET, SEQUENTIAL, GradientRecorder, needs_sequential, relative_error, solar_trainer, token_rows
from models import TRANSFORMERS_5, tiny_model
from peft import LoraConfig
from reference import effective_embedding, float64_copy, reference_cosine, reference_objective
from reference_objectives import (
    reference_info_nce,
    reference_mse,
    reference_pool,
    reference_positions,
    reference_values,
)
from test_invariance import run_ranks
from transformers import TrainerCallback

from solar_trl import SolarSFTConfig, checks
from solar_trl.checkpoints import ALIGNMENT_STATE_NAME, checkpoint_damage
from solar_trl.data import carry_pivots
from solar_trl.momentum import AveragedWeights, PivotQueue
from solar_trl.objectives import Candidates


SPEC = [(language, item) for item in range(6) for language in ("en", "sw", "th")]
WHOLE = {"per_device_train_batch_size": len(SPEC), "max_steps": 3, "learning_rate": 0.1, "alignment_weight": 3.0}
ANCHORED = {"pivot_gradient": "anchored"}
MOMENTUM = {"pivot_gradient": "momentum", "momentum": 0.7}
HIDDEN = {"representation": "hidden_state", "layers": [0.5, -1], "positions": "all"}
LORA = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False)


class Recorder(GradientRecorder):
    """The model at the beginning of each optimizer step, its rows, and its gradient."""

    def __init__(self, trainer, rows):
        super().__init__()
        self.models, self.batches = [], []
        known = {tuple(row["input_ids"]): row for row in rows}
        compute_loss = trainer.compute_loss

        def record(model, inputs, *args, **kwargs):
            if model.training:
                mask = inputs["attention_mask"].bool()
                ids = [tuple(x[kept].tolist()) for x, kept in zip(inputs["input_ids"], mask, strict=True)]
                self.batches.append([known[x] for x in ids])
            return compute_loss(model, inputs, *args, **kwargs)

        trainer.compute_loss = record
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.models.append(float64_copy(model))


def summaries(model, rows, objective):
    """One vector per row and layer."""
    embedding, found = effective_embedding(model).double(), []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, output_hidden_states=True)
        places = reference_positions(row, objective)
        values = reference_values(outputs, row, objective, embedding, places)
        found.append([reference_pool(layer, objective.pooling) for layer in values])
    return found


def pivots_of(rows, everything):
    pivots = {row["parallel_id"]: row for row in everything if row["language"] == "en"}
    return [pivots[row["parallel_id"]] for row in rows]


def mean_over_layers(function, *sides):
    values = [function(*vectors) for vectors in zip(*sides, strict=True)]
    return sum(values) / len(values)


def gradient_of(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def cosine_distance(a, b):
    return 1 - reference_cosine(a, b)


def check_targets(recorder, objective, rows, targets, step, anchor_weight=0.0, distance=cosine_distance):
    """The gradient of a step is that of a reference whose pivots are those of the model `targets`."""
    batch, model = recorder.batches[step], recorder.models[step]
    others = [row for row in batch if row["language"] != "en"]
    with torch.no_grad():
        kept = summaries(targets, pivots_of(others, rows), objective)
    own = summaries(model, others, objective)
    moving = summaries(model, pivots_of(others, rows), objective) if objective.pivot_gradient == "both" else kept
    alignment = sum(mean_over_layers(distance, x, y) for x, y in zip(own, moving, strict=True)) / len(others)
    anchor = sum(mean_over_layers(distance, x, y) for x, y in zip(moving, kept, strict=True)) / len(others)
    loss = reference_objective(model, batch, weight=0.0)["loss"] + 3.0 * (alignment + anchor_weight * anchor)
    assert relative_error(recorder.steps[step], gradient_of(model, loss)) <= 2e-5
    return alignment.item(), anchor.item()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("settings", [{}, HIDDEN], ids=["soft tokens", "hidden states"])
def test_anchored_step_equals_the_reference(settings, lora, tokenizer, tmp_path):
    rows = token_rows(SPEC)
    trainer = solar_trainer(
        tiny_model("qwen2"),
        rows,
        tokenizer,
        tmp_path,
        config={**WHOLE, "alignment_kwargs": {**ANCHORED, **settings}},
        eval_dataset=Dataset.from_list(token_rows(SPEC, seed=4)),
        **({"peft_config": copy.deepcopy(LORA)} if lora else {}),
    )
    objective, start = trainer.args.objective, float64_copy(trainer.model)
    recorder = Recorder(trainer, rows)
    trainer.train()
    logs = [log["alignment_loss"] for log in trainer.state.log_history if "alignment_loss" in log]
    for step in range(3):
        alignment, _ = check_targets(recorder, objective, rows, start, step)
        assert logs[step] == pytest.approx(alignment, rel=1e-5)
    # Not vacuous: with the pivots as they are now, the last step is another
    with pytest.raises(AssertionError):
        check_targets(recorder, objective, rows, recorder.models[2], 2)
    # The pivots of the evaluation set are there too, and its examples are compared with them
    values = trainer._term.memory.start.values
    assert values.shape == (12, *([2, 32] if settings else [32])) and values.dtype == torch.float32
    evaluated = token_rows(SPEC, seed=4)
    others = [row for row in evaluated if row["language"] != "en"]
    with torch.no_grad():
        kept = summaries(start, pivots_of(others, evaluated), objective)
        own = summaries(float64_copy(trainer.model), others, objective)
    expected = np.mean([float(mean_over_layers(cosine_distance, x, y)) for x, y in zip(own, kept, strict=True)])
    assert trainer.evaluate()["eval_alignment_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_pivots_that_are_held_back(distance, tokenizer, tmp_path):
    rows = token_rows(SPEC)
    kwargs = {**HIDDEN, "distance": distance, "anchor_weight": 0.5, "pivot_gradient": "both"}
    trainer = solar_trainer(
        tiny_model("qwen3"), rows, tokenizer, tmp_path, config={**WHOLE, "alignment_kwargs": kwargs}
    )
    objective, start = trainer.args.objective, float64_copy(trainer.model)
    recorder = Recorder(trainer, rows)
    trainer.train()
    reference = {"mse": reference_mse, "cosine": cosine_distance}[distance]
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[0]["anchor_loss"] == pytest.approx(0, abs=1e-6)
    for step in (1, 2):
        alignment, anchor = check_targets(recorder, objective, rows, start, step, 0.5, reference)
        assert anchor > 1e-4
        assert logs[step]["alignment_loss"] == pytest.approx(alignment, rel=1e-5)
        assert logs[step]["anchor_loss"] == pytest.approx(anchor, rel=1e-4)
        total = logs[step]["sft_loss"] + 3 * (alignment + 0.5 * anchor)
        assert logs[step]["loss"] == pytest.approx(total, rel=1e-5)
    with pytest.raises(AssertionError):
        check_targets(recorder, objective, rows, start, 2, 0.0, reference)


class Forwards:
    """Counts forward passes of a model."""

    def __init__(self, model):
        self.number = 0
        model.get_decoder().register_forward_hook(self._count)

    def _count(self, *_):
        self.number += 1


@pytest.mark.parametrize(("gradient", "forwards"), [("anchored", 3 + 8), ("detached", 16)])
def test_kept_pivots_need_no_forward(gradient, forwards, tokenizer, tmp_path):
    """Six pivots in batches of two at the start, then one forward per micro-batch; not kept, two."""
    rows = [row for row in token_rows(SPEC) if row["language"] != "en"]
    config = {
        **WHOLE,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 2,
        "max_steps": 4,
        "gradient_accumulation_steps": 2,
        "alignment_kwargs": {"pivot_gradient": gradient},
    }
    pivots = Dataset.from_list(token_rows([("en", item) for item in range(6)], seed=1))
    trainer = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config, pivot_dataset=pivots)
    counter = Forwards(trainer.model)
    trainer.train()
    assert counter.number == forwards
    assert sum(log.get("aligned_pairs", 0) for log in trainer.state.log_history) == 24


def test_start_is_that_of_each_run(tokenizer, tmp_path):
    """Before training it is made for an evaluation; each training makes its own."""
    rows = token_rows(SPEC)
    config = {**WHOLE, "max_steps": 1, "alignment_kwargs": ANCHORED}
    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows,
        tokenizer,
        tmp_path,
        config=config,
        eval_dataset=Dataset.from_list(rows),
        # Dropout has no part in it
        peft_config=LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"], init_lora_weights=False),
    )
    memory, starts = trainer._term.memory, []

    def expected():
        pivots, model = [row for row in rows if row["language"] == "en"], float64_copy(trainer.model).eval()
        with torch.no_grad():
            return torch.stack([x[0] for x in summaries(model, pivots, trainer.args.objective)])

    starts.append(expected())
    trainer.evaluate()
    torch.testing.assert_close(memory.start.values[:6].double(), starts[-1], rtol=1e-4, atol=1e-5)
    kept = memory.start
    trainer.evaluate()
    assert memory.start is kept
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.mul_(1.5)
    for _ in range(2):
        starts.append(expected())
        trainer.train()
        torch.testing.assert_close(memory.start.values[:6].double(), starts[-1], rtol=1e-4, atol=1e-5)
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(starts[1:], starts, strict=False))
    assert trainer.model.training  # as the Trainer left it


def test_sets_that_come_later_are_compared_with_the_pivots_as_they_are(tokenizer, tmp_path, caplog):
    rows, later = token_rows(SPEC), Dataset.from_list(token_rows(SPEC[2:], seed=8))
    stream = carry_pivots(later.to_iterable_dataset(2))
    for kwargs in (ANCHORED, {"pivot_gradient": "both", "anchor_weight": 1.0}):
        config = {**WHOLE, "alignment_kwargs": kwargs}
        trainer = solar_trainer(
            tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config, eval_dataset=Dataset.from_list(rows)
        )
        trainer.train()
        before = trainer.evaluate()
        caplog.clear()
        others = [row for row in later.to_list() if row["language"] != "en" and row["parallel_id"] > 0]
        with torch.no_grad():
            model = float64_copy(trainer.model)
            own = summaries(model, others, trainer.args.objective)
            pivots = summaries(model, pivots_of(others, later.to_list()), trainer.args.objective)
        expected = np.mean([float(cosine_distance(x[0], y[0])) for x, y in zip(own, pivots, strict=True)])
        trainer.evaluate(later.remove_columns("parallel_id"))  # without pairs there is nothing to notice
        assert "is not known" not in caplog.text
        for dataset in (later, stream):
            metrics = trainer.evaluate(dataset)
            assert metrics["eval_alignment_loss"] == pytest.approx(expected, rel=1e-4)
            assert "eval_anchor_loss" not in metrics
        assert len([r for r in caplog.records if "is not known" in r.getMessage()]) == 1  # once, for both
        again = trainer.evaluate()
        for name in ("eval_alignment_loss", "eval_anchor_loss"):
            assert again.get(name) == before.get(name)
        assert ("eval_anchor_loss" in before) == ("anchor_weight" in kwargs)


def test_pivots_without_anything_to_pool(tokenizer, tmp_path):
    """A pivot without a prompt: its pairs are left out, as they are where pivots are not kept."""
    rows = token_rows(SPEC)
    rows[3] |= {"labels": list(rows[3]["input_ids"])}
    assert rows[3]["language"] == "en"
    logs = {}
    for gradient in ("anchored", "detached"):
        config = {**WHOLE, "max_steps": 1, "per_device_eval_batch_size": 4}
        config["alignment_kwargs"] = {"positions": "prompt", "pivot_gradient": gradient}
        trainer = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config)
        trainer.train()
        logs[gradient] = trainer.state.log_history[0]
        if gradient == "anchored":
            assert trainer._term.memory.start.values.isnan().all(1).tolist() == [False, True] + [False] * 4
    for name in ("alignment_loss", "aligned_pairs", "loss"):
        assert logs["anchored"][name] == pytest.approx(logs["detached"][name], rel=1e-5)
    assert logs["anchored"]["aligned_pairs"] == 10


def test_sampled_pivots(tokenizer, tmp_path):
    rows = token_rows([*SPEC, *(("en", item) for item in range(6))])
    config = {**WHOLE, "per_device_train_batch_size": 24, "max_steps": 4, "multiple_pivots": "sample"}
    trainer = solar_trainer(
        tiny_model("qwen3"), rows, tokenizer, tmp_path, config={**config, "alignment_kwargs": ANCHORED}
    )
    keys, look_up = [], None

    def record(wanted, like):
        keys.append(tuple(sorted(wanted)))
        return look_up(wanted, like)

    class Watch(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            nonlocal look_up
            start = trainer._term.memory.start
            if start is not None and look_up is None:
                look_up, start.look_up = start.look_up, record

    trainer.add_callback(Watch())
    trainer.train()
    assert len(trainer._term.memory.start) == 12
    assert len(keys) == 3 and len(set(keys)) > 1 and all(len(set(drawn)) == 6 for drawn in keys)


def average_of(models, momentum):
    """Average of the parameters of models, in float64."""
    result = copy.deepcopy(models[0])
    with torch.no_grad():
        for model in models[1:]:
            for own, new in zip(result.parameters(), model.parameters(), strict=True):
                own.copy_(momentum * own + (1 - momentum) * new)
    return result


@pytest.mark.parametrize(
    ("name", "options"),
    [("qwen2", {"tied": True}), ("qwen3", {"tied": False}), ("qwen2", {"lora": True})],
    ids=["tied", "untied", "lora"],
)
def test_momentum_step_equals_the_reference(name, options, tokenizer, tmp_path):
    rows = token_rows(SPEC)
    lora = {"peft_config": copy.deepcopy(LORA)} if options.pop("lora", False) else {}
    trainer = solar_trainer(
        tiny_model(name, **options),
        rows,
        tokenizer,
        tmp_path,
        config={**WHOLE, "alignment_kwargs": MOMENTUM},
        eval_dataset=Dataset.from_list(rows),
        **lora,
    )
    recorder = Recorder(trainer, rows)
    trainer.train()
    objective = trainer.args.objective
    for step in range(3):
        check_targets(recorder, objective, rows, average_of(recorder.models[: step + 1], 0.7), step)
    with pytest.raises(AssertionError):
        check_targets(recorder, objective, rows, recorder.models[2], 2)
    with pytest.raises(AssertionError):
        check_targets(recorder, objective, rows, recorder.models[0], 2)
    # Evaluation uses the average too
    average = average_of([*recorder.models, float64_copy(trainer.model)], 0.7)
    others = [row for row in rows if row["language"] != "en"]
    with torch.no_grad():
        kept = summaries(average, pivots_of(others, rows), objective)
        own = summaries(float64_copy(trainer.model), others, objective)
    expected = np.mean([float(cosine_distance(x[0], y[0])) for x, y in zip(own, kept, strict=True)])
    assert trainer.evaluate()["eval_alignment_loss"] == pytest.approx(expected, rel=1e-4)


def test_queue_step_equals_the_reference(tokenizer, tmp_path):
    """Two items per step: in the second epoch, the queue holds older summaries of the same items."""
    rows = token_rows(SPEC)
    kwargs = {**MOMENTUM, "queue_size": 64, "temperature": 0.5}
    config = {**WHOLE, "per_device_train_batch_size": 6, "max_steps": 6, "pivot_batching": "grouped"}
    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows,
        tokenizer,
        tmp_path,
        config={**config, "alignment_objective": "soft_info_nce", "alignment_kwargs": kwargs},
        eval_dataset=Dataset.from_list(rows),
    )
    recorder, objective = Recorder(trainer, rows), trainer.args.objective
    trainer.train()
    queue = []
    for step, (batch, model) in enumerate(zip(recorder.batches, recorder.models, strict=True)):
        others = [row for row in batch if row["language"] != "en"]
        items = [row["parallel_id"] for row in others]
        with torch.no_grad():
            average = average_of(recorder.models[: step + 1], 0.7)
            kept = [x[0] for x in summaries(average, pivots_of(others, rows), objective)]
        own = [x[0] for x in summaries(model, others, objective)]
        now = list(zip(kept, items, strict=True))

        def loss(negatives, model=model, batch=batch, own=own, kept=kept, items=items):
            distances = reference_info_nce(own, kept, items, temperature=0.5, other_pivots=negatives)
            return reference_objective(model, batch, weight=0.0)["loss"] + 3 * sum(distances) / len(distances)

        expected = gradient_of(model, loss([*now, *queue]))
        assert relative_error(recorder.steps[step], expected) <= 2e-5
        queue = [*{item: (vector, item) for vector, item in now}.values(), *queue]
    assert len(queue) == len(trainer._term.memory.queue.items) == 12
    before = trainer._term.memory.queue.items.clone()
    first = trainer.evaluate()["eval_alignment_loss"]
    assert torch.equal(trainer._term.memory.queue.items, before)
    trainer._term.memory.queue.vectors.zero_()
    assert trainer.evaluate()["eval_alignment_loss"] == first


def test_queue():
    queue = PivotQueue(4, n_ranks=1)
    candidates = Candidates(torch.zeros(2, 1), torch.tensor([7, 8]), 1)
    assert queue.behind(candidates) is candidates
    for items in ([], [1, 2], [3], [], [4, 5]):
        queue.push(torch.tensor(items, dtype=torch.float32).unsqueeze(1), torch.tensor(items, dtype=torch.int64))
    assert queue.items.tolist() == [4, 5, 3, 1] == queue.vectors.squeeze(1).tolist()
    longer = queue.behind(candidates)
    assert longer.items.tolist() == [7, 8, 4, 5, 3, 1] and longer.first == 1 and longer.vectors.shape == (6, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_leaves_the_model_alone(dtype):
    model = tiny_model("qwen2", dtype=dtype)
    average = AveragedWeights(model, 0.999)
    ids = torch.tensor([[3, 4, 5]])
    before = {name: (p, p.detach().clone(), p._version) for name, p in model.named_parameters()}
    average.values["model.norm.weight"].zero_()
    logits = model(ids).logits
    assert average.call(model, input_ids=ids).logits.abs().max() == 0 < logits.abs().max()
    with pytest.raises(IndexError):
        average.call(model, input_ids=ids + 10_000)
    for name, p in model.named_parameters():
        same, value, version = before[name]
        assert p is same and torch.equal(p, value) and p._version == version
    logits.sum().backward()  # what the forward saved is as it was
    # Small steps are not rounded away
    with torch.no_grad():
        model.model.norm.weight.fill_(1.0)
    for _ in range(100):
        average.update()
    assert average.values["model.norm.weight"].dtype == torch.float32
    torch.testing.assert_close(average.values["model.norm.weight"], torch.full((32,), 1 - 0.999**100))


def test_start_and_an_average_that_stays_are_the_same(tokenizer, tmp_path):
    weights = []
    for kwargs in (ANCHORED, {"pivot_gradient": "momentum", "momentum": 1.0}, {}):
        trainer = solar_trainer(
            tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={**WHOLE, "alignment_kwargs": kwargs}
        )
        trainer.train()
        weights.append({name: p.detach() for name, p in trainer.model.named_parameters()})
    first = {name: p.detach() for name, p in tiny_model("qwen3").named_parameters()}
    moved = [{name: p - first[name] for name, p in found.items()} for found in weights]
    assert relative_error(moved[1], moved[0]) < 1e-5
    assert relative_error(moved[2], moved[0]) > 1e-3


# Stop and resume

STATES = {
    "anchored": {"alignment_kwargs": ANCHORED},
    "held back": {"alignment_objective": "l2_anchor"},
    "momentum": {"alignment_kwargs": MOMENTUM},
    "queue": {"alignment_objective": "soft_info_nce", "alignment_kwargs": {**MOMENTUM, "queue_size": 5}},
}
RESUMED = {
    **QUIET,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 3,
    "save_strategy": "steps",
    "save_steps": 1,
}


def make(name, path, tokenizer, rows=None, **config):
    lora = {"peft_config": LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj", "embed_tokens"])}
    return solar_trainer(
        tiny_model("qwen3"),
        rows or token_rows(SPEC),
        tokenizer,
        path,
        config={**RESUMED, **STATES[name], **config},
        **(lora if name in ("anchored", "queue") else {}),
    )


def state_of(memory):
    tensors = {} if memory.average is None else dict(memory.average.values)
    if memory.start is not None:
        tensors["start"] = memory.start.values
    if memory.queue is not None:
        tensors |= {"vectors": memory.queue.vectors, "items": memory.queue.items}
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize(
    "step",
    [pytest.param(2, marks=pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 resumes in no epoch")), 3],
)
@pytest.mark.parametrize("name", STATES)
def test_resume_is_the_straight_run(name, step, tokenizer, tmp_path):
    straight = make(name, tmp_path, tokenizer)
    straight.train()
    kept = shutil.copytree(tmp_path / "solar" / f"checkpoint-{step}", tmp_path / "kept" / f"checkpoint-{step}")
    assert (kept / ALIGNMENT_STATE_NAME).exists() and not list(kept.glob("*.tmp"))
    shutil.rmtree(tmp_path / "solar")
    resumed = make(name, tmp_path, tokenizer)
    resumed.train(resume_from_checkpoint=str(kept))
    expected = {n: p for n, p in straight.model.named_parameters() if p.requires_grad}
    got = dict(resumed.model.named_parameters())
    assert all(torch.equal(p, got[n]) for n, p in expected.items())
    first, second = state_of(straight._term.memory), state_of(resumed._term.memory)
    assert first and first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    keys = ("loss", "alignment_loss", "anchor_loss", "sft_loss")
    logs = [
        [[log.get(k) for k in keys] for log in t.state.log_history if "loss" in log and log["step"] > step]
        for t in (straight, resumed)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 9 - step


@pytest.mark.parametrize("name", STATES)
def test_without_its_state_the_run_would_be_another(name, tokenizer, tmp_path, caplog):
    straight = make(name, tmp_path, tokenizer, max_steps=5)
    straight.train()
    checkpoint = tmp_path / "solar" / "checkpoint-3"
    whole = (checkpoint / ALIGNMENT_STATE_NAME).read_bytes()
    for damage, message in (
        (
            lambda path: path.unlink(),
            f"{ALIGNMENT_STATE_NAME}, which the alignment objective goes on from, is missing",
        ),
        (lambda path: path.write_bytes(whole[: len(whole) // 2]), f"{ALIGNMENT_STATE_NAME} is cut off"),
    ):
        damage(checkpoint / ALIGNMENT_STATE_NAME)
        with pytest.raises(ValueError, match=message) as info:
            make(name, tmp_path, tokenizer).train(resume_from_checkpoint=str(checkpoint))
        assert "checkpoint-5" in str(info.value)
    # Saved without a training state, it starts anew, and says so
    (checkpoint / ALIGNMENT_STATE_NAME).unlink()
    other = make(name, tmp_path, tokenizer, max_steps=5, save_only_model=True)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert "starts anew from its weights" in caplog.text
    losses = [
        [log["loss"] for log in t.state.log_history if log["step"] == 4 and "loss" in log] for t in (straight, other)
    ]
    assert losses[0] != losses[1]


def test_the_last_whole_checkpoint_is_taken(tokenizer, tmp_path, caplog):
    make("anchored", tmp_path, tokenizer, max_steps=3).train()
    (tmp_path / "solar" / "checkpoint-3" / ALIGNMENT_STATE_NAME).unlink()
    trainer = make("anchored", tmp_path, tokenizer, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert "Not resuming from" in caplog.text and "checkpoint-3" in caplog.text
    assert trainer._resumes_from.endswith("checkpoint-2")
    # The state is no weights
    (tmp_path / "solar" / "checkpoint-1" / "adapter_model.safetensors").unlink()
    assert checkpoint_damage(tmp_path / "solar" / "checkpoint-1") == "the weights are missing"


def test_a_state_that_does_not_fit(tokenizer, tmp_path):
    make("anchored", tmp_path, tokenizer, max_steps=1).train()
    checkpoint = str(tmp_path / "solar" / "checkpoint-1")
    with pytest.raises(ValueError, match=r"6 pivots .* have 4"):
        make("anchored", tmp_path, tokenizer, rows=token_rows(SPEC[:12])).train(resume_from_checkpoint=checkpoint)
    make("momentum", tmp_path / "other", tokenizer, max_steps=1).train()
    state = tmp_path / "other" / "solar" / "checkpoint-1" / ALIGNMENT_STATE_NAME
    shutil.copy(state, f"{checkpoint}/{ALIGNMENT_STATE_NAME}")
    with pytest.raises(ValueError, match="no pivots"):
        make("anchored", tmp_path, tokenizer).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="do not fit the model: for base_model"):
        make("queue", tmp_path, tokenizer).train(resume_from_checkpoint=checkpoint)


def test_other_objectives_save_nothing(tokenizer, tmp_path):
    solar_trainer(
        tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={**RESUMED, "max_steps": 1}
    ).train()
    assert not (tmp_path / "solar" / "checkpoint-1" / ALIGNMENT_STATE_NAME).exists()


# Pairs that training rows draw from an alignment dataset: their examples are in the side batch, too


@pytest.mark.parametrize("name", ["anchored", "queue"])
def test_drawn_pairs(name, tokenizer, tmp_path):
    rows = [{k: row[k] for k in ("input_ids", "labels")} for row in token_rows(SPEC[:12], seed=7)]
    pairs = token_rows(SPEC)
    config = {**WHOLE, **STATES[name], "per_device_train_batch_size": 12, "per_device_eval_batch_size": 6}
    trainer = solar_trainer(
        tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config, alignment_dataset=Dataset.from_list(pairs)
    )
    objective = trainer.args.objective
    recorder = Recorder(trainer, rows)
    counter = Forwards(trainer.model)
    trainer.train()
    # Rows, examples and, with averaged weights, pivots; six pivots at the start are one batch
    assert counter.number == (3 * 3 if name == "queue" else 1 + 3 * 2)
    others = [row for row in pairs if row["language"] != "en"]  # 12 rows draw each pair once
    items = [row["parallel_id"] for row in others]
    model = recorder.models[0]
    with torch.no_grad():
        kept = [x[0] for x in summaries(model, pivots_of(others, pairs), objective)]
    own = [x[0] for x in summaries(model, others, objective)]
    if name == "queue":
        distances = reference_info_nce(own, kept, items, temperature=objective.temperature)
        assert len(trainer._term.memory.queue.items) == 5 == len(set(trainer._term.memory.queue.items.tolist()))
    else:
        distances = [cosine_distance(x, y) for x, y in zip(own, kept, strict=True)]
    loss = reference_objective(
        model, [{**row, "language": "", "parallel_id": None} for row in recorder.batches[0]], weight=0.0
    )
    expected = gradient_of(model, loss["loss"] + 3 * sum(distances) / len(distances))
    assert relative_error(recorder.steps[0], expected) <= 2e-5


# What is refused


@pytest.mark.parametrize("kwargs", [ANCHORED, {"pivot_gradient": "both", "anchor_weight": 0.5}])
def test_streams_are_refused(kwargs, tokenizer, tmp_path):
    stream = carry_pivots(Dataset.from_list(token_rows(SPEC)).to_iterable_dataset(2))
    setting = "anchor_weight" if "anchor_weight" in kwargs else "pivot_gradient"
    with pytest.raises(ValueError, match=f"`{setting}=.* needs the summaries of all pivots before training starts"):
        solar_trainer(tiny_model("qwen3"), stream, tokenizer, tmp_path, config={**WHOLE, "alignment_kwargs": kwargs})


def test_momentum_on_a_stream(tokenizer, tmp_path):
    stream = carry_pivots(Dataset.from_list(token_rows(SPEC)).to_iterable_dataset(2))
    config = {**WHOLE, "per_device_train_batch_size": 6, **STATES["queue"]}
    trainer = solar_trainer(tiny_model("qwen3"), stream, tokenizer, tmp_path, config=config)
    trainer.train()
    assert len(trainer._term.memory.queue.items) == 5
    assert trainer.state.log_history[0]["aligned_pairs"] == 4


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_momentum_with_sharded_weights_is_refused(kind, tmp_path):
    accelerator = SimpleNamespace(distributed_type=kind, is_fsdp2=True, num_processes=2, parallelism_config=None)
    args = SolarSFTConfig(str(tmp_path), **QUIET, alignment_kwargs=MOMENTUM)
    with pytest.raises(ValueError, match="shards them"):
        checks.check_parallelism(args, accelerator)
    checks.check_parallelism(SolarSFTConfig(str(tmp_path), **QUIET, alignment_kwargs=ANCHORED), accelerator)


# Two ranks


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["held back", "queue"])
def test_resume_on_two_ranks(name, tmp_path):
    options = {
        **STATES[name],
        "pivot_batching": "grouped",
        "per_device_train_batch_size": 2,
        "max_steps": -1,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "save_strategy": "steps",
        "save_steps": 1,
        "resume_test": True,
    }
    if name == "queue":
        options["alignment_kwargs"] = {**options["alignment_kwargs"], "gather": True}
    straight = run_ranks(options, 2, tmp_path)
    resumed = run_ranks({**options, "resume_from": 3}, 2, tmp_path)
    assert straight["steps"] == resumed["steps"] == 6
    assert json.dumps(straight["losses"][3:]) == json.dumps(resumed["losses"][3:])
    assert all(torch.equal(value, resumed["weights"][name]) for name, value in straight["weights"].items())


@pytest.mark.distributed
@needs_sequential
def test_start_on_two_ranks(tmp_path):
    """Rank 1 has no pairs, and the pivots do not go evenly into the batches of two ranks."""
    config = {**SEQUENTIAL, "alignment_objective": "l2_anchor", "max_steps": 3, "learning_rate": 0.05}
    two = run_ranks({**config, "per_device_train_batch_size": 4}, 2, tmp_path)
    one = run_ranks({**config, "per_device_train_batch_size": 8}, 1, tmp_path)
    assert relative_error(two["gradients"], one["gradients"]) <= 1e-5
    for key in ("eval_alignment_loss", "eval_anchor_loss"):
        assert two["eval"][key] == pytest.approx(one["eval"][key], rel=1e-4)
    assert one["eval"]["eval_anchor_loss"] > 1e-4


@pytest.fixture(autouse=True)
def _shown_logs(caplog):
    caplog.set_level(logging.INFO, logger="solar_trl")
