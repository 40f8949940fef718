"""Pooled hidden states of a list of texts, the raw material of every other analysis."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _mean(length: int) -> torch.Tensor:
    return torch.full((length,), 1 / length)


def _last(length: int) -> torch.Tensor:
    return torch.eye(length)[-1]


def _position_weighted(length: int) -> torch.Tensor:
    positions = torch.arange(1, length + 1, dtype=torch.float32)
    return positions / positions.sum()


# Weights over the pooled positions of one text, summing to 1: `n -> (n,)`.
POOLINGS = {"mean": _mean, "last": _last, "position_weighted": _position_weighted}


def hidden_state_summaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layers: Sequence[int] | None = None,
    pooling: str = "mean",
    prompts: Sequence[str] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
) -> dict[int, np.ndarray]:
    """
    One vector per text and layer: the hidden states pooled over the text's positions.

    Runs the model over batches of similar length, without gradient and in evaluation mode, and keeps only the pooled
    vectors. Works with PEFT adapters and with a model that a trainer has patched or wrapped; the training flags of its
    modules are as before when it returns. Batches are padded on the right and masked by the lengths of the texts, so
    neither the tokenizer's padding side nor a pad token that doubles as EOS matters.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Decoder or encoder that returns `hidden_states`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. Special tokens that it adds by default (BOS) are pooled like any other.
        texts (`Sequence[str]`):
            The `n` texts to summarise.
        layers (`Sequence[int]`, *optional*):
            Indices into the model's `hidden_states`: 0 is the embedding output, `i` the output of block `i`, -1 the
            last one (in most models after the final norm). `None` takes all of them.
        pooling (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over the positions, the `"last"` position, or `"position_weighted"`: a mean with weights
            proportional to the position 1, 2, ... (MEXA, arXiv:2410.05873).
        prompts (`Sequence[str]`, *optional*):
            Context in front of each text: read by the model but not pooled. With the prompt here and the response in
            `texts`, the positions are those of the response, as in SOLAR. Text is tokenized without special tokens
            then.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts per forward pass. Changes memory and speed only.
        max_length (`int`, *optional*):
            Keep the first `max_length` tokens (prompt included). `None` keeps all.

    Returns:
        `dict[int, np.ndarray]`: For each requested layer a float32 array of shape `(n, d)`, rows in the order of
        `texts`.

    Raises:
        TypeError: If `texts` or `prompts` is a single string.
        ValueError: If there are no texts, a text has no token left to pool, `prompts` has another length, the pooling
            is unknown or the model does not have a layer.

    Examples:
    ```python
    >>> from solar_trl.analysis import cross_lingual_similarity, hidden_state_summaries

    >>> english = hidden_state_summaries(model, tokenizer, english_texts, layers=[-1])[-1]
    >>> swahili = hidden_state_summaries(model, tokenizer, swahili_texts, layers=[-1])[-1]
    >>> cross_lingual_similarity(english, swahili)
    {'matched': 0.71, 'random': 0.58, 'difference': 0.13}
    ```
    """
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` is {pooling!r}, expected one of {', '.join(map(repr, POOLINGS))}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}, expected at least 1.")
    sequences, starts = _tokenize(tokenizer, texts, prompts, max_length)
    # Without a pad token any id will do: padded positions are masked and lie behind the text
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    forward_kwargs = _light_forward_kwargs(model)
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    summaries: dict[int, np.ndarray] = {}

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            width = len(sequences[rows[0]])
            input_ids = torch.full((len(rows), width), pad_token_id)
            attention_mask = torch.zeros_like(input_ids)
            weights = torch.zeros(len(rows), width)
            for i, row in enumerate(rows):
                length = len(sequences[row])
                input_ids[i, :length] = torch.tensor(sequences[row])
                attention_mask[i, :length] = 1
                weights[i, starts[row] : length] = POOLINGS[pooling](length - starts[row])
            with torch.no_grad():
                hidden_states = model(
                    input_ids=input_ids.to(model.device),
                    attention_mask=attention_mask.to(model.device),
                    output_hidden_states=True,
                    **forward_kwargs,
                ).hidden_states
            for layer in _check_layers(layers, len(hidden_states)):
                # A soft prompt puts positions of its own in front
                states = hidden_states[layer][:, -width:].float()
                pooled = torch.einsum("btd,bt->bd", states, weights.to(states.device))
                if layer not in summaries:
                    summaries[layer] = np.empty((len(sequences), pooled.size(-1)), dtype=np.float32)
                summaries[layer][rows] = pooled.cpu().numpy()
    finally:
        for module, mode in training.items():
            module.training = mode
    return summaries


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prompts: Sequence[str] | None, max_length: int | None
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each sequence, and the index of the first position to pool."""
    for name, value in (("texts", texts), ("prompts", prompts)):
        if isinstance(value, str):
            raise TypeError(f"`{name}` must be a sequence of strings, got a single string.")
    if len(texts) == 0:
        raise ValueError("`texts` is empty.")
    if prompts is None:
        sequences = tokenizer(list(texts))["input_ids"]
        starts = [0] * len(sequences)
    else:
        if len(prompts) != len(texts):
            raise ValueError(f"There are {len(prompts)} prompts for {len(texts)} texts.")
        prompt_ids = tokenizer(list(prompts))["input_ids"]
        text_ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        sequences = [prompt + text for prompt, text in zip(prompt_ids, text_ids, strict=True)]
        starts = [len(prompt) for prompt in prompt_ids]
    sequences = [sequence[:max_length] for sequence in sequences]
    for i, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        if len(sequence) <= start:
            raise ValueError(f"Text {i} has no token to pool (`max_length` is {max_length}): {texts[i]!r}.")
    return sequences, starts


def _light_forward_kwargs(model: PreTrainedModel) -> dict[str, int | bool]:
    """Arguments that spare the key-value cache and the (B, T, V) logits, where the model knows them."""
    base_model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT
    known = inspect.signature(base_model.forward).parameters
    return {name: value for name, value in (("use_cache", False), ("logits_to_keep", 1)) if name in known}


def _check_layers(layers: Sequence[int] | None, num_layers: int) -> Sequence[int]:
    if layers is None:
        return range(num_layers)
    for layer in layers:
        if not -num_layers <= layer < num_layers:
            raise ValueError(
                f"The model has no layer {layer}: it returns {num_layers} hidden states, 0 (embeddings) to "
                f"{num_layers - 1} (last block)."
            )
    return layers
