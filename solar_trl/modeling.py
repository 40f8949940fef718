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
    whole_tensor,
)
from .kernels import TILE_BYTES, HeadOptions, soft_token_head
from .sequence_tokens import SequenceTokens


@dataclass(frozen=True)
class Pooling:
    """
    Which sequences of a batch to summarise, and how. Travels through the wrappers around a model as one keyword
    argument, so that trainers of the same model do not share settings.

    Args:
        tokens ([`SequenceTokens`]):
            Supervised tokens of the sequences of the batch.
        rows (`tuple[int, ...]`):
            Sequences to summarise, ascending. Each needs at least one supervised position.
        statistics (`bool`, *optional*, defaults to `True`):
            Whether to compute the outputs of the SFT loss. `False` for a forward that only gives summaries; the router
            loss of a Mixture-of-Experts model is then left out too.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ of the soft tokens.
        top_k (`int`, *optional*):
            Number of tokens to mix. `None` mixes all.
        detach_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the mixed embeddings are constants.
        tile_bytes (`int`, *optional*, defaults to `TILE_BYTES`):
            Memory for tiles of logits.
    """

    tokens: SequenceTokens
    rows: tuple[int, ...]
    statistics: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    detach_embeddings: bool = False
    tile_bytes: int = TILE_BYTES

    def segments(self, n_virtual: int) -> tuple[list[tuple[int, int]], int]:
        """
        Ranges of the pooled sequences among the scored tokens, and the number of scored tokens.

        Args:
            n_virtual (`int`):
                Label positions that prompt-learning PEFT has put in front. The one that predicts the first token is
                scored but not pooled.
        """
        pooled, segments, start = set(self.rows), [], 0
        for row, (count, first) in enumerate(zip(self.tokens.counts, self.tokens.first, strict=True)):
            start += first if n_virtual else 0
            if row in pooled:
                segments.append((start, start + count))
            start += count
        return segments, start


@dataclass
class SoftTokenOutput(FusedCausalLMOutput):
    """
    Output of a model with a fused soft-token head: that of TRL's fused LM head, and the summaries.

    Args:
        summaries (`torch.Tensor` of shape `(R, d)`):
            Soft-token summary of each sequence in `Pooling.rows`, in that order, in at least float32.
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

    head, embedding = model.get_output_embeddings(), effective_embedding(model)
    whole = functools.cache(whole_tensor)  # tied weights stay one tensor
    weight, bias = whole(head.weight), None if getattr(head, "bias", None) is None else whole(head.bias)
    # A model split across devices (`device_map`) can end on another device than its head, and start on a third
    embedding = embedding.map(lambda tensor: whole(tensor).to(weight.device))
    if pooling.detach_embeddings:
        embedding = embedding.map(torch.Tensor.detach)
    hidden, labels = outputs.last_hidden_state[:, :-1].to(weight.device), labels[:, 1:].to(weight.device)
    mask = labels != -100

    segments, n_tokens = pooling.segments(n_virtual=mask.size(1) - (pooling.tokens.width - 1))
    # Known to the host, so that nothing waits for the device; where it is wrong, other tokens would be pooled
    torch._assert_async(mask.sum() == n_tokens, "the labels changed after the batch was put together")
    positions = mask.flatten().nonzero_static(size=n_tokens).squeeze(1)
    options = HeadOptions(
        maths=head_maths(model.config),
        temperature=pooling.temperature,
        top_k=pooling.top_k,
        statistics=pooling.statistics,
        gather=maybe_gather_lm_head_ctx,
        tile_bytes=pooling.tile_bytes,
    )
    with options.whole(weight, bias, *embedding.tensors):
        log_probs, entropy, is_top1, mean_probs, summaries = soft_token_head(
            hidden.flatten(0, 1)[positions],
            weight,
            bias,
            embedding.weight,
            labels.flatten()[positions],
            segments,
            options,
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
    loss = -log_probs.sum() / (max(n_tokens, 1) if num_items_in_batch is None else num_items_in_batch)
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
