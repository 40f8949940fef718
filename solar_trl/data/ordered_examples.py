"""Steps over streams that go by the order of all rows, and so cannot be split into shards."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from datasets import Features, IterableDataset

from .example_iterables import _BaseExamplesIterable, typed_examples


class _InOrder(_BaseExamplesIterable):
    """
    A step that needs all rows in their order: it is one shard, whatever it reads.

    One dataloader worker reads it, and every rank. Shards that are read apart, or in another order, would be other
    rows to it.
    """

    def shuffle_data_sources(self, generator) -> _InOrder:
        return self

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> _InOrder:
        return self

    def reshard_data_sources(self) -> _InOrder:
        return self

    @property
    def num_shards(self) -> int:
        return 1


class NumberedExamples(_InOrder):
    """
    Adds a column that follows from the rows so far.

    Args:
        ex_iterable (examples of a [`~datasets.IterableDataset`]):
            Rows.
        number (callable):
            From a row and a memory (a `dict` of what JSON can hold, empty at first, to be changed in place) to the
            value of the row.
        column (`str`):
            Where to put it.
    """

    def __init__(
        self, ex_iterable: _BaseExamplesIterable, number: Callable[[dict[str, Any], dict[str, Any]], Any], column: str
    ):
        super().__init__()
        self.ex_iterable = ex_iterable
        self.number = number
        self.column = column

    def _init_state_dict(self) -> dict:
        examples = self.ex_iterable._init_state_dict()
        self._state_dict = {"examples_iterable": examples, "memory": None, "type": type(self).__name__}
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        state: dict[str, Any] | None = self._state_dict
        memory = (copy.deepcopy(state["memory"]) if state else None) or {}
        for key, row in self.ex_iterable:
            value = self.number(row, memory)
            if state:
                state["memory"] = memory
            yield key, {**row, self.column: value}


class Rounds(Protocol):
    """
    Which rows of streams that are read side by side belong together.

    `memory` is what it knows of the rows before, a `dict` of what JSON can hold. It is called with the next row of
    each stream (`None` after the last), and a function that counts the rows that come after these. It returns the
    streams whose row is in the round; none if all streams are at their end.
    """

    memory: dict[str, Any]

    def __call__(
        self, rows: Sequence[dict[str, Any] | None], count_rest: Callable[[], list[int]]
    ) -> Sequence[int]: ...


class SideBySideExamples(_InOrder):
    """
    Makes one example, `{"streams": [...], "rows": [...]}`, of rows of several streams that belong together.

    One row of each stream is held.

    Args:
        ex_iterables (list of examples of a [`~datasets.IterableDataset`]):
            Rows of each stream.
        rounds (callable):
            Makes the [`Rounds`] of one reading, with `memory=None` or that of the reading that is continued.
    """

    def __init__(self, ex_iterables: list[_BaseExamplesIterable], rounds: Callable[..., Rounds]):
        super().__init__()
        self.ex_iterables = ex_iterables
        self.rounds = rounds

    def _init_state_dict(self) -> dict:
        for ex_iterable in self.ex_iterables:
            ex_iterable._init_state_dict()
        # After the rows that were given out; the next ones have been read by then
        self._state_dict = {"previous_states": None, "memory": None, "type": type(self).__name__}
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[Any, dict[str, list]]]:
        state: dict[str, Any] | None = self._state_dict
        rounds = self.rounds(memory=copy.deepcopy(state["memory"]) if state else None)
        if state and state["previous_states"] is not None:
            for ex_iterable, previous in zip(self.ex_iterables, state["previous_states"], strict=True):
                ex_iterable.load_state_dict(previous)
        after = [ex_iterable.state_dict() if state else None for ex_iterable in self.ex_iterables]
        iterators = [(row for _, row in ex_iterable) for ex_iterable in self.ex_iterables]
        rows = [next(iterator, None) for iterator in iterators]
        for number in itertools.count():
            chosen = rounds(rows, lambda: [sum(1 for _ in iterator) for iterator in iterators])
            if not chosen:
                return
            if state:
                for i in chosen:
                    after[i] = self.ex_iterables[i].state_dict()
                state["previous_states"], state["memory"] = list(after), rounds.memory
            yield number, {"streams": list(chosen), "rows": [rows[i] for i in chosen]}
            for i in chosen:
                rows[i] = next(iterators[i], None)


def side_by_side(streams: Sequence[IterableDataset], rounds: Callable[..., Rounds]) -> IterableDataset:
    """A stream of rounds, `{"streams": [...], "rows": [...]}`, from streams of rows (see [`SideBySideExamples`])."""
    first = streams[0]
    if any(stream._distributed != first._distributed for stream in streams):
        raise ValueError(
            "The streams are split over nodes in different ways. Split the result (`split_dataset_by_node`)."
        )
    # Copies: a stream that is given twice, or is part of two, would have one state for both
    parts = [copy.deepcopy(typed_examples(stream)) for stream in streams]
    return IterableDataset(SideBySideExamples(parts, rounds), split=first.split, distributed=first._distributed)


def number_rows(
    stream: IterableDataset,
    number: Callable[[dict[str, Any], dict[str, Any]], Any],
    column: str,
    features: Features | None,
) -> IterableDataset:
    """A stream with a column that follows from the rows so far (see [`NumberedExamples`])."""
    numbered = NumberedExamples(typed_examples(stream), number, column)
    return IterableDataset(numbered, split=stream.split, distributed=stream._distributed).map(features=features)
