"""Problems in no language yet: the space of all problems, its splits, and a random order without repetition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from .languages.concepts import GAINS, LOSSES, NAMES, NOUNS


SPLITS = ("train", "validation", "test")
# Shares of all calculations. The base corpus has calculations of its own.
SPLIT_SHARES = {"base": 0.25, "train": 0.45, "validation": 0.1, "test": 0.2}
MIN_AMOUNT = 2  # what is there at first, gained or lost is a plural in every language
MAX_STEPS = 3
_MAX_CALCULATIONS = 3_000_000  # so many are listed in seconds

Calculation = tuple[int, ...]  # what is there at first, then what is gained (or, negative, lost) at each step


@dataclass(frozen=True)
class Item:
    """
    One problem, in no language yet.

    Args:
        calculation (`tuple[int, ...]`): What is there at first, then what each step adds (negative: takes away).
        name (`str`), noun (`str`): Concepts, keys of `NAMES` and members of `NOUNS`.
        verbs (`tuple[str, ...]`): One of `GAINS` or `LOSSES` for each step.
    """

    calculation: Calculation
    name: str
    noun: str
    verbs: tuple[str, ...]

    @property
    def start(self) -> int:
        return self.calculation[0]

    @property
    def deltas(self) -> Calculation:
        return self.calculation[1:]

    @property
    def answer(self) -> int:
        return sum(self.calculation)


@dataclass(frozen=True)
class ProblemSpace:
    """
    All problems of one split.

    A problem is a calculation and the words around it. Its split is decided by a hash of its calculation alone: no
    calculation of the test problems occurs as a whole in training, whatever the words around it and whatever the seed
    (single steps do: who has learned 7 + 5 may use it).

    Args:
        split (`str`): `"train"`, `"validation"`, `"test"`, or `"base"`, from which the base corpus is drawn.
        steps (`tuple[int, ...]`): Numbers of steps, each as frequent as the others.
        max_number (`int`): Largest number that is there at any time. The smallest is 0.
        max_amount (`int`): Largest amount gained or lost in a step. The smallest is 2.
        split_seed (`int`): Seed of the hash; problems of different split seeds may overlap.

    Raises:
        ValueError: If an option is out of range.
    """

    split: str
    steps: tuple[int, ...] = (1, 2)
    max_number: int = 30
    max_amount: int = 9
    split_seed: int = 0

    def __post_init__(self):
        if self.split not in SPLIT_SHARES:
            raise ValueError(f"`split` is {self.split!r}, expected one of {', '.join(map(repr, SPLITS))}.")
        wrong = [number for number in self.steps if number not in range(1, MAX_STEPS + 1)]
        if wrong or not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(
                f"`steps` is {self.steps!r}, expected one or more different numbers from 1 to {MAX_STEPS}."
            )
        for name in ("max_number", "max_amount"):
            if getattr(self, name) < MIN_AMOUNT:
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected at least {MIN_AMOUNT}.")
        amounts = 2 * (min(self.max_amount, self.max_number) - MIN_AMOUNT + 1)
        if self.max_number * amounts ** max(self.steps) > _MAX_CALCULATIONS:
            raise ValueError(
                f"Up to {max(self.steps)} steps with `max_number={self.max_number}` and "
                f"`max_amount={self.max_amount}` are too many calculations to list. Lower one of the three."
            )

    def size(self, steps: int) -> int:
        """How many problems with so many steps there are."""
        return len(self._calculations(steps)) * len(NAMES) * len(NOUNS) * len(GAINS) ** steps

    def sample(self, n: int, seed: int = 0, num_pieces: int | None = None) -> list[Item]:
        """
        `n` different problems; a larger `n` gives the same ones and then more.

        Args:
            n (`int`): How many.
            seed (`int`, *optional*, defaults to `0`): Same seed, same problems.
            num_pieces (`int`, *optional*):
                Cut the space into so many pieces and draw from piece number `seed`: then no two seeds share a problem.

        Raises:
            ValueError: If there are fewer than `n`, or there is no piece of that number.
        """
        if num_pieces is not None and not 0 <= seed < num_pieces:
            raise ValueError(
                f"With `num_pieces={num_pieces}` the seed must be from 0 to {num_pieces - 1}, got {seed}."
            )
        stride, offset, key = (1, 0, f"seed {seed}") if num_pieces is None else (num_pieces, seed, "pieces")
        # Item i has the (i mod number of kinds)-th number of steps, so that every number is as frequent as the others
        kinds = len(self.steps)
        sizes = [self.size(steps) for steps in self.steps]
        available = min(len(range(offset, size, stride)) * kinds + i for i, size in enumerate(sizes))
        if n > available:
            counted = ", ".join(f"{size} with {steps} steps" for steps, size in zip(self.steps, sizes, strict=True))
            raise ValueError(
                f"`n` is {n}, but only {available} different problems can be drawn from the {self.split} split: it "
                f"has {counted}" + (f", in {num_pieces} pieces" if num_pieces else "") + ", and every number of steps "
                "is equally frequent. Lower `n`, or raise `max_number`, `max_amount` or `steps`."
            )
        return [
            self._item(self.steps[i % kinds], permuted(i // kinds * stride + offset, sizes[i % kinds], key))
            for i in range(n)
        ]

    def _calculations(self, steps: int) -> Sequence[Calculation]:
        return _by_split(steps, self.max_number, self.max_amount, self.split_seed)[self.split]

    def _item(self, steps: int, index: int) -> Item:
        """The problem of an index below `size(steps)`: its digits, each in the base of what it chooses."""
        calculations = self._calculations(steps)
        index, place = divmod(index, len(calculations))
        index, name = divmod(index, len(NAMES))
        index, noun = divmod(index, len(NOUNS))
        calculation, verbs = calculations[place], []
        for delta in calculation[1:]:
            choices = GAINS if delta > 0 else LOSSES
            index, verb = divmod(index, len(choices))
            verbs.append(choices[verb])
        return Item(calculation, tuple(NAMES)[name], NOUNS[noun], tuple(verbs))


def split_of(calculation: Calculation, split_seed: int = 0) -> str:
    """The split that a calculation belongs to, by its hash."""
    share = _hash(f"{split_seed}: {' '.join(map(str, calculation))}") / 2**64
    for split, size in SPLIT_SHARES.items():
        if share < size:
            return split
        share -= size
    return split  # rounding


def permuted(index: int, size: int, key: str) -> int:
    """
    Image of an index under a pseudo-random permutation of `range(size)`.

    A Feistel network of four rounds on the next power of four, walked until it comes back into the range (Black and
    Rogaway, 2002, "Ciphers with arbitrary finite domains"). So any part of a space of any size is drawn without
    repetition, and without a list of what was drawn.

    Raises:
        IndexError: If the index is not in the range.
    """
    if not 0 <= index < size:
        raise IndexError(f"Index {index} is not in range({size}).")
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (_hash(f"{key}: {turn} {right}") & mask)
        index = left << half | right
        if index < size:
            return index


def _hash(text: str) -> int:
    """64 bits; not Python's own hash, which differs from process to process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


@lru_cache(maxsize=64)
def _by_split(steps: int, max_number: int, max_amount: int, split_seed: int) -> dict[str, list[Calculation]]:
    splits: dict[str, list[Calculation]] = {split: [] for split in SPLIT_SHARES}
    for start in range(MIN_AMOUNT, max_number + 1):
        for calculation in _continued((start,), start, steps, max_number, max_amount):
            splits[split_of(calculation, split_seed)].append(calculation)
    return splits


def _continued(
    calculation: Calculation, total: int, steps: int, max_number: int, max_amount: int
) -> Iterator[Calculation]:
    """The calculation with all possible further steps: nothing is lost that is not there."""
    if steps == 0:
        yield calculation
        return
    for amount in range(MIN_AMOUNT, max_amount + 1):
        for delta in (amount, -amount):
            if 0 <= total + delta <= max_number:
                yield from _continued((*calculation, delta), total + delta, steps - 1, max_number, max_amount)
