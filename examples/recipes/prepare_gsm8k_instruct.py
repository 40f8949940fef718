"""
Make the data of the recipes of GSM8KInstruct_Parallel (MathOctopus, https://arxiv.org/abs/2310.20246).

    pip install "solar-trl[data]"
    python examples/recipes/prepare_gsm8k_instruct.py --output_dir data

The set holds the training problems of GSM8K with step-by-step solutions in ten languages: an English row, then its
translations, some of them missing, then the next English row. A row is `prompt`, a question wrapped into instructions
that name the language, and `chosen`, the solution. What comes out are `train.jsonl` and `eval.jsonl`, which share no
problem, with the columns `prompt` (the bare question), `completion`, `language` and `parallel_id`.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

from datasets import Dataset, load_dataset

from solar_trl.data import assign_parallel_id, normalize_languages


WRAPPER = re.compile(
    r"(?:request|answer) in (?P<language>\w+).*?Instruction:\s*(?P<question>.+?)\s*###\s*Response", re.S
)


def unwrap(row: dict[str, str]) -> dict[str, str]:
    """Question and language out of the instructions around them."""
    match = WRAPPER.search(row["prompt"])
    if match is None:
        raise ValueError(
            f"A prompt is not of the form of GSM8KInstruct_Parallel: {row['prompt']!r}. For data of another form see "
            "docs/data.md."
        )
    return {"prompt": match["question"], "completion": row["chosen"].strip(), "language": match["language"]}


def prepare(rows: Dataset, num_eval: int, seed: int = 0) -> tuple[Dataset, Dataset]:
    """
    Training and evaluation rows in the long format.

    Args:
        rows ([`~datasets.Dataset`]):
            Rows with `prompt` and `chosen`, English ones first within each problem.
        num_eval (`int`):
            Number of problems held out, with all their translations.
        seed (`int`, *optional*, defaults to `0`):
            Which ones.
    """
    rows = rows.map(unwrap, remove_columns=[name for name in rows.column_names if name != "prompt"])
    rows = assign_parallel_id(normalize_languages(rows))
    problems = sorted(set(rows["parallel_id"]))
    if not 0 < num_eval < len(problems):
        raise ValueError(f"`num_eval` is {num_eval}, expected at least 1 and fewer than the {len(problems)} problems.")
    held_out = set(random.Random(seed).sample(problems, num_eval))
    in_eval = [name in held_out for name in rows["parallel_id"]]
    return (
        rows.select([i for i, held in enumerate(in_eval) if not held]),
        rows.select([i for i, held in enumerate(in_eval) if held]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", default="Mathoctopus/GSM8KInstruct_Parallel", help="on the Hub, or a local JSON file"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_eval", type=int, default=100, help="problems held out for evaluation")
    args = parser.parse_args()

    if Path(args.dataset).is_file():
        rows = load_dataset("json", data_files=args.dataset, split="train")
    else:
        rows = load_dataset(args.dataset, split="train")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, split in zip(("train", "eval"), prepare(rows, args.num_eval), strict=True):
        split.to_json(args.output_dir / f"{name}.jsonl", force_ascii=False)
        print(f"{args.output_dir / name}.jsonl: {len(split)} rows in {len(set(split['language']))} languages")


if __name__ == "__main__":
    main()
