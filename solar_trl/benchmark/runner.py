"""Runs in several processes: what is done is skipped, what is stopped goes on later."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.logging import tqdm

from .results import Run, read_json
from .worker import make_base, make_run, prepare_process


@dataclass(frozen=True)
class Outcome:
    """
    What became of some runs.

    Args:
        done (`int`): Runs made now.
        skipped (`int`): Runs that were there.
        left (`int`): Runs that the time did not suffice for.
    """

    done: int
    skipped: int
    left: int


@dataclass(frozen=True)
class _Task:
    kind: str  # "base" or "run"
    run: Run
    folder: Path
    save_states: bool = False

    def __call__(self) -> float:
        if self.kind == "base":
            return make_base(self.run, self.folder)
        return make_run(self.run, self.folder, self.save_states)

    @property
    def name(self) -> str:
        return f"{'base model' if self.kind == 'base' else self.run.arm.name}, seed {self.run.seed}"


def run_all(
    runs: Sequence[Run],
    folder: Path,
    workers: int = 1,
    max_minutes: float | None = None,
    states_of: int | None = None,
    progress: bool = True,
) -> Outcome:
    """
    Make the runs that are not there yet, each after its base model.

    Args:
        runs (`Sequence` of [`Run`]): What to run, in this order as far as processes allow.
        folder (`Path`): Where results and bases are.
        workers (`int`): Processes, one thread each. With 1, runs are made in this process.
        max_minutes (`float`, *optional*): No run is started that would probably end later than so many minutes from
            now, judged by the longest one so far. The first of its kind is always started.
        states_of (`int`, *optional*): Seed whose hidden states are kept, for the map of languages.
        progress (`bool`): Whether to show a progress bar.

    Returns:
        [`Outcome`]

    Raises:
        ValueError: If `workers` or `max_minutes` is out of range, or two runs would write the same file.
        RuntimeError: If a run fails, or a process dies; the runs that are done stay.
    """
    if workers < 1:
        raise ValueError(f"`workers` is {workers}, expected at least 1.")
    if max_minutes is not None and max_minutes <= 0:
        raise ValueError(f"`max_minutes` is {max_minutes}, expected more than 0.")
    paths = [run.path(folder) for run in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"Two runs are the same: both would write {twice.name}. Name each arm once.")
    wanted = [run for run, path in zip(runs, paths, strict=True) if not path.exists()]
    bases: dict[Path, list[Run]] = {}
    for run in wanted:
        bases.setdefault(run.base_path(folder), []).append(run)
    blocked = {path: members for path, members in bases.items() if not path.exists()}
    ready: list[_Task] = []
    for path, members in bases.items():
        if path in blocked:
            ready.append(_Task("base", members[0], folder))
        else:
            ready.extend(_run_task(run, folder, states_of) for run in members)
    clock = _Clock(max_minutes)
    done = 0
    with (
        tqdm(total=len(runs), initial=len(runs) - len(wanted), unit="run", disable=not progress) as bar,
        _pool(workers, _device(runs)) as submit,
    ):
        pending: dict[Future, tuple[_Task, float]] = {}
        while ready or pending:
            while ready and len(pending) < workers and clock.allows(ready[0].kind):
                task = ready.pop(0)
                bar.set_postfix_str(task.name)
                pending[submit(task)] = task, time.monotonic()
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task, begin = pending.pop(future)
                _check(future, task)
                clock.took(task.kind, time.monotonic() - begin)
                if task.kind == "base":
                    ready[:0] = [_run_task(run, folder, states_of) for run in blocked[task.run.base_path(folder)]]
                else:
                    done += 1
                    bar.update()
    check_batches(folder, runs)
    return Outcome(done, len(runs) - len(wanted), len(wanted) - done)


def check_batches(folder: Path, runs: Sequence[Run]) -> None:
    """
    Make sure that arms of the same order saw the same batches, in the same order, on each seed.

    Raises:
        RuntimeError: If they did not: the comparison is void.
    """
    seen: dict[tuple, tuple[str, list[str]]] = {}
    for run in runs:
        path = run.path(folder)
        if run.arm.trainer == "none" or not path.exists():
            continue
        batches = read_json(path)["training"]["batches"]
        key = str(run.conditions()), run.arm.order, run.seed
        name, expected = seen.setdefault(key, (run.arm.name, batches))
        if batches != expected:
            raise RuntimeError(
                f"{run.arm.name!r} and {name!r} (order {run.arm.order!r}, seed {run.seed}) did not see the same "
                "batches in the same order: the comparison is void."
            )


class _Clock:
    """How long tasks take, and whether there is time for one more."""

    def __init__(self, max_minutes: float | None):
        self.start = time.monotonic()
        self.limit = None if max_minutes is None else 60 * max_minutes
        self.longest: dict[str, float] = {}

    def took(self, kind: str, seconds: float) -> None:
        self.longest[kind] = max(seconds, self.longest.get(kind, 0.0))

    def allows(self, kind: str) -> bool:
        return self.limit is None or time.monotonic() - self.start + self.longest.get(kind, 0.0) < self.limit


def _run_task(run: Run, folder: Path, states_of: int | None) -> _Task:
    return _Task("run", run, folder, run.seed == states_of)


def _device(runs: Sequence[Run]) -> str:
    return runs[0].settings.device if runs else "cpu"


def _check(future: Future, task: _Task) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            f"A process died ({task.name}), perhaps for want of memory: try fewer `workers`. Runs that are done stay; "
            "the same command goes on with the others."
        ) from None
    except Exception as error:
        raise RuntimeError(f"The run of {task.name} failed: {type(error).__name__}: {error}") from error


def _start_process(device: str) -> None:
    # Ctrl-C ends the process at once: nothing it writes can be torn, and the parent says what happened
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prepare_process(device)


@contextmanager
def _pool(workers: int, device: str) -> Iterator[Callable[[_Task], Future]]:
    """A function that has a task done, here or in another process."""
    if workers == 1:

        def here(task: _Task) -> Future:
            future: Future[Any] = Future()
            try:
                future.set_result(task())
            except Exception as error:
                future.set_exception(error)
            return future

        yield here
        return
    # A new interpreter: neither threads nor a GPU's context survive a fork
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_process, initargs=(device,))
    try:
        yield lambda task: pool.submit(task)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    pool.shutdown()
