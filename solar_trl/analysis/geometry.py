"""How one language's states map onto another's: by a linear map, and as clouds without any pairing."""

from __future__ import annotations

import numpy as np

from .inputs import check_pair, check_states, require_scikit_learn


# Scales of the inverse multiquadric kernel, as in arXiv:2307.04096 (Minotaur) and the Wasserstein autoencoder
_IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def incline_fit(pivot: np.ndarray, other: np.ndarray, folds: int = 5, seed: int = 0) -> dict[str, float]:
    """
    How well one linear map takes a language's states to the pivot's: `W = argmin ‖H_l W - H_en‖²` (INCLINE,
    arXiv:2410.12462), and how far it is from a rotation.

    With no more rows than columns any language fits (`residual` is 0): reduce the columns first, with
    [`principal_components`] of both languages together. `held_out_fit` is the number to trust.

    Args:
        pivot (`np.ndarray` of shape `(n, d)`):
            States of the pivot language, any float dtype (computed in float64), `n >= 2`.
        other (`np.ndarray` of shape `(n, d)`):
            States of another language; row `i` is parallel to row `i` of `pivot`.
        folds (`int`, *optional*, defaults to `5`):
            Folds of the cross-validation, at most `n`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the folds.

    Returns:
        `dict[str, float]`:
        - `residual`: `‖H_l W - H_en‖²_F / ‖H_en‖²_F` over all rows, the ones that W was fitted on, in [0, 1].
        - `held_out_fit`: 1 minus the squared error of held-out rows over that of the mean pivot state of the training
          rows; 1 is perfect, 0 as good as no map, below 0 worse. NaN if the pivot states are all the same.
        - `orthogonality_deviation`: `‖WᵀW - I‖_F / √d` of the map over all rows; 0 for a rotation.

        W has no intercept, as in INCLINE, and is the solution of smallest norm where there are several.

    Raises:
        ValueError: If the shapes differ, there are fewer than two rows or folds, or a row is zero or not finite.
    """
    pivot, other = check_pair(pivot, other)
    if folds < 2:
        raise ValueError(f"`folds` is {folds}, expected at least 2.")
    n, d = pivot.shape
    linear_map = np.linalg.lstsq(other, pivot, rcond=None)[0]
    error = baseline = 0.0
    for held_out in np.array_split(np.random.default_rng(seed).permutation(n), min(folds, n)):
        train = np.setdiff1d(np.arange(n), held_out)
        predicted = other[held_out] @ np.linalg.lstsq(other[train], pivot[train], rcond=None)[0]
        error += float(np.square(predicted - pivot[held_out]).sum())
        baseline += float(np.square(pivot[train].mean(axis=0) - pivot[held_out]).sum())
    return {
        "residual": float(np.square(other @ linear_map - pivot).sum() / np.square(pivot).sum()),
        "held_out_fit": 1 - error / baseline if baseline > 1e-20 * float(np.square(pivot).sum()) else float("nan"),
        "orthogonality_deviation": float(np.linalg.norm(linear_map.T @ linear_map - np.eye(d)) / np.sqrt(d)),
    }


def principal_components(states: np.ndarray, components: int, seed: int = 0) -> np.ndarray:
    """
    States in the coordinates of their largest principal axes (of the uncentred states: what is left out is small, and
    angles between what stays are kept).

    Args:
        states (`np.ndarray` of shape `(n, d)`):
            States of all languages that are to be compared, any float dtype.
        components (`int`):
            Number of axes `k`, in `[1, min(n, d)]`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the randomised decomposition.

    Returns:
        `np.ndarray` of shape `(n, k)`: Coordinates, float64.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `components` is out of range, or a row is zero or not finite.
    """
    states = check_states("states", states)
    if not 1 <= components <= min(states.shape):
        raise ValueError(f"`components` is {components}, expected 1 to {min(states.shape)}, the smaller side.")
    require_scikit_learn("principal_components")
    from sklearn.utils.extmath import randomized_svd

    left, scales, _ = randomized_svd(states, components, random_state=seed)
    return left * scales


def mmd(pivot: np.ndarray, other: np.ndarray, bandwidth: float | None = None) -> float:
    """
    Squared maximum mean discrepancy of two clouds of states; the rows need not be parallel.

    `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)` over all pairs of rows, a row with itself included: never
    negative, 0 for the same rows. Two samples of one distribution do not give 0 but about `(1/n + 1/m)(1 - mean k)`,
    so compare at equal numbers of rows only.

    The kernel is the inverse multiquadric `k(x, y) = mean over s of C / (C + ‖x - y‖²)`, `C = s · bandwidth`, with `s`
    in 0.1, 0.2, 0.5, 1, 2, 5, 10. Its slow decay needs no exact bandwidth.

    Args:
        pivot (`np.ndarray` of shape `(n, d)`):
            States of the pivot language, any float dtype (computed in float64), `n >= 2`.
        other (`np.ndarray` of shape `(m, d)`):
            States of another language.
        bandwidth (`float`, *optional*):
            Squared distance that counts as typical. `None` takes the mean squared distance between two different rows
            of both clouds together. For standard normal states that is `2d`, the constant that is used for latent
            codes (arXiv:2307.04096); here the measure does not depend on the states' unit.

    Returns:
        `float`: MMD² in [0, 2).

    Raises:
        ValueError: If the widths differ, a cloud has fewer than two rows, a row is zero or not finite, or `bandwidth`
            is not positive.
    """
    pivot, other = check_states("pivot", pivot), check_states("other", other)
    if pivot.shape[1] != other.shape[1]:
        raise ValueError(f"`pivot` has {pivot.shape[1]} columns but `other` has {other.shape[1]}.")
    n, m = len(pivot), len(other)
    states = np.concatenate([pivot, other])
    # Distances do not see the shift, but rounding does
    states = states - states.mean(axis=0)
    squares = np.square(states).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * states @ states.T, 0)
    np.fill_diagonal(distances, 0)
    if bandwidth is None:
        bandwidth = float(distances.sum()) / ((n + m) * (n + m - 1))
        if bandwidth == 0:
            return 0.0
    elif not bandwidth > 0:
        raise ValueError(f"`bandwidth` is {bandwidth}, expected a number > 0.")
    kernel = np.mean([scale * bandwidth / (scale * bandwidth + distances) for scale in _IMQ_SCALES], axis=0)
    # Rounding may leave a trace below zero
    return max(float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()), 0.0)
