"""
Everything that leans on private or fast-moving names of TRL, transformers and PEFT.

Read in TRL 1.16.0, transformers 5.23.0, accelerate 1.15.0 and PEFT 0.21.2. A name that is gone is an `ImportError`
with the supported range, and a test compares what is read here with what TRL itself derives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import nn
from torch.distributed.tensor import DTensor, Partial
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments
from trl import SFTTrainer

from ._versions import moved
from .kernels import EffectiveEmbedding, HeadMaths


try:
    from trl.trainer.utils import FusedCausalLMOutput, maybe_gather_lm_head_ctx
except ImportError as error:
    raise moved("trl.trainer.utils.FusedCausalLMOutput", "trl") from error

# Methods that `SolarSFTTrainer` overrides or calls though TRL and transformers do not promise them. One that is not
# there would never be called, and what it does silently lost.
_HOOKS = {
    "trl": ("_prepare_dataset", "_set_signature_columns_if_needed", "compute_loss"),
    "transformers": (
        "_get_train_sampler",
        "_load_from_checkpoint",
        "_remove_unused_columns",
        "_save_optimizer_and_scheduler",
        "get_batch_samples",
        "get_eval_dataloader",
        "get_train_dataloader",
    ),
}


def require_hooks(trainer: type = SFTTrainer) -> None:
    """
    Check that a trainer class has what `SolarSFTTrainer` hooks into.

    Raises:
        ImportError: Naming the method, the installed version and the supported range.
    """
    for package, names in _HOOKS.items():
        for name in names:
            if not hasattr(trainer, name):
                raise moved(f"SFTTrainer.{name}", package)


require_hooks()


__all__ = [
    "FusedCausalLMOutput",
    "backbone",
    "base_model",
    "capture_hidden_states",
    "decoder_blocks",
    "effective_embedding",
    "head_maths",
    "loss_is_divided_by_accumulation",
    "maybe_gather_lm_head_ctx",
    "mixed_embedding",
    "require_hooks",
    "router_aux_loss",
    "sampling_strategy",
    "undispatched",
    "vocabulary_size",
    "whole_tensor",
]


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """
    A parameter as every rank can multiply with it: FSDP2's shards are gathered, anything else is returned as it is.

    FSDP averages gradients over ranks. Where a unit is read outside of its own forward, as the input embedding is in
    the head, that average is ours to ask for: a plain `full_tensor()` would keep each rank's own part, silently wrong.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model that ends in the last hidden states."""
    # Looked up on each call, since FSDP and PEFT replace modules. Vision-language models of transformers 4 keep their
    # language backbone in `model`.
    is_composite = model.config.get_text_config() is not model.config
    if is_composite and Version(transformers.__version__) < Version("5.0.0"):
        return model.model
    return model.base_model


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """
    The blocks of a causal language model, in order: `hidden_states[i]` is what block `i` is called with.

    Raises:
        ValueError: If no list of modules has as many entries as the configuration has layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = (module for module in backbone(model).modules() if isinstance(module, nn.ModuleList))
    # The outermost one, at which the search stops: it is made in every forward that captures states
    found = next((blocks for blocks in lists if len(blocks) == count and not isinstance(blocks[0], nn.Linear)), None)
    if found is None:
        raise ValueError(
            f"The {count} blocks of {type(model).__name__} were not found, so its hidden states cannot be aligned. "
            "Use an objective on soft tokens, such as `alignment_objective='solar'`."
        )
    return found


@contextmanager
def capture_hidden_states(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[list[torch.Tensor | None]]:
    """
    Keep hidden states of the forward passes that are made in this context, and of them alone.

    What a block is called with is taken as it is, without an operation: it is part of the graph whether or not the
    block is checkpointed (reentrant or not), and the recomputation in the backward is not seen.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model.
        layers (sequence of `int`):
            Indices into `hidden_states`, from 0.

    Yields:
        `list[torch.Tensor | None]`: The states `(B, T, d)` in the order of `layers`; `None` for the last one, which
        the backbone returns.
    """
    states: list[torch.Tensor | None] = [None] * len(layers)
    blocks = decoder_blocks(model) if layers else []

    def keep(place):
        def hook(module, args, kwargs):
            states[place] = args[0] if args else kwargs["hidden_states"]

        return hook

    handles = [
        blocks[layer].register_forward_pre_hook(keep(place), with_kwargs=True)
        for place, layer in enumerate(layers)
        if layer < len(blocks)
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def head_maths(config: PretrainedConfig) -> HeadMaths:
    """Logit scale and soft cap of a model, from its configuration (as TRL's fused LM head reads them)."""
    config = config.get_text_config()
    scale = next(
        (
            value
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")  # Cohere, Muse Glimmer, Falcon-H1
            if (value := getattr(config, name, None)) is not None
        ),
        None,
    )
    if scale is None and (divisor := getattr(config, "logits_scaling", None)) is not None:
        # Granite and MiniCPM3 divide by it, HyperCLOVA X multiplies
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return HeadMaths(scale=1.0 if scale is None else scale, softcap=getattr(config, "final_logit_softcapping", None))


def router_aux_loss(model: PreTrainedModel, router_logits, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Load-balancing loss of a Mixture-of-Experts model, the same for every family in transformers."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    # Up to 5.5, GPT-OSS names its experts on the model only; before 5.0, every family does
    version, config = Version(transformers.__version__), model.config.get_text_config()
    on_model = version < Version("5.0.0") or (config.model_type == "gpt_oss" and version < Version("5.6.0"))
    num_experts = model.num_experts if on_model else config.num_experts
    top_k = model.num_experts_per_tok if version < Version("5.0.0") else config.num_experts_per_tok
    return load_balancing_loss_func(router_logits, num_experts, top_k, attention_mask)


def vocabulary_size(weight: torch.Tensor) -> int:
    """Rows of an embedding or a head; partitioned by DeepSpeed ZeRO-3, a weight looks empty."""
    return getattr(weight, "ds_shape", weight.shape)[0]


def effective_embedding(model: PreTrainedModel) -> EffectiveEmbedding:
    """
    The input embedding matrix that the lookup really uses, with whatever PEFT put on it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The transformers model (inside the PEFT model, if there is one).

    Returns:
        [`EffectiveEmbedding`]: Base matrix, low-rank adapters and replaced rows, all connected to their parameters.

    Raises:
        ValueError: For an embedding that is stored in integers, or adapted in a way that is not understood (DoRA, an
            adapter type other than LoRA, `modules_to_save` and `trainable_token_indices`).
    """
    module = model.get_input_embeddings()
    low_rank, replaced = [], []
    # `modules_to_save`: the copy that is trained, unless adapters are off
    if hasattr(module, "modules_to_save"):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        module = module.original_module if module.disable_adapters or not active else module.modules_to_save[active[0]]
    # `trainable_token_indices`: a wrapper around a layer that holds the trained rows
    module = getattr(module, "token_adapter", module)
    if hasattr(module, "trainable_tokens_delta"):
        if not module.disable_adapters and not module.merged:
            for name in module.active_adapters:
                if name in module.trainable_tokens_delta:
                    rows = module.trainable_tokens_delta[name]
                    indices = torch.as_tensor(module.token_indices[name], device=rows.device)
                    replaced.append((indices, rows))
        module = module.base_layer
    elif hasattr(module, "lora_embedding_A"):
        if not module.disable_adapters and not module.merged:
            for name in module.active_adapters:
                if name in module.lora_embedding_A:
                    if module.use_dora.get(name):
                        raise ValueError(
                            f"The adapter {name!r} uses DoRA on the input embedding, whose soft tokens are not "
                            "supported. Set `use_dora=False`, or take the embedding out of `target_modules`."
                        )
                    low_rank.append(
                        (module.lora_embedding_A[name], module.lora_embedding_B[name], module.scaling[name])
                    )
        module = module.base_layer
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or hasattr(module, "base_layer"):
        raise ValueError(
            f"The input embedding is a `{type(module).__name__}`, whose soft tokens are not supported. Adapt it with "
            "LoRA, `modules_to_save` or `trainable_token_indices`, or take it out of `target_modules`."
        )
    if not weight.is_floating_point():
        raise ValueError(
            f"The input embedding is stored as {weight.dtype}; soft tokens need floating-point embeddings. Leave "
            "embeddings out of the quantization (`llm_int8_skip_modules`)."
        )
    return EffectiveEmbedding(weight=weight, low_rank=low_rank, replaced=replaced)


def mixed_embedding(model: PreTrainedModel, which: str) -> EffectiveEmbedding:
    """The matrix that soft tokens are mixed from: the `"input"` embedding, or the `"output"` one, the LM head's."""
    if which == "output":
        return EffectiveEmbedding(weight=model.get_output_embeddings().weight, low_rank=[], replaced=[])
    return effective_embedding(model)


def sampling_strategy(args: TrainingArguments) -> str:
    """How the Trainer orders training rows: `"random"` unless asked otherwise."""
    if getattr(args, "group_by_length", False):  # transformers 4
        return "group_by_length"
    return getattr(args, "train_sampling_strategy", "random")


def loss_is_divided_by_accumulation(trainer: Trainer, num_items_in_batch: torch.Tensor | int | None) -> bool:
    """Whether `Trainer.training_step` divides the loss by the accumulation steps: it does without a token count."""
    return not (trainer.model_accepts_loss_kwargs and num_items_in_batch is not None)


@contextmanager
def undispatched(config: Any) -> Iterator[None]:
    """
    Have each rank make its own batches while the accelerator is set up: by default those of streams are made on one
    rank and cut into tensors for the others, which would lose the pairing. The user's arguments stay as they were.

    Args:
        config (`AcceleratorConfig`):
            The `accelerator_config` of the arguments.
    """
    if not hasattr(config, "dispatch_batches"):
        yield
        return
    dispatch = config.dispatch_batches
    try:
        config.dispatch_batches = False
        yield
    finally:
        config.dispatch_batches = dispatch
