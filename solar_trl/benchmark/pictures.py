"""Pictures of the reported runs: the map of languages, every seed's gain, and accuracy in the course of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.fonts import display_names
from ..analysis.maps import project_states
from ..analysis.plot_style import GREY, add_legend, drawing, language_styles
from .contrasts import compare, group_languages, item_values, layer_value
from .criteria import LEAST_GAIN
from .languages import LANGUAGES
from .report_tables import ArmResults
from .results import by_condition, read_results, result_path


if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = Mapping[str, Any]
States = tuple[np.ndarray, np.ndarray, Result]  # of held-out rows, the language of each, and whose they are
REFERENCE = "sft"  # what the gains are measured against
MAPPED = ("base", REFERENCE, "solar", "solar_decay")
_LABELS = {
    "base": "base model",
    "sft": "SFT",
    "sft_grouped": "SFT, grouped",
    "solar": "SOLAR",
    "solar_grouped": "SOLAR, grouped",
    "solar_decay": "SOLAR, weight 3 decays",
    "sft_lora": "SFT, LoRA",
    "solar_lora": "SOLAR, LoRA",
    "hard_token": "hard tokens",
    "mid_align": "middle layer",
    "placebo": "shuffled pairs",
    "solar[alignment_schedule=linear_decay]": "SOLAR, weight 0.3 decays",
}


def draw_all(folder: Path) -> list[Path]:
    """
    Draw every picture that the reported results in a folder allow, one set for each set of conditions.

    Returns:
        `list[Path]`: PNG files, `overview*.png` and `curves*.png`.

    Raises:
        ImportError: If matplotlib or scikit-learn is not installed.
    """
    files = []
    groups = by_condition(read_results(folder, "reported"))
    for key, results in groups.items():
        arms = ArmResults.of(results).arms
        suffix = f"-{key[:6]}" if len(groups) > 1 else ""
        figures = {"overview": overview(arms, saved_states(folder, arms)), "curves": accuracy_curves(arms)}
        for name, figure in figures.items():
            if figure is not None:
                files.append(folder / f"{name}{suffix}.png")
                figure.savefig(files[-1])
    return files


def saved_states(folder: Path, arms: Mapping[str, Sequence[Result]]) -> dict[str, States]:
    """States and languages of the mapped arms, and their result, on one seed of which all have states."""
    found: dict[int, dict[str, States]] = {}
    for name in (name for name in MAPPED if name in arms):
        for result in arms[name]:
            path = result_path(folder, result).with_suffix(".npz")
            if path.exists():
                with np.load(path) as arrays:
                    states, languages = arrays["states"].astype(np.float32), arrays["languages"]
                found.setdefault(result["seed"], {})[name] = states, languages, result
    return max(found.values(), key=len, default={})


def overview(arms: Mapping[str, Sequence[Result]], states: Mapping[str, States]) -> Figure | None:
    """
    Left, held-out responses of all languages before and after; right, each seed's gain in low-resource accuracy.

    `None` if there is neither a map nor a gain to show.
    """
    rows = _gain_rows(arms)
    if not states and not rows:
        return None
    names = display_names(list(dict.fromkeys(lang for _, langs, _ in states.values() for lang in langs)), None)
    labels = {code: LANGUAGES[code].name if code in LANGUAGES else code for code in names}
    columns = min(len(states), 2)
    widths = [2.6 * columns] * bool(states) + [5.0] * bool(rows)
    lines = -(-len(states) // 2)  # of maps
    height = max(2.7 * lines + 0.6, 1.4 + 0.55 * len(rows))
    with drawing(max(sum(widths), 6.0), height, [*labels.values(), "−"]) as figure:
        parts = list(figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0])
        if states:
            _maps(parts[0].subplots(lines, columns, squeeze=False), states, labels)
            handles, texts = parts[0].axes[0].get_legend_handles_labels()
            parts[0].legend(
                handles, texts, loc="outside lower left", ncols=2 * columns, markerscale=1.2, columnspacing=1
            )
        if rows:
            _gains(parts[-1].subplots(), rows)
    return figure


def _maps(axes: np.ndarray, states: Mapping[str, States], labels: Mapping[str, str]) -> None:
    for axis, (name, (points, languages, result)) in zip(axes.flat, states.items(), strict=False):
        _map(axis, points, languages, labels)
        _titles(axis, _label(name), f"silhouette by language {layer_value(result, 'silhouette'):.2f}")
    for axis in axes.flat[len(states) :]:
        axis.set_axis_off()


def _map(axis: Any, states: np.ndarray, languages: np.ndarray, labels: Mapping[str, str]) -> None:
    points = np.array(project_states(states, languages.tolist())["points"])
    codes = list(labels)
    for code, style in zip(codes, language_styles(len(codes)), strict=True):
        x, y = points[languages == code].T
        axis.scatter(
            x, y, s=14, marker=style["marker"], color=style["color"], alpha=0.75, linewidths=0.3, edgecolors="white",
            label=labels[code],
        )  # fmt: skip
    axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axis.spines[:].set_visible(True)
    axis.grid(visible=False)


def _gain_rows(arms: Mapping[str, Sequence[Result]]) -> list[tuple[str, str, np.ndarray, Any]]:
    """Arm, its control, each seed's difference in low-resource accuracy, and the contrast; the first on top."""
    rows = []
    for name, results in arms.items():
        control = results[0]["arm"]["control"]
        if control in (None, "base") or control not in arms:
            continue
        theirs = {result["seed"]: result for result in arms[control]}
        pairs = [(result, theirs[result["seed"]]) for result in results if result["seed"] in theirs]
        contrast = compare(results, arms[control], "accuracy", "low")
        if contrast is not None:
            gains = [
                (item_values(one, "accuracy", "low") - item_values(other, "accuracy", "low")).mean()
                for one, other in pairs
            ]
            rows.append((name, control, 100 * np.array(gains), contrast))
    return rows


