"""
The fused soft-token head: log-probabilities and soft-token summaries out of one pass over the logits.

Mean pooling commutes with the mixture: `S = mean_t Σ_v p_t[v] E[v] = p̄ᵀE` with `p̄ = mean_t p_t` of shape `(V,)`. So
the tiles of logits that the SFT loss computes anyway also give the summaries of SOLAR (arXiv:2606.26466), and the
backward turns each recomputed tile into the sum of both gradients before the matrix products, which are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import tiles as torch_tiles
from . import triton_tiles
from .linalg import addmm_wide_, finite, matmul_wide, matmul_wide_t, mm_wide, outer, project
from .options import HeadOptions
from .plan import TilePlan, accumulation_dtype, compute_dtype, plan_tiles
from .segments import Segments
from .tiles import HeadGradients, TokenStatistics


def _tiles_for(device: torch.device):
    """The module that folds the tiles: Triton's where it runs, else torch's."""
    return triton_tiles if triton_tiles.available(device) else torch_tiles


class SoftTokenHeadFunction(torch.autograd.Function):
    """Autograd function behind [`soft_token_head`]; the arguments and outputs are explained there."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, embedding, targets, segments, options):
        ctx.set_materialize_grads(False)
        device, device_type = hidden.device, hidden.device.type
        dtype = compute_dtype(hidden)
        wide = accumulation_dtype(dtype)
        n_tokens, tiles, top_k = hidden.size(0), _tiles_for(device), options.top_k

        # In-place products on mixed dtypes fail inside autocast, and every cast here is explicit anyway
        with torch.autocast(device_type, enabled=False), options.whole(weight, bias, embedding):
            vocab_size = weight.size(0)
            if top_k is not None and top_k > vocab_size:
                raise ValueError(f"`top_k` is {top_k}, more than the vocabulary of {vocab_size} tokens.")
            plan = _plan(tiles, n_tokens, vocab_size, dtype, options, ctx.needs_input_grad[1])
            hidden_c, weight_c, bias_c = hidden.to(dtype), weight.to(dtype), finite(bias, dtype)
            statistics = TokenStatistics.empty(n_tokens, options.two_partitions, wide, device)
            mean_probs = hidden.new_zeros(len(segments), vocab_size, dtype=wide)
            top_indices = torch.empty(n_tokens, top_k or 0, dtype=torch.int64, device=device)
            top_logits = hidden.new_empty(n_tokens, top_k or 0, dtype=wide)

            for tile, buffers in _buffers(tiles, plan.forward, 0, n_tokens, vocab_size, hidden_c, options):
                project(hidden_c[tile], weight_c, bias_c, out=buffers[0])
                if top_k is not None:
                    # Scale and soft cap keep the order
                    values, top_indices[tile] = buffers[0].topk(top_k, dim=-1, largest=options.maths.scale >= 0)
                    top_logits[tile] = options.maths.logits_(values.to(wide))
                tiles.forward_tile(buffers, tile, targets, segments, options, statistics, mean_probs)
            top_probs = (top_logits / options.temperature).softmax(-1)
            if top_k is not None:
                for row, part, count in segments.parts(slice(0, n_tokens)):
                    mean_probs[row].index_add_(0, top_indices[part].flatten(), top_probs[part].flatten() / count)
            summaries = None if embedding is None else matmul_wide(mean_probs, embedding)

        ctx.options, ctx.segments, ctx.compute_dtype, ctx.plan = options, segments, dtype, plan
        ctx.tied = embedding is weight
        ctx.save_for_backward(
            hidden,
            weight,
            bias,
            embedding,
            targets,
            mean_probs,
            top_indices,
            top_logits,
            *statistics.saved_for_backward,
        )
        ctx.mark_non_differentiable(statistics.is_top1)
        if not options.statistics:
            return None, None, None, mean_probs, summaries
        return statistics.log_probs, statistics.entropy, statistics.is_top1, mean_probs, summaries

    @staticmethod
    def backward(ctx, grad_log_probs, grad_entropy, _, grad_mean_probs, grad_summaries):
        hidden, weight, bias, embedding, targets, mean_probs, top_indices, top_logits, *saved = ctx.saved_tensors
        options, segments, dtype = ctx.options, ctx.segments, ctx.compute_dtype
        tiles, wide = _tiles_for(hidden.device), accumulation_dtype(dtype)
        needs_hidden, needs_weight, needs_bias, needs_embedding = ctx.needs_input_grad[:4]

        with torch.autocast(hidden.device.type, enabled=False), options.whole(weight, bias, embedding):
            grad_weight = weight.new_zeros(weight.shape, dtype=wide) if needs_weight else None
            grad_embedding = None
            if grad_summaries is not None and needs_embedding:
                # S = p̄ E. Tied: one buffer for both, as two V × d gradients of one parameter would be added up anyway
                if ctx.tied and grad_weight is not None:
                    addmm_wide_(grad_weight, mean_probs.t(), grad_summaries)
                else:
                    grad_embedding = outer(mean_probs, grad_summaries, embedding.dtype)

            grad_hidden = torch.zeros_like(hidden, dtype=wide) if needs_hidden else None
            grad_bias = bias.new_zeros(bias.shape, dtype=wide) if needs_bias else None
            incoming = (grad_log_probs, grad_entropy, grad_mean_probs, grad_summaries)
            if (needs_hidden or needs_weight or needs_bias) and any(grad is not None for grad in incoming):
                dense, sparse = None, None
                if options.pools_all:
                    dense = grad_mean_probs
                    if grad_summaries is not None:
                        pulled = matmul_wide_t(grad_summaries, embedding)
                        dense = pulled if dense is None else dense + pulled
                elif grad_summaries is not None or grad_mean_probs is not None:
                    sparse = _sparse_pull(
                        segments, options, embedding, top_indices, top_logits, grad_mean_probs, grad_summaries
                    )
                statistics = TokenStatistics.saved(*saved)
                gradients = HeadGradients(grad_log_probs, grad_entropy, dense)
                hidden_c, weight_c, bias_c = hidden.to(dtype), weight.to(dtype), finite(bias, dtype)
                n_tokens, vocab_size = hidden.size(0), weight.size(0)
                for tile, buffers in _buffers(tiles, ctx.plan.backward, 1, n_tokens, vocab_size, hidden_c, options):
                    project(hidden_c[tile], weight_c, bias_c, out=buffers[0])
                    grad = tiles.backward_tile(buffers, tile, targets, segments, options, statistics, gradients)
                    if sparse is not None:
                        grad.scatter_add_(1, top_indices[tile], sparse[tile].to(grad.dtype))
                    if grad_bias is not None:
                        grad_bias += grad.sum(0, dtype=wide)
                    grad = grad.to(dtype)
                    if grad_hidden is not None:
                        grad_hidden[tile] = mm_wide(grad, weight_c, wide)
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


