"""Summaries of texts against one text at a time; what they keep in memory, and what they leave behind."""

import gc
import weakref

import numpy as np
import pytest
import torch
from models import MODEL_NAMES, VOCAB_SIZE, tiny_model
from tiny_tokenizer import parallel_rows, train_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    OPTConfig,
    OPTForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from solar_trl.analysis import (
    find_down_projections,
    hidden_state_summaries,
    neuron_state_summaries,
    soft_summaries,
    soft_token_summaries,
)
from solar_trl.objectives import soft_token_summary


ROWS = parallel_rows(["en", "sw", "th"])[:9]
PROMPTS = [f"{row['question']}\n" for row in ROWS]
RESPONSES = [row["response"] for row in ROWS]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture
def model():
    return tiny_model("qwen3")


def _ids(tokenizer, prompt, response):
    prompt, response = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
    return torch.tensor([prompt + response]), len(prompt)


def _soft_reference(model, tokenizer, prompt, response, embeddings, temperature=1.0, top_k=None):
    """One text at a time, all logits, the readable formula."""
    ids, start = _ids(tokenizer, prompt, response)
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
    mask = torch.arange(logits.size(1))[None] >= start - 1
    return soft_token_summary(logits, embeddings, mask, temperature, top_k)[0].numpy()


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize(
    ("temperature", "top_k", "which"), [(1.0, None, "input"), (0.6, 5, "input"), (1.0, None, "output")]
)
def test_soft_token_summaries_match_the_readable_formula(tokenizer, monkeypatch, name, temperature, top_k, which):
    monkeypatch.setattr(soft_summaries, "_ROWS_OF_LOGITS", 37)  # texts are cut in the middle
    model = tiny_model(name, tied=False if which == "output" else None)
    layer = model.get_output_embeddings() if which == "output" else model.get_input_embeddings()
    embeddings = layer.weight.detach()
    found = soft_token_summaries(model, tokenizer, PROMPTS, RESPONSES, temperature, top_k, which, batch_size=4)
    assert found.shape == (len(ROWS), embeddings.size(1)) and found.dtype == np.float32
    for row, summary in enumerate(found):
        expected = _soft_reference(model, tokenizer, PROMPTS[row], RESPONSES[row], embeddings, temperature, top_k)
        np.testing.assert_allclose(summary, expected, atol=2e-5, rtol=1e-4)


def test_soft_token_summaries_never_hold_the_logits_of_a_batch(model, tokenizer, monkeypatch):
    monkeypatch.setattr(soft_summaries, "_ROWS_OF_LOGITS", 16)
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.numel() // VOCAB_SIZE))
    soft_token_summaries(model, tokenizer, PROMPTS, RESPONSES)
    assert max(rows) == 16 and sum(rows) > 100


@pytest.mark.parametrize("kind", ["lora", "modules_to_save", "trainable_token_indices"])
def test_soft_token_summaries_mix_the_adapted_embedding(model, tokenizer, kind):
    peft = pytest.importorskip("peft")
    options = {
        "lora": {"target_modules": ["embed_tokens", "q_proj"]},
        "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        "trainable_token_indices": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 60, 61]},
    }[kind]
    plain = soft_token_summaries(model, tokenizer, PROMPTS, RESPONSES)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, **options))
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    found = soft_token_summaries(adapted, tokenizer, PROMPTS, RESPONSES)
    merged = adapted.merge_and_unload().eval()
    embeddings = merged.get_input_embeddings().weight.detach()
    for row, summary in enumerate(found):
        expected = _soft_reference(merged, tokenizer, PROMPTS[row], RESPONSES[row], embeddings)
        np.testing.assert_allclose(summary, expected, atol=1e-4)
    assert np.abs(found - plain).max() > 1e-2


