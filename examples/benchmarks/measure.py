"""Time, memory and matrix products of arms that take turns."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from . import keep_quiet
from .machine import before_a_peak, resident_mib
from .settings import Setting


_aten = torch.ops.aten


def _product_and_sum(_, a, b, *args, **kwargs) -> int:
    return 2 * a[0] * a[1] * b[1]


# What torch's counter does not know: products added in place or in another dtype, and attention on a CPU
_FLOPS = {
    _aten.addmm: _product_and_sum,
    _aten.addmm_: _product_and_sum,
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *args, **kwargs: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass
class Measurement:
    """
    What was measured of one arm.

    Args:
        seconds (`list[float]`):
            Time of each step; entry `i` of all arms is from the same round.
        flops (`int`):
            Floating-point operations in the matrix products of a step.
        memory_mib (`float`, *optional*):
            On CUDA the most memory allocated during a step, model and optimizer included. On a CPU by how much the
            peak of the resident memory in a step exceeds that before it, in a process of its own.
        resident_mib (`float`, *optional*):
            On a CPU the resident memory before the step: model, optimizer and libraries.
    """

    seconds: list[float] = field(default_factory=list)
    flops: int = 0
    memory_mib: float | None = None
    resident_mib: float | None = None


def measure(
    kind: str, setting: Setting, names: list[str], steps: int, warmup: int, memory: bool = True
) -> tuple[dict[str, Measurement], float, dict[str, str]]:
    """
    Let arms take turns, one step each and another one first in every round.

    Args:
        kind (`str`):
            Module with the arms: `"trainer_arms"` or `"head_arms"`.
        setting ([`Setting`]):
            What to run.
        names (`list[str]`):
            Names of the arms.
        steps (`int`), warmup (`int`):
            Rounds that count, and rounds before them that do not.
        memory (`bool`, *optional*, defaults to `True`):
            Whether to start processes that measure memory on a CPU.

    Returns:
        `tuple`: what was measured of each arm; the highest rate of a plain matrix product in the same rounds, in
        floating-point operations per second; and the arms that ran out of memory, with a note.
    """
    torch.set_num_threads(setting.threads)
    on_cuda, failed = setting.device == "cuda", {}
    with tempfile.TemporaryDirectory() as folder:
        arms = import_module(f".{kind}", __package__).build(setting, names, steps + warmup + 1, folder)
        results = {name: Measurement() for name in arms}
        for name, step in list(arms.items()):
            try:
                with FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter:
                    step()
            except torch.OutOfMemoryError:
                failed[name] = "out of memory"
                del arms[name], results[name]
                torch.cuda.empty_cache()
            else:
                results[name].flops = counter.get_total_flops()
        rate, product, rounds = 0.0, _matrix_product(setting), list(arms)
        for number in tqdm(range(warmup + steps), desc="rounds", leave=False, disable=None):
            for name in rounds[number % len(rounds) :] + rounds[: number % len(rounds)]:
                if on_cuda:
                    torch.cuda.reset_peak_memory_stats()
                seconds = _time(arms[name], setting.device)
                if number < warmup:
                    continue
                results[name].seconds.append(seconds)
                if on_cuda:
                    peak = torch.cuda.max_memory_allocated() / 2**20
                    results[name].memory_mib = max(peak, results[name].memory_mib or 0.0)
            rate = max(rate, product())
        del arms, step, product
    gc.collect()
    if on_cuda:
        torch.cuda.empty_cache()
    elif memory:
        for name, result in results.items():
            result.memory_mib, result.resident_mib = in_fresh_process(_peak_of_resident_memory, kind, setting, name)
    return results, rate, failed


def _time(step: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _matrix_product(setting: Setting) -> Callable[[], float]:
    """What gives the rate of a large square matrix product: the ceiling for everything made of them."""
    size, times = (8192, 20) if setting.device == "cuda" else (2048, 1)
    a, b = torch.randn(2, size, size, device=setting.device, dtype=setting.compute_dtype)
    out = torch.empty_like(a)

    def products() -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return lambda: 2 * size**3 * times / _time(products, setting.device)


def in_fresh_process(function: Callable, *arguments):
    """The result of a function, which must be importable, from a process that has done nothing else."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # Imported once, in the server: every measurement still gets a process of its own
    multiprocessing.set_forkserver_preload(["solar_trl.trainer", "peft"])
    with ProcessPoolExecutor(1, mp_context=context, initializer=keep_quiet) as executor:
        return executor.submit(function, *arguments).result()


def _peak_of_resident_memory(kind: str, setting: Setting, name: str) -> tuple[float | None, float | None]:
    """By how much a step's peak exceeds the resident memory before it, and that memory, in MiB."""
    torch.set_num_threads(setting.threads)
    with tempfile.TemporaryDirectory() as folder:
        step = import_module(f".{kind}", __package__).build(setting, [name], 3, folder)[name]
        step()  # allocates the optimizer's state, which stays
        before = before_a_peak()
        if before is None:
            return None, None
        for _ in range(2):
            step()
        return resident_mib(peak=True) - before, before
