"""Settings of the fused head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from .plan import TILE_BYTES


@dataclass(frozen=True)
class HeadMaths:
    """
    What the model does between the projection `z = h Wᵀ + b` and its logits.

    Args:
        scale (`float`):
            Factor on the projection, applied first.
        softcap (`float`, *optional*):
            `u = softcap · tanh(scale · z / softcap)`.
    """

    scale: float = 1.0
    softcap: float | None = None

    def logits_(self, z: torch.Tensor) -> torch.Tensor:
        """Turn the projection into the logits, in place."""
        if self.scale != 1.0:
            z.mul_(self.scale)
        if self.softcap is not None:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z

    def chain_(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits into `∂u/∂z`, in place."""
        if self.softcap is None:
            return logits.fill_(self.scale)
        return logits.div_(self.softcap).square_().neg_().add_(1).mul_(self.scale)


@dataclass(frozen=True)
class HeadOptions:
    """
    Settings of the head that stay the same from call to call.

    Args:
        maths ([`HeadMaths`]):
            Logit scale and soft cap of the model.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ of the distribution that mixes the embeddings.
        top_k (`int`, *optional*):
            Mix the `k` most likely tokens only, renormalised.
        statistics (`bool`, *optional*, defaults to `True`):
            Whether to compute the outputs of the SFT loss (log-probabilities, entropy, top-1).
        gather (callable, *optional*):
            `gather(*tensors)` returns a context within which sharded weights are whole. Entered again in the backward,
            which recomputes the logits.
        tile_bytes (`int`, *optional*, defaults to `TILE_BYTES`):
            Memory for tiles of logits, all buffers together.
    """

    maths: HeadMaths = field(default_factory=HeadMaths)
    temperature: float = 1.0
    top_k: int | None = None
    statistics: bool = True
    gather: Callable[..., AbstractContextManager] | None = None
    tile_bytes: int = TILE_BYTES

    @property
    def pools_all(self) -> bool:
        """Whether the whole vocabulary is mixed."""
        return self.top_k is None

    @property
    def two_partitions(self) -> bool:
        """Whether the distribution that mixes the embeddings needs a partition of its own."""
        return self.temperature != 1.0 and self.pools_all

    def whole(self, *tensors: torch.Tensor | None) -> AbstractContextManager:
        """Context within which all of these weights can be read."""
        return nullcontext() if self.gather is None else self.gather(*tensors)
