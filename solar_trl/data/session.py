"""The pairs of all datasets of one trainer."""

from __future__ import annotations

from collections.abc import Callable

from datasets import Dataset, IterableDataset

from .._logging import get_logger
from .doubts import doubts
from .example_iterables import endless
from .packing import pack_pairs
from .pairing import PairingColumns
from .pivots import DRAW_COLUMN, PivotTable, attach_pairs, without_pairing
from .report import PairingReport
from .resolve import NothingToAlign, resolve_pairs
from .side_pairs import SidePairs, attach_draws
from .stream_head import PairedStream, pair_stream, peek, require_carried_pivots
from .streaming import CARRIED_PIVOT_COLUMN
from .tables import column_names


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
        packing (`bool`, *optional*, defaults to `False`), eval_packing (`bool`, *optional*, defaults to `False`):
            Whether paired rows are packed into sequences of `max_length` tokens.
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
        packing: bool = False,
        eval_packing: bool = False,
    ):
        self.columns = columns
        self.missing_pivot = missing_pivot
        self.multiple_pivots = multiple_pivots
        self.truncated_pairs = truncated_pairs
        self.max_length = max_length
        self.packing = packing
        self.eval_packing = eval_packing
        self.table = PivotTable(seed, all_columns)
        self._paired: list[Dataset | IterableDataset] = []
        self.languages: list[str] = []
        self.reports: dict[str, PairingReport] = {}

    def check(
        self, dataset: Dataset | IterableDataset, pivot_dataset: Dataset | None, name: str = "train dataset"
    ) -> None:
        """Raise what the raw training rows already show to be wrong, before a model is loaded or a text tokenized."""
        if isinstance(dataset, IterableDataset):
            _refuse_pivot_dataset("train dataset", pivot_dataset)
            if self.multiple_pivots == "sample":
                raise ValueError(
                    "`multiple_pivots='sample'` draws among all pivots of an item, but a row of a stream carries one. "
                    "Choose it with `carry_pivots(..., multiple_pivots='first')`, and leave `multiple_pivots` at "
                    "'error' here."
                )
            require_carried_pivots(peek(dataset), self.columns, "train dataset")
            return
        option = "pivot_dataset" if name == "train dataset" else None
        resolve_pairs(
            dataset,
            self.columns,
            name,
            pivot_dataset,
            self.missing_pivot,
            self.multiple_pivots,
            pivot_option=option,
        )

    def pair_train(self, dataset: Dataset, pivot_dataset: Dataset | None) -> Dataset:
        """Resolve the pairs of the prepared training rows; raises if nothing pairs."""
        paired = self._pair(dataset, "train dataset", pivot_dataset, self.missing_pivot, self.multiple_pivots)
        return self._keep(paired, self.packing)

    def pair_apart(self, dataset: Dataset, alignment_dataset: Dataset) -> tuple[Dataset, SidePairs]:
        """
        Have prepared training rows draw their pairs from prepared rows of another dataset; raises if nothing pairs
        there.
        """
        name = "alignment dataset"
        paired = self._pair(alignment_dataset, name, None, self.missing_pivot, self.multiple_pivots)
        rows = attach_draws(dataset, self.columns.language, self.languages)
        self._paired.append(rows)
        return rows, SidePairs(paired, self.table, len(rows), self.table.seed)

    def pair_train_stream(
        self, dataset: IterableDataset, prepare: Callable[[IterableDataset], IterableDataset]
    ) -> PairedStream:
        """Add their pairs to prepared training rows that carry their pivot, without end; raises if nothing pairs."""
        stream = self._pair_stream(dataset, "train dataset", prepare, self.missing_pivot)
        stream.dataset = endless(stream.dataset)
        self._paired.append(stream.dataset)
        return stream

    def pair_eval_stream(
        self,
        dataset: IterableDataset,
        name: str,
        pivot_dataset: Dataset | None,
        prepare: Callable[[IterableDataset], IterableDataset],
    ) -> IterableDataset:
        """The same for prepared evaluation rows; without pivots they come back as they are, with one notice."""
        _refuse_pivot_dataset(name, pivot_dataset)
        lacking = lacking_column(dataset, self.columns)
        reason = None if lacking is None else f"it is streaming and has no column {lacking!r} (see `carry_pivots`)"
        if reason is None:
            try:
                return self._pair_stream(dataset, name, prepare, "keep").dataset
            except NothingToAlign as error:
                reason = str(error)
        get_logger().warning(f"The {name} gets the SFT metrics only, without alignment: {reason}")
        return without_pairing(dataset)

    def pair_eval(self, dataset: Dataset, name: str, pivot_dataset: Dataset | None) -> Dataset:
        """Resolve the pairs of prepared evaluation rows; without any, they come back as they are, with one notice."""
        if self.knows(dataset) and DRAW_COLUMN not in dataset.column_names:
            return dataset
        lacking = lacking_column(dataset, self.columns)
        reason = None if lacking is None else f"it has no column {lacking!r}"
        if reason is None:
            policy = "first" if self.multiple_pivots == "sample" else self.multiple_pivots
            try:
                return self._keep(self._pair(dataset, name, pivot_dataset, "keep", policy), self.eval_packing)
            except NothingToAlign as error:
                reason = str(error)
        get_logger().warning(f"The {name} gets the SFT metrics only, without alignment: {reason}")
        return without_pairing(dataset)

    def knows(self, dataset: Dataset | IterableDataset) -> bool:
        """Whether this very dataset came out of this session (pairing columns alone can be another trainer's)."""
        return any(dataset is paired for paired in self._paired)

    def forget(self, size: int) -> None:
        """Forget the pivots from index `size` on, and the datasets that were paired with them."""
        while len(self.table) > size:
            self.table.truncate_last()
            self._paired.pop()

    def _pair_stream(
        self,
        dataset: IterableDataset,
        name: str,
        prepare: Callable[[IterableDataset], IterableDataset],
        missing_pivot: str,
    ) -> PairedStream:
        stream = pair_stream(
            dataset,
            name,
            self.columns,
            prepare,
            self.languages,
            missing_pivot,
            self.truncated_pairs,
            self.max_length,
            self.table.all_columns,
        )
        self.reports[stream.report.name] = stream.report
        get_logger().info(str(stream.report))
        return stream

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
            pivot_option="eval_pivot_dataset",
        )
        offset = self.table.add(dataset if pivot_dataset is None else pivot_dataset, pairs)
        self.reports[name] = pairs.report
        get_logger().info(str(pairs.report))
        cut_at = self.max_length if self.truncated_pairs == "keep" else None
        for doubt in doubts(dataset, pairs, self.columns, name, cut_at):
            get_logger().warning(doubt)
        return attach_pairs(dataset, pairs, offset, self.languages)

    def _keep(self, paired: Dataset, packing: bool) -> Dataset:
        if packing:
            assert self.max_length is not None, "packing needs a length"
            paired = pack_pairs(paired, self.max_length)
        self._paired.append(paired)
        return paired


def lacking_column(dataset: Dataset | IterableDataset, columns: PairingColumns) -> str | None:
    """The first column without which the rows of an evaluation set have no pairs, if one is not there."""
    streams = isinstance(dataset, IterableDataset)
    needed = (columns.language, CARRIED_PIVOT_COLUMN) if streams else columns.names
    names = column_names(dataset)
    return next((name for name in needed if name not in names), None)


def _refuse_pivot_dataset(name: str, pivot_dataset: Dataset | None) -> None:
    if pivot_dataset is not None:
        raise ValueError(
            f"The {name} is an `IterableDataset`, whose rows carry their pivots, so a pivot dataset for it would "
            "never be looked up. Bring the pivots next to their translations before `solar_trl.data.carry_pivots`, or "
            "load the rows with `streaming=False`."
        )
