"""Generation against a token-by-token reference, resuming, option scoring and vLLM's calling convention."""

import copy
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import tiny_model
from peft import LoraConfig, get_peft_model
from tiny_tokenizer import parallel_rows, train_tokenizer
from transformers import GenerationConfig

from solar_trl.evaluation import Response, generate_responses, score_choices
from solar_trl.evaluation.responses_file import ResponsesFile
from solar_trl.evaluation.sampling import cut_at


PROMPTS = [f"Question: {row['question']}\nAnswer:" for row in parallel_rows(["en", "sw", "th"])]
QUIET = {"progress": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3", vocab_size=384)


@torch.no_grad()
def greedy(model, tokenizer, prompt, max_new_tokens=8, ends=(2,)):
    """One token at a time, no cache, no padding."""
    ids = list(tokenizer(prompt)["input_ids"])
    start = len(ids)
    while len(ids) < start + max_new_tokens:
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            return tokenizer.decode(ids[start:], skip_special_tokens=True), True
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True), False


@pytest.mark.parametrize("name", ["qwen3", "llama_head_bias", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_greedy_equals_token_by_token(name, batch_size, tokenizer):
    model = tiny_model(name, vocab_size=384)
    responses = generate_responses(model, tokenizer, PROMPTS, batch_size=batch_size, **QUIET)
    assert [len(samples) for samples in responses] == [1] * len(PROMPTS)
    expected = [greedy(model, tokenizer, prompt) for prompt in PROMPTS]
    assert [(samples[0].text, samples[0].finished) for samples in responses] == expected


def test_ended_responses(model, tokenizer):
    """Every token but one that comes up may end a response: lengths differ within a batch."""
    ends = tuple(range(2, 200))
    model = copy.deepcopy(model)
    model.generation_config = GenerationConfig(eos_token_id=list(ends))
    responses = generate_responses(model, tokenizer, PROMPTS, **QUIET)
    expected = [greedy(model, tokenizer, prompt, ends=ends) for prompt in PROMPTS]
    assert [(samples[0].text, samples[0].finished) for samples in responses] == expected
    assert len({samples[0].tokens for samples in responses}) > 2


def test_nothing_is_changed(model):
    tokenizer = train_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = None, "right"
    model = copy.deepcopy(model).train()
    model.model.layers[1].eval()
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=5.0, max_length=3)
    config = model.generation_config
    before = [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected_draw = torch.rand(3)
    torch.manual_seed(5)
    responses = generate_responses(model, tokenizer, PROMPTS, temperature=0.8, **QUIET)
    assert torch.equal(torch.rand(3), expected_draw)
    assert [module.training for module in model.modules()] == before
    assert model.generation_config is config
    assert tokenizer.pad_token is None and tokenizer.padding_side == "right"
    # None of the model's own options came in
    plain = generate_responses(copy.deepcopy(model).eval(), train_tokenizer(), PROMPTS, temperature=0.8, **QUIET)
    assert responses == plain
    model.generation_config = GenerationConfig()
    assert generate_responses(model, tokenizer, PROMPTS, temperature=0.8, **QUIET) == responses


def test_sampling(model, tokenizer):
    options = {**QUIET, "temperature": 1.0, "num_samples": 3, "batch_size": 5}
    responses = generate_responses(model, tokenizer, PROMPTS, **options)
    assert responses == generate_responses(model, tokenizer, PROMPTS, **options)
    assert responses != generate_responses(model, tokenizer, PROMPTS, **options, seed=1)
    assert all(len(samples) == 3 and len({sample.text for sample in samples}) > 1 for samples in responses)
    greedy_responses = generate_responses(model, tokenizer, PROMPTS, **QUIET)
    nearly_greedy = generate_responses(model, tokenizer, PROMPTS, **{**options, "top_k": 1})
    assert nearly_greedy == [samples * 3 for samples in greedy_responses]
    for limit in ({"top_p": 1e-6}, {"min_p": 1.0}):
        assert generate_responses(model, tokenizer, PROMPTS, **options, **limit) == nearly_greedy


def test_first_tokens_follow_the_distribution(model, tokenizer):
    """Frequencies of 2,000 first tokens against the softmax at the temperature."""
    responses = generate_responses(
        model,
        tokenizer,
        PROMPTS[:1] * 1000,
        max_new_tokens=1,
        temperature=0.5,
        num_samples=2,
        batch_size=500,
        progress=False,
    )
    with torch.no_grad():
        ids = torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])
        expected = (model(ids).logits[0, -1] / 0.5).softmax(-1)
    texts = [sample.text for samples in responses for sample in samples]
    for token in expected.topk(3).indices.tolist():
        text = tokenizer.decode([token])
        same = [other for other in range(384) if tokenizer.decode([other]) == text]  # bytes that are no text
        share = float(expected[same].sum())
        assert np.mean([each == text for each in texts]) == pytest.approx(share, abs=4 * (share / 2000) ** 0.5)


