"""Pictures of an analysis: matplotlib figures, made without pyplot and its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .fonts import display_names, display_text
from .measures import MEASURES, values_of
from .plot_style import (
    GREY,
    MAX_LINES,
    add_color_bar,
    add_legend,
    drawing,
    heat_map,
    hide_overlaps,
    integer_layers,
    label_size,
    language_styles,
    model_styles,
    set_title,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_layers(
    analysis: Mapping[str, Any],
    measure: str = "difference",
    names: Mapping[str, str] | None = None,
    title: str | None = None,
    highlight: Sequence[str] | None = None,
) -> Figure:
    """
    One measure over the layers, a line for each language.

    Up to 12 languages each have a colour and a marker of their own. Beyond that all lines are grey, with the median,
    the range of the middle 80 % of languages, and a few highlighted languages on top; [`plot_layer_heat_map`] shows
    each.

    Args:
        analysis (`dict`):
            What [`analyze_layers`] returned.
        measure (`str`, *optional*, defaults to `"difference"`):
            Name in `MEASURES`.
        names (`dict[str, str]`, *optional*):
            Language code to the name to show, in any script. Where no font has its characters, the code is shown.
        title (`str`, *optional*):
            Title.
        highlight (`Sequence[str]`, *optional*):
            Languages to highlight among more than 12. `None` takes the three highest and the three lowest at the last
            layer.

    Returns:
        `matplotlib.figure.Figure`: The figure; save it with `figure.savefig("layers.png")`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the measure is unknown or was not computed, or `highlight` names a language that is not there.
    """
    values, layers = _lines(analysis, measure)
    labels = display_names(list(values), names)
    with drawing(8.0, 4.5, [*labels.values(), title or ""]) as figure:
        axes = figure.add_subplot()
        if len(values) <= MAX_LINES:
            for (lang, line), style in zip(values.items(), language_styles(len(values)), strict=True):
                axes.plot(layers, line, label=labels[lang], linewidth=1.8, markersize=4.5, **style)
        else:
            shown = _highlighted(values, highlight)
            lines = np.array(list(values.values()))
            for line in lines:
                axes.plot(layers, line, color=GREY, linewidth=0.6, alpha=0.7)
            low, middle, high = np.nanquantile(lines, [0.1, 0.5, 0.9], axis=0)
            axes.fill_between(layers, low, high, color=GREY, alpha=0.35, linewidth=0, label="middle 80 %")
            axes.plot(layers, middle, color="#333333", linewidth=2.2, label=f"median of {len(lines)}")
            for lang, style in zip(shown, language_styles(len(shown) + 1)[1:], strict=True):
                axes.plot(layers, values[lang], label=labels[lang], linewidth=1.4, markersize=4, **style)
        _finish_lines(axes, measure, layers)
        add_legend(figure, axes)
        set_title(figure, axes, title)
    return figure


def plot_layer_heat_map(
    analysis: Mapping[str, Any],
    measure: str = "retrieval",
    names: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """
    One measure for each language (rows, the highest mean over layers on top) and layer (columns).

    Args:
        analysis, measure, names, title:
            As [`plot_layers`].

    Returns:
        `matplotlib.figure.Figure`: The figure. Grey cells are not defined.

    Raises:
        ImportError, ValueError: As [`plot_layers`].
    """
    values, layers = _lines(analysis, measure)
    labels = display_names(list(values), names)
    order = sorted(values, key=lambda lang: -np.nan_to_num(values[lang]).mean())
    width = 3.2 + 0.22 * max(len(layers), 12)
    with drawing(width, 1.6 + 0.19 * max(len(order), 6), [*labels.values(), title or ""]) as figure:
        axes = figure.add_subplot()
        image = heat_map(axes, np.array([values[lang] for lang in order]), share=MEASURES[measure].share)
        axes.set_yticks(range(len(order)), [labels[lang] for lang in order], fontsize=label_size(len(order)))
        step = -(-len(layers) // 20)
        axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        axes.set_xlabel(_layer_label(measure))
        add_color_bar(figure, axes, image, MEASURES[measure].label)
        set_title(figure, axes, title)
    return figure


def plot_language_pairs(
    matrix: Mapping[str, Any], names: Mapping[str, str] | None = None, title: str | None = None
) -> Figure:
    """
    Heat map of a measure for each pair of languages.

    Args:
        matrix (`dict`):
            What [`language_pair_matrix`] returned.
        names (`dict[str, str]`, *optional*):
            Language code to the name to show, in any script. Where no font has its characters, the code is shown.
        title (`str`, *optional*):
            Title.

    Returns:
        `matplotlib.figure.Figure`: The figure. Up to 12 languages have their numbers written in; grey cells are not
        defined.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    languages = matrix["languages"]
    values = np.array(matrix["values"], dtype=float)
    labels = display_names(languages, names)
    size = max(0.62 * len(languages), 2.0) if len(languages) <= MAX_LINES else max(0.2 * len(languages), 7.0)
    with drawing(2.6 + size, 1.5 + size, [*labels.values(), title or ""]) as figure:
        axes = figure.add_subplot()
        measure = MEASURES[matrix["measure"]]
        image = heat_map(axes, values, measure.share, square=True, numbers=len(languages) <= MAX_LINES)
        ticks = [labels[lang] for lang in languages]
        axes.set_yticks(range(len(ticks)), ticks, fontsize=label_size(len(ticks)))
        upright = len(ticks) > 6 or max(map(len, ticks)) > 6
        axes.set_xticks(range(len(ticks)), ticks, fontsize=label_size(len(ticks)), rotation=90 if upright else 0)
        if matrix["measure"] == "retrieval":
            axes.set(xlabel="language that is searched", ylabel="language that asks")
        # Retrieval between languages of which neither is the pivot
        label = "Retrieval accuracy (share of texts)" if matrix["measure"] == "retrieval" else measure.label
        add_color_bar(figure, axes, image, label)
        set_title(figure, axes, title)
    return figure


