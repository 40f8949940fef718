"""`SolarSFTTrainer` does what `SFTTrainer` does: bit for bit with alignment off, the same SFT loss with it on."""

from __future__ import annotations

import copy
import gc
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import QUIET
from models import tiny_model
from peft import LoraConfig
from tiny_tokenizer import CHAT_TEMPLATE, parallel_rows, train_tokenizer
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from solar_trl import SolarSFTConfig, SolarSFTTrainer


N_ITEMS, LANGUAGES = 3, ("en", "sw", "th")
N_PAIRS = N_ITEMS * (len(LANGUAGES) - 1)


@pytest.fixture(autouse=True, scope="module")
def _cheap_collections():
    """The Trainer collects garbage at each start: what the imports left need not be looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **kwargs):
    return {"role": "assistant", "content": text, **kwargs}


def keys(row):
    return {"language": row["language"], "parallel_id": row["parallel_id"]}


def rows(make) -> Dataset:
    """Three items in three languages, in one of TRL's dataset types."""
    return Dataset.from_list([{**make(r), **keys(r)} for r in parallel_rows(LANGUAGES) if r["parallel_id"] < N_ITEMS])


def text(r):
    return {"text": f"{r['question']} {r['response']}"}


def messages(r):
    return {"messages": [user(r["question"]), assistant(r["response"])]}


def prompt(r):
    return {"prompt": r["question"], "completion": " " + r["response"]}


def chat(r):
    return {"prompt": [user(r["question"])], "completion": [assistant(r["response"])]}


ADDITION = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
TOOL_TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}"
    + CHAT_TEMPLATE.replace(
        "message['content'] + '<|im_end|>' }}{%- endgeneration",
        "(message['content'] or '') + ((message['tool_calls'] | tojson) if message['tool_calls'] else '') + "
        "'<|im_end|>' }}{%- endgeneration",
    )
)
STYLED_TEMPLATE = "{%- if style %}{{- '[' + style + ']' }}{%- endif %}" + CHAT_TEMPLATE


def tool_calls(r):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    conversation = [
        user(r["question"]),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "3"},
        assistant(r["response"]),
    ]
    return {"messages": conversation, "tools": json.dumps([ADDITION])}


def tokenized(r):
    ids = [3 + (7 * ord(c)) % 300 for c in r["response"]]
    return {"input_ids": ids, "labels": [-100] * 4 + ids[4:]}


