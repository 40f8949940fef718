"""What a run is about to do, and what it did: once at the start and once at the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import TrainerCallback

from ._logging import get_logger
from .config import SolarSFTConfig
from .data.resolve import is_paired
from .objectives import Objective


# Forward passes that a training step costs: one forward, and a backward of about two; one more with checkpointing
STEP_COST, CHECKPOINTED_STEP_COST = 3, 4
MAX_ROWS = 200_000  # looked at for the estimate


@dataclass(frozen=True)
class SidePasses:
    """
    What forward passes beside the main one cost.

    Args:
        rows (`float`):
            Sequences that go through one, per row of the batch.
        extra_time (`float`):
            Share by which a step gets longer: an estimate from the number of passes.
    """

    rows: float
    extra_time: float


@dataclass(frozen=True)
class BatchCounts:
    """
    What meets in the batches of an epoch.

    Args:
        appended (`float`):
            Pivots that are not in the batch of their translations, per row.
        lonely (`float`):
            Share of pairs in whose batch there is no other item.
        items (`float`):
            Different items in a batch, whether they are paired or not.
    """

    appended: float
    lonely: float
    items: float


def count_batches(
    order: np.ndarray, pivot: np.ndarray, own: np.ndarray, batch_size: int, uses_batch: bool = True
) -> BatchCounts:
    """
    Count what meets in batches.

    Args:
        order (`numpy.ndarray` of shape `(n,)`):
            Rows in the order in which batches are made of them.
        pivot (`numpy.ndarray` of shape `(n,)`), own (`numpy.ndarray` of shape `(n,)`):
            The pairing columns of the dataset: first pivot of each row's item, and which pivot a row is itself; -1 for
            none.
        batch_size (`int`):
            Rows of a batch.
        uses_batch (`bool`, *optional*, defaults to `True`):
            Whether a pivot that is in the batch serves as the target.

    Returns:
        [`BatchCounts`]
    """
    if not len(order):
        return BatchCounts(0.0, 0.0, 0.0)
    batch = np.arange(len(order)) // batch_size
    pivot, own = pivot[order], own[order]
    n_keys = max(pivot.max(), own.max()) + 1
    different = len(np.unique((batch * n_keys + pivot)[pivot >= 0])) + int((pivot < 0).sum())
    if not uses_batch:
        pivot, own = np.where(own >= 0, -1, pivot), np.full_like(own, -1)
    paired = is_paired(pivot, own)
    needed = np.unique((batch * n_keys + pivot)[paired])
    present = (batch * n_keys + own)[own >= 0]
    paired_items = np.bincount(needed // n_keys, minlength=batch[-1] + 1)
    return BatchCounts(
        appended=float(np.isin(needed, present, invert=True).sum() / len(order)),
        lonely=float((paired_items[batch[paired]] == 1).mean()) if paired.any() else 0.0,
        items=different / int(batch[-1] + 1),
    )


def side_passes(args: SolarSFTConfig, objective: Objective, appended: float, draws: bool) -> SidePasses:
    """
    Estimate what the side passes of a step cost.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration.
        objective ([`Objective`]):
            Whether its pivots move, are kept or come from other weights.
        appended (`float`):
            See [`BatchCounts`].
        draws (`bool`):
            Whether both sides of the pairs come from an alignment dataset.
    """
    if objective.pivot_gradient == "anchored":
        appended = 0.0
    rows = 2.0 if draws else appended
    trained = draws or objective.pivot_gradient == "both"
    step = CHECKPOINTED_STEP_COST if args.gradient_checkpointing else STEP_COST
    return SidePasses(rows, rows if trained else rows / step)


def start_summary(
    args: SolarSFTConfig, objective: Objective, passes: SidePasses | None, batch_size: int, lonely: float = 0.0
) -> str:
    """
    Lines on the objective, its weight and what side passes cost.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration.
        objective ([`Objective`]):
            What is aligned.
        passes ([`SidePasses`], *optional*):
            Their cost. `None` if it cannot be known (streams, packed rows).
        batch_size (`int`):
            Rows per device and micro-batch.
        lonely (`float`, *optional*, defaults to `0.0`):
            See [`BatchCounts`].
    """
    weight = f"{args.alignment_weight:g}, {args.alignment_schedule}"
    if args.alignment_warmup_ratio:
        weight += f" after a warm-up of {args.alignment_warmup_ratio:.0%}"
    lines = [f"{args.alignment_objective}: {objective.description} Weight {weight}."]
    if passes is not None and passes.rows:
        lines.append(
            f"{passes.rows:.2f} sequences per row go through a forward pass of their own, since they are not in the "
            f"batch: a step takes about {passes.extra_time:.0%} longer (estimated from the number of passes)."
        )
        if passes.extra_time >= 0.1 and passes.rows < 1:
            lines.append(
                f"Larger micro-batches than {batch_size} rows bring more pivots together, up to whole items "
                "(`pivot_batching='grouped'`, `per_device_train_batch_size`)."
            )
    if objective.distance == "info_nce" and lonely >= 0.1 and not (objective.queue_size or objective.gather):
        lines.append(
            f"{lonely:.0%} of the pairs meet no other item in their micro-batch of {batch_size} rows: they have no "
            "negatives, and teach nothing. Raise `per_device_train_batch_size`, set `pivot_batching='random'`, or "
            "`alignment_kwargs={'gather': True}` on several devices."
        )
    return "\n".join(lines)


def final_summary(history: Iterable[dict[str, Any]]) -> str | None:
    """
    Lines on how the losses and similarities went, from the first to the last logging window that has them.

    Args:
        history (iterable of `dict`):
            `state.log_history` of the Trainer.

    Returns:
        `str`, *optional*: A table; `None` if nothing was logged.
    """
    ends = first_and_last(history)
    if not ends:
        return None
    width = max(map(len, ends))
    rows = []
    for name, (first, last, logged) in ends.items():
        values = f"{first:8.4f} -> {last:8.4f}" if logged > 1 else f"{last:8.4f} (logged once)"
        rows.append(f"  {name:{width}}  {values}")
    return "\n".join(["alignment over the run (first -> last logging window):", *rows])


def first_and_last(history: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float, int]]:
    """First and last logged value of what alignment changes, and how many there are, by name."""
    ends: dict[str, tuple[float, float, int]] = {}
    for logs in history:
        for name, value in logs.items():
            if name.split("/")[0] in ("sft_loss", "alignment_loss", "pivot_similarity", "summary_variance"):
                first, _, logged = ends.get(name, (value, value, 0))
                ends[name] = (first, value, logged + 1)
    return ends


class SummaryCallback(TrainerCallback):
    """Shows the final summary when training ends."""

    def on_train_end(self, args, state, control, **kwargs):
        text = final_summary(state.log_history)
        if text is not None:
            get_logger().info(text)
