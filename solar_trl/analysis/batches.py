"""Texts in batches through a model, without gradient: what every kind of summary shares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .._compat import base_model


def _mean(length: int) -> torch.Tensor:
    return torch.full((length,), 1 / length)


def _last(length: int) -> torch.Tensor:
    return torch.eye(length)[-1]


def _position_weighted(length: int) -> torch.Tensor:
    positions = torch.arange(1, length + 1, dtype=torch.float32)
    return positions / positions.sum()


# Weights over the pooled positions of one text, summing to 1: `n -> (n,)`.
POOLINGS: dict[str, Callable[[int], torch.Tensor]] = {
    "mean": _mean,
    "last": _last,
    "position_weighted": _position_weighted,
}


@dataclass(frozen=True)
class TextBatch:
    """
    Some texts, padded on the right and masked by their lengths: neither the tokenizer's padding side nor a pad token
    that doubles as EOS matters.

    Args:
        rows (`list[int]`):
            Index of each of the `B` texts.
        input_ids (`torch.Tensor` of shape `(B, T)`):
            Token ids, int64, on the model's device.
        attention_mask (`torch.Tensor` of shape `(B, T)`):
            1 at the tokens of each text, int64.
        weights (`torch.Tensor` of shape `(B, T)`):
            Pooling weights, float32 on CPU: each row sums to 1, and is 0 where nothing is pooled.
    """

    rows: list[int]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    weights: torch.Tensor

    def pool(self, states: torch.Tensor) -> torch.Tensor:
        """Weighted mean over the positions of states `(B, T', d)`, float32 `(B, d)`; a soft prompt is in front."""
        states = states[:, -self.weights.size(1) :].float()
        return torch.einsum("btd,bt->bd", states, self.weights.to(states.device))


class TextBatches:
    """
    Tokenized texts that give batches of similar length, the longest first so that a lack of memory shows at once.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer. It is only called: its padding side and its special tokens stay as they are.
        texts (`Sequence[str]`):
            The `n` texts.
        prompts (`Sequence[str]`, *optional*):
            Context in front of each text, read but not pooled. It gets the special tokens that the tokenizer adds by
            default; the text then gets none.
        pooling (`str`):
            Name in `POOLINGS`.
        batch_size (`int`):
            Texts in a batch, at most.
        max_batch_tokens (`int`):
            Positions in a batch, padding included, at most; a text that is longer gets a batch of its own.
        max_length (`int`, *optional*):
            Keep the first `max_length` tokens, prompt included.
        predicting (`bool`):
            Pool the positions that predict the text's tokens (each one before its token) in place of the tokens' own.

    Raises:
        TypeError: If `texts` or `prompts` is a single string.
        ValueError: If there are no texts, a text has nothing left to pool, `prompts` has another length, the pooling
            is unknown or a limit is not positive.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        prompts: Sequence[str] | None,
        pooling: str,
        batch_size: int,
        max_batch_tokens: int,
        max_length: int | None,
        predicting: bool = False,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` is {pooling!r}, expected one of {', '.join(map(repr, POOLINGS))}.")
        for name, limit in (("batch_size", batch_size), ("max_batch_tokens", max_batch_tokens)):
            if limit < 1:
                raise ValueError(f"`{name}` is {limit}, expected at least 1.")
        self._weights = POOLINGS[pooling]
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        # Without a pad token any id will do: padded positions are masked and lie behind the text
        self._pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._sequences, starts = _tokenize(tokenizer, texts, prompts)
        self._sequences = [sequence[:max_length] for sequence in self._sequences]
        self._spans = []
        for i, (sequence, start) in enumerate(zip(self._sequences, starts, strict=True)):
            # Nothing predicts the very first token
            begin, end = (max(start - 1, 0), len(sequence) - 1) if predicting else (start, len(sequence))
            if end <= begin or len(sequence) <= start:
                hint = "; nothing predicts its first token without a prompt" if predicting and start == 0 else ""
                raise ValueError(f"Text {i} has no token to pool (`max_length` is {max_length}{hint}): {texts[i]!r}.")
            self._spans.append((begin, end))

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._sequences)

    def on(self, device: torch.device) -> Iterator[TextBatch]:
        """The batches, with ids and mask on `device`."""
        order = sorted(range(len(self)), key=lambda i: -len(self._sequences[i]))
        begin = 0
        while begin < len(order):
            width = len(self._sequences[order[begin]])
            rows = order[begin : begin + min(self._batch_size, max(1, self._max_batch_tokens // width))]
            begin += len(rows)
            input_ids = torch.full((len(rows), width), self._pad_token_id)
            attention_mask = torch.zeros_like(input_ids)
            weights = torch.zeros(len(rows), width)
            for i, row in enumerate(rows):
                first, end = self._spans[row]
                input_ids[i, : len(self._sequences[row])] = torch.tensor(self._sequences[row])
                attention_mask[i, : len(self._sequences[row])] = 1
                weights[i, first:end] = self._weights(end - first)
            yield TextBatch(rows, input_ids.to(device), attention_mask.to(device), weights)


@contextmanager
def evaluation(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no gradient; afterwards each module has the training flag that it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def light_forward_kwargs(model: PreTrainedModel) -> dict[str, int | bool]:
    """Arguments that spare the key-value cache and the `(B, T, V)` logits, where the model knows them."""
    known = inspect.signature(base_model(model).forward).parameters
    return {name: value for name, value in (("use_cache", False), ("logits_to_keep", 1)) if name in known}


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prompts: Sequence[str] | None
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each sequence, and the index of the text's first one."""
    for name, value in (("texts", texts), ("prompts", prompts)):
        if isinstance(value, str):
            raise TypeError(f"`{name}` must be a sequence of strings, got a single string.")
    if len(texts) == 0:
        raise ValueError("`texts` is empty.")
    if prompts is None:
        sequences = tokenizer(list(texts))["input_ids"]
        return sequences, [0] * len(sequences)
    if len(prompts) != len(texts):
        raise ValueError(f"There are {len(prompts)} prompts for {len(texts)} texts.")
    prompt_ids = tokenizer(list(prompts))["input_ids"]
    text_ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    sequences = [prompt + text for prompt, text in zip(prompt_ids, text_ids, strict=True)]
    return sequences, [len(prompt) for prompt in prompt_ids]
