"""The LM head alone, forward and backward: TRL's fused head, the soft-token head, and full logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from solar_trl.kernels import HeadOptions, soft_token_head

from .settings import Setting


REFERENCE = "trl"
DESCRIPTIONS = {
    "trl": "TRL's fused head: log-probabilities, entropy, top-1",
    "solar": "the soft-token head: the same, and soft-token summaries",
    "solar-unpooled": "the soft-token head without a summary",
    "naive": "full logits, softmax and matmul",
}
ARMS = tuple(DESCRIPTIONS)
_VOCABULARY_CHUNK = 32_768  # TRL's own


def unavailable(name: str, setting: Setting) -> str | None:
    """Why an arm cannot run in a setting, or `None`."""
    if name not in ARMS:
        raise ValueError(f"The arm {name!r} is not known: expected one of {', '.join(ARMS)}.")
    return None


def build(setting: Setting, names: list[str], n_steps: int, output_dir: str) -> dict[str, Callable[[], None]]:
    """
    Make the arms on shared inputs: the scored tokens of a step, a tied weight that is trained unless under LoRA.

    The arguments and the result are those of [`trainer_arms.build`].
    """
    generator = torch.Generator().manual_seed(setting.seed)
    config, n_tokens, device = setting.config(), setting.scored_tokens, setting.device
    dtype = setting.compute_dtype

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    hidden = normal(n_tokens, config.hidden_size).requires_grad_()
    weight = (0.02 * normal(config.vocab_size, config.hidden_size)).requires_grad_(setting.training == "full")
    targets = torch.randint(config.vocab_size, (n_tokens,), generator=generator).to(device)
    per_row = n_tokens // setting.batch_size
    rows = [(row * per_row, (row + 1) * per_row) for row in range(setting.batch_size)]
    options = HeadOptions(temperature=setting.temperature, top_k=setting.top_k, tile_bytes=setting.tile_mib * 2**20)

    def alignment(summaries: torch.Tensor) -> torch.Tensor:
        items = summaries.unflatten(0, (-1, setting.languages))
        return (1 - F.cosine_similarity(items[:, 1:], items[:, :1].detach(), dim=-1)).mean()

    def trl() -> torch.Tensor:
        log_probs, *_ = ChunkedLogProbFunction.apply(
            hidden, weight, None, targets, 1.0, _VOCABULARY_CHUNK, None, 1.0, ("entropy", "is_top1")
        )
        return -log_probs.mean()

    def solar() -> torch.Tensor:
        log_probs, _, _, _, summaries = soft_token_head(hidden, weight, None, weight, targets, rows, options)
        return -log_probs.mean() + alignment(summaries)

    def solar_unpooled() -> torch.Tensor:
        log_probs, *_ = soft_token_head(hidden, weight, None, None, targets, [], options)
        return -log_probs.mean()

    def naive() -> torch.Tensor:
        logits = (hidden @ weight.t()).float()
        if setting.top_k is None:
            mixed = (logits / setting.temperature).softmax(-1) @ weight.float()
        else:
            values, indices = (logits / setting.temperature).topk(setting.top_k)
            mixed = (values.softmax(-1).unsqueeze(-1) * weight.float()[indices]).sum(1)
        return F.cross_entropy(logits, targets) + alignment(mixed.unflatten(0, (setting.batch_size, -1)).mean(1))

    losses = {"trl": trl, "solar": solar, "solar-unpooled": solar_unpooled, "naive": naive}

    def step_of(name: str) -> Callable[[], None]:
        def step() -> None:
            losses[name]().backward()
            hidden.grad = weight.grad = None

        return step

    return {name: step_of(name) for name in names}
