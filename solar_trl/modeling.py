"""The forward of a model with the fused soft-token head."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ._compat import (
    FusedCausalLMOutput,
    backbone,
    effective_embedding,
    head_maths,
    maybe_gather_lm_head_ctx,
    router_aux_loss,
)
from .kernels import HeadOptions, soft_token_head


@dataclass(frozen=True)
class Pooling:
    """
    Which sequences of a batch to summarise, and how. Travels through the wrappers around a model as one keyword
    argument, so that trainers of the same model do not share settings.

    Args:
        rows (`tuple[int, ...]`):
            Rows of the batch, ascending. Each needs at least one supervised position.
        width (`int`):
            Length of the caller's labels. Prompt-learning PEFT puts virtual tokens in front; the extra label position
            that gives them is scored but not pooled.
        statistics (`bool`, *optional*, defaults to `True`):
            Whether to compute the outputs of the SFT loss. `False` for a forward that only gives summaries; the router
            loss of a Mixture-of-Experts model is then left out too.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ of the soft tokens.
        top_k (`int`, *optional*):
            Number of tokens to mix. `None` mixes all.
        detach_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the mixed embeddings are constants.
    """

    rows: tuple[int, ...]
    width: int
    statistics: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    detach_embeddings: bool = False


@dataclass
class SoftTokenOutput(FusedCausalLMOutput):
    """
    Output of a model with a fused soft-token head: that of TRL's fused LM head, and the summaries.

    Args:
        summaries (`torch.Tensor` of shape `(R, d)`):
            Soft-token summary of each row in `Pooling.rows`, in that order, in at least float32.
    """

    summaries: torch.Tensor | None = None


def add_soft_token_head(model: PreTrainedModel) -> None:
    """
    Add a fused soft-token head to `model`: `model(..., labels=labels, soft_token_pooling=Pooling(...))` returns a
    [`SoftTokenOutput`]. Every other call is left to the forward that was there, so generation is unchanged.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model to patch (the base model, if it is wrapped by PEFT).
    """
    original_forward = model.forward

    # Keep the original signature: `generate` validates its model kwargs against it
    @functools.wraps(type(model).forward)
    def forward(self, *args, soft_token_pooling: Pooling | None = None, **kwargs):
        if soft_token_pooling is None:
            return original_forward(*args, **kwargs)
        return _soft_token_forward(self, soft_token_pooling, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


def _soft_token_forward(
    model: PreTrainedModel,
    pooling: Pooling,
    *args,
    labels: torch.Tensor,
    fused_lm_head: bool = True,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs,
) -> SoftTokenOutput:
    kwargs["use_cache"] = False
    wants_router = pooling.statistics and (
        kwargs.get("output_router_logits") or getattr(model.config.get_text_config(), "output_router_logits", False)
    )
    kwargs.pop("output_router_logits", None)
    if wants_router:
        kwargs["output_router_logits"] = True
    outputs = backbone(model)(*args, **kwargs)

    head = model.get_output_embeddings()
    weight, bias = head.weight, getattr(head, "bias", None)
    # A model split across devices (`device_map`) can end on another device than its head
    hidden, labels = outputs.last_hidden_state[:, :-1].to(weight.device), labels[:, 1:].to(weight.device)
    mask = labels != -100
    embedding = effective_embedding(model)
    if pooling.detach_embeddings:
        embedding = embedding.detach()

    # Tokens of each row among the scored ones; the only transfer to the host
    virtual = mask.size(1) - (pooling.width - 1)
    counts = torch.stack([mask.sum(1), mask[:, :virtual].sum(1)]).tolist()
    segments, start = [], 0
    pooled = set(pooling.rows)
    for row, (count, skipped) in enumerate(zip(*counts, strict=True)):
        if row in pooled:
            segments.append((start + skipped, start + count))
        start += count
    # The positions of `mask` without asking the device again how many there are
    positions = mask.flatten().nonzero_static(size=start).squeeze(1)
    log_probs, entropy, is_top1, mean_probs, summaries = soft_token_head(
        hidden.flatten(0, 1)[positions],
        weight,
        bias,
        embedding.weight.to(weight.device),
        labels.flatten()[positions],
        segments,
        HeadOptions(
            maths=head_maths(model.config),
            temperature=pooling.temperature,
            top_k=pooling.top_k,
            statistics=pooling.statistics,
            gather=maybe_gather_lm_head_ctx,
        ),
    )
    summaries = embedding.add_adapters(summaries, mean_probs)
    if not pooling.statistics:
        return SoftTokenOutput(label_mask=mask, summaries=summaries)

    # `masked_scatter` keeps the output connected to the model when no label is valid: such a micro-batch gives a
    # differentiable zero
    log_probs, entropy, is_top1 = (
        torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_scatter(mask, x)
        for x in (log_probs, entropy, is_top1)
        if x is not None
    )
    loss = -log_probs.sum() / (max(start, 1) if num_items_in_batch is None else num_items_in_batch)
    aux_loss = None
    if wants_router:
        aux_loss = router_aux_loss(model, outputs.router_logits, kwargs.get("attention_mask"))
        loss = loss + getattr(model.config.get_text_config(), "router_aux_loss_coef", 0.0) * aux_loss
    return SoftTokenOutput(
        loss=loss,
        log_probs=log_probs,
        entropy=entropy,
        is_top1=is_top1,
        label_mask=mask,
        aux_loss=aux_loss,
        summaries=summaries,
    )
