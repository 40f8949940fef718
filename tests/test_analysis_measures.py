"""Measures of pairs and pools against brute force, and at their limits."""

import numpy as np
import pytest

from solar_trl.analysis import (
    center_languages,
    centered_similarity,
    cross_lingual_similarity,
    incline_fit,
    language_pair_matrix,
    mexa_score,
    mixed_pool_map,
    mmd,
    neuronxa_score,
    principal_components,
    project_states,
    retrieval_accuracy,
)


def cosine(x, y):
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def parallel(n=23, d=6, noise=0.8, seed=0):
    rng = np.random.default_rng(seed)
    pivot = rng.normal(size=(n, d)) + 0.5
    return pivot, pivot + noise * rng.normal(size=(n, d))


def retrieval_reference(asking, searched):
    hits = 0
    for i, query in enumerate(asking):
        own = cosine(query, searched[i])
        hits += all(own > cosine(query, searched[j]) for j in range(len(searched)) if j != i)
    return hits / len(asking)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5])
def test_retrieval_matches_brute_force(noise):
    pivot, other = parallel(noise=noise)
    to_pivot, from_pivot = retrieval_reference(other, pivot), retrieval_reference(pivot, other)
    assert retrieval_accuracy(pivot, other) == {
        "to_pivot": to_pivot,
        "from_pivot": from_pivot,
        "mean": (to_pivot + from_pivot) / 2,
    }
    if noise == 1.5:
        assert 0 < to_pivot < 1 and to_pivot != from_pivot  # otherwise the comparison is empty


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_retrieval_ties_are_misses(dtype):
    rows = np.random.default_rng(0).normal(size=(10, 37)).astype(dtype)
    assert retrieval_accuracy(rows, rows)["mean"] == 1
    repeated = rows.copy()
    repeated[7] = repeated[3]
    assert retrieval_accuracy(repeated, repeated)["mean"] == 0.8
    # Two equal rows on one side are a tie for those who search that side only
    assert retrieval_accuracy(rows, repeated)["from_pivot"] == 0.8
    collapsed = np.tile(rows[:1], (10, 1))
    assert retrieval_accuracy(collapsed, collapsed)["mean"] == 0


def test_identical_languages_score_one_and_shuffled_ones_chance():
    rng = np.random.default_rng(0)
    n = 400
    pivot = rng.normal(size=(n, 32))
    assert mexa_score(pivot, pivot) == retrieval_accuracy(pivot, pivot)["mean"] == 1
    layers = {1: pivot, 2: np.abs(pivot)}
    assert neuronxa_score(layers, layers) == 1
    shuffled = pivot[np.roll(np.arange(n), 1)]
    assert mexa_score(pivot, shuffled) == retrieval_accuracy(pivot, shuffled)["mean"] == 0
    unrelated = [rng.normal(size=(n, 32)) for _ in range(20)]
    # 1 / n by chance: 20 hits of 20 × 400 expected, within five standard deviations
    hits = sum(retrieval_accuracy(pivot, other)["from_pivot"] for other in unrelated) * n
    assert 1 <= hits <= 45
    assert np.mean([mexa_score(pivot, other) for other in unrelated]) < 3 / n


def test_neuronxa_is_the_mean_over_layers():
    first, second = parallel(noise=1.0), parallel(noise=2.0, seed=1)
    pivot, other = {1: first[0], 2: second[0]}, {2: second[1], 1: first[1]}
    assert neuronxa_score(pivot, other) == pytest.approx((mexa_score(*first) + mexa_score(*second)) / 2)
    assert mexa_score(*first) != mexa_score(*second)
    with pytest.raises(ValueError, match=r"same layers.*\[1, 2\] and \[1\]"):
        neuronxa_score(pivot, {1: first[1]})


def test_centered_similarity_matches_brute_force():
    pivot, other = parallel()
    other = other + np.array([5.0, 0, 0, -3, 0, 0])  # a language's own direction
    a, b = pivot - np.mean(pivot, 0), other - np.mean(other, 0)
    n = len(a)
    matched = np.mean([cosine(a[i], b[i]) for i in range(n)])
    random = np.mean([cosine(a[i], b[j]) for i in range(n) for j in range(n) if i != j])
    found = centered_similarity(pivot, other)
    assert found == pytest.approx({"matched": matched, "random": random, "difference": matched - random}, abs=1e-12)
    assert found["matched"] > cross_lingual_similarity(pivot, other)["matched"] + 0.1
    assert centered_similarity(pivot, other + 100) == pytest.approx(found)


