"""The fused LM head that gives the SFT loss and the soft-token summaries in one pass."""

from .at_positions import logits_at, soft_tokens_at
from .embedding import EffectiveEmbedding
from .head import soft_token_head
from .options import HeadMaths, HeadOptions
from .plan import TILE_BYTES


__all__ = [
    "TILE_BYTES",
    "EffectiveEmbedding",
    "HeadMaths",
    "HeadOptions",
    "logits_at",
    "soft_token_head",
    "soft_tokens_at",
]
