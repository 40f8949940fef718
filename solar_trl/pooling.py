"""Which positions of a batch are summarised, and how they become summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from .kernels import TILE_BYTES
from .sequence_tokens import SequenceTokens


Range = tuple[int, int]


@dataclass(frozen=True)
class Pooling:
    """
    Which sequences of a batch to summarise, and how. Travels through the wrappers around a model as one keyword
    argument, so that trainers of the same model do not share settings.

    Args:
        tokens ([`SequenceTokens`]):
            Tokens of the sequences of the batch.
        rows (`tuple[int, ...]`):
            Sequences to summarise, ascending. Each needs at least one position to pool.
        statistics (`bool`, *optional*, defaults to `True`):
            Whether to compute the outputs of the SFT loss. `False` for a forward that only gives summaries; the router
            loss of a Mixture-of-Experts model is then left out too.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ of the soft tokens.
        top_k (`int`, *optional*):
            Number of tokens to mix. `None` mixes all.
        detach_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the mixed embeddings are constants.
        tile_bytes (`int`, *optional*, defaults to `TILE_BYTES`):
            Memory for tiles of logits.
        representation (`str`, *optional*, defaults to `"soft_token"`), positions (`str`, *optional*, defaults to
            `"response"`), pooling (`str`, *optional*, defaults to `"mean"`):
            See [`~solar_trl.objectives.Objective`].
        embeddings (`str`, *optional*, defaults to `"input"`):
            Likewise.
        layers (`tuple[int, ...]`, *optional*, defaults to `()`):
            Indices into the hidden states, from 0, for `"hidden_state"`.
        answer_tokens (`int`, *optional*, defaults to `16`):
            Length of the tail for `"answer"`.
    """

    tokens: SequenceTokens
    rows: tuple[int, ...]
    statistics: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    detach_embeddings: bool = False
    tile_bytes: int = TILE_BYTES
    representation: str = "soft_token"
    positions: str = "response"
    pooling: str = "mean"
    embeddings: str = "input"
    layers: tuple[int, ...] = ()
    answer_tokens: int = 16

    @property
    def is_fused(self) -> bool:
        """Whether the pass over the logits that the SFT loss makes also gives the summaries."""
        return (self.representation, self.positions) == ("soft_token", "response") and self.pooling in ("mean", "last")

    def segments(self, n_virtual: int) -> tuple[list[Range], int]:
        """
        Ranges of the pooled sequences among the supervised positions, and the number of these.

        Args:
            n_virtual (`int`):
                Label positions that prompt-learning PEFT has put in front. What stands before the first token of a
                sequence, be it one of them or padding, predicts it: supervised if that token is, but not pooled.
        """
        pooled, segments, start = set(self.rows), [], 0
        tokens = self.tokens
        for row, (count, first, column) in enumerate(zip(tokens.counts, tokens.first, tokens.starts, strict=True)):
            start += first if n_virtual or column else 0
            if row in pooled:
                ends = tokens.steps[row] if tokens.steps else (count,)
                segments += [(start + begin, start + end) for begin, end in pairwise((0, *ends))]
            start += count
        if self.pooling == "last":
            segments = [(stop - 1, stop) for _, stop in segments]
        elif self.positions == "answer":
            segments = [(max(start, stop - self.answer_tokens), stop) for start, stop in segments]
        return segments, start

    def places(self, n_virtual: int) -> tuple[list[int], list[Range]]:
        """
        Positions of `"prompt"` or `"all"`.

        Args:
            n_virtual (`int`):
                As in [`segments`].

        Returns:
            `tuple[list[int], list[tuple[int, int]]]`: Indices into the flattened batch of `B × (n_virtual + width)`
            positions, and the range of each pooled sequence among them.
        """
        places: list[int] = []
        ranges: list[Range] = []
        numbers = self.tokens.numbers(self.positions, self.representation in NEXT_TOKEN)
        for i in self.rows:
            begin = self.tokens.rows[i] * (n_virtual + self.tokens.width) + n_virtual + self.tokens.starts[i]
            stop = begin + numbers[i]
            found = range(stop - 1 if self.pooling == "last" else begin, stop)
            ranges.append((len(places), len(places) + len(found)))
            places.extend(found)
        return places, ranges


# Representations that stand for the token after a position, so that the last position of a sequence has none
NEXT_TOKEN = ("soft_token", "hard_token", "logits")


def pool(values: torch.Tensor, ranges: Sequence[Range], pooling: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Make summaries of values at positions.

    Args:
        values (`torch.Tensor` of shape `(N, ...)`):
            Values at the positions of all sequences, one after the other.
        ranges (sequence of `(start, stop)`):
            Positions of each of the `R` sequences.
        pooling (`str`):
            `"mean"`, `"last"`, `"position_weighted"` or `"none"`.

    Returns:
        `tuple[torch.Tensor, torch.Tensor | None]`: Summaries of shape `(R, ...)` and `None`; or, unpooled, clouds of
        shape `(R, K, ...)` and their mask of shape `(R, K)`, `K` being the longest. All in at least float32.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    lengths = [stop - start for start, stop in ranges]
    if pooling == "none":
        width = max(lengths, default=0)
        index = torch.tensor(
            [[min(start + k, stop - 1) for k in range(width)] for start, stop in ranges], dtype=torch.int64
        ).reshape(len(ranges), width)
        mask = torch.tensor([[k < length for k in range(width)] for length in lengths], dtype=torch.bool)
        mask = to_device(mask.reshape(len(ranges), width), values.device)
        clouds = values[to_device(index, values.device)]
        return clouds * mask.view(*mask.shape, *[1] * (clouds.dim() - 2)), mask
    weights = torch.zeros(len(ranges), len(values), dtype=values.dtype)
    for row, (start, stop) in enumerate(ranges):
        ranks = torch.arange(1, stop - start + 1, dtype=values.dtype)
        if pooling == "mean":
            ranks = torch.ones_like(ranks)
        elif pooling == "last":
            ranks = (ranks == stop - start).to(values.dtype)
        weights[row, start:stop] = ranks / ranks.sum()
    # One product, whose gradient needs the weights alone: nothing of positions × d is kept for the backward
    with torch.autocast(values.device.type, enabled=False):
        summaries = to_device(weights, values.device) @ values.flatten(1)
    return summaries.view(len(ranges), *values.shape[1:]), None


def select_ranges(values: torch.Tensor, ranges: Sequence[Range]) -> tuple[torch.Tensor, list[Range]]:
    """The values in all ranges, one after the other, and the range of each among them."""
    members = [place for start, stop in ranges for place in range(start, stop)]
    index = to_device(torch.tensor(members, dtype=torch.int64), values.device)
    ends = list(accumulate((stop - start for start, stop in ranges), initial=0))
    return values[index], list(pairwise(ends))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move without waiting for the device."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