def test_center_languages_by_loops():
    rng = np.random.default_rng(0)
    states, languages = rng.normal(size=(9, 3)), ["en", "sw", "en", "th", "sw", "en", "th", "en", "ne"]
    centered = center_languages(states, languages)
    for i in range(8):
        rows = [j for j in range(9) if languages[j] == languages[i]]
        np.testing.assert_allclose(centered[i], states[i] - sum(states[j] for j in rows) / len(rows))
    assert not centered[8].any()  # the only row of its language is its mean


@pytest.mark.parametrize("n", [3, 6, 7, 11])
def test_collapsed_language_has_no_centered_cosine(n):
    # Rounding would leave directions drawn by chance
    collapsed = np.tile(np.random.default_rng(0).normal(size=(1, 50)), (n, 1))
    assert (collapsed - collapsed.mean(axis=0)).any()
    pivot = np.random.default_rng(1).normal(size=(n, 50))
    assert np.isnan(list(centered_similarity(pivot, collapsed).values())).all()


def map_reference(states, ids):
    """Sort the whole pool for each query, wrong rows first among equals."""
    precisions = {}
    for query in range(len(states)):
        pool = [row for row in range(len(states)) if row != query]
        right = {row for row in pool if ids[row] == ids[query]}
        if not right:
            continue
        ranked = sorted(pool, key=lambda row: (-round(cosine(states[query], states[row]), 11), row in right))
        hits = [rank for rank, row in enumerate(ranked, start=1) if row in right]
        precisions[query] = np.mean([(i + 1) / rank for i, rank in enumerate(hits)])
    return precisions


@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_mixed_pool_map_matches_brute_force(noise, block_bytes, monkeypatch):
    monkeypatch.setattr("solar_trl.analysis.pool._BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    content, shift = rng.normal(size=(8, 5)), rng.normal(size=(3, 5))
    rows = [(lang, item) for lang in range(3) for item in range(8) if (lang, item) not in {(1, 2), (2, 2), (2, 5)}]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    languages, ids = [("en", "sw", "th")[lang] for lang, _ in rows], [item for _, item in rows]
    states = np.stack([content[item] + shift[lang] + noise * rng.normal(size=5) for lang, item in rows])
    states[5] = states[11]  # ties
    expected = map_reference(states, ids)
    found = mixed_pool_map(states, languages, ids)
    assert found["queries"] == len(expected) == 20 and found["unpaired"] == 1  # item 2 is there in one language only
    assert found["map"] == pytest.approx(np.mean(list(expected.values())))
    for language, value in found["by_language"].items():
        assert value == pytest.approx(np.mean([v for row, v in expected.items() if languages[row] == language]))
    assert 0.2 < found["map"] < 0.99


def test_mixed_pool_asks_for_more_than_retrieval():
    """Translations are nearest across languages, but rows of the own language are nearer still."""
    content = np.eye(4, 6)
    states = np.concatenate([content + 3 * np.eye(6)[4], content + 3 * np.eye(6)[5]])
    assert retrieval_accuracy(states[:4], states[4:])["mean"] == 1
    found = mixed_pool_map(states, ["en"] * 4 + ["sw"] * 4, [0, 1, 2, 3] * 2)
    assert found["map"] == pytest.approx(1 / 4)  # behind the three others of its language
    same = mixed_pool_map(np.tile(content, (2, 1)), ["en"] * 4 + ["sw"] * 4, [0, 1, 2, 3] * 2)
    assert same["map"] == 1
    assert mixed_pool_map(np.ones((8, 2)), ["en"] * 4 + ["sw"] * 4, [0, 1, 2, 3] * 2)["map"] == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("match", "languages", "ids"),
    [
        ("Language en has the id 0 more than once", ["en", "en", "sw"], [0, 0, 0]),
        ("No row has a translation", ["en", "sw", "th"], [0, 1, "0"]),
        (r"`parallel_ids` has shape \(2,\)", ["en", "sw", "th"], [0, 1]),
        (r"`languages` has shape \(1,\)", ["en"], [0, 1, 2]),
    ],
)
def test_bad_input_to_mixed_pool(match, languages, ids):
    with pytest.raises(ValueError, match=match):
        mixed_pool_map(np.eye(3), languages, ids)


