"""
Soft tokens and their summary, as one would write them on a whiteboard.

The readable reference of what the fused head in `solar_trl.kernels` computes without ever holding the `(B, T, V)`
probabilities. Fine for analysis and for tests; for training use the fused head.
"""

from __future__ import annotations

import torch


def soft_tokens(
    logits: torch.Tensor, embeddings: torch.Tensor, temperature: float = 1.0, top_k: int | None = None
) -> torch.Tensor:
    """
    Probability-weighted mixtures of the vocabulary embeddings, one per position.

    `s_t = Σ_v p_t[v] · E[v]` with `p_t = softmax(u_t / τ)`, over the `top_k` largest logits only if given,
    renormalised (SOLAR, arXiv:2606.26466; the temperature and the filter follow Soft Thinking, arXiv:2505.15778).

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`):
            The model's own logits, after any logit scale, soft cap and bias.
        embeddings (`torch.Tensor` of shape `(V, d)`):
            Input embedding matrix, unscaled.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ > 0.
        top_k (`int`, *optional*):
            Number of tokens to mix, in `[1, V]`. `None` mixes all.

    Returns:
        `torch.Tensor` of shape `(B, T, d)`: Soft tokens, in the wider dtype of the two inputs.

    Raises:
        ValueError: If `temperature` is not positive, `top_k` is outside `[1, V]` or the vocabularies differ.

    Examples:
    ```python
    >>> import torch
    >>> from solar_trl.objectives import soft_tokens

    >>> soft_tokens(torch.tensor([[[0.0, 0.0, -1e9]]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]))
    tensor([[[0.5000, 0.5000]]])
    ```
    """
    vocab_size = logits.size(-1)
    if temperature <= 0:
        raise ValueError(f"`temperature` is {temperature}, expected a number > 0.")
    if embeddings.size(0) != vocab_size:
        raise ValueError(f"The logits have {vocab_size} entries but the embeddings {embeddings.size(0)} rows.")
    dtype = torch.promote_types(logits.dtype, embeddings.dtype)
    logits, embeddings = logits.to(dtype) / temperature, embeddings.to(dtype)
    if top_k is None:
        return logits.softmax(-1) @ embeddings
    if not 1 <= top_k <= vocab_size:
        raise ValueError(f"`top_k` is {top_k}, expected a number between 1 and the vocabulary size {vocab_size}.")
    values, indices = logits.topk(top_k, dim=-1)
    return (values.softmax(-1).unsqueeze(-1) * embeddings[indices]).sum(-2)


def soft_token_summary(
    logits: torch.Tensor,
    embeddings: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> torch.Tensor:
    """
    Soft-token summary of each sequence: the mean of its soft tokens over the masked positions.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`):
            The model's own logits.
        embeddings (`torch.Tensor` of shape `(V, d)`):
            Input embedding matrix, unscaled.
        mask (`torch.Tensor` of shape `(B, T)`):
            `True` where the position's own logits are pooled, i.e. already shifted by the caller: `labels[:, 1:] !=
            -100` next to `logits[:, :-1]`.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature τ > 0.
        top_k (`int`, *optional*):
            Number of tokens to mix. `None` mixes all.

    Returns:
        `torch.Tensor` of shape `(B, d)`: Summaries; zero for a sequence without a masked position.

    Raises:
        ValueError: If the shapes of `mask` and `logits` do not fit, and as [`soft_tokens`].
    """
    if mask.shape != logits.shape[:-1]:
        raise ValueError(f"`mask` has shape {tuple(mask.shape)}, expected {tuple(logits.shape[:-1])}.")
    tokens = soft_tokens(logits, embeddings, temperature=temperature, top_k=top_k)
    weights = mask.to(tokens.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return torch.einsum("btd,bt->bd", tokens, weights)
