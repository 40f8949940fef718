"""Parallel texts as integers: one pass over the text, a few integers per row and one per number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from .numbers import extract_numbers, final_of, unsigned
from .pairing import Keys, PairingColumns, describe_ids, read_keys_with_pivots
from .reading import TextColumns, find_text_columns, read_texts
from .resolve import resolve_pairs
from .scripts import SCRIPTS, expected_script, letter_scripts


MIN_TEXT = 20  # characters or letters of a text that can be judged: not a label, not a bare answer
SHOWN = 5  # ids named in a message


def and_more(n: int) -> str:
    """` and 7 more`, if the first few of `n` things are not all."""
    return f" and {n - SHOWN:,} more" if n > SHOWN else ""


@dataclass
class Texts:
    """
    Integers about one text per row.

    Args:
        chars (`numpy.ndarray` of shape `(n,)`): Characters.
        digest (`numpy.ndarray` of shape `(n,)`): The same for equal texts.
        final (`numpy.ndarray` of shape `(n,)`): The final number, hashed; 0 without a number.
        count (`numpy.ndarray` of shape `(n,)`): How many distinct numbers, signs apart.
        numbers (`numpy.ndarray` of shape `(count.sum(),)`): These numbers, hashed, row after row.
        tokens (`numpy.ndarray` of shape `(n,)`, *optional*): Tokens.
    """

    chars: np.ndarray
    digest: np.ndarray
    final: np.ndarray
    count: np.ndarray
    numbers: np.ndarray
    tokens: np.ndarray | None

    @classmethod
    def read(cls, texts: list[str], tokenizer: Callable[..., Any] | None) -> Texts:
        """Read a batch of texts."""
        final, count = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
        numbers: list[int] = []
        for i, text in enumerate(texts):
            if found := extract_numbers(text):
                distinct = set(map(unsigned, found))
                numbers.extend(map(hash, distinct))
                count[i] = len(distinct)
                final[i] = hash(unsigned(final_of(text, found) or "")) | 1
        return cls(
            chars=_lengths(texts),
            digest=np.array([hash(text.strip()) for text in texts], np.int64),
            final=final,
            count=count,
            numbers=np.array(numbers, np.int64),
            tokens=None if tokenizer is None else _lengths(tokenizer(texts, add_special_tokens=False)["input_ids"]),
        )

    @classmethod
    def concatenate(cls, batches: list[Texts]) -> Texts:
        """One after the other."""

        def join(name: str) -> Any:
            parts = [getattr(batch, name) for batch in batches]
            return None if parts[0] is None else np.concatenate(parts)

        return cls(*(join(item.name) for item in fields(cls)))

    @cached_property
    def offsets(self) -> np.ndarray:
        """Row `i` has `numbers[offsets[i] : offsets[i + 1]]`."""
        return np.concatenate([[0], np.cumsum(self.count)])

    @cached_property
    def signature(self) -> np.ndarray:
        """The same for equal sets of numbers."""
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.numbers.view(np.uint64), dtype=np.uint64)])
        return (total[self.offsets[1:]] - total[self.offsets[:-1]]).view(np.int64)


def _lengths(values: Sequence[Any]) -> np.ndarray:
    return np.fromiter(map(len, values), np.int64, len(values))


@dataclass
class Rows:
    """
    The texts of a dataset.

    Args:
        response ([`Texts`]): Responses.
        prompt ([`Texts`], *optional*): Prompts.
        letters (`numpy.ndarray` of shape `(n,)`): Letters in the response.
        in_script (`numpy.ndarray` of shape `(n,)`):
            How many of them are in the script of the language; all of them where that is unknown.
        script_totals (`numpy.ndarray` of shape `(languages, len(SCRIPTS))`): Letters by language and script.
        expected (`list[str | None]`): Script of each language, if it is known.
    """

    response: Texts
    prompt: Texts | None
    letters: np.ndarray
    in_script: np.ndarray
    script_totals: np.ndarray
    expected: list[str | None]

    @classmethod
    def read(cls, dataset: Dataset, keys: Keys, found: TextColumns, tokenizer: Callable[..., Any] | None) -> Rows:
        """One pass over the texts of a dataset with one row or more."""
        expected = [expected_script(name) for name in keys.language_names]
        allowed = np.array([[not name or part in name.split("+") for part in SCRIPTS] for name in expected])
        response: list[Texts] = []
        prompt: list[Texts] = []
        letters: list[np.ndarray] = []
        in_script: list[np.ndarray] = []
        totals = np.zeros(allowed.shape, np.int64)
        start = 0
        for responses, prompts in read_texts(dataset, found):
            texts = Texts.read(responses, tokenizer)
            response.append(texts)
            if prompts is not None:
                prompt.append(Texts.read(prompts, tokenizer))
            # Letters by script, for all characters of the batch at once
            language = np.repeat(keys.language[start : start + len(responses)], texts.chars)
            start += len(responses)
            scripts = letter_scripts("".join(responses))
            totals += np.bincount(language * len(SCRIPTS) + scripts, minlength=totals.size).reshape(totals.shape)
            ends = np.cumsum(texts.chars)
            for marked, result in ((scripts > 0, letters), ((scripts > 0) & allowed[language, scripts], in_script)):
                before = np.concatenate([[0], np.cumsum(marked)])
                result.append(before[ends] - before[ends - texts.chars])
        totals[:, 0] = 0
        return cls(
            Texts.concatenate(response),
            Texts.concatenate(prompt) if prompt else None,
            np.concatenate(letters),
            np.concatenate(in_script),
            totals,
            expected,
        )


class Comparison:
    """
    One text of each pair (its response, or its prompt) next to its pivot's. All arrays are over the pairs.

    Args:
        own ([`Texts`]): Texts of the rows.
        other ([`Texts`]): Texts of the pivots' source.
        rows (`numpy.ndarray` of shape `(p,)`): Which of the former.
        pivots (`numpy.ndarray` of shape `(p,)`): Which of the latter.
    """

    def __init__(self, own: Texts, other: Texts, rows: np.ndarray, pivots: np.ndarray):
        self.own, self.other, self.rows, self.pivots = own, other, rows, pivots
        self.has_text = (own.chars[rows] > 0) & (other.chars[pivots] > 0)
        self.has_numbers = (own.count[rows] > 0) & (other.count[pivots] > 0)
        self.same_text = own.digest[rows] == other.digest[pivots]
        self.same_final = own.final[rows] == other.final[pivots]

    @cached_property
    def log_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the characters of both, with 1 for an empty text."""
        chars = self.own.chars[self.rows], self.other.chars[self.pivots]
        return np.log(np.maximum(chars[0], 1)), np.log(np.maximum(chars[1], 1))

    @property
    def log_ratio(self) -> np.ndarray:
        """Logarithm of own length / pivot's length."""
        return self.log_lengths[0] - self.log_lengths[1]

    @cached_property
    def overlap(self) -> np.ndarray:
        """Jaccard overlap of the sets of numbers; 1 if both are empty."""
        result = np.ones(len(self.rows))
        different = np.flatnonzero(self.own.signature[self.rows] != self.other.signature[self.pivots])
        sides = ((self.own, self.rows[different]), (self.other, self.pivots[different]))
        pairs, values, total = [], [], np.zeros(len(different), np.int64)
        for texts, rows in sides:
            size = texts.count[rows]
            total += size
            pairs.append(np.repeat(np.arange(len(rows)), size))
            starts = texts.offsets[rows] - (np.cumsum(size) - size)  # in `numbers`, less those in the result
            values.append(texts.numbers[np.arange(size.sum()) + np.repeat(starts, size)])
        pair, value = np.concatenate(pairs), np.concatenate(values)
        order = np.lexsort((value, pair))
        pair, value = pair[order], value[order]
        twice = (pair[1:] == pair[:-1]) & (value[1:] == value[:-1])
        shared = np.bincount(pair[1:][twice], minlength=len(different))
        result[different] = shared / (total - shared)
        return result


