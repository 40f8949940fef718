"""
What the data handling costs: finding pivots, collating with pairs, and an order that keeps translations together.

    python examples/benchmarks/data_cost.py

Random rows; TRL's collator and torch's `RandomSampler` on the same ones beside ours. A table is printed, and written
with all single figures to the output folder as JSON and CSV.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


EXAMPLES = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to pair and to put in order")
    parser.add_argument("--languages", type=int, default=10, help="rows per item, with the pivot")
    parser.add_argument("--batch", nargs="+", default=["8x64", "8x256", "16x512", "32x1024"], metavar="ROWSxLENGTH")
    parser.add_argument("--batch-languages", type=int, default=4, help="rows per item in these batches")
    parser.add_argument("--repeats", type=int, default=50, help="batches, of each of which the collators take turns")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the samplers")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; a dataloader worker has one")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="where the results go")
    args = parser.parse_args()
    if args.rows < args.languages or min(args.repeats, args.epochs) < 1:
        parser.error("--rows must hold at least one item, --repeats and --epochs at least 1")
    return args


def parallel_rows(n_rows: int, n_languages: int, string_ids: bool):
    """Rows in the long format with texts, shuffled."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    order = np.random.default_rng(0).permutation(n_rows)
    items, languages = order // n_languages, order % n_languages
    names = pa.array(["en", *(f"l{i}" for i in range(1, n_languages))])
    texts = pa.array(
        [f"{i:>6}: a problem whose text is about as long as that of a short word problem is." for i in range(1000)]
    )
    ids = pa.array([f"source/{item}" for item in items]) if string_ids else pa.array(items)
    columns = {"prompt": texts.take(pa.array(items % 1000)), "completion": texts.take(pa.array(order % 1000))}
    return Dataset(pa.table({**columns, "language": names.take(pa.array(languages)), "parallel_id": ids}))


