"""Settings that disappointed where they were measured (docs/lab_book.md): said at construction, not refused."""

from __future__ import annotations

from transformers import PreTrainedModel

from ._compat import mixed_embedding
from .checks import embeddings_move
from .config import SolarSFTConfig
from .objectives import Objective


# With fixed embeddings 0.3 was harmless in our benchmark and 1 was ruinous; with embeddings that move, 1 was harmless
FIXED_EMBEDDINGS_WEIGHT = 0.3
# Items of a step in grouped order: six cost several points in every language, 24 none where rows are few (two seeds)
FEW_ITEMS = 12


def advice(
    args: SolarSFTConfig, objective: Objective, model: PreTrainedModel, items: float | None = None
) -> list[str]:
    """
    What to change about a configuration.

    Args:
        args ([`SolarSFTConfig`]):
            Configuration.
        objective ([`Objective`]):
            What is aligned.
        model ([`~transformers.PreTrainedModel`]):
            The model, with its adapters.
        items (`float`, *optional*):
            Different items of an optimizer step; `None` if `pivot_batching` does not set the order of the rows, or
            they cannot be counted.

    Returns:
        `list[str]`: A few sentences on each setting that is known to hurt, or to do nothing.
    """
    found = [None if items is None else _of_order(args, objective, items), _of_embeddings(args, objective, model)]
    return [message for message in found if message is not None]


def _of_order(args: SolarSFTConfig, objective: Objective, items: float) -> str | None:
    if args.pivot_batching == "random" and objective.target == "centroid":
        return (
            "The centroid is that of the translations in a micro-batch: with `pivot_batching='random'` it is mostly "
            "the pivot alone. Set `pivot_batching='grouped'`."
        )
    if args.pivot_batching == "grouped" and objective.target == "parallel" and items < FEW_ITEMS:
        return (
            f"With `pivot_batching='grouped'` an optimizer step holds only about {items:.3g} different items. In our "
            "benchmark six of them, in 32 rows, cost both SFT and SOLAR several points of accuracy in every "
            "language. Set `pivot_batching='random'`, or accumulate gradients over more micro-batches."
        )
    return None


def _of_embeddings(args: SolarSFTConfig, objective: Objective, model: PreTrainedModel) -> str | None:
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
