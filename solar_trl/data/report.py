"""What the pairing found, as a table for people and a dict for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from .pairing import Keys


def printable(text: str) -> str:
    """Text in one line, without what a terminal would act on."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a text table, aligned to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


@dataclass
class TokenCounts:
    """
    Numbers of tokens.

    Args:
        response (`numpy.ndarray` of shape `(n,)` and dtype int64):
            Positions whose next-token label is not -100.
        total (`numpy.ndarray` of shape `(n,)` and dtype int64):
            All tokens.
    """

    response: np.ndarray
    total: np.ndarray

    def select(self, rows: np.ndarray) -> TokenCounts:
        """The counts of some rows, by index or mask."""
        return TokenCounts(self.response[rows], self.total[rows])


@dataclass
class LanguageReport:
    """
    Counts of one language.

    Args:
        rows (`int`): Rows of the language.
        pairs (`int`): Rows with a pivot (0 for the pivot language).
        unpaired (`int`): Non-pivot rows without one.
        dropped (`int`): Unpaired rows that `missing_pivot="drop"` removed.
        length_ratio (`float`, *optional*): Median of response tokens / the pivot's response tokens, over pairs.
        truncated (`float`, *optional*): Share of the pairs in which a side fills `max_length`, so was probably cut.
    """

    rows: int
    pairs: int
    unpaired: int
    dropped: int
    length_ratio: float | None = None
    truncated: float | None = None


@dataclass
class PairingReport:
    """
    What the pairing of one dataset found.

    Args:
        name (`str`): What the dataset is called.
        rows (`int`): Its rows.
        pairs (`int`): Rows with a pivot.
        unpaired (`int`): Non-pivot rows without one.
        dropped (`int`): Rows removed by `missing_pivot="drop"`.
        pivots (`int`): Distinct pivots in use.
        without_response (`int`): Rows that cannot be summarised, since no response token is left.
        skipped (`int`): Truncated pairs that `truncated_pairs="skip"` leaves out of alignment.
        languages (`dict[str, LanguageReport]`): The same by language.
    """

    name: str
    rows: int
    pairs: int
    unpaired: int
    dropped: int
    pivots: int
    without_response: int
    skipped: int
    languages: dict[str, LanguageReport] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        name: str,
        keys: Keys,
        paired: np.ndarray,
        unusable: np.ndarray,
        missing: np.ndarray,
        skipped: np.ndarray,
        dropped: bool,
        table_size: int,
        pivot: np.ndarray,
        tokens: TokenCounts | None,
        pivot_tokens: TokenCounts | None,
        max_length: int | None,
    ) -> PairingReport:
        """
        Count per language.

        `paired`, `unusable`, `skipped`, `pivot` and `tokens` are over the dataset's rows, `missing` are row indices,
        and `pivot_tokens` are over the pivot table.
        """
        is_missing = np.zeros(len(paired), bool)
        is_missing[missing] = True
        languages = {}
        for code, language in enumerate(keys.language_names):
            rows = keys.language == code
            pairs = rows & paired
            unpaired = int((rows & is_missing).sum())
            entry = LanguageReport(
                rows=int(rows.sum()), pairs=int(pairs.sum()), unpaired=unpaired, dropped=unpaired if dropped else 0
            )
            if pairs.any() and tokens is not None and pivot_tokens is not None:
                rows_of, pivots_of = tokens.select(pairs), pivot_tokens.select(pivot[pairs])
                entry.length_ratio = float(np.median(rows_of.response / pivots_of.response))
                if max_length is not None:
                    longer = np.maximum(rows_of.total, pivots_of.total)
                    entry.truncated = float((longer >= max_length).mean())
            languages[language] = entry
        total = {
            key: sum(getattr(entry, key) for entry in languages.values()) for key in ("pairs", "unpaired", "dropped")
        }
        return cls(
            name=name,
            rows=len(paired),
            pivots=table_size,
            without_response=int(unusable.sum()),
            skipped=int(skipped.sum()),
            languages=languages,
            **total,
        )

    @property
    def truncated(self) -> float | None:
        """Share of all pairs in which a side fills `max_length`; `None` if lengths or the limit are not known."""
        known = [(entry.truncated, entry.pairs) for entry in self.languages.values() if entry.truncated is not None]
        pairs = sum(count for _, count in known)
        return sum(share * count for share, count in known) / pairs if pairs else None

    def to_dict(self) -> dict:
        """Nested plain dict."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.name}: {self.rows:,} rows, {self.pairs:,} pairs with {self.pivots:,} pivots"
        if self.unpaired:
            fate = "dropped" if self.dropped else "SFT loss only"
            head += f", {self.unpaired:,} non-pivot rows without a pivot ({fate})"
        if self.skipped:
            head += f", {self.skipped:,} truncated pairs (SFT loss only)"
        if self.without_response:
            head += f", {self.without_response:,} rows without a response token"
        header = ("language", "rows", "pairs", "unpaired", "length ratio", "truncated")
        table = [header]
        for language, entry in self.languages.items():
            table.append(
                (
                    language,
                    f"{entry.rows:,}",
                    f"{entry.pairs:,}",
                    f"{entry.unpaired:,}",
                    "" if entry.length_ratio is None else f"{entry.length_ratio:.2f}",
                    "" if entry.truncated is None else f"{entry.truncated:.0%}",
                )
            )
        return "\n".join([head, *format_table(table)])
