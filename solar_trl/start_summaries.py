"""Summaries of all pivots at the start of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, send_to_device

from .data import DataCollatorForPivotAlignment
from .pooling import to_device
from .sequence_tokens import SequenceTokens


# From a batch, its tokens and the sequences wanted, to their summaries
Summarize = Callable[[dict[str, Any], SequenceTokens, list[int]], torch.Tensor]


class StartSummaries:
    """
    Summaries of all pivots that were known at construction, in the main memory of each rank.

    Args:
        values (`torch.Tensor` of shape `(N, d)` or `(N, L, d)` and dtype float32):
            One row per entry of the pivot table; NaN where a pivot has nothing to pool.
    """

    def __init__(self, values: torch.Tensor):
        self.values = values

    @classmethod
    @torch.no_grad()
    def compute(
        cls, collator: DataCollatorForPivotAlignment, batch_size: int, summarize: Summarize, device: torch.device
    ) -> StartSummaries:
        """
        Summarise all pivots, in the order of the table. Batches are dealt out to the ranks, which all make the same
        number of forward passes: with sharded weights these are collective.

        Args:
            collator ([`DataCollatorForPivotAlignment`]):
                Knows the pivots and how to put them into batches.
            batch_size (`int`):
                Pivots of a batch.
            summarize (callable):
                Runs the model.
            device (`torch.device`):
                Where it runs.
        """
        state, n_pivots = PartialState(), collator.pivots.n_lasting
        rounds = []
        for start in range(0, n_pivots, batch_size * state.num_processes):
            begin = start + state.process_index * batch_size
            # A rank that has run out of pivots comes along with the first ones
            members = list(range(begin, min(begin + batch_size, n_pivots))) or list(range(min(batch_size, n_pivots)))
            batch = collator.collate_pivots(members)
            assert batch is not None, "there are pivots"
            rows = [row for row, usable in enumerate(batch.usable) if usable]
            found = summarize(send_to_device(batch.inputs, device), batch.tokens, rows).to(torch.float32)
            block = found.new_full((batch_size, *found.shape[1:]), torch.nan)
            block[to_device(torch.tensor(rows, dtype=torch.int64), found.device)] = found
            rounds.append(gather(block.to(device)).cpu())
        return cls(torch.cat(rounds)[:n_pivots].clone())

    def __len__(self) -> int:
        return len(self.values)

    def look_up(self, keys: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """
        Summaries of some pivots.

        Args:
            keys (sequence of `P` ints):
                Entries of the pivot table.
            like (`torch.Tensor`):
                Whose dtype and device to give them.

        Returns:
            `torch.Tensor` of shape `(P, d)` or `(P, L, d)`.

        Raises:
            RuntimeError: If one of them had nothing to pool when they were summarised.
        """
        values = self.values[torch.tensor(keys, dtype=torch.int64)]
        if values.isnan().any():
            raise RuntimeError(
                "A pivot that is paired now could not be summarised at the start of training, or its summary was not "
                "a number. Does `data_collator` mask labels at random, or does the model overflow (train in bf16, not "
                "fp16)?"
            )
        return to_device(values.to(like.dtype), like.device)
