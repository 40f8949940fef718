"""Checkpoints that a killed run left unfinished are found before they are resumed from."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

from ._logging import get_logger


# Written last by the Trainer, so that a checkpoint without it was never finished
STATE_NAME = "trainer_state.json"
# State of the alignment objective, if it has any
ALIGNMENT_STATE_NAME = "alignment_state.safetensors"
# PEFT puts each adapter that is not called "default" in a folder of its own
_ADAPTERS = ("*/adapter_model.safetensors", "*/adapter_model.bin")
_WEIGHTS = (
    "*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "pytorch_model_fsdp*", "global_step*", *_ADAPTERS,
)  # fmt: skip
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")


def checkpoint_damage(
    checkpoint: str | os.PathLike, only_model: bool = False, alignment_state: bool = False
) -> str | None:
    """
    What is wrong with a checkpoint, as a kill or a full disk leaves it. Reads headers only.

    Args:
        checkpoint (`str` or `os.PathLike`):
            Directory that a Trainer saved.
        only_model (`bool`, *optional*, defaults to `False`):
            Whether it was saved without optimizer and random states (`save_only_model`).
        alignment_state (`bool`, *optional*, defaults to `False`):
            Whether the alignment objective needs its state.

    Returns:
        `str` or `None`: The first fault, or `None` if the checkpoint is whole.
    """
    folder = Path(checkpoint)
    try:
        json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{STATE_NAME} is missing"
    except ValueError:
        return f"{STATE_NAME} is cut off"
    adapters = [path for pattern in _ADAPTERS for path in folder.glob(pattern)]
    for path in sorted([*folder.iterdir(), *adapters]):
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} is cut off"
        if (
            path.suffix in (".pt", ".pth", ".bin")
            and path.name != "training_args.bin"
            and not zipfile.is_zipfile(path)
        ):
            return f"{path.name} is cut off"
        if path.name.endswith(".index.json"):
            try:
                shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError):
                return f"{path.name} is cut off"
            lost = sorted(shard for shard in shards if not (folder / shard).exists())
            if lost:
                return f"{lost[0]} is missing"
    if not _has_any(folder, _WEIGHTS):
        return "the weights are missing"
    if not only_model and not _is_only_model(folder):
        if not _has_any(folder, _OPTIMIZER):
            return "the optimizer state is missing"
        if not _has_any(folder, ("rng_state*.pth",)):
            return "the random state is missing"
        if alignment_state and not (folder / ALIGNMENT_STATE_NAME).exists():
            return f"{ALIGNMENT_STATE_NAME}, which the alignment objective goes on from, is missing"
    return None


def _is_only_model(folder: Path) -> bool:
    """
    Whether a checkpoint was saved without training state (`save_only_model`).

    What a kill leaves has no `trainer_state.json`, which is written last.
    """
    return not _has_any(folder, (*_OPTIMIZER, "scheduler.pt", "rng_state*.pth"))


def checkpoint_to_resume(
    wanted: str | os.PathLike | bool, output_dir: str, only_model: bool = False, alignment_state: bool = False
) -> str | bool:
    """
    The checkpoint to resume from.

    Args:
        wanted (`str`, `os.PathLike` or `bool`):
            A checkpoint, or `True` for the last one in `output_dir`. Damaged ones are then passed over with a warning.
        output_dir (`str`):
            Where the Trainer saves.
        only_model (`bool`, *optional*, defaults to `False`), alignment_state (`bool`, *optional*, defaults to
            `False`):
            As for [`checkpoint_damage`].

    Returns:
        `str` or `bool`: The checkpoint, or `wanted` as it is where there is none, for the Trainer to say so.

    Raises:
        ValueError: If the wanted checkpoint is damaged, or all of them are.
    """
    if not isinstance(wanted, bool):
        wanted = os.fspath(wanted)
        damage = checkpoint_damage(wanted, only_model, alignment_state) if os.path.isdir(wanted) else None
        if damage is None:
            _say_if_only_model(Path(wanted), only_model)
            return wanted
        intact = _intact(_checkpoints(os.path.dirname(os.path.abspath(wanted))), only_model, alignment_state)
        way_out = f"The last whole one beside it is {intact}." if intact else "There is no whole one beside it."
        raise ValueError(
            f"The checkpoint {wanted} cannot be resumed from: {damage}. The run was probably killed while it was "
            f"being saved. {way_out}"
        )
    checkpoints = _checkpoints(output_dir)
    intact = _intact(checkpoints, only_model, alignment_state, warn=True)
    if intact is None and checkpoints:
        damage = checkpoint_damage(checkpoints[0], only_model, alignment_state)
        raise ValueError(
            f"None of the {len(checkpoints)} checkpoints in {output_dir} can be resumed from; in the last one, "
            f"{checkpoints[0].name}, {damage}. Train from the start without `resume_from_checkpoint`."
        )
    if intact is None:
        return wanted
    _say_if_only_model(intact, only_model)
    return str(intact)


def _say_if_only_model(checkpoint: Path, expected: bool) -> None:
    if not expected and checkpoint.is_dir() and _is_only_model(checkpoint):
        get_logger().warning(
            f"{checkpoint} holds the weights alone (`save_only_model=True`): the optimizer, its schedule and the "
            "random state start anew."
        )


def _checkpoints(folder: str) -> list[Path]:
    """Checkpoints in a folder, the last one first."""
    if not os.path.isdir(folder):
        return []
    steps = [
        (int(match[1]), path)
        for path in Path(folder).iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(steps, reverse=True)]


def _intact(checkpoints: list[Path], only_model: bool, alignment_state: bool, warn: bool = False) -> Path | None:
    for checkpoint in checkpoints:
        damage = checkpoint_damage(checkpoint, only_model, alignment_state)
        if damage is None:
            return checkpoint
        if warn:
            get_logger().warning(f"Not resuming from {checkpoint}: {damage}. Taking the one before it.")
    return None


def _has_any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.name != ALIGNMENT_STATE_NAME for pattern in patterns for path in folder.glob(pattern))


def _is_whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)
