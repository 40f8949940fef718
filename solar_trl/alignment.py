"""The alignment term of a loss: from a paired batch to distances, their scale and their logs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from .config import SolarSFTConfig
from .data import ALIGNMENT_KEY, DataCollatorForPivotAlignment, PairingDemand, without_pairs
from .metrics import AlignmentMeter
from .momentum import with_negatives
from .objectives import DISTANCES, Objective, Pairs, centroids
from .pivot_memory import PivotMemory
from .pooling import NEXT_TOKEN, Pooling
from .sequence_tokens import SequenceTokens, first_row
from .start_summaries import StartSummaries
from .summaries import PairedSummaries, Summaries


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
        layers (`tuple[int, ...]`, *optional*, defaults to `()`):
            Indices into the hidden states, for objectives on them.
        step_tokens (`frozenset[int]`, *optional*):
            Tokens that end a step, for objectives that compare steps.
    """

    def __init__(
        self,
        objective: Objective,
        args: SolarSFTConfig,
        accelerator: Accelerator,
        layers: tuple[int, ...] = (),
        step_tokens: frozenset[int] = frozenset(),
    ):
        self.objective = objective
        self.args = args
        self.accelerator = accelerator
        self.layers = layers
        self.step_tokens = step_tokens
        self.memory = PivotMemory(objective, accelerator.num_processes)
        # Whether the pivots of the dataset that is evaluated on were there at construction
        self.evaluates_lasting_pivots = True
        self.meters = {mode: AlignmentMeter(self.sum_over_ranks) for mode in ("train", "eval")}

    @property
    def demand(self) -> PairingDemand:
        """What the collator has to provide."""
        return PairingDemand(
            positions=self.objective.positions,
            of_next_token=self.objective.representation in NEXT_TOKEN,
            pivots={"anchored": "kept", "momentum": "apart"}.get(self.objective.pivot_gradient, "batch"),
            answer_tokens=self.objective.answer_tokens if self.objective.representation == "logits" else 0,
            step_tokens=self.step_tokens,
        )

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

    def take_turns(self, batches: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
        """
        Have the micro-batches of an optimizer step take turns: even ones train, odd ones align.

        Args:
            batches (list of `dict`):
                Micro-batches; those that only train lose their pairs.
            first (`int`):
                Number of the first one, counted from the start of training.

        Returns:
            list of `dict`: Those that train.
        """
        tasks = []
        for number, batch in enumerate(batches, start=first):
            alignment = batch.get(ALIGNMENT_KEY)
            if alignment is None:
                tasks.append(batch)
                continue
            alignment["is_task"] = number % 2 == 0
            if alignment["is_task"]:
                tasks.append(batch)
                batch[ALIGNMENT_KEY] = without_pairs(alignment)
        return tasks

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
            representation=self.objective.representation,
            positions=self.objective.positions,
            pooling=self.objective.pooling,
            embeddings=self.objective.embeddings,
            layers=self.layers,
            answer_tokens=self.objective.answer_tokens,
        )

    def _uses_start(self, training: bool) -> bool:
        return self.objective.keeps_start and (training or self.evaluates_lasting_pivots)

    def remember_start(self, model: nn.Module, collator: DataCollatorForPivotAlignment) -> None:
        """Summarise all pivots with the weights as they are, unless that was done at the start of this run."""
        if self.memory.start is not None or not self._uses_start(model.training):
            return

        def summarize(batch: dict[str, Any], tokens: SequenceTokens, rows: Sequence[int]) -> torch.Tensor:
            return model(**batch, soft_token_pooling=self.pooling(tokens, rows, statistics=False)).summaries

        training = model.training
        model.eval()
        try:
            self.memory.start = StartSummaries.compute(
                collator, self.args.per_device_eval_batch_size, summarize, self.args.device
            )
        finally:
            model.train(training)

    def summarize_pivots(
        self, model: nn.Module, alignment: dict[str, Any], inputs: dict[str, Any]
    ) -> Summaries | None:
        """
        Summaries of the `A` pivots that are not in the batch, from a forward of their own.

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
        # Asked on every rank, whatever it has itself: in an evaluation, the answer is a sum over ranks
        any_rank_appends = self.shards_weights and self._any_rank_appends(alignment)
        if batch is None and any_rank_appends:
            # Ranks gather the weights together, so those that miss no pivot come along with any row of theirs
            batch, tokens = first_row(inputs, alignment["tokens"])
        if batch is None:
            return None
        moves = self.objective.pivot_gradient == "both" or alignment["draws"]
        average, examples = self.memory.average, None
        if average is not None and alignment["draws"]:  # the average makes the pivots, not the examples before them
            n_examples = len(alignment["pivot_keys"])
            examples = Summaries.of(
                model(**batch, soft_token_pooling=self.pooling(tokens, rows[:n_examples], statistics=False))
            )
            rows, moves = rows[n_examples:], False
        call = model if average is None else functools.partial(average.call, model)
        with torch.set_grad_enabled(torch.is_grad_enabled() and moves):
            outputs = call(**batch, soft_token_pooling=self.pooling(tokens, rows, statistics=False))
        return Summaries.of(outputs) if examples is None else examples.followed_by(Summaries.of(outputs))

    def _any_rank_appends(self, alignment: dict[str, Any]) -> bool:
        if "any_rank_appends" not in alignment:  # evaluation
            appends = torch.tensor(float(alignment["pivot_batch"] is not None), device=self.args.device)
            alignment["any_rank_appends"] = bool(self.sum_over_ranks(appends))
        return alignment["any_rank_appends"]

    def pair(
        self, alignment: dict[str, Any], summaries: Summaries, appended: Summaries | None, training: bool
    ) -> PairedSummaries:
        """
        Bring both sides of each pair together.

        Args:
            alignment (`dict`):
                Pairing of the micro-batch.
            summaries ([`Summaries`]):
                Of the rows of the batch.
            appended ([`Summaries`], *optional*):
                Of the pivots that are not in it.
            training (`bool`):
                Whether it is a micro-batch of training.
        """
        device = summaries.values.device
        pool = summaries.followed_by(appended)
        if alignment["wholes"] is not None:
            wholes = alignment["wholes"].to(device, pool.values.dtype) @ pool.values.flatten(1)
            pool = pool.followed_by(Summaries(wholes.view(-1, *pool.values.shape[1:])))
        start = None
        if self._uses_start(training):
            assert self.memory.start is not None, "summaries at the start are made before the first batch"
            start = self.memory.start.look_up(alignment["pivot_keys"], like=summaries.values)
        aligned = pool[alignment["examples"].to(device)]
        kept = self.objective.pivot_gradient == "anchored" and start is not None
        pivots = Summaries(start) if kept else pool[alignment["pivots"].to(device)]
        if self.objective.pivot_gradient != "both":
            pivots = pivots.detach()
        matches = alignment["matches"]
        pairs = Pairs(
            aligned=aligned.values,
            pivots=pivots.values,
            items=alignment["items"].to(device),
            aligned_mask=aligned.mask,
            pivot_mask=pivots.mask,
            matches=None if matches is None else matches.to(device),
        )
        if self.objective.target == "centroid":
            target = centroids(pairs)
            target = target if self.objective.pivot_gradient == "both" else target.detach()
            pairs, pivots = replace(pairs, pivots=target), Summaries(target)
        if self.objective.distance == "info_nce":
            gathers = self.objective.gather and self.accelerator.num_processes > 1
            queue = self.memory.queue if training else None
            pairs = with_negatives(pairs, self.objective.direction, gathers, queue)
        paired = PairedSummaries(aligned, pivots, self.distances(pairs))
        if self.objective.anchor_weight and start is not None:
            paired.anchors = self.distances(Pairs(pivots.values, start))
        if training and self.memory.queue is not None:
            # Behind the rows, and what examples there are in the side batch, each pivot is there once
            n_others = len(summaries.values) + (len(pairs) if alignment["draws"] else 0)
            past, places = pool.values[n_others:], alignment["pivots"].to(device) - n_others
            items = pairs.item_numbers()
            self.memory.queue.push(past, items.new_zeros(len(past)).scatter(0, places, items))
        return paired

    def total(self, pairs: PairedSummaries) -> torch.Tensor:
        """Sum of what is minimised over the pairs of a micro-batch."""
        total = pairs.distances.sum()
        return total if pairs.anchors is None else total + self.objective.anchor_weight * pairs.anchors.sum()

    def distances(self, pairs: Pairs) -> torch.Tensor:
        """Distance of each pair, `(P,)`; the mean over the layers, if there are several."""
        function, settings = DISTANCES[self.objective.distance].function, self.objective.distance_settings
        if len(self.layers) < 2:
            return function(pairs, settings)
        return torch.stack([function(pairs.layer(i), settings) for i in range(len(self.layers))]).mean(0)

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
        device = pairs.distances.device
        row_weights = pair_weights = None
        state = self.accelerator.gradient_state
        if steps is None and self.accelerator.num_processes > 1 and state.end_of_dataloader and state.remainder > 0:
            # accelerate fills up the last batch with rows that were already counted
            owners = torch.tensor(alignment["dataset_rows"], device=device)
            real = state.remainder - self.accelerator.process_index * (alignment["dataset_rows"][-1] + 1)
            row_weights = (owners < real).to(torch.float32)
            pair_weights = row_weights[alignment["pair_rows"].to(device)]
        aligned, pivots = pairs.aligned.vectors(), pairs.pivots.vectors()
        self.meters["eval" if steps is None else "train"].update(
            n_languages=n_languages,
            token_loss=loss,
            token_counts=counts,
            languages=alignment["languages"].to(device),
            distances=pairs.distances,
            similarities=(aligned * pivots).sum(-1),
            pair_languages=alignment["pair_languages"].to(device),
            pivots=pivots,
            anchors=pairs.anchors,
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
