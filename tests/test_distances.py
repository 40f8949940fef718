"""Each distance equals its formula, written with loops in float64; values and gradients."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_cosine
from reference_objectives import (
    reference_centroid,
    reference_info_nce,
    reference_kl,
    reference_mmd,
    reference_mse,
    reference_shared_tokens,
)

from solar_trl.data.matching import match_tails, shared_tokens
from solar_trl.objectives import (
    DISTANCES,
    Candidates,
    DistanceSettings,
    Pairs,
    alignment_loss,
    centroids,
    pair_distances,
)


ITEMS = [7, 3, 7, 5, 3, 7]  # three, two and one translation of an item, mixed


def vectors(n, d=5, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, d, generator=generator, dtype=torch.float64)).requires_grad_()


def paired_vectors(items, d=5, seed=0):
    """Translations of an item share its pivot, as in a batch."""
    distinct = sorted(set(items))
    aligned, pivots = vectors(len(items), d, seed), vectors(len(distinct), d, seed + 1)
    return aligned, pivots, pivots[[distinct.index(item) for item in items]]


def assert_same(got, expected, inputs):
    """Values, and gradients under weights that differ by pair."""
    torch.testing.assert_close(got, torch.stack(list(expected)), rtol=1e-10, atol=1e-12)
    weights = torch.arange(1, len(got) + 1, dtype=torch.float64)
    ours = torch.autograd.grad((got * weights).sum(), inputs, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad((torch.stack(list(expected)) * weights).sum(), inputs, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        a, b = (torch.zeros(1, dtype=torch.float64) if x is None else x for x in (a, b))
        torch.testing.assert_close(a, b.expand_as(a), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "reference"), [("cosine", lambda a, b: 1 - reference_cosine(a, b)), ("mse", reference_mse)]
)
def test_pairwise(name, reference):
    aligned, pivots = vectors(4), vectors(4, seed=1)
    got = pair_distances(aligned, pivots, name)
    expected = [reference(a, b) for a, b in zip(aligned, pivots, strict=True)]
    assert_same(got, expected, [aligned, pivots])
    torch.testing.assert_close(alignment_loss(aligned, pivots, name), sum(expected) / 4)
    assert torch.autograd.gradcheck(lambda a, b: pair_distances(a, b, name), [aligned, pivots])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("negatives", ["items", "naive"])
@pytest.mark.parametrize("direction", ["to_pivot", "from_pivot", "both"])
def test_info_nce(direction, negatives, normalize):
    options = {"direction": direction, "negatives": negatives, "normalize": normalize, "temperature": 0.7}
    for items in (ITEMS, [1, 2, 3], [4, 4, 4], [9]):
        aligned, distinct, pivots = paired_vectors(items)
        got = pair_distances(
            aligned, pivots, "info_nce", items=torch.tensor(items), settings=DistanceSettings(**options)
        )
        assert_same(got, reference_info_nce(list(aligned), list(pivots), items, **options), [aligned, distinct])
        assert (got >= 0).all()
    aligned, _, pivots = paired_vectors(ITEMS)
    settings_ = DistanceSettings(**options)
    assert torch.autograd.gradcheck(
        lambda a, b: pair_distances(a, b, "info_nce", items=torch.tensor(ITEMS), settings=settings_), [aligned, pivots]
    )


@pytest.mark.parametrize("negatives", ["items", "naive"])
@pytest.mark.parametrize("direction", ["to_pivot", "from_pivot", "both"])
def test_info_nce_with_candidates_of_other_ranks(direction, negatives):
    """The pairs' own candidates stand behind those of lower ranks; an item may also be on another rank."""
    aligned, distinct, pivots = paired_vectors(ITEMS)
    before, after = vectors(3, seed=5), vectors(2, seed=6)
    items_before, items_after = [3, 11, 11], [12, 5]
    items = [*items_before, *ITEMS, *items_after]

    def candidates(own):
        return Candidates(torch.cat([before, own, after]), torch.tensor(items), first=3)

    pairs = Pairs(
        aligned, pivots, torch.tensor(ITEMS), other_pivots=candidates(pivots), other_aligned=candidates(aligned)
    )
    options = {"direction": direction, "negatives": negatives, "temperature": 0.3}
    got = DISTANCES["info_nce"].function(pairs, DistanceSettings(**options))
    expected = reference_info_nce(
        list(aligned),
        list(pivots),
        ITEMS,
        other_pivots=list(zip([*before, *pivots, *after], items, strict=True)),
        other_aligned=list(zip([*before, *aligned, *after], items, strict=True)),
        first=3,
        **options,
    )
    assert_same(got, expected, [aligned, distinct, before, after])


