"""`CrossLingualEvalCallback`: what it logs is right, and training does not notice it."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import callback_worker
import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import SPEC, sft_trainer, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig
from tiny_tokenizer import parallel_rows, train_tokenizer

import solar_trl.callbacks
from solar_trl import CrossLingualEvalCallback
from solar_trl.analysis import analyze_layers, hidden_state_summaries
from solar_trl.evaluation import evaluate_model
from solar_trl.evaluation.benchmarks import FEATURES


LANGUAGES = ["en", "sw", "th"]
BENCHMARK = Dataset.from_list(
    [
        dict.fromkeys(FEATURES, "") | {"kind": "number", "choices": []}
        | {name: str(row[name]) for name in ("language", "parallel_id", "question", "answer")}
        for row in parallel_rows(LANGUAGES)
    ],
    features=FEATURES,
)  # fmt: skip
TEXTS = Dataset.from_list(
    [{"language": row["language"], "parallel_id": row["parallel_id"], "text": row["response"]}
     for row in parallel_rows(LANGUAGES)]
)  # fmt: skip
EVALUATE = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "per_device_train_batch_size": 2}


def model_with_dropout():
    model = tiny_model("qwen3", vocab_size=384)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.3
    return model


def make_trainer(kind, tmp_path, lora=False, config=None, **kwargs):
    make = solar_trainer if kind == "solar" else sft_trainer
    if lora:
        kwargs["peft_config"] = LoraConfig(r=4, lora_dropout=0.3, target_modules=["q_proj", "v_proj"])
    kwargs.setdefault("eval_dataset", Dataset.from_list(token_rows(SPEC, seed=5)))
    options = {**EVALUATE, "learning_rate": 0.05, **(config or {})}
    return make(model_with_dropout(), token_rows(SPEC), train_tokenizer(), tmp_path, config=options, **kwargs)


def add_callback(trainer, benchmark=BENCHMARK, texts=TEXTS, **kwargs):
    callback = CrossLingualEvalCallback(trainer, benchmark, texts, max_new_tokens=4, **kwargs)
    trainer.add_callback(callback)
    return callback


def cross_lingual(values):
    return {name: value for name, value in values.items() if "crosslingual" in name}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["sft", "solar"])
def test_training_is_the_same_bit_for_bit(kind, lora, tmp_path, monkeypatch):
    plain = make_trainer(kind, tmp_path, lora)
    plain.train()
    watched = make_trainer(kind, tmp_path, lora)
    watched.processing_class.padding_side = "right"
    add_callback(watched)
    generate, seen = solar_trl.callbacks.generate_responses, []

    def disturbing(model, *args, **kwargs):
        random.random(), np.random.rand(3), torch.rand(7)
        seen.append(model.training)
        return generate(model, *args, **kwargs)

    monkeypatch.setattr(solar_trl.callbacks, "generate_responses", disturbing)
    watched.train()
    assert len(seen) == 2
    expected = dict(plain.model.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in watched.model.named_parameters())
    steps = [
        [
            {name: log[name] for name in ("loss", "grad_norm", "mean_token_accuracy") if name in log}
            for log in trainer.state.log_history
            if "loss" in log
        ]
        for trainer in (plain, watched)
    ]
    assert steps[0] == steps[1] and len(steps[0]) == 4
    assert watched.processing_class.padding_side == "right"
    # An evaluation's own values are there once, and no others came in through our log
    ours = [log for log in watched.state.log_history if cross_lingual(log)]
    assert len(ours) == 2 and all(set(log) == {*cross_lingual(log), "epoch", "step"} for log in ours)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_scores_are_those_of_an_evaluation_afterwards(lora, tmp_path):
    trainer = make_trainer("solar", tmp_path, lora)
    add_callback(trainer, layers=[0, -1], measures=["similarity", "retrieval"])
    trainer.train()
    logged = cross_lingual(trainer.state.log_history[-2])  # the last is the summary of the run
    result = evaluate_model(trainer.model, trainer.processing_class, BENCHMARK, max_new_tokens=4, resamples=1)
    names = [
        "accuracy",
        "macro_accuracy",
        "consistency",
        "clc",
        "pivot_gap",
        *(f"accuracy/{lang}" for lang in LANGUAGES),
    ]
    for name in names:
        assert logged[f"eval_crosslingual/{name}"] == result.metrics[name]
    for name in ("empty", "unextractable", "unfinished"):
        assert logged[f"eval_crosslingual/{name}"] == result.counts["all"][name]
    assert ("eval_crosslingual/co" in logged) == math.isfinite(result.metrics["co"])
    states = hidden_state_summaries(
        trainer.model, trainer.processing_class, TEXTS["text"], [0, 2], "position_weighted", batch_size=8
    )
    analysis = analyze_layers(states, TEXTS["language"], TEXTS["parallel_id"], measures=["similarity", "retrieval"])
    assert {name for name in logged if "layer" in name} == {
        f"eval_crosslingual/layer_{layer}/{measure}{language}"
        for layer in (0, 2)
        for measure in ("matched", "random", "difference", "retrieval", "retrieval_to_pivot", "retrieval_from_pivot")
        for language in ("", "/sw", "/th")
    }
    for record in analysis["records"]:
        language = f"/{record['language']}" if record["language"] else ""
        name = f"eval_crosslingual/layer_{record['layer']}/{record['measure']}{language}"
        assert logged[name] == pytest.approx(record["value"], abs=1e-12)


def test_scores_choose_the_best_model(tmp_path, monkeypatch):
    config = {
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_crosslingual/accuracy/sw",
    }
    trainer = make_trainer("solar", tmp_path, config=config)
    callback = add_callback(trainer, texts=None)
    values = iter([0.7, 0.2])
    monkeypatch.setattr(callback, "compute", lambda: {"accuracy/sw": next(values)})
    trainer.train()
    assert trainer.state.best_metric == 0.7 and trainer.state.best_global_step == 2


def test_several_evaluation_sets_are_evaluated_once(tmp_path):
    sets = {name: Dataset.from_list(token_rows(SPEC, seed=seed)) for seed, name in enumerate(("near", "far"))}
    trainer = make_trainer("sft", tmp_path, eval_dataset=sets)
    add_callback(trainer, texts=None)
    metrics = trainer.evaluate()
    assert "eval_near_loss" in metrics and "eval_far_loss" in metrics
    assert "eval_crosslingual/accuracy/sw" in metrics
    assert sum(bool(cross_lingual(log)) for log in trainer.state.log_history) == 1
    # Asked for again at the same step, as after the best model was loaded, it is computed again
    assert cross_lingual(trainer.evaluate(sets["far"])) == cross_lingual(metrics)
    other = trainer.evaluate(sets["far"], metric_key_prefix="test")
    assert "test_crosslingual/accuracy/sw" in other and "eval_crosslingual/accuracy/sw" not in other


def test_modes_come_back_and_no_logits_are_kept(tmp_path):
    trainer = make_trainer("solar", tmp_path)
    callback = add_callback(trainer, batch_size=3)
    trainer.model.train()
    trainer.model.model.layers[0].eval()  # as frozen parts are
    modes = {name: module.training for name, module in trainer.model.named_modules()}
    sizes = []
    hook = trainer.model.lm_head.register_forward_hook(lambda module, args, output: sizes.append(output.numel()))
    callback.compute()
    hook.remove()
    assert {name: module.training for name, module in trainer.model.named_modules()} == modes
    assert max(sizes) == 3 * trainer.model.config.vocab_size  # one position of each of a batch


@pytest.mark.parametrize(
    "change, message",
    [
        ({"benchmark": None, "texts": None}, "nothing to evaluate"),
        ({"languages": ["en", "xx"]}, r"no \['xx'\]"),
        ({"languages": ["sw", "th"]}, "no row in the pivot language 'en'"),
        ({"pivot_language": "de"}, "no row in the pivot language 'de'"),
        ({"texts": TEXTS.filter(lambda row: row["language"] != "en")}, "no row in the pivot language 'en'"),
        ({"texts": TEXTS.map(lambda row, i: {"parallel_id": i}, with_indices=True)}, "no item both in 'en' and"),
        ({"texts": TEXTS.remove_columns("parallel_id")}, "no column 'parallel_id'"),
        ({"layers": [7]}, "no layer 7"),
        ({"num_shots": 2}, "exemplars"),
    ],
)  # fmt: skip
def test_bad_input_shows_at_once(change, message, tmp_path):
    trainer = make_trainer("sft", tmp_path)
    with pytest.raises(ValueError, match=message):
        add_callback(trainer, **change)
    with pytest.raises(TypeError, match="must be a Dataset, got list"):
        add_callback(trainer, texts=TEXTS.to_list())


def test_models_without_a_chat_template(tmp_path):
    trainer = make_trainer("sft", tmp_path)
    trainer.processing_class.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        add_callback(trainer, chat=True)
    callback = add_callback(trainer, texts=None)
    assert isinstance(callback.prompts[0], str) and callback.generation["stop"]
    assert "eval_crosslingual/macro_accuracy" in trainer.evaluate()


def test_empty_responses_are_counted(tmp_path, monkeypatch, caplog):
    trainer = make_trainer("sft", tmp_path)
    add_callback(trainer, texts=None)
    empty = solar_trl.evaluation.Response("", 0, True)
    monkeypatch.setattr(
        solar_trl.callbacks, "generate_responses", lambda model, tok, prompts, **_: [[empty]] * len(prompts)
    )
    metrics = trainer.evaluate()
    assert metrics["eval_crosslingual/empty"] == len(BENCHMARK) and metrics["eval_crosslingual/accuracy"] == 0
    assert f"{len(BENCHMARK)} empty" in caplog.text
    assert "eval_crosslingual/co" not in metrics  # undefined while nothing is right


def test_sharded_models_are_refused(tmp_path, monkeypatch):
    trainer = make_trainer("sft", tmp_path)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match=r"sharded \(FSDP\).*solar-trl evaluate"):
        add_callback(trainer)


def run_ranks(options, ranks, tmp_path):
    out = tmp_path / f"ranks{ranks}.pt"
    worker = [str(Path(__file__).parent / "callback_worker.py"), json.dumps(options), str(out)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CI": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, *worker]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result = torch.load(out, weights_only=False)
    assert result["world_size"] == ranks
    return result["ranks"]


@pytest.mark.distributed
def test_two_ranks_share_the_work_and_stop_together(tmp_path):
    # One item in three languages: 2 rows and 1. At the second evaluation, rank 1 fails.
    (failed, first), (own, second) = run_ranks({"limit": 1, "fail_on": 1}, 2, tmp_path)
    assert failed == (
        "RuntimeError(\"Cross-lingual evaluation failed on another process: ValueError('out of luck')\")"
    )
    assert own == "ValueError('out of luck')"
    assert first == second and len(first) == 1  # the same on both ranks
    callback_worker.main({"limit": 1}, str(tmp_path / "alone.pt"))
    alone = torch.load(tmp_path / "alone.pt", weights_only=False)
    assert alone["world_size"] == 1
    ((failed, expected),) = alone["ranks"]
    assert failed is None and len(expected) == 2
    assert list(first[0]) == list(expected[0]) and len(first[0]) > 30
    assert first[0] == pytest.approx(expected[0], abs=1e-5)
