"""Which tokens are pooled into which summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class Segments:
    """
    The tokens of each sequence to summarise, known to the host, and to the device without waiting for it.

    Args:
        ranges (sequence of `(start, stop)`):
            Non-empty ranges of tokens that ascend and do not overlap, one per summary.
        n_tokens (`int`):
            Number of tokens in all.
        device (`torch.device`):
            Where the kernels run.

    Raises:
        ValueError: If a range is empty or out of order.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], n_tokens: int, device: torch.device):
        ends = [0, *(stop for _, stop in ranges)]
        if any(not end <= start < stop <= n_tokens for end, (start, stop) in zip(ends, ranges, strict=False)):
            raise ValueError(
                f"Every segment needs at least one token, and segments must ascend within [0, {n_tokens}), got "
                f"{list(ranges)}."
            )
        self.ranges = tuple(ranges)
        self.n_tokens = n_tokens
        self.device = device
        self._on_device: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.ranges)

    def parts(self, tile: slice) -> Iterator[tuple[int, slice, int]]:
        """The segments that reach into a tile: `(segment, its part of the tile, tokens of the whole segment)`."""
        for row, (start, stop) in enumerate(self.ranges):
            lo, hi = max(start, tile.start), min(stop, tile.stop)
            if lo < hi:
                yield row, slice(lo - tile.start, hi - tile.start), stop - start

    def on_device(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Segment of each token (`(N,)`, int32; -1 outside of all), and tokens of that segment (`(N,)`, int32).
        """
        if self._on_device is None:
            bounds = torch.tensor(self.ranges, dtype=torch.int32).reshape(-1, 2)
            if self.device.type == "cuda":
                bounds = bounds.pin_memory()  # else the copy would wait for the device
            starts, stops = bounds.to(self.device, non_blocking=True).unbind(1)
            tokens = torch.arange(self.n_tokens, device=self.device, dtype=torch.int32)
            if len(self):
                rows = torch.searchsorted(starts.contiguous(), tokens, right=True) - 1
                outside = (rows < 0) | (tokens >= stops[rows])
                rows, counts = rows.masked_fill(outside, -1), (stops - starts)[rows]
            else:
                rows = counts = torch.full_like(tokens, -1)
            self._on_device = rows.to(torch.int32), counts
        return self._on_device