@dataclass
class ParallelTexts:
    """
    A dataset and its pivots, read once.

    Args:
        dataset ([`~datasets.Dataset`]): The rows.
        source ([`~datasets.Dataset`]): Where the pivots stand: the same, or another one.
        columns ([`PairingColumns`]): Where languages and ids stand.
        keys, pivot_keys ([`Keys`]): Languages and items of the two.
        pivot (`numpy.ndarray` of shape `(n,)`): Row of the source that is the row's pivot, or -1.
        rows, pivot_rows ([`Rows`]): The texts of the two.
        found ([`TextColumns`]): Where the texts stand.
    """

    dataset: Dataset
    source: Dataset
    columns: PairingColumns
    keys: Keys
    pivot_keys: Keys
    pivot: np.ndarray
    rows: Rows
    pivot_rows: Rows
    found: TextColumns

    @classmethod
    def read(
        cls,
        dataset: Dataset,
        columns: PairingColumns,
        pivot_dataset: Dataset | None,
        text_columns: str | Sequence[str] | None,
        prompt_columns: str | Sequence[str] | None,
        tokenizer: Callable[..., Any] | None,
    ) -> ParallelTexts:
        """Pair the rows as the trainer does, and read the texts; see [`~solar_trl.data.quality.parallel_report`]."""
        for name, value in (("dataset", dataset), ("pivot_dataset", pivot_dataset)):
            if value is not None and not isinstance(value, Dataset):
                raise TypeError(
                    f"`{name}` must be a `datasets.Dataset`, got {type(value).__name__}. Pass one split of a "
                    "`DatasetDict`; of a streaming dataset, some rows: "
                    "`Dataset.from_list(list(dataset.take(10_000)))`."
                )
        found = find_text_columns(dataset, columns, text_columns, prompt_columns, "dataset")
        keys, pivot_keys, source = read_keys_with_pivots(dataset, "dataset", pivot_dataset, columns)
        # By the keys alone: tokens, if there are any, may be old; several pivots of an item are reported, not refused
        pairs = resolve_pairs(
            dataset.select_columns(columns.names),
            columns,
            "dataset",
            None if pivot_dataset is None else source.select_columns(columns.names),
            multiple_pivots="first",
        )
        pivot = np.where((pairs.pivot >= 0) & ~keys.is_pivot, pairs.table_rows[pairs.pivot], -1)
        rows = pivot_rows = Rows.read(dataset, keys, found, tokenizer)
        if pivot_dataset is not None:
            pivot_found = find_text_columns(source, columns, text_columns, prompt_columns, "pivot dataset")
            pivot_rows = Rows.read(source, pivot_keys, pivot_found, tokenizer)
        return cls(dataset, source, columns, keys, pivot_keys, pivot, rows, pivot_rows, found)

    @cached_property
    def pairs(self) -> np.ndarray:
        """Rows with a pivot, shape `(p,)`."""
        return np.flatnonzero(self.pivot >= 0)

    @cached_property
    def pivots(self) -> np.ndarray:
        """Their pivots, shape `(p,)`."""
        return self.pivot[self.pairs]

    @cached_property
    def language(self) -> np.ndarray:
        """Their languages, shape `(p,)`."""
        return self.keys.language[self.pairs]

    @cached_property
    def responses(self) -> Comparison:
        """Their responses."""
        return Comparison(self.rows.response, self.pivot_rows.response, self.pairs, self.pivots)

    @cached_property
    def is_copy(self) -> np.ndarray:
        """Whether they are their pivot's text, shape `(p,)`."""
        long = (self.rows.response.chars >= MIN_TEXT) & (self.rows.letters > 0)
        return self.responses.same_text & long[self.pairs]

    @cached_property
    def prompts(self) -> Comparison | None:
        """Their prompts."""
        if self.rows.prompt is None or self.pivot_rows.prompt is None:
            return None
        return Comparison(self.rows.prompt, self.pivot_rows.prompt, self.pairs, self.pivots)

    def ids(self, rows: np.ndarray | list[int], of_pivots: bool = False) -> str:
        """`parallel_id=3; parallel_id=5 and 7 more`"""
        dataset = self.source if of_pivots else self.dataset
        return "; ".join(describe_ids(dataset, np.asarray(rows)[:SHOWN], self.columns)) + and_more(len(rows))
