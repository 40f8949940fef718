"""`SolarSFTTrainer`: TRL's `SFTTrainer` with a cross-lingual alignment term."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, TrainingArguments
from trl import SFTTrainer

from . import checks
from ._compat import base_model, loss_is_divided_by_accumulation, undispatched, vocabulary_size
from ._logging import get_logger
from .advice import advice
from .alignment import AlignmentTerm, RecordingProxy
from .checkpoints import checkpoint_to_resume
from .config import SolarSFTConfig
from .data import (
    ADDED_COLUMNS,
    ALIGNMENT_KEY,
    DRAW_COLUMN,
    OWN_COLUMN,
    PIVOT_COLUMN,
    DataCollatorForPivotAlignment,
    PairingColumns,
    PairingSession,
    ParallelGroupSampler,
    in_one_shard,
    lacking_column,
    without_pairing,
)
from .data.content import check_tokens, name_bad_row
from .data.packing import LENGTHS_COLUMN
from .data.tables import column_names, read_integers
from .epochs import EpochCallback
from .metrics import TrainingAlarms
from .model_card import add_alignment_section, identity
from .modeling import add_soft_token_head
from .objectives import scheduled_weight
from .pivot_memory import PivotMemoryCallback
from .run_summary import (
    MAX_ROWS,
    BatchCounts,
    SidePasses,
    SummaryCallback,
    count_batches,
    first_and_last,
    side_passes,
    start_summary,
)
from .summaries import Summaries


class SolarSFTTrainer(SFTTrainer):
    r"""
    Trainer for supervised fine-tuning with cross-lingual alignment.

    Extends [`~trl.SFTTrainer`] with SOLAR ([Soft Token Alignment for Cross-Lingual
    Reasoning](https://huggingface.co/papers/2606.26466)): the soft-token summary of each non-pivot response (the mean
    over the response of probability-weighted vocabulary embeddings) is pulled toward that of its pivot-language
    (English) parallel. Everything else is `SFTTrainer`'s: the SFT loss, its metrics and every argument not named here.
    With `alignment_weight=0` or `alignment_objective="none"`, training is that of `SFTTrainer`, bit for bit.

    The loss is the SFT loss plus `alignment_weight` × the mean of `1 - cos` over all pairs of the optimizer step, over
    micro-batches and ranks.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or `PeftModel`):
            Model to train, as for [`~trl.SFTTrainer`].
        args ([`SolarSFTConfig`], *optional*):
            Configuration. A plain [`~trl.SFTConfig`] or [`~transformers.TrainingArguments`] is converted field by
            field and gets the default alignment settings.
        data_collator (callable, *optional*):
            Collator that pads one row per example, in order. [`DataCollatorForPivotAlignment`] is put around it.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows in any format that TRL takes, one per language, with a language and a parallel-id column. The rows of
            a stream carry their pivots: pass it through [`~solar_trl.data.carry_pivots`]. It is read in its own order
            (`pivot_batching` has nothing to sort), `max_steps` long, and starts anew when it ends.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or dict of them, *optional*):
            The same. Sets without these columns, of one language, or streams whose rows carry no pivots get the SFT
            metrics alone.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer.
        pivot_dataset ([`~datasets.Dataset`], *optional*):
            Pivots of the training rows, if they should serve as pivots only and not be trained on. Same format and id
            columns; without the language column every row counts as a pivot.
        eval_pivot_dataset ([`~datasets.Dataset`] or dict of them, *optional*):
            Likewise for the evaluation sets (a dict by the same keys as `eval_dataset`).
        alignment_dataset ([`~datasets.Dataset`], *optional*):
            Rows that are aligned with each other and not trained on, say plain parallel sentences (column `text`),
            with a language and a parallel-id column. The training rows then need neither column and are not aligned:
            each draws a pair, in an order that is shuffled anew once all pairs were drawn, which goes through a
            forward of its own. Evaluation sets are paired within themselves, as always.
        kwargs:
            Every other argument of [`~trl.SFTTrainer`] (`peft_config`, `quantization_config`, `callbacks`, ...).

    Raises:
        ValueError: For settings under which the alignment would be lost or wrong, and for data in which nothing pairs;
            each message names the value and the way out.
        TypeError: For streams whose rows do not carry their pivots, and for languages or ids of a wrong type.

    Example:

    ```python
    from datasets import Dataset
    from solar_trl import SolarSFTTrainer

    dataset = Dataset.from_list(
        [
            {"prompt": "2 + 3 = ?", "completion": " Two and three make 5.", "language": "en", "parallel_id": 0},
            {"prompt": "2 + 3 = ?", "completion": " Mbili na tatu ni 5.", "language": "sw", "parallel_id": 0},
        ]
    )
    trainer = SolarSFTTrainer(model="Qwen/Qwen3-0.6B", train_dataset=dataset)
    trainer.train()
    ```
    """

    _tag_names = ["trl", "sft", "solar"]
    _name, _paper = identity("solar")

    data_collator: Any
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SolarSFTConfig | TrainingArguments | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class=None,
        *,
        pivot_dataset: Dataset | None = None,
        eval_pivot_dataset: Dataset | dict[str, Dataset] | None = None,
        alignment_dataset: Dataset | None = None,
        **kwargs,
    ):
        if args is None:
            name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
            args = SolarSFTConfig(f"{name.rstrip('/').split('/')[-1] or 'model'}-SOLAR")
        args = SolarSFTConfig.from_arguments(args)
        preset = "none" if args.objective is None else args.alignment_objective
        self._name, self._paper = identity(preset)
        self._tag_names = [*SFTTrainer._tag_names, *([] if preset == "none" else [preset.replace("_", "-")])]
        self._pairs: PairingSession | None = None  # `None` while alignment is off
        if args.objective is not None and train_dataset is not None:
            checks.check_arguments(
                args, kwargs.get("compute_loss_func"), streaming=isinstance(train_dataset, IterableDataset)
            )
            checks.check_eval_pivots(eval_pivot_dataset, eval_dataset)
            formatting_func = kwargs.get("formatting_func")
            named = {
                "train dataset": train_dataset,
                "pivot dataset": pivot_dataset,
                "alignment dataset": alignment_dataset,
            }
            for name, dataset in named.items():
                if dataset is not None:
                    checks.check_dataset(dataset, name, streaming=name == "train dataset")
                    checks.check_format(dataset, name, args, formatting_func)
                if isinstance(dataset, Dataset):
                    check_tokens(dataset, name)
            _map(eval_dataset, lambda rows, name: checks.check_format(rows, _eval_name(name), args, formatting_func))
            if alignment_dataset is not None:
                checks.check_alignment_dataset(args, train_dataset, pivot_dataset)
            session = PairingSession(
                _pairing_columns(args),
                missing_pivot=args.missing_pivot,
                multiple_pivots=args.multiple_pivots,
                truncated_pairs=args.truncated_pairs,
                max_length=args.max_length,
                seed=_data_seed(args),
                all_columns=not args.remove_unused_columns,
                packing=args.packing,
                eval_packing=args.packing if args.eval_packing is None else args.eval_packing,
            )
            if alignment_dataset is None:
                session.check(train_dataset, pivot_dataset)
            else:
                session.check(alignment_dataset, None, "alignment dataset")

        with nullcontext() if args.objective is None else undispatched(args.accelerator_config):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                **kwargs,
            )
        checks.check_precision(self.model, self.accelerator)
        if args.objective is None and args.alignment_weight == 0 and args.pivot_batching == "grouped":
            get_logger().info(
                "Alignment is off (`alignment_weight=0`): this is `SFTTrainer`, its order of rows included. For a run "
                "without alignment in the order of `pivot_batching='grouped'`, set `alignment_weight=1e-9`."
            )
        if args.objective is not None:
            checks.check_parallelism(args, self.accelerator, draws=alignment_dataset is not None)
            checks.check_model(base_model(self.model), args)
            layers = checks.objective_layers(args.objective, base_model(self.model))
            step_tokens = checks.step_tokens(args.objective, self.processing_class)
            self._term = AlignmentTerm(args.objective, args, self.accelerator, layers, step_tokens)
            self._set_up_pairs(session, pivot_dataset, eval_pivot_dataset, alignment_dataset)
            add_soft_token_head(base_model(self.model))
            self._weight = 0.0  # λ of the latest loss
            self._alarms = TrainingAlarms()
            self._metric_prefix: str | None = None  # of the evaluation that is under way
            self._sampler: ParallelGroupSampler | None = None
            self._resumes_from: str | None = None
            self._noticed_later_pivots = False
            self.add_callback(EpochCallback(self._set_epoch))
            self.add_callback(PivotMemoryCallback(self._term.memory, self._begin_memory))
            self.add_callback(SummaryCallback())
            counts = self._count_batches()
            passes = None if counts is None else self._side_passes(counts)
            lonely = 0.0 if counts is None else counts.lonely
            get_logger().info(start_summary(args, args.objective, passes, self._train_batch_size, lonely))
            items = None
            if counts is not None and alignment_dataset is None:
                items = counts.items * args.gradient_accumulation_steps * args.world_size
            for warning in advice(args, args.objective, base_model(self.model), items):
                get_logger().warning(warning)

    # Data

    def _set_up_pairs(
        self,
        pairs: PairingSession,
        pivot_dataset: Dataset | None,
        eval_pivot_dataset: Dataset | dict[str, Dataset] | None,
        alignment_dataset: Dataset | None,
    ) -> None:
        """Resolve the pairs of the prepared datasets, and put the pairing collator around the padding one."""
        self._pairs = pairs
        stream = None
        if isinstance(self.train_dataset, IterableDataset):
            stream = pairs.pair_train_stream(self.train_dataset, self._prepare_carried_pivots)
            self.train_dataset = stream.dataset
        # Adding columns may write to the cache, so one process goes first
        with self.args.main_process_first(desc="pairing"):
            pivots = self._prepare_pivots(pivot_dataset, "train pivot")
            aligned, side_pairs = self._prepare_pivots(alignment_dataset, "alignment"), None
            vocab_size = vocabulary_size(self.model.get_input_embeddings().weight)
            prepared = {
                "train dataset": self.train_dataset,
                "pivot dataset": pivots,
                "alignment dataset": aligned,
            }
            for name, dataset in prepared.items():
                if isinstance(dataset, Dataset):
                    check_tokens(dataset, name, vocab_size)
            if aligned is not None:
                self.train_dataset, side_pairs = pairs.pair_apart(self.train_dataset, aligned)
            elif stream is None:
                self.train_dataset = pairs.pair_train(self.train_dataset, pivots)
            eval_pivots = _map(eval_pivot_dataset, lambda rows, name: self._prepare_pivots(rows, f"{name} pivot"))

            def pair_eval(dataset: Dataset | IterableDataset, name: str) -> Dataset | IterableDataset:
                own = eval_pivots.get(name) if isinstance(eval_pivots, dict) else eval_pivots
                return self._pair_eval(dataset, _eval_name(name), own)

            self.eval_dataset = _map(self.eval_dataset, pair_eval)
        # As the collator will see them: rows of the training set, and pivots on their own
        if stream is None:
            rows = self._remove_unused_columns(self.train_dataset, description="training")
            sample, pivot = list(without_pairing(rows).select(range(min(2, len(rows))))), pairs.table[0]
        else:
            self._set_signature_columns_if_needed()
            sample = stream.sample(self._signature_columns if self.args.remove_unused_columns else None)
            pivot = stream.pivot
        checks.check_collator(self.data_collator, sample)
        checks.check_collator(self.data_collator, [pivot] * 2)
        self.data_collator = DataCollatorForPivotAlignment(
            self.data_collator, pairs.table, self._term.demand, side_pairs
        )
        pairs.table.set_lasting()
        rows = self.train_dataset if stream is None else stream.head
        checks.check_prompts(self._term.objective, rows, pivots, aligned)

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if args.objective is None:
            return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)
        if self._pairs is not None and self._pairs.knows(dataset):
            return dataset  # given back to `evaluate`
        # TRL's packing drops the ids; ours comes after the pairs are known
        packing = packing and lacking_column(dataset, _pairing_columns(args)) is not None

        def prepare(rows):
            return super(SolarSFTTrainer, self)._prepare_dataset(
                rows, processing_class, args, packing, formatting_func, dataset_name
            )

        if not isinstance(dataset, Dataset):
            return prepare(dataset)
        prepared = name_bad_row(prepare, dataset, f"{dataset_name} dataset")
        if len(prepared) < len(dataset):
            message = (
                f"{len(dataset) - len(prepared)} of the {len(dataset)} rows of the {dataset_name} dataset are left "
                f"out: truncation at `max_length={args.max_length}` leaves them without a token to learn. Raise it."
            )
            if not len(prepared):
                raise ValueError(message)
            get_logger().warning(message)
        return prepared

    def _prepare_pivots(self, dataset: Dataset | None, name: str) -> Dataset | None:
        """Tokenize a dataset of pivots, or of rows to align, as the rows of the set that it belongs to."""
        if dataset is None or self._skip_prepare_dataset:
            return dataset
        checks.check_dataset(dataset, f"{name} dataset")
        return self._prepare_dataset(dataset, self.processing_class, self.args, False, self._formatting_func, name)

    def _prepare_carried_pivots(self, stand_in: IterableDataset) -> IterableDataset:
        """Tokenize the pivots that the rows of a stream carry as these rows."""
        if self._skip_prepare_dataset:
            return stand_in
        args = copy.copy(self.args)
        args.shuffle_dataset = False
        return self._prepare_dataset(stand_in, self.processing_class, args, False, self._formatting_func, "pivot")

    def _pair_eval(
        self, dataset: Dataset | IterableDataset, name: str, pivots: Dataset | None
    ) -> Dataset | IterableDataset:
        packs = self._session.eval_packing and LENGTHS_COLUMN not in column_names(dataset)
        if isinstance(dataset, Dataset):
            dataset = self._session.pair_eval(dataset, name, pivots)
        else:
            dataset = self._session.pair_eval_stream(dataset, name, pivots, self._prepare_carried_pivots)
        if packs and PIVOT_COLUMN not in column_names(dataset) and not self._skip_prepare_dataset:
            # It has the columns, but no pairs
            dataset = super()._prepare_dataset(dataset, self.processing_class, self.args, True, None, name)
        if isinstance(dataset, Dataset):
            return dataset
        # Shards differ in length, and every batch of an evaluation is gathered from all ranks
        return in_one_shard(dataset) if self.accelerator.num_processes > 1 else dataset

    @property
    def _session(self) -> PairingSession:
        assert self._pairs is not None, "alignment is off"
        return self._pairs

    def _set_epoch(self, epoch: int) -> None:
        self._session.table.set_epoch(epoch)
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self._pairs is not None:
            self._signature_columns += [name for name in ADDED_COLUMNS if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        # Packed rows hold whole items already
        dataset = self.train_dataset if train_dataset is None else train_dataset
        is_grouped = self._pairs is not None and self.args.pivot_batching == "grouped" and not self.args.packing
        if not is_grouped or DRAW_COLUMN in dataset.column_names:
            return super()._get_train_sampler(train_dataset)
        self._sampler = self._group_sampler(read_integers(dataset, PIVOT_COLUMN))
        return self._sampler

    def _group_sampler(self, groups: np.ndarray) -> ParallelGroupSampler:
        # All rows of an item carry its first pivot. `_train_batch_size` follows `auto_find_batch_size`.
        return ParallelGroupSampler(groups, self._train_batch_size, seed=_data_seed(self.args))

    def _side_passes(self, counts: BatchCounts) -> SidePasses:
        """What forwards of pivots that are not in the batch will cost."""
        draws = DRAW_COLUMN in self.train_dataset.column_names
        return side_passes(self.args, self._term.objective, counts.appended, draws)

    def _count_batches(self) -> BatchCounts | None:
        """What will meet in the batches of an epoch; not known for streams and packed rows."""
        dataset, objective = self.train_dataset, self._term.objective
        if isinstance(dataset, IterableDataset) or self.args.packing:
            return None
        rows = dataset.select(range(min(len(dataset), MAX_ROWS)))
        pivot, own = read_integers(rows, PIVOT_COLUMN), read_integers(rows, OWN_COLUMN)
        if self.args.pivot_batching == "grouped":
            order = np.fromiter(self._group_sampler(pivot), np.int64)
        else:
            order = np.random.default_rng(0).permutation(len(pivot))
        uses_batch = objective.pivot_gradient != "momentum"
        return count_batches(order, pivot, own, self._train_batch_size, uses_batch)

    def train(self, resume_from_checkpoint: str | os.PathLike | bool | None = None, *args, **kwargs):
        if resume_from_checkpoint:
            has_memory = self._pairs is not None and self._term.memory.has_state
            resume_from_checkpoint = checkpoint_to_resume(
                resume_from_checkpoint, self.args.output_dir, self.args.save_only_model, has_memory
            )
        self._resumes_from = resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # TRL trains adapters of quantized models in bfloat16, but PEFT loads them in float32
        dtypes = {name: p.dtype for name, p in self.model.named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in self.model.named_parameters():
            if parameter.dtype != dtypes.get(name, parameter.dtype):
                parameter.data = parameter.data.to(dtypes[name])

    def _begin_memory(self) -> None:
        self._term.memory.begin(self.model, self._resumes_from, self._session.table.n_lasting)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self._pairs is not None and self._term.memory.has_state and self.args.should_save:
            self._term.memory.save(output_dir)

    def get_train_dataloader(self) -> DataLoader:
        if self._pairs is not None and not self._pairs.knows(self.train_dataset):
            raise ValueError(
                "`train_dataset` was replaced after the trainer was made, so its pairs are not known. Pass the final "
                "rows to the constructor: `SolarSFTTrainer(train_dataset=...)`."
            )
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        if self._pairs is not None:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
            lasting = isinstance(rows, Dataset) and self._pairs.knows(rows)
            if isinstance(eval_dataset, (Dataset, IterableDataset)):
                # Passed to `evaluate`, not to the constructor: its pivots must be among its own rows
                rows = eval_dataset = self._pair_eval(eval_dataset, "eval dataset", None)
            self._look_for_start(rows, lasting)
        return super().get_eval_dataloader(eval_dataset)

    def _look_for_start(self, rows: Dataset | IterableDataset | None, lasting: bool) -> None:
        """Note whether it is known where the pivots of a set to evaluate on were at the start of training."""
        self._term.evaluates_lasting_pivots = lasting
        is_paired = rows is not None and PIVOT_COLUMN in column_names(rows)
        if self._term.objective.keeps_start and is_paired and not lasting and not self._noticed_later_pivots:
            self._noticed_later_pivots = True
            get_logger().warning(
                "Where the pivots of this evaluation set were at the start of training is not known, since it came to "
                "the trainer later or is a stream: its examples are compared with the pivots as they are now. Pass it "
                "to the constructor as a `Dataset` to compare them with the start."
            )

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        if self._pairs is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        size = len(self._pairs.table)
        outer, self._metric_prefix = self._metric_prefix, metric_key_prefix
        self._term.meters["eval"].reset()
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._metric_prefix = outer
        if not self.args.dataloader_persistent_workers:
            self._pairs.forget(size)  # pivots of a dataset that was only passed here
        return metrics

    # Loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._pairs is not None:
            # The whole optimizer step is at hand here
            if self.args.alignment_alternate:
                first = self.state.global_step * self.args.gradient_accumulation_steps
                tasks = self._term.take_turns(batches, first) or batches
                # Once more, to count the tokens of those that train
                _, num_items_in_batch = super().get_batch_samples(iter(tasks), len(tasks), device)
            self._term.count_pairs(batches, device)
        return batches, num_items_in_batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        alignment = inputs.pop(ALIGNMENT_KEY, None)
        if alignment is None:
            if self._pairs is not None and self.model.training:
                raise RuntimeError(
                    "A training batch came without its pairs, so it could not be aligned. Was `trainer.data_collator` "
                    "replaced? Pass your collator to the constructor, which puts the pairing around it."
                )
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        self._term.remember_start(self.model, self.data_collator)
        # Before the main forward, whose activations stay: the peak of both is then lower
        appended = self._term.summarize_pivots(self.model, alignment, inputs)
        proxy = RecordingProxy(model, self._term.pooling(alignment["tokens"], alignment["rows"]))
        result = super().compute_loss(proxy, inputs, return_outputs, num_items_in_batch)
        training, accumulation = self.model.training, getattr(self, "current_gradient_accumulation_steps", 1)
        pairs = self._term.pair(alignment, Summaries.of(proxy.outputs), appended, training)
        n_languages = len(self._session.languages)
        self._term.record(alignment, proxy.outputs, pairs, n_languages, steps=1 / accumulation if training else None)
        if not training:
            return result  # the evaluation loss stays the SFT loss

        if alignment.get("is_task") is False:
            result = (0 * result[0], result[1]) if return_outputs else 0 * result
        self._weight = self._current_weight()
        divided_by = accumulation if loss_is_divided_by_accumulation(self, num_items_in_batch) else 1
        term = self._term.total(pairs) * self._term.scale(alignment, self._weight, divided_by)
        if return_outputs:
            return result[0] + term.to(result[0].device), result[1]
        return result + term.to(result.device)

    def _current_weight(self) -> float:
        progress = self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0
        args = self.args
        return scheduled_weight(args.alignment_weight, args.alignment_schedule, args.alignment_warmup_ratio, progress)

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Not by the mode of the model, in which a callback may have left it. What callbacks log is no window's end
        if self._pairs is not None and (self._metric_prefix is not None or "loss" in logs or "train_runtime" in logs):
            evaluates = self._metric_prefix is not None
            meter = self._term.meters["eval" if evaluates else "train"]
            values = meter.compute(self._pairs.languages)
            if evaluates:
                values = {f"{self._metric_prefix}_{name}": value for name, value in values.items()}
            elif values:
                self._alarms.check(values, self.state.global_step)
                values["alignment_weight"] = self._weight
            logs.update(values)
            meter.reset()
        super().log(logs, start_time)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ):
        super().create_model_card(model_name=model_name, dataset_name=dataset_name, tags=tags)
        if self.is_world_process_zero():
            # There is none on the whole of a stream
            reports = {} if self._pairs is None else self._pairs.reports
            report = reports.get("train dataset", reports.get("alignment dataset"))
            ends = first_and_last(self.state.log_history)
            add_alignment_section(os.path.join(self.args.output_dir, "README.md"), self.args, report, ends)


def _pairing_columns(args: SolarSFTConfig) -> PairingColumns:
    return PairingColumns.build(args.language_column, args.parallel_id_column, args.pivot_language)


def _eval_name(name: str) -> str:
    """What messages call an evaluation set: the only one, or one of a dict."""
    return "eval dataset" if name == "eval" else f"eval dataset {name!r}"


def _data_seed(args: SolarSFTConfig) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def _map(datasets: Any, function: Callable[[Any, str], Any]) -> Any:
    """Apply a function to each dataset of a dict, or to the only one, called "eval"."""
    if isinstance(datasets, dict):
        return {name: function(dataset, name) for name, dataset in datasets.items()}
    return None if datasets is None else function(datasets, "eval")
