"""The demo's results as text."""

from __future__ import annotations

from .data import HIGH_RESOURCE, LANGUAGES, LOW_RESOURCE
from .evaluate import Evaluation


# Key, label and direction
GEOMETRY = (
    ("matched", "cosine with the English parallel", ""),
    ("random", "cosine with unrelated English", ""),
    ("difference", "difference of the two", "higher: better aligned"),
    ("mexa", "MEXA (nearest to its parallel)", "higher: better aligned"),
    ("silhouette", "silhouette by language", "lower: languages less apart"),
    ("probe_accuracy", "linear language probe", ""),
)


def results_table(evaluations: dict[str, Evaluation], num_items: int) -> str:
    """Accuracy, likelihood and geometry of every model, as aligned text."""
    return "\n\n".join(
        (
            f"Correct final answers on {num_items} held-out problems, greedy decoding (%)\n"
            + _by_language({name: e.accuracy for name, e in evaluations.items()}, lambda value: f"{100 * value:.0f}"),
            "Loss on the reference responses (nats per token, lower is better)\n"
            + _by_language({name: e.nll for name, e in evaluations.items()}, lambda value: f"{value:.3f}"),
            "Last-layer hidden states of the reference responses, mean over the five other languages\n"
            + _geometry(evaluations, "geometry", GEOMETRY),
            "Soft-token summaries (what SOLAR trains, so no evidence for anything else)\n"
            + _geometry(evaluations, "soft_tokens", GEOMETRY[:3]),
        )
    )


def _by_language(rows: dict[str, dict[str, float]], number) -> str:
    groups = ("high", "low")
    header = "".join(f"{lang:>8}" for lang in LANGUAGES) + "  |" + "".join(f"{group:>8}" for group in groups)
    lines = [f"  {'':8}{header}", "  " + "-" * (8 + len(header))]
    for name, values in rows.items():
        cells = [f"{number(values[key]):>8}" for key in (*LANGUAGES, *groups)]
        lines.append(f"  {name:8}{''.join(cells[: len(LANGUAGES)])}  |{''.join(cells[len(LANGUAGES) :])}")
    return "\n".join(lines)


def _geometry(evaluations: dict[str, Evaluation], part: str, rows: tuple[tuple[str, str, str], ...]) -> str:
    header = f"{'':34}" + "".join(f"{name:>8}" for name in evaluations)
    lines = ["  " + header, "  " + "-" * len(header)]
    for key, label, note in rows:
        cells = "".join(f"{getattr(e, part)[key]:>8.3f}" for e in evaluations.values())
        lines.append(f"  {label:34}{cells}" + (f"   {note}" if note else ""))
    return "\n".join(lines)


def setup_text(
    num_parameters: int, vocabulary_size: int, num_high: int, num_low: int, weight: float, batching: str
) -> str:
    """What is compared, in four lines."""
    high, low = ", ".join(HIGH_RESOURCE), ", ".join(LOW_RESOURCE)
    return (
        f"Model   Qwen3, {num_parameters / 1e6:.2f}M parameters, random weights, {vocabulary_size} words\n"
        f"Base    language modeling: problems solved in English, unsolved stories in all six languages\n"
        f"Arms    SFT and SOLAR (weight {weight:g}) from that base, same batches in the same order ({batching})\n"
        f"Data    {num_high} problems in {high}; {num_low} in en, {low}; word problems with solutions step by step"
    )
