"""Is the reference itself right? What it says is compared with cases whose answer is known without it."""

import re
import types

import pytest
import torch
from models import MODEL_NAMES, tiny_model
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from reference import (
    effective_embedding,
    float64_copy,
    reference_distribution,
    reference_gradients,
    reference_objective,
    reference_pivots,
    reference_summary,
)
from tiny_tokenizer import LANGUAGES, PARALLEL_TEXTS, parallel_rows, train_tokenizer


def make_row(language: str, parallel_id: object, length: int, *, prompt: int = 3, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    input_ids = torch.randint(3, 380, (length,), generator=generator).tolist()
    labels = [-100] * prompt + input_ids[prompt:]
    return {"input_ids": input_ids, "labels": labels, "language": language, "parallel_id": parallel_id}


@pytest.fixture
def rows() -> list[dict]:
    return [make_row("en", 0, 8), make_row("sw", 0, 9), make_row("de", 1, 7), make_row("sw", 2, 6)]


def pad(sequences: list[list[int]], fill: int) -> torch.Tensor:
    length = max(len(sequence) for sequence in sequences)
    return torch.tensor([sequence + [fill] * (length - len(sequence)) for sequence in sequences])


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


# Pairing


def test_pivots_within_a_table() -> None:
    languages = ["sw", "en", "de", "en", "en-US", "th", "sw"]
    ids = [1, 1, 2, None, 2, None, 3]
    assert reference_pivots(languages, ids, ["en"]) == [1, -1, -1, -1, -1, -1, -1]
    assert reference_pivots(languages, ids, ["en", "en-US"]) == [1, -1, 4, -1, -1, -1, -1]
    assert reference_pivots(["sw", "en", "en"], [1, 1, 1], "en") == [1, -1, -1]  # the first of several


def test_pivots_of_a_separate_table_and_of_composite_ids() -> None:
    table = (["de", "en", "en"], [("a", 1), ("a", 1), ("b", None)])
    languages, ids = ["sw", "sw", "sw", "en"], [("a", 1), ["a", 1], ("b", None), ("a", 1)]
    assert reference_pivots(languages, ids, ["en"], table) == [1, 1, -1, -1]


# Soft tokens and summaries


def test_summary_of_one_hot_distributions_is_the_mean_of_embedding_rows() -> None:
    embedding = torch.randn(5, 3, dtype=torch.float64)
    logits = torch.full((3, 5), -1e9, dtype=torch.float64)
    logits[0, 2] = logits[1, 4] = logits[2, 1] = 0.0
    torch.testing.assert_close(reference_summary(logits, [True, False, False], embedding), embedding[2])
    expected = (embedding[2] + embedding[1]) / 2
    torch.testing.assert_close(reference_summary(logits, [True, False, True], embedding), expected)


def test_distribution_temperature_and_top_k() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64)
    e = torch.e
    expected = torch.tensor([0.0, e / (1 + e), 1 / (1 + e)], dtype=torch.float64)
    torch.testing.assert_close(reference_distribution(logits, top_k=2), expected)
    torch.testing.assert_close(reference_distribution(2 * logits, temperature=2.0, top_k=2), expected)
    torch.testing.assert_close(reference_distribution(logits, top_k=7), logits.softmax(-1))


# The embedding matrix


def test_effective_embedding_of_plain_models_is_the_stored_one() -> None:
    for name in MODEL_NAMES:
        model = tiny_model(name)
        torch.testing.assert_close(effective_embedding(model), model.get_input_embeddings().weight)


def test_effective_embedding_gives_the_padding_row_its_gradient() -> None:
    model = tiny_model("qwen3")
    embedding = model.get_input_embeddings()
    assert embedding.padding_idx == 0
    effective_embedding(model).sum().backward()
    assert embedding.padding_idx == 0
    torch.testing.assert_close(embedding.weight.grad, torch.ones_like(embedding.weight))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "modules_to_save", "trainable_tokens"])
def test_effective_embedding_of_peft_models(name: str, tied: bool, kind: str) -> None:
    model = tiny_model(name, tied=tied, dtype=torch.float64)
    base = model.get_input_embeddings().weight.detach().clone()
    options = {
        "lora": {"target_modules": ["embed_tokens"], "lora_alpha": 12},
        "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        "trainable_tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [0, 5, 9]},
    }[kind]
    model = get_peft_model(model, LoraConfig(r=3, **options)).double()
    adapter = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=generator)

    direction = torch.randn(base.shape, generator=generator, dtype=torch.float64)
    actual = effective_embedding(model)
    (actual * direction).sum().backward()
    if kind == "lora":
        a, b = adapter.lora_embedding_A["default"], adapter.lora_embedding_B["default"]
        torch.testing.assert_close(actual, base + 4.0 * (b @ a).T)
        torch.testing.assert_close(a.grad, 4.0 * (direction @ b).T)
        torch.testing.assert_close(b.grad, 4.0 * (a @ direction).T)
    elif kind == "modules_to_save":
        weight = adapter.modules_to_save["default"].weight
        torch.testing.assert_close(actual, weight)
        torch.testing.assert_close(weight.grad, direction)
    else:
        delta = adapter.token_adapter.trainable_tokens_delta["default"]
        expected = base.clone()
        expected[[0, 5, 9]] = delta.detach()
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(delta.grad, direction[[0, 5, 9]])


