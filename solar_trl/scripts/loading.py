"""Models and adapters that options name."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .options import ModelOptions, file_name, split_list


@dataclass(frozen=True)
class ModelSource:
    """
    A model to load.

    Args:
        name (`str`): What it is called.
        model (`str`): Folder or name on the Hub.
        adapter (`str`, *optional*): Folder or name of a PEFT adapter on top.
    """

    name: str
    model: str
    adapter: str | None = None


def model_sources(options: ModelOptions, baseline: str | None = None) -> list[ModelSource]:
    """
    The models that options name, the baseline first.

    Raises:
        ValueError: If there are more or fewer adapters or names than models, or two models have one name.
    """
    models = split_list(options.model) or []
    adapters = [None if name.lower() == "none" else name for name in split_list(options.adapter) or ["none"]]
    if len(models) == 1:
        models *= len(adapters)
    elif options.adapter is None:
        adapters *= len(models)
    if len(models) != len(adapters):
        raise ValueError(
            f"There are {len(models)} models and {len(adapters)} adapters. Give one adapter for each model, `none` "
            "for a model without."
        )
    names = split_list(options.name)
    if names is None:
        names = [_last_part(adapter or model) for model, adapter in zip(models, adapters, strict=True)]
        names = ([_last_part(baseline)] if baseline else []) + names
    elif baseline and len(names) == len(models):
        names = ["baseline", *names]
    if baseline:
        models, adapters = [baseline, *models], [None, *adapters]
    if len(names) != len(models):
        raise ValueError(f"There are {len(models)} models and {len(names)} names ({', '.join(names)}).")
    files = [file_name(name) for name in names]
    if len(set(files)) < len(files):
        raise ValueError(f"Two models would have one name ({', '.join(names)}): tell them apart with `--name`.")
    return [ModelSource(*values) for values in zip(names, models, adapters, strict=True)]


def load_tokenizer(source: ModelSource, options: ModelOptions) -> Any:
    """The tokenizer that was named, or the adapter's own, or that of the model it belongs to."""
    adapter = Path(source.adapter or source.model)
    if options.tokenizer is not None:
        place = options.tokenizer
    elif (adapter / "tokenizer_config.json").exists():
        place = str(adapter)
    elif source.adapter is None and (adapter / "adapter_config.json").exists():
        from peft import PeftConfig

        place = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    else:
        place = source.model
    return AutoTokenizer.from_pretrained(place, trust_remote_code=options.trust_remote_code)


@contextmanager
def loaded(source: ModelSource, options: ModelOptions) -> Iterator[Any]:
    """The model, for as long as it is needed: there is one at a time in memory."""
    extra = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    model = AutoModelForCausalLM.from_pretrained(
        source.model,
        dtype=options.dtype,
        device_map=options.device_map,
        trust_remote_code=options.trust_remote_code,
        **extra,
    )
    if source.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, source.adapter)
    try:
        yield model.eval()
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _last_part(name: str) -> str:
    return Path(name.rstrip("/")).name or name
