"""An order of rows in which parallel examples meet in a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class ParallelGroupSampler(Sampler[int]):
    """
    Samples row indices so that translations of an item come in the same per-device batch.

    1. Each epoch the groups are shuffled, and the rows within each group.
    2. Batches of exactly `batch_size` rows are filled one after the other: the next group in the shuffled order that
       still fits, so a batch that has room left takes a smaller group from further down the order.
    3. Where nothing fits, the next group is split over the boundary (and so is a group larger than a batch). Its pivot is
       then missing from one of the batches, where [`DataCollatorForPivotAlignment`] appends it.

    Every row comes exactly once per epoch. The order depends on `(seed, epoch)` alone: it is the same on every rank,
    which is what accelerate's sharding expects, and after a resume.

    Args:
        groups (sequence of `int` of shape `(n,)`):
            Group of each row; rows with the same number ≥ 0 belong together, a negative number stands alone.
        batch_size (`int`):
            Rows per device and micro-batch.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order.

    Raises:
        ValueError: If `batch_size` is smaller than 1.

    Examples:
    ```python
    >>> from solar_trl import ParallelGroupSampler

    >>> order = list(ParallelGroupSampler([0, 1, 0, 1, 0, 1], batch_size=3))
    >>> sorted(order[:3]) in ([0, 2, 4], [1, 3, 5])
    True
    ```
    """

    def __init__(self, groups: Sequence[int] | np.ndarray, batch_size: int, seed: int = 0):
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size}, expected at least 1.")
        self.groups = np.asarray(groups, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        # Rows in random order, then brought together by group; a row on its own is a group of one
        order = rng.permutation(len(self.groups))
        groups = self.groups[order]
        alone = groups < 0
        groups = np.where(alone, self.groups.max(initial=-1) + 1 + np.arange(len(groups)), groups)
        by_group = np.argsort(groups, kind="stable")
        _, starts = np.unique(groups[by_group], return_index=True)
        members = np.split(order[by_group], starts[1:]) if len(order) else []
        return iter(np.concatenate(self._fill(members, rng)).tolist() if members else [])

    def _fill(self, members: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Pieces of groups in an order whose runs of `batch_size` rows hold whole groups wherever possible."""
        rank = rng.permutation(len(members))
        # Groups of each size in the shuffled order; larger ones than a batch wait in one queue
        queues: dict[int, deque[tuple[int, np.ndarray]]] = {}
        for position, index in enumerate(rank):
            size = min(len(members[index]), self.batch_size + 1)
            queues.setdefault(size, deque()).append((position, members[index]))

        pieces, room = [], self.batch_size
        while queues:
            fitting = [size for size in queues if size <= room]
            # At the start of a batch anything may come, also what has to be split
            choices = fitting if fitting and room < self.batch_size else list(queues)
            size = min(choices, key=lambda size: queues[size][0][0])
            _, group = queues[size].popleft()
            if not queues[size]:
                del queues[size]
            pieces.append(group)
            # The row after a split or a full batch starts counting anew
            room = (room - len(group)) % self.batch_size or self.batch_size
        return pieces
