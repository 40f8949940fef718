"""What is measured: model shapes from their published configurations, random weights, random rows."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)


# name: (configuration class, its fields). "tiny" is for CPUs; the others are the published shapes.
SHAPES: dict[str, tuple[type[PretrainedConfig], dict[str, int]]] = {
    "tiny": (
        Qwen2Config,
        {"vocab_size": 32_768, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    "qwen2.5-0.5b": (
        Qwen2Config,
        {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        | {"num_attention_heads": 14, "num_key_value_heads": 2},
    ),
    "qwen2.5-1.5b": (
        Qwen2Config,
        {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
        | {"num_attention_heads": 12, "num_key_value_heads": 2},
    ),
    "qwen3-4b": (
        Qwen3Config,
        {"vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    ),
}
LANGUAGES = ("en", "sw", "th", "de", "bn", "es", "zh", "ja", "te", "ru", "fr")
DTYPES = ("float32", "bfloat16", "mixed")
TRAINING = ("full", "lora")
_PAD, _EOS = 0, 1


@dataclass(frozen=True)
class Setting:
    """
    One point of a sweep.

    Args:
        shape (`str`):
            Name of the model shape, a key of `SHAPES`.
        vocab_size (`int`, *optional*), hidden_size (`int`, *optional*), layers (`int`, *optional*):
            Instead of the shape's own. The feed-forward layers follow the hidden size.
        batch_size (`int`), length (`int`):
            Rows per optimizer step and tokens per row. A batch holds whole items: a row in each language.
        prompt_share (`float`):
            Share of a row's tokens that the loss leaves out.
        languages (`int`):
            Rows per item, the pivot included.
        temperature (`float`), top_k (`int`, *optional*):
            Of the soft tokens.
        training (`str`):
            `"full"`, or `"lora"` (rank 16 on all linear layers but the head).
        gradient_checkpointing (`bool`):
            As TRL sets it by default: every layer, non-reentrant.
        dtype (`str`):
            `"float32"`, `"bfloat16"` (weights and activations), or `"mixed"` (float32 weights under bf16 autocast).
        optim (`str`):
            Name of the optimizer, as in `TrainingArguments`.
        tile_mib (`int`):
            `SolarSFTConfig.logits_tile_mib`.
        device (`str`), threads (`int`), seed (`int`):
            Where and with what it runs.
    """

    shape: str = "tiny"
    vocab_size: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    batch_size: int = 8
    length: int = 128
    prompt_share: float = 0.0
    languages: int = 4
    temperature: float = 1.0
    top_k: int | None = None
    training: str = "full"
    gradient_checkpointing: bool = False
    dtype: str = "float32"
    optim: str = "adamw_torch"
    tile_mib: int = 256
    device: str = "cpu"
    threads: int = 2
    seed: int = 0

    def __post_init__(self):
        if not 2 <= self.languages <= len(LANGUAGES):
            raise ValueError(f"`languages` is {self.languages}, expected 2 to {len(LANGUAGES)}.")
        if self.batch_size % self.languages:
            raise ValueError(
                f"A batch of {self.batch_size} rows does not hold whole items of {self.languages} languages. Make it "
                "a multiple."
            )
        if not 0 <= self.prompt_share < 1 or self.length - self.prompt_length < 2:
            raise ValueError(
                f"`prompt_share` is {self.prompt_share}: of {self.length} tokens, at least 2 must be in the response."
            )

    @property
    def prompt_length(self) -> int:
        return round(self.length * self.prompt_share)

    @property
    def tokens(self) -> int:
        """Tokens per optimizer step, prompts included."""
        return self.batch_size * self.length

    @property
    def scored_tokens(self) -> int:
        """Tokens per optimizer step that the loss counts. The first one of a row has no position that predicts it."""
        return self.batch_size * (self.length - max(self.prompt_length, 1))

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the matrix products."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    def config(self) -> PretrainedConfig:
        """Configuration of the model, with tied embeddings as in all of `SHAPES`."""
        config_class, fields = SHAPES[self.shape]
        fields = dict(fields)
        if self.hidden_size is not None:
            fields["intermediate_size"] = fields["intermediate_size"] * self.hidden_size // fields["hidden_size"]
            fields["hidden_size"] = self.hidden_size
        if self.vocab_size is not None:
            fields["vocab_size"] = self.vocab_size
        if self.layers is not None:
            fields["num_hidden_layers"] = self.layers
        special = {"pad_token_id": _PAD, "eos_token_id": _EOS, "bos_token_id": None}
        return config_class(**fields, **special, tie_word_embeddings=True, max_position_embeddings=32_768)

    def model(self) -> PreTrainedModel:
        """The model with random weights on its device, with adapters if they are what is trained."""
        torch.manual_seed(self.seed)
        dtype = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(self.config(), dtype=dtype, attn_implementation="sdpa")
        if self.training == "lora":
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        return model

    def rows(self, n_steps: int) -> Dataset:
        """Tokenized rows for a number of optimizer steps: item by item, its pivot first."""
        rng = random.Random(self.seed)
        vocab_size, prompt = self.config().vocab_size, self.prompt_length
        rows = []
        for index in range(n_steps * self.batch_size):
            ids = [rng.randrange(_EOS + 1, vocab_size) for _ in range(self.length)]
            rows.append(
                {
                    "input_ids": ids,
                    "labels": [-100] * prompt + ids[prompt:],
                    "language": LANGUAGES[index % self.languages],
                    "parallel_id": index // self.languages,
                }
            )
        return Dataset.from_list(rows)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer for trainers that insist on one; the rows are tokens already."""
    vocabulary = {"<pad>": _PAD, "<eos>": _EOS}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
