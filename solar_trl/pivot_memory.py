"""What an alignment objective remembers of pivots from one step to the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from ._files import whole_file
from ._logging import get_logger
from .checkpoints import ALIGNMENT_STATE_NAME
from .momentum import AveragedWeights, PivotQueue
from .objectives import Objective
from .start_summaries import StartSummaries


_AVERAGE = "average."


class PivotMemory:
    """
    The state of an alignment objective: summaries of pivots at the start of training, an average of the weights, a
    queue of past pivots; most objectives have none of them.

    Args:
        objective ([`Objective`]):
            Which of them it has.
        n_ranks (`int`, *optional*, defaults to `1`):
            Number of ranks.
    """

    def __init__(self, objective: Objective, n_ranks: int = 1):
        self.objective = objective
        self.n_ranks = n_ranks
        self.start: StartSummaries | None = None
        self.average: AveragedWeights | None = None
        self.queue: PivotQueue | None = None

    @property
    def has_state(self) -> bool:
        """Whether there is anything to save."""
        return self.objective.keeps_start or self.objective.pivot_gradient == "momentum"

    def begin(self, model: nn.Module, checkpoint: str | None, n_pivots: int) -> None:
        """
        Begin a training run.

        Args:
            model (`nn.Module`):
                The unwrapped model, with the weights that the run begins with.
            checkpoint (`str`, *optional*):
                Where it goes on from. `None` for a new run, which remembers nothing of one before.
            n_pivots (`int`):
                Pivots that summaries at the start of training are kept of.
        """
        self.start = self.average = self.queue = None
        if self.objective.pivot_gradient == "momentum":
            self.average = AveragedWeights(model, self.objective.momentum)
        if self.objective.queue_size:
            self.queue = PivotQueue(self.objective.queue_size, self.n_ranks)
        if checkpoint is None or not self.has_state:
            return
        path = Path(checkpoint) / ALIGNMENT_STATE_NAME
        if path.exists():
            self._load(path, n_pivots)
        else:
            get_logger().warning(
                f"{checkpoint} was saved without its training state (`save_only_model=True`): what the alignment "
                "objective remembers of pivots starts anew from its weights."
            )

    def update(self) -> None:
        """Follow an optimizer step."""
        if self.average is not None:
            self.average.update()

    def save(self, checkpoint: str | os.PathLike) -> None:
        """Write the state into a checkpoint, as one file that is there as a whole or not at all."""
        tensors = {}
        if self.start is not None:
            tensors["start"] = self.start.values
        if self.average is not None:
            tensors.update({_AVERAGE + name: value for name, value in self.average.values.items()})
        if self.queue is not None and self.queue.vectors is not None and self.queue.items is not None:
            tensors.update({"queue.vectors": self.queue.vectors, "queue.items": self.queue.items})
        with whole_file(Path(checkpoint) / ALIGNMENT_STATE_NAME) as file:
            save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, file)

    def _load(self, path: Path, n_pivots: int) -> None:
        tensors = load_file(path)
        if self.objective.keeps_start:
            start = tensors.get("start")
            if start is None or len(start) != n_pivots:
                found = "no pivots" if start is None else f"{len(start):,} pivots"
                raise ValueError(
                    f"{path} holds the summaries of {found} at the start of training, and the datasets of this "
                    f"trainer have {n_pivots:,}. Resume with the datasets and the objective of the run, or start a "
                    "new one from its weights."
                )
            self.start = StartSummaries(start)
        if self.average is not None:
            self.average.load(
                {name.removeprefix(_AVERAGE): x for name, x in tensors.items() if name.startswith(_AVERAGE)}
            )
            device = next(iter(self.average.values.values())).device
            if self.queue is not None and "queue.vectors" in tensors:
                self.queue.load(tensors["queue.vectors"].to(device), tensors["queue.items"].to(device))


class PivotMemoryCallback(TrainerCallback):
    """Tells the memory where training begins, and of each optimizer step."""

    def __init__(self, memory: PivotMemory, begin: Callable[[], None]):
        self._memory = memory
        self._begin = begin

    def on_train_begin(self, args, state, control, **kwargs):
        self._begin()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._memory.update()
