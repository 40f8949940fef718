"""The forward of a model with the fused soft-token head."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ._compat import (
    FusedCausalLMOutput,
    backbone,
    capture_hidden_states,
    head_maths,
    maybe_gather_lm_head_ctx,
    mixed_embedding,
    router_aux_loss,
    whole_tensor,
)
from .kernels import HeadOptions, soft_token_head
from .pooling import Pooling, select_ranges, to_device
from .representations import next_tokens, summarize


@dataclass
class SoftTokenOutput(FusedCausalLMOutput):
    """
    Output of a model with a fused soft-token head: that of TRL's fused LM head, and the summaries.

    Args:
        summaries (`torch.Tensor` of shape `(R, d)`):
            Summary of each sequence in `Pooling.rows`, in that order, in at least float32. Of hidden states of several
            layers `(R, L, d)`; unpooled tokens `(R, K, d)`.
        summary_mask (`torch.Tensor` of shape `(R, K)` and dtype bool, *optional*):
            Which of the unpooled tokens are there.
    """

    summaries: torch.Tensor | None = None
    summary_mask: torch.Tensor | None = None


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
    with capture_hidden_states(model, pooling.layers) as states:
        outputs = backbone(model)(*args, **kwargs)

    head, embedding = model.get_output_embeddings(), mixed_embedding(model, pooling.embeddings)
    whole = functools.cache(whole_tensor)  # tied weights stay one tensor
    weight, bias = whole(head.weight), None if getattr(head, "bias", None) is None else whole(head.bias)
    # A model split across devices (`device_map`) can end on another device than its head, and start on a third
    embedding = embedding.map(lambda tensor: whole(tensor).to(weight.device))
    if pooling.detach_embeddings:
        embedding = embedding.map(torch.Tensor.detach)
    hidden, labels = outputs.last_hidden_state.to(weight.device), labels.to(weight.device)
    mask = labels[:, 1:] != -100

    n_virtual = labels.size(1) - pooling.tokens.width
    segments, n_tokens = pooling.segments(n_virtual)
    # Known to the host, so that nothing waits for the device; where it is wrong, other tokens would be pooled
    torch._assert_async(mask.sum() == n_tokens, "the labels changed after the batch was put together")
    # Nothing follows the last position of a row
    positions = F.pad(mask, (0, 1)).flatten().nonzero_static(size=n_tokens).squeeze(1)
    options = HeadOptions(
        maths=head_maths(model.config),
        temperature=pooling.temperature,
        top_k=pooling.top_k,
        statistics=pooling.statistics,
        gather=maybe_gather_lm_head_ctx,
        tile_bytes=pooling.tile_bytes,
    )
    log_probs = entropy = is_top1 = summaries = summary_mask = None
    with options.whole(weight, bias, *embedding.tensors):
        if pooling.is_fused or pooling.statistics:
            log_probs, entropy, is_top1, mean_probs, summaries = soft_token_head(
                hidden.flatten(0, 1)[positions],
                weight,
                bias,
                embedding.weight if pooling.is_fused else None,
                F.pad(labels[:, 1:], (0, 1)).flatten()[positions],
                segments if pooling.is_fused else [],
                options,
            )
        if pooling.is_fused:
            summaries = embedding.add_adapters(summaries, mean_probs)
        else:
            if pooling.positions in ("response", "answer"):
                index, ranges = select_ranges(positions, segments)
            else:
                places, ranges = pooling.places(n_virtual)
                index = to_device(torch.tensor(places, dtype=torch.int64), positions.device)
            summaries, summary_mask = summarize(
                pooling,
                index,
                ranges,
                states=[outputs.last_hidden_state if state is None else state for state in states],
                hidden=hidden,
                next_tokens=lambda: next_tokens(labels, args, kwargs),
                head=(weight, bias),
                embedding=embedding,
                options=options,
            )
    if not pooling.statistics:
        return SoftTokenOutput(label_mask=mask, summaries=summaries, summary_mask=summary_mask)

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
        summary_mask=summary_mask,
    )
