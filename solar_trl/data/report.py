"""What the pairing found, as a table for people and a dict for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from .pairing import Keys


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
        truncated (`float`, *optional*): Share of the paired rows that fill `max_length`, so were probably cut.
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
        languages (`dict[str, LanguageReport]`): The same by language.
    """

    name: str
    rows: int
    pairs: int
    unpaired: int
    dropped: int
    pivots: int
    without_response: int
    languages: dict[str, LanguageReport] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        name: str,
        keys: Keys,
        paired: np.ndarray,
        unusable: np.ndarray,
        dropped: np.ndarray,
        table_size: int,
        supervised: np.ndarray | None,
        pivot_supervised: np.ndarray | None,
        pivot: np.ndarray,
        lengths: np.ndarray | None,
        max_length: int | None,
    ) -> PairingReport:
        """Count per language; all arrays are over the dataset's rows, except `dropped` (row indices) and
        `pivot_supervised` (over the pivot table)."""
        languages = {}
        for code, language in enumerate(keys.language_names):
            rows = keys.language == code
            pairs = rows & paired
            entry = LanguageReport(
                rows=int(rows.sum()),
                pairs=int(pairs.sum()),
                unpaired=int((rows & ~paired & ~keys.is_pivot).sum()),
                dropped=int((keys.language[dropped] == code).sum()),
            )
            if pairs.any() and supervised is not None and pivot_supervised is not None:
                entry.length_ratio = float(np.median(supervised[pairs] / pivot_supervised[pivot[pairs]]))
            if pairs.any() and lengths is not None and max_length is not None:
                entry.truncated = float((lengths[pairs] >= max_length).mean())
            languages[language] = entry
        total = {
            key: sum(getattr(entry, key) for entry in languages.values()) for key in ("pairs", "unpaired", "dropped")
        }
        return cls(
            name=name,
            rows=len(paired),
            pivots=table_size,
            without_response=int(unusable.sum()),
            languages=languages,
            **total,
        )

    def to_dict(self) -> dict:
        """Nested plain dict."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.name}: {self.rows:,} rows, {self.pairs:,} pairs with {self.pivots:,} pivots"
        if self.unpaired:
            fate = "dropped" if self.dropped else "SFT loss only"
            head += f", {self.unpaired:,} non-pivot rows without a pivot ({fate})"
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
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join([head, *lines])
