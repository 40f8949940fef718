"""Retrieval from one pool that holds all languages: whether meaning counts for more than language."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .inputs import TIE, check_labels, check_states, unit_rows


_BLOCK_BYTES = 128 * 2**20  # of cosines at a time


def mixed_pool_map(
    states: np.ndarray, languages: Sequence[str], parallel_ids: Sequence[Hashable]
) -> dict[str, float | dict[str, float] | int]:
    """
    Mean average precision of finding an item's translations in a pool of all rows of all languages (LAReQA,
    arXiv:2004.05484).

    Each row asks in turn, with cosine as the score; all other rows are the pool, those with its id are right. A
    translation in another language must beat unrelated rows of the query's own language: strong alignment, where
    retrieval between two languages only asks for weak alignment. LAReQA has questions and answers; here sentences
    look for their translations. Strict: of equal cosines the wrong rows come first.

    Args:
        states (`np.ndarray` of shape `(n, d)`):
            States of all languages, any float dtype.
        languages (`Sequence[str]` of length `n`):
            Language of each row.
        parallel_ids (`Sequence[Hashable]` of length `n`):
            Id of each row's item; each language has it at most once.

    Returns:
        `dict`: `map` in [0, 1], `by_language` (mean over the queries of each language; a language without a query is
        absent), `queries` and `unpaired` (rows without a translation: they stay in the pool but do not ask).

    Raises:
        ValueError: If the lengths differ, a language has an id twice, no row has a translation, or a row is zero or
            not finite.
    """
    states = unit_rows(check_states("states", states))
    labels = check_labels("languages", languages, len(states))
    ids = check_labels("parallel_ids", parallel_ids, len(states))
    code: dict[Hashable, int] = {}
    items = np.array([code.setdefault(item, len(code)) for item in ids])
    seen = set()
    for row in zip(labels, ids, strict=True):
        if row in seen:
            raise ValueError(f"Language {row[0]!s} has the id {row[1]!r} more than once.")
        seen.add(row)
    translations = np.bincount(items)[items] - 1
    queries = np.flatnonzero(translations)
    if not len(queries):
        raise ValueError("No row has a translation: each of `parallel_ids` occurs once.")
    precisions = np.zeros(len(states))
    block = max(1, _BLOCK_BYTES // (8 * len(states)))
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        for row, cosines in zip(rows, states[rows] @ states.T, strict=True):
            right = items == items[row]
            wrong = np.sort(cosines[~right])
            right[row] = False
            found = np.sort(cosines[right])[::-1]
            ahead = len(wrong) - np.searchsorted(wrong, found - TIE, side="left")
            nth = np.arange(1, len(found) + 1)
            precisions[row] = (nth / (nth + ahead)).mean()
    by_language = {
        language: float(precisions[queries][labels[queries] == language].mean())
        for language in dict.fromkeys(labels[queries])
    }
    return {
        "map": float(precisions[queries].mean()),
        "by_language": by_language,
        "queries": len(queries),
        "unpaired": len(states) - len(queries),
    }
