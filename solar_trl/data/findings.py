"""Measure one language of parallel texts, and say what these measures alone tell to be wrong."""

from __future__ import annotations

import numpy as np

from .parallel_texts import MIN_TEXT, Comparison, ParallelTexts
from .quality_report import Finding, LanguageQuality, plural
from .scripts import SCRIPTS


# Human translations stay clear of these bounds (questions of MGSM, its worked solutions, XCOPA; 10 or 11 languages
# each): median length ratios are 0.31 to 1.35, their spread below 0.28, the logarithms of lengths correlate by 0.66 up
_LENGTH_RATIO = 7.0  # median of characters
_LENGTH_OUTLIER = 4.0  # times the language's median, in texts of 100 characters or more
_LONG = 50  # characters of the pivot from which equal texts are no coincidence
_SCRIPT_SHARE = 0.5  # of a language's letters
_SCRIPT_SHARE_OF_ROW = 0.2
_TRUNCATED = 0.05


def check_language(data: ParallelTexts, code: int, max_length: int | None) -> tuple[LanguageQuality, list[Finding]]:
    """
    All measures of one language, and what they alone tell.

    Args:
        data ([`ParallelTexts`]):
            The texts.
        code (`int`):
            Index into the dataset's languages.
        max_length (`int`, *optional*):
            Tokens beyond which a row is truncated.

    Returns:
        tuple of ([`LanguageQuality`], `list[Finding]`).
    """
    return _LanguageCheck(data, code).run(max_length)


