"""Results as a table, as files, and as a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def quartiles(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def ratio_columns(name: str, seconds: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios within each round, as columns."""
    low, middle, high = quartiles(np.divide(seconds, reference))
    return {name: middle, f"{name}_q1": low, f"{name}_q3": high}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def number(value: float | None, digits: int = 2, suffix: str = "") -> str:
    """A number with so many decimals, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}{suffix}"


def write(folder: Path, name: str, results: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write all results as JSON, and the rows of the table as CSV; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.csv"]
    paths[0].write_text(json.dumps(results, indent=2, default=str) + "\n", encoding="utf-8")
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return paths


def plot_ratios(path: Path, rows: Sequence[dict[str, Any]], reference: str, title: str) -> None:
    """
    Ratios of step time and of memory to the reference arm, one panel each.

    Args:
        path ([`~pathlib.Path`]):
            Where the picture goes.
        rows (sequence of `dict`):
            With `setting`, `arm`, `time_ratio`, its quartiles `time_ratio_q1` and `time_ratio_q3`, and `memory_ratio`.
        reference (`str`):
            What 1 stands for.
        title (`str`):
            Over both panels.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["arm"] != reference]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    colors = dict(zip(arms, plt.get_cmap("tab10").colors, strict=False))
    # Settings from top to bottom, the arms of each close together
    height = len(rows) * 0.3 + len(settings) * 0.4 + 1.6
    figure, axes = plt.subplots(1, 2, figsize=(11, height), sharey=True, constrained_layout=True)
    position, ticks = 0.0, []
    for setting in settings:
        block = [row for row in rows if row["setting"] == setting]
        ticks.append(position + (len(block) - 1) / 2)
        for row in block:
            color = colors[row["arm"]]
            low, middle, high = row["time_ratio_q1"], row["time_ratio"], row["time_ratio_q3"]
            axes[0].barh(position, middle, color=color, label=row["arm"])
            axes[0].errorbar(middle, position, xerr=[[middle - low], [high - middle]], color="#333333", capsize=3)
            axes[0].text(high, position, f"  {middle:.2f}", va="center", fontsize=8)
            if row["memory_ratio"] is not None:
                axes[1].barh(position, row["memory_ratio"], color=color)
                axes[1].text(row["memory_ratio"], position, f"  {row['memory_ratio']:.2f}", va="center", fontsize=8)
            position += 1
        position += 1
    for axis, label in zip(axes, (f"step time / {reference}", f"peak memory / {reference}"), strict=True):
        axis.axvline(1, color="#333333", linewidth=1)
        axis.set_xlabel(label)
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(ticks, settings)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=len(unique), frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
