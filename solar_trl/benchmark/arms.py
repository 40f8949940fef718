"""The arms of a comparison: who trains, in which order, on which pairs, with which settings."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trl import SFTConfig

from ..config import SolarSFTConfig
from ..objectives import FRAME_FIELDS, OBJECTIVES, Objective
from .models import size_of
from .settings import Settings


@dataclass(frozen=True)
class Arm:
    """
    One way to train from the base model.

    Args:
        name (`str`): What it is called.
        trainer (`str`): `"none"` (the base model as it is), `"sft"` ([`~trl.SFTTrainer`]) or `"solar"`
            ([`SolarSFTTrainer`]).
        order (`str`): Of the rows: `"random"` ([`~trl.SFTTrainer`]'s) or `"grouped"` ([`ParallelGroupSampler`]).
        peft (`str`, *optional*): `"lora"` on all linear layers of the blocks, embeddings frozen; `"lora_embeddings"`,
            on the embeddings too; `"lora_saved_embeddings"`, with the embeddings trained in full.
        pairs (`str`): `"true"`, or `"shuffled"`: no pair is parallel, and the weight is scaled so that the norm of the
            alignment gradient of the base model is what it is with true pairs.
        unsolved (`int`): How many further problems, without their solutions, are aligned in English and the
            low-resource languages: in place of the training rows, which are then trained on alone
            (`alignment_dataset`).
        tuned_as (`str`, *optional*): The arm whose tuned settings it takes; its own without.
        control (`str`, *optional*): The arm that it is compared with.
        config (`Mapping[str, Any]`): Fields of [`SolarSFTConfig`] (of [`~trl.SFTConfig`] for `"sft"`).
    """

    name: str
    trainer: str = "solar"
    order: str = "random"
    peft: str | None = None
    pairs: str = "true"
    unsolved: int = 0
    control: str | None = "sft"
    tuned_as: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_own_settings(self) -> bool:
        """Whether settings are chosen for it: not for the base model, nor where another arm's are taken."""
        return self.trainer != "none" and self.tuned_as is None

    def identity(self, settings: Settings) -> dict[str, Any]:
        """What a run with this arm depends on: all but the names."""
        if self.trainer == "none":
            return {"trainer": "none"}
        values = _without_later({name: getattr(self, name) for name in _MEANT})
        values["config"] = {"learning_rate": self.learning_rate(settings), **self.config}
        if self.trainer == "solar":
            # Defaults and presets may change from version to version, and are then other settings
            alignment = alignment_config(self.config)
            values["config"] |= {name: getattr(alignment, name) for name in sorted(_alignment_fields() - _FIXED)}
            values["objective"] = None if alignment.objective is None else _meaning(alignment.objective)
        return values

    def learning_rate(self, settings: Settings) -> float:
        """Peak learning rate: the arm's own, or that of the settings, or that of the size."""
        if "learning_rate" in self.config:
            return float(self.config["learning_rate"])
        if settings.training.learning_rate is not None:
            return settings.training.learning_rate
        size = size_of(settings.model)
        return size.learning_rate if self.peft is None else size.lora_learning_rate


# What was chosen on tuning seeds, see docs/lab_book.md; presets that are not named here have the default weight
_TUNED: Mapping[str, Mapping[str, Any]] = {
    "solar": {"alignment_weight": 0.3},
    "solar_decay": {"alignment_weight": 3.0, "alignment_schedule": "linear_decay"},
    "hard_token": {"alignment_weight": 0.3},
    "mid_align": {"alignment_weight": 0.1},
    "soft_info_nce": {"alignment_weight": 0.3},
}


def _preset(name: str, objective: Objective) -> Arm:
    config = {"alignment_objective": name, **_TUNED.get(name, {})}
    if objective.target == "centroid":  # which needs the translations of an item in one batch
        return Arm(name, order="grouped", control="sft_grouped", config=config)
    return Arm(name, config=config)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("base", trainer="none", control=None),
        Arm("sft", trainer="sft", control="base"),
        Arm("sft_grouped", trainer="sft", order="grouped", control="base", tuned_as="sft"),
        Arm("solar", config=_TUNED["solar"]),
        Arm("solar_decay", config=_TUNED["solar_decay"]),
        Arm("solar_grouped", order="grouped", control="sft_grouped", tuned_as="solar", config=_TUNED["solar"]),
        Arm("sft_lora", trainer="sft", peft="lora", control="base"),
        Arm("solar_lora", peft="lora", control="sft_lora", config=_TUNED["solar"]),
        Arm("sft_lora_embeddings", trainer="sft", peft="lora_embeddings", control="base"),
        Arm("solar_lora_embeddings", peft="lora_embeddings", control="sft_lora_embeddings", config=_TUNED["solar"]),
        Arm("placebo", pairs="shuffled", tuned_as="solar", config=_TUNED["solar"]),
        Arm("weight_0", tuned_as="sft", config={"alignment_weight": 0.0}),
        *(_preset(name, objective) for name, objective in OBJECTIVES.items() if objective and name != "solar"),
    )
}
_CHOICES = {
    "order": ("random", "grouped"),
    "peft": (None, "lora", "lora_embeddings", "lora_saved_embeddings"),
    "pairs": ("true", "shuffled"),
}
_CHANGEABLE = (*_CHOICES, "unsolved", "control", "name")  # beside the configuration
_MEANT = ("trainer", "order", "peft", "pairs", "unsolved")  # what a run depends on, beside the configuration
# The same for all arms, or set by the arm itself
_FIXED = {
    "output_dir", "seed", "data_seed", "max_steps", "num_train_epochs", "per_device_train_batch_size", "use_cpu",
    "pivot_batching", "max_length", "train_sampling_strategy", "shuffle_dataset", "packing",
}  # fmt: skip


