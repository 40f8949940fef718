"""What a run of the benchmark depends on: data, model, training and evaluation, as plain values with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from .arithmetic import check_languages, load_parallel_arithmetic
from .clones import is_clone
from .tokenizer import build_tokenizer


PIVOT = "en"
# Seeds below belong to tuning, all others to reported runs: no seed can be both
FIRST_REPORTED_SEED = 100
PURPOSES = ("tuning", "reported")


@dataclass(frozen=True)
class DataSettings:
    """
    The problems of a run. English is the pivot and has every item.

    Args:
        high (`tuple[str, ...]`): High-resource languages besides English.
        low (`tuple[str, ...]`): Low-resource languages; clones of English (`"en-x1"`) may be among them.
        n_high (`int`): Training items of English and the high-resource languages.
        n_low (`int`): Of these, how many the low-resource languages have too.
        steps (`tuple[int, ...]`), max_number (`int`), max_amount (`int`):
            As in [`load_parallel_arithmetic`].
    """

    high: tuple[str, ...] = ("de", "es", "zh")
    low: tuple[str, ...] = ("sw", "th", "bn", "te")
    n_high: int = 300
    n_low: int = 100
    steps: tuple[int, ...] = (1, 2)
    max_number: int = 20
    max_amount: int = 7

    def __post_init__(self):
        check_languages(self.languages)
        if not self.low:
            raise ValueError("`data.low` is empty: the low-resource languages are what the benchmark measures.")
        if self.n_low > self.n_high:
            raise ValueError(f"`data.n_low` ({self.n_low}) is above `data.n_high` ({self.n_high}).")

    @property
    def languages(self) -> tuple[str, ...]:
        return (PIVOT, *self.high, *self.low)

    @property
    def problems(self) -> dict[str, Any]:
        """What the loaders need to know about the problems."""
        return {"steps": self.steps, "max_number": self.max_number, "max_amount": self.max_amount}


@dataclass(frozen=True)
class ModelSettings:
    """
    The model, with random weights.

    Args:
        size (`str`): A key of [`SIZES`].
        architecture (`str`): `"llama"`, `"qwen2"` or `"qwen3"` (with normalised queries and keys).
        tied (`bool`): Whether the LM head is the embedding matrix.
    """

    size: str = "tiny"
    architecture: str = "qwen3"
    tied: bool = True


@dataclass(frozen=True)
class BaseSettings:
    """
    Training of the base model: language modeling on problems solved in English and stories in every language.

    Args:
        steps (`int`): Optimizer steps; one epoch.
        batch_size (`int`): Rows of a step.
        story_share (`float`): Share of rows that are stories.
        learning_rate (`float`, *optional*): Peak; `None` takes that of the model's size.
    """

    steps: int = 1500
    batch_size: int = 32
    story_share: float = 0.35
    learning_rate: float | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """
    What all arms share.

    Args:
        steps (`int`): Optimizer steps.
        batch_size (`int`): Rows of a step.
        warmup_steps (`int`): Of the learning rate, which then falls along a cosine.
        learning_rate (`float`, *optional*): Peak, for arms that name none; `None` takes that of the model's size,
            another one for LoRA.
        lora_rank (`int`): Rank of LoRA; its α is twice as much.
        clone_alignment (`float`, *optional*): Cosine of the clones' embeddings in the base model with the English
            ones, see [`set_clone_alignment`]. `None` leaves them as the base training made them.
    """

    steps: int = 400
    batch_size: int = 32
    warmup_steps: int = 20
    learning_rate: float | None = None
    lora_rank: int = 16
    clone_alignment: float | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """
    What is measured.

    Args:
        items (`int`): Held-out items, in every language: of the test split in reported runs, of the validation split
            in tuning.
        curve_points (`int`): How often accuracy is measured in training, at even intervals, the end included.
        curve_items (`int`): Items of the curve, always of the validation split.
        batch_size (`int`): Rows of a forward pass. Changes speed only.
    """

    items: int = 100
    curve_points: int = 8
    curve_items: int = 25
    batch_size: int = 256


@dataclass(frozen=True)
class Settings:
    """Everything but the arm and the seed."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    base: BaseSettings = field(default_factory=BaseSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    device: str = "cpu"

    def __post_init__(self):
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"`device` is {self.device!r}, expected 'cpu' or 'cuda'.")
        for section, minimum in _MINIMA.items():
            for name, least in minimum.items():
                value = getattr(getattr(self, section), name)
                if value is not None and value < least:
                    raise ValueError(f"`{section}.{name}` is {value}, expected at least {least}.")
        if not 0 <= self.base.story_share <= 1:
            raise ValueError(f"`base.story_share` is {self.base.story_share}, expected a share from 0 to 1.")
        if self.training.clone_alignment is not None and not any(map(is_clone, self.data.languages)):
            raise ValueError("`training.clone_alignment` is set, but no language of `data` is a clone ('en-x1').")

    def override(self, changes: Iterable[str]) -> Settings:
        """
        Change fields, each as `"section.field=value"`.

        Raises:
            ValueError: If there is no such section or field, or the value does not fit it.
        """
        by_section: dict[str, dict[str, Any]] = {}
        for change in changes:
            path, equals, text = change.partition("=")
            section, _, name = path.strip().partition(".")
            types = {f.name: str(f.type) for f in fields(getattr(self, section))} if section in _SECTIONS else {}
            if not equals or name not in types:
                raise ValueError(f"{change!r} is no setting, expected one of {', '.join(_paths())} with '=value'.")
            by_section.setdefault(section, {})[name] = _convert(path, text, types[name])
        sections: dict[str, Any] = {
            section: replace(getattr(self, section), **values) for section, values in by_section.items()
        }
        return replace(self, **sections)


