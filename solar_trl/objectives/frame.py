"""One frame for every alignment objective: what is compared × where × how far apart × what moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .distances import DISTANCES
from .pairs import DistanceSettings
from .sources import Source


REPRESENTATIONS = ("soft_token", "hard_token", "hidden_state", "logits")
EMBEDDINGS = ("input", "output")
POSITIONS = ("response", "prompt", "all", "answer")
POOLINGS = ("mean", "last", "position_weighted", "none")
PIVOT_GRADIENTS = ("detached", "both", "anchored", "momentum")
TARGETS = ("parallel", "centroid")
DIRECTIONS = ("to_pivot", "from_pivot", "both")
NEGATIVES = ("items", "naive")

_CHOICES: dict[str, Sequence[str]] = {
    "representation": REPRESENTATIONS,
    "embeddings": EMBEDDINGS,
    "positions": POSITIONS,
    "pooling": POOLINGS,
    "pivot_gradient": PIVOT_GRADIENTS,
    "target": TARGETS,
    "direction": DIRECTIONS,
    "negatives": NEGATIVES,
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """
    An alignment objective, as a point in the frame. Presets are in `OBJECTIVES`; every field between `description`
    and `source` can be overridden with `SolarSFTConfig(alignment_kwargs={...})`.

    Args:
        description (`str`):
            What is aligned, in one sentence, for the model card.
        representation (`str`, *optional*, defaults to `"soft_token"`):
            What is compared. `"soft_token"`: the probability-weighted mixture of the vocabulary embeddings that a
            position predicts. `"hard_token"`: the embedding of the token that really comes next there (the control
            that tells what the probabilities add). `"hidden_state"`: the hidden state of `layers` at the position.
            `"logits"`: the next-token logits there.
        layers (`tuple` of numbers, *optional*, defaults to `(0.5,)`):
            Only for `"hidden_state"`: indices into the model's `hidden_states` (0 is the embedding output, `i` the
            output of block `i`, -1 the last one, after the final norm), or relative depths, which are numbers strictly
            between 0 and 1. The distances of several layers are averaged.
        embeddings (`str`, *optional*, defaults to `"input"`):
            Only for `"soft_token"` and `"hard_token"`: which embeddings. `"input"`: what tokens are looked up in, as
            PEFT adapts it. `"output"`: the weight of the LM head. They are the same where both are tied (unless
            an adapter changes the input side alone). Where they are not, input embeddings can come together alone,
            while hidden states stay where they were (docs/lab_book.md).
        positions (`str`, *optional*, defaults to `"response"`):
            Where. `"response"`: the positions whose next token is supervised, as in SOLAR; `"prompt"`: those of the
            tokens before the first supervised one; `"all"`: those of all tokens; `"answer"`: the last
            `answer_tokens` of the response. Soft and hard tokens have no value at the last token of a sequence, which
            nothing follows, so `"all"` leaves it out for them.
        pooling (`str`, *optional*, defaults to `"mean"`):
            How the positions become one vector: their `"mean"`, the `"last"` one, or a `"position_weighted"` mean with
            weights 1, 2, 3, ... `"none"` keeps them apart, for distances between token clouds.
        step_delimiters (`tuple` of `str`, *optional*, defaults to `()`):
            What ends a step of a response, such as `["\n"]`: each step then has a summary of its own, which is pulled
            toward that of the same step of the pivot. Responses with another number of steps than their pivot are
            compared as a whole. Without any, there is one summary per response.
        distance (`str`, *optional*, defaults to `"cosine"`):
            How far apart: `"cosine"`, `"mse"`, `"info_nce"`, `"mmd"` or `"kl"`.
        pivot_gradient (`str`, *optional*, defaults to `"detached"`):
            Whether the pivot moves. `"detached"`: it is a constant. `"both"`: both sides feel the gradient.
            `"anchored"`: the target is the pivot's summary at the start of training, computed once and kept, so that
            pivots that are not in the batch cost nothing. `"momentum"`: the target comes from an exponential moving
            average of the weights.
        target (`str`, *optional*, defaults to `"parallel"`):
            What an example is pulled toward: the summary of its `"parallel"` in the pivot language, or the
            `"centroid"`, the mean over the pivot and the other translations of the item in the batch.
        temperature (`float`, *optional*, defaults to `0.1`):
            Of the similarities in `"info_nce"`, and of both distributions in `"kl"`.
        direction (`str`, *optional*, defaults to `"to_pivot"`):
            Only for `"info_nce"`: the example looks for its pivot among pivots (`"to_pivot"`), the pivot for the
            example among examples (`"from_pivot"`), or the mean of `"both"`.
        negatives (`str`, *optional*, defaults to `"items"`):
            Only for `"info_nce"`: which of the others count as negatives. `"items"`: those of other items, each
            distinct pivot once. `"naive"`: every other pair of the batch, even where it is a translation of the same
            item, as code written for bilingual batches does.
        gather (`bool`, *optional*, defaults to `False`):
            Only for `"info_nce"`: whether negatives come from all ranks, with gradients.
        normalize (`bool`, *optional*, defaults to `True`):
            Only for `"info_nce"`: cosine similarities, or plain dot products.
        queue_size (`int`, *optional*, defaults to `0`):
            Only for `"info_nce"` with a `"momentum"` target: how many pivots of past steps are kept as further
            negatives.
        momentum (`float`, *optional*, defaults to `0.999`):
            Only for `"momentum"`: share of the average that stays at each step.
        anchor_weight (`float`, *optional*, defaults to `0.0`):
            Weight, relative to the alignment term, of the same distance between each pivot and its summary at the
            start of training: what keeps a pivot that moves (`"both"`) near where it was.
        answer_tokens (`int`, *optional*, defaults to `16`):
            Only for `"answer"`: length of the tail of the response that is compared.
        source ([`Source`], *optional*):
            The paper it comes from.
        status (`str`, *optional*):
            `"verified"`: the formula is that of the authors' code. `"adapted"`: it is ours after theirs. `"abstract"`:
            only an abstract is public. `"control"`: nobody's method.
        choices (`str`, *optional*):
            What we had to choose, or do otherwise than the source.
    """

    description: str
    representation: str = "soft_token"
    layers: tuple[float, ...] = (0.5,)
    embeddings: str = "input"
    positions: str = "response"
    pooling: str = "mean"
    step_delimiters: tuple[str, ...] = ()
    distance: str = "cosine"
    pivot_gradient: str = "detached"
    target: str = "parallel"
    temperature: float = 0.1
    direction: str = "to_pivot"
    negatives: str = "items"
    gather: bool = False
    normalize: bool = True
    queue_size: int = 0
    momentum: float = 0.999
    anchor_weight: float = 0.0
    answer_tokens: int = 16
    source: Source | None = None
    status: str = ""
    choices: str = ""

    def __post_init__(self):
        for name, known in (*_CHOICES.items(), ("distance", tuple(DISTANCES))):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise ValueError(
                    f"`{name}` of the alignment objective is {value!r}, expected one of {', '.join(map(repr, known))}."
                )
        object.__setattr__(self, "layers", _read_layers(self.layers))
        object.__setattr__(self, "step_delimiters", _read_delimiters(self.step_delimiters))
        for name in ("gather", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"`{name}` of the alignment objective must be `True` or `False`, got {getattr(self, name)!r}."
                )
        for name, low, high in (
            ("temperature", 0.0, math.inf),
            ("momentum", 0.0, 1.0),
            ("anchor_weight", 0.0, math.inf),
        ):
            object.__setattr__(self, name, _read_number(name, getattr(self, name), low, high))
        if self.temperature == 0:
            raise ValueError("`temperature` of the alignment objective is 0, expected a number > 0.")
        for name, low in (("queue_size", 0), ("answer_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"`{name}` of the alignment objective is {value!r}, expected an integer ≥ {low}.")
        self._check_combination()

    def _check_combination(self) -> None:
        if self.embeddings != "input" and self.representation not in ("soft_token", "hard_token"):
            raise ValueError(
                f"`embeddings` is {self.embeddings!r} but `representation={self.representation!r}` has none. Set "
                "`representation` to 'soft_token' or 'hard_token', or leave `embeddings` at 'input'."
            )
        clouds = DISTANCES[self.distance].of_clouds
        if clouds != (self.pooling == "none"):
            needs = "token clouds: set `pooling='none'`" if clouds else "one vector per example: set another `pooling`"
            raise ValueError(
                f"`pooling={self.pooling!r}` does not fit `distance={self.distance!r}`, which compares {needs}."
            )
        if (self.distance == "kl") != (self.representation == "logits") or (self.representation == "logits") != (
            self.positions == "answer"
        ):
            raise ValueError(
                "`representation='logits'`, `positions='answer'` and `distance='kl'` belong together: logits of two "
                f"languages are comparable where both give the same token. Got {self.representation!r}, "
                f"{self.positions!r} and {self.distance!r}."
            )
        if clouds and (self.target != "parallel" or self.pivot_gradient in ("anchored", "momentum")):
            raise ValueError(
                f"`distance={self.distance!r}` compares token clouds, which have no centroid and are not kept. Set "
                "`target='parallel'` and `pivot_gradient` to 'detached' or 'both'."
            )
        plain = (self.positions, self.pooling, self.target, self.anchor_weight) == ("response", "mean", "parallel", 0)
        moves = self.pivot_gradient in ("detached", "both")
        if self.step_delimiters and not (plain and moves and self.distance in ("cosine", "mse")):
            raise ValueError(
                f"`step_delimiters` is {self.step_delimiters!r}: steps have no centroid or negatives and are not kept."
                " Set `positions='response'`, `pooling='mean'`, `distance` to 'cosine' or 'mse', `target='parallel'`, "
                "`anchor_weight=0` and `pivot_gradient` to 'detached' or 'both'."
            )
        if self.pivot_gradient in ("anchored", "momentum") and self.target == "centroid":
            raise ValueError(
                f"`target='centroid'` is made of the translations in the batch, which are not {self.pivot_gradient}. "
                "Set `pivot_gradient` to 'detached' or 'both'."
            )
        if self.anchor_weight and (clouds or self.pivot_gradient != "both" or self.distance == "info_nce"):
            raise ValueError(
                f"`anchor_weight` is {self.anchor_weight}: it keeps pivots that move near their start. Set "
                "`pivot_gradient='both'` and a distance of pairs of vectors ('cosine', 'mse'), or "
                "`anchor_weight=0`."
            )
        if self.distance != "info_nce" and (self.gather or self.queue_size):
            name = "gather" if self.gather else "queue_size"
            raise ValueError(
                f"`{name}` is {getattr(self, name)!r} but `distance={self.distance!r}` has no negatives. Set "
                "`distance='info_nce'`, or leave it at its default."
            )
        if self.queue_size and (self.pivot_gradient != "momentum" or self.direction != "to_pivot"):
            raise ValueError(
                f"`queue_size` is {self.queue_size}: pivots of past steps are of use where the pivot changes slowly. "
                "Set `pivot_gradient='momentum'` and `direction='to_pivot'`, or `queue_size=0`."
            )
        if self.target == "centroid" and self.distance == "info_nce":
            raise ValueError(
                "`target='centroid'` has no distinct pivots to tell apart. Set `distance` to 'cosine' or 'mse'."
            )

    @property
    def of_clouds(self) -> bool:
        """Whether positions are kept apart."""
        return self.pooling == "none"

    @property
    def keeps_start(self) -> bool:
        """Whether summaries of the pivots at the start of training are needed."""
        return self.pivot_gradient == "anchored" or self.anchor_weight > 0

    @property
    def distance_settings(self) -> DistanceSettings:
        """What its distance is set to."""
        return DistanceSettings(self.temperature, self.direction, self.negatives, self.normalize)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that matter for this point of the frame, for the model card and messages."""
        names = ["representation", "positions", "pooling", "distance", "pivot_gradient", "target"]
        if self.representation == "hidden_state":
            names.insert(1, "layers")
        if self.embeddings != "input":
            names.insert(1, "embeddings")
        if self.positions == "answer":
            names.append("answer_tokens")
        if self.step_delimiters:
            names.append("step_delimiters")
        if self.distance in ("info_nce", "kl"):
            names.append("temperature")
        if self.distance == "info_nce":
            names += ["direction", "negatives", "gather", "normalize"]
        if self.pivot_gradient == "momentum":
            names += ["queue_size", "momentum"]
        if self.anchor_weight:
            names.append("anchor_weight")
        return {name: getattr(self, name) for name in names}

    def override(self, changes: Mapping[str, Any]) -> Objective:
        """
        The same objective with other settings.

        Args:
            changes (`dict[str, Any]`):
                Fields of the frame and their values.

        Returns:
            [`Objective`]: Another point of the frame.

        Raises:
            ValueError: For an unknown field, an unknown value, settings that do not fit together, or one that this
                point of the frame does not read.
            TypeError: For a value of a wrong type.
        """
        unknown = [name for name in changes if name not in FRAME_FIELDS]
        if unknown:
            raise ValueError(
                f"The alignment objective has no setting {unknown[0]!r}, expected one of "
                f"{', '.join(map(repr, FRAME_FIELDS))}."
            )
        changed = dataclasses.replace(self, **changes)
        for name in changes:
            if name not in changed.settings and getattr(changed, name) != _DEFAULTS[name]:
                raise ValueError(
                    f"`{name}` is {changes[name]!r}, which the objective does not read: it is "
                    f"{', '.join(f'{key}={value!r}' for key, value in changed.settings.items())}. Leave it out, or "
                    "change what it belongs to (docs/objectives.md)."
                )
        return changed