# name: (dataset type, config, arguments of the trainer)
BEHAVIOURS: dict[str, tuple] = {
    "language modeling": (text, {}, {}),
    "conversational language modeling": (messages, {}, {}),
    "prompt-completion": (prompt, {}, {}),
    "conversational prompt-completion": (chat, {}, {}),
    "pre-tokenized": (tokenized, {}, {}),
    "tool calls": (tool_calls, {"chat_template": TOOL_TEMPLATE}, {}),
    "tool calls, assistant only": (tool_calls, {"chat_template": TOOL_TEMPLATE, "assistant_only_loss": True}, {}),
    "chat template arguments": (
        lambda r: {**messages(r), "chat_template_kwargs": {"style": r["language"]}},
        {"chat_template": STYLED_TEMPLATE},
        {},
    ),
    "assistant only": (messages, {"assistant_only_loss": True}, {}),
    "assistant only, prompt-completion": (chat, {"assistant_only_loss": True}, {}),
    "whole prompt-completion": (prompt, {"completion_only_loss": False}, {}),
    "truncated": (prompt, {"max_length": 60}, {}),
    "truncated at the start": (prompt, {"max_length": 20, "truncation_mode": "keep_end"}, {}),
    "not truncated": (prompt, {"max_length": None}, {}),
    "packed": (prompt, {"packing": True, "max_length": 300}, {}),
    "padding-free": (prompt, {"padding_free": True, "max_length": None}, {}),
    "padded to a multiple": (prompt, {"pad_to_multiple_of": 32}, {}),
    "eos token": (prompt, {"eos_token": "<bos>"}, {}),
    "pad token": (prompt, {"pad_token": "<bos>"}, {}),
    "shuffled": (prompt, {"shuffle_dataset": True}, {}),
    "another text field": (lambda r: {"body": text(r)["text"]}, {"dataset_text_field": "body"}, {}),
    "formatting function": (
        lambda r: {"q": r["question"], "a": r["response"]},
        {},
        {"formatting_func": lambda row: f"Q: {row['q']} A: {row['a']}"},
    ),
    "several processes": (prompt, {"dataset_num_proc": 2}, {}),
    "skip preparation": (tokenized, {"dataset_kwargs": {"skip_prepare_dataset": True}}, {}),
    "dft": (prompt, {"loss_type": "dft"}, {}),
    "neftune": (prompt, {"neftune_noise_alpha": 5.0}, {}),
    "gradient checkpointing": (prompt, {"gradient_checkpointing": True}, {}),
    "selective checkpointing": (
        prompt,
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"selective": True}},
        {},
    ),
    "experts": (prompt, {"model": "qwen2_moe", "router_aux_loss_coef": 0.1}, {}),
    "lora": (prompt, {}, {"peft_config": LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0)}),
    "scheduler and clipping": (
        prompt,
        {"lr_scheduler_type": "cosine", "warmup_steps": 1, "max_grad_norm": 0.1, "weight_decay": 0.1},
        {},
    ),
    "accumulation": (prompt, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3}, {}),
    "chat template path": (chat, {"chat_template_path": "template.jinja"}, {}),
    "two workers": (prompt, {"dataloader_num_workers": 2}, {}),
}
SLOW = {
    "several processes",
    "two workers",
    "experts",
    "not truncated",
    "padded to a multiple",
    "shuffled",
    "another text field",
    "tool calls",
    "assistant only, prompt-completion",
    "whole prompt-completion",
    "truncated at the start",
    "pad token",
    "gradient checkpointing",
    "scheduler and clipping",
    "pre-tokenized",
    "chat template arguments",
    "conversational language modeling",
}
EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BEHAVIOURS]
)


def build(kind, name, tmp_path, eval_rows=False, **overrides):
    """A trainer (`"sft"`, `"none"` or `"solar"`) for one of the behaviours."""
    make, config, kwargs = copy.deepcopy(BEHAVIOURS[name])
    options = {
        **QUIET,
        "learning_rate": 1e-2,
        "max_steps": 2,
        "per_device_train_batch_size": N_ITEMS * len(LANGUAGES),
        "router_aux_loss_coef": None,
        **config,
        **overrides,
    }
    tokenizer = train_tokenizer()
    tokenizer.chat_template = options.pop("chat_template", CHAT_TEMPLATE)
    if "chat_template_path" in options:
        path = tmp_path / options["chat_template_path"]
        path.write_text("{{- '#' }}" + CHAT_TEMPLATE)
        options["chat_template_path"] = str(path)
    model = tiny_model(options.pop("model", "qwen3"))
    dataset = rows(make)
    for key in ("callbacks", "compute_metrics", "preprocess_logits_for_metrics"):
        if key in options:
            kwargs[key] = options.pop(key)
    if eval_rows:
        kwargs["eval_dataset"] = dataset
    if kind == "sft":
        trainer_class, args = SFTTrainer, SFTConfig(str(tmp_path / kind), **options)
    else:
        own = {"alignment_objective": kind, "pivot_batching": "random"}  # TRL's own order of rows
        trainer_class, args = SolarSFTTrainer, SolarSFTConfig(str(tmp_path / kind), **{**own, **options})
    return trainer_class(model, args, train_dataset=dataset, processing_class=tokenizer, **kwargs)


