"""Records of responses, and the result of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .answers import canonical_answer
from .prompts import Prompt
from .scores import ScoreTable
from .statistics import Interval


@dataclass
class Record:
    """
    One response to one item.

    Args:
        language, parallel_id (`str`): Language and item.
        sample (`int`): Number of the sample, from 0.
        prompt (`str` or `list[dict]`): What the model was given.
        output (`str`): What it generated; empty for scored options.
        extracted (`str`, *optional*): The answer found in it.
        reference (`str`): The right answer.
        correct (`bool`): Whether they are equal.
        finished (`bool`): Whether the model ended the output; `False` if it was cut off.
        in_language (`bool`, *optional*), language_by (`str`):
            Whether the output is in the prompt's language, and what decided it (see [`judge_language`]).
        subject (`str`): Subject of the item, where the benchmark has one.
    """

    language: str
    parallel_id: str
    sample: int
    prompt: Prompt
    output: str
    extracted: str | None
    reference: str
    correct: bool
    finished: bool = True
    in_language: bool | None = None
    language_by: str = ""
    subject: str = ""


@dataclass
class EvaluationResult:
    """
    Scores of one model on one benchmark, and the rows they come from.

    Args:
        name (`str`): What was evaluated.
        metrics (`dict[str, float]`): All of [`MultilingualAccuracy`], [`CrossLingualConsistency`] (with two languages
            or more) and [`LanguageFidelity`] (where outputs were generated).
        intervals (`dict[str, Interval]`): Bootstrap intervals of the scores (see [`score_intervals`]) and of language
            fidelity.
        counts (`dict[str, dict[str, int]]`): For each language and for `"all"`: `rows`, `correct`, `empty` outputs,
            `unextractable` (an output, no answer in it), `unfinished` (cut off).
        settings (`dict`): How it was run.
        records (`list[Record]`): Every response.
    """

    name: str
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    counts: dict[str, dict[str, int]]
    settings: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def table(self) -> ScoreTable:
        """The records as a table of items and languages, for [`compare_tables`] and [`consistency_matrix`]."""
        return score_table(self.records)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it; undefined scores (NaN) are `None`."""
        return _without_nan(asdict(self))

    def save(self, path: str | Path) -> None:
        """Write to a JSON file."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8", errors="replace")

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """Read what [`save`] wrote."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(
            values["name"],
            {name: _number(value) for name, value in values["metrics"].items()},
            {
                name: Interval(**{key: _number(value) for key, value in interval.items()})
                for name, interval in values["intervals"].items()
            },
            values["counts"],
            values["settings"],
            [Record(**record) for record in values["records"]],
        )


def score_table(records: Sequence[Record]) -> ScoreTable:
    """Records as a table of items and languages."""
    return ScoreTable.from_rows(
        [canonical_answer(record.extracted) for record in records],
        [record.correct for record in records],
        [record.language for record in records],
        [record.parallel_id for record in records],
        [record.sample for record in records],
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and value != value else value


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
