"""Generation through vLLM, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .sampling import Response, Sampling, batch_seed, cut_at


def _vllm() -> Any:
    try:
        return import_module("vllm")
    except ImportError as error:
        raise ImportError('`backend="vllm"` needs vLLM: `pip install vllm`, in an environment of its own.') from error


def load_vllm(model: Any, tokenizer: Any) -> tuple[Any, Any, str]:
    """
    A `vllm.LLM`, its tokenizer and the model's name, from an LLM or a path.

    Raises:
        ImportError: If vLLM is not installed.
        TypeError: If `model` is neither a path nor an LLM.
    """
    vllm = _vllm()
    if isinstance(model, vllm.LLM):
        name = str(model.llm_engine.model_config.model)
    elif isinstance(model, str) or hasattr(model, "__fspath__"):
        name = str(model)
        model = vllm.LLM(model=name)
    else:
        raise TypeError(
            f'With `backend="vllm"`, `model` must be a path or a `vllm.LLM`, got {type(model).__name__}. Save the '
            "model (merge adapters first) and pass its folder."
        )
    return model, tokenizer if tokenizer is not None else model.get_tokenizer(), name


def vllm_runner(llm: Any, sampling: Sampling) -> Callable[[list[list[int]], int], list[list[Response]]]:
    """A function from token ids, and the place of the batch, to responses."""
    vllm = _vllm()

    def run(sequences: list[list[int]], begin: int) -> list[list[Response]]:
        # A seed of its own for each prompt; vLLM derives those of the samples
        options = [
            vllm.SamplingParams(
                n=sampling.num_samples,
                temperature=sampling.temperature,
                top_p=1.0 if sampling.top_p is None else sampling.top_p,
                top_k=sampling.top_k or 0,
                min_p=sampling.min_p or 0.0,
                max_tokens=sampling.max_new_tokens,
                stop=list(sampling.stop) or None,
                seed=batch_seed(sampling.seed, begin + row, 0) % 2**31,
            )
            for row in range(len(sequences))
        ]
        prompts = [{"prompt_token_ids": sequence} for sequence in sequences]
        outputs = llm.generate(prompts, options, use_tqdm=False)
        return [
            [
                Response(cut_at(part.text, sampling.stop), len(part.token_ids), part.finish_reason == "stop")
                for part in sorted(output.outputs, key=lambda part: part.index)
            ]
            for output in outputs
        ]

    return run
