"""Bad input gets a clear error at construction: what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from ._compat import decoder_blocks, effective_embedding, mixed_embedding, sampling_strategy, vocabulary_size
from ._logging import get_logger
from .config import SolarSFTConfig
from .data.example_iterables import is_split_by_node
from .data.streaming import CARRIED_PIVOT_COLUMN
from .data.tables import column_names
from .objectives import Objective, layer_indices


def check_arguments(args: SolarSFTConfig, compute_loss_func: Callable | None, streaming: bool = False) -> None:
    """
    Refuse arguments under which the alignment term would be lost or wrong.

    Raises:
        ValueError: Naming the argument and the way out.
    """
    if args.packing or args.eval_packing:
        name = "packing" if args.packing else "eval_packing"
        if args.packing_strategy != "bfd":
            raise ValueError(
                f"`{name}=True` with `packing_strategy={args.packing_strategy!r}` cuts rows in pieces, which are no "
                "parallels of each other. Set `packing_strategy='bfd'`, which keeps rows whole and here also keeps "
                f"the translations of an item together, or `{name}=False`."
            )
        if args.max_length is None:
            raise ValueError(f"`{name}=True` needs a `max_length`: the tokens of a packed sequence. It is `None`.")
    if args.packing and streaming:
        raise ValueError(
            "`packing=True` brings the translations of an item together, for which it must see all rows, and the "
            "train dataset is an `IterableDataset`. Set `packing=False` (`padding_free=True` with "
            "`max_length=None` spares the padding as well), or load it with `streaming=False`."
        )
    objective = args.objective
    if objective is not None and objective.keeps_start and streaming:
        setting = "anchor_weight" if objective.anchor_weight else "pivot_gradient"
        raise ValueError(
            f"`{setting}={getattr(objective, setting)!r}` needs the summaries of all pivots before training starts, "
            "and the rows of an `IterableDataset` bring theirs along. Load the train dataset with `streaming=False`, "
            "or choose another `pivot_gradient` and `anchor_weight=0` in `alignment_kwargs`."
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


def check_parallelism(args: SolarSFTConfig, accelerator: Accelerator, draws: bool = False) -> None:
    """
    Refuse ways to distribute the model that are not handled.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration.
        accelerator ([`~accelerate.Accelerator`]):
            Of the trainer.
        draws (`bool`, *optional*, defaults to `False`):
            Whether pairs come from an alignment dataset.

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
    if kind in ("MEGATRON_LM", "XLA"):
        raise ValueError(
            f"The distributed type is {kind}, which `SolarSFTTrainer` does not support. Launch with DDP, FSDP2 or "
            "DeepSpeed, or set `alignment_objective='none'`."
        )
    if kind == "FSDP" and not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP1 flattens the weights that the fused head reads, which `SolarSFTTrainer` does not support. Use "
            "FSDP2 (`fsdp_version: 2` in the accelerate config or in `fsdp_config`), or set "
            "`alignment_objective='none'`."
        )
    objective = args.objective
    if objective is not None:
        _check_sharding(objective, kind)
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
    moves = objective is not None and (objective.pivot_gradient == "both" or draws)
    if moves and args.gradient_checkpointing and reentrant and accelerator.num_processes > 1:
        raise ValueError(
            f"A pivot that moves (`detach_pivot={args.detach_pivot}`, `alignment_objective="
            f"{args.alignment_objective!r}`) or an `alignment_dataset` takes a second forward pass with gradients, "
            "which DDP does not allow with reentrant gradient checkpointing (`gradient_checkpointing_kwargs="
            "{'use_reentrant': True}`). Set `use_reentrant` to `False`, keep the pivot constant (`detach_pivot=True` "
            "and `alignment_kwargs={'pivot_gradient': 'detached'}`), or set `gradient_checkpointing=False`."
        )


