"""How close the states of parallel sentences are, one pair of languages at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .inputs import TIE, check_labels, check_pair, check_states, unit_pair


def cross_lingual_similarity(pivot: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """
    Mean cosine of parallel rows beside that of rows that are not parallel.

    The first number alone says little: in most models all states point in similar directions. Only `difference` tells
    alignment from collapse.

    Args:
        pivot (`np.ndarray` of shape `(n, d)`):
            States of the pivot language, any float dtype (computed in float64), `n >= 2`.
        other (`np.ndarray` of shape `(n, d)`):
            States of another language; row `i` is parallel to row `i` of `pivot`.

    Returns:
        `dict[str, float]`: `matched` (mean over `i` of cos(pivot_i, other_i)), `random` (mean over all `i != j` of
        cos(pivot_i, other_j)) and their `difference`.

    Raises:
        ValueError: If the shapes differ, there are fewer than two rows, or a row is zero or not finite.

    Examples:
    ```python
    >>> import numpy as np
    >>> from solar_trl.analysis import cross_lingual_similarity

    >>> cross_lingual_similarity(np.eye(3), np.eye(3))
    {'matched': 1.0, 'random': 0.0, 'difference': 1.0}
    ```
    """
    pivot, other = unit_pair(pivot, other)
    n = len(pivot)
    matched_sum = float((pivot * other).sum())
    # The sum over all n² pairs is the product of two sums: no (n, n) matrix
    all_sum = float(pivot.sum(0) @ other.sum(0))
    matched, random = matched_sum / n, (all_sum - matched_sum) / (n * (n - 1))
    return {"matched": matched, "random": random, "difference": matched - random}


def mexa_score(pivot: np.ndarray, other: np.ndarray) -> float:
    """
    MEXA alignment score (arXiv:2410.05873): how often a sentence is nearest to its own translation, both ways.

    The share of `i` whose parallel cosine c_ii is greater than every c_ij and every c_ji, `j != i`. Ties count as
    misses, so collapsed states score 0. Chance falls with `n`: compare scores at equal `n` only (the paper uses 100),
    and take the mean or maximum over layers for one number per language, as the paper does.

    Args:
        pivot (`np.ndarray` of shape `(n, d)`):
            States of the pivot language, any float dtype (computed in float64), `n >= 2`.
        other (`np.ndarray` of shape `(n, d)`):
            States of another language; row `i` is parallel to row `i` of `pivot`.

    Returns:
        `float`: Score in [0, 1].

    Raises:
        ValueError: If the shapes differ, there are fewer than two rows, or a row is zero or not finite.

    Examples:
    ```python
    >>> import numpy as np
    >>> from solar_trl.analysis import mexa_score

    >>> mexa_score(np.eye(4), np.eye(4)[[0, 1, 3, 2]])
    0.5
    ```
    """
    matched, nearest_other, nearest_pivot = _matched_and_rivals(pivot, other)
    rival = np.maximum(nearest_other, nearest_pivot)
    return float((matched > rival + TIE).mean())


def retrieval_accuracy(pivot: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """
    How often the nearest row of the other language, by cosine, is the translation: both directions.

    Strict: a row whose parallel cosine is only equalled by another one is a miss, so collapsed states score 0. Chance
    is `1 / n`: compare at equal `n` only.

    Args:
        pivot (`np.ndarray` of shape `(n, d)`):
            States of the pivot language, any float dtype (computed in float64), `n >= 2`.
        other (`np.ndarray` of shape `(n, d)`):
            States of another language; row `i` is parallel to row `i` of `pivot`.

    Returns:
        `dict[str, float]`: `to_pivot` (rows of `other` ask, rows of `pivot` are searched), `from_pivot` (the other way
        round) and their `mean`, each in [0, 1].

    Raises:
        ValueError: If the shapes differ, there are fewer than two rows, or a row is zero or not finite.

    Examples:
    ```python
    >>> import numpy as np
    >>> from solar_trl.analysis import retrieval_accuracy

    >>> retrieval_accuracy(np.eye(4), np.eye(4)[[0, 1, 3, 2]])
    {'to_pivot': 0.5, 'from_pivot': 0.5, 'mean': 0.5}
    ```
    """
    matched, nearest_other, nearest_pivot = _matched_and_rivals(pivot, other)
    from_pivot = float((matched > nearest_other + TIE).mean())
    to_pivot = float((matched > nearest_pivot + TIE).mean())
    return {"to_pivot": to_pivot, "from_pivot": from_pivot, "mean": (to_pivot + from_pivot) / 2}


def neuronxa_score(pivot: Mapping[int, np.ndarray], other: Mapping[int, np.ndarray]) -> float:
    """
    NeuronXA alignment score: the mean over layers of [`mexa_score`] on states of feed-forward neurons.

    Compare at equal numbers of pairs only (the paper uses 100). NASCA and NAVCA of the paper are the scores of the
    states `"nas"` and `"nav"`.

    Args:
        pivot (`dict[int, np.ndarray]`):
            Layer to `(n, neurons)`, from [`neuron_state_summaries`], of the pivot language.
        other (`dict[int, np.ndarray]`):
            The same layers of another language; row `i` is parallel to row `i` of `pivot`.

    Returns:
        `float`: Score in [0, 1].

    Raises:
        ValueError: If the layers differ or there are none, and as [`mexa_score`].
    """
    if not pivot or set(pivot) != set(other):
        raise ValueError(
            f"`pivot` and `other` must hold the same layers, at least one, got {sorted(pivot)} and {sorted(other)}."
        )
    return float(np.mean([mexa_score(pivot[layer], other[layer]) for layer in pivot]))


def centered_similarity(pivot: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """
    [`cross_lingual_similarity`] after removing each language's mean state: what is left when neither a direction that
    all states share nor one that tells the languages apart counts.

    Args:
        pivot (`np.ndarray` of shape `(n, d)`):
            States of the pivot language, any float dtype (computed in float64), `n >= 2`.
        other (`np.ndarray` of shape `(n, d)`):
            States of another language; row `i` is parallel to row `i` of `pivot`.

    Returns:
        `dict[str, float]`: `matched`, `random` and `difference`; NaN where a row equals its language's mean, as all do
        in a collapsed language: it has no direction then.

    Raises:
        ValueError: If the shapes differ, there are fewer than two rows, or a row is zero or not finite.
    """
    pivot, other = check_pair(pivot, other)
    sides = ["pivot"] * len(pivot) + ["other"] * len(other)
    centered = center_languages(np.concatenate([pivot, other]), sides)
    if not centered.any(axis=1).all():
        return dict.fromkeys(("matched", "random", "difference"), float("nan"))
    return cross_lingual_similarity(centered[: len(pivot)], centered[len(pivot) :])


def center_languages(states: np.ndarray, languages: Sequence[str]) -> np.ndarray:
    """
    Remove the mean of each language, so that what a language's states share does not count as (dis)similarity.

    Args:
        states (`np.ndarray` of shape `(n, d)`):
            States of all languages, any float dtype.
        languages (`Sequence[str]` of length `n`):
            Language of each row.

    Returns:
        `np.ndarray` of shape `(n, d)`: Centred states, float64. A row that is its language's mean, to 12 digits, is
        exactly zero: its cosine is not defined.

    Raises:
        ValueError: If the lengths differ, or a row is zero or not finite.
    """
    states = check_states("states", states)
    labels = check_labels("languages", languages, len(states))
    centered = np.empty_like(states)
    for language in set(labels):
        rows = np.flatnonzero(labels == language)
        centered[rows] = states[rows] - states[rows].mean(axis=0)
    # What rounding leaves of a row that equals the mean would be a direction drawn by chance
    centered[np.abs(centered).max(axis=1) <= 1e-12 * np.abs(states).max(axis=1)] = 0
    return centered


def _matched_and_rivals(pivot: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pair its cosine, and that of either side with the nearest row that is not its translation."""
    pivot, other = unit_pair(pivot, other)
    cosines = pivot @ other.T
    matched = cosines.diagonal().copy()
    np.fill_diagonal(cosines, -np.inf)
    return matched, cosines.max(axis=1), cosines.max(axis=0)
