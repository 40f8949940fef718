"""Numbers at the edge, and what is said about them."""

import math

import pytest
import torch
from datasets import Dataset
from helpers import SPEC, needs_sequential, relative_error, sft_trainer, solar_trainer, step_gradients, token_rows
from models import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from solar_trl import SolarSFTConfig
from solar_trl.kernels import HeadOptions, soft_token_head
from solar_trl.metrics import TrainingAlarms
from solar_trl.objectives import pair_distances


def test_collapse_alarm(caplog):
    alarms = TrainingAlarms()
    for step, variance in enumerate([60.0, 0.3, 0.5, 0.004, 0.2, 0.006, 0.004, 0.004]):
        alarms.check({"summary_variance": variance}, step)
    assert not caplog.records  # the first window does not count, and never three low ones in a row
    for step in range(8, 20):
        alarms.check({"summary_variance": 0.0049}, step)
    assert len(caplog.records) == 1
    assert "At step 8, `summary_variance` is 0.0049, less than 1/100 of the 0.5" in caplog.text


def test_alarm_in_training(tokenizer, tmp_path, caplog):
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 1})
    trainer._alarms._windows, trainer._alarms._largest, trainer._alarms.PATIENCE = 1, 1e4, 1
    trainer.train()
    assert "summaries of all items are becoming alike" in caplog.text


def test_nan_is_reported(tokenizer, tmp_path, caplog):
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    trainer = solar_trainer(model, token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 2})
    trainer.train()
    assert sum("not finite" in record.message for record in caplog.records) == 1
    assert "`alignment_loss` is nan" in caplog.text
    assert math.isnan(trainer.state.log_history[0]["alignment_loss"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_large_vocabulary(dtype):
    """262k tokens, logits of ±1e4, a one-token and a long response."""
    generator = torch.Generator().manual_seed(0)
    vocab, width, tokens = 262_144, 4, 40
    hidden = torch.randn(tokens, width, generator=generator)
    hidden[0] *= 5000
    hidden = hidden.to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=generator)
    for options in (HeadOptions(), HeadOptions(temperature=0.5, tile_bytes=2**24), HeadOptions(top_k=20)):
        out = soft_token_head(hidden, weight, None, weight, targets, [(0, 1), (1, tokens)], options)
        loss = out[0].sum() + out[4].sum()
        grads = torch.autograd.grad(loss, [hidden, weight])
        assert loss.isfinite() and all(grad.isfinite().all() for grad in grads)
        torch.testing.assert_close(out[3].sum(1), torch.ones(2), rtol=1e-3, atol=1e-3)


def test_identical_and_zero_summaries():
    same = torch.randn(3, 5).repeat(2, 1).requires_grad_()
    for summaries, pivots in ((same, same.detach()), (torch.zeros(2, 5, requires_grad=True), torch.zeros(2, 5))):
        distances = pair_distances(summaries, pivots)
        (grad,) = torch.autograd.grad(distances.sum(), summaries)
        assert distances.isfinite().all() and grad.isfinite().all()


def test_saved_tensors_that_were_moved(tokenizer, tmp_path):
    """Activation offloading hands the backward copies of what the forward saved."""
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 1})
    expected = step_gradients(trainer)
    moved = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 1})
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().clone(), lambda x: x):
        got = step_gradients(moved)
    assert relative_error(got, expected) < 1e-6


class WaitsForTheDevice(TorchDispatchMode):
    """Counts operations after which the host needs a value from the device."""

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.name().split(".")[0]
        masks = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += masks or name in self.NAMES
        return out


@needs_sequential
def test_no_more_waits_for_the_device_than_sft(tokenizer, tmp_path, monkeypatch):
    """On a GPU each wait empties its queue. Appended pivots and a rank's pair count included."""
    config = {"max_steps": 1, "per_device_train_batch_size": 3, "train_sampling_strategy": "sequential"}

    def count(trainer):
        batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, torch.device("cpu"))
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        lists = []
        original = torch.Tensor.tolist
        with WaitsForTheDevice() as mode, monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "tolist", lambda self: lists.append(1) or original(self))
            loss = trainer.compute_loss(trainer.model, batches[0], num_items_in_batch=tokens)
            loss.backward()
        return mode.count + len(lists)

    sft = count(sft_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config))
    solar = solar_trainer(
        tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={**config, "pivot_batching": "random"}
    )
    assert count(solar) <= sft
    assert sft > 0  # TRL's own metrics wait; a counter that sees nothing would be none


def test_half_precision_training_with_loss_scaling(tokenizer, tmp_path):
    """The term is scaled with the loss: the same direction as in float32."""
    expected = step_gradients(
        solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 1})
    )
    model = tiny_model("qwen3")
    trainer = solar_trainer(model, token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 1})
    batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, torch.device("cpu"))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    scale = 2.0**14
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = trainer.compute_loss(trainer.model, batches[0], num_items_in_batch=tokens)
    (loss * scale).backward()
    got = {name: p.grad / scale for name, p in model.named_parameters() if p.grad is not None}
    assert relative_error(got, expected) < 5e-2


def test_truncated_to_one_token_and_to_nothing(tokenizer, tmp_path):
    rows = token_rows(SPEC)
    rows[0]["input_ids"], rows[0]["labels"] = [5, 6, 7], [-100, -100, 7]
    rows.append({"input_ids": [5] * 30 + [9], "labels": [-100] * 30 + [9], "language": "sw", "parallel_id": 1})
    trainer = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config={"max_steps": 1, "max_length": 20})
    assert len(trainer.train_dataset) == len(rows) - 1  # TRL drops the row that lost its response
    gradients = step_gradients(trainer)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("value", [1, 64])
def test_tile_memory_changes_nothing(value, tokenizer, tmp_path):
    config = {"max_steps": 1, "logits_tile_mib": value}
    assert SolarSFTConfig(str(tmp_path), use_cpu=True, bf16=False, logits_tile_mib=value).logits_tile_mib == value
    rows = Dataset.from_list(token_rows(SPEC))
    got = step_gradients(solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config=config))
    expected = step_gradients(solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config={"max_steps": 1}))
    assert relative_error(got, expected) < 1e-6