def logs(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@EACH
def test_off_is_sft(name, tmp_path):
    """With the objective "none": every logged value and every weight, after two steps of AdamW."""
    plain = build("sft", name, tmp_path)
    before = weights(plain)
    plain.train()
    ours = build("none", name, tmp_path)  # the constructor sets the seed
    assert all(torch.equal(value, before[key]) for key, value in weights(ours).items())
    ours.train()
    assert logs(ours) == logs(plain) and len(logs(ours)) == 2
    after, expected = weights(ours), weights(plain)
    assert set(after) == set(expected) and all(torch.equal(after[key], expected[key]) for key in expected)
    assert any(not torch.equal(expected[key], before[key]) for key in expected)


@EACH
def test_on_keeps_the_sft_loss(name, tmp_path):
    """With the objective "solar": the pairs are found, and the first step has the SFT loss of plain SFT."""
    plain = build("sft", name, tmp_path)
    plain.train()
    ours = build("solar", name, tmp_path)
    ours.train()
    first, expected = logs(ours)[0], logs(plain)[0]
    assert first["aligned_pairs"] == N_PAIRS and 0 < first["alignment_loss"] < 2
    sft_loss = first["loss"] - first["alignment_weight"] * first["alignment_loss"]
    assert sft_loss == pytest.approx(expected["loss"], rel=1e-5, abs=1e-6)
    for key in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert first[key] == pytest.approx(expected[key], rel=1e-5), key
    assert logs(ours)[1]["loss"] != pytest.approx(logs(plain)[1]["loss"], rel=1e-5)  # the term did something


def test_behaviours_differ(tmp_path):
    """An option that is not passed on would make two of the runs the same."""
    same = {"gradient checkpointing", "selective checkpointing", "several processes"}
    same |= {"two workers", "skip preparation", "not truncated", "accumulation", "padding-free", "pad token"}
    same |= {"padded to a multiple", "shuffled", "packed", "another text field", "lora", "scheduler and clipping"}
    names = [name for name in BEHAVIOURS if name not in SLOW | same]
    losses = {}
    for name in names:
        trainer = build("none", name, tmp_path, max_steps=1)
        trainer.train()
        losses[name] = round(logs(trainer)[0]["loss"], 6)
    assert len(set(losses.values())) == len(names), losses


def test_tool_calls_reach_the_model(tmp_path):
    trainer = build("solar", "tool calls", tmp_path)
    shown = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert "Add two numbers." in shown and '"arguments": {"a": 1, "b": 2}' in shown


# Evaluation


def compute_metrics(prediction):
    labels = prediction.label_ids[:, 1:]
    right = (prediction.predictions[:, :-1] == labels) & (labels != -100)
    return {"right": float(right.sum() / (labels != -100).sum())}


def best_token(logits, labels):
    return logits.argmax(-1)


@pytest.mark.parametrize("kind", ["none", "solar"])
@pytest.mark.parametrize("name", ["prompt-completion", "assistant only", "packed", "padding-free"])
def test_evaluation(kind, name, tmp_path):
    """`prediction_step`, `preprocess_logits_for_metrics` and `compute_metrics` see what they see in plain SFT."""
    extra = {"compute_metrics": compute_metrics, "preprocess_logits_for_metrics": best_token}
    extra = {} if name in ("packed", "padding-free") else extra  # rows of different length, without padding
    plain, ours = (
        build(k, name, tmp_path, eval_rows=True, per_device_eval_batch_size=64, **extra) for k in ("sft", kind)
    )
    expected, got = plain.evaluate(), ours.evaluate()
    names = [key for key in expected if not key.endswith(("time", "per_second"))]
    assert "eval_loss" in names and ("eval_right" in names) == bool(extra)
    for key in names:
        assert got[key] == (expected[key] if kind == "none" else pytest.approx(expected[key], rel=1e-5)), key
    assert got.get("eval_aligned_pairs") == (N_PAIRS if kind == "solar" else None)


def test_predict(tmp_path):
    plain, ours = (build(kind, "prompt-completion", tmp_path, eval_rows=True) for kind in ("sft", "solar"))
    expected, got = plain.predict(plain.eval_dataset), ours.predict(ours.eval_dataset)
    assert np.array_equal(got.label_ids, expected.label_ids)
    np.testing.assert_allclose(got.predictions, expected.predictions, rtol=1e-5, atol=1e-6)


class Recorder(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.events.append(("log", state.global_step, "eval_loss" in logs, "loss" in logs))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.events.append(("evaluate", state.global_step, metrics["eval_loss"] > 0))

    def on_save(self, args, state, control, **kwargs):
        self.events.append(("save", state.global_step))

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append(("step", state.global_step))


SCHEDULE = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("kind", ["none", "solar"])
def test_callbacks_come_in_the_same_order(kind, tmp_path):
    events = []
    for k in ("sft", kind):
        recorder = Recorder()
        build(k, "prompt-completion", tmp_path, eval_rows=True, callbacks=[recorder], **SCHEDULE).train()
        events.append(recorder.events)
    assert events[0] == events[1] and len(events[0]) > 8


def test_early_stopping_on_the_alignment_loss(tmp_path):
    """It stops at the first evaluation that is no better, and the best weights are loaded at the end."""
    trainer = build(
        "solar",
        "prompt-completion",
        tmp_path,
        eval_rows=True,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0)],
        metric_for_best_model="eval_alignment_loss",
        greater_is_better=False,
        load_best_model_at_end=True,
        learning_rate=0.5,  # so that it gets worse
        **{**SCHEDULE, "max_steps": 5},
    )
    trainer.train()
    values = [log["eval_alignment_loss"] for log in trainer.state.log_history if "eval_alignment_loss" in log]
    assert trainer.state.global_step == len(values) == 2  # no value is better than the first by 10
    assert trainer.state.best_metric in values
    assert trainer.evaluate()["eval_alignment_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


@pytest.mark.parametrize("kind", ["sft", "none", "solar"])
def test_best_model_by_eval_loss(kind, tmp_path):
    """`eval_loss` keeps its meaning: the choice of the best model is by the SFT loss, whatever is minimised."""
    trainer = build(
        kind, "prompt-completion", tmp_path, eval_rows=True, load_best_model_at_end=True, learning_rate=0.5, **SCHEDULE
    )
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert trainer.state.best_metric == min(losses) and len(losses) == 2
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("kind", ["none", "solar"])
def test_saved_models_load_in_transformers(kind, tmp_path):
    trainer = build(kind, "prompt-completion", tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    saved = dict(trainer.model.state_dict())
    assert all(torch.equal(value, saved[key]) for key, value in loaded.state_dict().items())
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    assert torch.equal(loaded.eval()(ids).logits, trainer.model(ids).logits)


@pytest.mark.parametrize("kind", ["none", "solar"])
def test_model_card_of_trl(kind, tmp_path):
    """Written without pushing, with TRL's own sections."""
    trainer = build(kind, "prompt-completion", tmp_path)
    trainer.create_model_card(model_name="mine", dataset_name="ours", tags=["extra"])
    card = (tmp_path / kind / "README.md").read_text()
    for part in ("- extra", "- sft", "datasets: ours", "### Framework versions", "TRL", "Quick start"):
        assert part in card, part


def test_auto_find_batch_size_when_off(tmp_path):
    """The same batches as plain SFT after the size was halved."""
    results = []
    for kind in ("sft", "none"):
        trainer = build(
            kind, "prompt-completion", tmp_path, auto_find_batch_size=True, per_device_train_batch_size=8, max_steps=-1
        )
        collator = trainer.data_collator

        def fails(examples, collator=collator):
            if len(examples) > 4:
                raise RuntimeError("CUDA out of memory.")
            return collator(examples)

        trainer.data_collator = fails
        trainer.train()
        results.append((logs(trainer), weights(trainer)))
    assert results[0][0] == results[1][0] and trainer._train_batch_size == 4
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloads from a GPU")
def test_activation_offloading(tmp_path):
    losses = []
    for kind in ("sft", "none", "solar"):
        trainer = build(kind, "prompt-completion", tmp_path, activation_offloading=True, use_cpu=False)
        trainer.train()
        losses.append(logs(trainer)[0])
    assert losses[1]["loss"] == losses[0]["loss"] and losses[2]["aligned_pairs"] == N_PAIRS
    assert losses[2]["sft_loss"] == pytest.approx(losses[0]["loss"], rel=1e-4)


# Models


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "model"
    tiny_model("qwen3", tied=False).save_pretrained(path)
    train_tokenizer().save_pretrained(path)
    return str(path)


def train_path(kind, model_path, tmp_path, config=None, **kwargs):
    options = {**QUIET, "max_steps": 1, "per_device_train_batch_size": 9, **(config or {})}
    if kind == "sft":
        trainer_class, args = SFTTrainer, SFTConfig(str(tmp_path / kind), **options)
    else:
        trainer_class = SolarSFTTrainer
        args = SolarSFTConfig(str(tmp_path / kind), alignment_objective=kind, pivot_batching="random", **options)
    torch.manual_seed(0)  # of the adapters
    trainer = trainer_class(model_path, args, train_dataset=rows(prompt), **kwargs)
    trainer.train()
    return trainer


def check_against_sft(model_path, tmp_path, rel, **kwargs):
    plain, off, on = (train_path(kind, model_path, tmp_path, **kwargs) for kind in ("sft", "none", "solar"))
    assert logs(off)[0]["loss"] == logs(plain)[0]["loss"]
    expected, got = weights(plain), weights(off)
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    first = logs(on)[0]
    assert first["aligned_pairs"] == N_PAIRS
    assert first["sft_loss"] == pytest.approx(logs(plain)[0]["loss"], rel=rel)
    return on


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized(bits, model_path, tmp_path):
    """NF4 and int8 of bitsandbytes, really quantized, with LoRA."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantization = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    trainer = check_against_sft(
        model_path,
        tmp_path,
        rel=2e-3,  # TRL trains adapters of quantized models in bfloat16
        quantization_config=quantization,
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    stored = trainer.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert stored.dtype == (torch.uint8 if bits == 4 else torch.int8)


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, "cpu"])
def test_device_map(device_map, model_path, tmp_path):
    config = {"model_init_kwargs": {"device_map": device_map, "dtype": "float32"}}
    check_against_sft(model_path, tmp_path, rel=1e-5, config=config)


def vision_language_model():
    """A tiny Gemma 3 with a vision tower, and its processor, built without a download."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("PIL")
    if not hasattr(transformers, "Gemma3ImageProcessorPil"):
        pytest.skip("the image processor needs torchvision")
    tokenizer = train_tokenizer()
    tokens = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *tokens.values()]})
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": 8, "width": 8}),
        tokenizer,
        # TRL makes lists of typed parts of the contents
        chat_template=CHAT_TEMPLATE.replace("message['content']", "message['content'][0]['text']"),
        image_seq_length=4,
    )
    config = transformers.Gemma3Config(
        text_config={
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pad_token_id": 0,
            "final_logit_softcapping": 5.0,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    torch.manual_seed(0)
    return transformers.Gemma3ForConditionalGeneration(config), processor


def vision_trainer(kind, dataset, tmp_path):
    model, processor = vision_language_model()
    options = {**QUIET, "max_steps": 2, "per_device_train_batch_size": 9, "learning_rate": 1e-2}
    if kind == "sft":
        trainer_class, args = SFTTrainer, SFTConfig(str(tmp_path / kind), **options)
    else:
        own = {"alignment_objective": kind, "pivot_batching": "random"}
        trainer_class, args = SolarSFTTrainer, SolarSFTConfig(str(tmp_path / kind), **own, **options)
    return trainer_class(model, args, train_dataset=dataset, processing_class=processor)


@pytest.mark.parametrize("make", [prompt, chat], ids=["standard", "conversational"])
def test_vision_language_model_on_text(make, tmp_path):
    plain, off, on = (vision_trainer(kind, rows(make), tmp_path) for kind in ("sft", "none", "solar"))
    for trainer in (plain, off, on):
        trainer.train()
    assert logs(off) == logs(plain)
    expected, got = weights(plain), weights(off)
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    first = logs(on)[0]
    assert first["aligned_pairs"] == N_PAIRS
    assert first["sft_loss"] == pytest.approx(logs(plain)[0]["loss"], rel=1e-5)
    assert logs(on)[1]["loss"] != pytest.approx(logs(plain)[1]["loss"], rel=1e-5)


def test_images_are_refused(tmp_path):
    from PIL import Image

    image = Image.new("RGB", (8, 8))
    dataset = Dataset.from_list([{**row, "images": [image]} for row in rows(chat)])
    with pytest.raises(ValueError, match="column 'images': vision datasets are not supported"):
        vision_trainer("solar", dataset, tmp_path)