def test_stop(model, tokenizer):
    whole = generate_responses(model, tokenizer, PROMPTS, progress=False, max_new_tokens=30)
    stopped = generate_responses(model, tokenizer, PROMPTS, progress=False, max_new_tokens=30, stop=["0", "ิ"])
    expected = [cut_at(samples[0].text, ["0", "ิ"]) for samples in whole]
    assert [samples[0].text for samples in stopped] == expected
    cut = [i for i, samples in enumerate(whole) if samples[0].text != expected[i]]
    assert len(cut) > 3 and all(stopped[i][0].finished and stopped[i][0].tokens < 30 for i in cut)
    # transformers finds "a" in "<pad>" too, which is no text: it ends such a row all the same
    early = [
        samples[0]
        for samples in generate_responses(model, tokenizer, PROMPTS, progress=False, max_new_tokens=30, stop=["a"])
    ]
    assert all(each.finished for each in early if each.tokens < 30)
    assert cut_at("abcd", ["d", "bc"]) == "a" and cut_at("abcd", []) == "abcd"


def test_adapters(model, tokenizer):
    peft_model = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, init_lora_weights=False))
    torch.manual_seed(0)
    merged = copy.deepcopy(peft_model).merge_and_unload()
    responses = generate_responses(peft_model, tokenizer, PROMPTS[:4], **QUIET)
    assert responses == generate_responses(merged, tokenizer, PROMPTS[:4], **QUIET)
    assert responses != generate_responses(model, tokenizer, PROMPTS[:4], **QUIET)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "num_samples": 2}])
