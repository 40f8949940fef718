"""Pairing within a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from ..sequence_tokens import SequenceTokens
from .matching import match_tails
from .packing import LENGTHS_COLUMN
from .pivots import (
    ADDED_COLUMNS,
    DRAW_COLUMN,
    LANGUAGE_COLUMN,
    PAIRING_COLUMNS,
    PIVOT_COLUMN,
    TOKENIZED_PIVOT_COLUMN,
    PivotTable,
)
from .side_pairs import SidePairs
from .stream_pairs import CarriedPivots


# Key of the pairing in a batch. It comes last, and the trainer pops it before the model sees the batch.
ALIGNMENT_KEY = "alignment"


@dataclass(frozen=True)
class PairingDemand:
    """
    What an alignment objective needs of each batch.

    Args:
        positions (`str`, *optional*, defaults to `"response"`):
            Positions to pool, see [`~solar_trl.objectives.Objective`]. Examples that have none are not paired.
        of_next_token (`bool`, *optional*, defaults to `True`):
            Whether what is pooled stands for the next token.
        pivots (`str`, *optional*, defaults to `"batch"`):
            Where summaries of pivots come from. `"batch"`: from the row of the batch, or from the side batch if there
            is none. `"apart"`: always from the side batch. `"kept"`: they are kept from before, so that no batch holds
            them.
        answer_tokens (`int`, *optional*, defaults to `0`):
            How many of the last tokens of both sides to match; 0 for none.
        step_tokens (`frozenset[int]`, *optional*):
            Tokens that end a step of a response. Without any, responses are not cut.
    """

    positions: str = "response"
    of_next_token: bool = True
    pivots: str = "batch"
    answer_tokens: int = 0
    step_tokens: frozenset[int] = frozenset()


@dataclass
class _Batch:
    """A collated batch, its tokens, and which of its sequences can be summarised."""

    inputs: dict[str, Any]
    tokens: SequenceTokens
    usable: list[bool]


@dataclass
class _Pair:
    """Both sides of a pair as positions in the rows to summarise followed by the side batch."""

    example: int
    pivot: int
    key: int  # the pivot, as an entry of the pivot table
    item: int
    language: int


class DataCollatorForPivotAlignment:
    """
    Data collator that pairs each non-pivot example of a batch with its pivot parallel.

    It leaves the padding to another collator and adds one key, `"alignment"`. Every distinct pivot is present once: as
    the row of the batch that it is, or, if it is not there, in a side batch for the missing ones. The side batch never
    mixes with the main one, so that token counts, the SFT loss and its metrics stay what they were.

    Args:
        collator (callable):
            Collates rows of `input_ids` and `labels`, in order: one row of the result per example, or all of them one
            after the other in a single row (TRL's `DataCollatorForLanguageModeling`, padded or padding-free).
        pivots ([`PivotTable`]):
            Where the pivots of datasets are kept. Rows of a stream carry theirs.
        demand ([`PairingDemand`], *optional*):
            What the objective needs of each batch.
        side_pairs ([`SidePairs`], *optional*):
            Where training rows draw pairs, if these are not among them. Both sides then go into the side batch.

    A packed row counts as as many examples as it was packed from.

    The value of `"alignment"` is a dict with, for `B` examples, `P` pairs and `R` rows that need a summary:
    - `"tokens"`: [`SequenceTokens`], the tokens of each example,
    - `"positions"`: `None` if the batch has one row per example, else (`padding_free`) `torch.Tensor` of shape `(T,)`
      and dtype int64, the example that each position belongs to,
    - `"dataset_rows"`: list of `B` ints, the dataset row of this batch that each example came in,
    - `"languages"`: `torch.Tensor` of shape `(B,)` and dtype int64, the language of each example,
    - `"rows"`: list of `R` ints, the rows of the batch to summarise, ascending,
    - `"examples"`: `torch.Tensor` of shape `(P,)` and dtype int64, the non-pivot example of each pair as a position in
      `"rows"` followed by the side batch,
    - `"pivots"`: `torch.Tensor` of shape `(P,)` and dtype int64, its pivot likewise; -1 if no batch holds it,
    - `"pair_languages"`: `torch.Tensor` of shape `(P,)` and dtype int64,
    - `"items"`: `torch.Tensor` of shape `(P,)` and dtype int64, a number for the item of each pair,
    - `"pivot_keys"`: list of `P` ints, its pivot as an entry of the pivot table,
    - `"pair_rows"`: `torch.Tensor` of shape `(P,)` and dtype int64, the row of the batch that its example is; -1 if it
      is in the side batch,
    - `"wholes"`: `torch.Tensor` of shape `(Q, U)`, or `None`. Where responses are cut into steps, `"examples"` and
      `"pivots"` are positions in the `U` steps of `"rows"` and the side batch, one sequence after the other, followed
      by `Q` whole responses as weighted means of their steps,
    - `"matches"`: `torch.Tensor` of shape `(P, M, 2)` and dtype int64, the tokens that both sides share at their ends
      (see [`~solar_trl.objectives.Pairs`]), or `None` if they are not asked for,
    - `"draws"`: whether the examples of the pairs are in the side batch, too,
    - `"pivot_batch"`: the collated side batch, or `None`,
    - `"pivot_tokens"`: [`SequenceTokens`], the tokens of each sequence in it, or `None`.
    """

    def __init__(
        self,
        collator: Callable[[list[dict[str, Any]]], dict[str, Any]],
        pivots: PivotTable,
        demand: PairingDemand | None = None,
        side_pairs: SidePairs | None = None,
    ):
        self.collator = collator
        self.pivots = pivots
        self.demand = demand or PairingDemand()
        self.side_pairs = side_pairs

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if PIVOT_COLUMN not in examples[0]:  # an evaluation set without parallels
            return self.collator(examples)
        main = self._collate(examples)
        assert main is not None, "a batch has rows"
        # In a formatted dataset they are tensors, whose hash is their identity
        first, own, languages = (_flatten(row[name] for row in examples) for name in PAIRING_COLUMNS)
        draws = DRAW_COLUMN in examples[0]
        if draws:
            rows: list[int] = []
            pairs, side = self._draw(examples)
        else:
            carried = TOKENIZED_PIVOT_COLUMN in examples[0]
            rows, pairs, side = self._pair(
                main.usable, first, own, languages, CarriedPivots(examples) if carried else self.pivots
            )
        pair_rows = [-1 if draws else rows[pair.example] for pair in pairs]
        matches, wholes = self._match(main, rows, side, pairs), None
        if self.demand.step_tokens:
            steps = [main.tokens.steps[row] for row in rows] + list(() if side is None else side.tokens.steps)
            pairs, pair_rows, wholes = _cut(pairs, pair_rows, steps)
        main.inputs[ALIGNMENT_KEY] = {
            "tokens": main.tokens,
            "positions": _example_of_position(main.inputs["labels"], _lengths(examples)),
            "dataset_rows": [i for i, row in enumerate(examples) for _ in _flatten([row[PIVOT_COLUMN]])],
            "languages": torch.tensor(languages),
            "rows": rows,
            "examples": _integers(pair.example for pair in pairs),
            "pivots": _integers(pair.pivot for pair in pairs),
            "pair_languages": _integers(pair.language for pair in pairs),
            "items": _integers(pair.item for pair in pairs),
            "pivot_keys": [pair.key for pair in pairs],
            "pair_rows": _integers(pair_rows),
            "wholes": wholes,
            "matches": matches,
            "draws": draws,
            "pivot_batch": None if side is None else side.inputs,
            "pivot_tokens": None if side is None else side.tokens,
        }
        return main.inputs

    def _pair(
        self,
        usable: list[bool],
        first: list[int],
        own: list[int],
        languages: list[int],
        pivots: PivotTable | CarriedPivots,
    ) -> tuple[list[int], list[_Pair], _Batch | None]:
        """Rows to summarise, the pairs among the rows of the batch, and the side batch of the pivots that are not."""
        present: dict[int, int] = {}  # pivot -> row of the batch
        for row, pivot in enumerate(own):
            if pivot >= 0 and usable[row] and self.demand.pivots != "apart":
                present.setdefault(pivot, row)
        partners = {
            row: pivots.draw(first[row])
            for row in range(len(first))
            if first[row] >= 0 and own[row] < 0 and usable[row]
        }
        missing = list(dict.fromkeys(pivot for pivot in partners.values() if pivot not in present))
        side = self._collate([pivots[pivot] for pivot in missing])
        if side is not None and not all(side.usable):
            lost = {pivot for pivot, can_pool in zip(missing, side.usable, strict=True) if not can_pool}
            partners = {row: pivot for row, pivot in partners.items() if pivot not in lost}
            missing = [pivot for pivot in missing if pivot not in lost]
            side = self._collate([pivots[pivot] for pivot in missing])
        if self.demand.pivots == "kept" and pivots is self.pivots and all(map(self.pivots.is_lasting, first)):
            # The side batch has only told which of them have a summary
            present, side = {}, None

        rows = sorted({*partners, *(present[pivot] for pivot in partners.values() if pivot in present)})
        position = {row: i for i, row in enumerate(rows)}
        target = {} if side is None else {pivot: len(rows) + i for i, pivot in enumerate(missing)}
        target.update({pivot: position[row] for pivot, row in present.items() if row in position})
        pairs = [
            _Pair(position[row], target.get(pivot, -1), pivot, first[row], languages[row])
            for row, pivot in partners.items()
        ]
        return rows, pairs, side

    def _draw(self, examples: list[dict[str, Any]]) -> tuple[list[_Pair], _Batch | None]:
        """The pairs that the rows of the batch draw, and the side batch that holds both sides of them."""
        assert self.side_pairs is not None, "these rows draw their pairs"
        aligned = self.side_pairs.draw(_flatten(row[DRAW_COLUMN] for row in examples))
        while True:
            keys = [self.pivots.draw(row[PIVOT_COLUMN]) for row in aligned]
            distinct = list(dict.fromkeys(keys))
            side = self._collate([*aligned, *(self.pivots[key] for key in distinct)])
            if side is None or all(side.usable):
                break
            lost = {key for key, can_pool in zip(distinct, side.usable[len(aligned) :], strict=True) if not can_pool}
            own = side.usable[: len(aligned)]
            aligned = [
                row for row, key, can_pool in zip(aligned, keys, own, strict=True) if can_pool and key not in lost
            ]
        if self.demand.pivots == "kept":
            distinct, side = [], self._collate(aligned)
        target = {key: len(aligned) + i for i, key in enumerate(distinct)}
        pairs = [
            _Pair(i, target.get(key, -1), key, row[PIVOT_COLUMN], row[LANGUAGE_COLUMN])
            for i, (row, key) in enumerate(zip(aligned, keys, strict=True))
        ]
        return pairs, side

    def collate_pivots(self, pivots: Iterable[int]) -> _Batch | None:
        """Entries of the pivot table as a batch; `None` without any."""
        return self._collate([self.pivots[pivot] for pivot in pivots])

    def _collate(self, rows: Sequence[dict[str, Any]]) -> _Batch | None:
        """The rows as a batch; `None` without any."""
        if not rows:
            return None
        inputs = self.collator([{k: v for k, v in row.items() if k not in ADDED_COLUMNS} for row in rows])
        # A collator of the user's may mask a response altogether: such a row has no summary
        tokens = SequenceTokens.count(
            inputs["labels"], _lengths(rows), inputs.get("attention_mask"), self.demand.step_tokens
        )
        return _Batch(inputs, tokens, tokens.can_pool(self.demand.positions, self.demand.of_next_token))

    def _match(self, main: _Batch, rows: list[int], side: _Batch | None, pairs: list[_Pair]) -> torch.Tensor | None:
        if not self.demand.answer_tokens:
            return None
        number = self.demand.answer_tokens
        tails = main.tokens.tails(main.inputs["labels"], rows, number)
        if side is not None:
            tails += side.tokens.tails(side.inputs["labels"], range(len(side.usable)), number)
        return match_tails([(tails[pair.example], tails[pair.pivot]) for pair in pairs])


def without_pairs(alignment: dict[str, Any]) -> dict[str, Any]:
    """What [`DataCollatorForPivotAlignment`] says of a batch, if it had no pairs."""
    per_pair = ("examples", "pivots", "pair_languages", "items", "pivot_keys", "pair_rows", "matches")
    none = {name: None if alignment[name] is None else alignment[name][:0] for name in per_pair}
    return {**alignment, **none, "rows": [], "wholes": None, "pivot_batch": None, "pivot_tokens": None}


def _cut(
    pairs: list[_Pair], pair_rows: list[int], steps: list[tuple[int, ...]]
) -> tuple[list[_Pair], list[int], torch.Tensor | None]:
    """Pairs of steps, where both sides of a pair have as many, with the rows they are of, and the whole responses."""
    first = list(accumulate((len(ends) for ends in steps), initial=0))
    whole: dict[int, int] = {}  # sequence -> position behind the steps

    def place(sequence: int) -> int:
        if len(steps[sequence]) == 1:
            return first[sequence]
        return first[-1] + whole.setdefault(sequence, len(whole))

    found, rows = [], []
    for pair, row in zip(pairs, pair_rows, strict=True):
        number = len(steps[pair.example])
        if number == len(steps[pair.pivot]):
            found += [
                replace(pair, example=first[pair.example] + k, pivot=first[pair.pivot] + k) for k in range(number)
            ]
            rows += [row] * number
        else:
            found.append(replace(pair, example=place(pair.example), pivot=place(pair.pivot)))
            rows.append(row)
    wholes = torch.zeros(len(whole), first[-1])
    for sequence, position in whole.items():
        ends = steps[sequence]
        counts = torch.tensor(ends) - torch.tensor((0, *ends[:-1]))
        wholes[position, first[sequence] : first[sequence] + len(ends)] = counts / ends[-1]
    return found, rows, wholes if whole else None


def _integers(values: Iterable[int]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _flatten(values: Iterable[Any]) -> list[int]:
    """Integers of all examples; packed rows hold a list of them."""
    return [int(item) for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]


def _lengths(examples: Sequence[dict[str, Any]]) -> list[int]:
    """Tokens of each example."""
    return _flatten(row.get(LENGTHS_COLUMN, len(row["input_ids"])) for row in examples)


def _example_of_position(labels: torch.Tensor, lengths: list[int]) -> torch.Tensor | None:
    """Which example each position of a flattened batch belongs to; padding goes to the last one."""
    n_rows, width = labels.shape
    if n_rows == len(lengths):
        return None
    owners = torch.repeat_interleave(torch.tensor(lengths))
    return torch.cat([owners, owners.new_full((width - len(owners),), len(lengths) - 1)])
