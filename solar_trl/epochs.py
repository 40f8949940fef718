"""Which epoch it is."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerCallback


class EpochCallback(TrainerCallback):
    """
    Tells the sampler and the pivot table which epoch it is.

    After a resume on several ranks the sampler lies too deep for accelerate's and the Trainer's own `set_epoch`: epoch
    0 would be replayed. `state.epoch` alone does not do, since it is behind after an epoch that was stopped early.
    """

    def __init__(self, set_epoch: Callable[[int], None]):
        self._set_epoch = set_epoch
        self._epoch: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._epoch = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        self._set_epoch(self._epoch)
