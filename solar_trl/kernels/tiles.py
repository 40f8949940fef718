"""
One tile of full-vocabulary logits, folded forward and backward, in torch.

A tile holds the logits of a few tokens over the whole vocabulary. Everything SOLAR adds to the SFT loss happens while
such a tile is at hand, element-wise; no other tensor of tokens × vocabulary size ever exists.

Notation: `u` are the model's own logits (after logit scale, soft cap and bias), `p = softmax(u)` the distribution of
the SFT loss, `q = softmax(u / τ)` the one that mixes the embeddings (the same when τ = 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


# Bytes of one buffer of tokens × V accumulators. Two to four such buffers are alive at a time. On CPU 512-1024 tokens
# at V = 32k were fastest; larger tiles only help where the sweeps over the V × d weight gradient dominate.
TILE_BYTES = 128 * 2**20
# Rows of the vocabulary that are cast to the accumulation dtype at a time, where a product needs that
VOCAB_BLOCK = 16384


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The wider of float32 and `dtype`: sums over the vocabulary and over tokens are never kept in less."""
    return torch.promote_types(dtype, torch.float32)


def tokens_per_tile(vocab_size: int, dtype: torch.dtype, tile_bytes: int | None = None) -> int:
    """Number of tokens whose logits fit one tile buffer (at least 16, whatever the budget)."""
    tile_bytes = TILE_BYTES if tile_bytes is None else tile_bytes
    return max(16, tile_bytes // (vocab_size * accumulation_dtype(dtype).itemsize))


@dataclass(frozen=True)
class HeadMaths:
    """
    What the model does between the projection `h Wᵀ + b` and its logits.

    Args:
        scale (`float`):
            Factor on the projection, applied first.
        softcap (`float`, *optional*):
            `u = softcap · tanh(scale · z / softcap)`.
    """

    scale: float = 1.0
    softcap: float | None = None

    def logits_(self, z: torch.Tensor) -> torch.Tensor:
        """Turn the projection into the logits, in place."""
        if self.scale != 1.0:
            z.mul_(self.scale)
        if self.softcap is not None:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z


def project(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """`out = hidden @ weightᵀ + bias`, rounded to the inputs' dtype as the model's own head does, then widened."""
    if out.dtype == hidden.dtype:
        torch.mm(hidden, weight.t(), out=out)
    else:
        out.copy_(torch.mm(hidden, weight.t()))
    if bias is not None:
        out.add_(bias)


def softmax_of(logits: torch.Tensor, log_z: torch.Tensor, temperature: float, out: torch.Tensor) -> torch.Tensor:
    """`exp(u / τ - log Z)` into `out`, with `log_z` of shape `(n,)` the log-partition at that temperature."""
    if temperature == 1.0:
        torch.sub(logits, log_z.unsqueeze(1), out=out)
    else:
        torch.mul(logits, 1 / temperature, out=out).sub_(log_z.unsqueeze(1))
    return out.exp_()


def matmul_wide(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`a (n, V) @ weight (V, d)` in the dtype of `a`, widening `weight` one block of rows at a time."""
    if a.dtype == weight.dtype:
        return a @ weight
    out = a.new_zeros(a.size(0), weight.size(1))
    for start in range(0, weight.size(0), VOCAB_BLOCK):
        block = slice(start, start + VOCAB_BLOCK)
        out.addmm_(a[:, block], weight[block].to(a.dtype))
    return out


def matmul_wide_t(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`a (n, d) @ weightᵀ (d, V)` in the dtype of `a`, widening `weight` one block of rows at a time."""
    if a.dtype == weight.dtype:
        return a @ weight.t()
    out = a.new_empty(a.size(0), weight.size(0))
    for start in range(0, weight.size(0), VOCAB_BLOCK):
        block = slice(start, start + VOCAB_BLOCK)
        out[:, block] = a @ weight[block].to(a.dtype).t()
    return out


def addmm_wide_(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """`acc += a @ b` for a wide `acc`, without rounding the product to the inputs' dtype first."""
    if acc.dtype == a.dtype:
        acc.addmm_(a, b)
    elif acc.device.type == "cuda" and acc.dtype == torch.float32:
        # GEMMs of bf16/fp16 inputs with float32 output exist on CUDA only
        torch.addmm(acc, a, b, out_dtype=torch.float32, out=acc)
    else:
        b = b.to(acc.dtype)
        for start in range(0, a.size(0), VOCAB_BLOCK):
            block = slice(start, start + VOCAB_BLOCK)
            acc[block].addmm_(a[block].to(acc.dtype), b)
