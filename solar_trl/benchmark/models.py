"""The benchmark's models: configurations with random weights, and the cache of trained bases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from .._files import whole_file
from .settings import ModelSettings


@dataclass(frozen=True)
class Size:
    """
    Shape of a model, and the learning rates that suit it.

    Args:
        hidden, intermediate, layers, heads (`int`): Shape.
        learning_rate, lora_learning_rate (`float`): Peaks for fine-tuning all weights and LoRA.
        base_learning_rate (`float`): Peak for training from random weights.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    learning_rate: float
    lora_learning_rate: float
    base_learning_rate: float


# About 0.4M, 3M and 35M parameters with the vocabulary of eight languages
SIZES = {
    "tiny": Size(96, 256, 3, 4, 1e-2, 2e-2, 6e-3),
    "small": Size(256, 512, 4, 4, 3e-3, 1e-2, 3e-3),
    "medium": Size(512, 1408, 11, 8, 5e-4, 3e-3, 5e-4),
}
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def size_of(settings: ModelSettings) -> Size:
    """The shape of a model. Raises a ValueError for a size that there is not."""
    if settings.size not in SIZES:
        raise ValueError(f"`model.size` is {settings.size!r}, expected one of {', '.join(map(repr, SIZES))}.")
    return SIZES[settings.size]


def build_model(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """
    A model with random weights drawn with a seed, on the CPU in float32.

    Raises:
        ValueError: If the size or the architecture is unknown.
    """
    size = size_of(settings)
    if settings.architecture not in ARCHITECTURES:
        raise ValueError(
            f"`model.architecture` is {settings.architecture!r}, expected one of "
            f"{', '.join(map(repr, ARCHITECTURES))}."
        )
    config_class, model_class = ARCHITECTURES[settings.architecture]
    set_seed(seed)
    return model_class(
        config_class(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            head_dim=size.hidden // size.heads,
            max_position_embeddings=256,
            tie_word_embeddings=settings.tied,
            initializer_range=0.5 * size.hidden**-0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def save_weights(model: PreTrainedModel, path: Path) -> None:
    """Write the weights in one step: a file is whole or not there."""
    kept, stored = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in stored:  # a tied head is stored once
            stored.add(tensor.data_ptr())
            kept[name] = tensor.detach().cpu().contiguous()
    with whole_file(path) as file:
        save_file(kept, file)


def load_weights(model: PreTrainedModel, path: Path) -> None:
    """
    Read the weights that [`save_weights`] wrote.

    Raises:
        ValueError: If the file holds other tensors than the model has.
    """
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise ValueError(
            f"The weights in {path} do not fit the model: {sorted(set(missing) - tied)} are missing, "
            f"{sorted(unexpected)} are not known. Delete the file to train the base again."
        )
