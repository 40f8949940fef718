"""The pictures of the demo."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from .data import HIGH_RESOURCE, LANGUAGE_NAMES, LANGUAGES, PIVOT
from .evaluate import Evaluation


# Okabe and Ito's palette, told apart with any colour vision; languages differ in marker as well
LANGUAGE_STYLE = {
    "en": ("#000000", "o"),
    "de": ("#0072B2", "s"),
    "es": ("#56B4E9", "D"),
    "sw": ("#D55E00", "^"),
    "bn": ("#009E73", "v"),
    "th": ("#CC79A7", "P"),
}
ARM_STYLE = {
    "Base": {"color": "#B8B8B8", "linestyle": ":"},
    "SFT": {"color": "#56779B", "linestyle": "--"},
    "SOLAR": {"color": "#E08214", "linestyle": "-"},
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
}


def plot_curves(path: Path, curves: dict[str, list[dict[str, float]]]) -> None:
    """Held-out SFT loss, and pivot similarity of soft tokens and of hidden states, over the steps of both arms."""
    panels = (
        ("SFT loss", "nats per response token", ("loss_low", "low-resource"), ("loss_high", "high-resource")),
        (
            "Soft tokens (in SOLAR's loss)",
            "cosine with English (1 − loss)",
            ("soft_matched", "parallel"),
            ("soft_random", "unrelated"),
        ),
        (
            "Hidden states (in neither loss)",
            "cosine with English",
            ("hidden_matched", "parallel"),
            ("hidden_random", "unrelated"),
        ),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(12.6, 4.4))
        for axis, (title, label, bold, thin) in zip(axes, panels, strict=True):
            for (key, _), width, alpha in ((bold, 2.4, 1.0), (thin, 1.1, 0.9)):
                for arm, points in curves.items():
                    steps, values = [point["step"] for point in points], [point[key] for point in points]
                    axis.plot(steps, values, linewidth=width, alpha=alpha, **ARM_STYLE[arm])
            axis.set(title=title, xlabel="optimizer step", ylabel=label, xlim=(0, None))
            widths = [
                Line2D([], [], color="#777777", linewidth=width, label=name)
                for (_, name), width in ((bold, 2.4), (thin, 1.1))
            ]
            axis.legend(handles=widths, loc="upper right" if axis is axes[0] else "lower right")
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0].yaxis.set_minor_locator(NullLocator())
        for axis in axes[1:]:
            axis.set_ylim(0, 1.02)
        figure.suptitle("Held-out problems while training", x=0.01, ha="left", fontsize=13)
        arms = [Line2D([], [], linewidth=2.4, label=arm, **ARM_STYLE[arm]) for arm in curves]
        figure.legend(handles=arms, loc="outside lower center", ncols=len(arms), handlelength=2.8, fontsize=11)
        _save(figure, path)


def plot_map(path: Path, evaluations: dict[str, Evaluation], linked_items: int = 10) -> None:
    """
    The plane in which the hidden states of held-out responses vary most, for each arm.

    States are scaled to unit length, since cosines are what the table reports, and each arm gets the plane of its own:
    their spaces are not the same. The second map is turned (not stretched) to lie like the first.
    """
    maps: dict[str, np.ndarray] = {}
    shares = {}
    for arm, evaluation in evaluations.items():
        points, shares[arm] = _principal_plane(evaluation.states)
        if maps:
            points = points @ _rotation_onto(points, next(iter(maps.values())))
        maps[arm] = points
    low, high = np.min([m.min((0, 1)) for m in maps.values()], 0), np.max([m.max((0, 1)) for m in maps.values()], 0)
    margin = 0.05 * (high - low)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(maps), figsize=(5.6 * len(maps), 5.4), sharex=True, sharey=True)
        for axis, (arm, points) in zip(axes, maps.items(), strict=True):
            by_language = dict(zip(LANGUAGES, points, strict=True))
            for lang in LANGUAGES:
                color, marker = LANGUAGE_STYLE[lang]
                if lang != PIVOT:
                    for start, end in list(zip(by_language[PIVOT], by_language[lang], strict=True))[:linked_items]:
                        axis.plot(*np.stack([start, end]).T, color=color, alpha=0.35, linewidth=0.7, zorder=1)
                axis.scatter(
                    *by_language[lang].T, s=24, color=color, marker=marker, alpha=0.75, linewidths=0.4,
                    edgecolors="white", zorder=3 if lang == PIVOT else 2,
                )  # fmt: skip
            geometry = evaluations[arm].geometry
            axis.set(
                title=arm,
                xlim=(low[0] - margin[0], high[0] + margin[0]),
                ylim=(low[1] - margin[1], high[1] + margin[1]),
                xlabel=f"principal plane, {shares[arm]:.0%} of the variance",
                aspect="equal",
            )
            axis.set_title(
                f"silhouette by language {geometry['silhouette']:.2f}", loc="right", weight="normal", size=9.5
            )
            axis.tick_params(labelbottom=False, labelleft=False, length=0)
            for spine in axis.spines.values():
                spine.set_visible(True)
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", markersize=6, label=LANGUAGE_NAMES[lang])
            for lang, (color, marker) in LANGUAGE_STYLE.items()
        ]
        handles.append(Line2D([], [], color="#888888", linewidth=0.9, label=f"parallels of {linked_items} items"))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.3, columnspacing=1.6
        )
        figure.suptitle("Hidden states of held-out responses, one point per response", x=0.01, ha="left", fontsize=13)
        _save(figure, path)


def plot_accuracy(path: Path, evaluations: dict[str, Evaluation], num_items: int) -> None:
    """Exact match by language and model, with binomial standard errors."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9.6, 4.2))
        width = 0.8 / len(evaluations)
        for i, (arm, evaluation) in enumerate(evaluations.items()):
            values = np.array([evaluation.accuracy[lang] for lang in LANGUAGES])
            places = np.arange(len(LANGUAGES)) + (i - (len(evaluations) - 1) / 2) * width
            errors = np.sqrt(values * (1 - values) / num_items)
            axis.bar(places, values, width * 0.94, label=arm, color=ARM_STYLE[arm]["color"])
            axis.errorbar(places, values, errors, fmt="none", ecolor="#333333", elinewidth=0.9, capsize=2)
            for place, value, error in zip(places, values, errors, strict=True):
                axis.annotate(
                    f"{value:.0%}", (place, value + error), (0, 3), textcoords="offset points", ha="center", size=8.5,
                    color="#333333",
                )  # fmt: skip
        _label_groups(axis)
        axis.set(ylim=(0, 1.12), xlim=(-0.6, len(LANGUAGES) - 0.4), yticks=np.linspace(0, 1, 6))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(axis="x", visible=False)
        axis.set_title("Correct final answers on held-out problems")
        axis.legend(loc="upper right", ncols=len(evaluations), bbox_to_anchor=(1, 1.14))
        _save(figure, path)