def plot_language_map(
    projection: Mapping[str, Any], names: Mapping[str, str] | None = None, title: str | None = None
) -> Figure:
    """
    Map of all states, coloured by language.

    Args:
        projection (`dict`):
            What [`project_states`] returned.
        names (`dict[str, str]`, *optional*):
            Language code to the name to show, in any script. Where no font has its characters, the code is shown.
        title (`str`, *optional*):
            Title.

    Returns:
        `matplotlib.figure.Figure`: The figure. Each language has a colour and marker of its own; beyond 12 of them its
        label also stands at the median of its points, unless another label is there.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    points, of_point = np.array(projection["points"]), np.array(projection["languages"], dtype=object)
    languages = list(dict.fromkeys(of_point))
    labels = display_names(languages, names)
    many = len(languages) > MAX_LINES
    with drawing(10.5 if many else 7.5, 6.5 if many else 5.0, [*labels.values(), title or ""]) as figure:
        from matplotlib import patheffects

        axes = figure.add_subplot()
        size = float(np.clip(20_000 / len(points), 9, 36))
        texts = []
        for lang, style in zip(languages, language_styles(len(languages)), strict=True):
            x, y = points[of_point == lang].T
            marker, color = style["marker"], style["color"]
            axes.scatter(
                x, y, s=size, marker=marker, color=color, alpha=0.75, linewidths=0.3, edgecolors="white",
                label=labels[lang],
            )  # fmt: skip
            if many:
                halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
                style = {"fontsize": 8, "ha": "center", "va": "center", "color": "#222222", "path_effects": halo}
                texts.append(axes.text(np.median(x), np.median(y), labels[lang], **style))
        axes.set(xlabel=projection["axes"][0], ylabel=projection["axes"][1])
        if projection["method"] == "tsne":
            axes.set(xticks=[], yticks=[])  # its units mean nothing
        add_legend(figure, axes, markers_only=True)
        set_title(figure, axes, title)
        hide_overlaps(figure, texts)
    return figure


def plot_comparison(
    analyses: Mapping[str, Mapping[str, Any]],
    measure: str = "retrieval",
    layer: int | None = None,
    names: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """
    One measure of several models by language at one layer: before and after.

    Args:
        analyses (`dict[str, dict]`):
            Model to what [`analyze_layers`] returned for it, e.g. `{"base": ..., "SFT": ..., "SOLAR": ...}`.
        measure (`str`, *optional*, defaults to `"retrieval"`):
            Name in `MEASURES`.
        layer (`int`, *optional*):
            Layer. `None` takes the last one.
        names (`dict[str, str]`, *optional*):
            Language code to the name to show, in any script. Where no font has its characters, the code is shown.
        title (`str`, *optional*):
            Title.

    Returns:
        `matplotlib.figure.Figure`: The figure: a row for each language, sorted by the last model, a point for each
        model.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no model, the measure was not computed, or a model lacks the layer or has other
            languages.
    """
    tables = _tables(analyses, measure)
    first = next(iter(tables.values()))
    if layer is None:
        layer = list(first[next(iter(first))])[-1]
    points: dict[str, dict[str, float]] = {}
    for model, table in tables.items():
        for lang, by_layer in table.items():
            if layer not in by_layer:
                raise ValueError(f"{model!r} has no layer {layer}, only {', '.join(map(str, by_layer))}.")
            points.setdefault(lang, {})[model] = _number(by_layer[layer])
    last = list(tables)[-1]
    order = sorted(
        points, key=lambda lang: [np.nan_to_num(points[lang][model], nan=-np.inf) for model in (last, *tables)]
    )
    labels = display_names(order, names)
    with drawing(7.5, 1.7 + 0.24 * max(len(order), 5), [*labels.values(), *tables, title or ""]) as figure:
        axes = figure.add_subplot()
        for row, lang in enumerate(order):
            values = list(points[lang].values())
            axes.plot([np.nanmin(values), np.nanmax(values)], [row, row], color=GREY, linewidth=1.6, zorder=1)
        for model, style in zip(tables, model_styles(len(tables)), strict=True):
            values = [points[lang][model] for lang in order]
            axes.scatter(values, range(len(order)), s=34, zorder=2, label=display_text(model), **style)
        axes.set_yticks(range(len(order)), [labels[lang] for lang in order], fontsize=label_size(len(order)))
        axes.set_ylim(-0.8, len(order) - 0.2)
        axes.set_xlabel(f"{MEASURES[measure].label}, {_layer_word(measure)} {layer}")
        axes.grid(axis="y", visible=False)
        add_legend(figure, axes, markers_only=True)
        set_title(figure, axes, title)
    return figure


def plot_layer_comparison(
    analyses: Mapping[str, Mapping[str, Any]], measure: str = "difference", title: str | None = None
) -> Figure:
    """
    One measure of several models over the layers: the mean over languages, and the range of the middle 80 % of them.

    Args:
        analyses, measure, title:
            As [`plot_comparison`].

    Returns:
        `matplotlib.figure.Figure`: The figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no model, the measure was not computed, or the models have other languages.
    """
    tables = _tables(analyses, measure)
    with drawing(8.0, 4.5, [*tables, title or ""]) as figure:
        axes = figure.add_subplot()
        layers, lines = [], np.empty((0, 0))
        for (model, table), style in zip(tables.items(), model_styles(len(tables)), strict=True):
            layers = list(next(iter(table.values())))
            lines = np.array([[_number(value) for value in by_layer.values()] for by_layer in table.values()])
            low, high = np.nanquantile(lines, [0.1, 0.9], axis=0)
            axes.fill_between(layers, low, high, color=style["color"], alpha=0.15, linewidth=0)
            axes.plot(layers, np.nanmean(lines, axis=0), label=display_text(model), markersize=5, **style)
        if len(lines) > 1:
            axes.fill_between([], [], color=GREY, alpha=0.35, label=f"middle 80 % of\n{len(lines)} languages")
        _finish_lines(axes, measure, layers, ", mean" if len(lines) > 1 else "")
        add_legend(figure, axes)
        set_title(figure, axes, title)
    return figure


def _lines(analysis: Mapping[str, Any], measure: str) -> tuple[dict[str, np.ndarray], list[int]]:
    """Language to its values over the layers, NaN where undefined; a measure without languages has one line."""
    table = {lang: by_layer for lang, by_layer in values_of(analysis, measure).items() if lang is not None}
    lines = {lang: np.array([_number(value) for value in by_layer.values()]) for lang, by_layer in table.items()}
    return lines, list(next(iter(table.values())))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _tables(analyses: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, dict[str, dict[int, float | None]]]:
    if not analyses:
        raise ValueError("`analyses` holds no model.")
    tables = {
        model: {lang: by_layer for lang, by_layer in values_of(analysis, measure).items() if lang is not None}
        for model, analysis in analyses.items()
    }
    (first, expected), *rest = tables.items()
    for model, table in rest:
        if set(table) != set(expected):
            raise ValueError(
                f"{model!r} and {first!r} have different languages: only one has "
                f"{', '.join(sorted(set(table) ^ set(expected)))}."
            )
    return tables


def _highlighted(values: Mapping[str, np.ndarray], highlight: Sequence[str] | None) -> list[str]:
    if highlight is None:
        defined = [lang for lang in values if np.isfinite(values[lang][-1])]
        order = sorted(defined, key=lambda lang: -values[lang][-1])
        return list(dict.fromkeys([*order[:3], *order[-3:]]))
    for lang in highlight:
        if lang not in values:
            raise ValueError(f"`highlight` names {lang!r}; the languages are {', '.join(map(repr, values))}.")
    return list(dict.fromkeys(highlight))


def _finish_lines(axes: Any, measure: str, layers: list[int], suffix: str = "") -> None:
    axes.set(xlabel=_layer_label(measure), ylabel=MEASURES[measure].label + suffix)
    if MEASURES[measure].share:
        axes.set_ylim(-0.02, 1.02)
    integer_layers(axes, layers)


def _layer_word(measure: str) -> str:
    return "block" if MEASURES[measure].group == "neuronxa" else "layer"


def _layer_label(measure: str) -> str:
    return "Block" if MEASURES[measure].group == "neuronxa" else "Layer (0 = embeddings)"