def parse_arm(text: str) -> Arm:
    """
    An arm by name, with changes: `"solar:alignment_weight=3,alignment_schedule=linear_decay"`.

    Changes are fields of the arm (`order`, `peft`, `pairs`, `unsolved`, `control`, `name`) or of its configuration.
    Values are read as JSON where they are JSON (`null`, `{"layers": [0.5]}`), else as text. Without a `name` of its
    own the changed arm is called after its changes.

    Raises:
        ValueError: If there is no such arm, field or choice, or the configuration refuses a value.
    """
    name, _, rest = text.strip().partition(":")
    if name not in ARMS:
        raise ValueError(f"There is no arm {name!r}. There are {', '.join(ARMS)}.")
    changes: dict[str, Any] = {}
    for part in _split(rest):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{part!r} in {text!r} is no change of an arm, expected 'field=value'.")
        changes[key.strip()] = _value(value.strip())
    return change_arm(ARMS[name], changes)


def change_arm(arm: Arm, changes: Mapping[str, Any]) -> Arm:
    """An arm with other values of some fields; see [`parse_arm`]."""
    if not changes:
        return arm
    own = {key: value for key, value in changes.items() if key in _CHANGEABLE}
    config = {key: value for key, value in changes.items() if key not in own}
    if arm.trainer == "none":
        raise ValueError(f"The arm {arm.name!r} is the base model as it is: it has nothing to change.")
    for key, choices in _CHOICES.items():
        if key in own and own[key] not in choices:
            raise ValueError(f"`{key}` of an arm is {own[key]!r}, expected one of {', '.join(map(repr, choices))}.")
    known = {f.name for f in dataclasses.fields(SFTConfig if arm.trainer == "sft" else SolarSFTConfig) if f.init}
    for key in config:
        if key in _FIXED:
            raise ValueError(f"`{key}` is the same for all arms, or follows from `order`: it cannot be set in an arm.")
        if key not in known:
            raise ValueError(
                f"{arm.name!r} has no field {key!r}: expected {', '.join(_CHANGEABLE)}, or a field of its "
                f"configuration ({'SFTConfig' if arm.trainer == 'sft' else 'SolarSFTConfig'})."
            )
    changed = replace(arm, config={**arm.config, **config}, **own)
    if arm.trainer == "sft" and changed.pairs == "shuffled":
        raise ValueError(f"{arm.name!r} is trained without pairs: there is nothing to shuffle.")
    unsolved = changed.unsolved
    if isinstance(unsolved, bool) or not isinstance(unsolved, int) or unsolved < 0:
        raise ValueError(f"`unsolved` of an arm is {unsolved!r}, expected a number of problems.")
    if unsolved and (changed.trainer, changed.pairs, changed.order) != ("solar", "true", "random"):
        raise ValueError(
            f"`unsolved={unsolved}` of {arm.name!r} aligns other problems than those that are trained on: that needs "
            "SolarSFTTrainer, true pairs and random order."
        )
    alignment_config(changed.config)
    if "name" in own:
        return changed
    listed = ",".join(f"{key}={_text(value)}" for key, value in sorted(changes.items()))
    return replace(changed, name=f"{arm.name}[{listed}]" if "[" not in arm.name else f"{arm.name[:-1]},{listed}]")


def alignment_config(config: Mapping[str, Any]) -> SolarSFTConfig:
    """
    A [`SolarSFTConfig`] with the alignment fields of `config`, the defaults of the others, and nothing else.

    Raises:
        ValueError, TypeError: If it refuses a value: before anything is trained.
    """
    bare = object.__new__(SolarSFTConfig)  # its other fields ask for a device and a folder
    for f in dataclasses.fields(SolarSFTConfig):
        if f.name in _alignment_fields():
            default = f.default_factory() if callable(f.default_factory) else f.default
            setattr(bare, f.name, config.get(f.name, default))
    bare.check_alignment_fields()
    return bare


_LATER = {"embeddings": "input", "unsolved": 0}  # came after the first reported runs, which had these values


def _without_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without those that the first reported runs had before there were fields for them."""
    return {name: value for name, value in values.items() if (name, value) not in _LATER.items()}


def _meaning(objective: Objective) -> dict[str, Any]:
    """A point of the frame, without what is only told about it."""
    return _without_later({name: getattr(objective, name) for name in FRAME_FIELDS})


def _alignment_fields() -> set[str]:
    inherited = {f.name for f in dataclasses.fields(SFTConfig)}
    return {f.name for f in dataclasses.fields(SolarSFTConfig)} - inherited


def _split(text: str) -> list[str]:
    """Parts between commas that stand in no bracket and no string."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        if not quoted:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"none": None, "None": None, "True": True, "False": False}.get(text, text)


def split_values(text: str) -> list[Any]:
    """Values between commas, each read as in [`parse_arm`]."""
    return [_value(part.strip()) for part in _split(text)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def file_name(arm_name: str) -> str:
    """The name of an arm as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", arm_name).strip("-")[:80]
