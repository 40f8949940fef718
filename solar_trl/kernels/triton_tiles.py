"""
The twins of `tiles` in Triton: same arguments, same results, one buffer.

The tile stays in the dtype in which the product leaves it, and each kernel widens what it reads in registers, so a
token takes `V` elements of the compute dtype where the torch tiles take several of float32. What the kernels cost is
memory traffic: the forward reads the tile once for the statistics and once for `p̄`; the backward reads it once for the
inner product with `∂L/∂p̄` (if there is one), once more for the gradient, and writes it.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch

from .options import HeadOptions
from .segments import Segments
from .tiles import HeadGradients, TokenStatistics


# Columns of a token that a program has in hand at a time, and its warps: 8 or 16 logits per thread, which leaves
# registers for 4-5 programs on a multiprocessor of an H100, so that a tile of 512-900 tokens is under way all at once
BLOCK, WARPS = 2048, 8
# Tokens per program in the backward: see `gradient_kernel`
GRADIENT_TOKENS = 2
# For p̄, tokens × columns that a program has in hand. The blocks are narrow enough for about `POOL_PROGRAMS` programs:
# several on each multiprocessor (there are 132), yet all of them under way at once
POOL_SIZE, POOL_BLOCKS, POOL_PROGRAMS, POOL_WARPS = 2048, (256, 128, 64), 512, 4


@functools.cache
def _kernels() -> ModuleType | None:
    """The kernels, or `None` without Triton. Imported when first asked for."""
    try:
        from . import triton_kernels
    except ImportError:
        return None
    return triton_kernels


@functools.cache
def available(device: torch.device) -> bool:
    """
    Whether the kernels run on `device`: Triton can be imported, and the device is one that it compiles for; or it is
    the CPU, and Triton interprets kernels (`TRITON_INTERPRET=1`, set before Triton is first imported).
    """
    if device.type not in ("cpu", "cuda", "xpu"):
        return False
    kernels = _kernels()
    if kernels is None:
        return False
    compiled = kernels.triton.JITFunction
    if device.type == "cpu":
        return not isinstance(kernels.tl.sum, compiled) and not isinstance(kernels.pool_kernel, compiled)
    if device.type == "xpu":
        return "intel" in kernels.triton.backends.backends
    # Compute capability 7.0 and later; AMD's devices are called `cuda`, too
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (7, 0)


def buffer_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    """Dtype of a buffer of logits: that of the product."""
    return compute_dtype


def buffer_counts(options: HeadOptions) -> tuple[int, int]:
    """Buffers of tokens × V that [`forward_tile`] and [`backward_tile`] need."""
    return 1, 1


def forward_tile(
    buffers: torch.Tensor,
    tile: slice,
    targets: torch.Tensor | None,
    segments: Segments,
    options: HeadOptions,
    statistics: TokenStatistics,
    mean_probs: torch.Tensor,
) -> None:
    """Twin of [`tiles.forward_tile`]; the buffer is left as it is."""
    z, kernels = buffers[0], _kernels()
    n_tokens, vocab_size = z.shape
    if n_tokens == 0:
        return
    assert kernels is not None
    rows = counts = weights = None
    if options.pools_all and next(segments.parts(tile), None) is not None:
        rows, counts = segments.on_device()
        weights = torch.empty_like(statistics.peak[tile])
    common = _constants(z, options)
    with _current(z.device):
        kernels.statistics_kernel[(n_tokens,)](
            z,
            z.stride(0),
            vocab_size,
            tile.start,
            None if targets is None else targets.contiguous(),
            counts,
            statistics.peak,
            statistics.log_sum,
            statistics.log_sum_tau,
            statistics.entropy,
            statistics.log_probs,
            statistics.is_top1,
            weights,
            TWO_PARTITIONS=options.two_partitions,
            BLOCK=_block(vocab_size),
            num_warps=WARPS,
            **common,
        )
        if weights is not None:
            block = next((block for block in POOL_BLOCKS if vocab_size >= block * POOL_PROGRAMS), POOL_BLOCKS[-1])
            kernels.pool_kernel[(-(-vocab_size // block),)](
                z,
                z.stride(0),
                vocab_size,
                tile.start,
                n_tokens,
                rows,
                statistics.peak,
                weights,
                mean_probs,
                TOKENS=POOL_SIZE // block,
                BLOCK=block,
                num_warps=POOL_WARPS,
                **common,
            )


def backward_tile(
    buffers: torch.Tensor,
    tile: slice,
    targets: torch.Tensor | None,
    segments: Segments,
    options: HeadOptions,
    statistics: TokenStatistics,
    gradients: HeadGradients,
) -> torch.Tensor:
    """Twin of [`tiles.backward_tile`]; the gradient replaces the logits, in their dtype."""
    z, kernels = buffers[0], _kernels()
    n_tokens, vocab_size = z.shape
    if n_tokens == 0:
        return z
    assert kernels is not None
    pulls = rows = counts = None
    # Autograd hands in expanded scalars, too, hence `contiguous`
    if gradients.mean_probs is not None and next(segments.parts(tile), None) is not None:
        pulls, (rows, counts) = gradients.mean_probs.contiguous(), segments.on_device()
    with _current(z.device):
        kernels.gradient_kernel[(-(-n_tokens // GRADIENT_TOKENS),)](
            z,
            z.stride(0),
            vocab_size,
            tile.start,
            n_tokens,
            None if gradients.log_probs is None or targets is None else targets.contiguous(),
            rows,
            counts,
            statistics.peak,
            statistics.log_sum,
            statistics.log_sum_tau,
            statistics.entropy,
            None if gradients.log_probs is None else gradients.log_probs.contiguous(),
            None if gradients.entropy is None else gradients.entropy.contiguous(),
            pulls,
            TWO_PARTITIONS=options.two_partitions,
            TOKENS=GRADIENT_TOKENS,
            BLOCK=_block(vocab_size),
            num_warps=WARPS,
            **_constants(z, options),
        )
    return z


def _constants(z: torch.Tensor, options: HeadOptions) -> dict[str, Any]:
    """Compile-time constants that all kernels share."""
    return {
        "SCALE": float(options.maths.scale),
        "SOFTCAP": None if options.maths.softcap is None else float(options.maths.softcap),
        "TAU": float(options.temperature),
        # In lower precision the logits themselves are coarser, in higher precision nobody would see it
        "PRECISE_TANH": z.dtype == torch.float32,
        # A logit must come out the same wherever it is computed: no product may be fused into another's sum
        "enable_fp_fusion": False,
    }


def _block(vocab_size: int) -> int:
    """`BLOCK`, or the next power of two where the vocabulary is smaller."""
    return min(BLOCK, 1 << (vocab_size - 1).bit_length())


def _current(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device, which is another one where a model is split across several."""
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)
