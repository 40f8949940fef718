"""From the layouts in which parallel data is published to the long format: one row per language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets

from .._logging import get_logger
from .languages import normalize_language
from .messages import no_column
from .pairing import as_list
from .tables import (
    SplitDataset,
    by_split,
    column_names,
    read_column,
    read_ids,
    refuse_column,
    require_columns,
    row_id,
    same_types,
    set_column,
    shorten,
    without_indices,
)


def to_long_format(
    dataset: SplitDataset,
    fields: str | Sequence[str],
    template: str = "{lang}_{field}",
    languages: Sequence[str] | None = None,
    pivot_language: str = "en",
    pivot_bare: bool = True,
    language_column: str = "language",
    parallel_id_column: str = "parallel_id",
    id_column: str | Sequence[str] | None = None,
    keep: str | Sequence[str] | None = None,
) -> SplitDataset:
    """
    From wide rows, with one column per language and field, to one row per language.

    `question`, `zh_question` and `sw_question` become the column `question` of three rows. Rows of a language in which
    one of the fields is missing (null, or empty apart from white space) are left out, and their number is reported.
    Texts are not copied: the columns are selected, renamed and put one after the other.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of splits of either):
            Wide rows. Streams stay lazy; their rows come out item by item, those of a table language by language.
        fields (`str` or `list[str]`):
            What there is of each language, e.g. `["question", "response"]`: columns of the result.
        template (`str`, *optional*, defaults to `"{lang}_{field}"`):
            How a column is named; `"{field}_{lang}"` for suffixes.
        languages (`list[str]`, *optional*):
            The languages as the column names have them, which is also what the language column will hold. By default
            they are found in the column names, and the language column holds their codes (see
            [`normalize_language`], which needs `pip install 'solar-trl[data]'`). So that words such as "old" or "raw"
            are not taken for languages, those whose code has three letters must be named here, unless the script is
            part of the name (`"ceb_Latn"`).
        pivot_language (`str`, *optional*, defaults to `"en"`):
            What the language column holds for the pivots.
        pivot_bare (`bool`, *optional*, defaults to `True`):
            Whether columns named like the fields themselves are the pivot language's.
        language_column (`str`, *optional*, defaults to `"language"`):
            Column to add.
        parallel_id_column (`str`, *optional*, defaults to `"parallel_id"`):
            Column to add.
        id_column (`str` or `list[str]`, *optional*):
            Column, or columns, with the id of the item, which `parallel_id_column` will hold as in
            [`concatenate_parallel`]. By default the row number (int64). In a stream that ranks or dataloader workers
            share, each counts its own rows: what stands together is one item, but numbers come again.
        keep (`str` or `list[str]`, *optional*):
            Columns that all languages share, e.g. `["answer"]`. By default all that are not a language's.

    Returns:
        The same type as `dataset`, with the fields, the kept columns, `language_column` and `parallel_id_column`.

    Raises:
        ValueError: If the template lacks a placeholder, a column is missing or in the way, no column is in the pivot
            language or in any other, or the columns of a field differ in type.
        ImportError: If languages are to be found and `langcodes` or `language_data` is not installed.

    Examples:
    ```python
    >>> from datasets import Dataset
    >>> from solar_trl.data import to_long_format

    >>> wide = Dataset.from_dict({"question": ["Why?", "How?"], "zh_question": ["为什么？", ""], "answer": [1, 2]})
    >>> for row in to_long_format(wide, fields=["question"]):
    ...     print(row)
    {'question': 'Why?', 'answer': 1, 'parallel_id': 0, 'language': 'en'}
    {'question': 'How?', 'answer': 2, 'parallel_id': 1, 'language': 'en'}
    {'question': '为什么？', 'answer': 1, 'parallel_id': 0, 'language': 'zh'}
    ```
    """
    fields = as_list(fields)
    ids = None if id_column is None else as_list(id_column)

    def layout(rows):
        names = require_columns(rows, dict.fromkeys(ids or [], "`id_column`"))
        if ids != [parallel_id_column]:
            way_out = f"use it with `id_column={parallel_id_column!r}`, or choose another `parallel_id_column`."
            refuse_column(names, parallel_id_column, way_out)
        refuse_column(names, language_column, "rename or remove it, or choose another `language_column`.")
        columns = _language_columns(names, fields, template, languages, pivot_language, pivot_bare)
        kept = _kept_columns(names, fields, columns, keep, {language_column, parallel_id_column})
        return columns, kept

    def long_table(rows):
        columns, kept = layout(rows)
        values = pa.array(np.arange(len(rows))) if ids is None else read_ids(rows, ids, "dataset")[0]
        rows = set_column(rows, parallel_id_column, values)
        parts, missing = {}, {}
        for language, sources in columns.items():
            present = np.flatnonzero(_all_present(rows, list(sources.values())))
            part = rows.select_columns([*sources.values(), *kept, parallel_id_column])
            part = part.rename_columns({source: field for field, source in sources.items() if source != field})
            part = set_column(part, language_column, pa.repeat(pa.scalar(language, pa.string()), len(part)))
            missing[language] = len(part) - len(present)
            parts[language] = part if len(present) == len(part) else part.select(present)
        found = ", ".join(f"{language}: {len(part)}" for language, part in parts.items())
        left_out = ", ".join(f"{language}: {count}" for language, count in missing.items() if count)
        get_logger().info(
            f"{len(rows)} wide rows in {len(parts)} languages. Rows: {found}."
            + (f" Left out, as {' or '.join(fields)} is missing: {left_out}." if left_out else "")
        )
        return concatenate_datasets(same_types(parts))

    def long_stream(rows):
        columns, kept = layout(rows)

        def expand(batch, indices):
            result: dict[str, list[Any]] = {name: [] for name in [*fields, *kept, parallel_id_column, language_column]}
            for i, index in enumerate(indices):
                parallel_id = index if ids is None else row_id({name: batch[name][i] for name in ids}, ids)
                for language, sources in columns.items():
                    values = {field: batch[source][i] for field, source in sources.items()}
                    if any(value is None or _is_blank(value) for value in values.values()):
                        continue
                    values |= {name: batch[name][i] for name in kept}
                    values |= {parallel_id_column: parallel_id, language_column: language}
                    for name, value in values.items():
                        result[name].append(value)
            return result

        features = None
        if rows.features is not None:
            pivot = columns[pivot_language]
            features = Features({field: rows.features[pivot[field]] for field in fields})
            features |= {name: rows.features[name] for name in kept}
            kind = rows.features[ids[0]] if ids is not None and len(ids) == 1 else None
            features[parallel_id_column] = kind or Value("int64" if ids is None else "string")
            features[language_column] = Value("string")
        return rows.map(expand, batched=True, with_indices=True, remove_columns=column_names(rows), features=features)

    return by_split(dataset, long_table, long_stream)


def _is_blank(value: Any) -> bool:
    return len(value.strip() if isinstance(value, str) else value) == 0 if hasattr(value, "__len__") else False


def _all_present(dataset: Dataset, columns: Sequence[str]) -> np.ndarray:
    """Where none of the columns is null or empty. Shape `(n,)`, dtype bool."""
    dataset, indices = without_indices(dataset)
    present = np.ones(len(dataset), bool)
    for name in columns:
        column = read_column(dataset, name)
        found = pc.is_valid(column)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            found = pc.fill_null(pc.match_substring_regex(column, r"[^\s\pZ]"), False)
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            found = pc.fill_null(pc.greater(pc.list_value_length(column), 0), False)
        present &= found.to_numpy()
    return present if indices is None else present[indices]


def _matcher(template: str, fields: Sequence[str]) -> re.Pattern[str]:
    """A pattern for column names, with the groups `lang` and `field`."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"`template` is {template!r}, which is no template: {error}.") from error
    if sorted(name for _, name, _, _ in parts if name is not None) != ["field", "lang"]:
        raise ValueError(
            f"`template` is {template!r}, expected one `{{lang}}` and one `{{field}}`, as in '{{field}}_{{lang}}'."
        )
    # The longest field that fits: "zh_sub_question" is a "sub_question", if there is such a field
    groups = {
        "lang": "(?P<lang>.+?)",
        "field": f"(?P<field>{'|'.join(map(re.escape, sorted(fields, key=len, reverse=True)))})",
    }
    return re.compile("".join(re.escape(text) + (groups[name] if name else "") for text, name, _, _ in parts))


