"""States of the feed-forward neurons of a list of texts, for NeuronXA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .._compat import base_model
from .batches import TextBatch, TextBatches, evaluation, light_forward_kwargs


# What NeuronXA takes of an activation. Float32, since it is averaged over positions
NEURON_STATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nas": lambda activations: (activations > 0).float(),
    "nav": lambda activations: activations.float().abs(),
}
# Paths, inside a block, that end in the linear layer which leads from the feed-forward neurons back to the residual
# stream. Llama, Qwen, Gemma, Mistral, ...; GPT-2, Starcoder2; GPT-NeoX, Bloom, Falcon; Phi, OPT; GPT-J, CodeGen;
# InternLM; BERT
_DOWN_PROJECTIONS = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2", "output.dense")
_NO_FEED_FORWARD = ("attn", "attention", "expert")


def neuron_state_summaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layers: Sequence[int] | None = None,
    state: str = "nas",
    pooling: str = "position_weighted",
    prompts: Sequence[str] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    max_batch_tokens: int = 16_384,
    down_projection: str | None = None,
) -> dict[int, np.ndarray]:
    """
    One vector per text and block: the states of the block's feed-forward neurons, pooled over the text's positions.

    A neuron's activation is the input of the feed-forward layer's second projection (`down_proj` and its like):
    `act(W₁ x)` of a plain MLP, `act(W_gate x) * (W_up x)` of a gated one. [`find_down_projections`] lists the modules.
    NeuronXA's paper does not say which of the two is meant for gated MLPs; the product is what the residual stream
    receives.

    Each block is pooled while the model runs: nothing of positions × neurons outlives its block.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Decoder or encoder, also inside PEFT.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        texts (`Sequence[str]`):
            The `n` texts.
        layers (`Sequence[int]`, *optional*):
            Blocks, counted as in [`hidden_state_summaries`]: `i` is the block whose output is `hidden_states[i]`, from
            1 to the number of blocks `L`, or -1 (the last) to -L. `None` takes all.
        state (`str`, *optional*, defaults to `"nas"`):
            `"nas"`: 1 where the activation is positive, else 0 (neuron activation state); `"nav"`: the activation's
            absolute value.
        pooling (`str`, *optional*, defaults to `"position_weighted"`):
            As [`hidden_state_summaries`]; the paper's by default.
        prompts, batch_size, max_length, max_batch_tokens:
            As [`hidden_state_summaries`].
        down_projection (`str`, *optional*):
            Path of the second projection inside a block (`"mlp.down_proj"`), for models where it is not found.

    Returns:
        `dict[int, np.ndarray]`: For each requested block a float32 array of shape `(n, neurons)`, rows in the order of
        `texts`.

    Raises:
        TypeError: If `texts` or `prompts` is a single string.
        ValueError: As [`hidden_state_summaries`]; if `state` is unknown, the projections are not found (as in
            Mixture-of-Experts blocks, whose neurons differ from token to token) or a block does not call its own.
    """
    if state not in NEURON_STATES:
        raise ValueError(f"`state` is {state!r}, expected one of {', '.join(map(repr, NEURON_STATES))}.")
    batches = TextBatches(tokenizer, texts, prompts, pooling, batch_size, max_batch_tokens, max_length)
    modules = _requested(_down_projections(model, down_projection), layers)
    summaries: dict[int, np.ndarray] = {}
    with evaluation(model):
        for batch in batches.on(model.device):
            with _pooled_inputs(modules, batch, NEURON_STATES[state]) as pooled:
                model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **light_forward_kwargs(model))
            for layer in modules:
                if layer not in pooled:
                    raise ValueError(
                        f"The model does not call the projection of block {layer}; name another one with "
                        "`down_projection`."
                    )
                if layer not in summaries:
                    summaries[layer] = np.empty((len(batches), pooled[layer].size(1)), dtype=np.float32)
                summaries[layer][batch.rows] = pooled[layer].cpu().numpy()
    return summaries


def find_down_projections(model: PreTrainedModel, down_projection: str | None = None) -> dict[int, str]:
    """
    The modules whose inputs [`neuron_state_summaries`] takes.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Decoder or encoder, also inside PEFT.
        down_projection (`str`, *optional*):
            Path inside a block. `None` looks for the usual names.

    Returns:
        `dict[int, str]`: Block, from 1, to the module's name in the decoder.

    Raises:
        ValueError: If a block has none or several.
    """
    return {layer: name for layer, (name, _) in _down_projections(model, down_projection).items()}


def _down_projections(model: PreTrainedModel, path: str | None) -> dict[int, tuple[str, nn.Module]]:
    base = base_model(model)
    decoder = base.get_decoder()  # of a vision-language model, the language part
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in decoder.named_modules():
        parts = name.split(".")
        block = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if block is not None and _leads_back(".".join(parts[block + 1 :]), path):
            found.setdefault(int(parts[block]) + 1, []).append((name, module))
    num_blocks = base.config.get_text_config().num_hidden_layers
    for layer in range(1, num_blocks + 1):
        names = [name for name, _ in found.get(layer, [])]
        if len(names) != 1:
            what = f"several projections ({', '.join(names)})" if names else "no such projection"
            raise ValueError(
                f"NeuronXA needs the projection that leads from the feed-forward neurons back. Block {layer} of "
                f"{num_blocks} in `{type(base).__name__}` has {what}: name its path inside a block, e.g. "
                "`down_projection='mlp.down_proj'`. Experts of a Mixture-of-Experts model do not have one."
            )
    return {layer: found[layer][0] for layer in range(1, num_blocks + 1)}


def _leads_back(path: str, wanted: str | None) -> bool:
    if wanted is not None:
        return path == wanted
    return not any(word in path for word in _NO_FEED_FORWARD) and any(
        path == name or path.endswith(f".{name}") for name in _DOWN_PROJECTIONS
    )


def _requested(modules: dict[int, tuple[str, nn.Module]], layers: Sequence[int] | None) -> dict[int, nn.Module]:
    num_blocks = len(modules)
    requested = {}
    for layer in range(1, num_blocks + 1) if layers is None else layers:
        if layer == 0 or not -num_blocks <= layer <= num_blocks:
            raise ValueError(f"The model has no block {layer}: its blocks are 1 to {num_blocks}.")
        requested[layer] = modules[layer if layer > 0 else num_blocks + 1 + layer][1]
    return requested


@contextmanager
def _pooled_inputs(
    modules: dict[int, nn.Module], batch: TextBatch, state: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[dict[int, torch.Tensor]]:
    """Pool the states of each module's input while the model runs."""
    pooled: dict[int, torch.Tensor] = {}

    def hook_for(layer: int):
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            activations = args[0]
            # Some models merge batch and positions in front of their MLP
            activations = activations.reshape(len(batch.rows), -1, activations.size(-1))
            pooled[layer] = batch.pool(state(activations))

        return hook

    handles = [module.register_forward_pre_hook(hook_for(layer)) for layer, module in modules.items()]
    try:
        yield pooled
    finally:
        for handle in handles:
            handle.remove()
