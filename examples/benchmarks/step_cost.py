"""
What a training step costs with alignment, next to `SFTTrainer` on the same rows and the same model.

    python examples/benchmarks/step_cost.py --vocab-size 32768 151936 --threads 2
    python examples/benchmarks/step_cost.py --head-only --batch 8x128 --hidden-size 128 896
    python examples/benchmarks/step_cost.py --device cuda --shape qwen2.5-0.5b qwen2.5-1.5b qwen3-4b \
        --batch 16x512 4x2048 --dtype bfloat16 --training full lora --gradient-checkpointing yes

Every option of the model, the batch and the training takes several values; all combinations are measured one after the
other. Arms take turns within one process, one optimizer step each, in an order that rotates; ratios are taken within a
round. A table is printed, and written with all single figures to the output folder as JSON, CSV and a picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Any


EXAMPLES = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    from benchmarks.settings import DTYPES, SHAPES, TRAINING

    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    sweep = parser.add_argument_group("what is measured: all combinations of these")
    sweep.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["tiny"], help="model, random weights")
    sweep.add_argument("--vocab-size", nargs="+", type=int, default=[None], help="instead of the shape's own")
    sweep.add_argument("--hidden-size", nargs="+", type=int, default=[None], help="instead of the shape's own")
    sweep.add_argument("--layers", nargs="+", type=int, default=[None], help="instead of the shape's own")
    sweep.add_argument(
        "--batch", nargs="+", type=_batch, default=[(8, 128)], metavar="ROWSxLENGTH", help="rows of an optimizer step"
    )
    sweep.add_argument("--prompt-share", nargs="+", type=float, default=[0.0], help="tokens that are not in the loss")
    sweep.add_argument("--languages", nargs="+", type=int, default=[4], help="rows per item, with the pivot")
    sweep.add_argument("--temperature", nargs="+", type=float, default=[1.0], help="of the soft tokens")
    sweep.add_argument("--top-k", nargs="+", type=_top_k, default=[None], help="a number, or 'all'")
    sweep.add_argument("--training", nargs="+", choices=TRAINING, default=["full"])
    sweep.add_argument("--gradient-checkpointing", nargs="+", type=_yes, default=[False], metavar="yes|no")
    sweep.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="'mixed': bf16 autocast")
    sweep.add_argument("--optim", nargs="+", default=["adamw_torch"], help="as in `TrainingArguments`")
    sweep.add_argument("--tile-mib", nargs="+", type=int, default=[256], help="`logits_tile_mib`")

    parser.add_argument("--head-only", action="store_true", help="the LM head alone instead of training steps")
    parser.add_argument("--arms", nargs="+", help="which to compare; 'solar@2' accumulates batches of 2 rows")
    parser.add_argument("--steps", type=int, default=10, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--no-memory", action="store_true", help="on a CPU, skip the processes that measure memory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="of weights and rows")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="where the results go")
    args = parser.parse_args()
    if args.steps < 1 or args.warmup < 0:
        parser.error("--steps must be at least 1, and --warmup at least 0")
    return args


def _batch(text: str) -> tuple[int, int]:
    rows, _, length = text.partition("x")
    return int(rows), int(length)


def _top_k(text: str) -> int | None:
    return None if text == "all" else int(text)


def _yes(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def settings_of(args: argparse.Namespace) -> list:
    """All combinations of the options, as settings."""
    from benchmarks.settings import Setting

    swept = [field.name for field in dataclasses.fields(Setting) if isinstance(getattr(args, field.name, None), list)]
    settings = []
    for (batch_size, length), *values in itertools.product(args.batch, *(getattr(args, name) for name in swept)):
        named = dict(zip(swept, values, strict=True))
        common = {"device": args.device, "threads": args.threads, "seed": args.seed}
        settings.append(Setting(batch_size=batch_size, length=length, **named, **common))
    return settings


def label_of(setting, settings: list) -> str:
    """Size of the problem, and whatever else differs between settings."""
    config = setting.config()
    parts = [f"{setting.shape}, V={config.vocab_size:,}, d={config.hidden_size}"]
    parts.append(f"{setting.batch_size}x{setting.length} tokens")
    for field in dataclasses.fields(setting):
        if field.name in ("shape", "vocab_size", "hidden_size", "batch_size", "length"):
            continue
        if len({getattr(other, field.name) for other in settings}) > 1:
            parts.append(f"{field.name}={getattr(setting, field.name)}")
    return ", ".join(parts)


def rows_of(setting, label: str, reference: str, results: dict, rate: float) -> list[dict[str, Any]]:
    """One row of figures per arm."""
    from benchmarks.report import quartiles, ratio_columns

    rows, base = [], results[reference]
    for name, result in results.items():
        low, middle, high = quartiles(result.seconds)
        comparable = result.memory_mib is not None and base.memory_mib
        row = {
            "setting": label,
            "arm": name,
            "seconds": middle,
            "seconds_q1": low,
            "seconds_q3": high,
            **ratio_columns("time_ratio", result.seconds, base.seconds),
            "tokens_per_second": setting.tokens / middle,
            "matmul_share": result.flops / middle / rate,
            "memory_mib": result.memory_mib,
            "memory_ratio": result.memory_mib / base.memory_mib if comparable else None,
        }
        kind, at, micro = name.partition("@")
        twin = f"{reference}@{micro}"
        if at and kind != reference and twin in results:
            row |= ratio_columns("time_ratio_same_micro_batch", result.seconds, results[twin].seconds)
        rows.append(row | dataclasses.asdict(setting))
    return rows


def table_of(rows: list[dict[str, Any]], reference: str) -> str:
    """The rows of one setting as text."""
    from benchmarks.report import number, text_table

    header = [
        "arm",
        "s/step",
        f"/{reference}",
        "quartiles",
        "/same micro-batch",
        "tokens/s",
        "matmul",
        "MiB",
        "MiB ratio",
    ]
    lines = [
        (
            row["arm"],
            number(row["seconds"], 3),
            number(row["time_ratio"], 3),
            f"{row['time_ratio_q1']:.3f}-{row['time_ratio_q3']:.3f}",
            number(row.get("time_ratio_same_micro_batch"), 3),
            number(row["tokens_per_second"], 0),
            number(100 * row["matmul_share"], 0, " %"),
            number(row["memory_mib"], 0),
            number(row["memory_ratio"], 3),
        )
        for row in rows
    ]
    # Columns in which there is nothing to say
    shown = [column for column in range(len(header)) if any(line[column] != "-" for line in lines)]
    return text_table([header[column] for column in shown], [[line[column] for column in shown] for line in lines])


def run(args: argparse.Namespace) -> None:
    from benchmarks import head_arms, machine, measure, report, trainer_arms

    kind = head_arms if args.head_only else trainer_arms
    wanted = args.arms or (list(kind.ARMS) + ([] if args.head_only else ["sft@1", "solar@1", "sft@2", "solar@2"]))
    settings = settings_of(args)
    facts = machine.facts(args.device, args.threads)
    memory = "the most allocated" if args.device == "cuda" else "growth of peak RSS, each arm in its own process"
    print(
        f"{machine.describe(facts)}\n\nMiB: {memory}. matmul: share of the rate of a plain matrix product.\n",
        flush=True,
    )

    rows, details, start = [], [], time.perf_counter()
    for setting in settings:
        label = label_of(setting, settings)
        notes = {name: note for name in wanted if (note := kind.unavailable(name, setting)) is not None}
        names = [kind.REFERENCE, *(name for name in wanted if name not in notes and name != kind.REFERENCE)]
        module = kind.__name__.rpartition(".")[2]
        results, rate, failed = measure.measure(
            module, setting, names, args.steps, args.warmup, memory=not args.no_memory
        )
        if kind.REFERENCE in failed:
            raise MemoryError(f"{label}: {kind.REFERENCE} itself ran out of memory.")
        new = rows_of(setting, label, kind.REFERENCE, results, rate)
        rows += new
        details.append(
            {
                "label": label,
                **dataclasses.asdict(setting),
                "scored_tokens": setting.scored_tokens,
                "matmul_flops_per_second": rate,
                "left_out": notes | failed,
                "arms": {name: dataclasses.asdict(result) for name, result in results.items()},
            }
        )
        print(f"{label}\n{table_of(new, kind.REFERENCE)}")
        for name, note in (notes | failed).items():
            print(f"{name} left out: {note}")
        print(f"matrix products: {rate / 1e9:,.0f} GFLOP/s\n", flush=True)

    name = "head_cost" if args.head_only else "step_cost"
    facts |= {"load_at_the_end": machine.load(), "command": machine.command_line()}
    everything = {"machine": facts, "memory_mib": memory, "arms": kind.DESCRIPTIONS, "settings": details}
    paths = report.write(args.out, name, everything, rows)
    title = f"{facts['device']}, {args.threads} threads, commit {facts['commit']}"
    try:
        report.plot_ratios(args.out / f"{name}.png", rows, kind.REFERENCE, title)
        paths.append(args.out / f"{name}.png")
    except ImportError:
        print('No picture: it takes matplotlib, `pip install "solar-trl[plot]"`.')
    print(f"{time.perf_counter() - start:.0f} seconds. {', '.join(map(str, paths))}")


def main() -> None:
    # As a script, this folder comes first on the path; the package is one level up
    sys.path[0] = str(EXAMPLES)
    sys.path.append(str(EXAMPLES.parent))  # for a checkout that is not installed
    import benchmarks

    benchmarks.keep_quiet()
    run(parse_args())


if __name__ == "__main__":
    main()
