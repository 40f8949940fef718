"""Tokens that parallel responses share at their ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def match_tails(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> torch.Tensor:
    """
    Shared tokens of each of `P` pairs of sequences.

    Args:
        pairs (sequence of pairs of sequences of `int`):
            The last tokens of both responses.

    Returns:
        `torch.Tensor` of shape `(P, M, 2)` and dtype int64: Their positions in both, filled up with -1.
    """
    found = [shared_tokens(*pair) for pair in pairs]
    matches = torch.full((len(found), max(map(len, found), default=0), 2), -1, dtype=torch.int64)
    for row, places in enumerate(found):
        matches[row, : len(places)] = torch.tensor(places, dtype=torch.int64).reshape(-1, 2)
    return matches


def shared_tokens(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """
    Positions of the tokens that two sequences share in the same order: a longest common subsequence.

    Args:
        first (sequence of `int`), second (sequence of `int`):
            Tokens.

    Returns:
        `list[tuple[int, int]]`: Ascending positions in both. Of several longest ones, the one whose last token is
        latest in the second sequence, then in the first, and so on before it, since answers stand at the end.

    Examples:
    ```python
    >>> from solar_trl.data.matching import shared_tokens

    >>> shared_tokens([10, 7, 42, 2], [11, 42, 7, 42, 2])
    [(1, 2), (2, 3), (3, 4)]
    ```
    """
    n, m = len(first), len(second)
    # length[i][j]: of the longest common subsequence of the first i and j tokens
    length = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n):
        for j in range(m):
            same = first[i] == second[j]
            length[i + 1][j + 1] = length[i][j] + 1 if same else max(length[i][j + 1], length[i + 1][j])
    found, i, j = [], n, m
    for rank in range(length[n][m], 0, -1):
        i, j = next(
            (a, b)
            for b in range(j - 1, -1, -1)
            for a in range(i - 1, -1, -1)
            if first[a] == second[b] and length[a][b] == rank - 1
        )
        found.append((i, j))
    return found[::-1]