def test_soft_prompts_are_in_front_but_not_pooled(model, tokenizer):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    embeddings = model.get_input_embeddings().weight.detach()
    found = soft_token_summaries(adapted, tokenizer, PROMPTS[:3], RESPONSES[:3])
    for row, summary in enumerate(found):
        ids, start = _ids(tokenizer, PROMPTS[row], RESPONSES[row])
        embedded = torch.cat([adapted.get_prompt(1), model.get_input_embeddings()(ids)], 1)
        with torch.no_grad():
            logits = model(inputs_embeds=embedded).logits[:, 3:-1]
        mask = torch.arange(logits.size(1))[None] >= start - 1
        np.testing.assert_allclose(summary, soft_token_summary(logits, embeddings, mask)[0].numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("match", "kwargs"),
    [
        ("`temperature` is 0", {"temperature": 0}),
        ("`top_k` is 0", {"top_k": 0}),
        (f"`top_k` is 999, .* {VOCAB_SIZE}", {"top_k": 999}),
        ("`embeddings` is 'head', expected one of 'input', 'output'", {"embeddings": "head"}),
        ("1 prompts for 2 texts", {"prompts": ["a"]}),
        ("Text 1 has no token", {"responses": ["b", ""]}),
        ("nothing predicts its first token without a prompt", {"prompts": ["a", ""], "responses": ["b", "b"]}),
        ("`max_batch_tokens` is 0", {"max_batch_tokens": 0}),
    ],
)
def test_bad_input_to_soft_token_summaries(model, tokenizer, match, kwargs):
    with pytest.raises(ValueError, match=match):
        soft_token_summaries(model, tokenizer, **{"prompts": ["a", "a"], "responses": ["b", "b"], **kwargs})


def _neuron_reference(model, tokenizer, text, layer, state, pooling):
    """Activations from their definition, given the input of the block's MLP."""
    inputs = []
    mlp = (model.transformer.h if hasattr(model, "transformer") else model.model.layers)[layer - 1].mlp
    handle = mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        model(torch.tensor([tokenizer(text)["input_ids"]]))
        handle.remove()
        if hasattr(mlp, "gate_proj"):
            activations = mlp.act_fn(mlp.gate_proj(inputs[0])) * mlp.up_proj(inputs[0])
        else:
            activations = mlp.act(mlp.c_fc(inputs[0]))
    activations = activations[0].double().numpy()
    states = (activations > 0).astype(float) if state == "nas" else np.abs(activations)
    weights = [t + 1.0 if pooling == "position_weighted" else 1.0 for t in range(len(states))]
    return sum(w * s for w, s in zip(weights, states, strict=True)) / sum(weights)


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt2"])
@pytest.mark.parametrize("state", ["nas", "nav"])
@pytest.mark.parametrize("pooling", ["position_weighted", "mean"])
def test_neuron_states_match_their_definition(tokenizer, name, state, pooling):
    model = tiny_model(name)
    found = neuron_state_summaries(model, tokenizer, RESPONSES, [1, -1], state, pooling, batch_size=4)
    assert list(found) == [1, -1]
    for layer, values in found.items():
        block = layer if layer > 0 else 2
        expected = [_neuron_reference(model, tokenizer, text, block, state, pooling) for text in RESPONSES]
        np.testing.assert_allclose(values, np.stack(expected), atol=1e-5)
    assert np.abs(found[1] - found[-1]).max() > 0.1


def test_neuron_states_inside_peft_and_flattened_mlps(tokenizer, model):
    peft = pytest.importorskip("peft")
    before = neuron_state_summaries(model, tokenizer, RESPONSES)
    assert list(before) == [1, 2]
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["down_proj"]))
    assert find_down_projections(adapted) == {1: "layers.0.mlp.down_proj", 2: "layers.1.mlp.down_proj"}
    np.testing.assert_allclose(neuron_state_summaries(adapted, tokenizer, RESPONSES)[2], before[2], atol=1e-6)

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    opt = OPTForCausalLM(config).eval()
    together = neuron_state_summaries(opt, tokenizer, RESPONSES, state="nav")
    alone = neuron_state_summaries(opt, tokenizer, RESPONSES, state="nav", batch_size=1)
    for layer in (1, 2):
        assert together[layer].shape == (len(RESPONSES), 24)
        np.testing.assert_allclose(together[layer], alone[layer], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("gpt_neox", "layers.1.mlp.dense_4h_to_h"),
        ("phi", "layers.1.mlp.fc2"),
        ("falcon", "h.1.mlp.dense_4h_to_h"),
        ("starcoder2", "layers.1.mlp.c_proj"),
    ],
)
def test_down_projections_of_families(family, path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=60_000, **sizes))
    # transformers 4 names modules from the whole model on
    assert find_down_projections(model)[2] in (path, f"{model.base_model_prefix}.{path}", f"transformer.{path}")


