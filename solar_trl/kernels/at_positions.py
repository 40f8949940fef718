"""Soft tokens and logits of single positions, for objectives that do not pool them with equal weights."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from .embedding import EffectiveEmbedding
from .linalg import finite
from .options import HeadOptions
from .plan import accumulation_dtype, compute_dtype


def logits_at(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, options: HeadOptions
) -> torch.Tensor:
    """
    The model's own logits, all held at once: for few positions.

    Args:
        hidden (`torch.Tensor` of shape `(N, d)`):
            Last hidden states.
        weight (`torch.Tensor` of shape `(V, d)`), bias (`torch.Tensor` of shape `(V,)`, *optional*):
            LM head.
        options ([`HeadOptions`]):
            Its scale and soft cap.

    Returns:
        `torch.Tensor` of shape `(N, V)`: Logits, in the accumulation dtype.
    """
    dtype = compute_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.to(dtype) @ weight.to(dtype).t()
        if bias is not None:
            logits = logits + finite(bias, dtype)
        logits = logits.to(accumulation_dtype(dtype)) * options.maths.scale
        cap = options.maths.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


def soft_tokens_at(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    embedding: EffectiveEmbedding,
    options: HeadOptions,
) -> torch.Tensor:
    """
    The soft token of each position, a tile of logits at a time: recomputed in the backward, never held together.

    Costs a second product with the vocabulary per position, which pooling with equal weights spares (see
    [`soft_token_head`]).

    Args:
        hidden (`torch.Tensor` of shape `(N, d)`):
            Last hidden states.
        weight (`torch.Tensor` of shape `(V, d)`), bias (`torch.Tensor` of shape `(V,)`, *optional*):
            LM head.
        embedding ([`EffectiveEmbedding`]):
            What is mixed.
        options ([`HeadOptions`]):
            Scale, soft cap, temperature and top-k.

    Returns:
        `torch.Tensor` of shape `(N, e)`: Soft tokens, in the accumulation dtype.
    """

    def mix(hidden: torch.Tensor) -> torch.Tensor:
        logits = logits_at(hidden, weight, bias, options) / options.temperature
        with torch.autocast(hidden.device.type, enabled=False):
            if options.top_k is None:
                return embedding.mix(logits.softmax(-1))
            values, indices = logits.topk(options.top_k, dim=-1)
            return embedding.mix(torch.zeros_like(logits).scatter(1, indices, values.softmax(-1)))

    # Logits, their softmax and two gradients, in float32
    step = max(1, options.tile_bytes // (4 * 4 * len(weight)))
    parts = [
        checkpoint(mix, part, use_reentrant=False, preserve_rng_state=False)
        for part in hidden.split(step)
        if len(part)
    ]
    return torch.cat(parts) if parts else mix(hidden)