def _label_groups(axis: Axes) -> None:
    axis.set_xticks(range(len(LANGUAGES)), [LANGUAGE_NAMES[lang] for lang in LANGUAGES], size=10.5, color="#333333")
    axis.tick_params(axis="x", length=0)
    border = len(HIGH_RESOURCE) - 0.5
    axis.axvline(border, color="#BBBBBB", linewidth=1, linestyle=(0, (4, 4)))
    for place, name in ((border / 2 - 0.25, "high-resource"), ((border + len(LANGUAGES) - 0.5) / 2, "low-resource")):
        axis.text(place, -0.105, name, transform=axis.get_xaxis_transform(), ha="center", va="top", color="#777777")


def _principal_plane(states: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Points `(languages, n, 2)`, and the share of the variance that they keep."""
    stacked = np.stack([states[lang] for lang in LANGUAGES]).astype(np.float64)
    stacked /= np.linalg.norm(stacked, axis=-1, keepdims=True)
    stacked -= stacked.mean((0, 1))
    _, singular, axes = np.linalg.svd(stacked.reshape(-1, stacked.shape[-1]), full_matrices=False)
    return stacked @ axes[:2].T, float((singular[:2] ** 2).sum() / (singular**2).sum())


def _rotation_onto(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Orthogonal Procrustes: the turn or flip that brings points closest to their counterparts."""
    left, _, right = np.linalg.svd(points.reshape(-1, 2).T @ target.reshape(-1, 2))
    return left @ right


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
