"""A brute-force reference for what solar_trl computes, written from the design document alone.

Nothing here shares code or tricks with the package: rows are run one by one, unpadded, through the model's ordinary
forward; every soft token is formed on its own; gradients come from autograd. Only good for tiny models.
"""

import copy
from typing import Any

import torch
from torch import nn


def reference_pivots(
    languages: list[str],
    ids: list[Any],
    pivot_languages: str | list[str] | tuple[str, ...],
    pivot_table: tuple[list[str], list[Any]] | None = None,
) -> list[int]:
    """For each row, the index of the first row that is in a pivot language and has the same id, or -1.

    With `pivot_table=(languages, ids)` the candidates, and so the indices, are those of that table. Rows in a pivot
    language have no pivot, and neither has a row whose id, or a part of whose id, is None.
    """
    pivot_languages = [pivot_languages] if isinstance(pivot_languages, str) else list(pivot_languages)
    table_languages, table_ids = (languages, ids) if pivot_table is None else pivot_table
    pivots = []
    for language, row_id in zip(languages, ids, strict=True):
        found = -1
        if language not in pivot_languages and not _is_missing(row_id):
            for index, (candidate_language, candidate_id) in enumerate(zip(table_languages, table_ids, strict=True)):
                if candidate_language in pivot_languages and _parts(candidate_id) == _parts(row_id):
                    found = index
                    break
        pivots.append(found)
    return pivots


def _parts(row_id: Any) -> tuple:
    """An id as the tuple of its parts, so that ids from lists and from tuples compare alike."""
    return tuple(row_id) if isinstance(row_id, list | tuple) else (row_id,)


def _is_missing(row_id: Any) -> bool:
    return any(part is None for part in _parts(row_id))


def effective_embedding(model: nn.Module) -> torch.Tensor:
    """The (V, d) matrix that the model's embedding lookup really uses, without any scale that the lookup applies.

    It is read off the lookup itself, one id after the other, so it is right by construction for whatever sits in the
    embedding's place (LoRA, `modules_to_save`, `trainable_token_indices`), and autograd reaches the same parameters.
    Two things that belong to a lookup and not to the matrix are taken out:
    - the constant that some models multiply the looked-up rows by (Gemma: sqrt(d));
    - `padding_idx`, with which a lookup drops the gradient of one row, as torch.nn.functional.embedding documents it.
      The values are the same; a mixture over the vocabulary does depend on that row, and its gradient says so.
    """
    embedding = model.get_input_embeddings()
    tables = [module for module in embedding.modules() if isinstance(module, nn.Embedding)]
    vocab_size, scale, padding = tables[0].num_embeddings, 1.0, [table.padding_idx for table in tables]
    for table in tables:
        scale = getattr(table, "embed_scale", scale)
        table.padding_idx = None
    try:
        # `.forward`: the lookup alone, without hooks such as NEFTune's noise
        rows = embedding.forward(torch.arange(vocab_size, device=tables[0].weight.device))
    finally:
        for table, padding_idx in zip(tables, padding, strict=True):
            table.padding_idx = padding_idx
    return rows / scale


def reference_distribution(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None) -> torch.Tensor:
    """p of one position from its logits (V,): softmax(u / temperature), over the `top_k` largest entries if given."""
    scaled = logits / temperature
    if top_k is None:
        return scaled.softmax(-1)
    kept = scaled.topk(min(top_k, scaled.numel())).indices
    probabilities = torch.zeros_like(scaled)
    probabilities[kept] = scaled[kept].softmax(-1)
    return probabilities


