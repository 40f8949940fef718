"""Accuracy by language and cross-lingual consistency as metrics of the `evaluate` library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from .._logging import get_logger
from .answers import canonical_answer
from .scores import ScoreTable, accuracy_scores, consistency_scores, harmonic_mean, subset_consistency


_ANSWERS = """
        predictions (`list` of `str`, `int`, `float` or `None`):
            Extracted answers, `None` or an empty string where there was none (which is wrong). For answers inside
            responses, see [`extract_answer`].
        references (`list` of `str`, `int` or `float`):
            Right answers. Both are compared in the form of [`canonical_answer`]: `18`, `"18"` and `"18.0"` are equal.
        languages (`list[str]`):
            Language of each row."""


class OfflineMetric(evaluate.Metric):
    """A metric whose columns take strings, integers and missing values alike, kept in memory in a single process."""

    description = ""
    columns: Sequence[str] = ()

    def __init__(self, *args: Any, keep_in_memory: bool | None = None, num_process: int = 1, **kwargs: Any):
        keep_in_memory = num_process == 1 if keep_in_memory is None else keep_in_memory
        super().__init__(*args, keep_in_memory=keep_in_memory, num_process=num_process, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = Features({name: Value("string") for name in self.columns})
        return evaluate.MetricInfo(
            description=self.description, citation="", inputs_description=self.__doc__ or "", features=features
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add rows: every column of the metric, as lists of equal length."""
        rows = {"predictions": predictions, "references": references, **kwargs}
        rows = {name: rows[name] for name in rows if name in self.columns or rows[name] is not None}
        for name in self.columns:
            if rows.get(name) is None:
                raise ValueError(f"`{name}` is missing; needed are {', '.join(self.columns)}.")
        if len({len(values) for values in rows.values()}) > 1:
            lengths = ", ".join(f"{len(values)} {name}" for name, values in rows.items())
            raise ValueError(f"Columns differ in length: {lengths}.")
        # An empty string stands for a missing value, which not every writer takes in the first row
        rows = {name: [self._text(value, name) for value in values] for name, values in rows.items()}
        if len(rows[self.columns[0]]):
            super().add_batch(**rows)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row: every column of the metric."""
        row = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [row.get(name)] for name in self.columns})

    def _text(self, value: Any, name: str) -> str:
        """A value of a column as it is stored."""
        if name in ("predictions", "references"):
            return canonical_answer(value) or ""
        if value is None:
            raise ValueError(f"`{name}` holds a missing value.")
        return str(value)

    def _require_rows(self) -> None:
        if self.writer is None:
            raise ValueError("There are no rows to score.")


class MultilingualAccuracy(OfflineMetric):
    __doc__ = f"""
    Accuracy over all rows, by language, and its gap to the pivot language.

    Works offline. Rows may be added in batches (`add_batch`) before `compute`.

    Args of `compute`:{_ANSWERS}
        pivot_language (`str`, *optional*, defaults to `"en"`):
            Language with which the others are compared.

    Returns of `compute`, a `dict[str, float]`:
        - `accuracy`: right rows / rows.
        - `macro_accuracy`: mean over languages of their accuracy.
        - `accuracy/<language>`: right rows / rows of the language.
        - `pivot_gap`: accuracy of the pivot language minus the mean over the other languages of theirs. NaN, with a
          warning, if there is no pivot language or no other.

    Raises:
        ValueError: If there are no rows, columns differ in length, or a reference is empty.
        TypeError: If an answer is neither a string nor a number.

    Examples:
    ```python
    >>> from solar_trl.evaluation import MultilingualAccuracy

    >>> metric = MultilingualAccuracy()
    >>> metric.compute(predictions=[7, None], references=["7", "7"], languages=["en", "sw"])
    {{'accuracy': 0.5, 'macro_accuracy': 0.5, 'accuracy/en': 1.0, 'accuracy/sw': 0.0, 'pivot_gap': 1.0}}
    ```
    """

    description = "Accuracy by language and its gap to the pivot language."
    columns = ("predictions", "references", "languages")

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float]:
        """Compute the metric, of the rows given or of those added before."""
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references, languages=kwargs.pop("languages", None))
        self._require_rows()
        return super().compute(**kwargs)

    def _compute(self, predictions, references, languages, pivot_language: str = "en") -> dict[str, float]:
        correct = _matches(predictions, references)
        names = list(dict.fromkeys(languages))
        codes = np.array([names.index(language) for language in languages])
        rows = np.bincount(codes, minlength=len(names)).astype(float)[None]
        right = np.bincount(codes, weights=correct, minlength=len(names))[None]
        scores = accuracy_scores(right, rows, names, pivot_language, np.ones((1, 1)))
        _warn_without_pivot(names, pivot_language)
        return {name: float(values[0]) for name, values in scores.items()}


class CrossLingualConsistency(OfflineMetric):
    __doc__ = f"""
    Whether answers to the same item agree across languages, and are right in several of them.

    Works offline. Rows may be added in batches (`add_batch`) before `compute`. A missing answer equals no other
    answer, also not another missing one. A pair of languages is judged on the items that both have; pairs without any
    are left out (their number is logged).

    Args of `compute`:{_ANSWERS}
        parallel_ids (`list` of `int` or `str`):
            The same value on all translations of an item; `1` and `"1"` are the same.
        pivot_language (`str`, *optional*, defaults to `"en"`):
            The pivot of `clc`.
        subset_sizes (`list[int]`, *optional*):
            Sizes s of language subsets for which to add `consistency@s` and `ac3@s`.

    Returns of `compute`, a `dict[str, float]`:
        - `consistency` (SeaEval, arXiv:2309.04766, subsets of two): mean over pairs of languages of the share of items
          with equal answers, right or wrong.
        - `ac3` (SeaEval): 2 · A · C / (A + C) of macro accuracy A (mean over languages) and `consistency` C; 0 if both
          are 0.
        - `clc`: mean over the other languages l of the share of items that are right both in the pivot language and in
          l. NaN, with a warning, without the pivot language.
        - `co`: over all pairs of languages and their items, those right in both / those right in at least one. NaN if
          none is right anywhere. `clc` and `co` are the measures of the SOLAR authors' evaluation code
          (ivy3h/Soft-Thinking).
        - `consistency@s`: mean over all subsets of s languages of the share of items with equal answers in all s, on
          the items that every language has; `ac3@s` likewise. `consistency@2` is `consistency` if every language has
          every item.

        With one language there are no pairs: all are NaN, with a warning.

    Raises:
        ValueError: If there are no rows, columns differ in length, a reference is empty, a language has an id twice,
            no two languages share an id, or a subset size is out of range.
        TypeError: If an answer is neither a string nor a number.

    Examples:
    ```python
    >>> from solar_trl.evaluation import CrossLingualConsistency

    >>> metric = CrossLingualConsistency()
    >>> metric.compute(
    ...     predictions=[7, 30, 7, 5],
    ...     references=[7, 30, 7, 30],
    ...     languages=["en", "en", "sw", "sw"],
    ...     parallel_ids=[0, 1, 0, 1],
    ... )
    {{'consistency': 0.5, 'ac3': 0.6, 'clc': 0.5, 'co': 0.5}}
    ```
    """

    description = "Agreement of answers to the same item across languages."
    columns = ("predictions", "references", "languages", "parallel_ids")

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float]:
        """Compute the metric, of the rows given or of those added before."""
        if predictions is not None:
            columns = {name: kwargs.pop(name, None) for name in ("languages", "parallel_ids")}
            self.add_batch(predictions=predictions, references=references, **columns)
        self._require_rows()
        return super().compute(**kwargs)

    def _compute(
        self,
        predictions,
        references,
        languages,
        parallel_ids,
        pivot_language: str = "en",
        subset_sizes: Sequence[int] | None = None,
    ) -> dict[str, float]:
        answers = [answer or None for answer in predictions]
        table = ScoreTable.from_rows(answers, _matches(predictions, references), languages, parallel_ids)
        return consistency_report(table, pivot_language, subset_sizes)


def consistency_report(
    table: ScoreTable, pivot_language: str = "en", subset_sizes: Sequence[int] | None = None
) -> dict[str, float]:
    """The values of [`CrossLingualConsistency`] for a table of answers."""
    n_languages = len(table.languages)
    together = table.present.astype(int).T @ table.present
    disjoint = int((np.triu(together == 0, 1) & ~np.eye(n_languages, dtype=bool)).sum())
    if n_languages == 1:
        get_logger().warning(f"Consistency needs two languages or more; there is only {table.languages[0]!r}.")
    elif disjoint == n_languages * (n_languages - 1) // 2:
        raise ValueError(
            f"No two languages share a parallel id: {table.languages[0]!r} has {table.items[0]!r}, ... Use one id for "
            "all translations of an item."
        )
    elif disjoint:
        get_logger().warning(f"{disjoint} pairs of languages share no item; consistency leaves them out.")
    _warn_without_pivot(table.languages, pivot_language)
    report = {name: float(values[0]) for name, values in consistency_scores(table, pivot_language).items()}
    macro = float(np.mean(table.accuracy.sum(0) / table.present.sum(0)))
    for size in subset_sizes or ():
        report[f"consistency@{size}"] = subset_consistency(table, size)
        report[f"ac3@{size}"] = float(harmonic_mean(np.array(macro), np.array(report[f"consistency@{size}"])))
    return report


def _matches(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Whether canonical answers are equal, as float64."""
    if not all(references):
        raise ValueError(f"The reference of row {list(references).index('')} is empty.")
    return np.array(
        [prediction == reference for prediction, reference in zip(predictions, references, strict=True)], float
    )


def _warn_without_pivot(languages: Sequence[str], pivot_language: str) -> None:
    if pivot_language not in languages:
        get_logger().warning(
            f"The pivot language {pivot_language!r} is not among the languages "
            f"({', '.join(map(repr, languages))}): what compares with it is NaN. Pass `pivot_language=`."
        )
    elif len(languages) == 1:
        get_logger().warning(f"There is no language beside the pivot {pivot_language!r}: the gap is NaN.")
