"""Tiny random causal LMs of the families whose logits differ: soft caps, logit scales, head biases, tying, experts."""

import math

import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)


TRANSFORMERS_5 = Version(transformers.__version__) >= Version("5.0.0")
VOCAB_SIZE = 389  # larger than the default tiny tokenizer's, as padded vocabularies are, and no multiple of any tile
HIDDEN_SIZE = 32
LOGIT_STD = 2.5  # of the logits before any soft cap: far from uniform, not saturated


class HeadBiasLlamaForCausalLM(LlamaForCausalLM):
    """A Llama whose LM head has a bias. A class of its own, so that it survives saving and loading."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        self.post_init()


_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # the ids of `tiny_tokenizer.train_tokenizer`
_DECODER = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    **_SPECIAL,
}
_GEMMA = {
    **_DECODER,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "final_logit_softcapping": 5.0,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}
_MOE = {
    **_DECODER,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.0,
}
_GPT2 = {
    "n_embd": HIDDEN_SIZE,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 1024,
    "initializer_range": 0.3,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    **_SPECIAL,
}

# name: (model class, config class, options, attention, factor between head output and logits)
_MODELS: dict[str, tuple[type[PreTrainedModel], type[PretrainedConfig], dict, str, float]] = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _DECODER, "sdpa", 1.0),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**_DECODER, "head_dim": 8}, "sdpa", 1.0),
    "llama": (LlamaForCausalLM, LlamaConfig, _DECODER, "sdpa", 1.0),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {**_GEMMA, "attn_logit_softcapping": 10.0}, "eager", 1.0),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, _GEMMA, "sdpa", 1.0),
    "cohere": (CohereForCausalLM, CohereConfig, {**_DECODER, "logit_scale": 0.25}, "sdpa", 0.25),
    "granite": (
        GraniteForCausalLM,
        GraniteConfig,
        {**_DECODER, "logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.8},
        "sdpa",
        0.5,
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config, _GPT2, "sdpa", 1.0),
    "qwen2_moe": (Qwen2MoeForCausalLM, Qwen2MoeConfig, _MOE, "sdpa", 1.0),
    "llama_head_bias": (HeadBiasLlamaForCausalLM, LlamaConfig, _DECODER, "sdpa", 1.0),
}
# On transformers 4, the backbone of Gemma 3 is not where TRL's fused head looks for it: TRL itself fails there
MODEL_NAMES = [name for name in _MODELS if TRANSFORMERS_5 or name != "gemma3"]


def tiny_model(
    name: str,
    *,
    tied: bool | None = None,
    vocab_size: int = VOCAB_SIZE,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A two-layer random model without dropout, in eval mode. The same arguments always give the same weights.

    Args:
        name: One of `MODEL_NAMES`.
        tied: Whether the LM head is the embedding matrix. None takes the family's default.
        vocab_size: Rows of the embedding.
        seed: Of the weights. The global random state is left as it was.
        dtype: Of the weights. They are drawn in float32 whatever it is.
    """
    model_class, config_class, options, attention, logit_factor = _MODELS[name]
    options = dict(options) if tied is None else {**options, "tie_word_embeddings": tied}
    config = config_class(vocab_size=vocab_size, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Experts one by one: the grouped kernels do not run in every dtype on a CPU
        extra = {"experts_implementation": "eager"} if name == "qwen2_moe" and TRANSFORMERS_5 else {}
        model = model_class._from_config(config, attn_implementation=attention, dtype=torch.float32, **extra)
        randomize(model, logit_factor)
    return model.to(dtype).eval()


@torch.no_grad()
def randomize(model: PreTrainedModel, logit_factor: float = 1.0) -> None:
    """Move what starts at a trivial value away from it, so that a mistake in how it is used shows.

    Biases (0), norm weights (1, or 0 for Gemma) and the padding row of the embedding (0) get random values. Embedding
    and head get the size at which the logits have a standard deviation of about `LOGIT_STD`.
    """
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    std = LOGIT_STD / (math.sqrt(embedding.weight.size(1)) * logit_factor)
    embedding.weight.normal_(std=std)
    if head.weight is not embedding.weight:
        head.weight.normal_(std=std)
    if getattr(head, "bias", None) is not None:
        head.bias.normal_(std=0.5)