def reference_summary(
    logits: torch.Tensor,
    mask: list[bool],
    embedding: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> torch.Tensor:
    """S of one row: the mean over the positions t with mask[t] of the soft tokens sum_v p_t[v] * E[v]."""
    soft_tokens = []
    for position_logits, pooled in zip(logits, mask, strict=True):
        if pooled:
            probabilities = reference_distribution(position_logits, temperature, top_k)
            soft_tokens.append((probabilities[:, None] * embedding).sum(0))
    return torch.stack(soft_tokens).mean(0)


def reference_cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def reference_objective(
    model: nn.Module,
    rows: list[dict[str, Any]],
    *,
    weight: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    detach_pivot: bool = True,
    detach_embeddings: bool = False,
    pivot_languages: str | list[str] | tuple[str, ...] = ("en",),
    pivot_rows: list[dict[str, Any]] | None = None,
    num_virtual_tokens: int = 0,
) -> dict[str, Any]:
    """The objective of one optimizer step that sees all of `rows`: SFT loss + weight * mean over pairs of (1 - cos).

    Args:
        model: Causal LM (a PEFT model too). Double precision, so that the result can serve as the truth.
        rows: `{"input_ids": list[int], "labels": list[int], "language": str, "parallel_id": Any}`.
        weight: λ, the weight of the alignment loss.
        temperature, top_k: Of the soft tokens.
        detach_pivot: Whether pivot summaries are constants.
        detach_embeddings: Whether E is a constant in the summaries.
        pivot_languages: Languages whose rows are pivots.
        pivot_rows: Further rows that serve as pivots only. A pivot among `rows` comes first.
        num_virtual_tokens: Positions that prompt-learning PEFT puts before the row and returns logits for (0 for
            prefix tuning, which returns none). They are never pooled. The last one predicts the row's first token,
            which is in the sum of the SFT loss if it is supervised, as in the model's own loss; the count that the
            sum is divided by leaves it out, as `Trainer` counts `labels[:, 1:]`.

    Returns:
        `loss` (differentiable), `sft_loss`, `alignment_loss` (unweighted; 0 without pairs) as float64 scalars, `pairs`
        as [(row, pivot)] with pivots counted through `rows + pivot_rows`, and `similarities`, one float per pair.
        A pair of which one row has no pooled position has no summary to compare and is left out.
    """
    all_rows = list(rows) + list(pivot_rows or [])
    embedding = effective_embedding(model).double()
    if detach_embeddings:
        embedding = embedding.detach()

    pivots = reference_pivots(
        [row["language"] for row in rows],
        [row["parallel_id"] for row in rows],
        pivot_languages,
        ([row["language"] for row in all_rows], [row["parallel_id"] for row in all_rows]),
    )

    negative_log_likelihood = torch.zeros((), dtype=torch.float64, device=embedding.device)
    supervised_tokens = 0
    summaries: list[torch.Tensor | None] = []
    for index, row in enumerate(all_rows):
        if index >= len(rows) and index not in pivots:  # an extra pivot that no row asks for
            summaries.append(None)
            continue
        input_ids = torch.tensor([row["input_ids"]], device=embedding.device)
        outputs = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False)
        logits = outputs.logits[0].double()
        labels = [-100] * num_virtual_tokens + list(row["labels"])
        assert len(logits) == len(labels), "the model does not return `num_virtual_tokens` extra positions"

        next_labels = [*labels[1:], -100]  # position t predicts the label of t + 1; the last one predicts nothing
        if index < len(rows):
            for position_logits, label in zip(logits, next_labels, strict=True):
                if label != -100:
                    negative_log_likelihood = negative_log_likelihood - position_logits.log_softmax(-1)[label]
            supervised_tokens += sum(label != -100 for label in row["labels"][1:])

        mask = [label != -100 and t >= num_virtual_tokens for t, label in enumerate(next_labels)]
        summaries.append(reference_summary(logits, mask, embedding, temperature, top_k) if any(mask) else None)

    pairs, distances, similarities = [], [], []
    for index, pivot in enumerate(pivots):
        if pivot == -1 or summaries[index] is None or summaries[pivot] is None:
            continue
        pivot_summary = summaries[pivot].detach() if detach_pivot else summaries[pivot]
        similarity = reference_cosine(summaries[index], pivot_summary)
        pairs.append((index, pivot))
        distances.append(1 - similarity)
        similarities.append(similarity.item())

    sft_loss = negative_log_likelihood / max(supervised_tokens, 1)
    alignment_loss = torch.stack(distances).mean() if distances else torch.zeros_like(sft_loss)
    return {
        "loss": sft_loss + weight * alignment_loss,
        "sft_loss": sft_loss,
        "alignment_loss": alignment_loss,
        "pairs": pairs,
        "similarities": similarities,
    }


def float64_copy(model: nn.Module) -> nn.Module:
    """A float64 copy of `model`, in the same train/eval mode, with the forwards of its classes.

    TRL and accelerate patch `forward` on instances. A deep copy of such a patch still closes over the original model:
    the copy would run, and send its gradients to, the original's weights. The patches are therefore dropped.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        module.__dict__.pop("forward", None)
    return model.double()


def reference_gradients(model: nn.Module, rows: list[dict[str, Any]], **options: Any) -> dict[str, torch.Tensor]:
    """Gradient of `reference_objective(...)["loss"]` by name of trainable parameter, in float64.

    The model itself is left alone: a float64 copy is differentiated. A parameter that the loss does not reach has a
    gradient of zeros; a tied parameter is there once, under the name that `named_parameters` gives it.
    """
    model = float64_copy(model)
    model.zero_grad(set_to_none=True)
    reference_objective(model, rows, **options)["loss"].backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
