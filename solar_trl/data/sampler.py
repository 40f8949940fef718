"""An order of rows in which parallel examples meet in a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class ParallelGroupSampler(Sampler[int]):
    """
    Samples row indices so that translations of an item come in the same per-device batch.

    1. Each epoch the groups are shuffled, and the rows within each group.
    2. Batches of exactly `batch_size` rows are filled one after the other, each time with the next group in the
       shuffled order that still fits and leaves a gap that others can fill. It may come from a little further down the
       order, not from far down: groups of all sizes are spread evenly over the epoch.
    3. Where nothing fits, the next group is split over the boundary (and so is a group larger than a batch). Its pivot
       is then missing from one of the batches, where [`DataCollatorForPivotAlignment`] appends it.

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

    # How far down the order, in groups per row of a batch, a filling group may be taken from
    LOOKAHEAD = 4

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
        # Groups of each size in a shuffled order; larger ones than a batch wait in one queue
        queues: dict[int, deque[tuple[int, np.ndarray]]] = {}
        for position, index in enumerate(rng.permutation(len(members))):
            size = min(len(members[index]), self.batch_size + 1)
            queues.setdefault(size, deque()).append((position, members[index]))

        pieces, room, fillable = [], self.batch_size, self._fillable(queues)
        while queues:
            # A batch starts with whatever comes next, and goes on with the next group that fits, if possible one that
            # leaves a gap that others fill. Where none fits, the next one is split. To take groups of one size from
            # far down the order would use them up early, and with them the languages that only they hold.
            next_up = min(queue[0][0] for queue in queues.values())
            near = [size for size in queues if queues[size][0][0] < next_up + self.LOOKAHEAD * self.batch_size]
            fitting = [size for size in near if size <= room] if room < self.batch_size else []
            snug = [size for size in fitting if fillable[room - size]]
            size = min(snug or fitting or queues, key=lambda size: queues[size][0][0])
            _, group = queues[size].popleft()
            if not queues[size]:
                del queues[size]
                fillable = self._fillable(queues)
            pieces.append(group)
            # What reaches over the end of the batch starts the next one
            room = (room - len(group)) % self.batch_size or self.batch_size
        return pieces

    def _fillable(self, sizes: Iterable[int]) -> list[bool]:
        """Whether some groups of the given sizes fill exactly 0, 1, ..., `batch_size` rows."""
        fillable = [True] + [False] * self.batch_size
        for rows in range(1, self.batch_size + 1):
            fillable[rows] = any(size <= rows and fillable[rows - size] for size in sizes)
        return fillable
