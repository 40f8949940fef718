"""Generation through transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .sampling import Response, Sampling, batch_seed, cut_at


Runner = Callable[[list[list[int]], int], list[list[Response]]]


def fingerprint(model: PreTrainedModel) -> str:
    """Name of a model, and a digest of up to 64 values of each of its tensors: other weights, other digest."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        # Evenly spread; integer arithmetic, as floats cannot count the places of large tensors
        places = torch.arange(min(64, flat.numel()), device=flat.device) * max(1, flat.numel() // 64)
        values = flat[places].float().cpu().numpy() if flat.numel() and not flat.is_meta else np.zeros(0, np.float32)
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.tobytes())
    return f"{getattr(model.config, '_name_or_path', '') or type(model).__name__} {hasher.hexdigest()[:16]}"


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own mode afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def transformers_runner(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> Runner:
    """A function from token ids, and the place of the batch, to responses."""
    ends = _end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    options: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        options = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_k": sampling.top_k or 0,
        }
        if sampling.min_p is not None:
            options["min_p"] = sampling.min_p
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
        stop_strings=list(sampling.stop) or None,
        **options,
    )
    extra = {"tokenizer": tokenizer} if sampling.stop else {}
    device = model.device

    def run(sequences: list[list[int]], begin: int) -> list[list[Response]]:
        width = max(map(len, sequences))
        input_ids = torch.full((len(sequences), width), pad)
        attention_mask = torch.zeros_like(input_ids)
        for row, sequence in enumerate(sequences):
            input_ids[row, width - len(sequence) :] = torch.tensor(sequence)
            attention_mask[row, width - len(sequence) :] = 1
        responses: list[list[Response]] = [[] for _ in sequences]
        devices = range(torch.cuda.device_count()) if device.type == "cuda" else []
        with (
            torch.no_grad(),
            evaluation_mode(model),
            _no_defaults(model),
            torch.random.fork_rng(devices=list(devices)),
        ):
            for sample in range(sampling.num_samples):
                torch.manual_seed(batch_seed(sampling.seed, begin, sample))
                output = model.generate(
                    input_ids=input_ids.to(device),
                    attention_mask=attention_mask.to(device),
                    generation_config=config,
                    **extra,
                )
                for row, generated in enumerate(output[:, width:].tolist()):
                    responses[row].append(_decode(tokenizer, generated, ends, pad, sampling))
        return responses

    return run


@contextmanager
def _no_defaults(model: PreTrainedModel) -> Iterator[None]:
    """`generate` fills what an explicit config leaves open from the model's own; here it finds nothing there."""
    models = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]  # PEFT passes its own on
    configs = [each.generation_config for each in models]
    try:
        for each in models:
            each.generation_config = GenerationConfig()
        yield
    finally:
        for each, config in zip(models, configs, strict=True):
            each.generation_config = config


def _decode(
    tokenizer: PreTrainedTokenizerBase, generated: list[int], ends: list[int], pad: int, sampling: Sampling
) -> Response:
    length = next((place for place, token in enumerate(generated) if token in ends), len(generated))
    ended = length < len(generated)
    while not ended and length and generated[length - 1] == pad:  # it met a stop text, and another row went on
        length -= 1
    ended = ended or length < sampling.max_new_tokens
    text = tokenizer.decode(generated[:length], skip_special_tokens=True)
    cut = cut_at(text, sampling.stop)
    return Response(cut, length, ended or cut != text)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    config = getattr(model, "generation_config", None)
    known = getattr(config, "eos_token_id", None)
    ends = [] if known is None else ([known] if isinstance(known, int) else list(known))
    if tokenizer.eos_token_id is not None:
        ends.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ends))
