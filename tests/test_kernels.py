"""The fused head against float64 autograd, and its memory."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from solar_trl.kernels import TILE_BYTES, EffectiveEmbedding, HeadMaths, HeadOptions, linalg, soft_token_head
from solar_trl.objectives import soft_token_summary


N, V, D = 45, 123, 13
SEGMENTS = [(0, 11), (11, 12), (20, 45)]  # ragged, one token, a gap that is scored but not pooled
MATHS = [HeadMaths(), HeadMaths(scale=0.5, softcap=3.0), HeadMaths(scale=2.0)]


def inputs(dtype=torch.float64, tied=False, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()  # noqa: E731
    hidden, weight = random(N, D), random(V, D)
    embedding = weight if tied else random(V, 7)
    targets = torch.randint(V, (N,), generator=generator)
    return hidden, weight, random(V) if bias else None, embedding, targets


def naive(hidden, weight, bias, embedding, targets, segments, options):
    """The same in plain autograd, with the readable reference for the summaries."""
    logits = hidden @ weight.T
    logits = (logits if bias is None else logits + bias) * options.maths.scale
    if options.maths.softcap:
        logits = options.maths.softcap * torch.tanh(logits / options.maths.softcap)
    log_p = logits.log_softmax(-1)
    mask = torch.zeros(len(segments), len(hidden), dtype=torch.bool)
    for row, (start, stop) in enumerate(segments):
        mask[row, start:stop] = True
    rows = logits.unsqueeze(0).expand(len(segments), -1, -1)
    summaries = soft_token_summary(rows, embedding, mask, options.temperature, options.top_k)
    top1 = logits.argmax(-1) == targets
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1), top1, summaries


def loss_of(log_probs, entropy, summaries):
    coefficients = torch.linspace(-1, 1, len(log_probs), dtype=torch.float64).to(log_probs.dtype)
    # Linear in the summaries: the cosine of two summaries that are nearly the same would cancel digits by itself
    pull = torch.linspace(-3, 5, summaries.numel(), dtype=torch.float64).to(summaries.dtype).view_as(summaries)
    return (log_probs * coefficients).sum() + 0.3 * (entropy * coefficients.flip(0)).sum() + (summaries * pull).sum()


def run(function, args, segments, options):
    log_probs, entropy, top1, *rest = function(*args, segments, options)
    summaries = rest[-1]
    loss = loss_of(log_probs, entropy, summaries)
    leaves = list(dict.fromkeys(x for x in args[:4] if x is not None))
    return [log_probs, entropy, summaries, *torch.autograd.grad(loss, leaves)], top1


def errors(got, expected):
    return [((g.double() - e).norm() / e.norm().clamp(min=1e-30)).item() for g, e in zip(got, expected, strict=True)]


CASES = list(itertools.product(MATHS, [1.0, 0.6, 1.7], [None, 1, 5, V], [True, False]))


@pytest.mark.parametrize("tile_bytes", [1, TILE_BYTES], ids=["tiles of 15 tokens", "one tile"])
@pytest.mark.parametrize("bias", [True, False])
def test_float64(bias, tile_bytes, monkeypatch):
    monkeypatch.setattr(linalg, "VOCAB_BLOCK", 50)
    for maths, temperature, top_k, tied in CASES:
        options = HeadOptions(maths, temperature, top_k, tile_bytes=tile_bytes)
        expected, top1 = run(naive, inputs(tied=tied, bias=bias), SEGMENTS, options)
        got, got_top1 = run(soft_token_head, inputs(tied=tied, bias=bias), SEGMENTS, options)
        assert max(errors(got, expected)) < 1e-12, options
        assert torch.equal(got_top1, top1)


def in_float64(args, tied):
    """The very numbers of low-precision inputs, in float64."""
    hidden, weight, bias, embedding, targets = args
    wide = [None if x is None else x.detach().double().requires_grad_() for x in (hidden, weight, bias, embedding)]
    return (*wide[:3], wide[1] if tied else wide[3], targets)


def test_float32():
    for maths, temperature, top_k, tied in CASES:
        options = HeadOptions(maths, temperature, top_k)
        hidden, *rest = inputs(torch.float32, tied=tied)
        # Logits of up to ±30; at ±60 rounding them alone would cost 1e-6
        args = ((hidden.detach() / 2).requires_grad_(), *rest)
        expected, _ = run(naive, in_float64(args, tied), SEGMENTS, options)
        got, _ = run(soft_token_head, args, SEGMENTS, options)
        assert max(errors(got, expected)) < 1e-6, options


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_naive(dtype):
    """Error-relative: |ours - truth| ≤ |naive in the same dtype - truth| + a little."""
    for maths, temperature, top_k, tied in CASES:
        if top_k not in (None, V):
            continue  # near-ties at rank k are decided by rounding
        options = HeadOptions(maths, temperature, top_k)
        low = inputs(dtype, tied=tied)
        truth, _ = run(naive, in_float64(low, tied), SEGMENTS, options)
        got, _ = run(soft_token_head, low, SEGMENTS, options)
        reference, _ = run(naive, inputs(dtype, tied=tied), SEGMENTS, options)
        for ours, theirs in zip(errors(got, truth), errors(reference, truth), strict=True):
            assert ours <= 1.1 * theirs + 2e-3, options


def test_gradcheck():
    shapes = [(6, 4), (11, 4), (11,), (11, 3)]
    args = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    targets = torch.randint(11, (6,))
    for maths, temperature, top_k in itertools.product(MATHS, [1.0, 1.7], [None, 5]):
        options = HeadOptions(maths, temperature, top_k)

        def function(hidden, weight, bias, embedding, options=options):
            out = soft_token_head(hidden, weight, bias, embedding, targets, [(0, 2), (2, 6)], options)
            return out[0], out[1], out[3], out[4]

        assert torch.autograd.gradcheck(function, args)


def test_only_what_needs_a_gradient_gets_one():
    for frozen in range(4):
        args = list(inputs())
        args[frozen] = args[frozen].detach()
        out = soft_token_head(*args, SEGMENTS)
        loss_of(out[0], out[1], out[4]).backward()
        assert [x.grad is not None for x in args[:4]] == [i != frozen for i in range(4)]


def test_detached_tied_embedding():
    """The gradient through E stops, the one through the logits does not."""
    hidden, weight, bias, _, targets = inputs(tied=True)
    out = soft_token_head(hidden, weight, bias, weight.detach(), targets, SEGMENTS)
    (got,) = torch.autograd.grad(out[4].sum(), weight)
    expected_out = naive(hidden, weight, bias, weight.detach(), targets, SEGMENTS, HeadOptions())
    (expected,) = torch.autograd.grad(expected_out[3].sum(), weight)
    assert errors([got], [expected])[0] < 1e-12


def test_nothing_to_score_or_to_pool():
    hidden, weight, bias, embedding, targets = inputs()
    out = soft_token_head(hidden, weight, bias, embedding, targets, [])
    assert out[4].shape == (0, 7)
    (out[0].sum() + out[4].sum()).backward()
    assert hidden.grad.abs().sum() > 0
    empty = soft_token_head(hidden[:0], weight, bias, embedding, targets[:0], [])
    grads = torch.autograd.grad(empty[0].sum() + empty[4].sum(), [hidden, weight], allow_unused=True)
    assert all(grad is not None and grad.abs().sum() == 0 for grad in grads)
    with pytest.raises(ValueError, match="at least one token"):
        soft_token_head(hidden, weight, bias, embedding, targets, [(3, 3)])


def test_extreme_logits_stay_finite():
    for scale in (1e4, 1e-4):
        hidden, weight, bias, embedding, targets = inputs(torch.float32)
        hidden = (hidden.detach() * scale).requires_grad_()
        for options in (HeadOptions(), HeadOptions(temperature=0.1), HeadOptions(top_k=3)):
            out = soft_token_head(hidden, weight, bias, embedding, targets, SEGMENTS, options)
            loss = loss_of(out[0], out[1], out[4])
            assert loss.isfinite()
            assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, [hidden, weight]))


def test_tokens_that_are_masked_out():
    """A bias of -inf, as for the rows that pad a vocabulary: the same as without these tokens."""
    hidden, weight, bias, embedding, targets = inputs()
    targets = targets % 100
    masked = bias.detach().clone()
    masked[100:] = -torch.inf
    for options in (HeadOptions(), HeadOptions(HeadMaths(scale=2.0), temperature=1.7), HeadOptions(top_k=5)):
        got, _ = run(soft_token_head, (hidden, weight, masked.requires_grad_(), embedding, targets), SEGMENTS, options)
        short = [x.detach()[:100].clone().requires_grad_() for x in (weight, bias, embedding)]
        expected, _ = run(naive, (hidden, *short, targets), SEGMENTS, options)
        assert max(errors([x[:100] if len(x) == V else x for x in got], expected)) < 1e-12
        assert all(x.isfinite().all() for x in got)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    hidden, weight, bias, embedding, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        out = soft_token_head(hidden, weight, bias, embedding, targets, SEGMENTS)
    grads = torch.autograd.grad(loss_of(out[0], out[1], out[4]), [hidden, weight, bias, embedding])
    assert out[0].dtype == out[4].dtype == torch.float32
    assert all(grad.dtype == torch.float32 for grad in grads)
    low = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    same = soft_token_head(*low, embedding, targets, SEGMENTS)
    assert torch.equal(out[0], same[0]) and torch.equal(out[4], same[4])


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def test_no_tensor_of_tokens_times_vocabulary():
    tokens, vocab = 320, 500
    hidden = torch.randn(tokens, 8, requires_grad=True)
    weight = torch.randn(vocab, 8, requires_grad=True)
    targets = torch.randint(vocab, (tokens,))

    def largest(function):
        with LargestTensor() as mode:
            out = function()
            (out[0].sum() + out[-1].sum()).backward()
        return mode.elements

    for options in (HeadOptions(HeadMaths(softcap=5.0), 1.5, tile_bytes=1), HeadOptions(top_k=4, tile_bytes=1)):
        segments = [(i, i + 40) for i in range(0, tokens, 40)]
        fused = largest(lambda: soft_token_head(hidden, weight, None, weight, targets, segments, options))  # noqa: B023
        assert fused <= 4 * 16 * vocab  # four buffers of 16 tokens
    # The recorder would have caught it
    plain = HeadOptions()
    assert largest(lambda: naive(hidden, weight, None, weight, targets, [(0, tokens)], plain)) >= tokens * vocab


def test_effective_embedding_mix():
    generator = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((20, 6), (3, 20), (6, 3)))
    rows, indices = torch.randn(2, 6, generator=generator, dtype=torch.float64), torch.tensor([4, 9])
    full = weight.index_copy(0, indices, rows) + 0.5 * (b @ a).T
    probs = torch.rand(5, 20, generator=generator, dtype=torch.float64)
    embedding = EffectiveEmbedding(weight, [(a, b, 0.5)], [(indices, rows)])
    torch.testing.assert_close(embedding.mix(probs), probs @ full)