# The objective


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_without_alignment_the_loss_is_the_models_own(name: str, rows: list[dict]) -> None:
    model = tiny_model(name, dtype=torch.float64)
    for row in rows[:2]:
        labels = torch.tensor([row["labels"]])
        own = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels, use_cache=False).loss.item()
        assert reference_objective(model, [row], weight=0.0)["loss"].item() == pytest.approx(own, rel=1e-6)
    ids = pad([row["input_ids"] for row in rows], 0)
    mask = pad([[1] * len(row["input_ids"]) for row in rows], 0)
    labels = pad([row["labels"] for row in rows], -100)
    own = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.item()
    assert reference_objective(model, rows, weight=0.0)["loss"].item() == pytest.approx(own, rel=1e-6)


def test_parts_of_the_objective_add_up(rows: list[dict]) -> None:
    result = reference_objective(tiny_model("qwen2", dtype=torch.float64), rows, weight=0.7)
    assert result["pairs"] == [(1, 0)]  # neither the German nor the last Swahili row has an English parallel
    torch.testing.assert_close(result["alignment_loss"].item(), 1 - result["similarities"][0])
    torch.testing.assert_close(result["loss"], result["sft_loss"] + 0.7 * result["alignment_loss"])
    alone = reference_objective(tiny_model("qwen2", dtype=torch.float64), rows[1:], weight=0.7)
    assert alone["pairs"] == [] and alone["alignment_loss"].item() == 0.0


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_identical_parallels_have_similarity_one(name: str, rows: list[dict]) -> None:
    twin = {**rows[0], "language": "sw"}
    result = reference_objective(tiny_model(name, dtype=torch.float64), [twin, rows[0]], weight=1.0)
    assert result["similarities"] == [pytest.approx(1.0)]
    # and different ones do not, or the alignment would have nothing to do
    result = reference_objective(tiny_model(name, dtype=torch.float64), rows, weight=1.0)
    assert result["similarities"][0] < 0.98


def test_pivot_rows_are_compared_with_but_not_trained_on(rows: list[dict]) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    extra = [make_row("en", 9, 5), rows[0]]  # the first is nobody's pivot
    result = reference_objective(model, rows[1:], weight=1.0, pivot_rows=extra)
    inside = reference_objective(model, rows, weight=1.0)
    assert result["pairs"] == [(0, 4)]
    assert result["similarities"] == pytest.approx(inside["similarities"])
    torch.testing.assert_close(result["sft_loss"], reference_objective(model, rows[1:], weight=0.0)["loss"])
    # A pivot among the rows comes first
    assert reference_objective(model, rows, weight=1.0, pivot_rows=[rows[0]])["pairs"] == [(1, 0)]


def test_detached_pivot_gets_no_gradient(rows: list[dict]) -> None:
    """The cosine is symmetric, so both sides' gradients, each with the other side detached, make the whole one."""
    model, pair = tiny_model("gemma2"), rows[:2]
    sft = reference_gradients(model, pair, weight=0.0)
    whole = reference_gradients(model, pair, weight=1.0, detach_pivot=False)
    swahili = reference_gradients(model, pair, weight=1.0, pivot_languages=["en"])
    english = reference_gradients(model, pair, weight=1.0, pivot_languages=["sw"])
    for name in sft:
        parts = swahili[name] + english[name] - sft[name]
        torch.testing.assert_close(parts, whole[name], rtol=1e-6, atol=1e-9)
        assert relative_error(swahili[name], whole[name]) > 1e-3


def test_detached_embeddings_get_gradient_through_the_probabilities_only(rows: list[dict]) -> None:
    model = tiny_model("llama", tied=False)
    attached = reference_gradients(model, rows, weight=1.0)
    detached = reference_gradients(model, rows, weight=1.0, detach_embeddings=True)
    for name in attached:
        if name == "model.embed_tokens.weight":
            assert relative_error(detached[name], attached[name]) > 1e-2
        else:
            torch.testing.assert_close(detached[name], attached[name])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 7}])
