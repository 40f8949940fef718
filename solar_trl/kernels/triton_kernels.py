"""
The Triton kernels behind `triton_tiles`, which is the only one to import this module: it needs Triton.

Notation as in `tiles`. All arithmetic is in the dtype of the statistics, whatever that of the tile. There are no
atomic additions, so equal inputs give equal bits.

Sizes are runtime arguments. The numbers of the model (logit scale, soft cap, τ) are compile-time constants: they stay
the same for a whole training, and as runtime arguments Triton would round them to float32, which a float64 tile would
show. Of the runtime arguments, only the vocabulary size and the stride of a tile are specialised (is it a multiple of
16? then rows are read 16 bytes at a time), so no batch shape is ever compiled anew.
"""

from __future__ import annotations

import triton
import triton.language as tl


# Below every logit, yet finite, so that the difference of two peaks is never `inf - inf`, and 0 · FLOOR = 0
FLOOR = tl.constexpr(-1e30)


@triton.jit
def _tanh(x, PRECISE: tl.constexpr):
    """
    `tanh`, from `exp(-2|x|)`, which cannot overflow. Near 0 the subtraction leaves an error of a rounding of 1. Where
    that would show, `PRECISE` takes the continued fraction `x / (1 + x² / (3 + x² / (5 + …)))` below 1/2 instead.
    """
    magnitude = tl.abs(x)
    e = tl.exp(-2.0 * magnitude)
    t = (1.0 - e) / (1.0 + e)
    if PRECISE:
        near = tl.minimum(magnitude, 0.5)
        square = near * near
        # Convergents A / B by their recurrence: no term is negative, and there is one division. Six terms are good for
        # float32 below 1/2
        a_before, a = tl.zeros_like(near), near
        b_before, b = tl.zeros_like(near) + 1.0, tl.zeros_like(near) + 1.0
        for i in tl.static_range(1, 6):
            a_before, a = a, (2 * i + 1) * a + square * a_before
            b_before, b = b, (2 * i + 1) * b + square * b_before
        t = tl.where(magnitude < 0.5, a / b, t)
    return tl.where(x < 0, -t, t)


@triton.jit
def _logits(z, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, PRECISE_TANH: tl.constexpr):
    if SOFTCAP is not None:
        u = _tanh(z * (SCALE / SOFTCAP), PRECISE_TANH) * SOFTCAP
    elif SCALE != 1.0:
        u = z * SCALE
    else:
        u = z
    return u