def _check_sharding(objective: Objective, kind: str) -> None:
    one_by_one = objective.representation == "soft_token" and objective.pooling not in ("mean", "last")
    if one_by_one and is_deepspeed_zero3_enabled():
        raise ValueError(
            f"`pooling={objective.pooling!r}` of soft tokens computes them one by one and again in the backward, when "
            "ZeRO-3 has taken the weights apart. Use ZeRO-2 or FSDP2, or `pooling='mean'`."
        )
    if kind in ("FSDP", "DEEPSPEED") and objective.pivot_gradient == "momentum":
        raise ValueError(
            f"`pivot_gradient='momentum'` keeps an average of all trainable weights on each rank, and {kind} shards "
            "them. Train with DDP (with LoRA the average is small), or set `pivot_gradient` to 'detached' or "
            "'anchored' in `alignment_kwargs`."
        )


def check_dataset(dataset: Any, name: str, streaming: bool = False) -> None:
    """
    Refuse datasets whose rows cannot be paired.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The dataset.
        name (`str`):
            What to call it in messages.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether it may be a stream whose rows carry their pivots.

    Raises:
        TypeError: If the dataset is a stream that may not be one or does not carry pivots, or no dataset at all.
        ValueError: If it is a vision dataset, or a stream that was split over ranks.
    """
    if isinstance(dataset, dict):
        raise TypeError(
            f"The {name} is a `{type(dataset).__name__}` of {', '.join(map(repr, dataset))}; pass one of them, e.g. "
            f"`dataset[{next(iter(dataset), 'train')!r}]`."
        )
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(f"The {name} must be a `datasets.Dataset`, got `{type(dataset).__name__}`.")
    if isinstance(dataset, IterableDataset) and not streaming:
        raise TypeError(
            f"The {name} is an `IterableDataset`; pivots are looked up by id, so they cannot be streamed. Load it "
            "with `streaming=False`."
        )
    names = column_names(dataset)
    if isinstance(dataset, IterableDataset) and CARRIED_PIVOT_COLUMN not in names:
        raise TypeError(
            f"The {name} is an `IterableDataset` without a column {CARRIED_PIVOT_COLUMN!r}: in a stream there is no "
            "looking up, each row must carry its pivot. Pass it through `solar_trl.data.carry_pivots`, load it with "
            "`streaming=False`, or set `alignment_objective='none'`."
        )
    if isinstance(dataset, IterableDataset) and is_split_by_node(dataset):
        raise ValueError(
            f"The {name} was split with `split_dataset_by_node`. Each rank is given its part of a stream by the "
            "trainer, so that it would be split twice, and rows would be lost. Pass the whole stream."
        )
    images = [column for column in ("image", "images") if column in names]
    if images:
        raise ValueError(
            f"The {name} has the column {images[0]!r}: vision datasets are not supported with alignment. Remove the "
            "column if the rows are text, or set `alignment_objective='none'`."
        )


def check_format(
    dataset: Dataset | IterableDataset, name: str, args: SolarSFTConfig, formatting_func: Callable | None = None
) -> None:
    """
    Refuse datasets in whose columns TRL finds no text, before it looks for one row by row.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The dataset.
        name (`str`):
            What to call it in messages.
        args ([`SolarSFTConfig`]):
            Configuration.
        formatting_func (callable, *optional*):
            What makes texts of rows, if that is left to the user.

    Raises:
        ValueError: If there are neither prompts and completions nor messages, texts or tokens.
    """
    names = column_names(dataset)
    skips = (args.dataset_kwargs or {}).get("skip_prepare_dataset", False)
    known = {"messages", "conversations", args.dataset_text_field}
    if skips or formatting_func is not None or not names or "input_ids" in names:
        return
    if "prompt" in names and "completion" not in names:
        found = "has 'prompt' but no 'completion'"
    elif "prompt" not in names and not known & set(names):
        found = "has no column that TRL trains on"
    else:
        return
    raise ValueError(
        f"The {name} {found}: it takes 'prompt' and 'completion', 'messages', {args.dataset_text_field!r} "
        f"(`dataset_text_field`) or 'input_ids'. Its columns are {', '.join(map(repr, names))}. Rename yours, e.g. "
        "`dataset.rename_columns({'question': 'prompt', 'response': 'completion'})` (on the command line "
        "`--prompt_column question --completion_column response`), or pass a `formatting_func`."
    )