def _plan(tiles, n_tokens, vocab_size, dtype, options, sweeps_weight_gradient) -> TilePlan:
    itemsize = tiles.buffer_dtype(dtype).itemsize
    forward, backward = tiles.buffer_counts(options)
    return plan_tiles(n_tokens, vocab_size, itemsize, forward, backward, sweeps_weight_gradient, options.tile_bytes)


def _buffers(tiles, step, direction, n_tokens, vocab_size, hidden, options):
    """The tiles of `step` tokens, each with its buffers; `direction` is 0 in the forward and 1 in the backward."""
    count, dtype = tiles.buffer_counts(options)[direction], tiles.buffer_dtype(hidden.dtype)
    buffers = hidden.new_empty(count, min(n_tokens, step), vocab_size, dtype=dtype)
    for start in range(0, n_tokens, step):
        tile = slice(start, min(start + step, n_tokens))
        yield tile, buffers[:, : tile.stop - start]


def _sparse_pull(
    segments: Segments,
    options: HeadOptions,
    embedding: torch.Tensor | None,
    top_indices: torch.Tensor,
    top_logits: torch.Tensor,
    grad_mean_probs: torch.Tensor | None,
    grad_summaries: torch.Tensor | None,
) -> torch.Tensor:
    """
    `∂L/∂z` of the alignment term at the `k` entries that each token mixes, `(N, k)`: `G` is only computed there.

    With `a = 1 / (|M| τ)` for a pooled token: `a·q[v]·(G[v] - Σ_w q[w] G[w])`, and the chain of the logits.
    """
    probs = (top_logits / options.temperature).softmax(-1)
    values = torch.zeros_like(probs)
    for row, part, count in segments.parts(slice(0, segments.n_tokens)):
        indices = top_indices[part]
        pull = torch.zeros_like(probs[part])
        if grad_mean_probs is not None:
            pull += grad_mean_probs[row][indices]
        if grad_summaries is not None:
            assert embedding is not None
            # Gathered embeddings take k × d per token: a few tokens at a time
            step = max(1, options.tile_bytes // (indices.size(1) * embedding.size(1) * probs.element_size()))
            for chunk, out in zip(indices.split(step), pull.split(step), strict=True):
                out += embedding[chunk].to(probs.dtype) @ grad_summaries[row].to(probs.dtype)
        inner = (probs[part] * pull).sum(-1, keepdim=True)
        values[part] = probs[part] * (pull - inner) / (count * options.temperature)
    return values * options.maths.chain_(top_logits.clone())


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
    inside autocast, as the model's own head would use). The backward recomputes the logits one tile at a time. Tiles
    are folded by Triton kernels on CUDA, if Triton is installed, and in torch elsewhere.

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
            Tokens of each of the `R` sequences to summarise, as non-empty ranges of `[0, N)` that ascend and do not
            overlap. Tokens outside all of them are scored but not pooled.
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
        ValueError: If a segment is empty or out of order, or `top_k` is larger than the vocabulary.
    """
    options = options or HeadOptions()
    placed = Segments(segments, hidden.size(0), hidden.device)
    targets = targets if options.statistics else None
    return SoftTokenHeadFunction.apply(hidden, weight, bias, embedding, targets, placed, options)
