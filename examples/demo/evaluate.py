"""What the demo measures on held-out problems: answers, likelihood, and the geometry of languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from solar_trl.analysis import cross_lingual_similarity, hidden_state_summaries, language_separability, mexa_score
from solar_trl.objectives import soft_token_summary

from .data import HIGH_RESOURCE, LANGUAGES, LOW_RESOURCE, PIVOT


@dataclass
class Evaluation:
    """Held-out results of one model."""

    accuracy: dict[str, float]  # by language, and the means over `high` and `low`
    nll: dict[str, float]  # mean negative log-likelihood of a response token, likewise
    geometry: dict[str, float]  # of hidden states
    soft_tokens: dict[str, float]  # of soft-token summaries: what SOLAR trains, so no evidence for anything else
    states: dict[str, np.ndarray]  # language -> (n, d) hidden states, for the map
    samples: dict[str, str]  # one response by language

    def numbers(self) -> dict[str, dict[str, float]]:
        """The part that goes into a JSON file."""
        names = ("accuracy", "nll", "geometry", "soft_tokens")
        return {name: {key: round(value, 6) for key, value in getattr(self, name).items()} for name in names}


def evaluate_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> Evaluation:
    """All measurements of one model on held-out rows (every item in every language)."""
    responses = generate_responses(model, tokenizer, [row["prompt"] for row in rows])
    hits = [
        final_number(response) == final_number(row["completion"])
        for response, row in zip(responses, rows, strict=True)
    ]
    nll, soft_tokens = score_responses(model, tokenizer, rows)
    states = response_states(model, tokenizer, rows)
    return Evaluation(
        accuracy=_with_groups({lang: float(np.mean(_of(rows, hits, lang))) for lang in LANGUAGES}),
        nll=nll,
        geometry=hidden_geometry(states),
        soft_tokens=soft_tokens,
        states=states,
        # As the reference is written: the tokenizer puts a space between any two tokens
        samples={lang: re.sub(r" ([.:?।])", r"\1", _of(rows, responses, lang)[0]) for lang in LANGUAGES},
    )


def generate_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int = 56,
    batch_size: int = 300,
) -> list[str]:
    """Greedy responses, padded on the left, prompts of similar length together."""
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].split()))
    responses = [""] * len(prompts)
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        inputs = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True, padding_side="left")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            responses[i] = text
    return responses


def final_number(text: str) -> int | None:
    """The last number of a text, which is the answer in every language; `None` without one."""
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None


def score_responses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]
) -> tuple[dict[str, float], dict[str, float]]:
    """Loss on the reference responses by language, and the cosines of their soft-token summaries."""
    model.eval()
    log_probs: dict[str, list[float]] = {lang: [] for lang in LANGUAGES}
    summaries: dict[str, list[np.ndarray]] = {lang: [] for lang in LANGUAGES}
    embeddings = model.get_input_embeddings().weight
    for lang in LANGUAGES:
        for input_ids, attention_mask, mask in _batches(tokenizer, _of(rows, rows, lang)):
            with torch.no_grad():
                logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
                gold = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
                log_probs[lang].extend(gold[mask].tolist())
                summaries[lang].extend(soft_token_summary(logits, embeddings, mask).numpy())
    nll = _with_groups({lang: -float(np.mean(values)) for lang, values in log_probs.items()})
    return nll, pivot_similarity({lang: np.stack(values) for lang, values in summaries.items()})


def response_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]
) -> dict[str, np.ndarray]:
    """Last-layer hidden states, averaged over the reference response, by language."""
    states = hidden_state_summaries(
        model,
        tokenizer,
        [row["completion"] for row in rows],
        layers=[-1],
        prompts=[row["prompt"] for row in rows],
        batch_size=100,
    )[-1]
    return {lang: np.stack(_of(rows, list(states), lang)) for lang in LANGUAGES}


def hidden_geometry(states: dict[str, np.ndarray]) -> dict[str, float]:
    """Alignment with English (mean over the other languages) and separability of the languages."""
    others = [lang for lang in LANGUAGES if lang != PIVOT]
    languages = np.repeat(LANGUAGES, len(states[PIVOT]))
    return {
        **pivot_similarity(states),
        "mexa": float(np.mean([mexa_score(states[PIVOT], states[lang]) for lang in others])),
        **language_separability(np.concatenate([states[lang] for lang in LANGUAGES]), languages),
    }


def pivot_similarity(states: dict[str, np.ndarray]) -> dict[str, float]:
    """Cosine with English, of parallel and of other rows: mean over the other languages."""
    each = [cross_lingual_similarity(states[PIVOT], states[lang]) for lang in LANGUAGES if lang != PIVOT]
    return {key: float(np.mean([similarity[key] for similarity in each])) for key in each[0]}


def _of(rows: list[dict], values: list, language: str) -> list:
    return [value for row, value in zip(rows, values, strict=True) if row["language"] == language]


def _with_groups(by_language: dict[str, float]) -> dict[str, float]:
    groups = (("high", HIGH_RESOURCE), ("low", LOW_RESOURCE))
    return by_language | {name: float(np.mean([by_language[lang] for lang in group])) for name, group in groups}


def _batches(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict], batch_size: int = 100
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Token ids, attention mask, and the mask of the positions that predict the response (end of text included)."""
    for begin in range(0, len(rows), batch_size):
        batch = rows[begin : begin + batch_size]
        texts = [row["prompt"] + row["completion"] + tokenizer.eos_token for row in batch]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        prompt_lengths = torch.tensor([len(ids) for ids in tokenizer([row["prompt"] for row in batch])["input_ids"]])
        positions = torch.arange(1, inputs["input_ids"].size(1))
        mask = (positions >= prompt_lengths[:, None]) & inputs["attention_mask"][:, 1:].bool()
        yield inputs["input_ids"], inputs["attention_mask"], mask
