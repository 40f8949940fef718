"""How far apart the languages' clouds of states are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inputs import check_labels, check_states, require_scikit_learn


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
    silhouettes, hits, fold = separability_of_rows(states, languages, folds, seed)
    return {
        "silhouette": float(silhouettes.mean()),
        "probe_accuracy": float(np.mean([hits[fold == i].mean() for i in range(fold.max() + 1)])),
    }


def separability_of_rows(
    states: np.ndarray, languages: Sequence[str], folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    [`language_separability`] row by row.

    Returns:
        tuple of `np.ndarray` of shape `(n,)`: each row's silhouette, whether the probe gets its language right while
        it is held out, and the fold in which it is.
    """
    states = check_states("states", states)
    labels = check_labels("languages", languages, len(states)).astype(str)
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"Separability needs at least two languages, got {', '.join(map(str, names))}.")
    if counts.min() < 2:
        raise ValueError(f"Language {names[counts.argmin()]!s} has a single row, at least two are needed.")
    if folds < 2:
        raise ValueError(f"`folds` is {folds}, expected at least 2.")
    require_scikit_learn("language_separability")
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_samples
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    hits, fold = np.zeros(len(states), dtype=bool), np.zeros(len(states), dtype=int)
    splits = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
    for i, (train, held_out) in enumerate(splits.split(states, labels)):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        hits[held_out] = probe.fit(states[train], labels[train]).predict(states[held_out]) == labels[held_out]
        fold[held_out] = i
    return silhouette_samples(states, labels, metric="cosine"), hits, fold
