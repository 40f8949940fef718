"""The alignment section of the model card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .config import SolarSFTConfig
from .data import PairingReport
from .data.report import printable


PAPER = {
    "title": "Soft Token Alignment for Cross-Lingual Reasoning",
    "id": "2606.26466",
    # docstyle-ignore
    "citation": """\
@article{he2026solar,
    title         = {{Soft Token Alignment for Cross-Lingual Reasoning}},
    author        = {He, Jiayi and Park, Jungsoo and Xu, Wei and Ritter, Alan},
    year          = {2026},
    eprint        = {2606.26466},
    archivePrefix = {arXiv}
}""",
}

SETTINGS = (
    "alignment_objective",
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


def alignment_section(args: SolarSFTConfig, report: PairingReport | None) -> str:
    """Markdown on the objective, its settings and the pairs it was trained on."""
    lines = [
        "### Cross-lingual alignment",
        "",
        "Alignment was off." if args.objective is None else args.objective.description,
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
    lines += ["", "Trained with [solar-trl](https://pypi.org/project/solar-trl/), an extension of TRL's `SFTTrainer`."]
    return "\n".join(lines)


def add_alignment_section(path: str | Path, args: SolarSFTConfig, report: PairingReport | None) -> None:
    """Insert the section into a model card, before its framework versions (at the end if it has none)."""
    path = Path(path)
    card = path.read_text(encoding="utf-8")
    section = alignment_section(args, report)
    if _BEFORE in card:
        card = card.replace(_BEFORE, f"{section}\n\n{_BEFORE}", 1)
    else:
        card = f"{card.rstrip()}\n\n{section}\n"
    path.write_text(card, encoding="utf-8")
