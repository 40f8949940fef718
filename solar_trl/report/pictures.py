"""Pictures inside a page, and those of evaluations."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.plot_style import (
    GREY,
    MAX_LINES,
    add_color_bar,
    add_legend,
    drawing,
    heat_map,
    label_size,
    model_styles,
    set_title,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SVG = 600_000  # bytes; maps of many points are smaller as pixels


@dataclass(frozen=True)
class Picture:
    """
    A picture as it stands in the page.

    Args:
        uri (`str`): The whole picture as a data URI.
        caption (`str`): What it shows, also for readers who do not see it.
        width (`int`): Its natural width in pixels.
    """

    uri: str
    caption: str
    width: int


def embed(figure: Figure, caption: str) -> Picture:
    """
    A figure as a data URI: SVG, or PNG if that would be large.

    An image element does neither run scripts nor load anything, and its ids do not meet those of other pictures.
    """
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "solar-trl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    kind = "svg+xml"
    if buffer.tell() > _MOST_SVG:
        buffer, kind = io.BytesIO(), "png"
        figure.savefig(buffer, format="png", dpi=160)
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, caption, round(96 * figure.get_figwidth()))


def plot_scores(
    scores: Mapping[str, Mapping[str, tuple[float, float, float]]],
    label: str,
    title: str | None = None,
    zero_line: bool = False,
) -> Figure:
    """
    A score and its interval by language, for one or several models.

    Args:
        scores (`dict[str, dict[str, tuple]]`):
            Model to language to value, low and high end; NaN where undefined. Languages are shown from top to bottom
            in the order of the first model.
        label (`str`):
            Label of the axis.
        title (`str`, *optional*):
            Title.
        zero_line (`bool`, *optional*, defaults to `False`):
            Whether 0 is marked, as for differences; else the axis spans 0 to 100.

    Returns:
        `matplotlib.figure.Figure`: The figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    languages = list(next(iter(scores.values())))
    n_models = len(scores)
    height = 1.6 + (0.2 + 0.11 * n_models) * max(len(languages), 3)
    with drawing(7.5, height, [*languages, *scores, title or ""]) as figure:
        axes = figure.add_subplot()
        styles = model_styles(n_models + (n_models == 1))[-n_models:]
        for place, ((model, values), style) in enumerate(zip(scores.items(), styles, strict=True)):
            offset = 0.0 if n_models == 1 else 0.55 * (place / (n_models - 1) - 0.5)
            rows = np.arange(len(languages)) + offset
            middle, low, high = 100 * np.array([values[language] for language in languages], dtype=float).T
            axes.hlines(rows, low, high, color=style["color"], linewidth=1.6, alpha=0.7)
            axes.scatter(middle, rows, s=30, label=model, zorder=3, **style)
        axes.set_yticks(range(len(languages)), languages, fontsize=label_size(len(languages)))
        axes.set_ylim(len(languages) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        if zero_line:
            axes.axvline(0, color="#555555", linewidth=1)
        else:
            axes.set_xlim(-2, 102)
        for row in range(1, len(languages)):
            axes.axhline(row - 0.5, color=GREY, linewidth=0.4, alpha=0.5)
        if n_models > 1:
            add_legend(figure, axes, markers_only=True)
        set_title(figure, axes, title)
    return figure


def plot_agreement(matrix: np.ndarray, languages: Sequence[str], title: str | None = None) -> Figure:
    """
    Heat map of how often two languages give the same answer.

    Args:
        matrix (`np.ndarray` of shape `(L, L)`):
            What [`consistency_matrix`] returned.
        languages (`Sequence[str]`):
            The `L` languages.
        title (`str`, *optional*):
            Title.

    Returns:
        `matplotlib.figure.Figure`: The figure; up to 12 languages have their numbers written in.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    values: Any = np.array(matrix, dtype=float)
    np.fill_diagonal(values, np.nan)
    few = len(languages) <= MAX_LINES
    size = max(0.62 * len(languages), 2.0) if few else max(0.2 * len(languages), 7.0)
    with drawing(2.6 + size, 1.5 + size, [*languages, title or ""]) as figure:
        axes = figure.add_subplot()
        image = heat_map(axes, values, share=True, square=True, numbers=few)
        axes.set_yticks(range(len(languages)), languages, fontsize=label_size(len(languages)))
        axes.set_xticks(
            range(len(languages)), languages, fontsize=label_size(len(languages)), rotation=90 if not few else 0
        )
        add_color_bar(figure, axes, image, "Share of items with the same answer")
        set_title(figure, axes, title)
    return figure
