"""What alignment costs: of a training step, of the head alone, and of the data handling."""

from __future__ import annotations

import logging
import os
import warnings


def keep_quiet() -> None:
    """Call before the libraries are imported: nothing is downloaded or reported, and only figures are printed."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # renamed arguments of the libraries
    # What they say about random rows, about a CPU, and about kernels that are optional. DeepSpeed resets its level.
    for name in ("solar_trl", "DeepSpeed"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
