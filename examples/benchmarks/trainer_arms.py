"""The trainers to compare, and one optimizer step of each, as `Trainer.train` takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.objectives import soft_token_summary

from .settings import Setting, tokenizer


REFERENCE = "sft"
ARMS = ("sft", "solar", "naive", "mid_align")
DESCRIPTIONS = {
    "sft": "SFTTrainer",
    "solar": "SolarSFTTrainer, every pivot in its batch",
    "naive": "SFT and soft tokens from full logits, softmax and matmul, in plain torch",
    "mid_align": "SolarSFTTrainer, middle-layer alignment, every pivot in its batch",
}


class _InOrder:
    """All arms see the rows as they stand, whole items of them."""

    train_dataset: Any

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class SFTArm(_InOrder, SFTTrainer):
    """`SFTTrainer` as it is."""


class SolarArm(_InOrder, SolarSFTTrainer):
    """`SolarSFTTrainer` as it is."""


class NaiveArm(_InOrder, SFTTrainer):
    """
    SOLAR as one would write it down: all logits, their softmax times the embeddings, the mean over the response.

    The cheapest version of it: one forward, no entropy, no accuracy, and pivots that are known to come first.
    """

    setting: Setting

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        setting, labels = self.setting, inputs.pop("labels")[:, 1:]
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum") / num_items_in_batch
        embeddings = self.model.get_input_embeddings().weight
        summaries = soft_token_summary(logits, embeddings, labels != -100, setting.temperature, setting.top_k)
        items = summaries.unflatten(0, (-1, setting.languages))
        return loss + (1 - F.cosine_similarity(items[:, 1:], items[:, :1].detach(), dim=-1)).mean()


def parse_arm(name: str) -> tuple[str, int | None]:
    """Kind of an arm and its micro-batch size: `"solar@2"` accumulates batches of 2 rows, `"solar"` takes all rows."""
    kind, _, micro = name.partition("@")
    if kind not in ARMS or (micro and (not micro.isdecimal() or int(micro) < 1)):
        raise ValueError(f"The arm {name!r} is not known: expected one of {', '.join(ARMS)}, or e.g. 'solar@2'.")
    return kind, int(micro) if micro else None


def unavailable(name: str, setting: Setting) -> str | None:
    """Why an arm cannot run in a setting, or `None`."""
    kind, micro = parse_arm(name)
    if kind == "naive" and micro is not None:
        return "its pivots must be in the batch"
    if micro is not None and setting.batch_size % micro:
        return f"{setting.batch_size} rows are no multiple of {micro}"
    return None


def build(setting: Setting, names: list[str], n_steps: int, output_dir: str) -> dict[str, Callable[[], None]]:
    """
    Make the arms on one shared model and optimizer, so that memory holds one of each however many arms there are.

    Args:
        setting ([`Setting`]):
            What to run.
        names (`list[str]`):
            Arms, see [`parse_arm`].
        n_steps (`int`):
            How often each will be called.
        output_dir (`str`):
            A folder, which stays empty.

    Returns:
        `dict[str, Callable]`: For each arm, what takes its next optimizer step.
    """
    trainers = make_trainers(setting, names, n_steps, output_dir)
    _start_training(list(trainers.values()))
    batches = {name: iter(trainer.get_train_dataloader()) for name, trainer in trainers.items()}

    def step_of(name: str) -> Callable[[], None]:
        return lambda: _optimizer_step(trainers[name], batches[name])

    return {name: step_of(name) for name in names}


def make_trainers(setting: Setting, names: list[str], n_steps: int, output_dir: str) -> dict[str, SFTTrainer]:
    """The trainers of the arms, on one model; the arguments are those of [`build`]."""
    model, rows = setting.model(), setting.rows(n_steps)
    # `SolarSFTTrainer` puts its forward around the one that is there, so it comes after the others
    order = sorted(names, key=lambda name: parse_arm(name)[0] in ("solar", "mid_align"))
    return {name: _trainer(name, setting, model, rows, output_dir) for name in order}


def _trainer(name: str, setting: Setting, model, rows, output_dir: str) -> SFTTrainer:
    kind, micro = parse_arm(name)
    micro = setting.batch_size if micro is None else micro
    arguments: dict[str, Any] = {
        "output_dir": output_dir,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": setting.batch_size // micro,
        "gradient_checkpointing": setting.gradient_checkpointing,
        "bf16": setting.dtype != "float32",
        "use_cpu": setting.device == "cpu",
        "optim": setting.optim,
        "max_length": None,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    common = {"model": model, "train_dataset": rows, "processing_class": tokenizer()}
    if kind in ("sft", "naive"):
        trainer = (NaiveArm if kind == "naive" else SFTArm)(args=SFTConfig(**arguments), **common)
        trainer.setting = setting
        return trainer
    config = SolarSFTConfig(
        **arguments,
        alignment_objective=kind,
        alignment_weight=1.0,  # that of the naive arm, and of the figures in docs/cost.md; it changes no cost
        # Rows without a prompt (`--prompt-share 0`) have other positions only
        alignment_kwargs={"positions": "all"} if kind == "mid_align" else None,
        soft_token_temperature=setting.temperature,
        soft_token_top_k=setting.top_k,
        logits_tile_mib=setting.tile_mib,
    )
    return SolarArm(args=config, **common)


def _start_training(trainers: list[SFTTrainer]) -> None:
    """What `Trainer.train` does before its first step, once for all trainers of one model."""
    first = trainers[-1]
    if first.args.gradient_checkpointing:
        model = first.model
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    first.create_optimizer()
    model, optimizer = first.accelerator.prepare(first.model, first.optimizer)
    for trainer in trainers:
        trainer.model_wrapped, trainer.optimizer, trainer.is_in_train = model, optimizer, True


def _optimizer_step(trainer: SFTTrainer, batches: Iterator) -> None:
    """
    One optimizer step as the training loop of transformers 5.23 takes it, less logs, callbacks and learning rates.

    The loop itself is not used, since it would not let trainers take turns; all that leans on its inside is here.
    """
    model, state = trainer.model_wrapped, trainer.accelerator.gradient_state
    samples, num_items = trainer.get_batch_samples(
        batches, trainer.args.gradient_accumulation_steps, trainer.args.device
    )
    trainer.current_gradient_accumulation_steps = len(samples)
    loss = torch.zeros((), device=trainer.args.device)
    for number, inputs in enumerate(samples, 1):
        state._set_sync_gradients(number == len(samples))
        loss += trainer.training_step(model, inputs, num_items)
    trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    model.zero_grad()
    trainer.state.global_step += 1
    if not torch.isfinite(loss):  # as the loop looks at it
        raise FloatingPointError(f"The loss is {loss.item()}.")
