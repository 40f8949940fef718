"""Bootstrap intervals and paired tests over items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np


_CELLS = 4_000_000  # of the resampling weights held at once


@dataclass(frozen=True)
class Interval:
    """
    A score and its confidence interval.

    Args:
        value (`float`): The score.
        low, high (`float`): Ends of the interval; NaN if it is undefined.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def bootstrap(
    scores: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    n_items: int,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """
    Percentile intervals of any scores that are functions of item weights.

    Items are drawn with replacement, with all rows that belong to them: the translations of an item are right or
    wrong together, so that rows are not independent and intervals over rows would be too narrow.

    Args:
        scores (callable):
            From weights of shape `(R, n_items)` to a dict of arrays of shape `(R,)`.
        n_items (`int`):
            Number of items.
        confidence (`float`, *optional*, defaults to `0.95`):
            Coverage, in (0, 1).
        resamples (`int`, *optional*, defaults to `2000`):
            Bootstrap samples.
        seed (`int`, *optional*, defaults to `0`):
            Of the resampling.

    Returns:
        `dict[str, Interval]`: One for each score. Resamples in which a score is undefined are left out of its
        interval.
    """
    check_resampling(confidence, resamples)
    if n_items < 1:
        raise ValueError("There are no items to resample.")
    rng = np.random.default_rng(seed)
    values = {name: float(found[0]) for name, found in scores(np.ones((1, n_items))).items()}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in values}
    step = max(1, _CELLS // n_items)
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        weights = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=size).astype(float)
        for name, found in scores(weights).items():
            draws[name].append(found)
    return {name: percentile_interval(values[name], np.concatenate(draws[name]), confidence) for name in values}


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """
    Mean of values and its bootstrap interval, resampling clusters (such as parallel ids) where they are given.

    Examples:
    ```python
    >>> from solar_trl.evaluation.statistics import bootstrap_mean

    >>> bootstrap_mean([1, 1, 1, 0]).value
    0.75
    ```
    """
    numbers = np.asarray(values, dtype=float)
    codes = np.arange(len(numbers)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(codes) != len(numbers):
        raise ValueError(f"There are {len(codes)} clusters for {len(numbers)} values.")
    sums, counts = np.bincount(codes, weights=numbers), np.bincount(codes).astype(float)

    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": (weights @ sums) / (weights @ counts)}

    return bootstrap(mean, len(sums), confidence, resamples, seed)["mean"]


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share of independent items."""
    check_resampling(confidence, 1)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} make no share.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre, width = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else float((centre - width) / scale)
    return Interval(share, low, 1.0 if successes == n else float((centre + width) / scale))


def mcnemar(wins: int, losses: int) -> float:
    """
    Exact two-sided p-value of McNemar's test.

    Twice the probability of at most `min(wins, losses)` heads in `wins + losses` tosses of a fair coin, at most 1.

    Args:
        wins, losses (`int`): Items that only the second model, or only the first, got right.

    Examples:
    ```python
    >>> from solar_trl.evaluation.statistics import mcnemar

    >>> mcnemar(1, 9)
    0.021484375
    ```
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"Counts must not be negative, got {wins} and {losses}.")
    n, k = wins + losses, min(wins, losses)
    outcomes, ways = 0, 1  # whole numbers: exact, however many items
    for heads in range(k + 1):
        outcomes += ways
        ways = ways * (n - heads) // (heads + 1)
    return min(1.0, 2 * outcomes / 2**n)


def sign_flip(differences: Sequence[float], permutations: int = 10_000, seed: int = 0) -> float:
    """
    Two-sided p-value of the paired permutation test: the sum of differences under random signs.

    All 2^n signs are tried if they are no more than `permutations`; else p = (1 + as extreme) / (1 + permutations).

    Args:
        differences (`Sequence[float]`):
            One per independent item.
        permutations (`int`, *optional*, defaults to `10000`):
            Random sign vectors.
        seed (`int`, *optional*, defaults to `0`):
            Of the signs.
    """
    values = np.asarray(differences, dtype=float)
    values = values[values != 0]  # their sign does not matter
    if not np.isfinite(values).all():
        raise ValueError("A difference is not finite.")
    n = len(values)
    observed = abs(values.sum())
    limit = observed - 1e-12 * max(1.0, np.abs(values).sum())  # equal sums may differ by rounding
    if n < 60 and 2**n <= permutations:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ values) >= limit).mean())
    rng, extreme = np.random.default_rng(seed), 0
    step = max(1, _CELLS // n)
    for begin in range(0, permutations, step):
        size = min(step, permutations - begin)
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(size, n))
        extreme += int((np.abs(signs @ values) >= limit).sum())
    return (1 + extreme) / (1 + permutations)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """
    Holm's step-down correction: p-values that stay valid for the whole family, such as all languages.

    Examples:
    ```python
    >>> from solar_trl.evaluation.statistics import holm

    >>> holm({"sw": 0.01, "te": 0.04, "de": 0.5})
    {'sw': 0.03, 'te': 0.08, 'de': 0.5}
    ```
    """
    corrected, highest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def percentile_interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    """The interval that holds the share `confidence` of a score's draws; draws that are NaN are left out."""
    draws = draws[~np.isnan(draws)]
    if not len(draws) or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def check_resampling(confidence: float, resamples: int) -> None:
    """Raise a `ValueError` for a coverage or a number of resamples that makes no sense."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence}, expected a number between 0 and 1.")
    if resamples < 1:
        raise ValueError(f"`resamples` is {resamples}, expected at least 1.")
