"""How responses are drawn, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Response:
    """
    A generated response.

    Args:
        text (`str`): Text without special tokens.
        tokens (`int`): Generated tokens, without the one that ends the response.
        finished (`bool`): Whether the model ended it; `False` if it was cut off at `max_new_tokens`.
    """

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Sampling:
    """
    How tokens are chosen.

    Args:
        max_new_tokens (`int`): Most tokens of a response.
        temperature (`float`): 0 takes the most likely token.
        top_p, min_p (`float`, *optional*), top_k (`int`, *optional*): Limits on the tokens to draw from; none by
            default, whatever the model's own generation config says.
        stop (`tuple[str, ...]`): Texts that end a response; they are cut off.
        num_samples (`int`): Responses per prompt.
        seed (`int`): Of the draws.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    num_samples: int = 1
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.num_samples < 1:
            raise ValueError(
                f"`max_new_tokens` and `num_samples` must be at least 1, got {self.max_new_tokens} and "
                f"{self.num_samples}."
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"`temperature` is {self.temperature}, expected 0 (greedy) or more.")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                f"`num_samples={self.num_samples}` with `temperature=0` gives the same response each time. Set a "
                "temperature, such as 0.6."
            )
        if "" in self.stop:
            raise ValueError("`stop` holds an empty text.")


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop text."""
    places = [text.find(end) for end in stop if end in text]
    return text[: min(places)] if places else text


def batch_seed(seed: int, begin: int, sample: int) -> int:
    """A seed for one sample of the batch that begins at a place."""
    return int(np.random.SeedSequence([seed, begin, sample]).generate_state(1, np.uint64)[0] >> 1)