class _LanguageCheck:
    def __init__(self, data: ParallelTexts, code: int):
        self.data = data
        self.code = code
        self.rows = np.flatnonzero(data.keys.language == code)
        self.pairs = np.flatnonzero(data.language == code)  # among the pairs
        self.unpaired = self.rows[~data.keys.is_pivot[self.rows] & (data.pivot[self.rows] < 0)]
        self.entry = LanguageQuality(rows=len(self.rows), pairs=len(self.pairs), unpaired=len(self.unpaired))
        self.findings: list[Finding] = []

    def run(self, max_length: int | None) -> tuple[LanguageQuality, list[Finding]]:
        if len(self.unpaired):
            text = f"{plural(len(self.unpaired), 'row')} without a pivot: {self.data.ids(self.unpaired)}."
            self._find("unpaired", self.unpaired, text)
        self._repeated()
        self._empty()
        if max_length is not None:
            self._truncated(max_length)
        self._script()
        if len(self.pairs):
            self._missing()
            self._lengths()
            self._numbers()
            self._identical()
            self._duplicates()
        return self.entry, self.findings

    def _find(self, kind: str, rows: np.ndarray, message: str) -> None:
        self.findings.append(Finding(kind, [self.data.keys.language_names[self.code]], rows.tolist(), message))

    def _missing(self) -> None:
        """Pivots without a row in this language: counted always, named where the language has nearly all."""
        keys = self.data.pivot_keys
        pivots = np.flatnonzero(keys.is_pivot & (keys.item >= 0))
        pivots = pivots[np.sort(np.unique(keys.item[pivots], return_index=True)[1])]
        missing = pivots[~np.isin(keys.item[pivots], self.data.keys.item[self.rows])]
        self.entry.missing = len(missing)
        # A language that lacks more is a subset on purpose, as far as one can tell
        if 0 < len(missing) <= max(3, 0.2 * len(pivots)) and len(missing) < len(pivots) / 2:
            ids = self.data.ids(missing, of_pivots=True)
            self._find("missing", missing, f"no row for {len(missing):,} of {len(pivots):,} pivots: {ids}.")

    def _repeated(self) -> None:
        """Rows that stand there twice, and ids with several different rows."""
        data = self.data
        rows = self.rows[data.keys.item[self.rows] >= 0]
        item, digest = data.keys.item[rows], data.rows.response.digest[rows]
        if data.rows.prompt is not None:
            digest = digest ^ (data.rows.prompt.digest[rows] * 31 + 7)
        order = np.lexsort((digest, item))
        same_item = item[order][1:] == item[order][:-1]
        same_text = same_item & (digest[order][1:] == digest[order][:-1])
        repeated = np.sort(rows[order[1:][same_text]])
        self.entry.repeated = len(repeated)
        if len(repeated):
            verb = "stands" if len(repeated) == 1 else "stand"
            message = f"{plural(len(repeated), 'row')} {verb} there more than once: {data.ids(repeated)}."
            self._find("repeated", repeated, message)
        different = np.sort(rows[order[1:][same_item & ~same_text]])
        if len(different):
            fate = ""
            if data.keys.is_pivot[different[0]]:
                fate = "Training refuses several pivots of one id unless `multiple_pivots` is set. "
            self._find(
                "ambiguous",
                different,
                f"several different rows with the same id: {data.ids(different)}. {fate}If ids repeat across sources "
                "or splits, name all id columns in `parallel_id_column`.",
            )

    def _empty(self) -> None:
        rows = self.rows[self.data.rows.response.chars[self.rows] == 0]
        self.entry.empty = len(rows)
        if len(rows):
            self._find("empty", rows, f"{plural(len(rows), 'row')} without a response: {self.data.ids(rows)}.")

    def _truncated(self, max_length: int) -> None:
        tokens = sum(
            texts.tokens[self.rows]
            for texts in (self.data.rows.response, self.data.rows.prompt)
            if texts is not None and texts.tokens is not None
        )
        longer = np.asarray(tokens) > max_length
        self.entry.truncated = float(longer.mean())
        if self.entry.truncated > _TRUNCATED:
            self._find(
                "truncated",
                self.rows[longer],
                f"{self.entry.truncated:.0%} of the rows are longer than {max_length} tokens and will be truncated: "
                f"what is left is not parallel. Raise `max_length` (the longest has {np.max(tokens):,}).",
            )

    def _script(self) -> None:
        data, rows, entry = self.data, self.rows, self.entry
        entry.script = data.rows.expected[self.code]
        totals = data.rows.script_totals[self.code]
        if entry.script is None or not totals.sum():
            return
        letters, in_script = data.rows.letters[rows], data.rows.in_script[rows]
        share = in_script / np.maximum(letters, 1)
        entry.script_share = float(in_script.sum() / totals.sum())
        if entry.script_share < _SCRIPT_SHARE and totals.sum() >= MIN_TEXT:
            self._find(
                "script",
                rows[(share < _SCRIPT_SHARE) & (letters > 0)],
                f"only {entry.script_share:.0%} of the letters are {entry.script}, most are "
                f"{SCRIPTS[totals.argmax()]}: another language?",
            )
            return
        kana = totals[SCRIPTS.index("Kana")] / totals.sum()
        if entry.script == "Kana+Han" and totals.sum() >= 200 and kana < 0.05:
            self._find("script", rows, f"{kana:.0%} of the letters are kana: the text looks Chinese.")
        wrong = rows[(letters >= MIN_TEXT) & (share < _SCRIPT_SHARE_OF_ROW)]
        if len(wrong):
            text = f"{plural(len(wrong), 'response')} in another script than {entry.script}: {data.ids(wrong)}."
            self._find("script", wrong, text)

    def _lengths(self) -> None:
        responses, entry = self.data.responses, self.entry
        mine = self.pairs[responses.has_text[self.pairs]]
        if not len(mine):
            return
        rows, pivots = self.data.pairs[mine], self.data.pivots[mine]
        own, other = responses.own, responses.other
        lengths, pivot_lengths = (side[mine] for side in responses.log_lengths)
        ratio = responses.log_ratio[mine]
        median = np.median(ratio)
        entry.length_ratio = float(np.exp(median))
        if own.tokens is not None and other.tokens is not None:
            entry.length_ratio = float(np.median(own.tokens[rows] / np.maximum(other.tokens[pivots], 1)))
        entry.length_spread = _spread(ratio)
        if len(mine) > 1 and lengths.std() >= 1e-9 and pivot_lengths.std() >= 1e-9:
            entry.length_correlation = float(np.corrcoef(lengths, pivot_lengths)[0, 1])
        if abs(median) > np.log(_LENGTH_RATIO):
            text = f"responses have {np.exp(median):.2g} times the characters of their pivots (median)."
            self._find("length", rows, text)
        long = np.maximum(own.chars[rows], other.chars[pivots] * np.exp(median)) >= 2 * _LONG
        off = rows[(np.abs(ratio - median) > np.log(_LENGTH_OUTLIER)) & long]
        if len(off) and entry.length_spread < 0.5:  # where all lengths differ, another warning says so
            self._find(
                "length",
                off,
                f"{plural(len(off), 'response')} more than {_LENGTH_OUTLIER:g} times longer or shorter than usual in "
                f"this language, next to the pivot: {self.data.ids(off)}.",
            )

    def _numbers(self) -> None:
        entry, responses, prompts = self.entry, self.data.responses, self.data.prompts
        both = self.pairs[responses.has_numbers[self.pairs]]
        entry.number_pairs = len(both)
        if len(both):
            entry.final_agreement = float(responses.same_final[both].mean())
            entry.number_agreement = float((responses.overlap[both] == 1).mean())
        entry.number_overlap = self._overlap(responses)
        if prompts is not None:
            entry.prompt_number_overlap = self._overlap(prompts)
            with_text = self.pairs[prompts.has_text[self.pairs]]
            if len(with_text):
                entry.prompt_length_spread = _spread(prompts.log_ratio[with_text])

    def _overlap(self, texts: Comparison) -> float | None:
        both = self.pairs[texts.has_numbers[self.pairs]]
        return float(texts.overlap[both].mean()) if len(both) else None

    def _identical(self) -> None:
        rows = self.data.pairs[self.pairs[self.data.is_copy[self.pairs]]]
        self.entry.identical = len(rows)
        if len(rows):
            verb = "is its pivot's text" if len(rows) == 1 else "are their pivots' texts"
            text = f"{plural(len(rows), 'response')} {verb}, letter by letter: {self.data.ids(rows)}."
            self._find("identical", rows, text)

    def _duplicates(self) -> None:
        """The same response under different ids, where the pivots differ."""
        own, other = self.data.responses.own, self.data.responses.other
        pairs = self.pairs[own.chars[self.data.pairs[self.pairs]] > 0]
        if not len(pairs):
            return
        rows, pivots = self.data.pairs[pairs], self.data.pivots[pairs]
        first, group = np.unique(own.digest[rows], return_index=True, return_inverse=True)[1:]

        def distinct(values: np.ndarray) -> np.ndarray:
            return np.bincount(np.unique(np.stack([group, values]), axis=1)[0])

        n_items, n_pivots = distinct(self.data.keys.item[rows]), distinct(other.digest[pivots])
        self.entry.duplicates = int((n_items[group] > 1).sum())
        shortest = np.full(len(first), np.iinfo(np.int64).max)
        np.minimum.at(shortest, group, other.chars[pivots])
        letters = self.data.rows.letters[rows[first]]
        # Short texts ("Yes.", "18") are copies of each other for good reason
        wrong = (n_items > 1) & (((n_pivots >= 3) & (letters >= 5)) | ((n_pivots == 2) & (shortest >= _LONG)))
        if wrong.any():
            example = rows[group == group[wrong[group].argmax()]][:2]
            rows = rows[wrong[group]]
            self._find(
                "duplicate",
                rows,
                f"{plural(len(rows), 'response')} also stand under another id, though the pivots differ: e.g. "
                f"{self.data.ids(example)}.",
            )


def _spread(ratio: np.ndarray) -> float:
    """Robust standard deviation."""
    return float(1.4826 * np.median(np.abs(ratio - np.median(ratio))))