def _language_columns(
    names: Sequence[str],
    fields: Sequence[str],
    template: str,
    languages: Sequence[str] | None,
    pivot_language: str,
    pivot_bare: bool,
) -> dict[str, dict[str, str]]:
    """Of each language, the pivot first, the column of each field."""
    if not fields or len(set(fields)) < len(fields):
        raise ValueError(f"`fields` is {list(fields)!r}, expected one or more different names.")
    matcher = _matcher(template, fields)
    found: dict[str, dict[str, str]] = {}
    if languages is None:
        found = _infer_languages(names, matcher)
    else:
        for language in languages:
            if language != pivot_language or not pivot_bare or any(f not in names for f in fields):
                found[language] = {field: template.format(lang=language, field=field) for field in fields}
    if pivot_bare and all(field in names for field in fields):
        if pivot_language in found:
            raise ValueError(
                f"Both {shorten(fields)} and {shorten(list(found[pivot_language].values()))} would be "
                f"{pivot_language!r}. Set `pivot_bare=False` to take the latter, or remove one of them."
            )
        found = {pivot_language: {field: field for field in fields}, **found}
    for language, columns in found.items():
        for field in fields:
            column = columns.get(field, template.format(lang=language, field=field))
            if column not in names:
                raise ValueError(
                    f"Language {language!r} has no column {column!r} (field {field!r} in `template` {template!r}); "
                    f"columns are {', '.join(map(repr, names))}. If all languages share {field!r}, name it in `keep`, "
                    f"not in `fields`; if {language!r} is no language, name the languages in `languages`."
                )
    if pivot_language not in found or len(found) < 2:
        what = "another language" if pivot_language in found else f"the pivot language {pivot_language!r}"
        raise ValueError(
            f"No columns of {what} with the fields {shorten(fields)} and the `template` {template!r}. Languages "
            f"found: {shorten(list(found), 20) or 'none'}; columns: {', '.join(map(repr, names))}. Set `fields`, "
            "`template`, `languages` or `pivot_language`."
        )
    return {pivot_language: found.pop(pivot_language), **found}


