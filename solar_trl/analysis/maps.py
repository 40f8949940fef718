"""Pictures' data: every language against every other, and all states in two dimensions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from .._logging import get_logger
from .inputs import check_labels, check_states, require_scikit_learn, unit_rows
from .measures import MEASURES
from .parallel import ParallelRows
from .similarity import centered_similarity, cross_lingual_similarity, mexa_score, retrieval_accuracy


PAIR_MEASURES = (
    "retrieval",
    "mexa",
    "matched",
    "random",
    "difference",
    "centered_matched",
    "centered_random",
    "centered_difference",
)


def language_pair_matrix(
    states: np.ndarray,
    languages: Sequence[str],
    parallel_ids: Sequence[Hashable],
    measure: str = "retrieval",
    common_items: bool = False,
) -> dict[str, Any]:
    """
    One measure for each pair of languages, the data of a heat map.

    Args:
        states (`np.ndarray` of shape `(n, d)`):
            States of all languages at one layer, any float dtype.
        languages (`Sequence[str]` of length `n`):
            Language of each row.
        parallel_ids (`Sequence[Hashable]` of length `n`):
            Id of each row's item, equal for translations; each language has it at most once.
        measure (`str`, *optional*, defaults to `"retrieval"`):
            `"retrieval"`: share of the row language's texts whose nearest text in the column language is the
            translation (not symmetric). `"mexa"`, `"matched"`, `"random"`, `"difference"` and the latter three with
            `"centered_"` in front, as in [`analyze_layers`], are symmetric.
        common_items (`bool`, *optional*, defaults to `False`):
            Whether to keep only the items that every language has.

    Returns:
        `dict`, ready for JSON: `measure`, `languages` in order of appearance, `values` (a list for each row language;
        `None` on the diagonal and for a pair of fewer than two items or of undefined cosines), `pairs` (their number,
        likewise) and `warnings`.

    Raises:
        ValueError: If the measure is unknown, a length differs, there is one language only, an id is there twice in a
            language, or a row is zero or not finite.
    """
    if measure not in PAIR_MEASURES:
        raise ValueError(f"Unknown measure {measure!r}, expected one of {', '.join(map(repr, PAIR_MEASURES))}.")
    states = check_states("states", states)
    table = ParallelRows(languages, parallel_ids, len(states), common_items)
    names = table.languages
    values: list[list[float | None]] = [[None] * len(names) for _ in names]
    numbers: list[list[int]] = [[len(table.rows(name)) if name == other else 0 for other in names] for name in names]
    undefined = []
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            a, b = table.pairs(first, second)
            numbers[i][j] = numbers[j][i] = len(a)
            both = _both_ways(states[a], states[b], measure) if len(a) >= 2 else None
            if both is None:
                undefined.append(f"{second}-{first}")
            else:
                values[i][j], values[j][i] = both
    warnings = []
    if undefined:
        warnings.append(
            f"{len(undefined)} pairs of languages have fewer than two common items, or states without a direction: "
            f"{', '.join(undefined[:10])}{' ...' if len(undefined) > 10 else ''}."
        )
        get_logger().warning(warnings[0])
    return {"measure": measure, "languages": names, "values": values, "pairs": numbers, "warnings": warnings}


def _both_ways(first: np.ndarray, second: np.ndarray, measure: str) -> tuple[float, float] | None:
    """Value of (first, second) and of (second, first)."""
    if measure == "retrieval":
        accuracy = retrieval_accuracy(first, second)
        return accuracy["from_pivot"], accuracy["to_pivot"]
    if measure == "mexa":
        score = mexa_score(first, second)
        return score, score
    centered = MEASURES[measure].group == "centered_similarity"
    similarity = (centered_similarity if centered else cross_lingual_similarity)(first, second)
    value = similarity[measure.removeprefix("centered_")]
    return None if np.isnan(value) else (value, value)


def project_states(
    states: np.ndarray, languages: Sequence[str], method: str = "pca", perplexity: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """
    States in two dimensions, the data of a map of languages. Needs scikit-learn.

    Rows are scaled to length 1 first, so that the map shows directions (cosines): a few very large coordinates, as
    decoders have them, would be all that is seen otherwise.

    Args:
        states (`np.ndarray` of shape `(n, d)`):
            States of all languages at one layer, any float dtype, `n >= 4`, `d >= 2`.
        languages (`Sequence[str]` of length `n`):
            Language of each row.
        method (`str`, *optional*, defaults to `"pca"`):
            `"pca"`: the two axes of largest variance. `"tsne"`: t-SNE, which keeps neighbours together; distances
            between clusters and their sizes mean nothing there.
        perplexity (`float`, *optional*):
            Of t-SNE: number of neighbours that count, in (0, n). `None` takes 30, or `n / 4` if that is less.
        seed (`int`, *optional*, defaults to `0`):
            Seed of t-SNE and of the PCA.

    Returns:
        `dict`, ready for JSON: `method`, `languages` (of each point), `points` (a list of `[x, y]`) and `axes` (labels
        of x and y; for PCA with the share of variance).

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If the method is unknown, there are too few rows or columns, the lengths differ, `perplexity` is
            out of range, or a row is zero or not finite.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"`method` is {method!r}, expected 'pca' or 'tsne'.")
    states = unit_rows(check_states("states", states))
    labels = check_labels("languages", languages, len(states))
    if len(states) < 4 or states.shape[1] < 2:
        raise ValueError(f"`states` has shape {states.shape}, a map needs at least 4 rows and 2 columns.")
    require_scikit_learn("project_states")
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=seed).fit(states)
        points = pca.transform(states)
        axes = [f"PC {i + 1} ({share:.0%} of variance)" for i, share in enumerate(pca.explained_variance_ratio_)]
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, len(states) / 4) if perplexity is None else perplexity
        if not 0 < perplexity < len(states):
            raise ValueError(f"`perplexity` is {perplexity}, expected more than 0 and less than {len(states)} rows.")
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(states)
        axes = ["t-SNE 1", "t-SNE 2"]
    return {"method": method, "languages": labels.tolist(), "points": points.tolist(), "axes": axes}
