"""Do models answer in the language they are asked in?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .._logging import get_logger
from .language_id import LanguageDecision, has_identifier, judge_language
from .metrics import OfflineMetric


_IDENTIFIERS = ("auto", "py3langid", "none")


def judge_languages(
    texts: Sequence[str], languages: Sequence[str], identifier: str = "auto"
) -> list[LanguageDecision]:
    """
    [`~solar_trl.evaluation.judge_language`] for each text and the language it should be in.

    Args:
        texts (`Sequence[str]`), languages (`Sequence[str]`):
            Texts, and a language code for each.
        identifier (`str`, *optional*, defaults to `"auto"`):
            `"py3langid"`, `"none"`, or `"auto"`: the first if it is installed, else a warning and the second.

    Raises:
        ValueError: If the lengths differ or the identifier is unknown.
        ImportError: If `"py3langid"` is asked for and not installed.
    """
    if identifier not in _IDENTIFIERS:
        raise ValueError(f"`identifier` is {identifier!r}, expected {', '.join(map(repr, _IDENTIFIERS))}.")
    if len(texts) != len(languages):
        raise ValueError(f"There are {len(texts)} texts and {len(languages)} languages.")
    use_identifier = identifier == "py3langid" or (identifier == "auto" and has_identifier())
    decisions = [
        judge_language(text, language, use_identifier) for text, language in zip(texts, languages, strict=True)
    ]
    unknown = sum(decision.by == "unknown" for decision in decisions)
    if unknown and not use_identifier and identifier == "auto":
        get_logger().warning(
            f"{unknown} of {len(texts)} texts are in scripts that several languages share, and `py3langid` is not "
            "installed: whether they are in the right language stays undecided. `pip install 'solar-trl[eval]'`."
        )
    return decisions


def fidelity_scores(decisions: Sequence[LanguageDecision], languages: Sequence[str]) -> dict[str, float]:
    """The values of [`LanguageFidelity`] for texts that were judged."""
    right: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    for decision, language in zip(decisions, languages, strict=True):
        right[language] += decision.in_language is True
        decided[language] += decision.in_language is not None
    by_language = {
        language: right[language] / decided[language] if decided[language] else float("nan")
        for language in dict.fromkeys(languages)
    }
    known = [value for value in by_language.values() if value == value]
    kinds = Counter(decision.by for decision in decisions)
    return {
        "fidelity": right.total() / decided.total() if decided.total() else float("nan"),
        "macro_fidelity": sum(known) / len(known) if known else float("nan"),
        **{f"fidelity/{language}": value for language, value in by_language.items()},
        "decided_by_script": kinds["script"],
        "decided_by_identifier": kinds["identifier"],
        "undecided": kinds["short"] + kinds["unknown"],
        "empty": kinds["empty"],
    }


class LanguageFidelity(OfflineMetric):
    """
    Share of outputs that are in the language of their prompt.

    Works offline. How a text is judged, and by what, is told by [`judge_language`]: its script where that decides,
    else the language identifier `py3langid` (`solar-trl[eval]`), whose model comes in its wheel. Give it whole
    outputs, or the thinking and the answer in turn.

    Args of `compute`:
        predictions (`list[str]`):
            Outputs; `None` counts as empty.
        languages (`list[str]`):
            Code of each prompt's language.
        identifier (`str`, *optional*, defaults to `"auto"`):
            `"py3langid"` (an error if it is not installed), `"none"` (scripts only), or `"auto"`: the first if it is
            installed, else the second with a warning.

    Returns of `compute`, a `dict[str, float]`:
        - `fidelity`: outputs in the right language / outputs that were decided; NaN if there are none.
        - `macro_fidelity`: mean over languages of `fidelity/<language>`, of those that have a decided output.
        - `fidelity/<language>`: the same for the prompts of one language.
        - `decided_by_script`, `decided_by_identifier`: how many outputs were decided by what.
        - `undecided`: outputs left out, as they have fewer than 6 letters (a bare number) or nothing can tell their
          language; `empty`: outputs left out because they are blank.

    Raises:
        ValueError: If there are no rows or columns differ in length.
        ImportError: If `"py3langid"` is asked for and not installed.

    Examples:
    ```python
    >>> from solar_trl.evaluation import LanguageFidelity

    >>> texts = ["คำตอบคือสิบสอง", "The answer is twelve.", "12", ""]
    >>> scores = LanguageFidelity().compute(predictions=texts, languages=["th"] * 4)
    >>> scores["fidelity"], scores["undecided"], scores["empty"]
    (0.5, 1, 1)
    ```
    """

    description = "Share of outputs in the language of their prompt."
    columns = ("predictions", "languages")

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float]:
        """Compute the metric, of the rows given or of those added before."""
        if predictions is not None:
            self.add_batch(predictions=predictions, languages=kwargs.pop("languages", None))
        self._require_rows()
        return super().compute(**kwargs)

    def _text(self, value, name: str) -> str:
        if name == "predictions":
            return "" if value is None else str(value)
        return super()._text(value, name)

    def _compute(self, predictions, languages, identifier: str = "auto") -> dict[str, float]:
        return fidelity_scores(judge_languages(predictions, languages, identifier), languages)