def _infer_languages(names: Sequence[str], matcher: re.Pattern[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for name in names:
        match = matcher.fullmatch(name)
        if not match:
            continue
        label = match["lang"]
        try:
            language = normalize_language(label)
        except ValueError:
            continue
        if len(language) > 2 and not re.search("[-_][A-Z][a-z]{3}$", label):
            doubtful[label] = name
            continue
        if labels.setdefault(language, label) != label:
            raise ValueError(
                f"The columns of {labels[language]!r} and of {label!r} are both {language!r}. Name the languages as "
                f"the columns have them, e.g. `languages=[{labels[language]!r}, {label!r}, ...]`."
            )
        found.setdefault(language, {})[match["field"]] = name
    if doubtful:
        get_logger().warning(
            f"Not taken for languages: {', '.join(map(repr, doubtful))} (columns {shorten(list(doubtful.values()))}). "
            "If they are, name all languages in `languages`."
        )
    return found


def _kept_columns(
    names: Sequence[str],
    fields: Sequence[str],
    columns: Mapping[str, Mapping[str, str]],
    keep: str | Sequence[str] | None,
    added: set[str],
) -> list[str]:
    used = {source for sources in columns.values() for source in sources.values()} | set(fields)
    if keep is None:
        kept = [name for name in names if name not in used and name not in added]
    else:
        kept = [name for name in as_list(keep) if name not in added]
        for name in kept:
            if name not in names:
                raise ValueError(no_column("dataset", name, "`keep`", names))
            if name in fields:
                raise ValueError(
                    f"{name!r} stands both in `keep` and in `fields`: it is shared by all languages, or it is not."
                )
    return kept
