"""From one dataset per language to the long format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset, concatenate_datasets

from .._logging import get_logger
from .join_checks import check_language, compare_tables, different_lengths, report_numbers
from .messages import ids_differ
from .pairing import as_list, encode
from .stream_join import join_streams
from .tables import (
    SplitDataset,
    read_column,
    read_ids,
    refuse_column,
    require_columns,
    same_types,
    set_column,
    shorten,
)


_SPLITS = {"train", "test", "validation", "val", "valid", "dev", "eval"}


def concatenate_parallel(
    datasets: Mapping[str, SplitDataset],
    on: str | Sequence[str] | None = None,
    language_column: str = "language",
    parallel_id_column: str = "parallel_id",
    duplicates: str = "error",
    check_numbers: str = "error",
) -> SplitDataset:
    """
    Put one dataset per language into the long format: their rows, with the columns `language` and `parallel_id`.

    Texts are not copied: the tables are referenced one after the other.

    Args:
        datasets (`dict[str, Dataset]`):
            The rows of each language: [`~datasets.Dataset`], [`~datasets.IterableDataset`] or dicts of splits of
            either, all of the same type. Keys are what the language column will hold, as they are. The first one is
            what the others are compared with.
        on (`str` or `list[str]`, *optional*):
            Column, or columns, with the same value on every translation of an item (integers or strings). Without
            it, row `i` of each language is a translation of row `i` of the others. An empty string is no id.
        language_column (`str`, *optional*, defaults to `"language"`):
            Column to add. It may be there already if it holds the key of `datasets` in all rows.
        parallel_id_column (`str`, *optional*, defaults to `"parallel_id"`):
            Column to add: the row number (int64) without `on`; the id if `on` is one column; else the parts joined
            with slashes, such as `"gsm8k/12"`. Strings are in Unicode's composed form (NFC).
        duplicates (`str`, *optional*, defaults to `"error"`):
            What to do if an id stands in several rows of a language: `"error"`, or `"keep"` for several responses per
            question.
        check_numbers (`str`, *optional*, defaults to `"error"`):
            What to do if the numbers in the rows tell that rows at the same position are no translations of each
            other, as after a shuffle or with a row missing from the middle: `"error"`, `"warn"` or `"off"`. Rows of
            large datasets are sampled; texts without numbers, and single rows in the wrong place, pass. Only without
            `on`.

    Returns:
        The type of the values of `datasets`. A `Dataset` holds one language after the other. Streams stay lazy, and
        the translations of an item come one after the other; one row per language is held in memory.

        - Joined by position, streams check lengths at their end and numbers on their first 256 rows.
        - Joined `on` columns, streams must have the ids in the same order. Where a language lacks some, the ids of
          all languages must ascend besides (integers by value, strings by code points, several columns in the order
          of `on`): without an order, what is missing here cannot be told from what comes later. Anything else is an
          error where it is met, which names the ids. Rows without an id stand alone. Ids that repeat are noticed if
          their rows follow each other. How many are missing is reported at the end of the stream.
        - The result is one shard, since the files of a language need not be cut where those of another are: it is
          read by one dataloader worker, in the same order in every epoch. Where file `i` of each language holds the
          same ids, join file by file (`on` their column), and concatenate: the result has as many shards.

    Raises:
        ValueError: If fewer than two languages, or splits instead, are given, their lengths (without `on`), splits or
            column types differ, a column is missing or in the way, an id stands in several rows of a language, no id
            is in two languages, or the numbers do not agree. For streams partly while they are read.
        TypeError: If `datasets` is not a dict, its values are of different types, or ids are neither integers nor
            strings.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import concatenate_parallel, find_pivots

    >>> english = Dataset.from_dict({"uid": ["a", "b"], "question": ["How many?", "Why?"]})
    >>> swahili = Dataset.from_dict({"uid": ["b", "a"], "question": ["Kwa nini?", "Ngapi?"]})
    >>> rows = concatenate_parallel({"en": english, "sw": swahili}, on="uid")
    >>> rows["parallel_id"][:], rows["language"][:]
    (['a', 'b', 'b', 'a'], ['en', 'en', 'sw', 'sw'])
    >>> find_pivots(rows).tolist()
    [-1, -1, 1, 0]
    ```
    """
    if not isinstance(datasets, Mapping) or isinstance(datasets, Dataset):
        raise TypeError(f"`datasets` must be a dict from language to dataset, got {type(datasets).__name__}.")
    if len(datasets) < 2:
        raise ValueError(
            f"`datasets` holds {len(datasets)} language(s) ({shorten(list(datasets))}), expected two or more."
        )
    for language in datasets:
        if not isinstance(language, str) or not language:
            raise TypeError(f"The keys of `datasets` must be languages such as 'sw', got {language!r}.")
    if set(datasets) <= _SPLITS:
        raise ValueError(
            f"The keys of `datasets` are splits ({shorten(list(datasets))}), expected languages: pass "
            "`{'en': english, 'sw': swahili}`, each of which may be a dict of splits."
        )
    for option, value, choices in (
        ("duplicates", duplicates, ("error", "keep")),
        ("check_numbers", check_numbers, ("error", "warn", "off")),
    ):
        if value not in choices:
            raise ValueError(f"`{option}` is {value!r}, expected {' or '.join(map(repr, choices))}.")
    columns = None if on is None else as_list(on)
    if columns is not None and not columns:
        raise ValueError("`on` is empty: name a column, or leave it out to join by position.")
    join = _Join(columns, language_column, parallel_id_column, duplicates, check_numbers)
    return join(datasets, "")


class _Join:
    """The options of [`concatenate_parallel`], applied to one split after the other."""

    def __init__(
        self,
        on: list[str] | None,
        language_column: str,
        parallel_id_column: str,
        duplicates: str,
        check_numbers: str,
    ):
        self.on = on
        self.language_column = language_column
        self.parallel_id_column = parallel_id_column
        self.duplicates = duplicates
        self.check_numbers = check_numbers

    def __call__(self, datasets: Mapping[str, Any], where: str) -> Any:
        kinds = {language: type(dataset) for language, dataset in datasets.items()}
        first = next(iter(datasets.values()))
        if len(set(kinds.values())) > 1:
            shown = ", ".join(f"{language!r} is a {kind.__name__}" for language, kind in kinds.items())
            raise TypeError(f"The datasets differ in type: {shown}. Load them alike, or convert them.")
        if isinstance(first, dict):
            for language, dataset in datasets.items():
                if set(dataset) != set(first):
                    raise ValueError(
                        f"The splits differ: {shorten(list(first))} in {next(iter(datasets))!r}, "
                        f"{shorten(list(dataset))} in {language!r}. Join those that all languages have, one by one."
                    )
            return type(first)(
                {
                    split: self({lang: d[split] for lang, d in datasets.items()}, f" of split {split!r}")
                    for split in first
                }
            )
        if not isinstance(first, (Dataset, IterableDataset)):
            raise TypeError(f"The values of `datasets` must be datasets, got {type(first).__name__}.")
        names = {language: f"{language!r} dataset{where}" for language in datasets}
        for language, dataset in datasets.items():
            self._check_columns(dataset, names[language])
        if isinstance(first, IterableDataset):
            return join_streams(
                datasets,
                self.on,
                self.language_column,
                self.parallel_id_column,
                self.duplicates,
                self.check_numbers,
                where,
            )
        return self._tables(datasets, names, where)

    def _check_columns(self, dataset: Dataset | IterableDataset, what: str) -> None:
        present = require_columns(dataset, dict.fromkeys(self.on or [], "`on`"), what)
        if self.on != [self.parallel_id_column]:
            way_out = f"join with `on={self.parallel_id_column!r}`, or choose another `parallel_id_column`."
            refuse_column(present, self.parallel_id_column, way_out, what)

    # ---- Tables

    def _tables(self, datasets: Mapping[str, Dataset], names: Mapping[str, str], where: str) -> Dataset:
        for language, dataset in datasets.items():
            if self.language_column in dataset.column_names:
                values = pc.unique(read_column(dataset, self.language_column)).to_pylist()
                check_language(values, language, self.language_column)
        if self.on is None:
            self._check_positions(datasets, where)
            ids = [pa.array(np.arange(len(dataset))) for dataset in datasets.values()]
        else:
            ids = self._read_ids(datasets, names, where)
        parts = []
        for (language, dataset), values in zip(datasets.items(), ids, strict=True):
            dataset = set_column(dataset, self.parallel_id_column, values)
            languages = pa.repeat(pa.scalar(language, pa.string()), len(dataset))
            parts.append(set_column(dataset, self.language_column, languages))
        return concatenate_datasets(same_types(dict(zip(datasets, parts, strict=True))))

    def _check_positions(self, datasets: Mapping[str, Dataset], where: str) -> None:
        lengths = {language: len(dataset) for language, dataset in datasets.items()}
        differ = len(set(lengths.values())) > 1
        found = None
        if self.check_numbers != "off":
            shortest = min(lengths.values())
            found = compare_tables(
                {language: dataset.select(range(shortest)) for language, dataset in datasets.items()}
            )
        if differ:
            raise ValueError(different_lengths(lengths, where, found))
        if found is not None:
            report_numbers(found, where, self.check_numbers)

    def _read_ids(
        self, datasets: Mapping[str, Dataset], names: Mapping[str, str], where: str
    ) -> list[pa.ChunkedArray]:
        assert self.on is not None
        found = {language: read_ids(dataset, self.on, names[language]) for language, dataset in datasets.items()}
        for position, name in enumerate(self.on):
            kinds = {kinds[position]: language for language, (_, kinds) in found.items() if kinds[position] != "null"}
            if len(kinds) > 1:
                shown = (f"{kind} in {language!r}" for kind, language in kinds.items())
                raise ValueError(ids_differ(name, shown))
        ids = {language: values for language, (values, _) in found.items()}
        kind = next((values.type for values in ids.values() if not pa.types.is_null(values.type)), pa.string())
        if any(pa.types.is_large_string(values.type) for values in ids.values()):
            kind = pa.large_string()
        ids = {language: values.cast(kind) for language, values in ids.items()}
        self._check_ids(ids, where)
        return list(ids.values())

    def _check_ids(self, ids: Mapping[str, pa.ChunkedArray], where: str) -> None:
        everything = pa.chunked_array(
            [chunk for values in ids.values() for chunk in values.chunks], next(iter(ids.values())).type
        )
        codes = encode(everything)
        n_items = int(codes.max(initial=-1)) + 1
        counts, start = {}, 0
        for language, values in ids.items():
            own = codes[start : start + len(values)]
            start += len(values)
            counts[language] = np.bincount(own[own >= 0], minlength=n_items)
            repeated = np.flatnonzero(counts[language] > 1)
            if len(repeated) and self.duplicates == "error":
                rows = np.flatnonzero(own == repeated[0])
                raise ValueError(
                    f"{len(repeated)} ids{where} stand in several rows of {language!r}, e.g. "
                    f"{values[rows[0]].as_py()!r} in rows {rows[0]} and {rows[1]}. Where ids repeat across sources, "
                    "name all id columns, e.g. `on=['source', 'id']`; where a question has several responses, "
                    "set `duplicates='keep'`."
                )
        languages_of = np.sum([count > 0 for count in counts.values()], axis=0, dtype=np.int64)
        if not (languages_of > 1).any():
            shown = "; ".join(
                f"{shorten(values.slice(0, 3).to_pylist()) or 'none'} in {language!r}"
                for language, values in ids.items()
            )
            raise ValueError(
                f"No id{where} is in two languages: nothing would pair. The first ids are {shown}. If the language is "
                "part of the id, take it out with `split_id`."
            )
        first_row = np.full(n_items, -1)
        known = np.flatnonzero(codes >= 0)[::-1]
        first_row[codes[known]] = known
        lines = []
        for language, count in counts.items():
            missing = np.flatnonzero(count == 0)
            text = f"{language}: {len(ids[language])} rows"
            if unknown := ids[language].null_count:
                text += f", {unknown} without an id"
            if len(missing):
                text += f", {len(missing)} of {n_items} ids missing ("
                text += shorten([everything[row].as_py() for row in first_row[missing[:4]].tolist()], 3) + ")"
            lines.append(text)
        get_logger().info(f"Joined {len(ids)} languages{where} by {', '.join(self.on or [])}. {'; '.join(lines)}.")