def check_alignment_dataset(args: SolarSFTConfig, train_dataset: Any, pivot_dataset: Any) -> None:
    """
    Refuse settings that do not go with pairs from a dataset of their own.

    Raises:
        ValueError: Naming the setting and the way out.
    """
    if pivot_dataset is not None:
        raise ValueError(
            "`pivot_dataset` and `alignment_dataset` are both given: the pivots of an alignment dataset are among its "
            "own rows. Put them there (`datasets.concatenate_datasets`)."
        )
    if isinstance(train_dataset, IterableDataset):
        raise ValueError(
            "`alignment_dataset` is given and the train dataset is an `IterableDataset`: rows draw their pairs by "
            "their number, which rows of a stream do not have. Load it with `streaming=False`."
        )
    if args.packing:
        raise ValueError(
            "`alignment_dataset` is given and `packing=True`: packed rows do not keep the numbers by which rows draw "
            "their pairs. Set `packing=False` (`padding_free=True` with `max_length=None` spares the padding as well)."
        )
    if args.objective is not None and args.objective.step_delimiters:
        raise ValueError(
            "`alignment_dataset` is given and responses are cut into steps (`step_delimiters`): sentences that are "
            "aligned on their own have none. Leave `step_delimiters` unset."
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
    vocab_size, rows = vocabulary_size(weight), vocabulary_size(embedding.weight)
    if rows != vocab_size:
        raise ValueError(
            f"The LM head scores {vocab_size} tokens but the input embedding has {rows} rows, so "
            "probabilities have no embedding to weight. Resize both with `model.resize_token_embeddings`."
        )
    objective = args.objective
    only_embeddings = objective is not None and (
        objective.representation == "hard_token"
        or (objective.representation == "hidden_state" and not any(objective_layers(objective, model)))
    )
    if only_embeddings and not embeddings_move(model, args):
        raise ValueError(
            "The alignment objective compares the embeddings of given tokens, which only the embeddings can change, "
            "and they are not trained here. Train them (full fine-tuning, or LoRA with 'embed_tokens' among its "
            "`target_modules`) with `detach_embeddings=False`, or use `alignment_objective='solar'`."
        )
    if args.soft_token_top_k is not None and args.soft_token_top_k > vocab_size:
        raise ValueError(
            f"`soft_token_top_k` is {args.soft_token_top_k}, more than the vocabulary of {vocab_size} tokens. Use a "
            "smaller number, or `None` for the whole vocabulary."
        )


def check_precision(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Warn of a model on which accelerate will not put mixed precision, since another trainer had it before."""
    prepared = accelerator.mixed_precision != "no" and getattr(model, "_is_accelerate_prepared", False)
    if prepared and any(parameter.dtype == torch.float32 for parameter in model.parameters()):
        get_logger().warning(
            "The model was trained by another trainer before, so accelerate does not put mixed precision "
            f"({accelerator.mixed_precision}) on it again: its float32 weights will compute in float32, slower and in "
            "more memory. Save the model and load it anew, or load it in bfloat16."
        )


def embeddings_move(model: PreTrainedModel, args: SolarSFTConfig) -> bool:
    """Whether the alignment term can change the embeddings that it compares or mixes."""
    which = "input" if args.objective is None else args.objective.embeddings
    return mixed_embedding(model, which).is_trainable and not args.detach_embeddings


def objective_layers(objective: Objective, model: PreTrainedModel) -> tuple[int, ...]:
    """
    Indices into the hidden states that an objective compares, none if it compares something else.

    Raises:
        ValueError: If the model does not have a layer.
    """
    if objective.representation != "hidden_state":
        return ()
    return layer_indices(objective.layers, len(decoder_blocks(model)))


def step_tokens(objective: Objective, tokenizer: Any) -> frozenset[int]:
    """
    Tokens whose text holds what ends a step of a response, none if the objective does not compare steps.

    Raises:
        ValueError: If no token has a delimiter.
    """
    if not objective.step_delimiters:
        return frozenset()
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    missing = [part for part in objective.step_delimiters if not any(part in text for text in texts)]
    if missing:
        raise ValueError(
            f"`step_delimiters` of the alignment objective has {missing[0]!r}, which is in no single token of the "
            "tokenizer. Give characters that end a line or a sentence, such as '\n'."
        )
    return frozenset(
        token for token, text in enumerate(texts) if any(part in text for part in objective.step_delimiters)
    )


def check_collator(collator: Callable, rows: list[dict[str, Any]]) -> None:
    """
    Refuse collators that do not keep one row per example, under which pairs would be lost.

    Raises:
        ValueError: Naming what is wrong with the batch.
    """
    batch = collator(rows)
    flattens = getattr(collator, "padding_free", False)
    expected = f"({'1' if flattens else len(rows)}, length)"
    for key in ("input_ids", "labels"):
        value = batch.get(key)
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else None
        if shape is None or len(shape) != 2 or shape[0] != (1 if flattens else len(rows)):
            got = f"a tensor of shape {shape}" if shape else f"`{type(value).__name__}`"
            raise ValueError(
                f"`data_collator` ({type(collator).__name__}) hides the pairing: for {len(rows)} examples it returns "
                f"{key!r} as {got}, expected a tensor of shape {expected}. Use a collator that pads one row per "
                "example in order, or leave `data_collator` unset."
            )


# How rows say what their responses are
_MARK_RESPONSES = (
    "use the prompt-completion format without `completion_only_loss=False`, conversations with "
    "`assistant_only_loss=True`, or tokenized rows with -100 in `labels` (or a `completion_mask` and "
    "`completion_only_loss=True`)"
)


def check_prompts(
    objective: Objective,
    rows: Dataset | list[dict[str, Any]],
    pivots: Dataset | None = None,
    aligned: Dataset | None = None,
) -> None:
    """
    Look at whether the rows say what their prompts are.

    Args:
        objective ([`Objective`]):
            Whose positions are pooled.
        rows ([`~datasets.Dataset`] or list of `dict`):
            Prepared training rows.
        pivots ([`~datasets.Dataset`], *optional*):
            Prepared pivots from a dataset of their own.
        aligned ([`~datasets.Dataset`], *optional*):
            Prepared rows of the alignment dataset, which are pooled in place of the training rows.

    Raises:
        ValueError: If the prompt is to be pooled and nothing says what it is.
    """
    masks = _masks_prompts(rows if aligned is None else aligned)
    if pivots is not None and _masks_prompts(pivots) != masks:
        get_logger().warning(
            "Prompts are left out of the loss in only one of the train dataset and its pivot dataset, so summaries "
            "pool the prompt on one side only. Give both the same format."
        )
    if not masks and objective.positions == "prompt":
        raise ValueError(
            "The alignment objective pools the prompt, but no token of the rows to align is left out of the loss, so "
            f"nothing says what the prompt is. To say it, {_MARK_RESPONSES}; or set "
            "`alignment_kwargs={'positions': 'all'}`."
        )
    if not masks and aligned is None and objective.positions == "response":
        get_logger().warning(
            "No token of the training rows is left out of the loss, so summaries pool the prompt as well as the "
            f"response. To align the responses alone, {_MARK_RESPONSES}."
        )


def _masks_prompts(rows: Dataset | list[dict[str, Any]]) -> bool:
    """Whether any token is left out of the loss, in the first rows."""
    if isinstance(rows, Dataset):
        if "labels" not in rows.column_names:
            return False
        rows = list(rows.select(range(min(len(rows), 1000))).select_columns("labels"))
    return any(-100 in row["labels"] for row in rows if row.get("labels") is not None)
