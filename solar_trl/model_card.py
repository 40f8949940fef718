"""The alignment section of the model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import __version__
from .config import SolarSFTConfig
from .data import PairingReport
from .data.report import printable
from .objectives import OBJECTIVES, Objective


SETTINGS = (
    "alignment_objective",
    "alignment_kwargs",
    "alignment_alternate",
    "alignment_weight",
    "alignment_schedule",
    "alignment_warmup_ratio",
    "soft_token_temperature",
    "soft_token_top_k",
    "detach_pivot",
    "detach_embeddings",
    "pivot_language",
    "pivot_batching",
    "missing_pivot",
    "multiple_pivots",
    "truncated_pairs",
)
_BEFORE = "### Framework versions"
# What Markdown or HTML may read as more than a character; `:`, `.` and `@` make links of addresses
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+!|~&$:.@/-]")


def _text(value: str) -> str:
    """User text that a card shows as it is, whatever it holds."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", printable(value))


def _code(value: Any) -> str:
    """A setting in code font, or as text where it holds what would end the code or the cell."""
    shown = printable(repr(value))
    return _text(shown) if set(shown) & set("`|<>&") else f"`{shown}`"


def alignment_section(
    args: SolarSFTConfig, report: PairingReport | None, ends: Mapping[str, tuple[float, float, int]] | None = None
) -> str:
    """Markdown on the objective, its settings, the pairs it was trained on, and what was logged first and last."""
    objective = args.objective
    lines = ["### Cross-lingual alignment", ""]
    preset = OBJECTIVES[args.alignment_objective]
    lines += ["Alignment was off."] if objective is None or preset is None else _describe(objective, preset)
    lines += [
        "",
        "| Setting | Value |",
        "| --- | --- |",
        *(f"| `{name}` | {_code(getattr(args, name))} |" for name in SETTINGS),
    ]
    if report is not None:
        lines += [
            "",
            f"Trained on {report.rows:,} rows, {report.pairs:,} of them paired with {report.pivots:,} pivots:",
            "",
            "| Language | Rows | Pairs | Without a pivot |",
            "| --- | --: | --: | --: |",
            *(
                f"| {_text(name)} | {x.rows:,} | {x.pairs:,} | {x.unpaired:,} |"
                for name, x in report.languages.items()
            ),
        ]
    if ends:
        lines += [
            "",
            "In the first and the last logging window of training that has them:",
            "",
            "| | First | Last | Windows |",
            "| --- | --: | --: | --: |",
            *(f"| {_text(name)} | {first:.4f} | {last:.4f} | {n} |" for name, (first, last, n) in ends.items()),
        ]
    lines += [
        "",
        f"Trained with [solar-trl](https://pypi.org/project/solar-trl/) {__version__}, an extension of TRL's "
        "`SFTTrainer`.",
    ]
    return "\n".join(lines)


def _describe(objective: Objective, preset: Objective) -> list[str]:
    """Lines on what was aligned, how it differs from the preset, and where that comes from."""
    changed = [name for name, value in objective.settings.items() if getattr(preset, name) != value]
    lines = [objective.description]
    if changed:
        lines[0] += f" Changed from the preset: {', '.join(f'`{name}`' for name in changed)}."
    points = ", ".join(f"{name} {_code(value)}" for name, value in objective.settings.items())
    lines += ["", f"Point in the frame of objectives: {points}."]
    if objective.source is not None:
        lines += ["", f"After {objective.source.title} (arXiv:{objective.source.number}), {objective.status}."]
    if objective.choices:
        lines += ["", objective.choices]
    return lines


def identity(preset: str) -> tuple[str, dict[str, str]]:
    """What TRL's model card calls the method, and where it comes from: title, arXiv identifier and citation."""
    objective = OBJECTIVES[preset]
    names = {"solar": "SOLAR", "none": "SFT"}
    name = names.get(preset, f"SFT with cross-lingual alignment ({preset})")
    source = None if objective is None else objective.source
    return name, {} if source is None else {"title": source.title, "id": source.number, "citation": source.citation}


def add_alignment_section(
    path: str | Path,
    args: SolarSFTConfig,
    report: PairingReport | None,
    ends: Mapping[str, tuple[float, float, int]] | None = None,
) -> None:
    """Insert the section into a model card, before its framework versions (at the end if it has none)."""
    path = Path(path)
    card = path.read_text(encoding="utf-8")
    section = alignment_section(args, report, ends)
    if _BEFORE in card:
        card = card.replace(_BEFORE, f"{section}\n\n{_BEFORE}", 1)
    else:
        card = f"{card.rstrip()}\n\n{section}\n"
    path.write_text(card, encoding="utf-8")
