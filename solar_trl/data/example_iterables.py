"""
Steps over streams that `datasets` does not have.

They extend its private `_BaseExamplesIterable` (read in datasets 5.2.0), since a step that is part of the stream keeps
what a generator around the stream would lose: shards for ranks and dataloader workers (in a worker, a stream that is
read inside of a generator yields the worker's share of it only), `set_epoch`, and `state_dict`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from datasets import IterableDataset

from .._versions import moved


try:
    from datasets.iterable_dataset import _BaseExamplesIterable
except ImportError as error:
    raise moved("datasets.iterable_dataset._BaseExamplesIterable", "datasets") from error


class _Step(_BaseExamplesIterable):
    """A step that leaves shards and their order to the examples it reads."""

    def __init__(self, ex_iterable: _BaseExamplesIterable):
        super().__init__()
        self.ex_iterable = ex_iterable

    def _like(self, ex_iterable: _BaseExamplesIterable) -> _Step:
        return type(self)(ex_iterable)

    def shuffle_data_sources(self, generator) -> _Step:
        return self._like(self.ex_iterable.shuffle_data_sources(generator))

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> _Step:
        return self._like(self.ex_iterable.shard_data_sources(num_shards, index, contiguous=contiguous))

    def reshard_data_sources(self) -> _Step:
        return self._like(self.ex_iterable.reshard_data_sources())

    @property
    def num_shards(self) -> int:
        return self.ex_iterable.num_shards


class HoldingStep(_Step):
    """A step that holds examples back: its state is that after the last of those that it has passed on."""

    def _init_state_dict(self) -> dict:
        self.ex_iterable._init_state_dict()
        self._state_dict = {"previous_state": None, "type": type(self).__name__}
        return self._state_dict

    def _resume(self) -> dict | None:
        """Go on from the state, and return it; `None` if none is kept."""
        state = self._state_dict
        if state and state["previous_state"] is not None:
            self.ex_iterable.load_state_dict(state["previous_state"])
        return state


class ItemExamples(HoldingStep):
    """
    Makes one example, `{"rows": [...]}`, of consecutive rows of the same item.

    Args:
        ex_iterable (examples of a [`~datasets.IterableDataset`]):
            Rows.
        item (callable):
            Item of a row; `None` for a row that belongs to nothing.
        max_rows (`int`):
            More rows in one item are an error: they could not be held.
    """

    def __init__(
        self, ex_iterable: _BaseExamplesIterable, item: Callable[[dict[str, Any]], Hashable | None], max_rows: int
    ):
        super().__init__(ex_iterable)
        self.item = item
        self.max_rows = max_rows

    def _like(self, ex_iterable: _BaseExamplesIterable) -> ItemExamples:
        return ItemExamples(ex_iterable, self.item, self.max_rows)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, list]]]:
        state = self._resume()
        rows: list[dict[str, Any]] = []
        current, first_key = None, None
        after = self.ex_iterable.state_dict() if state else None
        for key, row in self.ex_iterable:
            item = self.item(row)
            if rows and (item is None or item != current):
                if state:
                    state["previous_state"] = after
                yield first_key, {"rows": rows}
                rows = []
            if not rows:
                current, first_key = item, key
            rows.append(row)
            if len(rows) > self.max_rows:
                raise ValueError(
                    f"More than {self.max_rows:,} rows in a row have the id {current!r}. All rows of an item are held "
                    "at once; is this column the id of the item? Name the right one in `parallel_id_column`."
                )
            if state:
                after = self.ex_iterable.state_dict()
        if rows:
            if state:
                state["previous_state"] = after
            yield first_key, {"rows": rows}


class EndlessExamples(_Step):
    """
    Starts a stream anew whenever it ends, in the order of its next epoch.

    Ranks that read different shards come to the end at different times. The Trainer would then cut an accumulation
    short on one rank only, and ranks would wait for each other forever.
    """

    def _init_state_dict(self) -> dict:
        self._state_dict = {"epoch": 0, "examples_iterable": None, "type": type(self).__name__}
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        state: dict[str, Any] | None = self._state_dict
        for epoch in itertools.count(state["epoch"] if state else 0):
            stream = IterableDataset(self.ex_iterable)
            stream.set_epoch(epoch)
            source = stream._prepare_ex_iterable_for_iteration()
            started = False
            if state:
                if state["epoch"] == epoch and state["examples_iterable"] is not None:
                    source.load_state_dict(state["examples_iterable"])
                    started = True
                state["epoch"], state["examples_iterable"] = epoch, source._state_dict
            for key_example in source:
                started = True
                yield key_example
            if not started:  # nothing in this shard: it would be read forever
                return


class WholeExamples(_Step):
    """
    A stream that is not split into shards: accelerate then gives each rank every n-th batch, the same number to all.
    """

    def _init_state_dict(self) -> dict:
        self._state_dict = self.ex_iterable._init_state_dict()
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        yield from self.ex_iterable

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> WholeExamples:
        return self  # the only shard

    @property
    def num_shards(self) -> int:
        return 1


def typed_examples(stream: IterableDataset) -> _BaseExamplesIterable:
    """Examples of a stream: an identity map applies the declared types, whatever the rows come from."""
    return stream.with_format(None).map()._ex_iterable


def group_items(
    stream: IterableDataset, item: Callable[[dict[str, Any]], Hashable | None], max_rows: int
) -> IterableDataset:
    """A stream of items, `{"rows": [...]}`, from a stream of rows."""
    items = ItemExamples(typed_examples(stream), item, max_rows)
    return IterableDataset(items, split=stream.split, distributed=stream._distributed)


def endless(stream: IterableDataset) -> IterableDataset:
    """A stream that starts anew whenever it ends."""
    return IterableDataset(EndlessExamples(stream.map()._ex_iterable), split=stream.split)


def in_one_shard(stream: IterableDataset) -> IterableDataset:
    """A stream that is not split into shards."""
    return IterableDataset(WholeExamples(stream.map()._ex_iterable), split=stream.split)


def is_split_by_node(stream: IterableDataset) -> bool:
    """Whether `split_dataset_by_node` was applied to a stream."""
    return stream._distributed is not None and stream._distributed.world_size > 1
