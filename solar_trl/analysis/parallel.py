"""Which rows of two languages are the same item."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .inputs import check_labels


class ParallelRows:
    """
    Rows of states by language and item.

    Args:
        languages (`Sequence[str]` of length `n`):
            Language of each row.
        parallel_ids (`Sequence[Hashable]` of length `n`):
            Id of each row's item; each language has it at most once.
        n (`int`):
            Number of rows.
        common_items (`bool`):
            Keep only the items that every language has.

    Raises:
        TypeError: If a label is a single string in place of a sequence, or an id is not hashable.
        ValueError: If the lengths differ, there are fewer than two languages, a language has an id twice, or fewer
            than two items are common.
    """

    def __init__(self, languages: Sequence[str], parallel_ids: Sequence[Hashable], n: int, common_items: bool):
        self.labels = check_labels("languages", languages, n)
        self.ids = check_labels("parallel_ids", parallel_ids, n)
        self._row: dict[str, dict[Hashable, int]] = {language: {} for language in dict.fromkeys(self.labels)}
        for row, (language, item) in enumerate(zip(self.labels, self.ids, strict=True)):
            if item in self._row[language]:
                raise ValueError(f"Language {language!s} has the id {item!r} more than once: rows cannot be paired.")
            self._row[language][item] = row
        if len(self._row) < 2:
            raise ValueError(f"At least two languages are needed, got {', '.join(map(str, self._row)) or 'no rows'}.")
        if common_items:
            common = set.intersection(*(set(items) for items in self._row.values()))
            if len(common) < 2:
                raise ValueError(
                    f"{len(common)} of `parallel_ids` occur in every language, at least two are needed. Leave "
                    "languages out, or compare each with the pivot alone (`common_items=False`)."
                )
            self._row = {
                language: {item: row for item, row in items.items() if item in common}
                for language, items in self._row.items()
            }

    @property
    def languages(self) -> list[str]:
        """Languages in order of appearance."""
        return list(self._row)

    def rows(self, language: str) -> np.ndarray:
        """All rows of a language."""
        return np.fromiter(self._row[language].values(), dtype=np.int64)

    def pairs(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows of two languages that are the same items, in the same order."""
        items = [item for item in self._row[first] if item in self._row[second]]
        return tuple(np.array([self._row[lang][item] for item in items], np.int64) for lang in (first, second))  # type: ignore[return-value]

    def require_pivot(self, pivot_language: str) -> None:
        """Refuse a pivot language that is not there, or that shares no item with any other."""
        if pivot_language not in self._row:
            raise ValueError(
                f"There is no row of the pivot language {pivot_language!r}; the languages are "
                f"{', '.join(map(repr, self._row))}. Set `pivot_language`."
            )
        others = [language for language in self._row if language != pivot_language]
        if not any(len(self.pairs(pivot_language, language)[0]) for language in others):
            of_pivot, of_others = (list(self._row[language])[:3] for language in (pivot_language, others[0]))
            raise ValueError(
                f"No row has a parallel in the pivot language {pivot_language!r}: its ids are {of_pivot} ..., those "
                f"of {others[0]!r} {of_others} ... Ids must be equal, in value and type."
            )
