"""Where figures come from: machine, versions, commit."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa


_PACKAGES = ("solar-trl", "trl", "transformers", "accelerate", "peft", "datasets", "torch", "triton", "numpy")


def facts(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """
    What a figure means nothing without.

    Args:
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"` or `"cuda"`.
        threads (`int`, *optional*):
            Threads of torch.

    Returns:
        `dict`: Device, cores, threads, load of the machine over the last minute, versions, commit and time.
    """
    if device == "cuda":
        import torch

        name = torch.cuda.get_device_name()
    else:
        name = _cpu_name()
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "load": load(),
        "versions": versions,
        "commit": _commit(),
    }


def load() -> float | None:
    """Processes that wanted to run, on average over the last minute. Beyond our own, they disturb what is timed."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe(machine: dict[str, Any]) -> str:
    """The same in two lines."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    return (
        f"{machine['device']}, {machine['cores']} CPU cores{threads}, load {machine['load']} at the start; "
        f"commit {machine['commit']}\n{packages}"
    )


def resident_mib(peak: bool = False) -> float:
    """Memory of this process in MiB, now or at its peak since [`before_a_peak`]. Linux only."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) / 1024  # in kB there


def before_a_peak() -> float | None:
    """
    Give back what is free, so that it does not hide what comes next, and make Linux forget the peak of this process.

    Returns:
        `float`: The resident memory in MiB; `None` where there is no way to forget.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return resident_mib()


def _cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key: re.search(rf"{key}\s*: (.+)", info) for key in ("model name", "cpu family", "model")}
    name = found["model name"][1] if found["model name"] else platform.machine()
    if found["cpu family"] and found["model"]:  # a virtual machine may hide the rest of the name
        name += f" (family {found['cpu family'][1]}, model {found['model'][1]})"
    return name


def _commit() -> str:
    """The commit of this checkout, marked if files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" (with changes)" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line() -> str:
    """How this program was started, without the folders of this machine."""
    return " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
