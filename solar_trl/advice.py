"""Settings that disappointed where they were measured (docs/lab_book.md): said at construction, not refused."""

from __future__ import annotations

from transformers import PreTrainedModel

from ._compat import mixed_embedding
from .checks import embeddings_move
from .config import SolarSFTConfig
from .objectives import Objective


# With fixed embeddings 0.3 was harmless in our benchmark and 1 was ruinous; with embeddings that move, 1 was harmless
FIXED_EMBEDDINGS_WEIGHT = 0.3


def advice(args: SolarSFTConfig, objective: Objective, model: PreTrainedModel) -> str | None:
    """
    What to change about a configuration.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration.
        objective ([`Objective`]):
            What is aligned.
        model ([`~transformers.PreTrainedModel`]):
            The model, with its adapters.

    Returns:
        `str`, *optional*: A few sentences on a setting that is known to hurt, or to do nothing.
    """
    if (objective.representation, objective.distance) != ("soft_token", "cosine"):
        return None  # what was measured under LoRA and without tied embeddings
    if embeddings_move(model, args):
        return _of_untied_embeddings(objective, model)
    return _of_fixed_embeddings(args)


def _of_fixed_embeddings(args: SolarSFTConfig) -> str | None:
    if args.alignment_weight <= FIXED_EMBEDDINGS_WEIGHT:
        return None
    reason = "`detach_embeddings=True`" if args.detach_embeddings else "they are not trained here"
    return (
        f"`alignment_weight` is {args.alignment_weight:g}, and the embeddings that soft tokens are mixed from cannot "
        f"follow the pull ({reason}): it can only bend the probabilities, against the SFT loss. In our benchmark a "
        f"weight of {FIXED_EMBEDDINGS_WEIGHT:g} was harmless then, and with 1 accuracy collapsed. Use "
        f"`alignment_weight={FIXED_EMBEDDINGS_WEIGHT:g}`, or watch `sft_loss/<language>`."
    )


def _of_untied_embeddings(objective: Objective, model: PreTrainedModel) -> str | None:
    source, head = (mixed_embedding(model, which).weight for which in ("input", "output"))
    if objective.embeddings == "output" or source is head or not (source.requires_grad and head.requires_grad):
        return None  # adapters on the input side alone were not measured
    return (
        "The input embeddings that soft tokens are mixed from are trained and not tied to the LM head: they can come "
        "together alone. In our benchmark summaries then became alike while the hidden states of languages stayed as "
        "far apart as with SFT, at any weight. Use `alignment_kwargs={'embeddings': 'output'}` to mix the rows of the "
        "LM head."
    )
