"""Responses of a model to prompts, in batches that can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from .prompts import Prompt
from .responses_file import ResponsesFile
from .sampling import Response, Sampling
from .transformers_backend import Runner, fingerprint, transformers_runner
from .vllm_backend import load_vllm, vllm_runner


def generate_responses(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase | None,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    stop: Sequence[str] = (),
    num_samples: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    output_file: str | Path | None = None,
    backend: str = "transformers",
    progress: bool = True,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> list[list[Response]]:
    """
    Generate responses, batched by length, in the order of the prompts.

    With `output_file`, each batch is written when it is done, and a run that was stopped goes on where it was: same
    batches, same seeds, so the same responses as without the stop. The model's weights (a sample of each tensor), its
    prompts and all settings are compared first; the file of another run is refused.

    Under a launcher with several processes, call it in one of them.

    Sampling is seeded per batch and sample, without touching the global random state. With `temperature=0` the
    `batch_size` changes speed and memory only (up to rounding); with sampling it also changes which numbers are drawn.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, also with PEFT adapters. It runs in evaluation mode, and its modules are as before
            afterwards. For vLLM: the path of a model, or a `vllm.LLM`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer; never changed. Prompts are padded on the left, whatever its padding side and pad token. May
            be `None` with vLLM.
        prompts (`Sequence`):
            Texts, or lists of messages for the chat template. See [`build_prompts`].
        max_new_tokens (`int`, *optional*, defaults to `512`):
            Most tokens of a response.
        temperature, top_p, top_k, min_p, stop, num_samples, seed:
            See [`Sampling`]. The model's own generation config is not used, but for its end-of-text tokens.
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts per batch.
        output_file (`str` or `Path`, *optional*):
            JSON Lines file to write to and resume from.
        backend (`str`, *optional*, defaults to `"transformers"`):
            Or `"vllm"`, which must be installed; batches are then 64 times `batch_size` prompts, which vLLM schedules.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.
        chat_template_kwargs (`dict`, *optional*):
            Passed to the chat template, e.g. `{"enable_thinking": False}`.

    Returns:
        `list[list[Response]]`: `num_samples` responses for each prompt. Where the chat template itself opens the
        thinking with `<think>`, so does the text, so that thinking that was cut off can be told from an answer.

    Raises:
        ValueError: If there are no prompts, a prompt is empty, messages are given for a tokenizer without a chat
            template, an option is out of range, or `output_file` belongs to another run.
        TypeError: If `prompts` is a single string.
        ImportError: If vLLM is asked for and not installed.

    Examples:
    ```python
    >>> from solar_trl.evaluation import generate_responses

    >>> responses = generate_responses(model, tokenizer, ["Question: 2 + 3?\\nAnswer:"], max_new_tokens=32)
    >>> responses[0][0].text
    ' 5'
    ```
    """
    if isinstance(prompts, str):
        raise TypeError("`prompts` must be a list, got a single string.")
    if not len(prompts):
        raise ValueError("`prompts` is empty.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}, expected at least 1.")
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, min_p, tuple(stop), num_samples, seed)
    run: Runner
    if backend == "transformers":
        if tokenizer is None:
            raise ValueError("`tokenizer` is missing.")
        run = transformers_runner(model, tokenizer, sampling)
        identity = None if output_file is None else fingerprint(model)
    elif backend == "vllm":
        model, tokenizer, identity = load_vllm(model, tokenizer)
        run, batch_size = vllm_runner(model, sampling), 64 * batch_size
    else:
        raise ValueError(f"`backend` is {backend!r}, expected 'transformers' or 'vllm'.")
    sequences = encode_prompts(tokenizer, prompts, chat_template_kwargs)
    done: dict[int, list[dict[str, Any]]] = {}
    file = None
    if output_file is not None:
        settings = {"model": identity, "backend": backend} | asdict(sampling)
        if temperature > 0:
            settings["batch_size"] = batch_size
        file = ResponsesFile(output_file, settings, sequences)
        done = file.samples
    # Longest first: the batch that needs most memory comes first
    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    with tqdm(total=len(prompts), desc="Generating", disable=not progress, initial=len(done)) as bar:
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            if all(place in done for place in places):
                continue
            responses = run([sequences[place] for place in places], begin)
            new = [
                (place, [asdict(response) for response in samples])
                for place, samples in zip(places, responses, strict=True)
                if place not in done
            ]
            if file is not None:
                file.append(new)
            else:
                done.update(new)
            bar.update(len(new))
    responses = [[Response(**sample) for sample in done[place]] for place in range(len(prompts))]
    return [
        [replace(each, text=f"<think>\n{each.text}") for each in samples] if _thinks(tokenizer, sequence) else samples
        for sequence, samples in zip(sequences, responses, strict=True)
    ]


def _thinks(tokenizer: PreTrainedTokenizerBase, sequence: list[int]) -> bool:
    """Whether a prompt opens the thinking, as the templates of some reasoning models do."""
    return tokenizer.decode(sequence[-16:]).rstrip().endswith("<think>")


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], chat_template_kwargs: dict[str, Any] | None = None
) -> list[list[int]]:
    """
    Token ids of each prompt; messages through the chat template, texts as they are (with BOS where it is usual).

    Raises:
        ValueError: If messages are given and the tokenizer has no chat template, or a prompt has no token.
    """
    sequences = []
    for place, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            ids = tokenizer(prompt)["input_ids"]
        elif tokenizer.chat_template is None:
            raise ValueError(
                "The prompts are messages and the tokenizer has no chat template: the model is probably a base model. "
                "Build prompts as texts (`chat=False`), or set `tokenizer.chat_template`."
            )
        else:
            # As text first: in transformers 4 and 5 alike, the template brings its own special tokens
            text = tokenizer.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True, **(chat_template_kwargs or {})
            )
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"Prompt {place} has no token: {prompt!r}.")
        sequences.append(list(ids))
    return sequences
