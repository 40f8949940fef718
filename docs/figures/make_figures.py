# ruff: noqa: E402
"""
The pictures of docs/concepts.md, from a model trained on the spot: `python docs/figures/make_figures.py`.

All numbers in them are the model's own, and are written to `figures.json` beside the pictures. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase


HERE = Path(__file__).parent

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.benchmark.arithmetic import load_parallel_arithmetic
from solar_trl.benchmark.models import build_model
from solar_trl.benchmark.settings import ModelSettings
from solar_trl.benchmark.tokenizer import build_tokenizer
from solar_trl.benchmark.vocabulary import SPACE
from solar_trl.objectives import soft_token_summary, soft_tokens


LANGUAGES = {"en": ("English", "#0072B2"), "sw": ("Swahili", "#D55E00")}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "svg.hashsalt": "solar-trl",  # the same file from the same numbers
    "savefig.facecolor": "white",
}


def train(rows: Dataset, tokenizer: PreTrainedTokenizerBase, steps: int, weight: float) -> PreTrainedModel:
    """A small model of the benchmark, trained on parallel problems."""
    with tempfile.TemporaryDirectory() as folder:
        args = SolarSFTConfig(
            folder,
            alignment_weight=weight,
            max_steps=steps,
            per_device_train_batch_size=48,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            seed=0,
        )
        model = build_model(ModelSettings(), tokenizer, seed=0)
        trainer = SolarSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
    return model.eval()


@torch.no_grad()
def response_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict
) -> tuple[torch.Tensor, list]:
    """Logits at the positions that predict the response, `(T, V)`, and the tokens that they predict."""
    prompt = tokenizer(row["prompt"])["input_ids"]
    response = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : -1].float(), words(tokenizer, response)


def words(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Tokens without the mark of the space before them."""
    return [token.removeprefix(SPACE) for token in tokenizer.convert_ids_to_tokens(ids)]


def plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the two largest principal axes of points."""
    mean = points.mean(0)
    return mean, np.linalg.svd(points - mean, full_matrices=False)[2][:2]


def draw_soft_token(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict, output: Path
) -> dict[str, Any]:
    """One position: the distribution, and the mixture of embeddings that it makes."""
    logits, tokens = response_logits(model, tokenizer, row)
    embeddings = model.get_input_embeddings().weight.detach().float()
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    position = int(entropy.argmax())  # where the model is least sure: the mixture is of several tokens
    probs = logits[position].softmax(-1)
    mixture = soft_tokens(logits[None], embeddings)[0, position]
    top = probs.topk(6)
    names = words(tokenizer, top.indices.tolist())
    rest = 1 - float(top.values.sum())
    mean, axes = plane(embeddings[top.indices].numpy())
    spots = (embeddings[top.indices].numpy() - mean) @ axes.T
    soft = (mixture.numpy() - mean) @ axes.T

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    left.barh([*names, "all others"], [*top.values.tolist(), rest], color=["#0072B2"] * 6 + ["#BBBBBB"])
    left.invert_yaxis()
    for i, value in enumerate([*top.values.tolist(), rest]):
        left.text(value + 0.004, i, f"{value:.2f}", va="center", fontsize=9)
    left.set(xlabel="probability of the next token", title=f"after “{' '.join(tokens[:position][-3:])}”")
    left.margins(x=0.15)
    right.scatter(*spots.T, s=30 + 900 * top.values.numpy(), color="#0072B2", alpha=0.55, linewidths=0)
    for name, (x, y) in zip(names, spots, strict=True):
        right.annotate(name, (x, y), xytext=(7, 7), textcoords="offset points", fontsize=9)
        right.plot([x, soft[0]], [y, soft[1]], color="#CCCCCC", linewidth=0.8, zorder=0)
    right.scatter(*soft, marker="X", s=110, color="#D55E00", zorder=3)
    right.annotate("soft token", soft, xytext=(10, 4), textcoords="offset points", color="#D55E00", weight="bold")
    right.set(title="their embeddings, and the mixture", xticks=[], yticks=[], xlabel="first two principal axes")
    right.margins(0.2)
    right.spines[:].set_visible(False)
    save(figure, output / "soft_token.svg")
    return {
        "response": tokens,
        "position": position,
        "probabilities": dict(zip(names, map(float, top.values), strict=True)),
        "others": rest,
    }


def draw_summaries(
    models: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, pair: dict[str, dict], output: Path
) -> dict[str, float]:
    """All positions of two parallel responses and their means, in each model."""
    figure, axes = plt.subplots(1, len(models), figsize=(8.2, 3.8), layout="constrained")
    cosines = {}
    for axis, (title, model) in zip(axes, models.items(), strict=True):
        embeddings = model.get_input_embeddings().weight.detach().float()
        points, means = {}, {}
        for language, row in pair.items():
            logits = response_logits(model, tokenizer, row)[0][None]
            points[language] = soft_tokens(logits, embeddings)[0].numpy()
            mask = torch.ones(logits.shape[:2], dtype=torch.bool)
            means[language] = soft_token_summary(logits, embeddings, mask)[0].numpy()
        one, other = (mean / np.linalg.norm(mean) for mean in means.values())
        cosine = float(one @ other)
        cosines[title] = cosine
        # The plane of the two summaries and the origin: the angle between them is the true one
        axes_of_plane = np.stack([_unit(one + other), _unit(one - other)])
        scale = np.linalg.norm(list(means.values()), axis=1).max()
        for language, (name, color) in LANGUAGES.items():
            axis.scatter(*(axes_of_plane @ points[language].T / scale), s=16, color=color, alpha=0.35, linewidths=0)
            x, y = axes_of_plane @ means[language] / scale
            axis.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2})
            axis.plot([], [], color=color, linewidth=2, label=name)
        angle = np.degrees(np.arccos(min(cosine, 1.0)))
        axis.plot(0, 0, "o", color="#333333", markersize=4)
        axis.set(title=f"{title}: cosine {cosine:.2f}, angle {angle:.0f}°", xticks=[], yticks=[])
        axis.set_aspect("equal", adjustable="datalim")
        axis.spines[:].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    save(figure, output / "summaries.svg")
    return cosines


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), 1e-12)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output_dir", type=Path, default=HERE)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    rows = load_parallel_arithmetic(tuple(LANGUAGES), n=600, seed=0)
    tokenizer = build_tokenizer(tuple(LANGUAGES))
    models = {title: train(rows, tokenizer, args.steps, weight) for title, weight in (("SFT", 0.0), ("SOLAR", 1.0))}
    held_out = load_parallel_arithmetic(tuple(LANGUAGES), n=1, seed=0, split="test")
    pair = {row["language"]: row for row in held_out}
    with plt.rc_context(STYLE):
        numbers = {
            "steps": args.steps,
            "soft_token": draw_soft_token(models["SFT"], tokenizer, pair["en"], args.output_dir),
            "cosine_of_summaries": draw_summaries(models, tokenizer, pair, args.output_dir),
        }
    (args.output_dir / "figures.json").write_text(
        json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(json.dumps(numbers["cosine_of_summaries"]))


if __name__ == "__main__":
    main()