def test_resumed_equals_straight(options, model, tokenizer, tmp_path, monkeypatch):
    options = {**QUIET, **options, "batch_size": 5}
    straight = generate_responses(model, tokenizer, PROMPTS, **options)
    path = tmp_path / "deep" / "responses.jsonl"
    generate = type(model).generate
    calls = []

    def counted(self, *args, **kwargs):
        calls.append(len(kwargs["input_ids"]))
        if len(calls) == 4:
            raise Interrupted
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", counted)
    with pytest.raises(Interrupted):
        generate_responses(model, tokenizer, PROMPTS, **options, output_file=path)
    done = len(path.read_text(encoding="utf-8").splitlines()) - 1
    assert 0 < done < len(PROMPTS)
    whole = path.read_bytes()
    for torn in (len(whole), len(whole) - 1, len(whole) - 40, len(whole) // 2, 10, 0):
        path.write_bytes(whole[:torn])
        calls[:] = [0] * 10
        assert generate_responses(model, tokenizer, PROMPTS, **options, output_file=path) == straight
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert sorted(record["prompt"] for record in records[1:]) == list(range(len(PROMPTS)))
    calls[:] = [0] * 10
    assert generate_responses(model, tokenizer, PROMPTS, **options, output_file=path) == straight
    assert len(calls) == 10  # all was there: nothing was generated


def test_a_greedy_run_may_go_on_with_other_batches(model, tokenizer, tmp_path):
    path = tmp_path / "responses.jsonl"
    straight = generate_responses(model, tokenizer, PROMPTS, **QUIET, batch_size=5, output_file=path)
    path.write_bytes(path.read_bytes()[:-200])
    assert generate_responses(model, tokenizer, PROMPTS, **QUIET, batch_size=3, output_file=path) == straight


def test_other_runs_are_refused(model, tokenizer, tmp_path):
    path = tmp_path / "responses.jsonl"
    options = {**QUIET, "temperature": 0.7, "output_file": path}
    generate_responses(model, tokenizer, PROMPTS[:6], **options)
    before = path.read_bytes()
    for change, message in [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"max_new_tokens": 9}, "max_new_tokens: 8 there, 9 now"),
        ({"batch_size": 2}, "batch_size: 8 there, 2 now"),
        ({"stop": ["x"]}, "stop"),
    ]:
        with pytest.raises(ValueError, match=message):
            generate_responses(model, tokenizer, PROMPTS[:6], **{**options, **change})
    with pytest.raises(ValueError, match="another prompt 0"):
        generate_responses(model, tokenizer, [PROMPTS[1], PROMPTS[0], *PROMPTS[2:6]], **options)
    with pytest.raises(ValueError, match="another prompt 5"):
        generate_responses(model, tokenizer, PROMPTS[:5], **options)
    with pytest.raises(ValueError, match="model: "):
        generate_responses(tiny_model("qwen3", vocab_size=384, seed=1), tokenizer, PROMPTS[:6], **options)
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.model.layers[1].mlp.up_proj.weight.add_(1e-3)
    with pytest.raises(ValueError, match="model: "):
        generate_responses(trained, tokenizer, PROMPTS[:6], **options)
    assert path.read_bytes() == before
    path.write_text('{"some": "file"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no responses of this package"):
        generate_responses(model, tokenizer, PROMPTS[:6], **options)
    assert path.read_text(encoding="utf-8") == '{"some": "file"}\n'


def test_more_prompts_extend_a_file(tmp_path):
    path = tmp_path / "responses.jsonl"
    ResponsesFile(path, {"seed": 0}, ["a", "b"]).append([(1, [{"text": "\ud800 \u2028"}])])
    again = ResponsesFile(path, {"seed": 0}, ["a", "b", "c"])
    assert list(again.samples) == [1]


def test_chat_template(model, tokenizer):
    messages = [{"role": "user", "content": PROMPTS[0]}]
    rendered = f"<|im_start|>user\n{PROMPTS[0]}<|im_end|>\n<|im_start|>assistant\n"
    responses = generate_responses(model, tokenizer, [messages, rendered], **QUIET)
    assert responses[0] == responses[1]
    base = train_tokenizer()
    base.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        generate_responses(model, base, [messages], **QUIET)


def test_thinking_opened_by_the_template(model):
    tokenizer = train_tokenizer()
    tokenizer.chat_template = (
        "{{ messages[0]['content'] }}{% if add_generation_prompt and thinking %}<think>\n{% endif %}"
    )
    messages = [[{"role": "user", "content": "Hi?"}]]
    (thinking,) = generate_responses(model, tokenizer, messages, **QUIET, chat_template_kwargs={"thinking": True})
    (raw,) = generate_responses(model, tokenizer, ["Hi?<think>\n"], **QUIET)
    assert thinking[0].text.startswith("<think>\n") and thinking == raw
    (plain,) = generate_responses(model, tokenizer, messages, **QUIET)
    assert not plain[0].text.startswith("<think>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "empty"),
        ({"prompts": ["a", ""]}, "Prompt 1 has no token"),
        ({"prompts": "a"}, "single string"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": -1.0}, "`temperature` is -1.0"),
        ({"num_samples": 2}, "same response each time"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"backend": "onnx"}, "'onnx'"),
        ({"stop": [""]}, "empty text"),
        ({"tokenizer": None}, "`tokenizer` is missing"),
    ],
)
def test_bad_input(change, message, model, tokenizer):
    with pytest.raises((ValueError, TypeError), match=message):
        generate_responses(**{"model": model, "tokenizer": tokenizer, "prompts": ["a"], **QUIET, **change})


# vLLM


class FakeLLM:
    """What the backend calls of `vllm.LLM`, by the names in vLLM's repository (2026)."""

    def __init__(self, model):
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(model=model))
        self.calls = []

    def get_tokenizer(self):
        return train_tokenizer()

    def generate(self, prompts, options, use_tqdm):
        self.calls.append((prompts, options))
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        index=i,
                        text=f"{prompt['prompt_token_ids'][-1]}/{i}",
                        token_ids=[1] * 3,
                        finish_reason="length",
                    )
                    for i in reversed(range(option.n))
                ]
            )
            for prompt, option in zip(prompts, options, strict=True)
        ]


