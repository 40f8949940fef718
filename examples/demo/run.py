"""
SFT and SOLAR side by side on a tiny model, offline, on a CPU.

    python examples/demo/run.py

Trains a base model that reasons in English, fine-tunes it on six languages with TRL's `SFTTrainer` and with
`SolarSFTTrainer`, on the same batches, and compares the two: tables on the screen, numbers and pictures in the output
directory.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"), help="where tables and pictures go")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data, the weights and the order")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each arm")
    parser.add_argument("--base-steps", type=int, default=400, help="optimizer steps of the base training")
    parser.add_argument("--alignment-weight", type=float, default=1.0, help="weight of SOLAR's alignment term")
    parser.add_argument(
        "--pivot-batching",
        choices=("grouped", "random"),
        default="grouped",
        help="order of the rows, for both arms: translations in one batch, or anywhere",
    )
    parser.add_argument("--num-high-resource", type=int, default=800, help="training problems in en, de, es")
    parser.add_argument("--num-low-resource", type=int, default=300, help="training problems in en, sw, bn, th")
    parser.add_argument("--num-eval", type=int, default=100, help="held-out problems, in all six languages")
    parser.add_argument("--probe-every", type=int, default=20, help="steps between the points of the curves")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch; more is a little faster, and gives other digits"
    )
    args = parser.parse_args()
    if args.alignment_weight <= 0:
        parser.error("--alignment-weight must be above 0: without alignment SOLAR is SFT")
    return args


def main() -> None:
    args = parse_args()
    # As a script this folder comes first on the path, where evaluate.py would hide the library `evaluate`
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # for a checkout that is not installed
    # There is nothing to download and nobody to tell
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Deprecations inside the libraries, and optional kernels that a CPU does not need
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)

    print("Loading libraries ...\n", flush=True)
    from demo.compare import compare

    compare(args)


if __name__ == "__main__":
    main()
