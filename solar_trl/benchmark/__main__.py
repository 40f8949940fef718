"""The command line: `python -m solar_trl.benchmark run`, `tune`, `search`, `report`, `pack` or `unpack`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any


# There is nothing to download and nobody to tell
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

DEFAULT_ARMS = (
    "base", "sft", "solar", "solar_decay", "hard_token", "mid_align", "placebo", "weight_0", "sft_grouped",
    "solar_grouped", "hidden_cosine", "soft_info_nce", "sft_lora", "solar_lora", "sft_lora_embeddings",
    "solar_lora_embeddings",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="python -m solar_trl.benchmark",
        description="An offline benchmark of cross-lingual alignment: small base models, and arms trained from them "
        "on the same batches. Seeds below 100 are for tuning, all others for reported runs. A command that was "
        "stopped goes on where it was.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output-dir", type=Path, default=Path("outputs/benchmark"), help="results, bases, report")
    making = argparse.ArgumentParser(add_help=False)
    making.add_argument("--workers", type=int, default=1, help="processes, each with one thread (default 1)")
    making.add_argument("--max-minutes", type=float, help="start no run that would probably end later than this")
    making.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on cuda, workers share one GPU")
    making.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a setting of data, model, base, training or evaluation, e.g. model.size=small; may be repeated",
    )
    making.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    arms = argparse.ArgumentParser(add_help=False)
    arms.add_argument(
        "--arm",
        dest="arms",
        action="append",
        metavar="NAME[:FIELD=VALUE,...]",
        help="an arm or a preset of the alignment objective, with changes, e.g. solar:alignment_weight=3; may be "
        "repeated",
    )

    run = commands.add_parser("run", parents=[shared, making, arms], help="reported runs, then the report")
    run.add_argument("--seeds", default="100-129", help="from 100 on (default 100-129)")
    run.add_argument("--tuned", action="store_true", help="with the settings that `tune` chose in the output folder")
    run.add_argument("--finalists", default="", help="up to three arms for Holm's correction, separated by commas")

    tune = commands.add_parser("tune", parents=[shared, making, arms], help="choose settings by successive halving")
    tune.add_argument("--seeds", default="0-9", help="below 100 (default 0-9)")
    tune.add_argument("--rungs", default="2,4,8", help="seeds of each rung (default 2,4,8)")
    tune.add_argument("--grid", action="append", default=[], metavar="FIELD=V1,V2,...", help="instead of the default")

    search = commands.add_parser("search", parents=[shared, making, arms], help="a whole grid on tuning seeds")
    search.add_argument("--seeds", default="0-3", help="below 100 (default 0-3)")
    search.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=V1,V2,...", help="of the arm; repeatable"
    )

    report = commands.add_parser("report", parents=[shared], help="tables and pictures of what is there")
    report.add_argument("--finalists", default="", help="up to three arms for Holm's correction, separated by commas")
    report.add_argument("--no-pictures", dest="pictures", action="store_false", help="tables only")

    pack = commands.add_parser("pack", parents=[shared], help="all results in one file")
    pack.add_argument("file", type=Path, help="where it goes, e.g. results.jsonl.xz")
    unpack = commands.add_parser("unpack", parents=[shared], help="results from such a file, to report or to go on")
    unpack.add_argument("file", type=Path, help="a file from `pack`")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 3 if time did not suffice, 130 after Ctrl-C."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # optional kernels that are not needed
    try:
        return _COMMANDS[args.command](args)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        print(f"{parser.prog} {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Runs that are done are kept; the same command goes on with the others.", file=sys.stderr)
        return 130


def _settings(args: argparse.Namespace) -> Any:
    from .settings import Settings

    return replace(Settings().override(args.settings), device=args.device)


def _make(args: argparse.Namespace, runs: Sequence[Any], states_of: int | None = None) -> bool:
    """Make runs; returns whether all are there."""
    from .runner import run_all

    outcome = run_all(runs, args.output_dir, args.workers, args.max_minutes, states_of, args.progress)
    if outcome.left:
        print(f"{outcome.left} of {len(runs)} runs are left: the same command goes on with them.")
    return not outcome.left


def _run(args: argparse.Namespace) -> int:
    from .arms import parse_arm
    from .results import Run
    from .settings import parse_seeds
    from .tuning import apply_tuned

    settings, seeds = _settings(args), parse_seeds(args.seeds, "reported")
    arms = [parse_arm(text) for text in args.arms or DEFAULT_ARMS]
    if args.tuned:
        arms = [apply_tuned(arm, args.output_dir, settings) for arm in arms]
    # Seed by seed: what is there when time is up can be compared
    if not _make(args, [Run(arm, seed, settings) for seed in seeds for arm in arms], states_of=min(seeds)):
        return 3
    return _report(args)


def _tune(args: argparse.Namespace) -> int:
    from .arms import ARMS, parse_arm
    from .results import Run
    from .settings import parse_seeds
    from .tuning import default_grid, successive_halving, write_tuned

    settings, seeds = _settings(args), parse_seeds(args.seeds, "tuning")
    rungs = _integers(args.rungs)
    for text in args.arms or [name for name in DEFAULT_ARMS if ARMS[name].has_own_settings]:
        arm = parse_arm(text)
        if not arm.has_own_settings:
            raise ValueError(
                f"{arm.name!r} is not tuned: it takes the settings of {arm.tuned_as or 'the base model'}."
            )
        grid = _grid(args.grid) or default_grid(arm, settings)
        print(f"{arm.name}: {', '.join(f'{name} {values}' for name, values in grid.items())}")
        found = successive_halving(
            arm, grid, seeds, settings, args.output_dir, lambda runs: _make(args, runs), rungs=rungs
        )
        if found is None:
            return 3
        record = write_tuned(args.output_dir, arm, grid, found, Run(arm, seeds[0], settings).conditions())
        edge = f" At the edge of the grid: {', '.join(record['on_edge'])}; widen it." if record["on_edge"] else ""
        percent, number = 100 * record["score"], len(found[-1].seeds)
        print(f"{arm.name}: chose {record['chosen']}, {percent:.1f} % on {number} seeds.{edge}")
    return 0


def _search(args: argparse.Namespace) -> int:
    from .arms import change_arm, parse_arm
    from .report_tables import ArmResults, to_markdown, tuning_table
    from .results import Run, read_json
    from .settings import parse_seeds
    from .tuning import candidates

    settings, seeds = _settings(args), parse_seeds(args.seeds, "tuning")
    combinations = candidates(_grid(args.grid)) if args.grid else [{}]
    arms = [change_arm(parse_arm(text), changes) for text in args.arms or ["solar"] for changes in combinations]
    runs = [Run(arm, seed, settings) for seed in seeds for arm in arms]
    complete = _make(args, runs)
    there = [read_json(path) for run in runs if (path := run.path(args.output_dir)).exists()]
    if there:
        print(to_markdown(tuning_table(ArmResults.of(there))))
    return 0 if complete else 3


def _report(args: argparse.Namespace) -> int:
    from .report import write_report

    finalists = [name.strip() for name in args.finalists.split(",") if name.strip()]
    path = write_report(args.output_dir, finalists)
    print(path.read_text(encoding="utf-8"))
    files = [path, path.with_suffix(".json")]
    if getattr(args, "pictures", True):
        from .pictures import draw_all

        files += draw_all(args.output_dir)
    print("Written: " + ", ".join(str(file) for file in files))
    return 0


def _pack(args: argparse.Namespace) -> int:
    from .results import pack_results

    print(f"{pack_results(args.output_dir, args.file)} results: {args.file}")
    return 0


def _unpack(args: argparse.Namespace) -> int:
    from .results import unpack_results

    print(f"{unpack_results(args.file, args.output_dir)} results: {args.output_dir}")
    return 0


_COMMANDS = {
    "run": _run, "tune": _tune, "search": _search, "report": _report, "pack": _pack, "unpack": _unpack,
}  # fmt: skip


def _grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    from .arms import split_values

    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise ValueError(f"{text!r} is no part of a grid, expected 'field=value1,value2'.")
        if name.strip() in grid:
            raise ValueError(f"The grid names {name.strip()!r} twice.")
        grid[name.strip()] = split_values(values)
    return grid


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is no list of whole numbers such as 2,4,8.") from None


if __name__ == "__main__":
    sys.exit(main())