def test_vllm(monkeypatch, tmp_path):
    fake = SimpleNamespace(LLM=FakeLLM, SamplingParams=lambda **options: SimpleNamespace(**options))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    tokenizer = train_tokenizer()
    llm = FakeLLM("models/a")
    path = tmp_path / "responses.jsonl"
    options = {
        "backend": "vllm",
        "temperature": 0.6,
        "num_samples": 2,
        "top_k": 30,
        "stop": ["X"],
        "output_file": path,
    }
    responses = generate_responses(llm, tokenizer, PROMPTS, **QUIET, **options)
    last = [tokenizer(prompt)["input_ids"][-1] for prompt in PROMPTS]
    assert responses == [[Response(f"{token}/{i}", 3, False) for i in range(2)] for token in last]
    ((prompts, options_given),) = llm.calls
    params = options_given[0]
    assert len({option.seed for option in options_given}) == len(PROMPTS)
    assert sorted(len(prompt["prompt_token_ids"]) for prompt in prompts) == sorted(
        len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS
    )
    assert (params.n, params.temperature, params.top_p, params.top_k, params.max_tokens) == (2, 0.6, 1.0, 30, 8)
    assert generate_responses("models/a", None, PROMPTS, **QUIET, **options) == responses  # by path, from the file
    with pytest.raises(ValueError, match="'models/a' there, 'models/b' now"):
        generate_responses("models/b", None, PROMPTS, **QUIET, **options)
    with pytest.raises(TypeError, match="must be a path"):
        generate_responses(object(), tokenizer, PROMPTS, backend="vllm")


def test_vllm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm"):
        generate_responses("path", None, PROMPTS, backend="vllm")


# Scores of options


@torch.no_grad()
def likelihood(model, tokenizer, prompt, option):
    """Log-probabilities of the option's tokens, from one unpadded forward pass."""
    start, ids = tokenizer(prompt)["input_ids"], tokenizer(option)["input_ids"]
    log_probs = model(torch.tensor([start + ids])).logits[0].double().log_softmax(-1)
    return [float(log_probs[len(start) + i - 1, token]) for i, token in enumerate(ids)]


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "llama_head_bias"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_option_scores(name, batch_size, tokenizer):
    model = tiny_model(name, vocab_size=384).train()
    rng = np.random.default_rng(0)
    options = [[" 7", " elf Schilling", " คำตอบคือ 12", " mayai"][: rng.integers(2, 5)] for _ in PROMPTS]
    model.eval()
    expected = [
        [likelihood(model, tokenizer, prompt, o) for o in each] for prompt, each in zip(PROMPTS, options, strict=True)
    ]
    model.train()
    for normalization, value in [
        ("sum", lambda parts, text: sum(parts)),
        ("token", lambda parts, text: np.mean(parts)),
        ("character", lambda parts, text: sum(parts) / len(text.strip())),
    ]:
        scores = score_choices(
            model, tokenizer, PROMPTS, options, normalization=normalization, batch_size=batch_size, progress=False
        )
        for found, parts, texts in zip(scores, expected, options, strict=True):
            np.testing.assert_allclose(found, [value(p, t) for p, t in zip(parts, texts, strict=True)], atol=1e-4)
    assert model.training


def test_only_the_logits_of_the_options(model, tokenizer):
    widths = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    try:
        score_choices(model, tokenizer, PROMPTS, [[" 7", " 8"]] * len(PROMPTS), progress=False)
    finally:
        hook.remove()
    assert max(widths) <= 3


def test_bad_options(model, tokenizer):
    with pytest.raises(ValueError, match="'byte'"):
        score_choices(model, tokenizer, ["a"], [["b", "c"]], normalization="byte")
    with pytest.raises(ValueError, match="2 prompts and options for 1"):
        score_choices(model, tokenizer, ["a", "b"], [["b", "c"]])
    with pytest.raises(ValueError, match="Option 1 of prompt 0 has no token"):
        score_choices(model, tokenizer, ["a"], [["b", ""]])
