"""
Cross-lingual alignment for TRL's `SFTTrainer`.

Public names are imported when they are first used, so `import solar_trl` is light.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING


try:
    __version__ = version("solar-trl")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"

_HOME = {
    "CrossLingualEvalCallback": "callbacks",
    "SolarSFTConfig": "config",
    "SolarSFTTrainer": "trainer",
    "DataCollatorForPivotAlignment": "data",
    "ParallelGroupSampler": "data",
}

if TYPE_CHECKING:
    from .callbacks import CrossLingualEvalCallback
    from .config import SolarSFTConfig
    from .data import DataCollatorForPivotAlignment, ParallelGroupSampler
    from .trainer import SolarSFTTrainer

__all__ = [
    "CrossLingualEvalCallback",
    "DataCollatorForPivotAlignment",
    "ParallelGroupSampler",
    "SolarSFTConfig",
    "SolarSFTTrainer",
]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
