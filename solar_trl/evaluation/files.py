"""Rows of a file, or of a folder with one file per language."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..data.languages import normalize_language
from ..data.tables import shorten
from .templates import TEMPLATES, short_code


SUFFIXES = (".jsonl", ".json", ".tsv", ".csv", ".parquet")
_SPLITS = {"validation": {"validation", "val", "valid", "dev"}, "train": {"train", "training"}, "test": {"test"}}


def read_rows(path: Path, header: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """
    Rows of a JSON Lines, JSON (a list, or lines), TSV, CSV or Parquet file.

    Args:
        path (`Path`):
            File; its ending says what it holds.
        header (`Sequence[str]`, *optional*):
            Column names of a TSV or CSV file that has none: used if its first line holds none of them.

    Raises:
        ValueError: If the ending is unknown, or a line is not what it should be; the line is named.
    """
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix in (".tsv", ".csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Published TSV files quote nothing: a quotation mark is text
            if path.suffix == ".tsv":
                lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            else:
                lines = list(csv.reader(file))
        names = lines.pop(0) if lines and not (header and not set(header) & set(lines[0])) else list(header or ())
        for number, line in enumerate(lines, start=1):
            if len(line) != len(names):
                raise ValueError(f"{path}: row {number} has {len(line)} columns, expected {len(names)} ({names}).")
        return [dict(zip(names, line, strict=True)) for line in lines]
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; files may be {', '.join(SUFFIXES)}.")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = []
        for number, entry in enumerate(text.split("\n"), start=1):
            if entry.strip():
                try:
                    rows.append(json.loads(entry))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}: line {number} is no JSON ({error}).") from error
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold objects with named fields.")
    return rows


def read_local(
    path: Path, languages: Iterable[str] | None = None, header: Sequence[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """
    Rows by language, of a folder with one file per language or of a single file in the long format.

    The language of a row is its field `language`; without one, that of its file: the file's name or a part of it
    (`sw.jsonl`, `mgsm_sw.tsv`, `test_Swahili.json`).

    Args:
        path (`Path`):
            Folder or file.
        languages (iterable of `str`, *optional*):
            Languages to keep, in this order; all by default.
        header (`Sequence[str]`, *optional*):
            See [`read_rows`].

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If a language is not there, or a row's language is not known.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"The folder {str(path)!r} holds no {', '.join(SUFFIXES)} files.")
    wanted = None if languages is None else list(languages)
    rows: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for row in read_rows(file, header):
            language = row.get("language") or _language_of(file)
            if language is None and wanted is not None and len(wanted) == len(files) == 1:
                language = wanted[0]
            if language is None:
                raise ValueError(
                    f"{file}: rows have no field 'language', and the file's name tells none. Name the file after the "
                    "language ('sw.jsonl'), or add the field."
                )
            rows.setdefault(str(language), []).append(row)
    if wanted is None:
        return rows
    if missing := [language for language in wanted if language not in rows]:
        raise ValueError(f"{str(path)!r} has no {shorten(missing)}; its languages are {', '.join(rows)}.")
    return {language: rows[language] for language in wanted}


def _language_of(file: Path) -> str | None:
    if re.fullmatch(r"[a-z]{2,3}|[a-z]{3}_[A-Z][a-z]{3}", file.stem):
        return file.stem
    for part in reversed(re.split(r"[_\-.]", file.stem)):
        if short_code(part) in TEMPLATES:
            return short_code(part)
        if len(part) > 3:
            try:
                return normalize_language(part)
            except (ValueError, ImportError):
                continue
    return None


def of_split(rows: list[dict[str, Any]], split: str, where: str) -> list[dict[str, Any]]:
    """Rows whose field `split` is a name of the split ("val" for "validation"); all if no row has the field."""
    if not any("split" in row for row in rows):
        return rows
    names = _SPLITS.get(split, {split})
    kept = [row for row in rows if row.get("split") in names]
    if not kept:
        found = sorted({str(row.get("split")) for row in rows})
        raise ValueError(f"{where} has no split {split!r}; its splits are {', '.join(map(repr, found))}.")
    return kept