def test_gradient_is_the_slope_of_the_loss(rows: list[dict], options: dict) -> None:
    """With a moving pivot: a detached one is a constant, which no slope shows.

    GPT-2 is the one family here whose forward is float64 throughout, the others have float32 norms.
    """
    model, options = tiny_model("gpt2"), {"weight": 2.0, "detach_pivot": False, **options}
    gradients = reference_gradients(model, rows, **options)
    generator = torch.Generator().manual_seed(0)
    directions = {name: torch.randn(g.shape, generator=generator, dtype=g.dtype) for name, g in gradients.items()}
    step, losses = 1e-5, []
    for sign in (1, -1):
        moved = float64_copy(model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter.add_(directions[name], alpha=sign * step)
            losses.append(reference_objective(moved, rows, **options)["loss"].item())
    slope = sum((gradients[name] * directions[name]).sum().item() for name in gradients)
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


def test_virtual_tokens_are_not_pooled() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(tiny_model("qwen2", dtype=torch.float64), config).double()
    embedding = effective_embedding(model)
    # Labels from the first token on: the last virtual position predicts it, and is still not pooled
    rows = [make_row("en", 0, 6, prompt=0), make_row("sw", 0, 7, prompt=0)]
    result = reference_objective(model, rows, weight=1.0, num_virtual_tokens=4)
    summaries, total = [], 0.0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
        summaries.append((outputs.logits[0, 4:-1].softmax(-1) @ embedding).mean(0))
        total += outputs.loss.item() * len(row["input_ids"])
    similarity = torch.cosine_similarity(*summaries, dim=0).item()
    assert result["similarities"] == [pytest.approx(similarity)]
    assert result["sft_loss"].item() == pytest.approx(total / 11, rel=1e-6)


# Gradients of a copy


def test_gradients_leave_the_model_alone_even_where_its_forward_was_patched(rows: list[dict]) -> None:
    model = tiny_model("qwen3").train()
    expected = reference_gradients(model, rows, weight=1.0)
    original = model.forward
    model.forward = types.MethodType(lambda self, **inputs: original(**inputs), model)  # as TRL's fused head does
    actual = reference_gradients(model, rows, weight=1.0)
    assert model.dtype == torch.float32 and all(parameter.grad is None for parameter in model.parameters())
    for name, gradient in expected.items():
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(actual[name], gradient)


def test_parameters_out_of_reach_have_zero_gradients_and_frozen_ones_none(rows: list[dict]) -> None:
    model = tiny_model("gpt2", tied=True)
    model.transformer.wpe.weight.requires_grad_(False)
    model.unused = torch.nn.Parameter(torch.ones(2))
    gradients = reference_gradients(model, rows, weight=1.0)
    assert gradients["unused"].tolist() == [0.0, 0.0]
    assert "transformer.wpe.weight" not in gradients and "lm_head.weight" not in gradients


# The models


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("tied", [None, True, False])
def test_models_build_tied_as_asked(name: str, tied: bool | None) -> None:
    state = torch.random.get_rng_state()
    model = tiny_model(name, tied=tied, vocab_size=101)
    assert torch.equal(torch.random.get_rng_state(), state)
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert is_tied == (model.config.tie_word_embeddings if tied is None else tied)

    input_ids = torch.arange(20).view(2, 10)
    mask = torch.ones_like(input_ids)
    mask[1, 7:] = 0
    logits = model(input_ids=input_ids, attention_mask=mask).logits
    assert logits.shape == (2, 10, 101) and torch.isfinite(logits).all()
    assert 1.0 < logits.std() < 4.0  # neither uniform nor saturated
    again = tiny_model(name, tied=tied, vocab_size=101)
    torch.testing.assert_close(again(input_ids=input_ids, attention_mask=mask).logits, logits)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.std() > 1e-2, parameter_name


def test_models_transform_their_logits() -> None:
    """The soft cap, the scale and the bias that the families are here for are at work."""
    input_ids = torch.arange(20)[None]
    for name, transform in {
        "gemma2": lambda head: 5.0 * torch.tanh(head / 5.0),
        "gemma3": lambda head: 5.0 * torch.tanh(head / 5.0),
        "cohere": lambda head: 0.25 * head,
        "granite": lambda head: head / 2.0,
        "llama_head_bias": lambda head: head,
    }.items():
        model = tiny_model(name)
        hidden = model.model(input_ids=input_ids).last_hidden_state
        logits, head = model(input_ids=input_ids).logits, hidden @ model.lm_head.weight.T
        if name == "llama_head_bias":
            torch.testing.assert_close(logits, head + model.lm_head.bias)
        torch.testing.assert_close(logits, transform(model.lm_head(hidden)))
        assert (logits - head).abs().max() > 0.5


def test_head_bias_survives_saving(tmp_path) -> None:
    model = tiny_model("llama_head_bias")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.lm_head.bias, model.lm_head.bias)


# The tokenizer and its texts


def test_tokenizer_round_trips_and_marks_the_assistant() -> None:
    tokenizer = train_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == 384
    for row in parallel_rows():
        assert tokenizer.decode(tokenizer(row["response"])["input_ids"]) == row["response"]
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4, จบ"}]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    generated = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(generated) == "4, จบ<|im_end|>"


def test_parallel_texts_are_parallel() -> None:
    for item in PARALLEL_TEXTS:
        assert list(item) == LANGUAGES == ["en", "de", "sw", "th"]
        for key in ("question", "response", "answer"):
            numbers = [re.findall(r"\d+", text[key]) for text in item.values()]
            assert all(sorted(found) == sorted(numbers[0]) for found in numbers)
        for text in item.values():
            assert re.findall(r"\d+", text["response"])[-1] == text["answer"]
    assert len(parallel_rows(["en", "th"])) == 2 * len(PARALLEL_TEXTS)