@triton.jit(do_not_specialize=["start", "targets", "counts", "weights", "entropy", "log_probs", "is_top1"])
def statistics_kernel(
    z,  # (n, V), the tile
    stride,  # of its rows
    vocab_size,
    start,  # of the tile in [0, N)
    targets,  # (N,) or None
    counts,  # (N,) or None if nothing is to be pooled
    peak,  # (N,), and so the next five
    log_sum,
    log_sum_tau,
    entropy,
    log_probs,
    is_top1,
    weights,  # (n,) or None: 1 / (|M| Σ_v exp((u[v] - peak) / τ)), which turns an exponential into a share of p̄
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAU: tl.constexpr,
    TWO_PARTITIONS: tl.constexpr,
    PRECISE_TANH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """
    One token per program, in one sweep over its logits. Sums are kept per lane, and only the peak is reduced across
    lanes in every block: one reduction instead of up to four, and one exponential per logit and partition.
    """
    wide: tl.constexpr = peak.dtype.element_ty
    n = tl.program_id(0)
    token = start + n
    z += n.to(tl.int64) * stride
    lanes = tl.arange(0, BLOCK)

    top = tl.full((), FLOOR, wide)
    total = tl.zeros((BLOCK,), wide)
    total_tau = tl.zeros((BLOCK,), wide)
    weighted = tl.zeros((BLOCK,), wide)  # Σ e^d d for d = u - peak
    beaten = tl.zeros((BLOCK,), tl.int32)
    if targets is not None:
        target = tl.load(targets + token)
        known = (target >= 0) & (target < vocab_size)
        at_target = tl.load(z + target, mask=known, other=float("nan")).to(wide)
        at_target = _logits(at_target, SCALE, SOFTCAP, PRECISE_TANH)
    for first in range(0, vocab_size, BLOCK):
        columns = first + lanes
        inside = columns < vocab_size
        u = _logits(tl.load(z + columns, mask=inside, other=0.0).to(wide), SCALE, SOFTCAP, PRECISE_TANH)
        u = tl.where(inside, u, float("-inf"))
        higher = tl.maximum(top, tl.max(u, 0))
        step, d = top - higher, u - higher
        rescale, e = tl.exp(step), tl.exp(d)
        if targets is not None:
            # d moves by `step`; where e is 0, d may be -inf
            weighted = rescale * (weighted + step * total) + e * tl.maximum(d, FLOOR)
            # The first of several equal maxima counts as the prediction
            beaten |= ((u > at_target) | ((u == at_target) & (columns < target))).to(tl.int32)
        if TWO_PARTITIONS:
            total_tau = tl.exp(step * (1.0 / TAU)) * total_tau + tl.exp(d * (1.0 / TAU))
        total = rescale * total + e
        top = higher

    sum_e = tl.sum(total, 0)
    tl.store(peak + token, top)
    tl.store(log_sum + token, tl.log(sum_e))
    if targets is not None:
        tl.store(entropy + token, tl.log(sum_e) - tl.sum(weighted, 0) / sum_e)
        tl.store(log_probs + token, (at_target - top) - tl.log(sum_e))
        tl.store(is_top1 + token, known & (tl.max(beaten, 0) == 0))
    if TWO_PARTITIONS:
        sum_e = tl.sum(total_tau, 0)
        tl.store(log_sum_tau + token, tl.log(sum_e))
    if counts is not None:
        tl.store(weights + n, 1.0 / (tl.load(counts + token).to(wide) * sum_e))


@triton.jit
def _add_to_row(mean_probs, row, vocab_size, columns, sums):
    """Add the sum over tokens of `sums (tokens, block)` to a row of p̄, unless `row` is negative."""
    if row >= 0:
        inside = columns < vocab_size
        pointers = mean_probs + row.to(tl.int64) * vocab_size + columns
        tl.store(pointers, tl.load(pointers, mask=inside, other=0.0) + tl.sum(sums, 0), mask=inside)


@triton.jit(do_not_specialize=["start", "n_tokens", "rows", "weights"])
def pool_kernel(
    z,  # (n, V), the tile
    stride,  # of its rows
    vocab_size,
    start,  # of the tile in [0, N)
    n_tokens,
    rows,  # (N,), ascending but for the -1 of tokens that are not pooled
    peak,  # (N,)
    weights,  # (n,)
    mean_probs,  # (R, V)
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAU: tl.constexpr,
    PRECISE_TANH: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """
    One block of the vocabulary per program, over all tokens of the tile in order. The sums of a row of p̄ stay in
    registers until the row is complete: p̄ is read and written once per program and segment. Several tokens are
    loaded at a time because one token's piece of a block is too little to have in flight.
    """
    wide: tl.constexpr = peak.dtype.element_ty
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    current = tl.full((), -1, tl.int32)
    sums = tl.zeros((TOKENS, BLOCK), wide)
    for first in range(0, n_tokens, TOKENS):
        n = first + tl.arange(0, TOKENS)
        of_token = tl.load(rows + start + n, mask=n < n_tokens, other=-1)
        last_row = tl.max(of_token, 0)
        if last_row >= 0:
            pooled = of_token >= 0
            first_row = tl.min(tl.where(pooled, of_token, last_row), 0)
            top = tl.load(peak + start + n, mask=pooled, other=0.0)
            weight = tl.load(weights + n, mask=pooled, other=0.0)
            pointers = z + n.to(tl.int64)[:, None] * stride + columns[None, :]
            inside = pooled[:, None] & (columns < vocab_size)[None, :]
            u = _logits(tl.load(pointers, mask=inside, other=0.0).to(wide), SCALE, SOFTCAP, PRECISE_TANH)
            # Not pooled, the difference may be anything: inf · 0 must not come up
            d = tl.where(inside, u - top[:, None], 0.0)
            if TAU != 1.0:
                d = d * (1.0 / TAU)
            share = tl.exp(d) * weight[:, None]
            # Almost always one row. No row between the first and the last is without tokens here
            for i in range(last_row - first_row + 1):
                row = first_row + i
                if row != current:
                    _add_to_row(mean_probs, current, vocab_size, columns, sums)
                    sums = tl.zeros((TOKENS, BLOCK), wide)
                    current = row
                sums += tl.where((of_token == row)[:, None], share, 0.0)
    _add_to_row(mean_probs, current, vocab_size, columns, sums)


@triton.jit(
    do_not_specialize=["start", "n_tokens", "targets", "rows", "counts", "entropy", "grad_log_probs", "grad_entropy"]
)
def gradient_kernel(
    z,  # (n, V), the tile; overwritten by ∂L/∂z
    stride,  # of its rows
    vocab_size,
    start,  # of the tile in [0, N)
    n_tokens,
    targets,  # (N,) or None
    rows,  # (N,) or None, and so the next one
    counts,
    peak,  # (N,), and so the next three
    log_sum,
    log_sum_tau,
    entropy,
    grad_log_probs,  # (N,) or None
    grad_entropy,  # (N,) or None
    grad_mean_probs,  # (R, V) or None
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAU: tl.constexpr,
    TWO_PARTITIONS: tl.constexpr,
    PRECISE_TANH: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """
    A few tokens per program: one sweep over their logits for `Σ_v q[v] G[v]` if they are pooled, and one that turns
    the logits into the gradient. Neighbouring tokens mostly share a row of G, which is twice as wide as logits in
    bf16: taken together, they fetch it once. The second sweep runs backwards, as the end of the logits is the part
    that may still be cached.
    """
    wide: tl.constexpr = peak.dtype.element_ty
    n = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    real, token = n < n_tokens, start + n
    z += n.to(tl.int64)[:, None] * stride
    top = tl.load(peak + token, mask=real, other=0.0)[:, None]
    log_sums = tl.load(log_sum + token, mask=real, other=0.0)[:, None]
    log_sums_tau = tl.load(log_sum_tau + token, mask=real, other=0.0)[:, None] if TWO_PARTITIONS else log_sums
    blocks = tl.cdiv(vocab_size, BLOCK)

    if grad_mean_probs is not None:
        row = tl.load(rows + token, mask=real, other=-1)
        pooled = (row >= 0)[:, None]
        grad_mean_probs += row.to(tl.int64)[:, None] * vocab_size
        share = 1.0 / (tl.load(counts + token, mask=real, other=1).to(wide)[:, None] * TAU)
        products = tl.zeros((TOKENS, BLOCK), wide)
        if tl.max(row, 0) >= 0:
            for i in range(blocks):
                columns = i * BLOCK + tl.arange(0, BLOCK)[None, :]
                inside = pooled & (columns < vocab_size)
                u = _logits(tl.load(z + columns, mask=inside, other=0.0).to(wide), SCALE, SOFTCAP, PRECISE_TANH)
                pull = tl.load(grad_mean_probs + columns, mask=inside, other=0.0)
                d = u - top
                if TWO_PARTITIONS:
                    d = d * (1.0 / TAU)
                # Masked, the logit is not real and `exp` may overflow
                products += tl.where(inside, tl.exp(d - log_sums_tau) * pull, 0.0)
        inner = tl.sum(products, 1)[:, None]

    if grad_log_probs is not None:
        grad_target = tl.load(grad_log_probs + token, mask=real, other=0.0)[:, None]
        target = tl.load(targets + token, mask=real, other=-1)[:, None]
    if grad_entropy is not None:
        grad_h = tl.load(grad_entropy + token, mask=real, other=0.0)[:, None]
        h = tl.load(entropy + token, mask=real, other=0.0)[:, None]
    for i in range(blocks):
        columns = (blocks - 1 - i) * BLOCK + tl.arange(0, BLOCK)[None, :]
        inside = real[:, None] & (columns < vocab_size)
        u = _logits(tl.load(z + columns, mask=inside, other=0.0).to(wide), SCALE, SOFTCAP, PRECISE_TANH)
        d = u - top
        log_p = d - log_sums
        p = tl.exp(log_p)
        grad = tl.zeros((TOKENS, BLOCK), wide)
        if grad_log_probs is not None:
            grad += tl.where(columns == target, grad_target, 0.0) - grad_target * p
        if grad_entropy is not None:
            grad -= grad_h * (p * (tl.maximum(log_p, FLOOR) + h))
        if grad_mean_probs is not None:
            pull = tl.load(grad_mean_probs + columns, mask=inside & pooled, other=0.0)
            q = tl.exp(d * (1.0 / TAU) - log_sums_tau) if TWO_PARTITIONS else p
            grad += q * ((pull - inner) * share)  # 0 where not pooled
        if SOFTCAP is not None:
            t = u * (1.0 / SOFTCAP)
            grad *= (1.0 - t) * (1.0 + t) * SCALE
        elif SCALE != 1.0:
            grad *= SCALE
        tl.store(z + columns, grad, mask=inside)
