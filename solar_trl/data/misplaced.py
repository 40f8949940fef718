"""Rows that are not where they belong, by their numbers: shuffled, swapped, single, or written anew."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .parallel_texts import MIN_TEXT, SHOWN, ParallelTexts, and_more
from .quality_report import Finding, LanguageQuality, plural


# Human translations stay clear of these bounds (questions of MGSM, its worked solutions, XCOPA; 10 or 11 languages
# each): sets of numbers overlap (Jaccard) by 0.2 or end alike in all but 3 of 2,450 questions (24-hour times), while
# equal sets fall to 37% where a language writes counters in digits (Japanese)
_APART = 0.2  # overlap of numbers below which two responses with different final numbers are not translations
_ELSEWHERE = 0.5  # the same, where the numbers are exactly those of another pivot
_CHECKED_SHARE = 0.2  # of pairs with numbers, below which numbers do not decide about a language
_CHECKED_PAIRS = 4
_CORRELATION = 0.2
_CORRELATION_PAIRS = 50
_PROMPTS_AGREE = 0.6  # overlap of numbers


class _Evidence:
    """
    What the numbers of each pair tell. Arrays are over the pairs, if not said otherwise.

    Attributes:
        own, other: For each row, and each row of the pivots' source, the same for equal numbers with the same last.
        checked: Whether both have numbers.
        differs: Whether they are not the same, so that the row may be swapped with another one.
        belongs: The one other pivot with exactly the row's numbers, or -1.
        wrong: Whether the row is not its pivot's translation.
        counts: For each language, whether it has enough numbers to judge.
    """

    def __init__(self, data: ParallelTexts):
        texts = data.responses
        several = texts.own.count[data.pairs] >= 2
        self.own, self.other = (side.signature ^ side.final for side in (texts.own, texts.other))
        self.checked = texts.has_numbers
        self.differs = self.checked & several & (self.own[data.pairs] != self.other[data.pivots])
        self.belongs = self._belongs_to(data, self.checked & several & (texts.overlap < _ELSEWHERE))
        self.wrong = (self.belongs >= 0) | (self.checked & ~texts.same_final & (texts.overlap < _APART))
        n_languages = len(data.keys.language_names)
        n_checked = np.bincount(data.language[self.checked], minlength=n_languages)
        n_pairs = np.bincount(data.language, minlength=n_languages)
        self.counts = (n_checked >= _CHECKED_PAIRS) & (n_checked >= _CHECKED_SHARE * n_pairs)

    def _belongs_to(self, data: ParallelTexts, candidates: np.ndarray) -> np.ndarray:
        result = np.full(len(data.pairs), -1, np.int64)
        pivots = np.unique(data.pivots)
        signatures, first, count = np.unique(self.other[pivots], return_index=True, return_counts=True)
        candidates = np.flatnonzero(candidates)
        wanted = self.own[data.pairs[candidates]]
        place = np.minimum(np.searchsorted(signatures, wanted), len(signatures) - 1)
        hit = (signatures[place] == wanted) & (count[place] == 1)
        result[candidates[hit]] = pivots[first[place[hit]]]
        return result


def find_misplaced(data: ParallelTexts, languages: Mapping[str, LanguageQuality]) -> list[Finding]:
    """
    Languages and rows whose numbers are not those of their pivots.

    Each explanation takes its pairs away from the next: responses written anew in a language, wrong pivots, a shuffled
    language, swapped rows, single wrong rows.

    Args:
        data ([`ParallelTexts`]):
            The texts.
        languages (`dict[str, LanguageQuality]`):
            Measures of all languages, in the order of the dataset's.

    Returns:
        `list[Finding]`
    """
    evidence = _Evidence(data)
    findings, rest = [], np.ones(len(data.pairs), bool)
    anew = [
        code
        for code, entry in enumerate(languages.values())
        if entry.pairs and _written_anew(data, evidence, entry, code)
    ]
    if anew:
        names = [data.keys.language_names[code] for code in anew]
        findings.append(_anew_finding({name: languages[name] for name in names}))
        rest &= ~np.isin(data.language, anew)

    # A pivot that at least three translations contradict, all that can be checked, is the one that is wrong
    n_wrong = np.bincount(data.pivots[evidence.wrong & rest], minlength=len(data.source))
    n_checked = np.bincount(data.pivots[evidence.checked & rest], minlength=len(data.source))
    wrong_pivots = np.flatnonzero((n_wrong >= 3) & (n_wrong == n_checked))
    if len(wrong_pivots):
        verb, its = ("has", "its") if len(wrong_pivots) == 1 else ("have", "their")
        text = f"{plural(len(wrong_pivots), 'pivot')} {verb} other numbers than all {its} translations: "
        text += f"{data.ids(wrong_pivots, of_pivots=True)}."
        if len(wrong_pivots) >= 0.5 * (n_checked > 0).sum():
            text += " Are the pivots out of order, or are the responses written anew in each language?"
        findings.append(Finding("pivot", [data.columns.pivot_languages[0]], wrong_pivots.tolist(), text))
        rest &= ~np.isin(data.pivots, wrong_pivots)

    for code, (name, entry) in enumerate(languages.items()):
        mine = rest & (data.language == code)
        wrong = mine & evidence.wrong
        n = int((mine & evidence.checked).sum())
        if evidence.counts[code] and n >= _CHECKED_PAIRS and wrong.sum() >= 0.5 * n:
            message = _shuffled(data, wrong, evidence.belongs, n, entry.prompt_number_overlap)
            findings.append(Finding("shuffled", [name], data.pairs[wrong].tolist(), message))
            continue
        findings += _single_rows(data, evidence, name, mine, evidence.counts[code])
        if not evidence.counts[code] and mine.any() and _lengths_unrelated(data, entry, mine):
            findings.append(_unrelated_finding(data, name, entry, mine))
    return findings


def _written_anew(data: ParallelTexts, evidence: _Evidence, entry: LanguageQuality, code: int) -> bool:
    """Whether prompts are parallel and responses are not, without belonging to other ids."""
    mine = data.language == code
    wrong, n = int((mine & evidence.wrong).sum()), int(mine.sum())
    prompt_overlap, prompt_spread, spread = (
        entry.prompt_number_overlap,
        entry.prompt_length_spread,
        entry.length_spread,
    )
    if data.prompts is None or prompt_spread is None or spread is None or n < _CHECKED_PAIRS:
        return False
    if any(np.median(texts.own.chars[data.pairs[mine]]) < MIN_TEXT for texts in (data.responses, data.prompts)):
        return False
    if prompt_spread > 0.4 or (prompt_overlap is not None and prompt_overlap < _PROMPTS_AGREE):
        return False
    if int((mine & (evidence.belongs >= 0)).sum()) > 0.3 * max(wrong, 1):
        return False
    uneven = spread > 0.3 and spread > 1.5 * prompt_spread
    if not evidence.counts[code]:
        unrelated = entry.length_correlation is not None and entry.length_correlation < 0.5
        return uneven and unrelated and n >= _CORRELATION_PAIRS
    if wrong >= 0.5 * int((mine & evidence.checked).sum()):
        return prompt_overlap is not None
    if (entry.number_overlap or 0) < 0.5 and (prompt_overlap or 0) >= 0.8:
        return True
    return uneven and (entry.number_agreement or 0) < 0.5


def _anew_finding(languages: Mapping[str, LanguageQuality]) -> Finding:
    facts = []
    for form, attribute in (
        ("numbers overlap by {:.0%} in prompts", "prompt_number_overlap"),
        ("by {:.0%} in responses", "number_overlap"),
        ("length ratios spread by {:.2f} in prompts", "prompt_length_spread"),
        ("by {:.2f} in responses", "length_spread"),
    ):
        known = [value for entry in languages.values() if (value := getattr(entry, attribute)) is not None]
        if known:
            facts.append(form.format(np.mean(known)))
    return Finding(
        "prompt_only",
        list(languages),
        [],
        "the prompts are parallel, the responses look written anew in each language "
        f"({', '.join(facts)}). Such data should align its prompts rather than its responses (a future option, "
        "`positions='prompt'`); until then, translate the pivot's responses or train without alignment.",
    )


def _shuffled(
    data: ParallelTexts, wrong: np.ndarray, belongs: np.ndarray, n: int, prompt_overlap: float | None
) -> str:
    rows = data.pairs[wrong]
    text = f"{len(rows):,} of {n:,} responses have other numbers than their pivot: {data.ids(rows)}. "
    known = np.flatnonzero(wrong & (belongs >= 0))
    if not len(known):
        if prompt_overlap is not None and prompt_overlap < _PROMPTS_AGREE:
            return text + "Their prompts disagree too: the file looks shuffled."
        return text + "Is the file shuffled, or are its responses written anew?"
    example = "; ".join(
        f"{data.ids(data.pairs[[i]])} holds the response of {data.ids(belongs[[i]], of_pivots=True)}"
        for i in known[:2]
    )
    verdict = "the file looks shuffled."
    # In the order of the pivots, how far away is what a row holds?
    order = np.unique(data.pivots)
    shifts, count = np.unique(
        np.searchsorted(order, belongs[known]) - np.searchsorted(order, data.pivots[known]), return_counts=True
    )
    if len(known) >= 4 and count.max() >= 0.6 * len(known):
        shift = plural(abs(int(shifts[count.argmax()])), "row")
        verdict = f"it looks shifted by {shift}. Were ids given by position after a row was lost?"
    return text + f"{len(known):,} of them have the numbers of another pivot ({example}): {verdict}"


def _single_rows(
    data: ParallelTexts, evidence: _Evidence, name: str, mine: np.ndarray, judge_single: bool
) -> list[Finding]:
    """Two rows that hold the numbers of each other's pivot, and other rows that are wrong."""
    findings = []
    waiting: dict[tuple[int, int], int] = {}
    partner: dict[int, int] = {}
    # Rows that differ at all may be swapped; whether single ones are wrong needs more
    for row in data.pairs[mine & (evidence.wrong | evidence.differs)].tolist():
        own, other = int(evidence.own[row]), int(evidence.other[data.pivot[row]])
        if (match := waiting.pop((other, own), None)) is not None:
            partner |= {match: row, row: match}
        else:
            waiting[own, other] = row
    swaps = sorted((row, match) for row, match in partner.items() if row < match)
    if swaps:
        shown = "; ".join(f"{data.ids([a])} and {data.ids([b])}" for a, b in swaps[:SHOWN])
        message = f"rows look swapped, each with the numbers of the other's pivot: {shown}{and_more(len(swaps))}."
        findings.append(Finding("swapped", [name], sorted(partner), message))
    left = [row for row in data.pairs[mine & evidence.wrong].tolist() if row not in partner] if judge_single else []
    if left:
        verb, its = ("has", "its pivot") if len(left) == 1 else ("have", "their pivots")
        message = f"{plural(len(left), 'response')} {verb} almost no number in common with {its}: {data.ids(left)}."
        findings.append(Finding("numbers", [name], left, message))
    return findings


def _lengths_unrelated(data: ParallelTexts, entry: LanguageQuality, mine: np.ndarray) -> bool:
    """Whether the lengths have nothing to do with the pivots': all there is to judge by without numbers."""
    return (
        int(mine.sum()) >= _CORRELATION_PAIRS
        and entry.length_correlation is not None
        and entry.length_correlation < _CORRELATION
        and data.responses.log_lengths[1][mine].std() >= 0.15
        and np.median(data.responses.other.chars[data.pivots[mine]]) >= MIN_TEXT
    )


def _unrelated_finding(data: ParallelTexts, name: str, entry: LanguageQuality, mine: np.ndarray) -> Finding:
    rows = data.pairs[mine]
    message = (
        "the lengths of the responses have nothing to do with those of their pivots (correlation "
        f"{entry.length_correlation:.2f} over {len(rows):,} pairs, e.g. {data.ids(rows[:3])}). Is the file "
        "shuffled, or are its responses written anew?"
    )
    return Finding("shuffled", [name], rows.tolist(), message)
