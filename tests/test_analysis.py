"""Analysis functions against brute-force references."""

import builtins

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from solar_trl.analysis import (
    cross_lingual_similarity,
    hidden_state_summaries,
    language_separability,
    mexa_score,
)


TEXTS = ["a b c d e f g", "b", "c a <e>", "d d d d", "g f e d c b a g f", "<e> b"]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {token: i for i, token in enumerate(["<e>", "<u>", *"abcdefg"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The pad token doubles as EOS and occurs inside texts: only a mask by lengths gets these right
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<u>", eos_token="<e>", pad_token="<e>")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=9,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attention_dropout=0.5,
        max_position_embeddings=64,
    )
    return Qwen3ForCausalLM(config)


def _reference(model, tokenizer, text, layer, pooling, prompt=None):
    """One text at a time, no padding, explicit loops."""
    start = 0 if prompt is None else len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(text if prompt is None else f"{prompt} {text}", return_tensors="pt")["input_ids"]
    model.eval()
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[layer][0, start:].double().numpy()
    if pooling == "last":
        return states[-1]
    weights = [1.0 if pooling == "mean" else t + 1.0 for t in range(len(states))]
    return sum(w * s for w, s in zip(weights, states, strict=True)) / sum(weights)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("pooling", ["mean", "last", "position_weighted"])
def test_summaries_match_one_text_at_a_time(model, tokenizer, pooling, batch_size, padding_side):
    tokenizer.padding_side = padding_side
    states = hidden_state_summaries(model, tokenizer, TEXTS, [0, 1, -1], pooling, batch_size=batch_size)
    assert list(states) == [0, 1, -1]
    for layer, values in states.items():
        assert values.shape == (len(TEXTS), 16) and values.dtype == np.float32
        expected = np.stack([_reference(model, tokenizer, text, layer, pooling) for text in TEXTS])
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last", "position_weighted"])
def test_prompts_are_read_but_not_pooled(model, tokenizer, pooling):
    prompts = ["g f", "a", "b b b b b", "<e>", "c", "d e f"]
    states = hidden_state_summaries(model, tokenizer, TEXTS, [-1], pooling, prompts=prompts, batch_size=2)[-1]
    pairs = zip(TEXTS, prompts, strict=True)
    expected = np.stack([_reference(model, tokenizer, text, -1, pooling, prompt) for text, prompt in pairs])
    np.testing.assert_allclose(states, expected, atol=1e-5)
    alone = hidden_state_summaries(model, tokenizer, TEXTS, [-1], pooling)[-1]
    assert np.abs(states - alone).max() > 1e-2  # the context does matter


def test_all_layers_by_default(model, tokenizer):
    states = hidden_state_summaries(model, tokenizer, TEXTS)
    assert list(states) == [0, 1, 2]
    last = hidden_state_summaries(model, tokenizer, TEXTS, [-1])[-1]
    np.testing.assert_array_equal(states[2], last)


def test_training_flags_are_restored_one_by_one(model, tokenizer):
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    first = hidden_state_summaries(model, tokenizer, TEXTS)
    assert [module.training for module in model.modules()] == before
    second = hidden_state_summaries(model, tokenizer, TEXTS)
    np.testing.assert_array_equal(first[2], second[2])  # so dropout was off
    with pytest.raises(ValueError, match="no layer 7"):
        hidden_state_summaries(model, tokenizer, TEXTS, [7])
    assert [module.training for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_logits_of_the_whole_batch(model, tokenizer):
    widths = []
    model.lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    hidden_state_summaries(model, tokenizer, TEXTS, [-1])
    assert widths == [1]


def test_bfloat16_model_and_missing_pad_token(model, tokenizer):
    expected = hidden_state_summaries(model, tokenizer, TEXTS, [-1])[-1]
    without_pad = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<u>")
    states = hidden_state_summaries(model.to(torch.bfloat16), without_pad, TEXTS, [-1])[-1]
    assert without_pad.pad_token is None and states.dtype == np.float32
    np.testing.assert_allclose(states, expected, atol=5e-2)


def test_peft_model(model, tokenizer):
    peft = pytest.importorskip("peft")
    expected = hidden_state_summaries(model, tokenizer, TEXTS, [-1])[-1]
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    states = hidden_state_summaries(adapted, tokenizer, TEXTS, [-1])[-1]
    np.testing.assert_allclose(states, expected, atol=1e-5)  # B is zero at first
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    assert np.abs(hidden_state_summaries(adapted, tokenizer, TEXTS, [-1])[-1] - expected).max() > 1e-2


def test_soft_prompt_positions_are_not_pooled(model, tokenizer):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = peft.get_peft_model(model, config)
    states = hidden_state_summaries(adapted, tokenizer, TEXTS, [-1], batch_size=1)[-1]
    adapted.eval()
    prompt = adapted.get_prompt(1)
    for text, state in zip(TEXTS, states, strict=True):
        embedded = model.get_input_embeddings()(tokenizer(text, return_tensors="pt")["input_ids"])
        with torch.no_grad():
            output = model(inputs_embeds=torch.cat([prompt, embedded], 1), output_hidden_states=True)
        np.testing.assert_allclose(state, output.hidden_states[-1][0, 3:].mean(0).numpy(), atol=1e-5)


def test_max_length_counts_the_prompt(model, tokenizer):
    states = hidden_state_summaries(model, tokenizer, ["a b c d"], [-1], prompts=["e f"], max_length=4)[-1]
    expected = hidden_state_summaries(model, tokenizer, ["a b"], [-1], prompts=["e f"])[-1]
    np.testing.assert_allclose(states, expected, atol=1e-6)
    with pytest.raises(ValueError, match="Text 0 has no token"):
        hidden_state_summaries(model, tokenizer, ["a b c d"], [-1], prompts=["e f"], max_length=2)


@pytest.mark.parametrize(
    ("error", "match", "kwargs"),
    [
        (TypeError, "single string", {"texts": "a b"}),
        (TypeError, "`prompts` must be", {"texts": ["a"], "prompts": "a"}),
        (ValueError, "empty", {"texts": []}),
        (ValueError, "Text 1 has no token", {"texts": ["a", ""]}),
        (ValueError, "1 prompts for 2 texts", {"texts": ["a", "b"], "prompts": ["a"]}),
        (ValueError, "'mean', 'last', 'position_weighted'", {"texts": ["a"], "pooling": "max"}),
        (ValueError, "no layer -4", {"texts": ["a"], "layers": [-4]}),
        (ValueError, "`batch_size` is 0", {"texts": ["a"], "batch_size": 0}),
    ],
)
def test_bad_input_to_summaries(model, tokenizer, error, match, kwargs):
    with pytest.raises(error, match=match):
        hidden_state_summaries(model, tokenizer, **kwargs)


def _cosine(x, y):
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _parallel_states(n=17, d=5, noise=0.7, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    pivot = rng.normal(size=(n, d)) + 0.5
    return pivot.astype(dtype), (pivot + noise * rng.normal(size=(n, d))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_similarity_matches_brute_force(dtype):
    pivot, other = _parallel_states(dtype=dtype)
    wide_pivot, wide_other = pivot.astype(np.float64), other.astype(np.float64)
    n = len(pivot)
    cosines = {(i, j): _cosine(wide_pivot[i], wide_other[j]) for i in range(n) for j in range(n)}
    matched = np.mean([cosines[i, i] for i in range(n)])
    random = np.mean([c for (i, j), c in cosines.items() if i != j])
    result = cross_lingual_similarity(pivot, other)
    assert result == pytest.approx({"matched": matched, "random": random, "difference": matched - random}, abs=1e-12)
    assert all(type(value) is float for value in result.values())


def test_similarity_is_symmetric_and_ignores_scale():
    pivot, other = _parallel_states()
    result = cross_lingual_similarity(pivot, other)
    assert cross_lingual_similarity(other, pivot) == pytest.approx(result)
    scales = np.geomspace(1e-200, 1e200, len(pivot))[:, None]
    assert cross_lingual_similarity(pivot * scales, other) == pytest.approx(result)


def _mexa_reference(pivot, other):
    n = len(pivot)
    hits = 0
    for i in range(n):
        own = _cosine(pivot[i], other[i])
        rivals = [_cosine(pivot[i], other[j]) for j in range(n) if j != i]
        rivals += [_cosine(pivot[j], other[i]) for j in range(n) if j != i]
        hits += own > max(rivals)
    return hits / n


@pytest.mark.parametrize("noise", [0.0, 0.4, 0.8, 3.0])
def test_mexa_matches_brute_force(noise):
    pivot, other = _parallel_states(n=40, noise=noise)
    score = mexa_score(pivot, other)
    assert score == _mexa_reference(pivot, other)
    assert type(score) is float
    if noise in (0.4, 0.8):
        assert 0 < score < 1  # otherwise the comparison is empty


def test_mexa_asks_both_directions():
    # other_0 is the nearest row to pivot_0, but pivot_1 is nearer to other_0 than pivot_0 is
    pivot = np.array([[1.0, 0.0], [0.9, 0.45]])
    other = np.array([[0.95, 0.3], [0.0, 1.0]])
    assert _cosine(pivot[0], other[0]) > _cosine(pivot[0], other[1])
    assert _cosine(pivot[1], other[0]) > _cosine(pivot[0], other[0])
    assert mexa_score(pivot, other) == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mexa_ties_are_misses(dtype):
    rng = np.random.default_rng(0)
    collapsed = np.tile(rng.normal(size=(1, 37)), (23, 1)).astype(dtype)
    assert mexa_score(collapsed, collapsed) == 0.0
    rows = rng.normal(size=(10, 37)).astype(dtype)
    rows[7] = rows[3]
    assert mexa_score(rows, rows) == 0.8


def test_separability_of_known_clouds():
    rng = np.random.default_rng(0)
    content = rng.normal(size=(60, 8))
    languages = ["en", "sw", "th"] * 20
    offsets = np.repeat(np.eye(3, 8)[None], 20, 0).reshape(60, 8)
    apart = language_separability(content + 30 * offsets, languages)
    mixed = language_separability(content, languages)
    assert apart["silhouette"] > 0.9 and apart["probe_accuracy"] == 1.0
    assert mixed["silhouette"] < 0.05 and mixed["probe_accuracy"] < 0.6
    assert language_separability(content, languages) == mixed  # deterministic


def test_silhouette_matches_brute_force():
    rng = np.random.default_rng(0)
    states, languages = rng.normal(size=(12, 4)) + 1, np.array(["en", "de", "sw"] * 4)
    scores = []
    for i in range(12):
        means = {}
        for language in ("en", "de", "sw"):
            rows = [j for j in range(12) if languages[j] == language and j != i]
            means[language] = np.mean([1 - _cosine(states[i], states[j]) for j in rows])
        own = means.pop(languages[i])
        nearest = min(means.values())
        scores.append((nearest - own) / max(own, nearest))
    assert language_separability(states, languages)["silhouette"] == pytest.approx(np.mean(scores))


def test_probe_uses_no_more_folds_than_rows():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(12, 3)) + np.array([[5.0, 0, 0]] * 10 + [[0, 5.0, 0]] * 2)
    assert language_separability(states, ["en"] * 10 + ["sw"] * 2)["probe_accuracy"] > 0.9


@pytest.mark.parametrize("function", [cross_lingual_similarity, mexa_score])
@pytest.mark.parametrize(
    ("match", "pivot", "other"),
    [
        ("same shape", np.ones((3, 2)), np.ones((4, 2))),
        ("same shape", np.ones((3, 2)), np.ones((3, 4))),
        ("`pivot` has shape", np.ones((1, 2)), np.ones((1, 2))),
        ("`other` has shape", np.ones((3, 2)), np.ones(3)),
        ("Row 1 of `other` is zero", np.ones((2, 2)), np.array([[1.0, 0.0], [0.0, 0.0]])),
        ("not finite", np.array([[1.0, np.nan], [0.0, 1.0]]), np.ones((2, 2))),
    ],
)
def test_bad_input_to_pair_metrics(function, match, pivot, other):
    with pytest.raises(ValueError, match=match):
        function(pivot, other)


@pytest.mark.parametrize(
    ("match", "languages", "folds"),
    [
        ("at least two languages, got en", ["en"] * 4, 5),
        ("Language sw has a single row", ["en"] * 3 + ["sw"], 5),
        (r"shape \(3,\), expected \(4,\)", ["en"] * 3, 5),
        ("`folds` is 1", ["en", "sw"] * 2, 1),
    ],
)
def test_bad_input_to_separability(match, languages, folds):
    states = np.arange(1.0, 9).reshape(4, 2)
    with pytest.raises(ValueError, match=match):
        language_separability(states, languages, folds=folds)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=r"pip install \"solar-trl\[analysis\]\""):
        language_separability(np.eye(4), ["en", "sw"] * 2)