def test_incline_matches_the_normal_equations():
    pivot, other = parallel(n=40, d=4, noise=0.5)
    linear_map = np.linalg.inv(other.T @ other) @ other.T @ pivot
    residual = ((other @ linear_map - pivot) ** 2).sum() / (pivot**2).sum()
    deviation = np.sqrt(((linear_map.T @ linear_map - np.eye(4)) ** 2).sum() / 4)
    found = incline_fit(pivot, other)
    assert found["residual"] == pytest.approx(residual) and 0.01 < residual < 0.5
    assert found["orthogonality_deviation"] == pytest.approx(deviation)
    # Leave one out needs no knowledge of the folds
    errors, baseline = 0.0, 0.0
    for i in range(40):
        x, y = np.delete(other, i, 0), np.delete(pivot, i, 0)
        errors += ((other[i] @ np.linalg.inv(x.T @ x) @ x.T @ y - pivot[i]) ** 2).sum()
        baseline += ((y.mean(0) - pivot[i]) ** 2).sum()
    assert incline_fit(pivot, other, folds=40)["held_out_fit"] == pytest.approx(1 - errors / baseline)
    assert incline_fit(pivot, other, folds=99) == pytest.approx(incline_fit(pivot, other, folds=40))


def test_incline_knows_a_rotation_and_a_scaling():
    rng = np.random.default_rng(0)
    pivot = rng.normal(size=(50, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    found = incline_fit(pivot, pivot @ rotation.T)
    assert found == pytest.approx({"residual": 0, "held_out_fit": 1, "orthogonality_deviation": 0}, abs=1e-9)
    halved = incline_fit(pivot, 2 * pivot)  # W = I / 2, so WᵀW - I = -3/4 I
    assert halved["orthogonality_deviation"] == pytest.approx(0.75)
    unrelated = incline_fit(pivot, rng.normal(size=(50, 5)))
    assert unrelated["residual"] > 0.7 and unrelated["held_out_fit"] < 0.1


def test_incline_fits_anything_with_more_columns_than_rows_but_not_what_is_held_out():
    rng = np.random.default_rng(0)
    found = incline_fit(rng.normal(size=(20, 60)), rng.normal(size=(20, 60)))
    assert found["residual"] == pytest.approx(0, abs=1e-9) and found["held_out_fit"] < 0.1
    assert np.isnan(incline_fit(np.ones((5, 2)), rng.normal(size=(5, 2)))["held_out_fit"])
    with pytest.raises(ValueError, match="`folds` is 1"):
        incline_fit(np.eye(3), np.eye(3), folds=1)


def test_principal_components_keep_lengths_and_angles():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 12)) + 3
    reduced = principal_components(states.astype(np.float32), 5)
    assert reduced.shape == (30, 5)
    np.testing.assert_allclose(reduced @ reduced.T, states @ states.T, rtol=1e-4, atol=1e-3)
    one = principal_components(states, 1)
    np.testing.assert_allclose(np.linalg.norm(one), np.linalg.svd(states)[1][0], rtol=1e-6)
    with pytest.raises(ValueError, match="`components` is 13, expected 1 to 12"):
        principal_components(states, 13)


def mmd_reference(pivot, other, bandwidth=None):
    rows = [*pivot, *other]
    if bandwidth is None:
        bandwidth = np.mean([((x - y) ** 2).sum() for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])

    def kernel(x, y):
        scales = [0.1, 0.2, 0.5, 1, 2, 5, 10]
        return np.mean([s * bandwidth / (s * bandwidth + ((x - y) ** 2).sum()) for s in scales])

    def mean(a, b):
        return np.mean([kernel(x, y) for x in a for y in b])

    return mean(pivot, pivot) + mean(other, other) - 2 * mean(pivot, other)


@pytest.mark.parametrize("bandwidth", [None, 3.0])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_mmd_matches_brute_force(bandwidth, shift):
    pivot, other = parallel(n=12)
    other = other[:9] + shift + 1e6  # far from the origin, where differences of squares lose digits
    expected = mmd_reference(pivot + 1e6, other, bandwidth)
    assert mmd(pivot + 1e6, other, bandwidth) == pytest.approx(expected, rel=1e-6)


def test_mmd_at_its_limits():
    pivot, other = parallel(n=50)
    assert mmd(pivot, pivot) == mmd(np.ones((4, 2)), np.ones((4, 2))) == 0
    assert mmd(pivot, pivot[::-1]) == pytest.approx(0, abs=1e-12)  # order does not matter
    assert mmd(7 * pivot, 7 * other) == pytest.approx(mmd(pivot, other))
    assert 2 > mmd(pivot, pivot + 100) > 5 * mmd(pivot, pivot + 1) > 0
    # The default bandwidth of standard normal states is 2d
    normal = np.random.default_rng(0).normal(size=(2, 400, 16))
    assert mmd(*normal) == pytest.approx(mmd(*normal, bandwidth=32.0), rel=0.05)
    with pytest.raises(ValueError, match="`bandwidth` is 0"):
        mmd(pivot, other, bandwidth=0)
    with pytest.raises(ValueError, match="6 columns but `other` has 5"):
        mmd(pivot, other[:, :5])


