"""Streams of blocks of items."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from datasets import IterableDataset

from ..example_iterables import HoldingStep, ItemExamples, _BaseExamplesIterable, typed_examples


Rows = list[dict[str, Any]]


class BlockExamples(HoldingStep):
    """
    Makes one example, `{"items": [rows, ...]}`, of consecutive items.

    Args:
        ex_iterable (examples `{"rows": [...]}`):
            Items.
        counts (callable):
            Whether an item counts; the others come along.
        size (`int`):
            Items that count in a block. The last block may have one more, so that none is left with a single one.
    """

    def __init__(self, ex_iterable: _BaseExamplesIterable, counts: Callable[[Rows], bool], size: int):
        super().__init__(ex_iterable)
        self.counts = counts
        self.size = size

    def _like(self, ex_iterable: _BaseExamplesIterable) -> BlockExamples:
        return BlockExamples(ex_iterable, self.counts, self.size)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, list]]]:
        state = self._resume()
        held: list[tuple[Any, Rows, Any]] = []  # with the state after the item
        ends: list[int] = []  # how many are held up to each that counts
        for key, item in self.ex_iterable:
            held.append((key, item["rows"], self.ex_iterable.state_dict() if state else None))
            if self.counts(item["rows"]):
                ends.append(len(held))
            # Nothing to wait for, or two are left for the next block
            stop = len(held) if not ends else ends[self.size - 1] if len(ends) == self.size + 2 else 0
            if stop:
                if state:
                    state["previous_state"] = held[stop - 1][2]
                yield held[0][0], {"items": [rows for _, rows, _ in held[:stop]]}
                held, ends = held[stop:], [end - stop for end in ends[self.size :]]
        if held:
            if state:
                state["previous_state"] = held[-1][2]
            yield held[0][0], {"items": [rows for _, rows, _ in held]}


def block_items(
    stream: IterableDataset,
    item: Callable[[dict[str, Any]], Hashable | None],
    counts: Callable[[Rows], bool],
    max_rows: int,
    size: int,
) -> IterableDataset:
    """A stream of blocks of items, `{"items": [rows, ...]}`, from a stream of rows."""
    blocks = BlockExamples(ItemExamples(typed_examples(stream), item, max_rows), counts, size)
    return IterableDataset(blocks, split=stream.split, distributed=stream._distributed)