_SECTIONS = ("data", "model", "base", "training", "evaluation")
_MINIMA = {
    "data": {"n_high": 2, "n_low": 2},
    "base": {"steps": 1, "batch_size": 1},
    "training": {"steps": 1, "batch_size": 2, "warmup_steps": 0, "lora_rank": 1},
    "evaluation": {"items": 2, "curve_points": 1, "curve_items": 1, "batch_size": 1},
}


def _paths() -> list[str]:
    defaults = Settings()
    return [f"{section}.{f.name}" for section in _SECTIONS for f in fields(getattr(defaults, section))]


def _convert(path: str, text: str, kind: str) -> Any:
    """A value of the type that a field has."""
    if text == "none" and "None" in kind:
        return None
    try:
        if kind.startswith("tuple[str"):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if kind.startswith("tuple[int"):
            return tuple(int(part) for part in text.split(","))
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return {"int": int, "float": float, "str": str}[kind.split(" |")[0]](text)
    except (ValueError, KeyError):
        raise ValueError(f"`{path}` is {text!r}, expected a value of type {kind}.") from None


def purpose_of(seed: int) -> str:
    """What a seed is for: `"tuning"` below 100, else `"reported"`."""
    return "tuning" if seed < FIRST_REPORTED_SEED else "reported"


def parse_seeds(text: str, purpose: str) -> list[int]:
    """
    Seeds such as `"0-4,7"`, all for one purpose.

    Raises:
        ValueError: If they cannot be read, or one belongs to the other purpose.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        try:
            begin, end = int(first), int(last or first)
        except ValueError:
            raise ValueError(f"Seeds are {text!r}, expected numbers and ranges such as '100-129,140'.") from None
        if end < begin:
            raise ValueError(f"The range of seeds {part.strip()!r} is empty.")
        seeds.extend(range(begin, end + 1))
    check_seeds(seeds, purpose)
    return list(dict.fromkeys(seeds))


def check_seeds(seeds: Iterable[int], purpose: str) -> None:
    """Refuse seeds that are for another purpose: what was tuned on a seed says nothing new about it."""
    wrong = [seed for seed in seeds if purpose_of(seed) != purpose]
    if wrong:
        rule = "below" if purpose == "tuning" else "from"
        raise ValueError(
            f"Seeds {', '.join(map(str, wrong[:5]))} are not for {purpose} runs: these take seeds {rule} "
            f"{FIRST_REPORTED_SEED}, so that no seed that settings were chosen on is ever reported."
        )


def digest(value: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that stand for plain values, the same in every process and on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=16)
def data_version(data: DataSettings) -> str:
    """Digest of the vocabulary and of the first problems of each split: other words or templates, other version."""
    rows = {
        split: load_parallel_arithmetic(data.languages, n=32, split=split, **data.problems).to_dict()
        for split in ("train", "validation", "test")
    }
    return digest({"rows": rows, "vocabulary": build_tokenizer(data.languages, data.max_number).get_vocab()})


def base_identity(settings: Settings, seed: int) -> dict[str, Any]:
    """All that a base model depends on."""
    plain = asdict(settings)
    return {
        "data": {name: plain["data"][name] for name in ("high", "low", "steps", "max_number", "max_amount")},
        "data_version": data_version(settings.data),
        "model": plain["model"],
        "base": plain["base"],
        "device": settings.device,
        "seed": seed,
    }