FRAME_FIELDS = tuple(
    f.name for f in dataclasses.fields(Objective) if f.name not in ("description", "source", "status", "choices")
)


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Objective)}


def _read_number(name: str, value: Any, low: float, high: float) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is a tensor's of several numbers
        raise TypeError(f"`{name}` of the alignment objective must be a number, got {value!r}.") from None
    if not (math.isfinite(number) and low <= number <= high):
        upper = f" and ≤ {high:g}" if math.isfinite(high) else ""
        raise ValueError(
            f"`{name}` of the alignment objective is {value!r}, expected a finite number ≥ {low:g}{upper}."
        )
    return number


def _read_layers(layers: Any) -> tuple[float, ...]:
    values = tuple(layers) if isinstance(layers, (list, tuple)) else (layers,)
    if not values:
        raise ValueError("`layers` of the alignment objective is empty, expected at least one layer.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise TypeError(f"`layers` of the alignment objective must be numbers, got {layers!r}.")
        if value != int(value) and not 0 < value < 1:
            raise ValueError(
                f"`layers` of the alignment objective has {value!r}, expected an index into the hidden states (an "
                "integer) or a relative depth strictly between 0 and 1."
            )
    return tuple(int(value) if value == int(value) else float(value) for value in values)


def _read_delimiters(delimiters: Any) -> tuple[str, ...]:
    values = tuple(delimiters) if isinstance(delimiters, (list, tuple)) else (delimiters,)
    if not all(isinstance(value, str) and value for value in values):
        raise TypeError(
            f"`step_delimiters` of the alignment objective must be a list of non-empty strings, got {delimiters!r}."
        )
    return values


def layer_indices(layers: Sequence[float], num_layers: int) -> tuple[int, ...]:
    """
    Indices into `hidden_states` of the layers of an objective.

    Args:
        layers (sequence of numbers):
            As in [`Objective`].
        num_layers (`int`):
            Blocks of the model, one less than it has hidden states.

    Returns:
        `tuple[int, ...]`: Each in `[0, num_layers]`.

    Raises:
        ValueError: If the model does not have a layer.

    Examples:
    ```python
    >>> from solar_trl.objectives import layer_indices

    >>> layer_indices([0, 0.5, -1], num_layers=36)
    (0, 18, 36)
    ```
    """
    found = []
    for layer in layers:
        index = round(layer * num_layers) if 0 < layer < 1 else int(layer)
        index = index + num_layers + 1 if index < 0 else index
        if not 0 <= index <= num_layers:
            raise ValueError(
                f"The alignment objective asks for layer {layer}, but the model has {num_layers + 1} hidden states, 0 "
                f"(embeddings) to {num_layers} (last block). Choose among them with "
                "`alignment_kwargs={'layers': [...]}`."
            )
        found.append(index)
    return tuple(found)
