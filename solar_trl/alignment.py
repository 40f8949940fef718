"""The alignment term of a loss: from a paired batch to distances, their scale and their logs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from .config import SolarSFTConfig
from .data import ALIGNMENT_KEY
from .metrics import AlignmentMeter
from .modeling import Pooling
from .objectives import Objective, pair_distances
from .sequence_tokens import SequenceTokens, first_row


class RecordingProxy:
    """Stands in for the model in TRL's `compute_loss`: asks for summaries too, and keeps the outputs."""

    def __init__(self, model: nn.Module, pooling: Pooling):
        self.model = model
        self.pooling = pooling
        self.outputs: Any = None

    def __call__(self, *args, **kwargs):
        if not kwargs.get("fused_lm_head") or self.outputs is not None:
            return self.model(*args, **kwargs)
        self.outputs = self.model(*args, soft_token_pooling=self.pooling, **kwargs)
        if not hasattr(self.outputs, "summaries"):
            raise RuntimeError(
                "The model returns no soft-token summaries: its forward was replaced after this trainer was made, for "
                "example by another trainer on the same model. Make this trainer again before training with it."
            )
        return self.outputs


@dataclass
class PairedSummaries:
    """
    Both sides of each pair of a micro-batch.

    Args:
        aligned (`torch.Tensor` of shape `(P, d)`), pivots (`torch.Tensor` of shape `(P, d)`):
            Summaries of the non-pivot examples, and of their pivots.
        distances (`torch.Tensor` of shape `(P,)`):
            Unweighted alignment loss of each pair.
    """

    aligned: torch.Tensor
    pivots: torch.Tensor
    distances: torch.Tensor


