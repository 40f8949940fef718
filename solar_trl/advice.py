"""A setting that lost accuracy where it was measured (docs/lab_book.md): said at construction, not refused."""

from __future__ import annotations

from transformers import PreTrainedModel

from .checks import embeddings_move
from .config import SolarSFTConfig
from .objectives import Objective


# With fixed embeddings 0.3 was harmless in our benchmark and 1 was ruinous; with embeddings that move, 1 was harmless
FIXED_EMBEDDINGS_WEIGHT = 0.3


def weight_advice(args: SolarSFTConfig, objective: Objective, model: PreTrainedModel) -> str | None:
    """
    What to change about a weight that is known to hurt.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration.
        objective ([`Objective`]):
            What is aligned.
        model ([`~transformers.PreTrainedModel`]):
            The model, with its adapters.

    Returns:
        `str`, *optional*: Nothing where nothing is known against it.
    """
    if (objective.representation, objective.distance) != ("soft_token", "cosine"):
        return None  # no other objective was measured under LoRA
    if args.alignment_weight <= FIXED_EMBEDDINGS_WEIGHT or embeddings_move(model, args):
        return None
    reason = "`detach_embeddings=True`" if args.detach_embeddings else "they are not trained here"
    return (
        f"`alignment_weight` is {args.alignment_weight:g}, and the embeddings that soft tokens are mixed from cannot "
        f"follow the pull ({reason}): it can only bend the probabilities, against the SFT loss. In our benchmark a "
        f"weight of {FIXED_EMBEDDINGS_WEIGHT:g} was harmless then, and with 1 accuracy collapsed. Use "
        f"`alignment_weight={FIXED_EMBEDDINGS_WEIGHT:g}`, or watch `sft_loss/<language>`."
    )
