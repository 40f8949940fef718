"""The placebo's weight: as strong a pull as that of true pairs, where training starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .arms import Arm
from .results import Run
from .training import arm_trainer


BATCHES = 8  # whose mean gradient is measured


def matched_weight(
    run: Run, load_base: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase, scratch: str
) -> float:
    """
    Weight that gives the alignment gradient of shuffled pairs the norm that it has with true pairs, on the same rows.

    Args:
        run ([`Run`]): The run of the placebo; its own weight is that of true pairs.
        load_base (callable): Gives the base model, a new one at each call.
        tokenizer: Its tokenizer.
        scratch (`str`): A place for the trainers.

    Raises:
        ValueError: If the shuffled pairs have no gradient.
    """
    norms, weight = {}, 0.0
    for pairs in ("true", "shuffled"):
        # The random order does not depend on the pairs: both see the same rows
        arm = replace(run.arm, pairs=pairs, order="random")
        norms[pairs], weight = gradient_norm(arm, run, load_base(), tokenizer, scratch)
    if norms["shuffled"] == 0:
        raise ValueError(
            f"The alignment of {run.arm.name!r} has no gradient with shuffled pairs, so that its norm cannot be that "
            "with true pairs."
        )
    return weight * norms["true"] / norms["shuffled"]


def gradient_norm(
    arm: Arm, run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, scratch: str
) -> tuple[float, float]:
    """Norm of the gradient of the unweighted alignment term, over the first batches; and the arm's weight."""
    steady = {"alignment_schedule": "constant", "alignment_warmup_ratio": 0.0}
    trainer = arm_trainer(arm, model, tokenizer, run.settings, run.seed, scratch, **steady)
    model, weight = trainer.model, trainer.args.alignment_weight
    model.train()
    batches = list(islice(iter(trainer.get_train_dataloader()), BATCHES))
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = []
    for value in (1.0, 0.0):
        trainer.args.alignment_weight = value
        model.zero_grad()
        for batch in batches:
            inputs = trainer._prepare_inputs({**batch})
            trainer.compute_loss(model, inputs).backward()
        sums.append([torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters])
    # The loss is the SFT loss plus the weighted term: the difference is the term alone
    squares = [(one.double() - other.double()).square().sum() for one, other in zip(*sums, strict=True)]
    return float(torch.stack(squares).sum().sqrt()) / len(batches), weight
