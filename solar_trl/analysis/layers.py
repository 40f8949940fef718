"""Every measure, for every layer and language, in one table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .._logging import get_logger
from .geometry import incline_fit, mmd, principal_components
from .inputs import check_states
from .measures import GROUPS, MEASURES
from .parallel import ParallelRows
from .pool import mixed_pool_map
from .separability import separability_of_rows
from .similarity import centered_similarity, cross_lingual_similarity, mexa_score, retrieval_accuracy


def analyze_layers(
    states: Mapping[int, np.ndarray],
    languages: Sequence[str],
    parallel_ids: Sequence[Hashable],
    pivot_language: str = "en",
    measures: Sequence[str] | None = None,
    neuron_states: Mapping[int, np.ndarray] | None = None,
    common_items: bool = False,
    incline_components: int | None = None,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """
    All measures of cross-lingual alignment by layer and language.

    Rows are paired by id, never by position. A language's rows without a pivot take part only where no pair is needed
    (silhouette, probe, mixed pool); how many there are is in `warnings`.

    Args:
        states (`dict[int, np.ndarray]`):
            Layer to states `(n, d)` of all texts in all languages, as [`hidden_state_summaries`] returns them.
        languages (`Sequence[str]` of length `n`):
            Language of each row.
        parallel_ids (`Sequence[Hashable]` of length `n`):
            Id of each row's item, equal for translations; each language has it at most once.
        pivot_language (`str`, *optional*, defaults to `"en"`):
            Language that the others are compared with.
        measures (`Sequence[str]`, *optional*):
            Groups of measures to compute: `"similarity"`, `"centered_similarity"`, `"retrieval"`, `"mexa"`,
            `"neuronxa"`, `"mixed_pool"`, `"separability"`, `"incline"`, `"mmd"`. `None` computes all, NeuronXA if
            `neuron_states` is given. The separability and INCLINE groups need scikit-learn.
        neuron_states (`dict[int, np.ndarray]`, *optional*):
            Layer to states `(n, neurons)` of the same texts, as [`neuron_state_summaries`] returns them. For NeuronXA.
        common_items (`bool`, *optional*, defaults to `False`):
            Whether to keep only the items that every language has. Makes languages with different numbers of pairs
            comparable in the measures that depend on that number (retrieval, MEXA, NeuronXA, MMD).
        incline_components (`int`, *optional*):
            Principal components of all states that INCLINE maps. `None` takes a quarter of the training rows of the
            language with the fewest pairs, at most `d`: with more columns than rows every map fits.
        folds (`int`, *optional*, defaults to `5`):
            Folds of the probe and of INCLINE.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the folds and of the principal components.

    Returns:
        `dict`, ready for JSON:
        - `records`: one `{"layer", "language", "measure", "value"}` for each layer, language and measure (names in
          `MEASURES`), as tidy data frames want it. Measures of pairs have no record for the pivot. `language` is
          `None` in the summary over languages: the mean over the non-pivot languages for measures of pairs, the mean
          over all rows for the others. `value` is `None` where it is not defined; `warnings` says why.
        - `pivot_language`, `languages` (pivot first), `layers`, `rows` and `pairs` (numbers, by language), `settings`
          and `warnings` (`list[str]`, also logged).

    Raises:
        ImportError: If a measure needs scikit-learn and it is not installed.
        ValueError: If there is one language only, no row of the pivot, nothing that pairs, an id twice in a language,
            a length that differs, an unknown group, NeuronXA without its states, or a row that is zero or not finite.

    Examples:
    ```python
    >>> import pandas as pd
    >>> from solar_trl.analysis import analyze_layers, hidden_state_summaries

    >>> states = hidden_state_summaries(model, tokenizer, rows["text"])
    >>> analysis = analyze_layers(states, rows["language"], rows["parallel_id"])
    >>> mexa = pd.DataFrame(analysis["records"]).query("measure == 'mexa'")
    >>> mexa.pivot(index="language", columns="layer", values="value")
    ```
    """
    if not states:
        raise ValueError("`states` holds no layer.")
    groups = _check_groups(measures, neuron_states)
    n = len(next(iter(states.values())))
    table = ParallelRows(languages, parallel_ids, n, common_items)
    table.require_pivot(pivot_language)
    others = [language for language in table.languages if language != pivot_language]
    pairs = {language: table.pairs(pivot_language, language) for language in others}
    warnings = _warn_of_pairs(table, pivot_language, pairs)
    usable = {language: rows for language, rows in pairs.items() if len(rows[0]) >= 2}
    if not usable:
        raise ValueError("No language has two rows with a pivot; at least one must.")
    kept = np.sort(np.concatenate([table.rows(language) for language in table.languages]))
    if incline_components is None and "incline" in groups:
        fewest = min(len(rows[0]) for rows in usable.values())
        width = min(np.shape(values)[-1] for values in states.values())
        incline_components = max(1, min((fewest - fewest // min(folds, fewest)) // 4, width))

    records: list[dict[str, Any]] = []

    def add(layer: int, values: Mapping[str | None, Mapping[str, float | None]]) -> None:
        for language, by_measure in values.items():
            for measure, value in by_measure.items():
                defined = value is not None and np.isfinite(value)
                records.append(
                    {
                        "layer": int(layer),
                        "language": language,
                        "measure": measure,
                        "value": value if defined else None,
                    }
                )

    for layer, raw in states.items():
        values = _check_rows(f"states[{layer}]", raw, n)
        layer_groups = [group for group in groups if group in _OF_PAIRS]
        by_language = {lang: _pair_measures(values, rows, layer_groups) for lang, rows in usable.items()}
        if "incline" in groups:
            coordinates = np.zeros((n, incline_components or 0))
            coordinates[kept] = principal_components(values[kept], incline_components or 0, seed)
            for lang, (pivot_rows, rows) in usable.items():
                fit = incline_fit(coordinates[pivot_rows], coordinates[rows], folds, seed)
                by_language[lang] |= {f"incline_{name}": value for name, value in fit.items()}
        for lang, by_measure in by_language.items():
            undefined = [name for name, value in by_measure.items() if value is None or not np.isfinite(value)]
            if undefined:
                warnings.append(
                    f"Layer {layer}, {lang}: {', '.join(undefined)} not defined, as states of a language are all the "
                    "same or equal to its mean."
                )
        add(layer, _with_mean(by_language, pairs))
        if "mixed_pool" in groups:
            found = mixed_pool_map(values[kept], table.labels[kept], table.ids[kept])
            of_language: Any = found["by_language"]
            add(layer, {lang: {"mixed_pool_map": value} for lang, value in of_language.items()})
            add(layer, {None: {"mixed_pool_map": float(found["map"])}})  # type: ignore[arg-type]
        if "separability" in groups:
            add(layer, dict(_separability(values[kept], table.labels[kept], folds, seed, layer, warnings)))
    if "neuronxa" in groups:
        for layer, raw in (neuron_states or {}).items():
            values = _check_rows(f"neuron_states[{layer}]", raw, n)
            scores = {lang: {"neuronxa": mexa_score(values[a], values[b])} for lang, (a, b) in usable.items()}
            add(layer, _with_mean(scores, pairs))

    for warning in warnings:
        get_logger().warning(warning)
    return {
        "pivot_language": pivot_language,
        "languages": [pivot_language, *others],
        "layers": [int(layer) for layer in states],
        "rows": {language: len(table.rows(language)) for language in (pivot_language, *others)},
        "pairs": {language: len(rows[0]) for language, rows in pairs.items()},
        "settings": {
            "measures": groups,
            "common_items": common_items,
            "incline_components": incline_components,
            "folds": folds,
            "seed": seed,
        },
        "records": records,
        "warnings": warnings,
    }


def _similarity(pivot: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    return dict(cross_lingual_similarity(pivot, other))


def _centered_similarity(pivot: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    return {f"centered_{name}": value for name, value in centered_similarity(pivot, other).items()}


def _retrieval(pivot: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    accuracy = retrieval_accuracy(pivot, other)
    return {
        "retrieval": accuracy["mean"],
        "retrieval_to_pivot": accuracy["to_pivot"],
        "retrieval_from_pivot": accuracy["from_pivot"],
    }


_OF_PAIRS: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, float | None]]] = {
    "similarity": _similarity,
    "centered_similarity": _centered_similarity,
    "retrieval": _retrieval,
    "mexa": lambda pivot, other: {"mexa": mexa_score(pivot, other)},
    "mmd": lambda pivot, other: {"mmd": mmd(pivot, other)},
}


def _pair_measures(
    values: np.ndarray, rows: tuple[np.ndarray, np.ndarray], groups: list[str]
) -> dict[str, float | None]:
    pivot, other = values[rows[0]], values[rows[1]]
    return {name: value for group in groups for name, value in _OF_PAIRS[group](pivot, other).items()}


def _with_mean(
    by_language: Mapping[str, Mapping[str, float | None]], languages: Mapping[str, Any]
) -> dict[str | None, dict[str, float | None]]:
    """All languages, undefined where they have no measures, and the mean over the defined ones."""
    names = list(next(iter(by_language.values())))
    table: dict[str | None, dict[str, float | None]] = {
        lang: dict(by_language.get(lang, dict.fromkeys(names))) for lang in languages
    }
    mean: dict[str, float | None] = {}
    for name in names:
        defined = [value for row in table.values() if (value := row[name]) is not None and np.isfinite(value)]
        mean[name] = float(np.mean(defined)) if defined else None
    return table | {None: mean}


def _separability(
    values: np.ndarray, labels: Any, folds: int, seed: int, layer: int, warnings: list[str]
) -> Iterator[tuple[str | None, dict[str, float | None]]]:
    names = list(dict.fromkeys(labels))
    single = [name for name in names if (labels == name).sum() < 2]
    kept = ~np.isin(labels, single)
    if len(names) - len(single) < 2:
        warnings.append(f"Layer {layer}: silhouette and probe need two languages with two rows each.")
        undefined: dict[str, float | None] = {"silhouette": None, "probe_accuracy": None}
        yield from ((name, dict(undefined)) for name in (*names, None))
        return
    silhouettes, hits, _ = separability_of_rows(values[kept], labels[kept], folds, seed)
    for name in names:
        rows = labels[kept] == name
        yield (
            name,
            {
                "silhouette": float(silhouettes[rows].mean()) if rows.any() else None,
                "probe_accuracy": float(hits[rows].mean()) if rows.any() else None,
            },
        )
    yield None, {"silhouette": float(silhouettes.mean()), "probe_accuracy": float(hits.mean())}


def _warn_of_pairs(
    table: ParallelRows, pivot_language: str, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> list[str]:
    warnings = []
    for language, (_, rows) in pairs.items():
        unpaired = len(table.rows(language)) - len(rows)
        if unpaired:
            warnings.append(
                f"{language}: {unpaired} of {len(table.rows(language))} rows have no parallel in {pivot_language}; "
                "they are left out of the measures of pairs."
            )
        if len(rows) < 2:
            warnings.append(f"{language}: {len(rows)} pairs, at least two are needed; its measures of pairs are None.")
        if len(table.rows(language)) < 2:
            warnings.append(f"{language}: a single row; it is left out of silhouette and probe.")
    if len(table.rows(pivot_language)) < 2:
        warnings.append(f"{pivot_language}: a single row; it is left out of silhouette and probe.")
    numbers = {language: len(rows) for language, (_, rows) in pairs.items()}
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{language} {number}" for language, number in numbers.items())
        warnings.append(
            f"Languages have different numbers of pairs ({listed}): their retrieval, MEXA, NeuronXA and MMD are not "
            "comparable. `common_items=True` keeps the items that all have."
        )
    return warnings


def _check_groups(measures: Sequence[str] | None, neuron_states: Mapping[int, np.ndarray] | None) -> list[str]:
    if isinstance(measures, str):
        raise TypeError(f"`measures` must be a sequence of names, got the string {measures!r}.")
    if measures is None:
        return [group for group in GROUPS if group != "neuronxa" or neuron_states]
    for group in measures:
        if group not in GROUPS:
            hint = f" ({group!r} is one of group {MEASURES[group].group!r})" if group in MEASURES else ""
            raise ValueError(f"Unknown group of measures {group!r}{hint}, expected {', '.join(map(repr, GROUPS))}.")
    if "neuronxa" in measures and not neuron_states:
        raise ValueError("NeuronXA needs `neuron_states`, see `neuron_state_summaries`.")
    return list(dict.fromkeys(measures))


def _check_rows(name: str, states: np.ndarray, n: int) -> np.ndarray:
    values = check_states(name, states)
    if len(values) != n:
        raise ValueError(f"`{name}` has {len(values)} rows, expected {n} as the first layer.")
    return values