def save_parallel_rows(path: str, *arguments) -> None:
    """Write [`parallel_rows`] to an Arrow file."""
    import pyarrow as pa

    table = parallel_rows(*arguments).data.table
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def pairing_cost(path: str, n_rows: int, n_languages: int) -> dict[str, Any]:
    """Time of `find_pivots`, and by how much its peak of resident memory exceeds that before it."""
    from datasets import Dataset

    from benchmarks.machine import before_a_peak, resident_mib
    from solar_trl.data import find_pivots

    dataset = Dataset.from_file(path, in_memory=True)
    find_pivots(dataset.select(range(min(1000, len(dataset)))))  # what is imported or compiled once
    before = before_a_peak()
    start = time.perf_counter()
    pivots = find_pivots(dataset)
    seconds = time.perf_counter() - start
    growth = None if before is None else resident_mib(peak=True) - before
    paired = int((pivots >= 0).sum())
    if paired != n_rows - -(-n_rows // n_languages):
        raise RuntimeError(f"{paired:,} of {n_rows:,} rows were paired.")
    return {"seconds": seconds, "memory_mib": growth, "pairs": paired}


def collator_cost(batch: tuple[int, int], n_languages: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Time per batch of TRL's collator and of ours on the rows of the same batches, and with appended pivots."""
    from benchmarks.settings import Setting
    from benchmarks.trainer_arms import make_trainers

    size, length = batch
    setting = Setting(vocab_size=512, hidden_size=32, batch_size=size, length=length, languages=n_languages)
    with tempfile.TemporaryDirectory() as folder:
        trainers = make_trainers(setting, ["sft", "solar"], repeats + 2, folder)
    loaders = {name: trainer.get_train_dataloader() for name, trainer in trainers.items()}
    rows = {name: loader.dataset for name, loader in loaders.items()}
    # One row of each item makes batches of the same size in which every pivot is missing
    apart = [item * n_languages + 1 for item in range(size)] if len(rows["solar"]) >= size * n_languages else None

    def seconds_of(name: str, indices: list[int]) -> float:
        examples = [rows[name][index] for index in indices]
        start = time.perf_counter()
        loaders[name].collate_fn(examples)
        return time.perf_counter() - start

    times: dict[str, list[float]] = {"sft": [], "solar": [], "appended": []}
    for number in range(repeats + 2):
        together = list(range(number * size, (number + 1) * size))
        cases = [("sft", "sft", together), ("solar", "solar", together)]
        if apart is not None:
            cases.append(("appended", "solar", apart))
        for case, name, indices in cases[:: 1 if number % 2 else -1]:
            seconds = seconds_of(name, indices)
            if number >= 2:  # the first ones warm up
                times[case].append(seconds)
    return {case: {"seconds": values} for case, values in times.items() if values}


def sampler_cost(n_rows: int, n_languages: int, batch_size: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Time per epoch of torch's random order and of ours."""
    import numpy as np
    from torch.utils.data import RandomSampler

    from solar_trl import ParallelGroupSampler

    groups = np.random.default_rng(0).permutation(n_rows) // n_languages
    samplers: dict[str, Any] = {
        "random": RandomSampler(range(n_rows)),
        "grouped": ParallelGroupSampler(groups, batch_size),
    }
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for epoch in range(epochs):
        for name, sampler in samplers.items():
            if name == "grouped":
                sampler.set_epoch(epoch)
            start = time.perf_counter()
            for _ in sampler:
                pass
            times[name].append(time.perf_counter() - start)
    return {name: {"seconds": values} for name, values in times.items()}


def run(args: argparse.Namespace) -> None:
    import torch

    from benchmarks import machine
    from benchmarks.measure import in_fresh_process
    from benchmarks.report import number, quartiles, ratio_columns, text_table, write

    torch.set_num_threads(args.threads)
    facts = machine.facts("cpu", args.threads)
    print(machine.describe(facts), end="\n\n", flush=True)
    rows: list[dict[str, Any]] = []

    def add(what: str, arm: str, seconds: list[float], reference: list[float] | None = None, **more) -> None:
        ratio = ratio_columns("ratio", seconds, reference) if reference else {}
        rows.append({"what": what, "arm": arm, "seconds": quartiles(seconds)[1], **ratio, **more})

    size = f"{args.rows:,} rows, {args.languages} languages"
    for name, string_ids in (("integer ids", False), ("string ids", True)):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "rows.arrow")
            # Written by another process, whose freed memory does not hide what pairing takes
            in_fresh_process(save_parallel_rows, path, args.rows, args.languages, string_ids)
            cost = in_fresh_process(pairing_cost, path, args.rows, args.languages)
        add(f"pairing, {size}", f"find_pivots, {name}", [cost["seconds"]], memory_mib=cost["memory_mib"])
    collators = {}
    for text in args.batch:
        length = text.partition("x")[2]
        costs = collators[text] = collator_cost(
            (int(text.partition("x")[0]), int(length)), args.batch_languages, args.repeats
        )
        base = costs["sft"]["seconds"]
        for case, name in (("sft", "TRL"), ("solar", "pivots in the batch"), ("appended", "every pivot appended")):
            if case in costs:
                add(f"collator, batch of {text}", name, costs[case]["seconds"], base if case != "sft" else None)
    samplers = sampler_cost(args.rows, args.languages, 8, args.epochs)
    base = samplers["random"]["seconds"]
    add(f"order of an epoch, {size}", "torch's RandomSampler", base)
    add(f"order of an epoch, {size}", "ParallelGroupSampler", samplers["grouped"]["seconds"], base)

    header = ["", "ms", "ratio", "quartiles", "MiB"]
    lines, what = [], None
    for row in rows:
        if row["what"] != what:
            what = row["what"]
            lines.append((what, "", "", "", ""))
        spread = f"{row['ratio_q1']:.2f}-{row['ratio_q3']:.2f}" if "ratio" in row else "-"
        lines.append(
            (
                f"  {row['arm']}",
                number(1000 * row["seconds"], 2),
                number(row.get("ratio")),
                spread,
                number(row.get("memory_mib"), 0),
            )
        )
    print(text_table(header, lines) + "\n")
    facts |= {"load_at_the_end": machine.load(), "command": machine.command_line()}
    results = {"machine": facts, "collators": collators, "samplers": samplers, "rows": rows}
    print(", ".join(map(str, write(args.out, "data_cost", results, rows))))


def main() -> None:
    # As a script, this folder comes first on the path; the package is one level up
    sys.path[0] = str(EXAMPLES)
    sys.path.append(str(EXAMPLES.parent))  # for a checkout that is not installed
    import benchmarks

    benchmarks.keep_quiet()
    run(parse_args())


if __name__ == "__main__":
    main()