def _three_languages(n=11, d=6):
    rng = np.random.default_rng(0)
    content = rng.normal(size=(n, d))
    parts = {lang: content + noise * rng.normal(size=(n, d)) for lang, noise in (("en", 0.2), ("sw", 0.9), ("th", 1))}
    return parts, np.concatenate(list(parts.values())), [lang for lang in parts for _ in range(n)], list(range(n)) * 3


@pytest.mark.parametrize("measure", ["retrieval", "mexa", "random", "centered_difference"])
def test_language_pairs_match_one_pair_at_a_time(measure):
    parts, states, languages, ids = _three_languages()
    order = np.random.default_rng(1).permutation(len(ids))  # rows are paired by id
    found = language_pair_matrix(states[order], [languages[i] for i in order], [ids[i] for i in order], measure)
    assert sorted(found["languages"]) == ["en", "sw", "th"] and not found["warnings"]
    values = []
    for i, row in enumerate(found["languages"]):
        for j, column in enumerate(found["languages"]):
            assert found["pairs"][i][j] == 11
            if i == j:
                assert found["values"][i][j] is None
                continue
            a, b = parts[row], parts[column]
            expected = {
                "retrieval": lambda a=a, b=b: retrieval_reference(a, b),
                "mexa": lambda a=a, b=b: mexa_score(a, b),
                "random": lambda a=a, b=b: cross_lingual_similarity(a, b)["random"],
                "centered_difference": lambda a=a, b=b: centered_similarity(a, b)["difference"],
            }[measure]()
            assert found["values"][i][j] == pytest.approx(expected, abs=1e-12)
            values.append(expected)
    assert len({round(value, 9) for value in values}) > 2


def test_language_pairs_without_common_items_are_named():
    states = np.random.default_rng(0).normal(size=(7, 3))
    found = language_pair_matrix(states, ["en"] * 3 + ["sw"] * 2 + ["th"] * 2, [0, 1, 2, 0, 1, 2, 3])
    assert found["values"][0][1] is not None and found["values"][0][2] is None and found["values"][1][2] is None
    assert found["pairs"] == [[3, 2, 1], [2, 2, 0], [1, 0, 2]]
    assert found["warnings"] == [
        "2 pairs of languages have fewer than two common items, or states without a direction: en-th, sw-th."
    ]
    with pytest.raises(ValueError, match="Unknown measure 'mmd'"):
        language_pair_matrix(states, ["en"] * 3 + ["sw"] * 2 + ["th"] * 2, [0, 1, 2, 0, 1, 2, 3], "mmd")


def test_pca_map_is_that_of_the_singular_vectors():
    _, states, languages, _ = _three_languages()
    found = project_states(states.astype(np.float32), languages)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    left, scales, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    expected = left[:, :2] * scales[:2]
    points = np.array(found["points"])
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-4)
    share = scales**2 / (scales**2).sum()
    assert found["axes"] == [f"PC {i + 1} ({share[i]:.0%} of variance)" for i in range(2)]
    assert found["languages"] == languages


def test_tsne_map_keeps_clusters_together():
    rng = np.random.default_rng(0)
    states = np.concatenate([rng.normal(size=(20, 8)) * 0.1 + 5 * np.eye(8)[i] for i in range(3)])
    languages = np.repeat(["en", "sw", "th"], 20)
    first = project_states(states, languages, "tsne")
    points = np.array(first["points"])
    centres = np.stack([points[languages == lang].mean(0) for lang in ("en", "sw", "th")])
    nearest = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    assert (nearest == np.repeat([0, 1, 2], 20)).all()
    assert project_states(states, languages, "tsne") == first  # seeded
    with pytest.raises(ValueError, match="'pca' or 'tsne'"):
        project_states(states, languages, "umap")
    with pytest.raises(ValueError, match="`perplexity` is 60"):
        project_states(states, languages, "tsne", perplexity=60)
    with pytest.raises(ValueError, match="at least 4 rows"):
        project_states(states[:3], languages[:3])
