"""Pooled hidden states of a list of texts, the raw material of every other analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import POOLINGS, TextBatch, TextBatches, evaluation, light_forward_kwargs


__all__ = ["POOLINGS", "hidden_state_summaries"]


def hidden_state_summaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layers: Sequence[int] | None = None,
    pooling: str = "mean",
    prompts: Sequence[str] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    max_batch_tokens: int = 16_384,
) -> dict[int, np.ndarray]:
    """
    One vector per text and layer: the hidden states pooled over the text's positions.

    Runs the model over batches of similar length, without gradient and in evaluation mode, and keeps only the pooled
    vectors: beside the model there is never more than one batch of hidden states (all layers × `max_batch_tokens` × d:
    3 GB for a 4B model in bfloat16). Works with PEFT adapters and with a model that a trainer has patched or wrapped;
    the training flags of its modules are as before when it returns. Batches are padded on the right and masked by the
    lengths of the texts, so neither the tokenizer's padding side nor a pad token that doubles as EOS matters.

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
            Texts per forward pass, at most. Changes memory and speed only.
        max_length (`int`, *optional*):
            Keep the first `max_length` tokens (prompt included). `None` keeps all.
        max_batch_tokens (`int`, *optional*, defaults to `16_384`):
            Positions per forward pass, padding included, at most; a longer text runs alone. Changes memory and speed
            only.

    Returns:
        `dict[int, np.ndarray]`: For each requested layer a float32 array of shape `(n, d)`, rows in the order of
        `texts`.

    Raises:
        TypeError: If `texts` or `prompts` is a single string.
        ValueError: If there are no texts, a text has no token left to pool, `prompts` has another length, the pooling
            is unknown, a limit is not positive or the model does not have a layer.

    Examples:
    ```python
    >>> from solar_trl.analysis import cross_lingual_similarity, hidden_state_summaries

    >>> english = hidden_state_summaries(model, tokenizer, english_texts, layers=[-1])[-1]
    >>> swahili = hidden_state_summaries(model, tokenizer, swahili_texts, layers=[-1])[-1]
    >>> cross_lingual_similarity(english, swahili)
    {'matched': 0.71, 'random': 0.58, 'difference': 0.13}
    ```
    """
    batches = TextBatches(tokenizer, texts, prompts, pooling, batch_size, max_batch_tokens, max_length)
    summaries: dict[int, np.ndarray] = {}
    with evaluation(model):
        for batch in batches.on(model.device):
            # In a function of its own, so that a batch's states are gone before the next forward
            for layer, pooled in _pooled_layers(model, batch, layers).items():
                if layer not in summaries:
                    summaries[layer] = np.empty((len(batches), pooled.shape[1]), dtype=np.float32)
                summaries[layer][batch.rows] = pooled
    return summaries


def _pooled_layers(model: PreTrainedModel, batch: TextBatch, layers: Sequence[int] | None) -> dict[int, np.ndarray]:
    hidden_states = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        output_hidden_states=True,
        **light_forward_kwargs(model),
    ).hidden_states
    return {
        layer: batch.pool(hidden_states[layer]).cpu().numpy() for layer in _check_layers(layers, len(hidden_states))
    }


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
