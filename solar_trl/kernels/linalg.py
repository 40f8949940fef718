"""Products whose sums are kept in the accumulation dtype."""

from __future__ import annotations

import torch
from packaging.version import Version


# Rows of the vocabulary that are cast to the accumulation dtype at a time, where a product needs that
VOCAB_BLOCK = 16384
# Products of bf16/fp16 matrices with float32 output: CUDA only
_MM_OUT_DTYPE = Version(torch.__version__) >= Version("2.8.0")


def _multiplies_wide(tensor: torch.Tensor, wide: torch.dtype) -> bool:
    return _MM_OUT_DTYPE and tensor.device.type == "cuda" and wide == torch.float32


def finite(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The bias in `dtype`, with -inf (tokens that were masked out) as a number that is as good: `0 · inf` is none."""
    return None if bias is None else bias.to(dtype).clamp(min=torch.finfo(dtype).min / 16)


def project(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """`out = hidden @ weightᵀ + bias`, rounded to the inputs' dtype as the model's own head does, then widened."""
    if out.dtype != hidden.dtype:
        out.copy_(hidden @ weight.t() if bias is None else torch.addmm(bias, hidden, weight.t()))
    elif bias is None:
        torch.mm(hidden, weight.t(), out=out)
    else:
        torch.addmm(bias, hidden, weight.t(), out=out)


def matmul_wide(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`a (n, V) @ weight (V, d)` in the dtype of `a`, widening `weight` one block of rows at a time."""
    if a.dtype == weight.dtype:
        return a @ weight
    out = a.new_zeros(a.size(0), weight.size(1))
    for block in _blocks(weight.size(0)):
        out.addmm_(a[:, block], weight[block].to(a.dtype))
    return out


def matmul_wide_t(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`a (n, d) @ weightᵀ (d, V)` in the dtype of `a`, widening `weight` one block of rows at a time."""
    if a.dtype == weight.dtype:
        return a @ weight.t()
    out = a.new_empty(a.size(0), weight.size(0))
    for block in _blocks(weight.size(0)):
        out[:, block] = a @ weight[block].to(a.dtype).t()
    return out


def outer(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`aᵀ @ b` of `(n, V)` and `(n, d)`, rounded to `dtype` without holding all of it in the wider one."""
    if a.dtype == dtype:
        return a.t() @ b
    out = a.new_empty(a.size(1), b.size(1), dtype=dtype)
    for block in _blocks(a.size(1)):
        out[block] = (a[:, block].t() @ b).to(dtype)
    return out


def addmm_wide_(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """`acc += a @ b` for a wide `acc`, without rounding the product to the inputs' dtype first."""
    if acc.dtype == a.dtype:
        acc.addmm_(a, b)
    elif _multiplies_wide(a, acc.dtype):
        torch.addmm(acc, a, b, out_dtype=torch.float32, out=acc)
    else:
        b = b.to(acc.dtype)
        for block in _blocks(a.size(0)):
            acc[block].addmm_(a[block].to(acc.dtype), b)


def mm_wide(a: torch.Tensor, b: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """`a (n, V) @ b (V, d)` of low-precision inputs in the dtype `wide`."""
    if a.dtype == wide:
        return a @ b
    if _multiplies_wide(a, wide):
        return torch.mm(a, b, out_dtype=torch.float32)
    return matmul_wide(a.to(wide), b)


def _blocks(rows: int):
    for start in range(0, rows, VOCAB_BLOCK):
        yield slice(start, min(start + VOCAB_BLOCK, rows))
