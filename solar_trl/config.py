"""Configuration of [`SolarSFTTrainer`]: TRL's `SFTConfig` and the alignment fields."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from .objectives import OBJECTIVES, SCHEDULES, Objective


PIVOT_BATCHING = ("grouped", "random")
MISSING_PIVOT = ("keep", "drop", "error")
MULTIPLE_PIVOTS = ("error", "first", "sample")
TRUNCATED_PAIRS = ("keep", "skip")


@dataclass
class SolarSFTConfig(SFTConfig):
    r"""
    Configuration class for the [`SolarSFTTrainer`].

    This class includes only the parameters that are specific to the cross-lingual alignment objective. For the others,
    see [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`]; their defaults are unchanged.

    Using [`~transformers.HfArgumentParser`] we can turn this class into
    [argparse](https://docs.python.org/3/library/argparse#module-argparse) arguments that can be specified on the
    command line.

    Parameters:
        > Parameters that control the alignment objective

        alignment_objective (`str`, *optional*, defaults to `"solar"`):
            Preset of the alignment objective. `"solar"` pulls the soft-token summary of each non-pivot response toward
            that of its pivot parallel (SOLAR, https://huggingface.co/papers/2606.26466). Its rivals: `"mid_align"`,
            `"hidden_cosine"`, `"soft_info_nce"`, `"hard_token"`, `"l2_anchor"`, `"afp"`, `"soft_mmd"`, `"info_xlm"`,
            `"centroid"` and `"answer_kl"`, each explained in [`~solar_trl.objectives.OBJECTIVES`]. `"none"` turns
            alignment off: training is then that of [`~trl.SFTTrainer`], bit for bit.
        alignment_kwargs (`dict[str, Any]` or `str`, *optional*):
            Settings of the objective that differ from the preset, as fields of [`~solar_trl.objectives.Objective`]:
            `{"layers": [0.5], "positions": "prompt"}`. On the command line a JSON string.
        alignment_alternate (`bool`, *optional*, defaults to `False`):
            Whether micro-batches take turns: one with the SFT loss alone, the next with the alignment term alone, as
            in mid-align (https://arxiv.org/abs/2502.14830). The SFT loss then sees half of the rows of an epoch. With
            `False`, every micro-batch has both.
        alignment_weight (`float`, *optional*, defaults to `0.3`):
            Weight λ of the alignment term in the loss. `0` turns alignment off like `alignment_objective="none"`. The
            paper's value is not public. Of 0.1, 0.3, 1 and 3, `0.3` was the best on the tuning seeds of our benchmark,
            and the best tried under LoRA, where it did no harm on the reported seeds (docs/evidence.md). With
            embeddings that are not trained (as under LoRA) `1.0` pushed probability onto pivot-language tokens, and
            accuracy collapsed: you are warned then.
        alignment_schedule (`str`, *optional*, defaults to `"constant"`):
            How λ changes over training, after the warm-up: `"constant"`, `"linear_decay"` (to 0 at the end) or
            `"cosine_decay"` (likewise, along half a cosine). In full fine-tuning on our benchmark a constant 0.3 lost
            2.9 points of low-resource accuracy against SFT; a weight of 3 that decays to 0 drew languages nearer and
            lost nothing that 30 seeds could show (docs/evidence.md). The default is the plain method.
        alignment_warmup_ratio (`float`, *optional*, defaults to `0.0`):
            Share of the optimizer steps over which λ first rises linearly from 0.
        soft_token_temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ of the distribution that mixes the embeddings: `p = softmax(logits / τ)`. `1.0` mixes with
            the model's own next-token distribution. The SFT loss is not affected.
        soft_token_top_k (`int`, *optional*):
            Mix over the `k` most likely tokens only, renormalised. `None` (default) mixes over the whole vocabulary,
            which costs no more here and has no discontinuity where ranks swap.
        detach_pivot (`bool`, *optional*, defaults to `True`):
            Whether the pivot's summary is a constant target. `False` lets it move whatever the preset says, like
            `alignment_kwargs={"pivot_gradient": "both"}`: the pivot language moves toward the others as well, and
            pivots that are not in the batch go through a forward pass with gradients. `True` leaves it to the preset:
            in `"solar"` it is constant, in those whose source moves both sides (`"mid_align"`, `"afp"`, `"l2_anchor"`)
            `alignment_kwargs={"pivot_gradient": "detached"}` stops it.
        detach_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the embeddings that are mixed are constants for the alignment term. With `False` they feel the pull
            too (where they are trainable at all), which in small experiments was the safer way.
        logits_tile_mib (`int`, *optional*, defaults to `256`):
            Memory in MiB for tiles of logits, the largest thing the fused head holds: it never builds more of the
            `tokens × vocabulary` logits than fit. Larger tiles mean fewer passes over the gradient of the LM head in
            full fine-tuning. The default is the size of TRL's own tiles.

        > Parameters that control the pairing of examples

        pivot_language (`str` or `list[str]`, *optional*, defaults to `"en"`):
            Value of the language column that marks pivots. Several values are aliases of one pivot language.
        language_column (`str`, *optional*, defaults to `"language"`):
            Name of the column with each row's language.
        parallel_id_column (`str` or `list[str]`, *optional*, defaults to `"parallel_id"`):
            Name of the column that holds the same value on every translation of an item. Name several columns where
            ids repeat across sources or splits.
        pivot_batching (`str`, *optional*, defaults to `"random"`):
            Order of the training rows. `"random"` keeps the order of [`~trl.SFTTrainer`]; pivots that are not in the
            batch then go through a forward pass of their own. `"grouped"` keeps the translations of an item next to
            each other in a per-device batch, so that their pivot is normally there and costs nothing; but a step then
            holds fewer different items. In our benchmark (32 rows a step, about six items) that cost both trainers
            several points of accuracy in every language (docs/evidence.md), hence the default.
        missing_pivot (`str`, *optional*, defaults to `"keep"`):
            What to do with a non-pivot row that has no pivot: `"keep"` it for the SFT loss alone, `"drop"` it from the
            dataset, or raise an `"error"`.
        multiple_pivots (`str`, *optional*, defaults to `"error"`):
            What to do with an item that has several different pivots (say several English solutions of one problem):
            raise an `"error"`, take the `"first"`, or `"sample"` one per epoch, seeded by `(seed, epoch, item)`.
            Evaluation always takes the first. Identical duplicates count as one.
        truncated_pairs (`str`, *optional*, defaults to `"keep"`):
            What to do with a pair in which a side fills `max_length`, so that its response was probably cut: `"keep"`
            it, or `"skip"` it, so that its rows train with the SFT loss alone. Half a response is no parallel of a
            whole one, but dropping many pairs is worse than a few blunt ones: the report at construction counts them.
    """

    # Parameters that control the alignment objective
    alignment_objective: str = field(
        default="solar",
        metadata={
            "help": "Preset of the alignment objective: 'solar' pulls the soft-token summary of each non-pivot "
            "response toward that of its pivot parallel; the others are its rivals; 'none' turns alignment off.",
            "choices": list(OBJECTIVES),
        },
    )
    alignment_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Settings of the alignment objective that differ from the preset, as fields of "
            "`solar_trl.objectives.Objective`. On the command line a JSON string."
        },
    )
    alignment_alternate: bool = field(
        default=False,
        metadata={
            "help": "Whether micro-batches take turns: one with the SFT loss alone, the next with the alignment term "
            "alone."
        },
    )
    alignment_weight: float = field(
        default=0.3,
        metadata={"help": "Weight of the alignment term in the loss. 0 turns alignment off."},
    )
    alignment_schedule: str = field(
        default="constant",
        metadata={
            "help": "How the alignment weight changes over training, after the warm-up: 'constant', 'linear_decay' or "
            "'cosine_decay' (both to 0 at the end).",
            "choices": list(SCHEDULES),
        },
    )
    alignment_warmup_ratio: float = field(
        default=0.0,
        metadata={"help": "Share of the optimizer steps over which the alignment weight first rises linearly from 0."},
    )
    soft_token_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Temperature of the distribution that mixes the embeddings into soft tokens. Does not affect the "
            "SFT loss."
        },
    )
    soft_token_top_k: int | None = field(
        default=None,
        metadata={
            "help": "Mix over the k most likely tokens only, renormalised. `None` mixes over the whole vocabulary."
        },
    )
    detach_pivot: bool = field(
        default=True,
        metadata={
            "help": "Whether the pivot's summary is a constant target, which sends no gradient anywhere. False lets "
            "it move; True leaves it to the preset."
        },
    )
    detach_embeddings: bool = field(
        default=False,
        metadata={"help": "Whether the mixed embeddings are constants for the alignment term."},
    )
    logits_tile_mib: int = field(
        default=256,
        metadata={"help": "Memory in MiB for tiles of logits in the fused soft-token head."},
    )

    # Parameters that control the pairing of examples
    # A factory, since `HfArgumentParser` drops a plain default of a `str | list[str]` field
    pivot_language: str | list[str] = field(
        default_factory=lambda: "en",
        metadata={
            "help": "Value of the language column that marks pivots. Several values are aliases of one pivot language."
        },
    )
    language_column: str = field(
        default="language",
        metadata={"help": "Name of the column with each row's language."},
    )
    parallel_id_column: str | list[str] = field(
        default_factory=lambda: "parallel_id",
        metadata={"help": "Name of the column (or columns) holding the same value on every translation of an item."},
    )
    pivot_batching: str = field(
        default="random",
        metadata={
            "help": "Order of the training rows: 'random' keeps the order of `SFTTrainer`, 'grouped' keeps the "
            "translations of an item in one per-device batch, which saves forward passes of pivots.",
            "choices": list(PIVOT_BATCHING),
        },
    )
    missing_pivot: str = field(
        default="keep",
        metadata={
            "help": "What to do with a non-pivot row that has no pivot: 'keep' it for the SFT loss alone, 'drop' it, "
            "or raise an 'error'.",
            "choices": list(MISSING_PIVOT),
        },
    )
    multiple_pivots: str = field(
        default="error",
        metadata={
            "help": "What to do with an item that has several different pivots: raise an 'error', take the 'first', "
            "or 'sample' one per epoch.",
            "choices": list(MULTIPLE_PIVOTS),
        },
    )
    truncated_pairs: str = field(
        default="keep",
        metadata={
            "help": "What to do with a pair in which a side fills `max_length`: 'keep' it, or 'skip' it in alignment.",
            "choices": list(TRUNCATED_PAIRS),
        },
    )

    def __post_init__(self):
        # First our own fields: a wrong one is named even where the rest of the arguments does not fit this machine
        self.check_alignment_fields()
        super().__post_init__()

    def check_alignment_fields(self) -> None:
        """Raise a `ValueError` or `TypeError` for an alignment field that makes no sense, naming its value."""
        for name, choices in (
            ("alignment_objective", OBJECTIVES),
            ("alignment_schedule", SCHEDULES),
            ("pivot_batching", PIVOT_BATCHING),
            ("missing_pivot", MISSING_PIVOT),
            ("multiple_pivots", MULTIPLE_PIVOTS),
            ("truncated_pairs", TRUNCATED_PAIRS),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"`{name}` is {value!r}, expected one of {', '.join(map(repr, choices))}.")

        self._check_objective()

        # YAML reads `1e-1` as a string, and so does the command line for untyped values
        for name in ("alignment_weight", "alignment_warmup_ratio", "soft_token_temperature"):
            value = getattr(self, name)
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is a tensor's of several numbers
                raise TypeError(f"`{name}` must be a number, got {value!r}.") from None
            setattr(self, name, number)
        if not (math.isfinite(self.alignment_weight) and self.alignment_weight >= 0):
            raise ValueError(
                f"`alignment_weight` is {self.alignment_weight}, expected a finite number ≥ 0 (0 turns alignment off)."
            )
        if not 0 <= self.alignment_warmup_ratio <= 1:
            raise ValueError(
                f"`alignment_warmup_ratio` is {self.alignment_warmup_ratio}, expected a share of training in [0, 1]."
            )
        if not (math.isfinite(self.soft_token_temperature) and self.soft_token_temperature > 0):
            raise ValueError(
                f"`soft_token_temperature` is {self.soft_token_temperature}, expected a finite number > 0. For a "
                "sharper mixture use a small positive value or `soft_token_top_k=1`."
            )
        for name in ("soft_token_top_k", "logits_tile_mib"):
            value = getattr(self, name)
            if value is None and name == "soft_token_top_k":
                continue
            try:
                if isinstance(value, bool):
                    raise TypeError
                setattr(self, name, operator.index(value))
            except TypeError:
                or_none = " or `None`" if name == "soft_token_top_k" else ""
                raise TypeError(f"`{name}` must be an integer{or_none}, got {value!r}.") from None
        if self.soft_token_top_k is not None and self.soft_token_top_k < 1:
            raise ValueError(
                f"`soft_token_top_k` is {self.soft_token_top_k}, expected at least 1, or `None` for the whole "
                "vocabulary."
            )
        if self.logits_tile_mib < 1:
            raise ValueError(f"`logits_tile_mib` is {self.logits_tile_mib}, expected at least 1 (MiB).")
        for name in ("detach_pivot", "detach_embeddings", "alignment_alternate"):
            value = getattr(self, name)
            if not isinstance(value, bool):  # the string "false" is true
                raise TypeError(f"`{name}` must be `True` or `False`, got {value!r}.")
        for name in ("pivot_language", "parallel_id_column"):
            value = getattr(self, name)
            values = [value] if isinstance(value, str) else value
            if (
                not isinstance(values, (list, tuple))
                or not values
                or not all(isinstance(v, str) and v for v in values)
            ):
                raise ValueError(f"`{name}` must be a non-empty string or a list of them, got {value!r}.")
        if not isinstance(self.language_column, str) or not self.language_column:
            raise ValueError(f"`language_column` must be a non-empty string, got {self.language_column!r}.")

    def _check_objective(self) -> None:
        if self.alignment_kwargs is not None:
            changes: Any = self.alignment_kwargs
            if isinstance(changes, str):
                with suppress(json.JSONDecodeError):
                    changes = json.loads(changes)
            if not isinstance(changes, Mapping) or not all(isinstance(name, str) for name in changes):
                raise TypeError(
                    f"`alignment_kwargs` must be a dict (on the command line a JSON string), got "
                    f"{self.alignment_kwargs!r}."
                )
            self.alignment_kwargs = dict(changes)
        preset = OBJECTIVES[self.alignment_objective]
        if preset is None:
            if self.alignment_kwargs:
                raise ValueError(
                    f"`alignment_kwargs` is {self.alignment_kwargs!r}, but `alignment_objective='none'` has no "
                    "settings. Choose another preset, or leave it unset."
                )
            return
        wanted = (self.alignment_kwargs or {}).get("pivot_gradient", "both")
        if self.detach_pivot is False and wanted != "both":
            raise ValueError(
                f"`detach_pivot=False` lets the pivot move, but `alignment_kwargs` sets `pivot_gradient={wanted!r}`. "
                "Leave one of them out."
            )
        try:
            self._build_objective(preset)
        except (ValueError, TypeError) as error:
            raise type(error)(f"`alignment_kwargs` is {self.alignment_kwargs!r}: {error}") from None
        objective = self._build_objective(preset)
        if objective.representation != "soft_token":
            for name in ("soft_token_temperature", "soft_token_top_k"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(
                        f"`{name}` is {getattr(self, name)!r}, but `alignment_objective={self.alignment_objective!r}` "
                        f"compares {objective.representation!r}, not soft tokens. Leave it unset."
                    )

    def _build_objective(self, preset: Objective) -> Objective:
        changes = dict(self.alignment_kwargs or {})  # type: ignore[arg-type]
        if self.detach_pivot is False:
            changes["pivot_gradient"] = "both"
        return preset.override(changes)

    @property
    def objective(self) -> Objective | None:
        """The alignment objective, or `None` if alignment is off: preset `"none"`, or weight 0."""
        preset = OBJECTIVES[self.alignment_objective]
        return None if preset is None or self.alignment_weight == 0 else self._build_objective(preset)

    @classmethod
    def from_arguments(cls, args: TrainingArguments) -> SolarSFTConfig:
        """
        Convert a plain [`~trl.SFTConfig`] or [`~transformers.TrainingArguments`], field by field.

        Args:
            args ([`~transformers.TrainingArguments`]):
                Arguments to convert. Values are read from the object itself, not from `to_dict()`, which hides tokens
                (`hub_token`, but `eos_token` too). An instance of this class is returned as it is.

        Returns:
            [`SolarSFTConfig`]: The same settings, with the default alignment fields.
        """
        if isinstance(args, cls):
            args.check_alignment_fields()  # they may have been set since
            return args
        known = {f.name for f in dataclasses.fields(cls) if f.init}
        values = {f.name: getattr(args, f.name) for f in dataclasses.fields(args) if f.init}
        lost = sorted(name for name in values.keys() - known if values[name] is not None)
        if lost:
            raise TypeError(
                f"{type(args).__name__} has fields that `SolarSFTConfig` does not: {', '.join(lost)}. Derive your "
                "configuration class from `SolarSFTConfig` instead."
            )
        return cls(**{name: value for name, value in values.items() if name in known})
