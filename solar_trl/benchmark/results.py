"""Results on disk: one JSON file per run, whole or not there."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._files import whole_file
from .arms import Arm, file_name
from .settings import PURPOSES, Settings, base_identity, check_seeds, data_version, digest, purpose_of


@dataclass(frozen=True)
class Run:
    """
    One arm on one seed.

    Args:
        arm ([`Arm`]), seed (`int`), settings ([`Settings`]): What is run.
    """

    arm: Arm
    seed: int
    settings: Settings

    @property
    def purpose(self) -> str:
        return purpose_of(self.seed)

    @property
    def split(self) -> str:
        """Where the held-out items come from: tuning never sees the test split."""
        return "validation" if self.purpose == "tuning" else "test"

    def conditions(self) -> dict[str, Any]:
        """All settings that runs must share to be compared."""
        plain = asdict(self.settings)
        plain["training"].pop("learning_rate")  # the arm's matter
        plain["evaluation"].pop("batch_size")
        return plain | {"data_version": data_version(self.settings.data), "split": self.split}

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, as far as settings go."""
        return {"conditions": self.conditions(), "arm": self.arm.identity(self.settings), "seed": self.seed}

    def path(self, folder: Path) -> Path:
        """Where the result goes."""
        return _path(folder, self.purpose, self.arm.name, self.seed, self.identity())

    def base_path(self, folder: Path) -> Path:
        """Where the base model is kept."""
        return folder / "bases" / f"seed{self.seed}-{digest(base_identity(self.settings, self.seed))}.safetensors"


def _path(folder: Path, purpose: str, arm: str, seed: int, identity: Mapping[str, Any]) -> Path:
    return folder / purpose / f"{file_name(arm)}-seed{seed}-{digest(identity)}.json"


def result_path(folder: Path, result: Mapping[str, Any]) -> Path:
    """Where a result was read from."""
    return _path(folder, result["purpose"], result["arm"]["name"], result["seed"], result["identity"])


def write_json(path: Path, value: Any) -> None:
    """
    Write a JSON file, as a whole or not at all.

    Numbers that are not finite become `null`: JSON has none.
    """
    with whole_file(path) as file:
        file.write_text(json.dumps(_defined(value), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _defined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _defined(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """
    Read a JSON file.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). Delete it to run it again.") from None


def read_results(folder: Path, purpose: str) -> list[dict[str, Any]]:
    """
    All results of a purpose, sorted by arm and seed.

    Raises:
        ValueError: If a file is no result, or its seed is for another purpose.
    """
    results = []
    for path in sorted((folder / purpose).glob("*.json")):
        result = read_json(path)
        if not _is_result(result):
            raise ValueError(f"{path} is not the result of a run. Move it out of the folder.")
        try:
            check_seeds([result["seed"]], purpose)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        results.append(result)
    return sorted(results, key=lambda result: (result["arm"]["name"], result["seed"]))


def _is_result(value: Any) -> bool:
    if not isinstance(value, dict) or not {"arm", "seed", "purpose", "identity", "measures"} <= value.keys():
        return False
    # They become part of a path
    return type(value["seed"]) is int and value["purpose"] == purpose_of(value["seed"])


def pack_results(folder: Path, path: Path) -> int:
    """
    Write all results of a folder into one file: a line of JSON each, compressed, the same bytes from the same results.

    Args:
        folder (`Path`): Where results are. Neither bases nor states go along.
        path (`Path`): Where the file goes (`.jsonl.xz`).

    Returns:
        `int`: How many they are.

    Raises:
        ValueError: If there are none.
    """
    results = [result for purpose in PURPOSES for result in read_results(folder, purpose)]
    if not results:
        raise ValueError(f"There are no results in {folder}.")
    lines = "".join(f"{json.dumps(result, ensure_ascii=False, allow_nan=False)}\n" for result in results)
    with whole_file(path) as file:
        file.write_bytes(lzma.compress(lines.encode()))
    return len(results)


def unpack_results(path: Path, folder: Path) -> int:
    """
    Put the results of a file from [`pack_results`] into a folder, where `run` and `report` find them.

    Args:
        path (`Path`): The file.
        folder (`Path`): Where results go. Those that are there already stay as they are.

    Returns:
        `int`: How many the file has.

    Raises:
        ValueError: If the file is not one of [`pack_results`].
    """
    try:
        results = [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise ValueError(f"{path} does not hold packed results ({error}).") from None
    if not results:
        raise ValueError(f"{path} does not hold packed results (it is empty).")
    for number, result in enumerate(results, start=1):
        if not _is_result(result):
            raise ValueError(f"{path} does not hold packed results: line {number} is not the result of a run.")
    for result in results:
        target = result_path(folder, result)
        if not target.exists():
            write_json(target, result)
    return len(results)


def by_condition(results: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Results by the digest of the settings that they share: only those of one digest may be compared."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        found.setdefault(digest(result["identity"]["conditions"]), []).append(result)
    return found
