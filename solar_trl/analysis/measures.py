"""The measures of `analyze_layers`: their names, groups and labels, and how to read them from its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """
    One number per layer and language.

    Args:
        group (`str`):
            What computes it.
        label (`str`):
            For an axis, with the unit.
        share (`bool`):
            Whether it lies in [0, 1].
    """

    group: str
    label: str
    share: bool = False


MEASURES = {
    "matched": Measure("similarity", "Cosine of parallel texts"),
    "random": Measure("similarity", "Cosine of unrelated texts"),
    "difference": Measure("similarity", "Cosine, parallel minus unrelated"),
    "centered_matched": Measure("centered_similarity", "Centred cosine of parallel texts"),
    "centered_random": Measure("centered_similarity", "Centred cosine of unrelated texts"),
    "centered_difference": Measure("centered_similarity", "Centred cosine, parallel minus unrelated"),
    "retrieval": Measure("retrieval", "Retrieval, both directions (share of texts)", share=True),
    "retrieval_to_pivot": Measure("retrieval", "Retrieval of the pivot text (share of texts)", share=True),
    "retrieval_from_pivot": Measure("retrieval", "Retrieval from the pivot text (share of texts)", share=True),
    "mexa": Measure("mexa", "MEXA score (share of texts)", share=True),
    "neuronxa": Measure("neuronxa", "NeuronXA score (share of texts)", share=True),
    "mixed_pool_map": Measure("mixed_pool", "Mixed-pool mean average precision", share=True),
    "silhouette": Measure("separability", "Silhouette of languages (cosine distance)"),
    "probe_accuracy": Measure("separability", "Language probe (share of texts recognised)", share=True),
    "incline_residual": Measure("incline", "INCLINE residual (share of squared norm)", share=True),
    "incline_held_out_fit": Measure("incline", "INCLINE fit on held-out texts (1 = perfect)"),
    "incline_orthogonality_deviation": Measure("incline", "INCLINE map, deviation from a rotation"),
    "mmd": Measure("mmd", "MMD² to the pivot (IMQ kernel)"),
}
GROUPS = list(dict.fromkeys(measure.group for measure in MEASURES.values()))


def values_of(analysis: Mapping[str, Any], measure: str) -> dict[str | None, dict[int, float | None]]:
    """
    One measure of an analysis.

    Args:
        analysis (`dict`):
            What [`analyze_layers`] returned.
        measure (`str`):
            Name in `MEASURES`.

    Returns:
        `dict`: Language to layer to value, in the order of the analysis; `None` as language is the summary over all.

    Raises:
        ValueError: If the measure is unknown or was not computed.
    """
    if measure not in MEASURES:
        raise ValueError(f"Unknown measure {measure!r}, expected one of {', '.join(map(repr, MEASURES))}.")
    values: dict[str | None, dict[int, float | None]] = {}
    for record in analysis["records"]:
        if record["measure"] == measure:
            values.setdefault(record["language"], {})[record["layer"]] = record["value"]
    if not values:
        raise ValueError(
            f"{measure!r} was not computed; this analysis has "
            f"{', '.join(map(repr, dict.fromkeys(record['measure'] for record in analysis['records'])))}."
        )
    return values