def _gains(axis: Any, rows: Sequence[tuple[str, str, np.ndarray, Any]]) -> None:
    places = range(len(rows))[::-1]
    rng = np.random.default_rng(0)  # of the dots' heights, which mean nothing
    for place, (name, _, gains, contrast) in zip(places, rows, strict=True):
        color = "#D55E00" if name.startswith("solar") else "#555555"
        heights = place + rng.uniform(-0.18, 0.18, len(gains)) * (len(gains) > 1)
        axis.scatter(gains, heights, s=14, color=color, alpha=0.45, linewidths=0)
        mean = 100 * contrast.difference
        if np.isfinite(contrast.low):
            axis.plot([100 * contrast.low, 100 * contrast.high], [place] * 2, color=color, linewidth=2.2, zorder=3)
        axis.scatter([mean], [place], s=42, marker="D", color=color, edgecolors="white", linewidths=0.8, zorder=4)
    axis.axvline(0, color="#333333", linewidth=0.9)
    axis.axvline(100 * LEAST_GAIN, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.annotate(
        f"+{100 * LEAST_GAIN:.1f}", (100 * LEAST_GAIN, 1), (2, -2), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top", size=8, color="#777777",
    )  # fmt: skip
    labels = [
        f"{_label(name)}, {contrast.seeds} seeds\nagainst {_label(control)} ({100 * contrast.reference:.0f} %)"
        for name, control, _, contrast in rows
    ]
    axis.set_yticks(list(places), labels, size=8)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("points")
    axis.grid(axis="y", visible=False)
    axis.set_title("Gain in low-resource accuracy\n", size=11)
    axis.text(
        0,
        1.02,
        "a dot per seed, mean, 95 % interval",
        transform=axis.transAxes,
        size=9,
        color="#555555",
    )


def accuracy_curves(arms: Mapping[str, Sequence[Result]]) -> Figure | None:
    """Low-resource accuracy on validation items in the course of training: the mean over seeds and its range."""
    trained = {name: results for name, results in arms.items() if len(results[0]["measures"]["curve"]["steps"]) > 1}
    if not trained:
        return None
    with drawing(9.5, 4.8, [_label(name) for name in trained]) as figure:
        axis = figure.add_subplot()
        for (name, results), style in zip(trained.items(), language_styles(len(trained)), strict=True):
            steps = results[0]["measures"]["curve"]["steps"]
            lines = 100 * np.array([_low_curve(result) for result in results])
            main = name in MAPPED
            width, order = (2.4, 3) if main else (1.2, 2)
            label = f"{_label(name)} ({len(lines)} seeds)"
            axis.plot(steps, lines.mean(0), label=label, markersize=4, linewidth=width, zorder=order, **style)
            if main and len(lines) > 1:
                low, high = np.quantile(lines, [0.1, 0.9], axis=0)
                axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axis.set(xlabel="optimizer step", ylabel="accuracy in low-resource languages (%)")
        axis.set_ylim(bottom=0)
        _titles(axis, "Accuracy on validation problems", "mean over seeds; bands: the middle 80 % of seeds")
        add_legend(figure, axis)
    return figure


def _titles(axis: Any, title: str, subtitle: str) -> None:
    axis.set_title(f"{title}\n", size=11)
    axis.text(0, 1.02, subtitle, transform=axis.transAxes, size=9, color="#555555")


def _low_curve(result: Result) -> np.ndarray:
    accuracy = result["measures"]["curve"]["accuracy"]
    return np.mean([accuracy[language] for language in group_languages(result, "low")], axis=0)


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))