class AlignmentTerm:
    """
    Computes the alignment term of each micro-batch. `"alignment"` in a batch is what
    [`DataCollatorForPivotAlignment`] put there.

    Args:
        objective ([`Objective`]):
            What is compared, and how.
        args ([`SolarSFTConfig`]):
            Configuration.
        accelerator ([`~accelerate.Accelerator`]):
            Of the trainer.
    """

    def __init__(self, objective: Objective, args: SolarSFTConfig, accelerator: Accelerator):
        self.objective = objective
        self.args = args
        self.accelerator = accelerator
        self.meters = {mode: AlignmentMeter(self.sum_over_ranks) for mode in ("train", "eval")}

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks."""
        return self.accelerator.reduce(tensor, reduction="sum")

    @property
    def shards_weights(self) -> bool:
        """Whether a forward pass is a collective operation."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def count_pairs(self, batches: list[dict[str, Any]], device: torch.device) -> None:
        """Write into the micro-batches of an optimizer step what only the whole step knows, over all ranks."""
        alignments = [batch[ALIGNMENT_KEY] for batch in batches if ALIGNMENT_KEY in batch]
        if not alignments:
            return
        pairs = sum(alignment["examples"].numel() for alignment in alignments)
        appends = [alignment["pivot_batch"] is not None for alignment in alignments]
        counts = self.sum_over_ranks(torch.tensor([pairs, *appends], dtype=torch.float32, device=device))
        any_appends = counts[1:].tolist() if self.shards_weights else appends
        for alignment, appended in zip(alignments, any_appends, strict=True):
            alignment["pairs_in_step"], alignment["any_rank_appends"] = counts[0], bool(appended)

    def pooling(self, tokens: SequenceTokens, rows: Iterable[int], statistics: bool = True) -> Pooling:
        """What the model is asked for."""
        return Pooling(
            tokens=tokens,
            rows=tuple(rows),
            statistics=statistics,
            temperature=self.args.soft_token_temperature,
            top_k=self.args.soft_token_top_k,
            detach_embeddings=self.args.detach_embeddings,
            tile_bytes=self.args.logits_tile_mib * 2**20,
        )

    def summarize_pivots(
        self, model: nn.Module, alignment: dict[str, Any], inputs: dict[str, Any]
    ) -> torch.Tensor | None:
        """
        Summaries of pivots that are not in the batch, `(A, d)`, from a forward of their own.

        Args:
            model (`nn.Module`):
                The unwrapped model: a forward through DDP on some ranks only would wait for the others forever.
            alignment (`dict`):
                Pairing of the micro-batch.
            inputs (`dict`):
                The rest of it.
        """
        batch, tokens = alignment["pivot_batch"], alignment["pivot_tokens"]
        rows = range(0 if batch is None else len(tokens.counts))
        if batch is None and self.shards_weights and self._any_rank_appends(alignment):
            # Ranks gather the weights together, so those that miss no pivot come along with any row of theirs
            batch, tokens = first_row(inputs, alignment["tokens"])
        if batch is None:
            return None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.args.detach_pivot):
            outputs = model(**batch, soft_token_pooling=self.pooling(tokens, rows, statistics=False))
        return outputs.summaries

    def _any_rank_appends(self, alignment: dict[str, Any]) -> bool:
        if "any_rank_appends" not in alignment:  # evaluation
            appends = torch.tensor(float(alignment["pivot_batch"] is not None), device=self.args.device)
            alignment["any_rank_appends"] = bool(self.sum_over_ranks(appends))
        return alignment["any_rank_appends"]

    def pair(
        self, alignment: dict[str, Any], summaries: torch.Tensor, appended: torch.Tensor | None
    ) -> PairedSummaries:
        """
        Bring both sides of each pair together.

        Args:
            alignment (`dict`):
                Pairing of the micro-batch.
            summaries (`torch.Tensor` of shape `(R, d)`):
                Of the rows of the batch.
            appended (`torch.Tensor` of shape `(A, d)`, *optional*):
                Of the pivots that are not in it.
        """
        pool = summaries if appended is None else torch.cat([summaries, appended.to(summaries.device)])
        aligned, pivots = pool[alignment["examples"].to(pool.device)], pool[alignment["pivots"].to(pool.device)]
        if self.args.detach_pivot:
            pivots = pivots.detach()
        return PairedSummaries(aligned, pivots, pair_distances(aligned, pivots, self.objective.distance))

    def scale(self, alignment: dict[str, Any], weight: float, divided_by: int) -> torch.Tensor:
        """
        Factor on a micro-batch's sum of distances that makes the gradient that of λ × the mean over all pairs of the
        optimizer step.

        Args:
            alignment (`dict`):
                Pairing of the micro-batch.
            weight (`float`):
                The current λ.
            divided_by (`int`):
                What the Trainer divides the loss by, after us.
        """
        pairs = alignment.get("pairs_in_step")
        if pairs is None:  # a loss computed outside of the training loop
            pairs = self.sum_over_ranks(torch.tensor(float(alignment["examples"].numel()), device=self.args.device))
        # DDP averages gradients over ranks
        return weight * self.accelerator.num_processes * divided_by / pairs.clamp(min=1)

    @torch.no_grad()
    def record(
        self, alignment: dict[str, Any], outputs, pairs: PairedSummaries, n_languages: int, steps: float | None
    ) -> None:
        """
        Add a micro-batch to what will be logged.

        Args:
            alignment (`dict`):
                Pairing of the micro-batch.
            outputs ([`SoftTokenOutput`]):
                Of the main forward.
            pairs ([`PairedSummaries`]):
                Its pairs.
            n_languages (`int`):
                Number of languages of the trainer.
            steps (`float`, *optional*):
                Share of an optimizer step that the micro-batch is; `None` in evaluation.
        """
        token_loss = -outputs.log_probs
        if self.args.loss_type == "dft":
            token_loss = token_loss * outputs.log_probs.exp()
        loss, counts = (
            _sum_by_example(x, alignment["positions"], len(alignment["languages"]))
            for x in (token_loss, outputs.label_mask)
        )
        device = pairs.aligned.device
        row_weights = pair_weights = None
        state = self.accelerator.gradient_state
        if steps is None and self.accelerator.num_processes > 1 and state.end_of_dataloader and state.remainder > 0:
            # accelerate fills up the last batch with rows that were already counted
            owners = torch.tensor(alignment["dataset_rows"], device=device)
            real = state.remainder - self.accelerator.process_index * (alignment["dataset_rows"][-1] + 1)
            row_weights = (owners < real).to(torch.float32)
            rows = torch.tensor(alignment["rows"], device=device, dtype=torch.int64)
            pair_weights = row_weights[rows[alignment["examples"].to(device)]]
        self.meters["eval" if steps is None else "train"].update(
            n_languages=n_languages,
            token_loss=loss,
            token_counts=counts,
            languages=alignment["languages"].to(device),
            distances=pairs.distances,
            similarities=F.cosine_similarity(pairs.aligned, pairs.pivots, dim=-1),
            pair_languages=alignment["pair_languages"].to(device),
            pivots=pairs.pivots,
            steps=steps or 0.0,
            row_weights=row_weights,
            pair_weights=pair_weights,
        )


def _sum_by_example(values: torch.Tensor, positions: torch.Tensor | None, n_examples: int) -> torch.Tensor:
    """Sum of `(B, T)` values over each example: a row, or part of the only row."""
    if positions is None:
        return values.sum(1)
    # Values stand for the tokens that the positions predict
    owners = positions[-values.size(1) :].to(values.device)
    values = values[0].to(torch.float32)
    return values.new_zeros(n_examples).index_add_(0, owners, values)