def test_info_nce_without_negatives_is_zero():
    aligned, _, pivots = paired_vectors([4, 4, 4])
    for direction in ("to_pivot", "from_pivot", "both"):
        got = pair_distances(
            aligned, pivots, "info_nce", items=torch.tensor([4, 4, 4]), settings=DistanceSettings(direction=direction)
        )
        assert got.tolist() == [0, 0, 0]
        (grad,) = torch.autograd.grad(got.sum(), aligned, retain_graph=True)
        assert grad.abs().max() == 0
    naive = pair_distances(
        aligned, pivots, "info_nce", items=torch.tensor([4, 4, 4]), settings=DistanceSettings(negatives="naive")
    )
    assert (naive > 0.1).all()


def test_info_nce_far_from_underflow():
    """A temperature of 0.001 in float32: exponentials of ±1000."""
    aligned, _, pivots = paired_vectors(ITEMS)
    aligned, pivots = (x.detach().float().requires_grad_() for x in (aligned, pivots))
    got = pair_distances(
        aligned, pivots, "info_nce", items=torch.tensor(ITEMS), settings=DistanceSettings(temperature=1e-3)
    )
    grads = torch.autograd.grad(got.sum(), [aligned, pivots])
    assert got.isfinite().all() and all(grad.isfinite().all() for grad in grads)


def clouds(lengths, width, d=4, seed=0):
    values = vectors(len(lengths) * width, d, seed).detach().view(len(lengths), width, d)
    mask = torch.tensor([[k < length for k in range(width)] for length in lengths])
    return (values * mask.unsqueeze(-1)).requires_grad_(), mask


def test_mmd():
    lengths, pivot_lengths = [5, 1, 3], [2, 4, 1]
    x, x_mask = clouds(lengths, 6)
    y, y_mask = clouds(pivot_lengths, 4, seed=1)
    got = DISTANCES["mmd"].function(Pairs(x, y, aligned_mask=x_mask, pivot_mask=y_mask), DistanceSettings())
    expected = [reference_mmd(list(x[i, : lengths[i]]), list(y[i, : pivot_lengths[i]])) for i in range(len(lengths))]
    assert_same(got, expected, [x, y])
    assert (got >= 0).all() and (got <= 2).all()

    def function(x):
        return DISTANCES["mmd"].function(
            Pairs(x, y.detach(), aligned_mask=x_mask, pivot_mask=y_mask), DistanceSettings()
        )

    assert torch.autograd.gradcheck(function, [x])


def test_mmd_ignores_order_repetition_masked_tokens_and_scale():
    x, _ = clouds([5], 5)
    y, _ = clouds([3], 3, seed=1)
    got = pair_distances(x, y, "mmd")
    shuffled = x[:, torch.tensor([3, 0, 4, 1, 2])]
    torch.testing.assert_close(pair_distances(shuffled, y, "mmd"), got)
    torch.testing.assert_close(pair_distances(x.repeat(1, 2, 1), y.repeat(1, 3, 1), "mmd"), got)
    torch.testing.assert_close(pair_distances(1000 * x, 1000 * y, "mmd"), got)
    padded = torch.cat([x, torch.full_like(x, 9.0)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 5])
    torch.testing.assert_close(DISTANCES["mmd"].function(Pairs(padded, y, aligned_mask=mask), DistanceSettings()), got)
    for same in (x, shuffled, x.repeat(1, 4, 1)):
        assert abs(pair_distances(same, x, "mmd").item()) < 1e-12
        single = pair_distances(same.float(), x.float(), "mmd")
        assert abs(single.item()) < 1e-6
        (grad,) = torch.autograd.grad(single.sum(), x)
        assert grad.isfinite().all() and grad.abs().max() < 1e-4
    # Means that agree are not enough, unlike for the cosine of means
    other = torch.cat([x.mean(1, keepdim=True)], dim=1)
    assert pair_distances(x, other, "mmd").item() > 0.1
    assert pair_distances(x, x + 3, "mmd") > pair_distances(x, x + 0.3, "mmd") > 1e-4


def test_mmd_of_zero_clouds_is_finite():
    zeros = torch.zeros(2, 3, 4, requires_grad=True)
    got = pair_distances(zeros, torch.zeros(2, 3, 4), "mmd")
    (grad,) = torch.autograd.grad(got.sum(), zeros)
    assert got.tolist() == [0, 0] and grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.1, 6.0])
def test_kl(temperature):
    x, y = vectors(3 * 4, 6).view(3, 4, 6), vectors(3 * 5, 6, seed=1).view(3, 5, 6)
    inputs = [x.detach().requires_grad_(), y.detach().requires_grad_()]
    matches = torch.tensor([[[0, 2], [1, 3], [3, 4]], [[2, 0], [-1, -1], [-1, -1]], [[-1, -1]] * 3])
    got = DISTANCES["kl"].function(Pairs(*inputs, matches=matches), DistanceSettings(temperature=temperature))
    expected = [
        reference_kl(inputs[0][i], inputs[1][i], [(a, b) for a, b in matches[i].tolist() if a >= 0], temperature)
        for i in range(3)
    ]
    assert_same(got, expected, inputs)
    assert got[2] == 0 and (got[:2] > 0).all()
    # Not symmetric: the pivot is the one whose probabilities weight
    swapped = DISTANCES["kl"].function(
        Pairs(inputs[1], inputs[0], matches=matches.flip(-1)), DistanceSettings(temperature=temperature)
    )
    assert (swapped[:2] - got[:2]).abs().min() > 1e-3


