"""
The fused soft-token head: log-probabilities and soft-token summaries out of one pass over the logits.

Mean pooling commutes with the mixture: `S = mean_t Σ_v p_t[v] E[v] = p̄ᵀE` with `p̄ = mean_t p_t` of shape `(V,)`. So
the tiles of logits that the SFT loss computes anyway also give the summaries of SOLAR (arXiv:2606.26466), and the
backward turns each recomputed tile into the sum of both gradients before the matrix products, which are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from .tiles import (
    HeadMaths,
    accumulation_dtype,
    addmm_wide_,
    matmul_wide,
    matmul_wide_t,
    project,
    softmax_of,
    tokens_per_tile,
)


@dataclass(frozen=True)
class HeadOptions:
    """
    Settings of the head that stay the same from call to call.

    Args:
        maths ([`HeadMaths`]):
            Logit scale and soft cap of the model.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ of the distribution that mixes the embeddings.
        top_k (`int`, *optional*):
            Mix the `k` most likely tokens only, renormalised.
        statistics (`bool`, *optional*, defaults to `True`):
            Whether to compute the outputs of the SFT loss (log-probabilities, entropy, top-1).
        gather (callable, *optional*):
            `gather(weight, bias)` returns a context within which sharded head weights are whole. Entered again in the
            backward, which recomputes the logits.
    """

    maths: HeadMaths = field(default_factory=HeadMaths)
    temperature: float = 1.0
    top_k: int | None = None
    statistics: bool = True
    gather: Callable[..., AbstractContextManager] | None = None

    def whole_weights(self, weight: torch.Tensor, bias: torch.Tensor | None) -> AbstractContextManager:
        return nullcontext() if self.gather is None else self.gather(weight, bias)


class SoftTokenHeadFunction(torch.autograd.Function):
    """
    Autograd function behind [`soft_token_head`]; the arguments and outputs are explained there.

    Gradient of a logit, with `g` the gradient of the target's log-probability, `h` that of the entropy `H`, `G =
    ∂L/∂p̄` and `a = 1 / (|M| τ)` for a pooled token:

        ∂L/∂u[v] = g·(1[v = target] - p[v]) - h·p[v]·(log p[v] + H) + a·q[v]·(G[v] - Σ_w q[w] G[w])

    then the chain through soft cap and scale, `scale·(1 - (u / cap)²)`.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, embedding, targets, segments, options):
        ctx.set_materialize_grads(False)
        device, device_type = hidden.device, hidden.device.type
        compute_dtype = (
            torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
        )
        wide = accumulation_dtype(compute_dtype)
        maths, tau, top_k = options.maths, options.temperature, options.top_k
        n_tokens, n_rows = hidden.size(0), len(segments)
        own_partition = tau != 1.0 and top_k is None  # of q, when it is not that of p

        # In-place products on mixed dtypes fail inside autocast, and every cast here is explicit anyway
        with torch.autocast(device_type, enabled=False), options.whole_weights(weight, bias):
            vocab_size = weight.size(0)
            hidden_c, weight_c = hidden.to(compute_dtype), weight.to(compute_dtype)
            bias_c = None if bias is None else bias.to(compute_dtype)
            log_z = hidden.new_empty(n_tokens, dtype=wide)
            log_z_tau = hidden.new_empty(n_tokens, dtype=wide) if own_partition else log_z
            log_probs, entropy = torch.empty_like(log_z), torch.empty_like(log_z)
            is_top1 = torch.empty(n_tokens, dtype=torch.bool, device=device)
            mean_probs = hidden.new_zeros(n_rows, vocab_size, dtype=wide)
            top_indices = torch.empty(n_tokens, top_k or 0, dtype=torch.int64, device=device)
            top_probs = hidden.new_empty(n_tokens, top_k or 0, dtype=wide)

            step = tokens_per_tile(vocab_size, compute_dtype)
            buffers = hidden.new_empty(2, min(n_tokens, step), vocab_size, dtype=wide)
            for start in range(0, n_tokens, step):
                tile = slice(start, min(start + step, n_tokens))
                u, e = buffers[:, : tile.stop - start]
                project(hidden_c[tile], weight_c, bias_c, out=u)
                maths.logits_(u)
                if top_k is not None:
                    values, top_indices[tile] = u.topk(top_k, dim=-1)
                    top_probs[tile] = (values / tau).softmax(-1)

                peak, arg_peak = u.max(-1)
                # Everything below is relative to the peak, which keeps small entropies and losses exact
                u.sub_(peak.unsqueeze(1))
                torch.exp(u, out=e)
                sum_e = e.sum(-1)
                log_z[tile] = peak + sum_e.log()
                if options.statistics:
                    # The first of several equal maxima counts as the prediction, as in `argmax`
                    is_top1[tile] = arg_peak == targets[tile]
                    target_logit = u.gather(1, targets[tile].unsqueeze(1)).squeeze(1)
                    log_probs[tile] = target_logit - sum_e.log()
                    # H = log Z - Σ p u; the row-wise dot products need no third buffer
                    entropy[tile] = sum_e.log() - torch.bmm(e.unsqueeze(1), u.unsqueeze(2)).flatten() / sum_e
                if own_partition:
                    torch.mul(u, 1 / tau, out=e).exp_()
                    sum_e = e.sum(-1)
                    log_z_tau[tile] = peak / tau + sum_e.log()
                if top_k is None:
                    for row, part, count in _parts(segments, tile):
                        weights = 1 / (count * sum_e[part])
                        mean_probs[row].addmv_(e[part].t(), weights)
            del buffers
            if top_k is not None:
                for row, (start, stop) in enumerate(segments):
                    mean_probs[row].index_add_(
                        0, top_indices[start:stop].flatten(), top_probs[start:stop].flatten() / (stop - start)
                    )
            summaries = None if embedding is None else matmul_wide(mean_probs, embedding)

        ctx.options, ctx.segments, ctx.compute_dtype = options, segments, compute_dtype
        ctx.tied = embedding is weight
        ctx.save_for_backward(
            hidden, weight, bias, embedding, targets, log_z, log_z_tau, entropy, mean_probs, top_indices, top_probs
        )
        ctx.mark_non_differentiable(is_top1)
        if not options.statistics:
            return None, None, None, mean_probs, summaries
        return log_probs, entropy, is_top1, mean_probs, summaries

    @staticmethod
    def backward(ctx, grad_log_probs, grad_entropy, _, grad_mean_probs, grad_summaries):
        hidden, weight, bias, embedding, targets, log_z, log_z_tau, entropy, mean_probs, top_indices, top_probs = (
            ctx.saved_tensors
        )
        options, segments, compute_dtype = ctx.options, ctx.segments, ctx.compute_dtype
        wide = accumulation_dtype(compute_dtype)
        maths, tau, top_k = options.maths, options.temperature, options.top_k
        n_tokens = hidden.size(0)
        needs_hidden, needs_weight, needs_bias, needs_embedding = ctx.needs_input_grad[:4]

        with torch.autocast(hidden.device.type, enabled=False), options.whole_weights(weight, bias):
            vocab_size = weight.size(0)
            grad_weight = weight.new_zeros(weight.shape, dtype=wide) if needs_weight else None
            grad_embedding = None
            if grad_summaries is not None:
                # S = p̄ E
                if needs_embedding and ctx.tied and needs_weight:
                    # One buffer for both: two V × d gradients of the same parameter would be added up anyway
                    addmm_wide_(grad_weight, mean_probs.t(), grad_summaries)
                elif needs_embedding:
                    grad_embedding = (mean_probs.t() @ grad_summaries).to(embedding.dtype)
                grad_from_summaries = matmul_wide_t(grad_summaries, embedding)
                grad_mean_probs = (
                    grad_from_summaries if grad_mean_probs is None else grad_mean_probs + grad_from_summaries
                )

            needs_tiles = needs_hidden or needs_weight or needs_bias
            nothing = grad_log_probs is None and grad_entropy is None and grad_mean_probs is None
            grad_hidden = torch.zeros_like(hidden, dtype=wide) if needs_hidden else None
            grad_bias = bias.new_zeros(bias.shape, dtype=wide) if needs_bias else None
            if needs_tiles and not nothing:
                hidden_c, weight_c = hidden.to(compute_dtype), weight.to(compute_dtype)
                bias_c = None if bias is None else bias.to(compute_dtype)
                step = tokens_per_tile(vocab_size, compute_dtype)
                own_partition = grad_mean_probs is not None and tau != 1.0 and top_k is None
                # The gradient needs a buffer of its own where `u` is still wanted (soft cap), and so does q
                buffers = hidden.new_empty(
                    2 + (maths.softcap is not None) + own_partition, min(n_tokens, step), vocab_size, dtype=wide
                )
                for start in range(0, n_tokens, step):
                    tile = slice(start, min(start + step, n_tokens))
                    u, p, *spare = buffers[:, : tile.stop - start]
                    project(hidden_c[tile], weight_c, bias_c, out=u)
                    maths.logits_(u)
                    softmax_of(u, log_z[tile], 1.0, out=p)
                    q = softmax_of(u, log_z_tau[tile], tau, out=spare.pop()) if own_partition else p
                    entropy_part = None
                    if grad_entropy is not None:
                        entropy_part = (u + (entropy[tile] - log_z[tile]).unsqueeze(1)).mul_(p)
                        entropy_part.mul_(-grad_entropy[tile].unsqueeze(1))
                    slope = grad = u
                    if maths.softcap is not None:
                        slope.div_(maths.softcap).square_().neg_().add_(1)
                        grad = spare.pop()

                    # SFT part, less the target's one; then SOLAR's
                    g = torch.zeros_like(log_z[tile]) if grad_log_probs is None else grad_log_probs[tile].to(wide)
                    coefficient = -g
                    dense = grad_mean_probs is not None and top_k is None
                    pulls = []
                    if dense:
                        for row, part, count in _parts(segments, tile):
                            pull = grad_mean_probs[row] / (count * tau)
                            inner = torch.mv(q[part], pull)
                            pulls.append((part, pull, inner))
                            if q is p:
                                coefficient[part] -= inner
                    torch.mul(p, coefficient.unsqueeze(1), out=grad)
                    for part, pull, inner in pulls:
                        grad[part].addcmul_(q[part], pull.unsqueeze(0))
                        if q is not p:
                            grad[part].addcmul_(q[part], inner.unsqueeze(1), value=-1)
                    if grad_log_probs is not None:
                        grad.scatter_add_(1, targets[tile].unsqueeze(1), g.unsqueeze(1))
                    if grad_mean_probs is not None and top_k is not None:
                        for row, part, count in _parts(segments, tile):
                            tokens = slice(start + part.start, start + part.stop)
                            probs, indices = top_probs[tokens], top_indices[tokens]
                            pull = grad_mean_probs[row][indices] / (count * tau)
                            inner = (probs * pull).sum(-1, keepdim=True)
                            grad[part].scatter_add_(1, indices, probs * (pull - inner))
                    if entropy_part is not None:
                        grad.add_(entropy_part)
                    if maths.softcap is not None:
                        grad.mul_(slope)
                    if maths.scale != 1.0:
                        grad.mul_(maths.scale)

                    if grad_bias is not None:
                        grad_bias += grad.sum(0)
                    grad = grad.to(compute_dtype)
                    if grad_hidden is not None:
                        # No copy of the whole weight in the wider dtype
                        grad_hidden[tile] = _grad_hidden(grad, weight_c, wide)
                    if grad_weight is not None:
                        addmm_wide_(grad_weight, grad.t(), hidden_c[tile])

        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            grad_embedding,
            None,
            None,
            None,
        )


def _grad_hidden(grad: torch.Tensor, weight: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    if grad.dtype == wide:
        return grad @ weight
    if grad.device.type == "cuda" and wide == torch.float32:
        return torch.mm(grad, weight, out_dtype=torch.float32)
    return matmul_wide(grad.to(wide), weight)


def _parts(segments: Sequence[tuple[int, int]], tile: slice):
    """The pooled rows that reach into a tile: `(row, part of the tile, tokens of the whole row)`."""
    for row, (start, stop) in enumerate(segments):
        lo, hi = max(start, tile.start), min(stop, tile.stop)
        if lo < hi:
            yield row, slice(lo - tile.start, hi - tile.start), stop - start


# Token and segment counts change with every batch: traced, each would be compiled anew
@torch.compiler.disable
def soft_token_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    embedding: torch.Tensor | None,
    targets: torch.Tensor | None,
    segments: Sequence[tuple[int, int]],
    options: HeadOptions | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """
    Log-probabilities and soft-token summaries of `hidden`, without materialising the `(N, V)` logits.

    Sums over the vocabulary and over tokens are kept in the wider of float32 and the inputs' dtype (the autocast dtype
    inside autocast, as the model's own head would use). The backward recomputes the logits one tile at a time.

    Args:
        hidden (`torch.Tensor` of shape `(N, d)`):
            Last hidden states of the scored tokens.
        weight (`torch.Tensor` of shape `(V, d)`):
            Weight of the LM head. Its gradient is only computed if it requires one.
        bias (`torch.Tensor` of shape `(V,)`, *optional*):
            Bias of the LM head.
        embedding (`torch.Tensor` of shape `(V, e)`, *optional*):
            Embedding matrix to mix. Pass the very tensor given as `weight` if they are tied: both gradients are then
            accumulated in one buffer. Detach it to send no gradient there.
        targets (`torch.Tensor` of shape `(N,)` and dtype int64, *optional*):
            Next token of each position. Only read if `options.statistics`.
        segments (sequence of `(start, stop)`):
            Tokens of each of the `R` sequences to summarise, as non-empty ranges of `[0, N)` that do not overlap.
            Tokens outside all of them are scored but not pooled.
        options ([`HeadOptions`], *optional*):
            Settings of the head.

    Returns:
        A tuple with
        - log-probabilities of the targets (`(N,)`), entropies (`(N,)`) and whether the target is the most likely token
          (`(N,)`, bool, no gradient), each `None` without `options.statistics`,
        - `p̄`, the mean distribution of each sequence (`(R, V)`),
        - the summaries `p̄ᵀE` (`(R, e)`), `None` without `embedding`.
        All in the accumulation dtype.

    Raises:
        ValueError: If a segment is empty, or `top_k` is larger than the vocabulary.
    """
    options = options or HeadOptions()
    if any(stop <= start for start, stop in segments):
        raise ValueError(f"Every segment needs at least one token, got {list(segments)}.")
    return SoftTokenHeadFunction.apply(hidden, weight, bias, embedding, targets, tuple(segments), options)
