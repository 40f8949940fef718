"""The pairs of all datasets of one trainer."""

from __future__ import annotations

from datasets import Dataset

from .._logging import get_logger
from .pairing import PairingColumns
from .pivots import PivotTable, attach_pairs
from .report import PairingReport
from .resolve import NothingToAlign, resolve_pairs


class PairingSession:
    """
    Resolves the pairs of each dataset once, within that dataset: evaluation rows never meet training pivots that
    happen to share an id.

    Args:
        columns ([`PairingColumns`]):
            Where languages and ids stand.
        missing_pivot (`str`):
            Policy for training rows without a pivot. Evaluation sets keep all their rows.
        multiple_pivots (`str`):
            Policy for items with several different pivots. `"sample"` becomes `"first"` in evaluation.
        truncated_pairs (`str`):
            Policy for pairs in which a side fills `max_length`.
        max_length (`int`, *optional*):
            Length at which rows are truncated.
        seed (`int`):
            Seed of sampled pivots.
        all_columns (`bool`, *optional*, defaults to `False`):
            Whether the collator may read more than the tokens of a pivot.
    """

    def __init__(
        self,
        columns: PairingColumns,
        missing_pivot: str,
        multiple_pivots: str,
        truncated_pairs: str,
        max_length: int | None,
        seed: int,
        all_columns: bool = False,
    ):
        self.columns = columns
        self.missing_pivot = missing_pivot
        self.multiple_pivots = multiple_pivots
        self.truncated_pairs = truncated_pairs
        self.max_length = max_length
        self.table = PivotTable(seed, all_columns)
        self._paired: list[Dataset] = []
        self.languages: list[str] = []
        self.reports: dict[str, PairingReport] = {}

    def check(self, dataset: Dataset, pivot_dataset: Dataset | None) -> None:
        """Raise what the raw training rows already show to be wrong, before a model is loaded or a text tokenized."""
        resolve_pairs(dataset, self.columns, "train dataset", pivot_dataset, self.missing_pivot, self.multiple_pivots)

    def pair_train(self, dataset: Dataset, pivot_dataset: Dataset | None) -> Dataset:
        """Resolve the pairs of the prepared training rows; raises if nothing pairs."""
        return self._pair(dataset, "train dataset", pivot_dataset, self.missing_pivot, self.multiple_pivots)

    def pair_eval(self, dataset: Dataset, name: str, pivot_dataset: Dataset | None) -> Dataset:
        """Resolve the pairs of prepared evaluation rows; without any, they come back as they are, with one notice."""
        if not isinstance(dataset, Dataset):
            get_logger().warning(f"The {name} is streaming: it gets the SFT metrics only.")
            return dataset
        if self.knows(dataset):
            return dataset
        lacking = [column for column in self.columns.names if column not in dataset.column_names]
        reason = f"it has no column {lacking[0]!r}" if lacking else None
        if reason is None:
            policy = "first" if self.multiple_pivots == "sample" else self.multiple_pivots
            try:
                return self._pair(dataset, name, pivot_dataset, "keep", policy)
            except NothingToAlign as error:
                reason = str(error)
        get_logger().warning(f"The {name} gets the SFT metrics only, without alignment: {reason}")
        return dataset

    def knows(self, dataset: Dataset) -> bool:
        """Whether this very dataset came out of this session (pairing columns alone can be another trainer's)."""
        return any(dataset is paired for paired in self._paired)

    def forget(self, size: int) -> None:
        """Forget the pivots from index `size` on, and the datasets that were paired with them."""
        while len(self.table) > size:
            self.table.truncate_last()
            self._paired.pop()

    def _pair(
        self, dataset: Dataset, name: str, pivot_dataset: Dataset | None, missing_pivot: str, multiple_pivots: str
    ) -> Dataset:
        pairs = resolve_pairs(
            dataset,
            self.columns,
            name,
            pivot_dataset,
            missing_pivot,
            multiple_pivots,
            self.truncated_pairs,
            self.max_length,
        )
        offset = self.table.add(dataset if pivot_dataset is None else pivot_dataset, pairs)
        self.reports[name] = pairs.report
        get_logger().info(str(pairs.report))
        paired = attach_pairs(dataset, pairs, offset, self.languages)
        self._paired.append(paired)
        return paired
