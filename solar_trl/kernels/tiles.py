"""
One tile of full-vocabulary logits, folded forward and backward, in torch.

A tile holds the logits of a few tokens over the whole vocabulary. Everything SOLAR adds to the SFT loss happens while
such a tile is at hand, element-wise; no other tensor of tokens × vocabulary size ever exists.

Notation: `z` is the projection `h Wᵀ + b`, `u` are the model's own logits (after logit scale and soft cap), `p =
softmax(u)` the distribution of the SFT loss, `q = softmax(u / τ)` the one that mixes the embeddings (the same when
τ = 1).

`triton_tiles` has the twins of the functions here, with the same arguments; this is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .options import HeadOptions
from .plan import accumulation_dtype
from .segments import Segments


@dataclass
class TokenStatistics:
    """
    What the forward keeps of each token, `(N,)` in the accumulation dtype.

    Args:
        peak (`torch.Tensor`):
            Largest logit. Everything else is relative to it: the difference of two large logits is exact where their
            difference to a log-partition would not be.
        log_sum (`torch.Tensor`):
            `log Σ_v exp(u[v] - peak)`, so that `log p[v] = u[v] - peak - log_sum`.
        log_sum_tau (`torch.Tensor`):
            The same of `(u - peak) / τ`; `log_sum` itself where `q` is `p`.
        entropy (`torch.Tensor`), log_probs (`torch.Tensor`), is_top1 (`torch.Tensor` of dtype bool):
            Entropy of `p`, log-probability of the target, and whether the target is the (first) most likely token. The
            backward does not read the last two.
    """

    peak: torch.Tensor
    log_sum: torch.Tensor
    log_sum_tau: torch.Tensor
    entropy: torch.Tensor
    log_probs: torch.Tensor
    is_top1: torch.Tensor

    @classmethod
    def empty(cls, n_tokens: int, two_partitions: bool, dtype: torch.dtype, device: torch.device) -> TokenStatistics:
        peak, log_sum, log_probs, entropy = (torch.empty(n_tokens, dtype=dtype, device=device) for _ in range(4))
        log_sum_tau = torch.empty_like(log_sum) if two_partitions else log_sum
        is_top1 = torch.empty(n_tokens, dtype=torch.bool, device=device)
        return cls(peak, log_sum, log_sum_tau, entropy, log_probs, is_top1)

    @classmethod
    def saved(cls, *saved: torch.Tensor) -> TokenStatistics:
        """From what was saved; the backward does not read the rest."""
        peak, log_sum, log_sum_tau, entropy = saved
        return cls(peak, log_sum, log_sum_tau, entropy, log_probs=entropy, is_top1=entropy)

    @property
    def saved_for_backward(self) -> tuple[torch.Tensor, ...]:
        """What the backward reads."""
        return self.peak, self.log_sum, self.log_sum_tau, self.entropy


@dataclass
class HeadGradients:
    """
    Gradients that come into the backward; each is `None` if nothing flows there.

    Args:
        log_probs (`torch.Tensor` of shape `(N,)`), entropy (`torch.Tensor` of shape `(N,)`):
            With respect to the outputs of the SFT loss.
        mean_probs (`torch.Tensor` of shape `(R, V)`):
            `G = ∂L/∂p̄`; only where the whole vocabulary is mixed.
    """

    log_probs: torch.Tensor | None
    entropy: torch.Tensor | None
    mean_probs: torch.Tensor | None


def buffer_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    """Dtype of a buffer of logits."""
    return accumulation_dtype(compute_dtype)


def buffer_counts(options: HeadOptions) -> tuple[int, int]:
    """Buffers of tokens × V that [`forward_tile`] and [`backward_tile`] need."""
    # The gradient needs a buffer of its own where `u` is still wanted (soft cap), and so does q
    return 2, 2 + (options.maths.softcap is not None) + options.two_partitions


def forward_tile(
    buffers: torch.Tensor,
    tile: slice,
    targets: torch.Tensor | None,
    segments: Segments,
    options: HeadOptions,
    statistics: TokenStatistics,
    mean_probs: torch.Tensor,
) -> None:
    """
    Fold a tile into the statistics of its tokens and, where the whole vocabulary is mixed, into `p̄`.

    Args:
        buffers (`torch.Tensor` of shape `(buffers, n, V)`):
            The first one holds the projection `z` of the `n` tokens. All are overwritten.
        tile (`slice`):
            The tokens, as a range of `[0, N)`.
        targets (`torch.Tensor` of shape `(N,)`, *optional*):
            `None` where nothing is scored.
        segments ([`Segments`]):
            Which tokens are pooled.
        options ([`HeadOptions`]):
            Settings.
        statistics ([`TokenStatistics`]):
            Written at `tile`.
        mean_probs (`torch.Tensor` of shape `(R, V)`):
            Added to.
    """
    u, e = buffers
    options.maths.logits_(u)
    peak, arg_peak = u.max(-1)
    u.sub_(peak.unsqueeze(1))
    torch.exp(u, out=e)
    sum_e = e.sum(-1)
    statistics.peak[tile], statistics.log_sum[tile] = peak, sum_e.log()
    if targets is not None:
        # The first of several equal maxima counts as the prediction, as in `argmax`
        statistics.is_top1[tile] = arg_peak == targets[tile]
        statistics.log_probs[tile] = u.gather(1, targets[tile].unsqueeze(1)).squeeze(1) - sum_e.log()
        # H = log Z - Σ p u; the row-wise dot products need no third buffer
        statistics.entropy[tile] = sum_e.log() - torch.bmm(e.unsqueeze(1), u.unsqueeze(2)).flatten() / sum_e
    if not options.pools_all:
        return
    if options.two_partitions:
        torch.mul(u, 1 / options.temperature, out=e).exp_()
        sum_e = e.sum(-1)
        statistics.log_sum_tau[tile] = sum_e.log()
    for row, part, count in segments.parts(tile):
        mean_probs[row].addmv_(e[part].t(), 1 / (count * sum_e[part]))


def backward_tile(
    buffers: torch.Tensor,
    tile: slice,
    targets: torch.Tensor | None,
    segments: Segments,
    options: HeadOptions,
    statistics: TokenStatistics,
    gradients: HeadGradients,
) -> torch.Tensor:
    """
    Turn a recomputed tile into the gradient with respect to the projection, `∂L/∂z`.

    With `g` the gradient of the target's log-probability, `h` that of the entropy `H`, `G = ∂L/∂p̄` and `a =
    1 / (|M| τ)` for a pooled token:

        ∂L/∂u[v] = g·(1[v = target] - p[v]) - h·p[v]·(log p[v] + H) + a·q[v]·(G[v] - Σ_w q[w] G[w])

    then the chain through soft cap and scale, `scale·(1 - (u / cap)²)`.

    Args:
        buffers (`torch.Tensor` of shape `(buffers, n, V)`):
            The first one holds the projection `z` of the `n` tokens. All are overwritten.
        tile (`slice`), targets (`torch.Tensor`), segments ([`Segments`]), options ([`HeadOptions`]):
            As in [`forward_tile`].
        statistics ([`TokenStatistics`]):
            Read at `tile`.
        gradients ([`HeadGradients`]):
            What comes in.

    Returns:
        `torch.Tensor` of shape `(n, V)`: The gradient, in one of the buffers.
    """
    maths, tau = options.maths, options.temperature
    u, p, *spare = buffers
    maths.logits_(u)
    log_sum = statistics.log_sum[tile].unsqueeze(1)
    torch.sub(u, statistics.peak[tile].unsqueeze(1), out=p)
    q = p
    if gradients.mean_probs is not None and options.two_partitions:
        q = torch.mul(p, 1 / tau, out=spare.pop()).sub_(statistics.log_sum_tau[tile].unsqueeze(1)).exp_()
    entropy_part = None
    if gradients.entropy is None:
        p.sub_(log_sum).exp_()
    else:
        entropy_part = p + (statistics.entropy[tile].unsqueeze(1) - log_sum)
        p.sub_(log_sum).exp_()
        entropy_part.mul_(p).mul_(-gradients.entropy[tile].unsqueeze(1))
    # Without a soft cap the chain is a number, and `u` is not wanted any more
    grad, chain = (u, None) if maths.softcap is None else (spare.pop(), maths.chain_(u))

    coefficient = torch.zeros_like(statistics.log_sum[tile])
    if gradients.log_probs is not None:
        coefficient -= gradients.log_probs[tile]
    pulls = []
    if gradients.mean_probs is not None:
        for row, part, count in segments.parts(tile):
            pull = gradients.mean_probs[row] / (count * tau)
            inner = torch.mv(q[part], pull)
            pulls.append((part, pull, inner))
            if q is p:
                coefficient[part] -= inner
    torch.mul(p, coefficient.unsqueeze(1), out=grad)
    for part, pull, inner in pulls:
        grad[part].addcmul_(q[part], pull.unsqueeze(0))
        if q is not p:
            grad[part].addcmul_(q[part], inner.unsqueeze(1), value=-1)
    if gradients.log_probs is not None and targets is not None:
        grad.scatter_add_(1, targets[tile].unsqueeze(1), gradients.log_probs[tile].to(grad.dtype).unsqueeze(1))
    if entropy_part is not None:
        grad.add_(entropy_part)
    if chain is not None:
        grad.mul_(chain)
    elif maths.scale != 1.0:
        grad.mul_(maths.scale)
    return grad
