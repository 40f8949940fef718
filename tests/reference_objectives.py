"""Brute-force references of the alignment objectives: loops over single examples and tokens, autograd for gradients.

Nothing here shares code with the package. Distances are written from their papers' formulas, summaries from the
model's ordinary forward on each row alone. Only good for tiny models.
"""

from itertools import combinations

import torch
from reference import effective_embedding, reference_cosine, reference_distribution, reference_pivots


def reference_mse(a, b):
    return sum((a[i] - b[i]) ** 2 for i in range(len(a))) / len(a)


def reference_info_nce(
    aligned,
    pivots,
    items,
    *,
    temperature=0.1,
    direction="to_pivot",
    negatives="items",
    normalize=True,
    other_pivots=None,
    other_aligned=None,
    first=0,
):
    """Distance of each pair. Candidates are lists of `(vector, item)`; the pairs' own begin at `first`."""
    score = reference_cosine if normalize else torch.dot
    own_pivots = list(zip(pivots, items, strict=True))
    own_aligned = list(zip(aligned, items, strict=True))

    def one_way(anchors, partners, candidates, distinct):
        distances = []
        for i, (anchor, partner) in enumerate(zip(anchors, partners, strict=True)):
            scores, seen = [], set()
            for place, (vector, item) in enumerate(candidates):
                if negatives == "naive":
                    counts = place != first + i
                else:
                    counts = item != items[i] and not (distinct and item in seen)
                    seen.add(item)
                if counts:
                    scores.append(score(anchor, vector) / temperature)
            own = score(anchor, partner) / temperature
            total = own.exp()
            for value in scores:
                total = total + value.exp()
            distances.append(-(own.exp() / total).log())
        return distances

    ways = []
    if direction in ("to_pivot", "both"):
        ways.append(one_way(aligned, pivots, other_pivots or own_pivots, distinct=True))
    if direction in ("from_pivot", "both"):
        ways.append(one_way(pivots, aligned, other_aligned or own_aligned, distinct=False))
    return [sum(values) / len(values) for values in zip(*ways, strict=True)]


def reference_mmd(x, y):
    """Squared MMD of two lists of tokens. The width of the kernel is a constant in the gradient."""
    dim = x[0].numel()
    size = sum((token.detach() ** 2).sum() for token in y) / (len(y) * dim)

    def kernel(a, b):
        squared = ((a - b) ** 2).sum()
        values = []
        for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
            c = 2 * dim * scale * size
            values.append(c / (c + squared))
        return sum(values) / len(values)

    def mean(left, right):
        return sum(kernel(a, b) for a in left for b in right) / (len(left) * len(right))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def reference_kl(logits, pivot_logits, matches, temperature):
    """Mean over the matches of `T² KL(pivot || example)`; a differentiable 0 without any."""
    total = 0 * sum(position.sum() for position in logits)
    for own, other in matches:
        p = (pivot_logits[other] / temperature).softmax(-1)
        q = (logits[own] / temperature).softmax(-1)
        total = total + temperature**2 * sum(p[v] * (p[v].log() - q[v].log()) for v in range(len(p)))
    return total / max(len(matches), 1)


def reference_centroid(index, aligned, pivots, items):
    """Mean over the pivot of a pair and the other examples of its item."""
    others = [vector for i, vector in enumerate(aligned) if items[i] == items[index] and i != index]
    return (pivots[index] + sum(others)) / (1 + len(others)) if others else pivots[index]


def reference_shared_tokens(first, second):
    """All longest common subsequences by trying every pair of subsequences, and the latest of them.

    Latest: compared from the end, the last position in `second`, then that in `first`, then the pair before it.
    """
    for length in range(min(len(first), len(second)), 0, -1):
        found = [
            list(zip(own, other, strict=True))
            for own in combinations(range(len(first)), length)
            for other in combinations(range(len(second)), length)
            if [first[i] for i in own] == [second[j] for j in other]
        ]
        if found:
            return max(found, key=lambda pairs: [(j, i) for i, j in reversed(pairs)])
    return []


def reference_layers(layers, num_layers):
    """Indices into `hidden_states` of integers, negative integers and relative depths."""
    indices = []
    for layer in layers:
        if 0 < layer < 1:
            indices.append(round(layer * num_layers))
        else:
            indices.append(layer if layer >= 0 else num_layers + 1 + layer)
    return indices


def reference_positions(row, objective, num_virtual_tokens=0):
    """Positions of one row to pool, in the model's outputs for it, which begin with the virtual tokens."""
    labels, length = row["labels"], len(row["input_ids"])
    supervised = [t for t in range(length) if labels[t] != -100]
    predicting = [t - 1 for t in supervised if t > 0]
    if objective.positions == "response":
        places = predicting
    elif objective.positions == "answer":
        places = predicting[-objective.answer_tokens :]
    elif objective.positions == "prompt":
        places = list(range(supervised[0] if supervised else length))
    else:
        places = list(range(length))
        if objective.representation in ("soft_token", "hard_token", "logits"):
            places = places[:-1]
    return [num_virtual_tokens + t for t in places] if predicting else []


