"""Is the parallel data parallel? A report before training, and a filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from .._logging import get_logger
from .findings import check_language
from .misplaced import find_misplaced
from .pairing import Keys, PairingColumns
from .parallel_texts import ParallelTexts
from .quality_report import Finding, LanguageQuality, ParallelReport


# Kinds of findings in the order in which they are shown, before all others
_FIRST = ["unpaired", "missing", "repeated", "ambiguous", "prompt_only", "shuffled", "pivot", "swapped", "numbers"]


def parallel_report(
    dataset: Dataset,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
    pivot_dataset: Dataset | None = None,
    text_columns: str | Sequence[str] | None = None,
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    prompt_columns: str | Sequence[str] | None = None,
) -> ParallelReport:
    """
    Check, before training, whether "parallel" data is parallel.

    Pairs every row with its pivot as the trainer does, then compares responses: their lengths, the numbers in them (in
    any script, see [`~solar_trl.data.numbers.extract_numbers`]; as sets and without signs, since translations repeat a
    number more or less often and write signs differently), their scripts, and whether they are copies. `warnings`
    names what looks wrong, with ids:

    - a language whose rows mostly belong to other ids (a file shuffled, or shifted by a lost row); two rows swapped;
      single rows with other numbers than their pivot; a pivot that none of its translations agrees with;
    - responses written anew per language: their prompts agree, their numbers and lengths do not;
    - rows without a pivot, and pivots that only a few languages lack;
    - texts in the wrong script, "translations" that are the pivot's text, the same text under different ids, the same
      row twice, several different rows with one id, empty responses, lengths far off, truncated rows.

    Numbers find single wrong rows; in data without any, only a whole language out of order is found, by its lengths.
    Texts are read in batches; what stays in memory is a few integers per row and one per number.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in the long format, not tokenized: text, prompt-completion, messages, ...
        language_column (`str`, *optional*, defaults to `"language"`):
            Column with each row's language.
        parallel_id_column (`str` or `list[str]`, *optional*, defaults to `"parallel_id"`):
            Column, or columns, with the same value on every translation of an item.
        pivot_language (`str` or `list[str]`, *optional*, defaults to `"en"`):
            Value, or aliases, of the pivot language.
        pivot_dataset ([`~datasets.Dataset`], *optional*):
            Where the pivots stand, if not in `dataset`. Without the language column, every row of it is a pivot.
        text_columns (`str` or `list[str]`, *optional*):
            Column, or columns, with the response: text or messages. By default the first of `completion`, `messages`
            and `conversations` (last assistant turn), `response`, `responses`, `answer`, `output`, `target`,
            `solution`, `translation`, `text`.
        tokenizer (callable, *optional*):
            A tokenizer; lengths then count tokens.
        max_length (`int`, *optional*):
            With a tokenizer: the training's `max_length`, for the share of rows that will be truncated.
        prompt_columns (`str` or `list[str]`, *optional*):
            Column, or columns, with the prompt. By default the user turns, or the first of `prompt`, `question`,
            `instruction`, `problem`, `query`, `input`; `[]` for none.

    Returns:
        [`ParallelReport`]

    Raises:
        NothingToAlign: A `ValueError`, if there are no pivots or nothing pairs.
        ValueError: If a column is missing, no response is found, ids differ in type between the datasets, or
            `max_length` is below 1 or comes without a tokenizer.
        TypeError: If a dataset is not a `datasets.Dataset`, languages are not strings, ids neither integers nor
            strings, or a response neither text nor messages.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.quality import parallel_report

    >>> english = ["2 + 3 = 5", "7 - 6 = 1", "4 * 9 = 36", "8 / 2 = 4"]
    >>> swahili = ["2 + 3 = 5", "7 - 6 = 1", "4 * 9 = 36", "9 + 1 = 10"]
    >>> data = Dataset.from_dict(
    ...     {"language": ["en"] * 4 + ["sw"] * 4, "parallel_id": [1, 2, 3, 4] * 2, "completion": english + swahili}
    ... )
    >>> report = parallel_report(data)
    >>> report.languages["sw"].final_agreement
    0.75
    >>> print(report.warnings[0])
    sw: 1 response has almost no number in common with its pivot: parallel_id=4.
    ```
    """
    if max_length is not None and tokenizer is None:
        raise ValueError(f"`max_length={max_length}` counts tokens: pass the `tokenizer` too.")
    if max_length is not None and max_length < 1:
        raise ValueError(f"`max_length` must be at least 1, got {max_length}.")
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    data = ParallelTexts.read(dataset, columns, pivot_dataset, text_columns, prompt_columns, tokenizer)
    languages: dict[str, LanguageQuality] = {}
    findings: list[Finding] = []
    for code, name in enumerate(data.keys.language_names):
        languages[name], found = check_language(data, code, max_length)
        findings += found
    findings = _gather(find_misplaced(data, languages), findings)
    findings.sort(key=lambda finding: _FIRST.index(finding.kind) if finding.kind in _FIRST else len(_FIRST))
    return ParallelReport(
        rows=len(dataset),
        pairs=sum(entry.pairs for entry in languages.values()),
        unpaired=sum(entry.unpaired for entry in languages.values()),
        pivots=int(data.pivot_keys.is_pivot.sum()),
        response=" + ".join(data.found.response),
        prompt=" + ".join(data.found.prompt) or None,
        unit="characters" if tokenizer is None else "tokens",
        languages=languages,
        findings=findings,
    )


def _gather(judged: list[Finding], findings: list[Finding]) -> list[Finding]:
    """What several languages share, said once; what only follows from rows out of order, not at all."""
    explained = {
        name for finding in judged if finding.kind in ("shuffled", "prompt_only") for name in finding.languages
    }
    gathered: dict[tuple[str, str], Finding] = {}
    for finding in judged + findings:
        if finding.kind in ("length", "duplicate") and explained.intersection(finding.languages):
            continue
        known = gathered.setdefault((finding.kind, finding.message), finding)
        if known is not finding:
            known.languages += finding.languages
            known.rows += [] if known.kind == "missing" else finding.rows  # rows of the pivots: the same for all
    for finding in gathered.values():
        more = f" and {len(finding.languages) - 8} more languages" if len(finding.languages) > 8 else ""
        finding.message = f"{', '.join(finding.languages[:8])}{more}: {finding.message}"
    return list(gathered.values())


def filter_parallel(
    dataset: Dataset,
    min_number_agreement: float | None = None,
    max_length_ratio: float | None = None,
    min_script_share: float | None = None,
    drop_identical: bool = False,
    language_column: str = "language",
    parallel_id_column: str | Sequence[str] = "parallel_id",
    pivot_language: str | Sequence[str] = "en",
    pivot_dataset: Dataset | None = None,
    text_columns: str | Sequence[str] | None = None,
) -> Dataset:
    """
    Keep the pivots and the pairs that pass; drop the other rows, and those without a pivot.

    What was dropped is logged per language (logger `solar_trl`). Every criterion is off by default.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in the long format, as for [`parallel_report`].
        min_number_agreement (`float`, *optional*):
            Between 0 and 1: the least overlap (Jaccard) of the sets of numbers in a response and in its pivot. 1 asks
            for equal sets. Two responses without numbers agree; numbers on one side only do not.
        max_length_ratio (`float`, *optional*):
            At least 1: how many times longer or shorter than the language's median, next to the pivot in characters, a
            response may be. Relative to the median, since a Chinese translation has a third of the characters.
        min_script_share (`float`, *optional*):
            Between 0 and 1: the least share of a response's letters in the script of its language. Responses without
            letters, and languages whose script is not known, pass.
        drop_identical (`bool`, *optional*, defaults to `False`):
            Whether to drop "translations" that are the pivot's text, if they have letters and 20 characters.
        language_column, parallel_id_column, pivot_language, pivot_dataset, text_columns:
            As in [`parallel_report`].

    Returns:
        [`~datasets.Dataset`]: The rows that are kept, in their order.

    Raises:
        NothingToAlign: A `ValueError`, if there are no pivots or nothing pairs.
        ValueError: If a bound is out of its range, a column is missing or no response is found.
        TypeError: As in [`parallel_report`].

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data.quality import filter_parallel

    >>> texts = ["2 + 3 = 5", "2 + 3 = 5", "7 - 6 = 1", "9 - 5 = 4"]
    >>> data = Dataset.from_dict(
    ...     {"language": ["en", "sw", "en", "sw"], "parallel_id": [1, 1, 2, 2], "completion": texts}
    ... )
    >>> filter_parallel(data, min_number_agreement=0.5)["parallel_id"][:]
    [1, 1, 2]
    ```
    """
    for name, bound in (("min_number_agreement", min_number_agreement), ("min_script_share", min_script_share)):
        if bound is not None and not 0 <= bound <= 1:
            raise ValueError(f"`{name}` must be between 0 and 1, got {bound}.")
    if max_length_ratio is not None and not max_length_ratio >= 1:
        raise ValueError(f"`max_length_ratio` must be at least 1, got {max_length_ratio}.")
    columns = PairingColumns.build(language_column, parallel_id_column, pivot_language)
    data = ParallelTexts.read(dataset, columns, pivot_dataset, text_columns, [], None)
    pairs, responses = data.pairs, data.responses

    failed: dict[str, np.ndarray] = {}
    if min_number_agreement is not None:
        failed["numbers"] = responses.overlap < min_number_agreement
    if max_length_ratio is not None:
        ratio = responses.log_ratio
        for code in np.unique(data.language):
            ratio[data.language == code] -= np.median(ratio[data.language == code])
        # An empty response has no length to compare
        empty = responses.own.chars[pairs] == 0
        failed["length"] = (np.abs(ratio) > np.log(max_length_ratio) + 1e-9) | empty
    if min_script_share is not None:
        letters = data.rows.letters[pairs]
        failed["script"] = (letters > 0) & (data.rows.in_script[pairs] < min_script_share * letters)
    if drop_identical:
        failed["identical"] = data.is_copy
    keep = data.keys.is_pivot | (data.pivot >= 0)
    dropped = {"no pivot": np.flatnonzero(~keep)} | {reason: pairs[mask] for reason, mask in failed.items()}
    keep[np.concatenate(list(dropped.values()))] = False
    _log_dropped(data.keys, keep, dropped)
    return dataset.select(np.flatnonzero(keep))


def _log_dropped(keys: Keys, keep: np.ndarray, dropped: dict[str, np.ndarray]) -> None:
    for code, name in enumerate(keys.language_names):
        mine = keys.language == code
        n = int((mine & ~keep).sum())
        if n:
            reasons = {reason: int(mine[rows].sum()) for reason, rows in dropped.items()}
            text = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items() if count)
            get_logger().info(f"filter_parallel: {name}: {n:,} of {mine.sum():,} rows dropped ({text})")
    get_logger().info(f"filter_parallel: {keep.sum():,} of {len(keep):,} rows kept")
