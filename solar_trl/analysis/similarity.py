"""How close parallel sentences are, and how far apart languages: numbers from pooled states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


# Cosines this close are ties: identical rows of float32 states may differ by this much in a float64 product
_TIE = 1e-12


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
    pivot, other = _unit_pair(pivot, other)
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
    pivot, other = _unit_pair(pivot, other)
    cosines = pivot @ other.T
    matched = cosines.diagonal().copy()
    np.fill_diagonal(cosines, -np.inf)
    rival = np.maximum(cosines.max(axis=1), cosines.max(axis=0))
    return float((matched > rival + _TIE).mean())


def language_separability(
    states: np.ndarray, languages: Sequence[str], folds: int = 5, seed: int = 0
) -> dict[str, float]:
    """
    How well the states of different languages separate: as clusters, and for a linear probe.

    The silhouette falls when the languages' clouds move into each other; it is, most likely, the "separability of
    language clusters" of SOLAR (arXiv:2606.26466). The probe asks whether the language can still be read off along any
    direction, which it nearly always can: do not expect it to move. Needs scikit-learn.

    Args:
        states (`np.ndarray` of shape `(n, d)`):
            States of all languages, any float dtype.
        languages (`Sequence[str]` of length `n`):
            Language of each row. At least two languages, with at least two rows each.
        folds (`int`, *optional*, defaults to `5`):
            Folds of the probe's stratified cross-validation, at most the number of rows of the rarest language (fewer
            are used then).
        seed (`int`, *optional*, defaults to `0`):
            Seed of the folds.

    Returns:
        `dict[str, float]`: `silhouette` (cosine distance, clusters = languages, in [-1, 1]) and `probe_accuracy`
        (held-out accuracy of a logistic regression on standardised states; compare with the share of the most frequent
        language).

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If the lengths differ, there are fewer than two languages or fewer than two rows of one of them, or
            a row is zero or not finite.
    """
    states = _check_states("states", states)
    labels = np.asarray(languages)
    if labels.shape != (len(states),):
        raise ValueError(f"`languages` has shape {labels.shape}, expected ({len(states)},), one for each row.")
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"Separability needs at least two languages, got {', '.join(map(str, names))}.")
    if counts.min() < 2:
        raise ValueError(f"Language {names[counts.argmin()]!s} has a single row, at least two are needed.")
    if folds < 2:
        raise ValueError(f"`folds` is {folds}, expected at least 2.")
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import silhouette_score
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError('language_separability needs scikit-learn: `pip install "solar-trl[analysis]"`.') from error
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    splits = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
    return {
        "silhouette": float(silhouette_score(states, labels, metric="cosine")),
        "probe_accuracy": float(cross_val_score(probe, states, labels, cv=splits).mean()),
    }


def _check_states(name: str, states: np.ndarray) -> np.ndarray:
    """The states in float64, refused where a cosine would not be defined."""
    states = np.asarray(states, dtype=np.float64)
    if states.ndim != 2 or len(states) < 2:
        raise ValueError(f"`{name}` has shape {states.shape}, expected (n, d) with n >= 2.")
    if not np.isfinite(states).all():
        raise ValueError(f"`{name}` holds values that are not finite.")
    zero = np.flatnonzero(~states.any(axis=1))
    if len(zero):
        raise ValueError(f"Row {zero[0]} of `{name}` is zero: its cosine is not defined.")
    return states


def _unit_pair(pivot: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pivot, other = _check_states("pivot", pivot), _check_states("other", other)
    if pivot.shape != other.shape:
        raise ValueError(
            f"`pivot` and `other` must have the same shape, row i parallel to row i, got {pivot.shape} and "
            f"{other.shape}."
        )
    # Scale first: the square of a tiny row would underflow
    pivot = pivot / np.abs(pivot).max(axis=1, keepdims=True)
    other = other / np.abs(other).max(axis=1, keepdims=True)
    return pivot / np.linalg.norm(pivot, axis=1, keepdims=True), other / np.linalg.norm(other, axis=1, keepdims=True)
