"""Streams of one language each, side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset, Features, IterableDataset, concatenate_datasets

from .._logging import get_logger
from .join_checks import check_language, compare_rows, different_lengths, report_numbers
from .messages import ids_differ
from .ordered_examples import Rounds, side_by_side
from .tables import add_features, batch_of, row_id, same_types


COMPARED_ROWS = 256  # rows of a stream whose numbers are compared


def join_streams(
    datasets: Mapping[str, IterableDataset],
    on: Sequence[str] | None,
    language_column: str,
    parallel_id_column: str,
    duplicates: str,
    check_numbers: str,
    where: str,
) -> IterableDataset:
    """
    One stream of the rows of several, the translations of an item next to each other.

    Arguments as in [`concatenate_parallel`]; `where` names the split in messages.
    """
    languages = list(datasets)
    rounds: Callable[..., Rounds]
    if on is None:
        rounds = functools.partial(_ByPosition, languages, check_numbers, where)
    else:
        rounds = functools.partial(_ById, languages, on, duplicates, where)
    return side_by_side(list(datasets.values()), rounds).map(
        _label,
        batched=True,
        batch_size=1,
        with_indices=True,
        remove_columns=["streams", "rows"],
        features=_features(datasets, on, language_column, parallel_id_column),
        fn_kwargs={
            "languages": languages,
            "on": on,
            "language_column": language_column,
            "parallel_id_column": parallel_id_column,
        },
    )


def _features(
    datasets: Mapping[str, IterableDataset], on: Sequence[str] | None, language_column: str, parallel_id_column: str
) -> Features | None:
    """Features of the result, as those of tables would be, if all are known."""
    known = {language: dataset.features for language, dataset in datasets.items()}
    tables = {  # of one row, as `concatenate_datasets` leaves empty ones out
        language: Dataset.from_dict({name: [None] for name in features}, features=features)
        for language, features in known.items()
        if features is not None
    }
    if len(tables) < len(known):
        return None
    features = concatenate_datasets(same_types(tables)).features
    integers = on is None or (len(on) == 1 and "int" in features[on[0]].dtype)
    return add_features(features, {parallel_id_column: "int64" if integers else "string", language_column: "string"})


def _label(
    batch: dict[str, list],
    indices: list[int],
    languages: Sequence[str],
    on: Sequence[str] | None,
    language_column: str,
    parallel_id_column: str,
) -> dict[str, list]:
    """Rows of rounds, with the columns that are added."""
    result = []
    for index, streams, rows in zip(indices, batch["streams"], batch["rows"], strict=True):
        for stream, row in zip(streams, rows, strict=True):
            if language_column in row:
                check_language([row[language_column]], languages[stream], language_column)
            parallel_id = index if on is None else row_id(row, on)
            result.append({**row, parallel_id_column: parallel_id, language_column: languages[stream]})
    return batch_of(result)


class _ByPosition:
    """Rounds of one row of each stream (see [`Rounds`])."""

    def __init__(self, languages: list[str], check_numbers: str, where: str, memory: dict[str, Any] | None = None):
        self.languages = languages
        self.check_numbers = check_numbers
        self.where = where
        self.memory = memory or {"rounds": 0}
        # The first rows of this reading, until they are compared
        self.seen: dict[str, list[dict[str, Any]]] | None = None
        if check_numbers != "off":
            self.seen = {language: [] for language in languages}

    def __call__(self, rows: Sequence[dict[str, Any] | None], count_rest: Callable[[], list[int]]) -> Sequence[int]:
        present = [i for i, row in enumerate(rows) if row is not None]
        if 0 < len(present) < len(rows):
            rest = count_rest()  # how long the longer ones are is part of the message
            lengths = {
                language: self.memory["rounds"] + (1 + rest[i] if i in present else 0)
                for i, language in enumerate(self.languages)
            }
            raise ValueError(different_lengths(lengths, self.where, self._compare()))
        if self.seen is not None:
            for language, row in zip(self.languages, rows, strict=True):
                if row is not None:
                    self.seen[language].append(row)
            if len(self.seen[self.languages[0]]) == COMPARED_ROWS or not present:
                if found := self._compare():
                    report_numbers(found, self.where, self.check_numbers)
                self.seen = None
        self.memory["rounds"] += bool(present)
        return present

    def _compare(self) -> str | None:
        return compare_rows(self.seen) if self.seen is not None and self.seen[self.languages[0]] else None


class _ById:
    """
    Rounds of rows with the same id (see [`Rounds`]).

    As long as all streams show the same id, their order does not matter. Where they do not, an id is missing
    somewhere, and only an ascending order tells where: the smallest comes first.
    """

    def __init__(
        self,
        languages: list[str],
        on: Sequence[str],
        duplicates: str,
        where: str,
        memory: dict[str, Any] | None = None,
    ):
        self.languages = languages
        self.on = on
        self.duplicates = duplicates
        self.where = where
        n = len(languages)
        self.memory = memory or {
            "last": None,  # id of the round before
            "descent": None,  # the ids that did not ascend for the first time
            "gap": None,  # the ids where one was missing for the first time
            "rows": [0] * n,
            "without_id": [0] * n,
            "missing": [0] * n,
            "items": 0,
        }

    def __call__(self, rows: Sequence[dict[str, Any] | None], count_rest: Callable[[], list[int]]) -> Sequence[int]:
        ids = {i: self._key(row) for i, row in enumerate(rows) if row is not None}
        chosen = next(([i] for i, key in ids.items() if key is None), None)
        if chosen is not None:  # belongs to nothing
            self.memory["without_id"][chosen[0]] += 1
        else:
            chosen = self._choose({i: key for i, key in ids.items() if key is not None})
        for i in chosen:
            self.memory["rows"][i] += 1
        if not chosen:
            self._report()
        return chosen

    def _key(self, row: dict[str, Any]) -> list[int | str] | None:
        """Parts of an id, such that integers have their own order; None if one is missing."""
        parts = [part for name in self.on if (part := row_id(row, [name])) is not None]
        return parts if len(parts) == len(self.on) else None

    def _choose(self, ids: dict[int, list[int | str]]) -> list[int]:
        memory = self.memory
        if not ids:
            return []
        last = memory["last"]
        self._check_kinds(ids, last)
        again = [i for i, key in ids.items() if key == last]
        if again:
            if self.duplicates == "error":
                raise ValueError(
                    f"The id {self._show(ids[again[0]])}{self.where} stands in several rows of "
                    f"{self.languages[again[0]]!r}, the last of them row {memory['rows'][again[0]]}. Where ids repeat "
                    "across sources, name all id columns, e.g. `on=['source', 'id']`; where a question has several "
                    "responses, set `duplicates='keep'`."
                )
            return again
        item = min(ids.values())
        if memory["gap"] is None and any(key != item for key in ids.values()):
            memory["gap"] = ", ".join(
                f"{self._show(key)} in {self.languages[i]!r} (row {memory['rows'][i]})" for i, key in ids.items()
            )
        if memory["descent"] is None and last is not None and item < last:
            memory["descent"] = f"{self._show(item)} comes after {self._show(last)}"
        if memory["gap"] is not None and memory["descent"] is not None:
            self._fail()
        memory["last"] = item
        memory["items"] += 1
        chosen = [i for i, key in ids.items() if key == item]
        for i in range(len(self.languages)):
            memory["missing"][i] += i not in chosen
        return chosen

    def _check_kinds(self, ids: Mapping[int, list[int | str]], last: list[int | str] | None) -> None:
        before = {} if last is None else {"the rows before": last}
        shown = {repr(self.languages[i]): key for i, key in ids.items()} | before
        for part, name in enumerate(self.on):
            if len({isinstance(key[part], str) for key in shown.values()}) > 1:
                found = (f"{key[part]!r} in {where}" for where, key in shown.items())
                raise ValueError(ids_differ(name, found, self.where))

    def _fail(self) -> None:
        raise ValueError(
            f"The streams{self.where} are out of step: side by side stand {self.memory['gap']}. What is missing can "
            f"only be told where ids ascend, but {self.memory['descent']}. Sort the rows of all languages by "
            f"{', '.join(map(repr, self.on))} (integers by value, strings by code points), remove the ids that some "
            "language lacks, or load the datasets without streaming."
        )

    def _show(self, key: list[int | str]) -> str:
        return repr(key[0]) if len(key) == 1 else repr(tuple(key))

    def _report(self) -> None:
        memory = self.memory
        lines = []
        for i, language in enumerate(self.languages):
            text = f"{language}: {memory['rows'][i]} rows"
            if memory["without_id"][i]:
                text += f", {memory['without_id'][i]} without an id"
            if memory["missing"][i]:
                text += f", {memory['missing'][i]} of {memory['items']} ids missing"
            lines.append(text)
        get_logger().info(
            f"Joined {len(self.languages)} streams{self.where} by {', '.join(self.on)}. {'; '.join(lines)}."
        )