def reference_embedding(model, objective):
    """What soft and hard tokens are made of, `(V, d)`."""
    if objective.embeddings == "output":
        return model.get_output_embeddings().weight.double()
    return effective_embedding(model).double()


def reference_values(outputs, row, objective, embedding, places, temperature=1.0, top_k=None, num_virtual_tokens=0):
    """What is compared, per layer: a list of vectors, one per position."""
    logits = outputs.logits[0].double()
    if objective.representation == "hidden_state":
        states = outputs.hidden_states
        indices = reference_layers(objective.layers, len(states) - 1)
        return [[states[index][0, t].double() for t in places] for index in indices]
    values = []
    for t in places:
        if objective.representation == "soft_token":
            probabilities = reference_distribution(logits[t], temperature, top_k)
            values.append((probabilities[:, None] * embedding).sum(0))
        elif objective.representation == "hard_token":
            follows = t - num_virtual_tokens + 1
            label = row["labels"][follows]
            values.append(embedding[row["input_ids"][follows] if label == -100 else label])
        else:
            values.append(logits[t])
    return [values]


def reference_pool(values, pooling):
    if pooling == "none":
        return values
    if pooling == "last":
        return values[-1]
    weights = [1.0 if pooling == "mean" else rank for rank in range(1, len(values) + 1)]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def reference_frame(
    model,
    rows,
    objective,
    *,
    weight=1.0,
    temperature=1.0,
    top_k=None,
    detach_embeddings=False,
    pivot_rows=(),
    num_virtual_tokens=0,
    pivot_languages=("en",),
):
    """
    SFT loss + weight × mean distance over all pairs of `rows`, one batch, by loops.

    Returns `loss`, `sft_loss`, `alignment_loss`, `pairs` and `summaries` (per row and layer).
    """
    everything = [*rows, *pivot_rows]
    embedding = reference_embedding(model, objective)
    if detach_embeddings:
        embedding = embedding.detach()
    found = reference_pivots(
        [row["language"] for row in rows],
        [row["parallel_id"] for row in rows],
        pivot_languages,
        ([row["language"] for row in everything], [row["parallel_id"] for row in everything]),
    )
    likelihood, tokens, summaries, all_places = 0.0, 0, [], []
    for index, row in enumerate(everything):
        ids = torch.tensor([row["input_ids"]])
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, output_hidden_states=True)
        logits = outputs.logits[0].double()
        if index < len(rows):
            for t, label in enumerate(row["labels"]):
                if label != -100 and t + num_virtual_tokens > 0:
                    likelihood = likelihood - logits[num_virtual_tokens + t - 1].log_softmax(-1)[label]
            tokens += sum(label != -100 for label in row["labels"][1:])
        places = reference_positions(row, objective, num_virtual_tokens)
        all_places.append(places)
        values = reference_values(outputs, row, objective, embedding, places, temperature, top_k, num_virtual_tokens)
        summaries.append([reference_pool(layer, objective.pooling) for layer in values] if places else None)

    pairs = [
        (index, pivot)
        for index, pivot in enumerate(found)
        if pivot >= 0 and summaries[index] is not None and summaries[pivot] is not None
    ]
    items = [rows[index]["parallel_id"] for index, _ in pairs]
    layer_distances = []
    for layer in range(len(objective.layers) if objective.representation == "hidden_state" else 1):
        aligned = [summaries[index][layer] for index, _ in pairs]
        pivots = [summaries[pivot][layer] for _, pivot in pairs]
        if objective.target == "centroid":
            pivots = [reference_centroid(i, aligned, pivots, items) for i in range(len(pairs))]
        if objective.pivot_gradient == "detached":
            pivots = [[t.detach() for t in p] if isinstance(p, list) else p.detach() for p in pivots]
        if objective.distance == "cosine":
            distances = [1 - reference_cosine(a, b) for a, b in zip(aligned, pivots, strict=True)]
        elif objective.distance == "mse":
            distances = [reference_mse(a, b) for a, b in zip(aligned, pivots, strict=True)]
        elif objective.distance == "mmd":
            distances = [reference_mmd(a, b) for a, b in zip(aligned, pivots, strict=True)]
        elif objective.distance == "info_nce":
            distances = reference_info_nce(
                aligned,
                pivots,
                items,
                temperature=objective.temperature,
                direction=objective.direction,
                negatives=objective.negatives,
                normalize=objective.normalize,
            )
        else:
            distances = []
            for (index, pivot), a, b in zip(pairs, aligned, pivots, strict=True):
                tails = [
                    [everything[i]["labels"][t + 1 - num_virtual_tokens] for t in all_places[i]]
                    for i in (index, pivot)
                ]
                distances.append(reference_kl(a, b, reference_shared_tokens(*tails), objective.temperature))
        layer_distances.append(sum(distances) / len(distances))
    alignment_loss = sum(layer_distances) / len(layer_distances)
    sft_loss = likelihood / max(tokens, 1)
    return {
        "loss": sft_loss + weight * alignment_loss,
        "sft_loss": sft_loss,
        "alignment_loss": alignment_loss,
        "pairs": pairs,
        "summaries": summaries,
    }
