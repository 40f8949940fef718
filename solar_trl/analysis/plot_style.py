"""How the pictures look: colours, sizes and legends for 2 and for 50 languages."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .fonts import display_text, fonts_for


MAX_LINES = 12  # languages that lines, and numbers in cells, are still readable for
GREY = "#BBBBBB"
# Okabe and Ito's colours, told apart with any colour vision; their yellow is too light for a white page. Then wine and
# olive of Paul Tol's
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#999933")
# 8 markers × 9 colours: coprime numbers, so that 72 languages differ and neighbours differ in both
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
_STYLE = {
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "axes.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
    "text.usetex": False,
    "text.parse_math": False,  # a language name may hold a dollar sign
    "axes.unicode_minus": True,
}


@contextmanager
def drawing(width: float, height: float, texts: Sequence[str]) -> Iterator[Any]:
    """
    A figure with the house style, of so many inches, with fonts for `texts`.

    Settings are those of matplotlib's defaults and this module, whatever the user's; they are as before afterwards.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    families = fonts_for(texts)[0]
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "font.family": families})
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        # Ticks and layout are made at the first drawing, with the settings of that moment
        figure.draw_without_rendering()


def language_styles(n: int) -> list[dict[str, Any]]:
    """Colour, marker and dashes of `n` languages; all differ up to 72."""
    return [
        {
            "color": _COLORS[i % len(_COLORS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i // len(_COLORS) % len(_DASHES)],
        }
        for i in range(n)
    ]


def model_styles(n: int) -> list[dict[str, Any]]:
    """Colour and marker of `n` models; the first, the one before, is grey."""
    colors = ("#8C8C8C", *_COLORS)
    return [{"color": colors[i % len(colors)], "marker": _MARKERS[i % len(_MARKERS)]} for i in range(n)]


def label_size(n: int) -> float:
    """Size of `n` labels along a side, in points."""
    return float(np.clip(11 - n / 12, 7, 10))


def add_legend(figure: Any, axes: Any, markers_only: bool = False) -> None:
    """All entries to the right of the axes, in as many columns as the height asks for."""
    handles, labels = axes.get_legend_handles_labels()
    rows = max(int(figure.get_figheight() / 0.23) - 1, 1)
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        ncols=-(-len(handles) // rows),
        handlelength=1.0 if markers_only else 2.6,
        columnspacing=1.0,
        **({"markerscale": 1.2} if markers_only else {}),
    )


def hide_overlaps(figure: Any, texts: Sequence[Any]) -> None:
    """Hide each label that would lie on an earlier one."""
    figure.draw_without_rendering()
    shown: list[Any] = []
    for text in texts:
        box = text.get_window_extent()
        text.set_visible(not any(box.overlaps(other) for other in shown))
        if text.get_visible():
            shown.append(box)


def set_title(figure: Any, axes: Any, title: str | None) -> None:
    """The title, in lines that are no longer than the axes are wide."""
    if title:
        figure.draw_without_rendering()
        inches = axes.get_window_extent().width / figure.dpi
        axes.set_title(textwrap.fill(display_text(title), max(int(inches * 9), 20)))


def integer_layers(axes: Any, layers: Sequence[int]) -> None:
    """Whole numbers on the axis of layers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    if len(layers) == 1:
        axes.set_xticks(layers)


def heat_map(axes: Any, values: np.ndarray, share: bool, square: bool = False, numbers: bool = False) -> Any:
    """A matrix in colours that grow darker; what is not defined stays grey."""
    import matplotlib

    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=matplotlib.colormaps["YlGnBu"].with_extremes(bad="#E3E3E3"),
        vmin=0 if share else None,
        vmax=1 if share else None,
        aspect="equal" if square else "auto",
        interpolation="nearest",
    )
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = image.norm(value) > 0.55
                color = "white" if dark else "#222222"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    return image


def add_color_bar(figure: Any, axes: Any, image: Any, label: str) -> None:
    """The scale of a heat map, no taller than a page needs."""
    height = figure.get_figheight()
    shrink = min(1.0, 4.5 / height)
    # About 11 letters an inch, of which margins take one
    label = textwrap.fill(label, max(12, int(11 * (height - 1) * shrink)))
    bar = figure.colorbar(image, ax=axes, label=label, shrink=shrink, anchor=(0, 1))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
