"""Bad input gets a clear error at construction: what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel

from ._compat import effective_embedding, sampling_strategy
from .config import SolarSFTConfig


def check_arguments(args: SolarSFTConfig, compute_loss_func: Callable | None) -> None:
    """
    Refuse arguments under which the alignment term would be lost or wrong.

    Raises:
        ValueError: Naming the argument and the way out.
    """
    if args.packing or args.eval_packing:
        name = "packing" if args.packing else "eval_packing"
        raise ValueError(
            f"`{name}=True` (`packing_strategy={args.packing_strategy!r}`) puts several rows into one sequence and "
            f"drops their ids, so parallels could not be paired. Set `{name}=False`, or `alignment_objective='none'`."
        )
    if args.padding_free:
        raise ValueError(
            "`padding_free=True` flattens a batch into one sequence, which `SolarSFTTrainer` does not support yet. "
            "Set `padding_free=False`, or `alignment_objective='none'`."
        )
    if args.label_smoothing_factor > 0:
        raise ValueError(
            f"`label_smoothing_factor` is {args.label_smoothing_factor}: TRL then runs the fused LM head without "
            "gradient, so the alignment term would have none. Set `label_smoothing_factor=0`."
        )
    if compute_loss_func is not None:
        raise ValueError(
            "`compute_loss_func` is set: TRL then runs the fused LM head without gradient, so the alignment term "
            "would have none. Subclass `SolarSFTTrainer` and override `compute_loss` instead."
        )
    if args.pivot_batching == "grouped":
        strategy = sampling_strategy(args)
        if strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy={strategy!r}` and `pivot_batching='grouped'` both set the order of the "
                "rows. Leave `train_sampling_strategy` at 'random', or set `pivot_batching='random'`."
            )
        for name in ("split_batches", "dispatch_batches"):
            if getattr(args.accelerator_config, name):
                raise ValueError(
                    f"`accelerator_config` sets `{name}=True`, which cuts batches across ranks and so groups of "
                    f"parallel rows apart (`pivot_batching='grouped'`). Set `{name}=False`, or "
                    "`pivot_batching='random'` with `dispatch_batches=False`."
                )
    elif args.accelerator_config.dispatch_batches:
        raise ValueError(
            "`accelerator_config` sets `dispatch_batches=True`, under which batches are put together from tensors "
            "alone and the pairing would be lost. Set `dispatch_batches=False`."
        )


def check_parallelism(args: SolarSFTConfig, accelerator: Accelerator) -> None:
    """
    Refuse ways to distribute the model that are not handled.

    Raises:
        ValueError: Naming the setting and the way out.
    """
    config = getattr(accelerator, "parallelism_config", None)
    for name in ("tp", "cp", "sp"):
        if config is not None and getattr(config, f"{name}_enabled", False):
            raise ValueError(
                f"`parallelism_config` sets `{name}_size={getattr(config, f'{name}_size')}`: tensor, context and "
                f"sequence parallelism are not supported with alignment. Set `{name}_size=1`, or "
                "`alignment_objective='none'`."
            )
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"):
        raise ValueError(
            f"The distributed type is {kind}, which `SolarSFTTrainer` does not support yet: ranks that miss pivots "
            "would run more forward passes than the others. Launch with DDP (`accelerate launch --multi_gpu`), or set "
            "`alignment_objective='none'`."
        )
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
    if not args.detach_pivot and args.gradient_checkpointing and reentrant and accelerator.num_processes > 1:
        raise ValueError(
            "`detach_pivot=False` runs a second forward pass with gradients, which DDP does not allow with reentrant "
            "gradient checkpointing (`gradient_checkpointing_kwargs={'use_reentrant': True}`). Set `use_reentrant` to "
            "`False`, `detach_pivot=True`, or `gradient_checkpointing=False`."
        )


def check_dataset(dataset: Any, name: str) -> None:
    """
    Refuse datasets whose rows cannot be paired.

    Raises:
        TypeError: If the dataset is streaming, or no dataset at all.
        ValueError: If it is a vision dataset.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"The {name} is an `IterableDataset`; pairs need random access to rows, so streaming is not supported "
            "yet. Load it with `streaming=False`, or set `alignment_objective='none'`."
        )
    if isinstance(dataset, dict):
        raise TypeError(
            f"The {name} is a `{type(dataset).__name__}` of {', '.join(map(repr, dataset))}; pass one of them, e.g. "
            f"`dataset[{next(iter(dataset), 'train')!r}]`."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(f"The {name} must be a `datasets.Dataset`, got `{type(dataset).__name__}`.")
    images = [column for column in ("image", "images") if column in dataset.column_names]
    if images:
        raise ValueError(
            f"The {name} has the column {images[0]!r}: vision datasets are not supported with alignment. Remove the "
            "column if the rows are text, or set `alignment_objective='none'`."
        )


def check_eval_pivots(pivots: Any, eval_dataset: Any) -> None:
    """
    Refuse evaluation pivots that belong to no evaluation set.

    Raises:
        ValueError: Naming the keys.
    """
    if not isinstance(pivots, dict):
        return
    names = list(eval_dataset) if isinstance(eval_dataset, dict) else ["eval"]
    unknown = [name for name in pivots if name not in names]
    if unknown:
        raise ValueError(
            f"`eval_pivot_dataset` has pivots for {', '.join(map(repr, unknown))}, but `eval_dataset` has the sets "
            f"{', '.join(map(repr, names))}. Use the same keys in both."
        )


def check_model(model: PreTrainedModel, args: SolarSFTConfig) -> None:
    """
    Refuse models whose head or embedding cannot give soft tokens.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The transformers model (inside the PEFT model, if there is one).
        args ([`SolarSFTConfig`]):
            Configuration.

    Raises:
        ValueError: Naming the module or the option and the way out.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no LM head, so no next-token distribution to build soft tokens from."
        )
    weight = head.weight
    if not weight.is_floating_point():
        raise ValueError(
            f"The LM head is stored as {weight.dtype}; the fused head needs floating-point weights. Leave it out of "
            "the quantization (`llm_int8_skip_modules=['lm_head']` in `BitsAndBytesConfig`)."
        )
    embedding = effective_embedding(model)  # raises for what it does not understand
    vocab_size = weight.size(0)
    if embedding.weight.size(0) != vocab_size:
        raise ValueError(
            f"The LM head scores {vocab_size} tokens but the input embedding has {embedding.weight.size(0)} rows, so "
            "probabilities have no embedding to weight. Resize both with `model.resize_token_embeddings`."
        )
    if args.soft_token_top_k is not None and args.soft_token_top_k > vocab_size:
        raise ValueError(
            f"`soft_token_top_k` is {args.soft_token_top_k}, more than the vocabulary of {vocab_size} tokens. Use a "
            "smaller number, or `None` for the whole vocabulary."
        )


def check_collator(collator: Callable, rows: list[dict[str, Any]]) -> None:
    """
    Refuse collators that do not keep one row per example, under which pairs would be lost.

    Raises:
        ValueError: Naming what is wrong with the batch.
    """
    batch = collator(rows)
    for key in ("input_ids", "labels"):
        value = batch.get(key)
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else None
        if shape is None or len(shape) != 2 or shape[0] != len(rows):
            got = f"a tensor of shape {shape}" if shape else f"`{type(value).__name__}`"
            raise ValueError(
                f"`data_collator` ({type(collator).__name__}) hides the pairing: for {len(rows)} examples it returns "
                f"{key!r} as {got}, expected a tensor of shape ({len(rows)}, length). Use a collator that pads one "
                "row per example in order, or leave `data_collator` unset."
            )
