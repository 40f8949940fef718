"""The fused LM head that gives the SFT loss and the soft-token summaries in one pass."""

from .embedding import EffectiveEmbedding
from .soft_token_head import HeadOptions, soft_token_head
from .tiles import HeadMaths


__all__ = ["EffectiveEmbedding", "HeadMaths", "HeadOptions", "soft_token_head"]
