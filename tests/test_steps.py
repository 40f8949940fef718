"""One summary per step of a response (`step_delimiters`)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers import relative_error, solar_trainer, step_gradients
from models import tiny_model

from solar_trl.checks import step_tokens
from solar_trl.data.collator import _cut, _Pair
from solar_trl.objectives import OBJECTIVES, soft_tokens
from solar_trl.sequence_tokens import SequenceTokens


WEIGHT = 0.7
STEPPED = {"alignment_kwargs": {"step_delimiters": ["\n"]}, "alignment_weight": WEIGHT, "max_steps": 1}


def rows_of(tokenizer, responses):
    """Pre-tokenized rows from `{(language, id): lines}`; the prompt's own line breaks are no steps."""
    rows = []
    for (language, item), lines in responses.items():
        prompt, response = tokenizer("Q:\n\n")["input_ids"], tokenizer("\n".join(lines))["input_ids"]
        rows.append(
            {
                "input_ids": prompt + response,
                "labels": [-100] * len(prompt) + response,
                "language": language,
                "parallel_id": item,
            }
        )
    return rows


def expected_gradients(model, rows, newline, pairs, weight=WEIGHT):
    """SFT loss and the mean over step pairs of 1 - cos, by loops over full logits."""
    losses, n_tokens, steps = [], 0, {}
    embeddings = model.get_input_embeddings().weight
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(input_ids=ids).logits[0, :-1]
        targets = labels[1:]
        losses.append(F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
        n_tokens += int((targets != -100).sum())
        tokens = soft_tokens(logits.unsqueeze(0), embeddings)[0]
        supervised = [(t, int(token)) for t, token in enumerate(targets) if token != -100]
        cut, current = [], []
        for place, token in supervised:
            current.append(place)
            if token in newline:
                cut.append(current)
                current = []
        if len(current) == 1 and cut:
            cut[-1] += current
        elif current:
            cut.append(current)
        steps[row["language"], row["parallel_id"]] = (
            [tokens[part].mean(0) for part in cut],
            tokens[[place for place, _ in supervised]].mean(0),
        )
    distances = []
    for aligned, pivot in pairs:
        (own, own_whole), (other, other_whole) = steps[aligned], steps[pivot]
        sides = zip(own, other, strict=True) if len(own) == len(other) else [(own_whole, other_whole)]
        distances += [1 - F.cosine_similarity(a, b.detach(), dim=0) for a, b in sides]
    loss = sum(losses) / n_tokens + weight * sum(distances) / len(distances)
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, len(distances)


RESPONSES = {
    ("en", 1): ["one two", "three four five", "six"],
    ("sw", 1): ["moja", "mbili tatu", "nne tano sita"],  # as many steps
    ("th", 1): ["one", "two three"],  # fewer: as a whole
    ("en", 2): ["seven eight nine"],
    ("sw", 2): ["saba nane"],
    ("de", 2): ["acht", "neun zehn"],
}
PAIRS = [(("sw", 1), ("en", 1)), (("th", 1), ("en", 1)), (("sw", 2), ("en", 2)), (("de", 2), ("en", 2))]


@pytest.mark.parametrize("layout", ["padded", "padding_free", "appended"])
def test_gradient_is_that_of_the_steps(layout, tokenizer, tmp_path):
    rows = rows_of(tokenizer, RESPONSES)
    newline = step_tokens(OBJECTIVES["solar"].override({"step_delimiters": ["\n"]}), tokenizer)
    assert any(token in newline for token in rows[0]["labels"])
    config = {**STEPPED, "per_device_train_batch_size": 6, "pivot_batching": "random"}
    extra = {}
    trained = rows
    if layout == "padding_free":
        config.update(padding_free=True, max_length=None)
    if layout == "appended":
        trained = [row for row in rows if row["language"] != "en"]
        extra["pivot_dataset"] = Dataset.from_list([row for row in rows if row["language"] == "en"])
    trainer = solar_trainer(tiny_model("llama"), trained, tokenizer, tmp_path, config=config, **extra)
    got = step_gradients(trainer)
    model = tiny_model("llama")
    if layout == "appended":
        with_pivots, n_pairs = expected_gradients(model, rows, newline, PAIRS)
        # Pivots are not trained on: take their part of the SFT loss out
        whole, _ = expected_gradients(model, rows, newline, PAIRS, weight=0.0)
        own, _ = expected_gradients(model, trained, newline, [(("sw", 1), ("sw", 1))], weight=0.0)
        expected = {name: with_pivots[name] - whole[name] + own[name] for name in with_pivots}
    else:
        expected, n_pairs = expected_gradients(model, rows, newline, PAIRS)
    assert n_pairs == 3 + 1 + 1 + 1
    assert trainer.state.log_history[0]["aligned_pairs"] == n_pairs
    assert relative_error(got, expected) < 1e-5
    plain = solar_trainer(
        tiny_model("llama"), trained, tokenizer, tmp_path, config={**config, "alignment_kwargs": None}, **extra
    )
    assert relative_error(step_gradients(plain), expected) > 1e-3


def test_steps_of_a_sequence():
    labels = torch.tensor([[-100, 5, 6, 9, 7, 9, 2], [-100, -100, 9, 9, 5, 6, -100], [-100, 5, 6, 7, 8, 5, 6]])
    tokens = SequenceTokens.count(labels, [7, 7, 7], step_tokens=frozenset({9}))
    # A last step of one token (the end of the sequence) joins the one before; an empty line is a step of its own
    assert tokens.steps == ((3, 6), (1, 2, 4), (6,))
    assert SequenceTokens.count(labels, [7, 7, 7]).steps == ()


def test_cut_pairs():
    pairs = [
        _Pair(example=1, pivot=0, key=7, item=7, language=2),
        _Pair(example=2, pivot=0, key=7, item=7, language=3),
    ]
    found, rows, wholes = _cut(pairs, [4, 5], [(2, 6), (1, 3), (5,)])
    assert [(pair.example, pair.pivot) for pair in found] == [(2, 0), (3, 1), (4, 5)]
    assert rows == [4, 4, 5]
    torch.testing.assert_close(wholes, torch.tensor([[2 / 6, 4 / 6, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"step_delimiters": [""]}, "non-empty strings"),
        ({"step_delimiters": ["☃"]}, "'☃'"),
        ({"step_delimiters": ["\n"], "positions": "prompt"}, "`positions='response'`"),
        ({"step_delimiters": ["\n"], "distance": "info_nce"}, "no centroid or negatives"),
        ({"step_delimiters": ["\n"], "pivot_gradient": "anchored"}, "not kept"),
    ],
)
def test_bad_input(kwargs, message, tokenizer, tmp_path):
    with pytest.raises((ValueError, TypeError)) as info:
        solar_trainer(
            tiny_model("llama"),
            rows_of(tokenizer, RESPONSES),
            tokenizer,
            tmp_path,
            config={"alignment_kwargs": kwargs},
        )
    assert message in str(info.value)
