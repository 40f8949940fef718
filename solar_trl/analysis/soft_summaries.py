"""Soft-token summaries of a list of responses: what SOLAR's loss compares, outside of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .._compat import backbone, base_model, head_maths, mixed_embedding
from ..objectives.frame import EMBEDDINGS
from .batches import TextBatch, TextBatches, evaluation, light_forward_kwargs


_ROWS_OF_LOGITS = 512  # 0.3 GB of float32 at V = 151,936


def soft_token_summaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    temperature: float = 1.0,
    top_k: int | None = None,
    embeddings: str = "input",
    batch_size: int = 32,
    max_length: int | None = None,
    max_batch_tokens: int = 16_384,
) -> np.ndarray:
    """
    One vector per response: its soft-token summary, the mean over the positions that predict the response's tokens of
    `Σ_v p[v] · E[v]` (SOLAR, arXiv:2606.26466; see [`~solar_trl.objectives.soft_token_summary`]).

    Logits exist for 512 positions at a time, whatever the batch. `E` is the input embedding that the lookup really
    uses, PEFT adapters included, or the weight of the LM head. Evaluation mode, no gradient; the model is as before
    when it returns.

    Since the mixture is that of SOLAR's loss, agreement of these summaries shows that the loss went down. Whether
    representations moved is for hidden states to tell.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, also inside PEFT.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        prompts (`Sequence[str]`):
            Prompt of each response, formatted as in training (chat template applied). Tokenized apart from the
            response, with the special tokens that the tokenizer adds by default.
        responses (`Sequence[str]`):
            The `n` responses. To pool the end of the turn as in training, write it into the response
            (`response + tokenizer.eos_token`).
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ > 0, as in training.
        top_k (`int`, *optional*):
            Number of tokens to mix, in `[1, V]`. `None` mixes all.
        embeddings (`str`, *optional*, defaults to `"input"`):
            Which embeddings are mixed, as in [`~solar_trl.objectives.Objective`]: `"input"`, or those of the LM head
            (`"output"`).
        batch_size (`int`, *optional*, defaults to `32`):
            Texts per forward pass, at most. Changes memory and speed only.
        max_length (`int`, *optional*):
            Keep the first `max_length` tokens (prompt included). `None` keeps all.
        max_batch_tokens (`int`, *optional*, defaults to `16_384`):
            Positions per forward pass, padding included, at most; a longer text runs alone.

    Returns:
        `np.ndarray` of shape `(n, d)`: Summaries, float32, rows in the order of `responses`.

    Raises:
        TypeError: If `prompts` or `responses` is a single string.
        ValueError: If there are no responses, one has no token left to pool, the lengths differ, `temperature` is not
            positive, `embeddings` is unknown, `top_k` is outside `[1, V]`, or the embedding is adapted or stored in a
            way that is not supported.
    """
    if temperature <= 0:
        raise ValueError(f"`temperature` is {temperature}, expected a number > 0.")
    if embeddings not in EMBEDDINGS:
        raise ValueError(f"`embeddings` is {embeddings!r}, expected one of {', '.join(map(repr, EMBEDDINGS))}.")
    batches = TextBatches(
        tokenizer, responses, prompts, "mean", batch_size, max_batch_tokens, max_length, predicting=True
    )
    embedding = mixed_embedding(base_model(model), embeddings)
    vocab_size = embedding.weight.size(0)
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise ValueError(f"`top_k` is {top_k}, expected a number between 1 and the vocabulary size {vocab_size}.")
    summaries = np.empty((len(batches), embedding.weight.size(1)), dtype=np.float32)
    with evaluation(model):
        for batch in batches.on(model.device):
            mean_probs = _mean_probs(model, batch, temperature, top_k)
            summaries[batch.rows] = embedding.mix(mean_probs.to(embedding.weight.device)).float().cpu().numpy()
    return summaries


def _mean_probs(model: PreTrainedModel, batch: TextBatch, temperature: float, top_k: int | None) -> torch.Tensor:
    """Mean distribution of each text, float32 `(B, V)`. The embedding is mixed once per text: mixing is linear."""
    base = base_model(model)
    head, maths = base.get_output_embeddings(), head_maths(base.config)
    with _last_hidden_states(backbone(base)) as captured:
        # Through the model itself, so that PEFT's soft prompts are there
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **light_forward_kwargs(model))
    hidden = captured[0][:, -batch.weights.size(1) :]
    rows, positions = batch.weights.nonzero(as_tuple=True)
    mean_probs = None
    for start in range(0, len(rows), _ROWS_OF_LOGITS):
        chunk = slice(start, start + _ROWS_OF_LOGITS)
        row, position = rows[chunk].to(hidden.device), positions[chunk].to(hidden.device)
        logits = maths.logits_(head(hidden[row, position]).float()).div_(temperature)
        if top_k is None:
            probs = logits.softmax(-1)
        else:
            values, indices = logits.topk(top_k, dim=-1)
            probs = torch.zeros_like(logits).scatter_(-1, indices, values.softmax(-1))
        weights = torch.zeros(len(batch.rows), len(row), device=probs.device)
        weights[row.to(probs.device), torch.arange(len(row), device=probs.device)] = batch.weights[
            rows[chunk], positions[chunk]
        ].to(probs.device)
        mean_probs = weights @ probs if mean_probs is None else mean_probs.addmm_(weights, probs)
    assert mean_probs is not None  # every text has a position to pool
    return mean_probs


@contextmanager
def _last_hidden_states(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect `last_hidden_state` of each call of `module`."""
    captured: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: captured.append(output[0]))
    try:
        yield captured
    finally:
        handle.remove()
