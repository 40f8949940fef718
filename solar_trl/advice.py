"""Settings that lost accuracy where they were measured (docs/lab_book.md): said at construction, not refused."""

from __future__ import annotations

from transformers import PreTrainedModel

from ._compat import effective_embedding
from .config import SolarSFTConfig


# With fixed embeddings 0.3 was harmless in our benchmark and 1 was ruinous; with embeddings that move, 1 was harmless
FIXED_EMBEDDINGS_WEIGHT = 0.3


def advice(args: SolarSFTConfig, model: PreTrainedModel) -> list[str]:
    """
    What to change about a configuration, one sentence or two for each setting that is known to hurt.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration, with alignment.
        model ([`~transformers.PreTrainedModel`]):
            The model, with its adapters.

    Returns:
        `list[str]`: Nothing where nothing is known against it.
    """
    objective = args.objective
    if objective is None or (objective.representation, objective.distance) != ("soft_token", "cosine"):
        return []  # no other objective was measured under LoRA
    moves = effective_embedding(model).is_trainable and not args.detach_embeddings
    if moves or args.alignment_weight <= FIXED_EMBEDDINGS_WEIGHT:
        return []
    reason = "`detach_embeddings=True`" if args.detach_embeddings else "they are not trained here"
    return [
        f"`alignment_weight` is {args.alignment_weight:g}, and the embeddings that soft tokens are mixed from cannot "
        f"follow the pull ({reason}): it can only bend the probabilities, against the SFT loss. In our benchmark a "
        f"weight of {FIXED_EMBEDDINGS_WEIGHT:g} was harmless then, and with 1 accuracy collapsed. Use "
        f"`alignment_weight={FIXED_EMBEDDINGS_WEIGHT:g}`, or watch `sft_loss/<language>`."
    ]
