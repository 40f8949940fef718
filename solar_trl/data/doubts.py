"""What is odd about the pairs of a dataset and no error: said once, when the trainer is made."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from .pairing import PairingColumns, describe_ids
from .resolve import ResolvedPairs, is_paired


MUCH_TRUNCATED = 0.2  # share of pairs from which on truncation is worth a word


def doubts(
    dataset: Dataset, pairs: ResolvedPairs, columns: PairingColumns, name: str, max_length: int | None = None
) -> list[str]:
    """
    What to look at before training on a dataset.

    Args:
        dataset ([`~datasets.Dataset`]):
            Prepared rows.
        pairs ([`ResolvedPairs`]):
            Its pairs.
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        name (`str`):
            What to call it.
        max_length (`int`, *optional*):
            Length at which rows were truncated, if truncated pairs are aligned.

    Returns:
        `list[str]`: A message each on pairs of which one side is empty, on truncated pairs, and on pivots that a pivot
        dataset displaces.
    """

    def examples(rows: np.ndarray) -> str:
        return "; ".join(describe_ids(dataset, rows[:3], columns))

    found = []
    if len(pairs.replaced):
        found.append(
            f"{len(pairs.replaced)} rows of the {name} are in the pivot language and have translations there, which "
            f"are aligned with rows of the pivot dataset of the same id instead, e.g. {examples(pairs.replaced)}. If "
            "these are other items, leave the pivot dataset away, or give its items ids of their own."
        )
    rows = np.flatnonzero(is_paired(pairs.pivot, pairs.own))
    if pairs.tokens is None or pairs.pivot_tokens is None:
        return found
    own, theirs = pairs.tokens.select(rows), pairs.pivot_tokens.select(pairs.pivot[rows])
    # Tokenizers end a text with a token, so an empty response has one
    empty = rows[(np.minimum(own.response, theirs.response) == 1) & (np.maximum(own.response, theirs.response) > 2)]
    if len(empty):
        found.append(
            f"{len(empty)} pairs of the {name} have a response of one token on one side only: probably an empty "
            f"translation, e.g. {examples(empty)}. They pull summaries toward the end of the text. Look at "
            "`solar_trl.data.parallel_report(dataset)`, and remove them with `filter_parallel`."
        )
    truncated = pairs.report.truncated
    if max_length is not None and truncated is not None and truncated >= MUCH_TRUNCATED:
        found.append(
            f"{truncated:.0%} of the pairs of the {name} fill `max_length={max_length}` on one side or both, so they "
            "were probably cut, each at another place of its text. Raise `max_length`, or leave them out of alignment "
            "with `truncated_pairs='skip'`."
        )
    return found
