"""Two arms on the same bases: paired differences, their intervals and p-values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..evaluation.statistics import Interval, check_resampling, holm, percentile_interval, sign_flip
from ..objectives import layer_indices
from .settings import PIVOT


@dataclass(frozen=True)
class Outcome:
    """
    Something that is measured for each item, or, without items, for each run.

    Args:
        name (`str`): Key in the results.
        label (`str`): What it is called in tables.
        higher_is_better (`bool`): Its direction.
        points (`bool`): Whether it is a share, whose differences are told in points.
    """

    name: str
    label: str
    higher_is_better: bool = True
    points: bool = True


# Of the low-resource languages: what a comparison is decided by
PRIMARY = (
    Outcome("accuracy", "accuracy"),
    Outcome("area", "area under the accuracy curve"),
    Outcome("nll", "NLL (nats per token)", higher_is_better=False, points=False),
)
OUTCOMES = {outcome.name: outcome for outcome in PRIMARY}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Contrast:
    """
    An arm against its control.

    Args:
        arm, control (`str`): Their names.
        outcome (`str`), group (`str`): What is compared, in which languages.
        seeds (`int`): Bases that both have.
        value, reference (`float`): Means of the arm and of the control on these.
        difference, low, high (`float`): Mean paired difference and its 95 % interval.
        p_value (`float`): Two-sided, of no difference: random signs of the bases' mean differences.
        wins, losses (`int`): Bases on which the arm is better, or worse: the others are ties.
        corrected (`float`, *optional*): The p-value after Holm's correction over the family.
    """

    arm: str
    control: str
    outcome: str
    group: str
    seeds: int
    value: float
    reference: float
    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    corrected: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def hierarchical_bootstrap(
    differences: Sequence[np.ndarray], confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """
    Mean of paired differences, and its percentile interval over bases and items.

    A resample draws bases with replacement, and for each base drawn its items with replacement: it varies as the
    result would if both the bases and the items were drawn anew. Bases have items of their own, so nothing is shared
    between them.

    Args:
        differences (`Sequence` of `np.ndarray` of shape `(n_i,)`):
            The differences of each base's items; each base counts the same. With one value per base, only bases are
            resampled.
        confidence (`float`, *optional*, defaults to `0.95`):
            Coverage, in (0, 1).
        resamples (`int`, *optional*, defaults to `10000`):
            Bootstrap samples.
        seed (`int`, *optional*, defaults to `0`):
            Of the resampling.

    Returns:
        [`~solar_trl.evaluation.Interval`]: NaN ends with a single base, whose spread is not known.

    Raises:
        ValueError: If there are no bases, one has no items, or an option is out of range.
    """
    check_resampling(confidence, resamples)
    if not len(differences) or not all(len(values) for values in differences):
        raise ValueError("There are no differences to resample: every base needs at least one item.")
    value = float(np.mean([np.mean(values) for values in differences]))
    if len(differences) == 1:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    bases = len(differences)
    chosen = rng.integers(bases, size=(resamples, bases))
    means = np.empty(chosen.shape)
    for base, values in enumerate(differences):
        places = chosen == base
        means[places] = _resampled_means(np.asarray(values, float), int(places.sum()), rng)
    return percentile_interval(value, means.mean(1), confidence)


def _resampled_means(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Means of samples of the values with replacement, `(count,)`."""
    return values[rng.integers(len(values), size=(count, len(values)))].mean(1)


def group_languages(result: Mapping[str, Any], group: str) -> list[str]:
    """Languages of a group of a result: `"low"`, `"high"` (without English), `"pivot"`, or a language by its code."""
    data = result["identity"]["conditions"]["data"]
    groups = {"low": list(data["low"]), "high": list(data["high"]), "pivot": [PIVOT]}
    if group in groups:
        return groups[group]
    if group not in (PIVOT, *data["high"], *data["low"]):
        raise ValueError(f"There is no group or language {group!r} in the results.")
    return [group]


def item_values(result: Mapping[str, Any], outcome: str, group: str) -> np.ndarray:
    """Values of the items, `(n,)`: the mean over the languages of the group for each."""
    items = result["measures"]["items"]
    if outcome not in items:
        raise ValueError(f"{outcome!r} is not measured on the arm {result['arm']['name']!r}.")
    return np.mean([items[outcome][language] for language in group_languages(result, group)], axis=0)


def layer_value(result: Mapping[str, Any], measure: str, layer: int = -1, group: str = "all") -> float:
    """A geometric measure of a run at a layer; groups are means over their languages."""
    table = result["measures"]["layers"][measure]
    languages = ["all"] if group == "all" else group_languages(result, group)
    values = [table[language][layer] for language in languages]
    return float(np.mean([float("nan") if value is None else value for value in values]))


def middle_layer(result: Mapping[str, Any]) -> int:
    """Index of the hidden states at half depth: those that `mid_align` aligns."""
    return layer_indices([0.5], len(result["measures"]["layers"]["silhouette"]["all"]) - 1)[0]


def compare(
    arm: Sequence[Mapping[str, Any]],
    control: Sequence[Mapping[str, Any]],
    outcome: str,
    group: str = "low",
    resamples: int = RESAMPLES,
) -> Contrast | None:
    """
    An arm against its control on the seeds that both have; `None` if there are none.

    Args:
        arm, control (`Sequence[Mapping]`): Results of one arm each, made under the same conditions.
        outcome (`str`): `"accuracy"`, `"area"` or `"nll"`.
        group (`str`): See [`group_languages`].
        resamples (`int`): Of the bootstrap.
    """
    theirs = {result["seed"]: result for result in control}
    pairs = [(result, theirs[result["seed"]]) for result in arm if result["seed"] in theirs]
    if not pairs:
        return None
    values = [(item_values(one, outcome, group), item_values(other, outcome, group)) for one, other in pairs]
    differences = [one - other for one, other in values]
    interval = hierarchical_bootstrap(differences, resamples=resamples)
    by_base = [float(each.mean()) for each in differences]
    gains = np.array(by_base) if OUTCOMES[outcome].higher_is_better else -np.array(by_base)
    return Contrast(
        arm=pairs[0][0]["arm"]["name"],
        control=pairs[0][1]["arm"]["name"],
        outcome=outcome,
        group=group,
        seeds=len(pairs),
        value=float(np.mean([one.mean() for one, _ in values])),
        reference=float(np.mean([other.mean() for _, other in values])),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p_value=sign_flip(by_base),
        wins=int((gains > 0).sum()),
        losses=int((gains < 0).sum()),
    )


def ratio_of_means(
    arm: Sequence[float], control: Sequence[float], confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of the arm over that of the control, bases paired, with its bootstrap interval over bases."""
    one, other = np.asarray(arm, float), np.asarray(control, float)
    if len(one) != len(other) or not len(one):
        raise ValueError(f"There are {len(one)} values for {len(other)} of the control.")
    value = float(one.mean() / other.mean())
    if len(one) == 1:
        return Interval(value, float("nan"), float("nan"))
    chosen = np.random.default_rng(seed).integers(len(one), size=(resamples, len(one)))
    ratios = one[chosen].mean(1) / other[chosen].mean(1)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])  # NaN if one of them is none
    return Interval(value, float(low), float(high))


def correct_family(contrasts: Iterable[Contrast]) -> list[Contrast]:
    """The contrasts with Holm's correction over all of them."""
    family = list(contrasts)
    corrected = holm({str(place): each.p_value for place, each in enumerate(family)})
    return [replace(each, corrected=corrected[str(place)]) for place, each in enumerate(family)]
