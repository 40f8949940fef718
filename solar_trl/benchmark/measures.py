"""What is measured on held-out problems: answers, likelihood, languages of the output, and the geometry of states."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..analysis import analyze_layers, hidden_state_summaries, values_of
from ..analysis.inputs import require_scikit_learn
from ..evaluation import CrossLingualConsistency, consistency_matrix, generate_responses, score_choices
from ..evaluation.scores import ScoreTable
from .arithmetic import final_answer
from .clones import clone_tokens, is_clone
from .settings import PIVOT
from .vocabulary import SPACE, language_tokens


# Per layer and language, from `analyze_layers`
GEOMETRY = ("similarity", "centered_similarity", "retrieval", "mexa")


def answer_problems(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> list[str]:
    """Greedy responses to the prompts, which may be half as long again as the longest right one."""
    longest = max(len(ids) for ids in tokenizer(rows["completion"][:])["input_ids"])
    responses = generate_responses(
        model,
        tokenizer,
        rows["prompt"][:],
        max_new_tokens=longest + longest // 2,
        batch_size=batch_size,
        progress=False,
    )
    return [samples[0].text for samples in responses]


def right_answers(responses: Sequence[str], rows: Dataset) -> list[bool]:
    """Whether the final answer of each response is that of its row."""
    return [final_answer(text) == answer for text, answer in zip(responses, rows["answer"][:], strict=True)]


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> tuple[dict[str, Any], np.ndarray]:
    """
    Everything that is measured after training.

    Args:
        model, tokenizer: The trained model and its tokenizer.
        rows ([`~datasets.Dataset`]): Held-out rows, every item in every language.
        batch_size (`int`): Rows of a forward pass.

    Returns:
        `(measures, states)`: `measures` is ready for JSON: `items` holds for `accuracy` (0 or 1) and `nll` (nats per
        token of the right response, end of text included) a list per language, with the items in the same order;
        `languages` holds by language what is no mean over items; `layers` holds by measure, language and layer the
        geometry of hidden states; `consistency` the metrics over languages. `states` are the last layer's, `(n, d)`,
        in the order of `rows`.
    """
    languages = rows["language"][:]
    responses = answer_problems(model, tokenizer, rows, batch_size)
    right = right_answers(responses, rows)
    answers = [final_answer(text) for text in responses]
    metric = CrossLingualConsistency()
    consistency = metric.compute(
        predictions=["" if answer is None else answer for answer in answers],
        references=rows["answer"][:],
        languages=languages,
        parallel_ids=rows["parallel_id"][:],
        pivot_language=PIVOT,
    )
    table = ScoreTable.from_rows(answers, right, languages, rows["parallel_id"][:])
    agreement = consistency_matrix(table)[table.languages.index(PIVOT)]
    layers, states = geometry(model, tokenizer, rows, batch_size)
    measures = {
        "items": {
            "accuracy": by_language(rows, [int(hit) for hit in right]),
            "nll": by_language(rows, _round(likelihood(model, tokenizer, rows, batch_size))),
        },
        "languages": {
            "agreement_with_pivot": dict(zip(table.languages, _round(agreement), strict=True)),
            "fidelity": fidelity(responses, languages),
        },
        "consistency": {name: float(value) for name, value in consistency.items()},
        "layers": layers,
        "samples": {language: by_language(rows, responses)[language][0] for language in table.languages},
    }
    return measures, states


def likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> np.ndarray:
    """Negative log-likelihood per token of each right response, end of text included; shape `(n,)`, nats."""
    completions = [[f"{text}{tokenizer.eos_token}"] for text in rows["completion"][:]]
    scores = score_choices(
        model,
        tokenizer,
        rows["prompt"][:],
        completions,
        normalization="token",
        batch_size=batch_size,
        progress=False,
    )
    return -np.concatenate(scores)


def geometry(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> tuple[dict[str, Any], np.ndarray]:
    """
    Geometry of the hidden states of the right responses, averaged over their positions, layer by layer.

    Returns:
        Measure to language (`"all"`: the mean over the other languages than English, or, for the silhouette, over all
        rows) to one value per layer, embeddings first; and the states of the last layer.
    """
    require_scikit_learn("solar_trl.benchmark")
    from sklearn.metrics import silhouette_samples

    languages = np.array(rows["language"][:])
    states = hidden_state_summaries(
        model, tokenizer, rows["completion"][:], prompts=rows["prompt"][:], batch_size=batch_size
    )
    analysis = analyze_layers(states, languages.tolist(), rows["parallel_id"][:], PIVOT, measures=GEOMETRY)
    found: dict[str, dict[str, list[float | None]]] = {}
    for name in dict.fromkeys(record["measure"] for record in analysis["records"]):
        for language, by_layer in values_of(analysis, name).items():
            found.setdefault(name, {})[language or "all"] = [
                None if value is None else _digits(value) for value in by_layer.values()
            ]
    silhouettes = [silhouette_samples(values, languages, metric="cosine") for values in states.values()]
    masks = {"all": np.ones(len(languages), bool)} | {name: languages == name for name in dict.fromkeys(languages)}
    found["silhouette"] = {
        str(name): [_digits(each[mask].mean()) for each in silhouettes] for name, mask in masks.items()
    }
    return found, states[max(states)]


def fidelity(responses: Sequence[str], languages: Sequence[str]) -> dict[str, float | None]:
    """
    Share of the words of all responses to a language's prompts that its problems may hold.

    Words have a letter; numbers and marks belong to every language. Words that two languages share (names) count for
    both. `None` for a language whose responses have no word.
    """
    own, words = dict.fromkeys(languages, 0), dict.fromkeys(languages, 0)
    for text, language in zip(responses, languages, strict=True):
        vocabulary = language_words(language)
        for word in _words(text):
            words[language] += 1
            own[language] += word in vocabulary
    return {name: _digits(own[name] / words[name]) if words[name] else None for name in words}


@lru_cache(maxsize=32)
def language_words(code: str) -> frozenset[str]:
    """Every word with a letter that the problems of a language, or of a clone, may hold."""
    tokens: Sequence[str] = language_tokens("en" if is_clone(code) else code)
    if is_clone(code):
        tokens = clone_tokens(tokens, code)
    return frozenset(word for token in tokens for word in _words(token.replace(SPACE, " ")))


def _words(text: str) -> list[str]:
    """Runs of letters, marks and digits that hold a letter."""
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return [word for word in kept.split() if any(c.isalpha() for c in word)]


def area_under_curve(curve: Sequence[Sequence[float]], shares: Sequence[float]) -> list[float]:
    """
    Mean over training of what was measured at some moments, linear in between, for each item.

    Args:
        curve (`Sequence` of `Sequence[float]`): A value per item at each moment.
        shares (`Sequence[float]`): Share of training that each moment is at, rising from 0 to 1.
    """
    values = np.asarray(curve, dtype=float)
    widths = np.diff(np.asarray(shares, dtype=float))[:, None]
    return _round(((values[1:] + values[:-1]) / 2 * widths).sum(0))


def by_language(rows: Dataset, values: Sequence[Any]) -> dict[str, list[Any]]:
    """Values of the rows by language, in the order of the items."""
    found: dict[str, list[Any]] = {}
    for language, value in zip(rows["language"][:], values, strict=True):
        found.setdefault(language, []).append(value)
    return found


def _digits(value: float) -> float:
    """Six significant digits: enough for any table, and half the file."""
    return float(f"{float(value):.6g}")


def _round(values: Any) -> list[float]:
    return [_digits(value) for value in values]
