"""Multiple choice by likelihood: which option does the model find most likely after the prompt?"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from .generation import encode_prompts
from .prompts import Prompt
from .transformers_backend import evaluation_mode


NORMALIZATIONS = ("sum", "token", "character")


def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    choices: Sequence[Sequence[str]],
    *,
    normalization: str = "sum",
    batch_size: int = 8,
    progress: bool = True,
) -> list[np.ndarray]:
    """
    Log-likelihood of each option as the continuation of its prompt.

    Options are tokenized on their own and appended to the tokens of the prompt. Only the logits of their positions are
    computed, in models that take `logits_to_keep`.

    Args:
        model ([`~transformers.PreTrainedModel`]), tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Causal language model and its tokenizer; both are as before afterwards.
        prompts (`Sequence`):
            Texts, or lists of messages for the chat template.
        choices (`Sequence` of `Sequence[str]`):
            Options of each prompt, as they would continue it: for a text that ends in "Answer:", `" A"` and `" B"`, or
            the options' texts, with the space that the language needs.
        normalization (`str`, *optional*, defaults to `"sum"`):
            `"sum"` of log-probabilities (the harness's `acc`), its mean per `"token"`, or per `"character"` of the
            option without the spaces around it (long and short options compare better; the harness's `acc_norm` takes
            the length with the space).
        batch_size (`int`, *optional*, defaults to `8`):
            Sequences per forward pass.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `list[np.ndarray]`: For each prompt a float64 array with one score per option.

    Raises:
        ValueError: If the lengths differ, an option has no token, or the normalization is unknown.

    Examples:
    ```python
    >>> from solar_trl.evaluation import score_choices

    >>> scores = score_choices(model, tokenizer, ["2 + 3 =", "Sky:"], [[" 5", " 6"], [" blue", " red"]])
    >>> [int(values.argmax()) for values in scores]
    [0, 0]
    ```
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` is {normalization!r}, expected {', '.join(map(repr, NORMALIZATIONS))}.")
    if len(prompts) != len(choices) or not len(prompts):
        raise ValueError(f"There are {len(prompts)} prompts and options for {len(choices)}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}, expected at least 1.")
    sequences: list[tuple[int, int, list[int], int]] = []  # prompt, option, token ids, tokens of the option
    for place, ids in enumerate(encode_prompts(tokenizer, prompts)):
        for option, text in enumerate(choices[place]):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            if not tokens:
                raise ValueError(f"Option {option} of prompt {place} has no token: {text!r}.")
            sequences.append((place, option, ids + list(tokens), len(tokens)))
    sequences.sort(key=lambda entry: -len(entry[2]))
    scores = [np.full(len(options), np.nan) for options in choices]
    with evaluation_mode(model), tqdm(total=len(sequences), desc="Scoring", disable=not progress) as bar:
        for begin in range(0, len(sequences), batch_size):
            batch = sequences[begin : begin + batch_size]
            for (place, option, _, length), value in zip(batch, _log_likelihoods(model, batch), strict=True):
                text = choices[place][option].strip()
                divisor = {"sum": 1, "token": length, "character": max(1, len(text))}[normalization]
                scores[place][option] = value / divisor
            bar.update(len(batch))
    return scores


@torch.no_grad()
def _log_likelihoods(model: PreTrainedModel, batch: Sequence[tuple[int, int, list[int], int]]) -> list[float]:
    width = max(len(ids) for _, _, ids, _ in batch)
    keep = max(length for _, _, _, length in batch) + 1
    input_ids = torch.zeros(len(batch), width, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, (_, _, ids, _) in enumerate(batch):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        attention_mask[row, width - len(ids) :] = 1
    input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT
    known = inspect.signature(inner.forward).parameters
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    extra = {"logits_to_keep": keep, "use_cache": False, "position_ids": positions}
    extra = {name: value for name, value in extra.items() if name in known}
    logits = model(input_ids=input_ids, attention_mask=attention_mask, **extra).logits[:, -keep:-1].float()
    targets = input_ids[:, -keep + 1 :]
    log_probs = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].double()
    return [float(log_probs[row, keep - 1 - length :].sum()) for row, (_, _, _, length) in enumerate(batch)]
