"""How many tokens' logits are at hand at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch


# Memory for tiles of logits, all buffers together. TRL's fused head uses tiles of 256 MiB in bf16, too.
TILE_BYTES = 256 * 2**20
# Tokens beyond which a tile gains nothing by itself: the product reads the V × d weight once per tile, which costs
# less than its arithmetic from a few hundred tokens on (about 300 on an H100, far fewer on a CPU)
ENOUGH_TOKENS = 512


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The wider of float32 and `dtype`: sums over the vocabulary and over tokens are never kept in less."""
    return torch.promote_types(dtype, torch.float32)


def compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    """The dtype that the model's own head would compute in: that of autocast, inside it."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


@dataclass(frozen=True)
class TilePlan:
    """
    Tokens per tile.

    Args:
        forward (`int`):
            In the forward, which only reads the tile: as few as keep the product busy.
        backward (`int`):
            In the backward. Each tile there reads and writes the whole gradient of the weight once, `V·d·8` bytes in
            float32, so tiles are as large as the budget allows; without that gradient, as in the forward.
    """

    forward: int
    backward: int


def plan_tiles(
    n_tokens: int,
    vocab_size: int,
    itemsize: int,
    forward_buffers: int,
    backward_buffers: int,
    sweeps_weight_gradient: bool,
    tile_bytes: int = TILE_BYTES,
) -> TilePlan:
    """
    Choose tile sizes within a budget.

    Args:
        n_tokens (`int`):
            Tokens to score.
        vocab_size (`int`):
            Size `V` of the vocabulary.
        itemsize (`int`):
            Bytes of a logit in a buffer.
        forward_buffers (`int`), backward_buffers (`int`):
            Buffers of `tokens × V` alive at a time.
        sweeps_weight_gradient (`bool`):
            Whether the backward accumulates a gradient of the weight.
        tile_bytes (`int`, *optional*, defaults to `TILE_BYTES`):
            The budget. At least 16 tokens are taken whatever it is.

    Returns:
        [`TilePlan`]: Sizes that cut the tokens into tiles of about the same size.
    """

    def tokens(buffers: int, enough: int | None) -> int:
        most = max(16, tile_bytes // (vocab_size * itemsize * buffers))
        most = most if enough is None else min(most, enough)
        n_tiles = max(1, -(-n_tokens // most))
        return max(1, -(-n_tokens // n_tiles))

    return TilePlan(
        forward=tokens(forward_buffers, ENOUGH_TOKENS),
        backward=tokens(backward_buffers, None if sweeps_weight_gradient else ENOUGH_TOKENS),
    )