def test_kl_between_a_model_and_itself_and_where_nothing_is_shared():
    x = vectors(2 * 3, 6).detach().view(2, 3, 6).requires_grad_()
    matches = torch.tensor([[[0, 0], [2, 2]]] * 2)
    assert DISTANCES["kl"].function(Pairs(x, x.detach(), matches=matches), DistanceSettings()).abs().max() < 1e-12
    nothing = match_tails([([1, 2], [3, 4]), ([5], [6, 7])])
    assert nothing.shape == (2, 0, 2)
    got = DISTANCES["kl"].function(Pairs(x, x.detach(), matches=nothing), DistanceSettings())
    (grad,) = torch.autograd.grad(got.sum(), x)
    assert got.tolist() == [0, 0] and grad.abs().max() == 0


def test_centroids():
    aligned, distinct, pivots = paired_vectors(ITEMS)
    got = centroids(Pairs(aligned, pivots, torch.tensor(ITEMS)))
    expected = [reference_centroid(i, list(aligned), list(pivots), ITEMS) for i in range(len(ITEMS))]
    torch.testing.assert_close(got, torch.stack(expected))
    ours = torch.autograd.grad(got.square().sum(), [aligned, distinct], retain_graph=True)
    theirs = torch.autograd.grad(torch.stack(expected).square().sum(), [aligned, distinct])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(got[3], pivots[3])  # the only translation of its item
    layers = torch.stack([aligned, 2 * aligned], dim=1)
    both = centroids(Pairs(layers, torch.stack([pivots, 3 * pivots], dim=1), torch.tensor(ITEMS)))
    torch.testing.assert_close(both[:, 0], got)
    torch.testing.assert_close(both[:, 1], centroids(Pairs(2 * aligned, 3 * pivots, torch.tensor(ITEMS))))


@pytest.mark.parametrize("name", list(DISTANCES))
def test_no_pairs_give_a_differentiable_zero(name):
    shape = (0, 3, 5) if DISTANCES[name].of_clouds else (0, 5)
    aligned, pivots = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    mask = torch.zeros(0, 3, dtype=torch.bool) if DISTANCES[name].of_clouds else None
    for direction in ("to_pivot", "from_pivot", "both"):
        got = DISTANCES[name].function(
            Pairs(
                aligned,
                pivots,
                torch.zeros(0, dtype=torch.int64),
                aligned_mask=mask,
                pivot_mask=mask,
                matches=torch.zeros(0, 0, 2, dtype=torch.int64),
            ),
            DistanceSettings(direction=direction),
        )
        assert got.shape == (0,)
        grads = torch.autograd.grad(got.sum(), [aligned, pivots])
        assert all(grad.shape == shape for grad in grads)
    assert centroids(Pairs(torch.zeros(0, 5), torch.zeros(0, 5))).shape == (0, 5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([7, 9, 7, 2], [7, 8, 2], [(2, 0), (3, 2)]),  # the later 7, though an earlier one would do
        ([7, 8, 2], [7, 9, 7, 2], [(0, 2), (2, 3)]),
        ([5, 6], [6, 5], [(0, 1)]),  # crossing: the one that is last in the second
        ([], [1], []),
        ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_shared_tokens_by_hand(first, second, expected):
    assert shared_tokens(first, second) == expected == reference_shared_tokens(first, second)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_shared_tokens_are_a_longest_common_subsequence(first, second):
    assert shared_tokens(first, second) == reference_shared_tokens(first, second)


def test_matches_are_filled_up():
    rng = random.Random(0)
    tails = [([rng.randrange(4) for _ in range(n)], [rng.randrange(4) for _ in range(m)]) for n, m in ((5, 3), (1, 6))]
    matches = match_tails([*tails, ([1], [2])])
    for (first, second), row in zip([*tails, ([1], [2])], matches.tolist(), strict=True):
        expected = reference_shared_tokens(first, second)
        assert [tuple(pair) for pair in row if pair[0] >= 0] == expected
        assert row[len(expected) :] == [[-1, -1]] * (matches.size(1) - len(expected))
    assert match_tails([]).shape == (0, 0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3), "mmd"), r"shape \(P, K, d\)"),
        ((torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), "cosine"), r"shape \(P, d\), got \(2, 1, 3\)"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), "kl"), "Unknown distance 'kl'"),
    ],
)
def test_bad_shapes(arguments, message):
    with pytest.raises(ValueError, match=message):
        pair_distances(*arguments)
