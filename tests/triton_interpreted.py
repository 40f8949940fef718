"""
The Triton tiles under Triton's interpreter, on CPU tensors.

Run by `test_triton.py`, as `TRITON_INTERPRET=1` must be set before anything imports Triton.
"""

import itertools

import pytest
import torch
import triton
import triton.language as tl
from test_kernels import MATHS, errors, in_float64, inputs, loss_of, naive, run

from solar_trl.kernels import HeadMaths, HeadOptions, head, soft_token_head, tiles, triton_kernels, triton_tiles
from solar_trl.kernels.plan import accumulation_dtype
from solar_trl.kernels.segments import Segments
from solar_trl.kernels.tiles import HeadGradients, TokenStatistics


N, V = 20, 123  # two tiles of 10 tokens where the budget is tight
SEGMENTS = [(0, 5), (5, 6), (8, 20)]  # ragged, one token, a gap, across tiles


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last one not full, and several chunks of tokens that end in the middle of segments."""
    monkeypatch.setattr(triton_tiles, "BLOCK", 64)
    monkeypatch.setattr(triton_tiles, "POOL_BLOCKS", (64,))
    monkeypatch.setattr(triton_tiles, "POOL_SIZE", 4 * 64)


def few(dtype=torch.float64, shrink=1):
    hidden, weight, bias, embedding, targets = inputs(dtype)
    return (hidden.detach()[:N] / shrink).requires_grad_(), weight, bias, embedding, targets[:N]


def test_the_head_takes_this_path():
    assert head._tiles_for(torch.device("cpu")) is triton_tiles


@pytest.mark.parametrize("maths", MATHS)
def test_float64(maths):
    for temperature, top_k in [(1.0, None), (0.6, None), (1.7, None), (1.0, 5), (0.6, 5)]:
        options = HeadOptions(maths, temperature, top_k, tile_bytes=1)
        expected, top1 = run(naive, few(), SEGMENTS, options)
        got, got_top1 = run(soft_token_head, few(), SEGMENTS, options)
        assert max(errors(got, expected)) < 1e-12, options
        assert torch.equal(got_top1, top1)


@pytest.mark.parametrize("maths", MATHS)
def test_float32(maths):
    for temperature in (1.0, 0.6):
        args = few(torch.float32, shrink=2)
        options = HeadOptions(maths, temperature)
        expected, _ = run(naive, in_float64(args, tied=False), SEGMENTS, options)
        got, _ = run(soft_token_head, args, SEGMENTS, options)
        assert max(errors(got, expected)) < 1e-6, options


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_naive(dtype):
    """Error-relative: |ours - truth| ≤ |naive in the same dtype - truth| + a little."""
    for maths, temperature, top_k in zip(MATHS, [1.0, 0.6, 1.7], [None, None, V], strict=True):
        options = HeadOptions(maths, temperature, top_k)
        truth, _ = run(naive, in_float64(few(dtype), tied=False), SEGMENTS, options)
        got, _ = run(soft_token_head, few(dtype), SEGMENTS, options)
        reference, _ = run(naive, few(dtype), SEGMENTS, options)
        for ours, theirs in zip(errors(got, truth), errors(reference, truth), strict=True):
            assert ours <= 1.1 * theirs + 2e-3, options


def test_autocast():
    args = few(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = soft_token_head(*args, SEGMENTS)
    same = soft_token_head(*(x.detach().bfloat16() for x in args[:3]), *args[3:], SEGMENTS)
    assert torch.equal(out[0], same[0]) and torch.equal(out[4], same[4])
    grads = torch.autograd.grad(loss_of(out[0], out[1], out[4]), args[:4])
    assert all(grad.dtype == torch.float32 for grad in grads)


class Tile:
    """One tile of logits, for both modules."""

    def __init__(self, z, options, segments=(), targets=None, n_tokens=None, start=0):
        self.z, self.options, self.targets = z, options, targets
        self.tile = slice(start, start + len(z))
        self.n_tokens = self.tile.stop if n_tokens is None else n_tokens
        self.segments = Segments(segments, self.n_tokens, z.device)

    def empty(self, wide):
        statistics = TokenStatistics.empty(self.n_tokens, self.options.two_partitions, wide, self.z.device)
        for values in vars(statistics).values():
            values.zero_()  # what a tile leaves alone can then be compared
        return statistics, torch.zeros(len(self.segments), self.z.size(1), dtype=wide)

    def buffers(self, module, direction):
        """Rows are further apart than they are long, and hold what must neither be read nor written."""
        count = module.buffer_counts(self.options)[direction]
        padded = torch.full((count, len(self.z), self.z.size(1) + 5), 1e30, dtype=module.buffer_dtype(self.z.dtype))
        padded[0, :, : self.z.size(1)] = self.z
        return padded[:, :, : self.z.size(1)], padded[:, :, self.z.size(1) :]

    def forward(self, module, wide=None):
        buffers, _ = self.buffers(module, 0)
        statistics, mean_probs = self.empty(wide or accumulation_dtype(self.z.dtype))
        module.forward_tile(buffers, self.tile, self.targets, self.segments, self.options, statistics, mean_probs)
        return statistics, mean_probs

    def backward(self, module, statistics, gradients):
        buffers, padding = self.buffers(module, 1)
        grad = module.backward_tile(
            buffers, self.tile, self.targets, self.segments, self.options, statistics, gradients
        )
        assert torch.equal(padding, torch.full_like(padding, 1e30))
        return grad

    def gradients(self, wide, which=(True, True, True)):
        generator = torch.Generator().manual_seed(1)
        shapes = [(self.n_tokens,), (self.n_tokens,), (len(self.segments), self.z.size(1))]
        random = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(wide) for shape in shapes]
        return HeadGradients(*(x if wanted else None for x, wanted in zip(random, which, strict=True)))

    def agree(self, tolerance, which=(True, True, True)):
        wide = accumulation_dtype(self.z.dtype)
        (expected, expected_probs), (got, probs) = self.forward(tiles), self.forward(triton_tiles)
        for name, values in vars(expected).items():
            torch.testing.assert_close(getattr(got, name), values, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(probs, expected_probs, rtol=tolerance, atol=tolerance)
        gradients = self.gradients(wide, which)
        reference = self.backward(tiles, expected, gradients)
        grad = self.backward(triton_tiles, expected, gradients)
        assert grad.dtype == self.z.dtype
        torch.testing.assert_close(grad, reference, rtol=tolerance, atol=tolerance)


def logits(n, vocab_size=V, dtype=torch.float64, spread=3.0):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, vocab_size, generator=generator, dtype=torch.float64) * spread).to(dtype)


TARGETS = torch.arange(40) * 7 % V


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("options", [HeadOptions(), HeadOptions(HeadMaths(-0.7, 4.0), 0.6)], ids=["plain", "all"])
def test_whatever_gradient_comes_in(options, pools):
    for which in itertools.product([True, False], repeat=3):
        Tile(logits(7), options, [(0, 3), (4, 7)] if pools else [], TARGETS[:7]).agree(1e-12, which)


def test_without_statistics():
    for temperature in (1.0, 0.6):
        options = HeadOptions(temperature=temperature, statistics=False)
        Tile(logits(6), options, [(1, 6)]).agree(1e-12, (False, False, True))
    hidden, weight, bias, embedding, targets = few()
    out = soft_token_head(hidden, weight, bias, embedding, None, SEGMENTS, options)
    expected = naive(hidden, weight, bias, embedding, targets, SEGMENTS, options)
    assert out[:3] == (None, None, None)
    leaves = [hidden, weight, bias, embedding]
    got, truth = (torch.autograd.grad(x.square().sum(), leaves) for x in (out[4], expected[3]))
    assert max(errors([out[4], *got], [expected[3], *truth])) < 1e-12


def test_any_tile_of_any_shape():
    """In the middle of the tokens, one token, one column, segments that begin and end elsewhere or do not reach in."""
    segments = [(0, 2), (3, 4), (4, 5), (5, 6), (9, 30), (31, 33), (35, 40)]
    options = HeadOptions(temperature=1.7)
    for start, n in [(0, 1), (2, 1), (1, 9), (2, 11), (29, 9), (30, 1), (33, 2), (12, 5)]:
        Tile(logits(n), options, segments, TARGETS, n_tokens=40, start=start).agree(1e-12)
    for vocab_size in (1, 2, 63, 64, 65, 128):
        targets = torch.arange(3) % vocab_size
        Tile(logits(3, vocab_size), HeadOptions(), [(0, 3)], targets).agree(1e-12)


def test_offsets_beyond_32_bits():
    """Rows so far apart that the last one begins past 2³¹ elements; what lies between is never touched."""
    tile = Tile(logits(3, 8, torch.bfloat16), HeadOptions(), [(0, 3)], TARGETS[:3] % 8)
    far_apart = torch.empty(2**31 + 64, dtype=torch.bfloat16).as_strided((3, 8), (2**30 + 16, 1)).copy_(tile.z)
    expected, expected_probs = tile.forward(triton_tiles)
    arguments = (far_apart[None], tile.tile, tile.targets, tile.segments, tile.options)
    got, probs = tile.empty(torch.float32)
    triton_tiles.forward_tile(*arguments, got, probs)
    assert torch.equal(probs, expected_probs) and torch.equal(got.log_probs, expected.log_probs)
    gradients = tile.gradients(torch.float32)
    grad = triton_tiles.backward_tile(*arguments, got, gradients)
    assert torch.equal(grad, tile.backward(triton_tiles, expected, gradients))


def test_no_token_no_launch():
    tile = Tile(logits(0), HeadOptions(), [], TARGETS[:0])
    statistics, mean_probs = tile.forward(triton_tiles)
    assert statistics.peak.shape == (0,) and mean_probs.shape == (0, V)
    assert tile.backward(triton_tiles, statistics, tile.gradients(torch.float64)).shape == (0, V)
    hidden, weight, bias, embedding, targets = few()
    out = soft_token_head(hidden[:0], weight, bias, embedding, targets[:0], [])
    grads = torch.autograd.grad(out[0].sum() + out[4].sum(), [hidden, weight], allow_unused=True)
    assert all(grad.abs().sum() == 0 for grad in grads)


def test_expanded_gradients():
    """Autograd hands in what `sum` sends back: one number, expanded."""
    args = few()
    got, expected = (
        torch.autograd.grad(sum(out[i].sum() for i in indices), args[:2])
        for out, indices in (
            (soft_token_head(*args, SEGMENTS), (0, 1, 4)),
            (naive(*args, SEGMENTS, HeadOptions()), (0, 1, 3)),
        )
    )
    assert max(errors(got, expected)) < 1e-12
    out = soft_token_head(*args[:3], None, args[4], SEGMENTS)
    (zero,) = torch.autograd.grad(out[3].sum(), args[0])  # p̄ adds up to 1 whatever comes in
    assert zero.abs().max() < 1e-12


def test_transposed_targets_and_gradients():
    tile = Tile(logits(8), HeadOptions(), [(0, 8)], TARGETS[:16].view(2, 8).t().contiguous().view(8, 2)[:, 1])
    assert not tile.targets.is_contiguous()
    tile.agree(1e-12)


# Of lanes beyond the vocabulary, whose results go nowhere
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_extreme_logits_are_exact(dtype, temperature):
    """Differences of large logits are exact; their difference to a log-partition of 1e4 would not be."""
    for spread in (1e4, 1e-4):
        z = logits(5, dtype=dtype, spread=spread)
        z[0] = z[0].clamp(max=-1e4)  # all far below 0
        z[1, :-1] = -1e4  # what counts comes last
        near = spread * (1 + torch.arange(40, dtype=dtype) / 2**20)
        z[2, :40] = near * 3  # a crowd at the top
        exact = Tile(z.double(), HeadOptions(temperature=temperature), [(0, 5)], TARGETS[:5])
        tile = Tile(z, exact.options, [(0, 5)], TARGETS[:5])
        (expected, expected_probs), (got, probs) = exact.forward(tiles), tile.forward(triton_tiles)
        small = 2e-6 if dtype == torch.float32 else 1e-12
        for name, values in vars(expected).items():
            torch.testing.assert_close(getattr(got, name), values.to(getattr(got, name).dtype), rtol=small, atol=small)
        torch.testing.assert_close(probs, expected_probs.to(dtype), rtol=small, atol=small)
        grads = (
            each.backward(module, statistics, each.gradients(each.z.dtype)).double()
            for each, module, statistics in ((exact, tiles, expected), (tile, triton_tiles, got))
        )
        expected_grad, grad = grads
        torch.testing.assert_close(grad, expected_grad, rtol=small, atol=2 * small / temperature)


def test_precise_soft_cap():
    """Of logits far below the cap, tanh is no coarser than anything else in float32."""
    z = logits(6, dtype=torch.float32, spread=0.5)
    options = HeadOptions(HeadMaths(softcap=50.0))
    exact, tile = (Tile(x, options, [], TARGETS[:6]) for x in (z.double(), z))
    (expected, _), (got, _) = exact.forward(tiles), tile.forward(triton_tiles)
    assert (got.peak - expected.peak).abs().max() < 4e-7
    assert (got.log_probs - expected.log_probs).abs().max() < 1e-6


@triton.jit
def tanh_kernel(x, out, PRECISE: tl.constexpr, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    tl.store(out + lanes, triton_kernels._tanh(tl.load(x + lanes), PRECISE))


def test_tanh():
    # On both sides of 1/2, where one formula gives way to the other, and far out
    far = torch.tensor([1e-30, -1e-30, 1e-4, 9.0, -9.0, 50.0, 1e38, -1e38])
    x = torch.cat([torch.linspace(-1.2, 1.2, 1016), far])
    out = torch.empty_like(x)
    tanh_kernel[(1,)](x, out, PRECISE=True, BLOCK=1024)
    truth = x.double().tanh()
    assert ((out - truth) / truth).abs().max() < 3e-7
    for rounded in (x, x.double()):
        out = torch.empty_like(rounded)
        tanh_kernel[(1,)](rounded, out, PRECISE=False, BLOCK=1024)
        assert (out - truth).abs().max() < 2 * torch.finfo(out.dtype).eps


def test_masked_vocabulary():
    """Logits of -inf are tokens that do not exist."""
    z = logits(5)
    real = torch.arange(V) % 3 == 0
    real[:64] = False  # a whole block
    masked = z.masked_fill(~real, float("-inf"))
    targets = torch.arange(5)
    options = HeadOptions(temperature=0.6)
    tile = Tile(masked, options, [(0, 5)], real.nonzero()[:, 0][targets])
    small = Tile(z[:, real], options, [(0, 5)], targets)
    (expected, expected_probs), (got, probs) = small.forward(tiles), tile.forward(triton_tiles)
    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(got, name), values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(probs[:, real], expected_probs, rtol=1e-12, atol=1e-15)
    assert (probs[:, ~real] == 0).all()
    gradients = tile.gradients(torch.float64)
    grad = tile.backward(triton_tiles, got, gradients)
    gradients.mean_probs = gradients.mean_probs[:, real]
    torch.testing.assert_close(grad[:, real], small.backward(tiles, expected, gradients), rtol=1e-12, atol=1e-12)
    assert (grad[:, ~real] == 0).all()


def test_ties_for_the_most_likely_token():
    """The first of several equal maxima is the prediction, within a block and across blocks."""
    z = logits(6, dtype=torch.bfloat16)
    ties = [(3, 9), (3, 100), (70, 71), (0, 122), (63, 64), (5, 5)]
    for token, pair in enumerate(ties):
        z[token, list(pair)] = 20.0
    for which in (0, 1):
        targets = torch.tensor([pair[which] for pair in ties])
        for maths in (HeadMaths(), HeadMaths(scale=100.0, softcap=2.0)):  # the cap makes more ties
            tile = Tile(z, HeadOptions(maths), [], targets)
            expected, got = tile.forward(tiles)[0].is_top1, tile.forward(triton_tiles)[0].is_top1
            assert torch.equal(got, expected)
            assert maths.softcap or torch.equal(got, targets == z.argmax(-1))


def test_unknown_target_shows():
    """A target outside the vocabulary reads nothing, its log-probability is no number, and it is not the top one."""
    got, _ = Tile(logits(3), HeadOptions(), [], torch.tensor([-100, 5, V])).forward(triton_tiles)
    assert got.log_probs.isnan().tolist() == [True, False, True]
    assert not got.is_top1[[0, 2]].any()


def test_equal_inputs_give_equal_bits():
    options = HeadOptions(HeadMaths(0.5, 3.0), 0.6)
    tile = Tile(logits(9, dtype=torch.bfloat16), options, [(0, 6), (7, 9)], TARGETS[:9])
    (first, probs), (second, same_probs) = tile.forward(triton_tiles), tile.forward(triton_tiles)
    assert torch.equal(probs, same_probs)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))
    gradients = tile.gradients(torch.float32)
    assert torch.equal(*(tile.backward(triton_tiles, first, gradients) for _ in range(2)))


def test_only_what_needs_a_gradient_gets_one():
    for frozen in range(4):
        args = list(few())
        args[0], args[4] = args[0].detach()[:4].requires_grad_(), args[4][:4]
        args[frozen] = args[frozen].detach()
        out = soft_token_head(*args, [(0, 3)])
        loss_of(out[0], out[1], out[4]).backward()
        assert [x.grad is not None for x in args[:4]] == [i != frozen for i in range(4)]


def test_a_tile_takes_one_buffer_of_the_compute_dtype():
    for options in (HeadOptions(), HeadOptions(HeadMaths(softcap=3.0), 0.6)):
        assert triton_tiles.buffer_counts(options) == (1, 1)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert triton_tiles.buffer_dtype(dtype) == dtype
    tile = Tile(logits(4, dtype=torch.bfloat16), HeadOptions(), [(0, 4)], TARGETS[:4])
    statistics, _ = tile.forward(triton_tiles)
    buffers, _ = tile.buffers(triton_tiles, 1)
    gradients = tile.gradients(torch.float32)
    grad = triton_tiles.backward_tile(
        buffers, tile.tile, tile.targets, tile.segments, tile.options, statistics, gradients
    )
    assert grad.data_ptr() == buffers.data_ptr()
