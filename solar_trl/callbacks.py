"""Evaluation across languages while a model is trained."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from .analysis import analyze_layers, hidden_state_summaries
from .data.tables import require_columns
from .evaluation import build_prompts, generate_responses, score_records
from .evaluation.evaluator import benchmark_rows, response_records
from .evaluation.generation import encode_prompts
from .evaluation.prompts import stop_strings


_GENERATION = ("accuracy", "macro_accuracy", "pivot_gap", "consistency", "ac3", "clc", "co", "fidelity")
_COUNTS = ("empty", "unextractable", "unfinished")
_MEASURES = ("similarity", "retrieval", "mexa")
_T = TypeVar("_T")


class CrossLingualEvalCallback(TrainerCallback):
    """
    Evaluates across languages whenever the trainer evaluates: what the model answers to held-out parallel prompts,
    and how its states of held-out parallel texts lie.

    Works with [`~trl.SFTTrainer`] and [`SolarSFTTrainer`], full fine-tuning and PEFT. Training goes on as if nothing
    had happened: random states, the modes of all modules and the tokenizer are as before. Of the texts only responses
    and pooled vectors are kept, never logits or states of more than one batch.

    On several processes each takes its share of the prompts and texts with its own copy of the model; the scores are
    computed from all of them and are the same on every process. That needs a whole model on each: DDP and ZeRO up to
    stage 2, not FSDP or ZeRO-3.

    Logged through `trainer.log` and added to the metrics of the evaluation, so that `metric_for_best_model=
    "eval_crosslingual/macro_accuracy"` works (with several evaluation sets: once per evaluation, with the first one):

    - `eval_crosslingual/accuracy`, `/accuracy/<language>`, `/macro_accuracy`, `/pivot_gap`, `/consistency`, `/ac3`,
      `/clc`, `/co` and `/fidelity`, as in [`EvaluationResult`];
    - `eval_crosslingual/empty`, `/unextractable` and `/unfinished`: numbers of outputs without text, without an answer
      in them, and cut off;
    - `eval_crosslingual/layer_<i>/<measure>` and `/layer_<i>/<measure>/<language>` for the measures of
      [`analyze_layers`] (`matched`, `random`, `difference`, `retrieval`, `mexa`, ...).

    A score that is undefined (such as `co` while no answer is right) is left out.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer; add the callback with `trainer.add_callback`.
        benchmark (`str` or [`~datasets.Dataset`], *optional*):
            Name or file for [`load_benchmark`], or its rows: what the model is asked. Some 50 items per language show
            a trend; each evaluation generates all of them.
        texts ([`~datasets.Dataset`], *optional*):
            Rows with `language`, `parallel_id` and `text`, and `prompt` if the text has one in front: whose states are
            compared. At least one of `benchmark` and `texts` is needed.
        languages (`Sequence[str]`, *optional*), limit (`int`, *optional*):
            Languages, and number of items in each, to keep of `benchmark`. All by default.
        pivot_language (`str`, *optional*, defaults to `"en"`):
            Language with which the others are compared.
        exemplars ([`~datasets.Dataset`], *optional*), num_shots (`int`, *optional*, defaults to `0`), instruction:
            For [`build_prompts`].
        chat (`bool`, *optional*):
            Whether to use the chat template; by default if the tokenizer has one.
        max_new_tokens (`int`, *optional*, defaults to `256`), batch_size (`int`, *optional*, defaults to `8`):
            For [`generate_responses`]; decoding is greedy. `batch_size` is also that of the texts.
        chat_template_kwargs (`dict`, *optional*):
            For the chat template, e.g. `{"enable_thinking": False}`.
        identifier (`str`, *optional*, defaults to `"auto"`):
            For [`LanguageFidelity`].
        layers (`Sequence[int]`, *optional*):
            Layers whose states are compared, as in [`hidden_state_summaries`]. The middle and the last one by default:
            languages meet in the middle, and part again toward the output.
        pooling (`str`, *optional*, defaults to `"position_weighted"`):
            As in [`hidden_state_summaries`].
        measures (`Sequence[str]`, *optional*):
            Groups of measures of [`analyze_layers`]: similarity, retrieval and MEXA by default, which take least time;
            `"separability"` adds silhouette and language probe (needs scikit-learn).

    Raises:
        ValueError: At construction, if there is nothing to evaluate, a language or column is not there, nothing is
            parallel, prompts need a chat template that is not there, the model has no such layer, or the model is
            sharded.
        TypeError: If `texts` is not a dataset.

    Examples:
    ```python
    from solar_trl import CrossLingualEvalCallback

    callback = CrossLingualEvalCallback(trainer, benchmark="mgsm", languages=["en", "sw", "th"], limit=50)
    trainer.add_callback(callback)
    trainer.train()
    ```
    """

    def __init__(
        self,
        trainer: Trainer,
        benchmark: str | Dataset | None = None,
        texts: Dataset | None = None,
        *,
        languages: Sequence[str] | None = None,
        limit: int | None = None,
        pivot_language: str = "en",
        exemplars: Dataset | None = None,
        num_shots: int = 0,
        instruction: str | dict[str, str] | None = None,
        chat: bool | None = None,
        max_new_tokens: int = 256,
        batch_size: int = 8,
        chat_template_kwargs: dict[str, Any] | None = None,
        identifier: str = "auto",
        layers: Sequence[int] | None = None,
        pooling: str = "position_weighted",
        measures: Sequence[str] = _MEASURES,
    ):
        if benchmark is None and texts is None:
            raise ValueError("There is nothing to evaluate: pass `benchmark=`, `texts=` or both.")
        _check_whole(trainer)
        self.trainer = trainer
        self.tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        self.pivot_language = pivot_language
        self.batch_size = batch_size
        self.identifier = identifier
        self.items = self.texts = None
        if benchmark is not None:
            self.items, _ = benchmark_rows(benchmark, languages, limit=limit)
            _check_parallel(self.items, "benchmark", pivot_language)
            if chat is None:
                chat = self.tokenizer.chat_template is not None
            self.prompts = build_prompts(self.items, exemplars, num_shots, chat, instruction)
            encode_prompts(self.tokenizer, self.prompts, chat_template_kwargs)  # a missing template shows now
            self.generation: dict[str, Any] = {
                "max_new_tokens": max_new_tokens,
                "batch_size": batch_size,
                "chat_template_kwargs": chat_template_kwargs,
                "stop": () if chat else stop_strings(self.items),
            }
        if texts is not None:
            if not isinstance(texts, Dataset):
                raise TypeError(f"`texts` must be a Dataset, got {type(texts).__name__}.")
            require_columns(texts, dict.fromkeys(("language", "parallel_id", "text"), "needed"), "dataset `texts`")
            _check_parallel(texts, "texts", pivot_language)
            self.texts, self.pooling, self.measures = texts, pooling, list(measures)
            self.layers = _known_layers(trainer.model, layers)

    def on_evaluate(self, args, state, control, metrics: dict[str, float] | None = None, **kwargs):
        """Score, log, and add the scores to the metrics of this evaluation."""
        prefix = self._prefix(metrics or {})
        if prefix is None:
            return
        with preserved_random_states():
            scores = self.compute()
        logs = {f"{prefix}_crosslingual/{name}": value for name, value in scores.items() if math.isfinite(value)}
        if metrics is not None:
            metrics.update(logs)
        if logs:
            self.trainer.log(dict(logs))  # a copy: trainers add to what they are given

    def compute(self) -> dict[str, float]:
        """
        Score the model as it is now. To be called on every process.

        Returns:
            `dict[str, float]`: Scores by name, without `eval_crosslingual/`; the same on every process.
        """
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        scores: dict[str, float] = {}
        if self.items is not None:
            scores |= self._answers(model)
        if self.texts is not None:
            scores |= self._states(model)
        return scores

    def _answers(self, model: Any) -> dict[str, float]:
        assert self.items is not None

        def answer(rows: Sequence[int]) -> list[Any]:
            prompts = [self.prompts[row] for row in rows]
            return generate_responses(model, self.tokenizer, prompts, progress=False, **self.generation)

        responses = self._shared(len(self.items), answer)
        records = response_records(self.items, self.prompts, responses)
        # The intervals are not logged
        result = score_records(records, "crosslingual", self.pivot_language, self.identifier, resamples=1)
        by_language = [f"accuracy/{language}" for language in result.counts if language != "all"]
        scores = {name: result.metrics[name] for name in (*_GENERATION, *by_language) if name in result.metrics}
        return scores | {name: float(result.counts["all"][name]) for name in _COUNTS}

    def _states(self, model: Any) -> dict[str, float]:
        assert self.texts is not None
        texts = self.texts
        prompts = texts["prompt"][:] if "prompt" in texts.column_names else None

        def summarise(rows: Sequence[int]) -> list[dict[int, np.ndarray]]:
            own = [texts[row]["text"] for row in rows]
            before = None if prompts is None else [prompts[row] for row in rows]
            states = hidden_state_summaries(
                model, self.tokenizer, own, self.layers, self.pooling, before, batch_size=self.batch_size
            )
            return [{layer: values[i] for layer, values in states.items()} for i in range(len(rows))]

        rows = self._shared(len(texts), summarise)
        states = {layer: np.stack([row[layer] for row in rows]) for layer in self.layers}
        analysis = analyze_layers(
            states, texts["language"][:], texts["parallel_id"][:], self.pivot_language, self.measures
        )
        scores = {}
        for record in analysis["records"]:
            if record["value"] is not None:
                language = "" if record["language"] is None else f"/{record['language']}"
                scores[f"layer_{record['layer']}/{record['measure']}{language}"] = record["value"]
        return scores

    def _shared(self, count: int, work: Callable[[Sequence[int]], list[_T]]) -> list[_T]:
        """
        Results of `work` for `count` rows, in their order: each process does its share, and all get all of them.

        An error on one process is raised on all: the others would wait for it forever.
        """
        accelerator = self.trainer.accelerator
        n, rank = accelerator.num_processes, accelerator.process_index
        own = list(range(rank, count, n))
        error: Exception | None = None
        results: list[_T] = []
        try:
            results = work(own) if own else []
        except Exception as caught:
            error = caught
        if n > 1:
            shares = gather_object([(own, results, None if error is None else repr(error))])
        else:
            shares = [(own, results, None)]
        if error is not None:
            raise error
        if failed := [message for _, _, message in shares if message is not None]:
            raise RuntimeError(f"Cross-lingual evaluation failed on another process: {failed[0]}")
        by_row = {row: result for rows, found, _ in shares for row, result in zip(rows, found, strict=True)}
        return [by_row[row] for row in range(count)]

    def _prefix(self, metrics: Mapping[str, float]) -> str | None:
        """Prefix of this evaluation's metrics; `None` for the second and later sets of one evaluation."""
        prefix = next((name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")), "eval")
        sets = self.trainer.eval_dataset
        names = [f"eval_{name}" for name in sets] if isinstance(sets, dict) else []
        if prefix not in names:
            return prefix
        return "eval" if prefix == names[0] else None


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """The random states of Python, NumPy and PyTorch, on all devices, as before afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    cpu = torch.random.get_rng_state()
    module: Any = torch.get_device_module() if torch.accelerator.is_available() else None
    suffix = "_all" if hasattr(module, "get_rng_state_all") else ""  # MPS has a single device
    states = None if module is None else getattr(module, f"get_rng_state{suffix}")()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)
        if module is not None:
            getattr(module, f"set_rng_state{suffix}")(states)


def _check_parallel(rows: Dataset, name: str, pivot_language: str) -> None:
    """Refuse rows that compare nothing: no pivot, or no language that shares an id with it."""
    ids: dict[str, set[Any]] = {}
    for language, item in zip(rows["language"][:], rows["parallel_id"][:], strict=True):
        ids.setdefault(language, set()).add(item)
    if pivot_language not in ids:
        raise ValueError(
            f"`{name}` has no row in the pivot language {pivot_language!r}; its languages are "
            f"{', '.join(map(repr, ids))}. Set `pivot_language`."
        )
    others = [language for language in ids if language != pivot_language]
    if not any(ids[language] & ids[pivot_language] for language in others):
        raise ValueError(
            f"`{name}` has no item both in {pivot_language!r} and in another language "
            f"({', '.join(map(repr, others))}): translations of an item must have the same `parallel_id`."
        )


def _check_whole(trainer: Trainer) -> None:
    """Each process generates on its own, which a sharded model cannot."""
    accelerator = trainer.accelerator
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        kind = "FSDP" if trainer.is_fsdp_enabled else "ZeRO-3"
        raise ValueError(
            f"The model is sharded ({kind}), so no process can generate on its own. Evaluate saved checkpoints with "
            "`solar-trl evaluate`, or train with DDP or ZeRO-2."
        )


def _known_layers(model: Any, layers: Sequence[int] | None) -> list[int]:
    """Layers counted from 0; the middle and the last one by default."""
    count = model.config.get_text_config().num_hidden_layers + 1
    if layers is None:
        return sorted({count // 2, count - 1})
    if wrong := [layer for layer in layers if not -count <= layer < count]:
        raise ValueError(f"The model has no layer {wrong[0]}: there are 0 (embeddings) to {count - 1} (last block).")
    return list(dict.fromkeys(layer % count for layer in layers))