def test_neuron_and_hidden_states_of_an_encoder(tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=VOCAB_SIZE, **sizes)).eval()
    assert find_down_projections(model)[1] == "encoder.layer.0.output.dense"
    assert neuron_state_summaries(model, tokenizer, RESPONSES)[2].shape == (9, 24)
    together, alone = (hidden_state_summaries(model, tokenizer, RESPONSES, batch_size=size)[2] for size in (9, 1))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_experts_have_no_neurons_of_their_own(tokenizer):
    with pytest.raises(ValueError, match=r"Block 1 of 2 in `Qwen2MoeForCausalLM` has no such projection"):
        neuron_state_summaries(tiny_model("qwen2_moe"), tokenizer, RESPONSES)
    # The shared expert sees each token: it can be named
    config = Qwen2MoeConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8, shared_expert_intermediate_size=12,
    )  # fmt: skip
    model = Qwen2MoeForCausalLM(config)
    path = "mlp.shared_expert.down_proj"
    assert neuron_state_summaries(model, tokenizer, RESPONSES, down_projection=path)[1].shape == (9, 12)


@pytest.mark.parametrize(
    ("match", "kwargs"),
    [
        ("'nas', 'nav'", {"state": "sign"}),
        ("no block 0: its blocks are 1 to 2", {"layers": [0]}),
        ("no block -3", {"layers": [-3]}),
        ("has no such projection", {"down_projection": "mlp.fc2"}),
    ],
)
def test_bad_input_to_neuron_states(model, tokenizer, match, kwargs):
    with pytest.raises(ValueError, match=match):
        neuron_state_summaries(model, tokenizer, RESPONSES, **kwargs)


SUMMARIES = {
    "hidden": lambda model, tokenizer, **kwargs: hidden_state_summaries(model, tokenizer, RESPONSES, **kwargs)[2],
    "neurons": lambda model, tokenizer, **kwargs: neuron_state_summaries(model, tokenizer, RESPONSES, **kwargs)[2],
    "soft": lambda model, tokenizer, **kwargs: soft_token_summaries(model, tokenizer, PROMPTS, RESPONSES, **kwargs),
}


@pytest.mark.parametrize("kind", SUMMARIES)
def test_batches_stay_within_their_limits_and_change_nothing(model, tokenizer, kind):
    shapes = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    whole = SUMMARIES[kind](model, tokenizer)
    assert len(shapes) == 1
    longest = shapes.pop()[1]
    small = SUMMARIES[kind](model, tokenizer, batch_size=4, max_batch_tokens=2 * longest + 1)
    assert max(shape.numel() for shape in shapes) <= 2 * longest + 1
    assert sum(shape[0] for shape in shapes) == len(ROWS) and max(shape[0] for shape in shapes) > 1
    np.testing.assert_allclose(small, whole, atol=1e-5)
    shapes.clear()
    alone = SUMMARIES[kind](model, tokenizer, max_batch_tokens=1)
    assert [shape[0] for shape in shapes] == [1] * len(ROWS)
    np.testing.assert_allclose(alone, whole, atol=1e-5)


@pytest.mark.parametrize("kind", SUMMARIES)
def test_nothing_of_a_batch_outlives_it(model, tokenizer, kind):
    """Tensors of positions × d of earlier batches are gone when the next forward starts."""
    made, alive = [], []
    for module in (*model.model.layers, *(layer.mlp.act_fn for layer in model.model.layers)):
        module.register_forward_hook(
            lambda module, args, output: made.append(weakref.ref(output[0] if isinstance(output, tuple) else output))
        )

    def count(module, args):
        gc.collect()
        alive.append(sum(reference() is not None for reference in made))

    model.model.embed_tokens.register_forward_pre_hook(count)
    SUMMARIES[kind](model, tokenizer, batch_size=3)
    assert len(made) == 3 * 4 and alive == [0, 0, 0]


@pytest.mark.parametrize("kind", SUMMARIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_model_and_tokenizer_are_left_as_they_were(model, tokenizer, kind, side):
    tokenizer.padding_side = side
    # transformers 5 puts hooks of its own on a model, for good, when hidden states are first asked for
    model(torch.tensor([[1]]), output_hidden_states=True)
    model.train()
    model.model.layers[0].eval()

    def state():
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
        return hooks, tokenizer.padding_side, torch.is_grad_enabled()

    before = state()
    SUMMARIES[kind](model, tokenizer)
    assert state() == before

    def fail(module, args):
        raise RuntimeError("out of memory")

    handle = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        SUMMARIES[kind](model, tokenizer)
    handle.remove()
    assert state() == before
