"""Summaries other than those that the pass over the logits of the SFT loss gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from .kernels import EffectiveEmbedding, HeadOptions, logits_at, soft_token_head, soft_tokens_at
from .pooling import Pooling, Range, pool


def summarize(
    pooling: Pooling,
    index: torch.Tensor,
    ranges: Sequence[Range],
    states: Sequence[torch.Tensor],
    hidden: torch.Tensor,
    next_tokens: Callable[[], torch.Tensor],
    head: tuple[torch.Tensor, torch.Tensor | None],
    embedding: EffectiveEmbedding,
    options: HeadOptions,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Summaries of a batch.

    Args:
        pooling ([`Pooling`]):
            What is asked for.
        index (`torch.Tensor` of shape `(N,)` and dtype int64):
            Positions to pool, in the flattened batch.
        ranges (sequence of `(start, stop)`):
            Those of each of the `R` sequences.
        states (sequence of `torch.Tensor` of shape `(B, T, d)`):
            Hidden states of the layers that are asked for.
        hidden (`torch.Tensor` of shape `(B, T, d)`):
            Last hidden states, before the LM head.
        next_tokens (callable):
            The token that follows each position, `(B, T)`.
        head (`tuple` of `torch.Tensor`):
            Weight and bias of the LM head.
        embedding ([`EffectiveEmbedding`]):
            What soft and hard tokens are made of.
        options ([`HeadOptions`]):
            Settings of the head.

    Returns:
        `tuple[torch.Tensor, torch.Tensor | None]`: As [`pool`]; of several layers `(R, L, d)`.
    """
    if pooling.representation == "hidden_state":
        layers = [state.to(index.device).flatten(0, 1)[index] for state in states]
        return pool(layers[0] if len(layers) == 1 else torch.stack(layers, dim=1), ranges, pooling.pooling)
    if pooling.representation == "hard_token":
        return pool(embedding.lookup(next_tokens().flatten()[index]), ranges, pooling.pooling)
    chosen = hidden.flatten(0, 1)[index]
    if pooling.representation == "logits":
        return pool(logits_at(chosen, *head, options), ranges, pooling.pooling)
    if pooling.pooling not in ("mean", "last"):
        return pool(soft_tokens_at(chosen, *head, embedding, options), ranges, pooling.pooling)
    # One position is its own mean
    options = replace(options, statistics=False)
    *_, mean_probs, summaries = soft_token_head(chosen, *head, embedding.weight, None, ranges, options)
    return embedding.add_adapters(summaries, mean_probs), None


def next_tokens(labels: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """
    The token that follows each position: its label, or, where that is -100, the input.

    Args:
        labels (`torch.Tensor` of shape `(B, T)`):
            Labels of the batch.
        args, kwargs:
            What the model was called with.

    Returns:
        `torch.Tensor` of shape `(B, T)`: Tokens; 0 at the last position, and where the input is none (virtual tokens).
    """
    inputs = kwargs.get("input_ids", args[0] if args else None)
    inputs = torch.zeros_like(labels) if inputs is None else inputs.to(labels.device)
    if inputs.shape != labels.shape:  # virtual tokens in front
        inputs = F.pad(inputs, (labels.size(1) - inputs.size(1), 0))
    tokens = torch.where(labels == -100, inputs, labels)
    return F.pad(tokens[:, 1:], (0, 1))
