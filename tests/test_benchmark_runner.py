"""The runner of the benchmark: settings, arms, runs, statistics and the report, on models trained for a few steps."""

import itertools
import json
import lzma
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from solar_trl.benchmark import placebo, results, runner, worker
from solar_trl.benchmark.__main__ import main
from solar_trl.benchmark.arms import ARMS, change_arm, file_name, parse_arm
from solar_trl.benchmark.clones import clone_text
from solar_trl.benchmark.contrasts import (
    Contrast,
    compare,
    correct_family,
    hierarchical_bootstrap,
    item_values,
    ratio_of_means,
)
from solar_trl.benchmark.criteria import criteria
from solar_trl.benchmark.measures import area_under_curve, fidelity, language_words, likelihood, measure
from solar_trl.benchmark.models import build_model, load_weights, save_weights
from solar_trl.benchmark.report import write_report
from solar_trl.benchmark.report_tables import ArmResults, levels_table, to_markdown
from solar_trl.benchmark.results import Run, read_json, read_results, write_json
from solar_trl.benchmark.runner import check_batches, run_all
from solar_trl.benchmark.settings import ModelSettings, Settings, data_version, digest, parse_seeds
from solar_trl.benchmark.training import arm_trainer, held_out_rows, train, training_rows, unsolved_rows
from solar_trl.benchmark.tuning import apply_tuned, candidates, on_edge, successive_halving, write_tuned


ROOT = Path(__file__).parents[1]
CHANGES = [
    "data.high=de", "data.low=sw,th", "data.n_high=16", "data.n_low=8", "base.steps=3", "base.batch_size=4",
    "training.steps=6", "training.batch_size=6", "training.warmup_steps=1", "evaluation.items=4",
    "evaluation.curve_items=2", "evaluation.curve_points=2",
]  # fmt: skip
TINY = Settings().override(CHANGES)
FLAGS = [part for change in CHANGES for part in ("--set", change)]


def fake_result(arm, seed, accuracy, control="sft", pivot=None, silhouette=0.4, **identity):
    """A result with given low-resource values per item (one low-resource language)."""
    accuracy = [float(value) for value in accuracy]
    pivot = [1.0] * len(accuracy) if pivot is None else pivot
    items = {"sw": accuracy, "en": pivot, "de": pivot}
    layers = {name: {"all": [0.1, 0.2, value]} for name, value in (("silhouette", silhouette), ("retrieval", 0.5))}
    layers |= {name: {"all": [0.1, 0.2, 0.3]} for name in ("difference", "centered_matched", "mexa")}
    conditions = {
        "data": {"high": ["de"], "low": ["sw"], "n_high": 10, "n_low": 5},
        "model": {"size": "tiny", "architecture": "llama", "tied": True},
        "training": {"steps": 6},
        "device": "cpu",
    }
    return {
        "arm": {"name": arm, "control": control},
        "seed": seed,
        "purpose": "reported" if seed >= 100 else "tuning",
        "identity": {"conditions": conditions, "arm": {"of": arm.split("[")[0], **identity}, "seed": seed},
        "parameters": 400_000,
        "versions": {},
        "cpu_seconds": {"training": 1.0},
        "measures": {
            "items": {"accuracy": items, "nll": items, "area": items},
            "languages": {
                "agreement_with_pivot": dict.fromkeys(items, 0.5),
                "fidelity": dict.fromkeys(items, 1.0),
            },
            "layers": layers,
            "curve": {"steps": [0, 6], "accuracy": {name: [0.0, 0.5] for name in items}},
        },
    }


# Settings, seeds and arms


def test_settings_are_overridden_together_and_by_type():
    changed = Settings().override(["data.n_high=20", "data.n_low=5", "model.tied=false", "data.low=sw,en-x1"])
    assert changed.data.n_high == 20 and changed.model.tied is False
    assert changed.data.languages == ("en", "de", "es", "zh", "sw", "en-x1")
    assert changed.base == Settings().base
    cloned = changed.override(["training.clone_alignment=0.6"])
    assert cloned.training.clone_alignment == 0.6
    assert cloned.override(["training.clone_alignment=none"]) == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.colour=3", "is no setting"),
        ("steps=3", "is no setting"),
        ("data.n_high=many", "`data.n_high` is 'many'"),
        ("data.low=", "`data.low` is empty"),
        ("data.low=sw,fr", "no language 'fr'"),
        ("data.n_low=5000", "above `data.n_high`"),
        ("training.steps=0", "`training.steps` is 0"),
        ("base.story_share=2", "`base.story_share` is 2.0"),
        ("training.clone_alignment=0.5", "no language of `data` is a clone"),
        ("model.tied=maybe", "`model.tied` is 'maybe'"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Settings().override([change])


def test_tuning_and_reported_seeds_cannot_be_mixed():
    assert parse_seeds("100-102,140", "reported") == [100, 101, 102, 140]
    assert parse_seeds("0-2,1", "tuning") == [0, 1, 2]
    with pytest.raises(ValueError, match="Seeds 98, 99 are not for reported runs"):
        parse_seeds("98-101", "reported")
    with pytest.raises(ValueError, match="Seeds 100 are not for tuning runs"):
        parse_seeds("9,100", "tuning")
    for text in ("", "a", "3-"):
        with pytest.raises(ValueError, match="expected numbers and ranges"):
            parse_seeds(text + "x", "tuning")
    with pytest.raises(ValueError, match="is empty"):
        parse_seeds("5-3", "tuning")


def test_every_arm_is_there_with_its_control():
    for name, arm in ARMS.items():
        assert arm.name == name
        if arm.control not in (None, "base"):
            control = ARMS[arm.control]
            # What is compared differs in the objective alone
            assert (control.order, control.peft, control.trainer) == (arm.order, arm.peft, "sft")
    assert {"solar", "hard_token", "mid_align", "placebo", "weight_0", "centroid", "answer_kl"} <= set(ARMS)


def test_arms_are_parsed_with_changes():
    arm = parse_arm('mid_align:alignment_weight=0.5,alignment_kwargs={"layers": [0.5, -1], "positions": "all"}')
    assert arm.config["alignment_kwargs"] == {"layers": [0.5, -1], "positions": "all"}
    assert arm.config["alignment_objective"] == "mid_align" and arm.control == "sft"
    assert arm.name.startswith("mid_align[alignment_kwargs=") and "/" not in file_name(arm.name)
    assert parse_arm("solar:name=mine,order=random,peft=none").name == "mine"
    assert change_arm(parse_arm("sft:learning_rate=0.1"), {"weight_decay": 0.1}).name == (
        "sft[learning_rate=0.1,weight_decay=0.1]"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lunar", "There is no arm 'lunar'"),
        ("solar:alignment_weight", "is no change of an arm"),
        ("solar:alignment_weigth=3", "no field 'alignment_weigth'"),
        ("solar:alignment_weight=-1", "`alignment_weight` is -1.0"),
        ("solar:alignment_schedule=up", "`alignment_schedule` is 'up'"),
        ("solar:order=sorted", "`order` of an arm is 'sorted'"),
        ("solar:seed=3", "`seed` is the same for all arms"),
        ("solar:pivot_batching=random", "follows from `order`"),
        ("sft:alignment_weight=1", "no field 'alignment_weight'"),
        ("sft:pairs=shuffled", "nothing to shuffle"),
        ("solar:unsolved=many", "`unsolved` of an arm is 'many'"),
        ("solar:unsolved=-1", "`unsolved` of an arm is -1"),
        ("sft:unsolved=5", "needs SolarSFTTrainer"),
        ("placebo:unsolved=5", "needs SolarSFTTrainer"),
        ("solar_grouped:unsolved=5", "needs SolarSFTTrainer"),
        ("base:learning_rate=1", "nothing to change"),
    ],
)
def test_wrong_arms_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_arm(text)


def test_identity_is_that_of_settings_and_not_of_names():
    run = Run(ARMS["solar"], 100, TINY)
    key = digest(run.identity())
    assert digest(Run(replace(ARMS["solar"], name="x", control=None), 100, TINY).identity()) == key
    # Speed is no setting; whatever changes the numbers is
    assert digest(Run(ARMS["solar"], 100, TINY.override(["evaluation.batch_size=7"])).identity()) == key
    rate = ARMS["solar"].learning_rate(TINY)
    assert digest(Run(parse_arm(f"solar:learning_rate={rate}"), 100, TINY).identity()) == key
    others = [
        Run(ARMS["solar"], 101, TINY),
        Run(ARMS["solar_grouped"], 100, TINY),
        Run(parse_arm("solar:alignment_weight=0.5"), 100, TINY),
        Run(parse_arm("solar:unsolved=5"), 100, TINY),
        Run(ARMS["solar"], 100, TINY.override(["training.steps=7"])),
        Run(ARMS["solar"], 100, replace(TINY, device="cuda")),
    ]
    assert len({key, *(digest(other.identity()) for other in others)}) == len(others) + 1
    # The same through JSON, as results are read
    assert digest(json.loads(json.dumps(run.identity()))) == key


def test_identity_follows_the_presets_and_the_words(monkeypatch):
    from solar_trl.benchmark import settings
    from solar_trl.objectives import OBJECTIVES

    run = Run(ARMS["hard_token"], 100, TINY)
    key = digest(run.identity())
    monkeypatch.setitem(OBJECTIVES, "hard_token", replace(OBJECTIVES["hard_token"], description="other words"))
    assert digest(run.identity()) == key
    monkeypatch.setitem(OBJECTIVES, "hard_token", OBJECTIVES["hard_token"].override({"distance": "mse"}))
    assert digest(run.identity()) != key
    before = data_version(TINY.data)
    data_version.cache_clear()
    real = settings.load_parallel_arithmetic

    def other_words(*args, **kwargs):
        return real(*args, **kwargs).map(lambda row: {"prompt": row["prompt"].replace("has", "holds")})

    monkeypatch.setattr(settings, "load_parallel_arithmetic", other_words)
    assert data_version(TINY.data) != before
    data_version.cache_clear()


# Data of a run


def calculations(rows):
    """What is computed in each English solution, without the words."""
    return {
        tuple(part for part in row["completion"].split() if part.strip(".").isdigit() or part in "+-=")
        for row in rows
        if row["language"] == "en"
    }


def test_held_out_items_are_in_no_training_set():
    data = Settings().data
    train_rows = calculations(training_rows(data, 100))
    test, validation = (calculations(held_out_rows(data, split, 100, 100)) for split in ("test", "validation"))
    assert len(train_rows) > 100 and len(test) > 50 and len(validation) > 20
    assert not train_rows & test and not train_rows & validation and not test & validation
    # Of other seeds neither
    assert not calculations(training_rows(data, 0)) & test
    run = Run(ARMS["sft"], 3, Settings())
    assert run.split == "validation" and Run(ARMS["sft"], 103, Settings()).split == "test"
    curve = worker._Curve(run, worker.tokenizer_of(data))
    final = held_out_rows(data, run.split, 100, 3)
    assert not set(curve.rows["prompt"]) & set(final["prompt"])
    assert set(curve.rows["language"]) == set(data.languages) and len(curve.rows) == 25 * len(data.languages)


def test_low_resource_languages_have_few_rows():
    languages = training_rows(TINY.data, 0)["language"][:]
    assert {name: languages.count(name) for name in TINY.data.languages} == {"en": 16, "de": 16, "sw": 8, "th": 8}


# Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of several arms on two reported seeds."""
    path = tmp_path_factory.mktemp("benchmark")
    names = ("base", "sft", "weight_0", "sft_grouped", "solar", "placebo", "solar_lora")
    runs = [Run(ARMS[name], seed, TINY) for seed in (100, 101) for name in names]
    outcome = run_all(runs, path, states_of=100, progress=False)
    assert (outcome.done, outcome.skipped, outcome.left) == (len(runs), 0, 0)
    return path


def result_of(folder, name, seed=100):
    return read_json(Run(ARMS[name], seed, TINY).path(folder))


def test_weight_0_is_sft_bit_for_bit(folder):
    sft, off = result_of(folder, "sft"), result_of(folder, "weight_0")
    assert sft["measures"] == off["measures"]
    assert [entry["loss"] for entry in sft["training"]["logs"] if "loss" in entry] == [
        entry["loss"] for entry in off["training"]["logs"] if "loss" in entry
    ]
    assert sft["training"]["batches"] == off["training"]["batches"]
    # And alignment does something, or this would say nothing
    assert result_of(folder, "solar")["measures"]["items"]["nll"] != sft["measures"]["items"]["nll"]


def test_arms_of_one_order_see_the_same_batches(folder):
    batches = {name: result_of(folder, name)["training"]["batches"] for name in ARMS if name in (
        "sft", "sft_grouped", "solar", "placebo", "solar_lora",
    )}  # fmt: skip
    assert batches["sft"] == batches["solar"] == batches["placebo"] == batches["solar_lora"]
    assert batches["sft"] != batches["sft_grouped"]
    assert batches["solar"] != result_of(folder, "solar", 101)["training"]["batches"]
    run_all([Run(ARMS[name], 100, TINY) for name in batches], folder, progress=False)


def test_the_order_holds_over_epochs(tmp_path):
    settings = TINY.override(["training.steps=20"])  # 8 steps are an epoch
    assert len(training_rows(settings.data, 100)) == 48
    tokenizer = worker.tokenizer_of(settings.data)
    seen = {}
    arms = {name: ARMS[name] for name in ("sft_grouped", "solar_grouped")}
    arms["placebo"] = change_arm(ARMS["placebo"], {"order": "grouped"})
    for name, arm in arms.items():
        model = build_model(settings.model, tokenizer, 0)
        trainer = arm_trainer(arm, model, tokenizer, settings, 100, str(tmp_path))
        rows, collate = [], trainer.data_collator
        trainer.data_collator = lambda examples, collate=collate, rows=rows: (
            rows.append([example["input_ids"] for example in examples]) or collate(examples)
        )
        digests = []
        train(trainer, lambda step, digests=digests, trainer=trainer: digests.append(trainer.batches))
        assert len(set(digests)) == 1 + settings.training.steps  # each batch counts
        seen[name] = trainer.batches, rows[:20]
    assert seen["sft_grouped"] == seen["solar_grouped"] == seen["placebo"]
    assert len(set(map(str, seen["solar_grouped"][1]))) == 20  # each epoch in an order of its own


def test_different_batches_are_found(folder, tmp_path):
    runs = [Run(ARMS[name], 100, TINY) for name in ("sft", "solar")]
    for run in runs:
        write_json(run.path(tmp_path), read_json(run.path(folder)))
    check_batches(tmp_path, runs)
    changed = read_json(runs[1].path(tmp_path))
    changed["training"]["batches"] = "other"
    write_json(runs[1].path(tmp_path), changed)
    with pytest.raises(RuntimeError, match=r"'solar' and 'sft'.*the comparison is void"):
        check_batches(tmp_path, runs)


def test_unsolved_problems_are_aligned_and_not_trained_on(folder):
    rows, trained = unsolved_rows(TINY.data, 4, 100), training_rows(TINY.data, 100)
    assert Counter(rows["language"]) == {"en": 4, "sw": 4, "th": 4}
    assert not set(rows["text"]) & set(trained["prompt"]) and not set(rows["parallel_id"]) & set(
        trained["parallel_id"]
    )
    run = Run(parse_arm("solar:unsolved=4,alignment_weight=3"), 100, TINY)
    worker.make_run(run, folder)
    found, sft = json.loads(run.path(folder).read_text()), result_of(folder, "sft")
    assert found["training"]["batches"] == sft["training"]["batches"]
    assert found["measures"]["items"]["nll"] != sft["measures"]["items"]["nll"]
    logs = [entry for entry in found["training"]["logs"] if "alignment_loss" in entry]
    # A pair that two rows of a batch draw is aligned once
    assert logs and all(0 < entry["aligned_pairs"] <= TINY.training.batch_size for entry in logs)
    run.path(folder).unlink()


def test_placebo_pulls_as_strongly_as_solar_and_on_other_pairs(folder, tmp_path):
    run = Run(ARMS["placebo"], 100, TINY)
    tokenizer = worker.tokenizer_of(TINY.data)
    weight = result_of(folder, "placebo")["training"]["matched_weight"]
    norms = {}
    for pairs in ("true", "shuffled"):
        arm = replace(ARMS["solar"], pairs=pairs, order="random")
        norms[pairs], unscaled = placebo.gradient_norm(
            arm, run, worker.load_base(run, folder), tokenizer, str(tmp_path)
        )
    assert norms["true"] != norms["shuffled"]
    assert weight * norms["shuffled"] == pytest.approx(unscaled * norms["true"], rel=1e-6)
    from solar_trl.data import find_pivots
    from solar_trl.data.recipes import shuffle_parallels

    rows = training_rows(TINY.data, 100)
    true, shuffled = find_pivots(rows), find_pivots(shuffle_parallels(rows, seed=100))
    assert ((true >= 0) == (shuffled >= 0)).all() and not (true[true >= 0] == shuffled[true >= 0]).any()


def test_gradient_norm_is_that_of_the_term_alone(folder, tmp_path):
    """Against the gradient of the distances themselves, computed without the trainer."""
    from solar_trl.objectives import alignment_loss, soft_token_summary

    settings = TINY.override(["training.batch_size=64"])  # the whole set in a batch
    run = Run(ARMS["solar"], 100, settings)
    tokenizer = worker.tokenizer_of(settings.data)
    model = worker.load_base(run, folder)
    found, _ = placebo.gradient_norm(run.arm, run, model, tokenizer, str(tmp_path))
    model = worker.load_base(run, folder)
    rows = training_rows(settings.data, 100)
    summaries = {}
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([prompt + tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id]])
        logits = model(input_ids=ids).logits
        mask = (torch.arange(ids.size(1)) >= len(prompt) - 1)[None] & (torch.arange(ids.size(1)) < ids.size(1) - 1)
        key = row["language"], row["parallel_id"]
        summaries[key] = soft_token_summary(logits, model.get_input_embeddings().weight, mask)[0]
    pairs = [key for key in summaries if key[0] != "en"]
    aligned = torch.stack([summaries[key] for key in pairs])
    pivots = torch.stack([summaries["en", item] for _, item in pairs]).detach()
    alignment_loss(aligned, pivots).backward()
    norm = torch.stack([p.grad.double().square().sum() for p in model.parameters()]).sum().sqrt().item()
    assert found == pytest.approx(norm, rel=1e-3)


def test_lora_trains_adapters_alone(folder):
    solar, lora = result_of(folder, "solar"), result_of(folder, "solar_lora")
    assert solar["trainable_parameters"] == solar["parameters"]
    assert 0 < lora["trainable_parameters"] < 0.5 * lora["parameters"]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("peft", ["lora", "lora_embeddings", "lora_saved_embeddings"])
def test_which_weights_lora_moves(peft, tied, tmp_path):
    settings = TINY.override([f"model.tied={str(tied).lower()}", "training.steps=2"])
    tokenizer = worker.tokenizer_of(settings.data)
    model = build_model(settings.model, tokenizer, 0)
    before = model.get_input_embeddings().weight.detach().clone()
    trainer = arm_trainer(replace(ARMS["solar"], peft=peft), model, tokenizer, settings, 100, str(tmp_path))
    moving = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("q_proj" in name for name in moving)
    assert any("embed_tokens" in name for name in moving) == (peft != "lora")
    train(trainer)
    if peft == "lora":
        assert torch.equal(trainer.model.get_input_embeddings().weight, before)


def test_results_hold_every_measure(folder):
    base, solar = result_of(folder, "base"), result_of(folder, "solar")
    measures = solar["measures"]
    assert set(measures["items"]) == {"accuracy", "nll", "area"} and set(base["measures"]["items"]) == {
        "accuracy",
        "nll",
    }
    for outcome, number in (("accuracy", 4), ("nll", 4), ("area", 2)):
        assert {name: len(values) for name, values in measures["items"][outcome].items()} == dict.fromkeys(
            TINY.data.languages, number
        )
    assert set(measures["languages"]) == {"agreement_with_pivot", "fidelity"}
    assert {"consistency", "clc", "co"} <= set(measures["consistency"])
    assert {"difference", "centered_matched", "retrieval", "mexa", "silhouette"} <= set(measures["layers"])
    assert len(measures["layers"]["silhouette"]["all"]) == 4  # embeddings and three blocks
    assert measures["curve"]["steps"] == [0, 3, 6] and set(solar["cpu_seconds"]) >= {"training", "curve", "measures"}
    # What is trained may be in the logs, but never among the measures
    assert "soft" not in json.dumps(measures["layers"]) and "pivot_similarity" not in json.dumps(measures["layers"])
    with np.load(Run(ARMS["solar"], 100, TINY).path(folder).with_suffix(".npz")) as arrays:
        assert arrays["states"].shape == (16, 96) and len(arrays["languages"]) == 16
    assert not Run(ARMS["solar"], 101, TINY).path(folder).with_suffix(".npz").exists()


def test_what_is_done_is_skipped_and_the_rest_goes_on(folder, monkeypatch):
    made = []
    monkeypatch.setattr(runner, "make_base", lambda run, folder: made.append("base") or 0.0)
    monkeypatch.setattr(runner, "make_run", lambda run, *rest: made.append((run.arm.name, run.seed)) or 0.0)
    runs = [Run(ARMS[name], seed, TINY) for seed in (100, 102) for name in ("sft", "solar")]
    outcome = run_all(runs, folder, progress=False)
    assert made == ["base", ("sft", 102), ("solar", 102)]
    assert (outcome.done, outcome.skipped, outcome.left) == (2, 2, 0)


def test_resumed_runs_equal_straight_ones(folder, tmp_path):
    """In other processes, one arm at a time, with the base made anew."""
    runs = [Run(ARMS[name], 100, TINY) for name in ("solar", "sft_grouped")]
    run_all(runs, tmp_path, workers=2, progress=False)
    for run in runs:
        straight, resumed = read_json(run.path(folder)), read_json(run.path(tmp_path))
        assert straight["measures"] == resumed["measures"] and straight["identity"] == resumed["identity"]


def test_no_run_is_started_that_would_end_too_late(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock[0])
    made = []

    def make(kind, seconds):
        def pretend(run, *rest):
            clock[0] += seconds
            made.append(kind)
            return seconds

        return pretend

    monkeypatch.setattr(runner, "make_base", make("base", 60))
    monkeypatch.setattr(runner, "make_run", make("run", 100))
    runs = [Run(ARMS["sft"], seed, TINY) for seed in range(100, 110)]
    outcome = run_all(runs, tmp_path, max_minutes=9, progress=False)
    assert (outcome.done, outcome.left) == (3, 7) and clock[0] <= 540
    assert outcome.done == made.count("run")


def test_a_failed_run_is_named_and_others_stay(folder, monkeypatch):
    def fail(run, *rest):
        raise ValueError("out of cheese")

    monkeypatch.setattr(runner, "make_run", fail)
    before = sorted(folder.rglob("*.json"))
    with pytest.raises(RuntimeError, match="base, seed 104 failed: ValueError: out of cheese"):
        run_all([Run(ARMS["base"], 104, TINY)], folder, progress=False)
    assert sorted(folder.rglob("*.json")) == before


def test_two_runs_that_are_the_same_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Two runs are the same"):
        run_all([Run(ARMS["sft"], 100, TINY)] * 2, tmp_path)
    for options, message in (({"workers": 0}, "`workers` is 0"), ({"max_minutes": 0}, "`max_minutes` is 0")):
        with pytest.raises(ValueError, match=message):
            run_all([Run(ARMS["sft"], 100, TINY)], tmp_path, **options)


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a" / "result.json"
    write_json(path, {"value": 1, "undefined": float("nan")})
    assert read_json(path) == {"value": 1, "undefined": None}

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("solar_trl._files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"value": 2})
    assert read_json(path)["value"] == 1 and [file.name for file in path.parent.iterdir()] == ["result.json"]
    path.write_text('{"value"')
    with pytest.raises(ValueError, match=r"is not JSON.*Delete it"):
        read_json(path)


def test_weights_survive_the_file(tmp_path):
    tokenizer = worker.tokenizer_of(TINY.data)
    for tied in (True, False):
        settings = ModelSettings(tied=tied)
        model, other = build_model(settings, tokenizer, 0), build_model(settings, tokenizer, 1)
        save_weights(model, tmp_path / "base.safetensors")
        load_weights(other, tmp_path / "base.safetensors")
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])
    with pytest.raises(ValueError, match="do not fit the model"):
        load_weights(
            build_model(ModelSettings(tied=True, architecture="qwen2"), tokenizer, 0), tmp_path / "base.safetensors"
        )


@pytest.mark.parametrize(("size", "millions"), [("tiny", 0.37), ("small", 2.7)])
def test_sizes(size, millions):
    settings = Settings().override([f"model.size={size}"])
    model = build_model(settings.model, worker.tokenizer_of(settings.data), 0)
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.1)
    with pytest.raises(ValueError, match=r"`model\.size` is 'huge'"):
        build_model(ModelSettings(size="huge"), worker.tokenizer_of(settings.data), 0)
    with pytest.raises(ValueError, match=r"`model\.architecture` is 'rnn'"):
        build_model(ModelSettings(architecture="rnn"), worker.tokenizer_of(settings.data), 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_whole_files_and_no_process(tmp_path):
    command = [
        sys.executable,
        "-m",
        "solar_trl.benchmark",
        "run",
        "--arm",
        "sft",
        "--seeds",
        "100-140",
        "--workers",
        "2",
    ]
    command += ["--output-dir", str(tmp_path), "--no-progress", *FLAGS]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 280
    while not list(tmp_path.glob("reported/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    files = list(tmp_path.glob("reported/*.json"))
    assert 0 < len(files) < 41
    for file in files:
        assert read_json(file)["measures"]
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_a_dead_process_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    class Dies:
        name = "sft, seed 100"

        def __call__(self):
            os._exit(1)

    monkeypatch.setattr(sys.modules[__name__], "Dies", Dies, raising=False)
    children = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="A process died"), runner._pool(2, "cpu") as submit:
        future = submit(_dies)
        runner._check(future, Dies())
    deadline = time.monotonic() + 30
    while set(multiprocessing.active_children()) - children and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(multiprocessing.active_children()) - children


def _dies():
    os._exit(1)


# Measures


def test_likelihood_is_that_of_the_model(folder):
    run = Run(ARMS["base"], 100, TINY)
    tokenizer, model = worker.tokenizer_of(TINY.data), worker.load_base(run, folder)
    rows = held_out_rows(TINY.data, "test", 4, 100)
    found = likelihood(model, tokenizer, rows, batch_size=3)
    for row, value in zip(rows, found, strict=True):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([prompt + tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id]])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        gold = log_probs[torch.arange(len(ids[0]) - 1), ids[0, 1:]][len(prompt) - 1 :]
        assert value == pytest.approx(-gold.mean().item(), rel=1e-4)


def test_a_patched_model_is_measured_as_an_untouched_one(tmp_path):
    tokenizer = worker.tokenizer_of(TINY.data)
    model = build_model(TINY.model, tokenizer, 0)
    train(arm_trainer(ARMS["solar"], model, tokenizer, TINY, 100, str(tmp_path)))
    untouched = build_model(TINY.model, tokenizer, 1)
    untouched.load_state_dict(model.state_dict())
    rows = held_out_rows(TINY.data, "test", 4, 100)
    # As text: an undefined score equals itself there
    one, other = (json.dumps(measure(each, tokenizer, rows, 64)[0]) for each in (model, untouched))
    assert one == other


def test_fidelity_counts_words_of_the_language():
    words = language_words("sw")
    assert "ana" in words and "has" not in words and not any(word.isdigit() for word in words)
    clone = clone_text("Anna has 3 eggs.", "en-x1")
    texts = ["Anna ana viti 12.", "Anna has 12 viti.", "12 + 3 = 15.", clone, ""]
    found = fidelity(texts, ["sw", "sw", "th", "en-x1", "de"])
    # Names are shared: 3 of 3 words, then 2 of 3
    assert found == {"sw": pytest.approx(5 / 6, abs=1e-5), "th": None, "en-x1": 1.0, "de": None}


def test_area_under_the_curve():
    # Two items at 0, 1/4 and 1: the first right from 1/4 on, the second at the end only
    assert area_under_curve([[0, 0], [1, 0], [1, 1]], [0, 0.25, 1]) == [0.875, 0.375]


# Statistics


def test_bootstrap_against_all_resamples():
    """Two bases of two items each: all equally likely resamples listed, and their quantiles and spread."""
    differences = [np.array([0.0, 1.0]), np.array([3.0, 8.0])]
    every = []
    for bases in itertools.product(range(2), repeat=2):
        for items in itertools.product(itertools.product(range(2), repeat=2), repeat=2):
            every.append(
                np.mean([differences[b][list(chosen)].mean() for b, chosen in zip(bases, items, strict=True)])
            )
    assert len(every) == 64
    for confidence in (0.6, 0.8, 0.95):  # whose ends lie inside a step of the distribution
        found = hierarchical_bootstrap(differences, confidence, resamples=200_000)
        assert found.value == 3.0
        ends = np.quantile(every, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
        assert [found.low, found.high] == pytest.approx(ends.tolist(), abs=1e-9)


def test_bootstrap_spread_has_both_parts():
    rng = np.random.default_rng(1)
    differences = [rng.normal(rng.normal(0, 0.5), 1.0, size=20) for _ in range(12)]
    means = [values.mean() for values in differences]
    within = np.mean([values.var() for values in differences]) / 20
    sd = np.sqrt((np.var(means) + within) / 12)
    found = hierarchical_bootstrap(differences, resamples=40_000)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(sd, rel=0.03)
    # Without items only the bases are resampled, and that is narrower
    bases_only = hierarchical_bootstrap([np.array([mean]) for mean in means], resamples=40_000)
    assert (bases_only.high - bases_only.low) / (2 * 1.96) == pytest.approx(np.sqrt(np.var(means) / 12), rel=0.03)


def test_bootstrap_of_bases_of_different_sizes_and_of_one():
    found = hierarchical_bootstrap([np.array([1.0]), np.array([0.0, 0.0, 3.0])])
    assert found.value == 1.0 and found.low < 1 < found.high
    alone = hierarchical_bootstrap([np.array([1.0, 2.0])])
    assert alone.value == 1.5 and np.isnan(alone.low) and np.isnan(alone.high)
    for wrong in ([], [np.array([])]):
        with pytest.raises(ValueError, match="no differences to resample"):
            hierarchical_bootstrap(wrong)
    with pytest.raises(ValueError, match="`confidence` is 1"):
        hierarchical_bootstrap([np.array([1.0])], confidence=1)
    with pytest.raises(ValueError, match="`resamples` is 0"):
        hierarchical_bootstrap([np.array([1.0])], resamples=0)


def test_ratio_of_means_against_resampling_by_hand():
    one, other = [0.1, 0.3, 0.2], [0.4, 0.5, 0.3]
    every = [
        sum(one[i] for i in chosen) / sum(other[i] for i in chosen) for chosen in itertools.product(range(3), repeat=3)
    ]
    found = ratio_of_means(one, other, confidence=0.8, resamples=200_000)
    assert found.value == pytest.approx(0.5)
    assert [found.low, found.high] == pytest.approx(np.quantile(every, [0.1, 0.9]).tolist(), abs=1e-9)


def brute_force_holm(p_values):
    """The smallest level at which Holm's procedure rejects each: by trying levels."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])

    def rejected(level):
        found = set()
        for rank, i in enumerate(order):
            if p_values[i] * (len(p_values) - rank) > level:
                break
            found.add(i)
        return found

    levels = sorted({min(1.0, p * k) for p in p_values for k in range(1, len(p_values) + 1)} | {1.0})
    return [next((level for level in levels if i in rejected(level)), 1.0) for i in range(len(p_values))]


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.5, 0.001, 0.02, 0.02, 0.9, 0.0099], [0.7, 0.6]])
def test_holm_over_the_family(p_values):
    contrasts = [
        Contrast("solar", "sft", str(i), "low", 3, 0, 0, 0, 0, 0, p_value=p, wins=0, losses=0)
        for i, p in enumerate(p_values)
    ]
    found = [each.corrected for each in correct_family(contrasts)]
    assert found == pytest.approx(brute_force_holm(p_values))


def test_contrasts_pair_seeds():
    control = [fake_result("sft", seed, [0, 1, 0, 1], control="base") for seed in (100, 101, 103)]
    arm = [
        fake_result("solar", 101, [1, 1, 0, 1]),
        fake_result("solar", 103, [0, 0, 0, 0]),
        fake_result("solar", 107, [1] * 4),
    ]
    found = compare(arm, control, "accuracy")
    assert (found.seeds, found.wins, found.losses) == (2, 1, 1)
    assert found.difference == pytest.approx((0.25 - 0.5) / 2)
    assert (found.value, found.reference) == (0.375, 0.5)
    # Two bases with different signs: all four sign vectors are at least as extreme but the two of the smaller sum
    assert found.p_value == 1.0
    assert compare(arm[2:], control, "accuracy") is None
    same = compare(control, control, "accuracy")
    assert (same.wins, same.losses) == (0, 0)
    # A lower NLL is the better one
    for result, nll in ((arm[0], 0.1), (arm[1], 0.2), (control[1], 0.3), (control[2], 0.3)):
        result["measures"]["items"]["nll"] = dict.fromkeys(result["measures"]["items"]["accuracy"], [nll] * 4)
    found = compare(arm[:2], control, "nll")
    assert found.difference == pytest.approx(-0.15) and (found.wins, found.losses) == (2, 0)
    with pytest.raises(ValueError, match="'depth' is not measured"):
        item_values(arm[0], "depth", "low")
    with pytest.raises(ValueError, match="no group or language 'fr'"):
        item_values(arm[0], "accuracy", "fr")


# Tuning


def test_successive_halving_keeps_the_best_third(tmp_path):
    grid = {"learning_rate": [0.1, 0.2, 0.3], "alignment_weight": [1.0, 2.0]}
    true = {(0.2, 2.0): 0.9, (0.3, 2.0): 0.8, (0.1, 1.0): 0.7}
    made = []

    def make(runs):
        for run in runs:
            made.append((run.arm.name, run.seed))
            config = run.arm.config
            accuracy = true.get((config["learning_rate"], config["alignment_weight"]), 0.1)
            if run.seed >= 2 and config["learning_rate"] == 0.2:
                accuracy = 0.2  # good on the first seeds only
            result = fake_result(run.arm.name, run.seed, [accuracy])
            write_json(run.path(tmp_path), result)
        return True

    rungs = successive_halving(ARMS["solar"], grid, range(6), TINY, tmp_path, make, rungs=(2, 4))
    assert [len(rung.scores) for rung in rungs] == [6, 2] and [rung.kept for rung in rungs] == [2, 1]
    assert [list(rung.seeds) for rung in rungs] == [[0, 1], [0, 1, 2, 3]]
    best, value = rungs[-1].scores[0]
    assert best == {"learning_rate": 0.3, "alignment_weight": 2.0} and value == pytest.approx(0.8)
    assert rungs[-1].scores[1][1] == pytest.approx((0.9 * 2 + 0.2 * 2) / 4)
    conditions = Run(ARMS["solar"], 0, TINY).conditions()
    record = write_tuned(tmp_path, ARMS["solar"], grid, rungs, conditions)
    assert record["on_edge"] == ["learning_rate"]
    tuned = apply_tuned(ARMS["solar"], tmp_path, TINY)
    assert tuned.name == "solar" and dict(tuned.config) == best
    # The placebo takes SOLAR's, as its pull must be that of SOLAR; the base has nothing
    assert apply_tuned(ARMS["placebo"], tmp_path, TINY).config["alignment_weight"] == 2.0
    assert apply_tuned(ARMS["base"], tmp_path, TINY) == ARMS["base"]
    with pytest.raises(ValueError, match="'mid_align' was not tuned"):
        apply_tuned(ARMS["mid_align"], tmp_path, TINY)
    with pytest.raises(ValueError, match=r"other conditions \(training differ"):
        apply_tuned(ARMS["solar"], tmp_path, TINY.override(["training.steps=7"]))
    assert successive_halving(ARMS["solar"], grid, range(6), TINY, tmp_path, lambda runs: False, rungs=(2,)) is None


def test_tuning_refuses_reported_seeds_and_odd_rungs(tmp_path):
    def make(runs):
        raise AssertionError("nothing may run")

    options = (ARMS["sft"], {"learning_rate": [0.1]})
    with pytest.raises(ValueError, match="Seeds 100 are not for tuning"):
        successive_halving(*options, [99, 100], TINY, tmp_path, make)
    for rungs in ([], [3, 2], [0, 2]):
        with pytest.raises(ValueError, match="expected rising numbers"):
            successive_halving(*options, range(9), TINY, tmp_path, make, rungs=rungs)
    with pytest.raises(ValueError, match="The last rung needs 8 seeds, there are 2"):
        successive_halving(*options, [0, 1], TINY, tmp_path, make)
    with pytest.raises(ValueError, match="The grid has no values"):
        candidates({"learning_rate": []})
    assert on_edge({"a": [1, 2, 3], "b": [1, 2], "c": ["x", "y", "z"]}, {"a": 2, "b": 1, "c": "x"}) == []


# Report


def write_fakes(folder, fakes):
    for fake in fakes:
        write_json(results.result_path(folder, fake), fake)


def test_report_judges_the_claim(tmp_path):
    rng = np.random.default_rng(0)
    fakes = []
    for seed in range(100, 112):
        sft = rng.integers(0, 2, 50)
        better = np.where(rng.random(50) < 0.3, 1, sft)
        fakes += [
            fake_result("sft", seed, sft, control="base"),
            fake_result("solar", seed, better, silhouette=0.16),
            fake_result("hard_token", seed, better, silhouette=0.35),
            fake_result("mid_align", seed, sft),
        ]
    write_fakes(tmp_path, fakes)
    path = write_report(tmp_path, ["solar"])
    text, record = path.read_text(), read_json(path.with_suffix(".json"))
    (part,) = record["reported"]
    rows = part["tables"][0]["rows"]
    assert [row["met"] for row in rows] == ["yes", "yes", "yes", "yes", "no"]  # a tie with the hard tokens
    assert "silhouette at most 0.5 of the control's" in text and "0.40 [0.40, 0.40]" in text
    solar = [each for each in part["contrasts"] if each["arm"] == "solar"]
    assert [each["outcome"] for each in solar] == ["accuracy", "area", "nll"]
    assert all(each["corrected"] >= each["p_value"] for each in solar)
    assert all(each["corrected"] is None for each in part["contrasts"] if each["arm"] != "solar")
    assert part["seeds"]["solar"] == list(range(100, 112)) and "Seeds 100-111." in text
    assert criteria({"solar": fakes[1::4]}, ["solar"]) is None
    # Arms that are trained in full are no rivals of LoRA
    lora = {
        name: [{**fake, "arm": {**fake["arm"], "control": "sft_lora"}} for fake in fakes[i::4]]
        for i, name in enumerate(("sft_lora", "solar_lora"))
    }
    arms = {**lora, "hard_token": fakes[2::4], "mid_align": fakes[3::4]}
    assert len(criteria(arms, ["solar_lora"]).rows) == 3


def test_report_tells_missing_seeds_and_refuses_mixtures(tmp_path):
    with pytest.raises(ValueError, match="There are no results"):
        write_report(tmp_path)
    fakes = [fake_result("sft", seed, [1, 0], control="base") for seed in (100, 101, 103)]
    fakes += [fake_result("solar", seed, [1, 1]) for seed in (100, 103)]
    write_fakes(tmp_path, [*fakes, fake_result("solar[alignment_weight=3]", 1, [1, 0])])
    text = write_report(tmp_path).read_text()
    assert "Seeds 100-101, 103." in text and "solar lacks seeds 101." in text
    assert "p-values are exploratory" in text
    # Tuning has a part of its own
    reported, tuning = text.split("## Tuning runs")
    assert "alignment_weight=3" in tuning and "alignment_weight=3" not in reported
    with pytest.raises(ValueError, match="There are 4 finalists, the protocol allows 3"):
        write_report(tmp_path, list("abcd"))
    with pytest.raises(ValueError, match="no reported results of the finalists afp"):
        write_report(tmp_path, ["afp"])
    write_fakes(tmp_path, [fake_result("solar", 104, [1, 1], weight=3)])
    with pytest.raises(ValueError, match="different settings under one name"):
        write_report(tmp_path)


def test_a_tuning_seed_among_the_reported_is_refused(tmp_path):
    fake = fake_result("solar", 7, [1, 0])
    write_json(tmp_path / "reported" / "solar-seed7.json", fake)
    with pytest.raises(ValueError, match="Seeds 7 are not for reported runs"):
        read_results(tmp_path, "reported")
    write_json(tmp_path / "reported" / "solar-seed7.json", {"other": 1})
    with pytest.raises(ValueError, match="is not the result of a run"):
        read_results(tmp_path, "reported")


def test_report_and_pictures_of_real_runs(folder, capsys):
    assert main(["report", "--output-dir", str(folder), "--finalists", "solar"]) == 0
    printed = capsys.readouterr().out
    assert "### Paired differences" in printed and "overview.png" in printed
    for name in ("overview.png", "curves.png"):
        header = (folder / name).read_bytes()[:24]
        assert header.startswith(b"\x89PNG") and int.from_bytes(header[16:20], "big") > 800
    record = read_json(folder / "report.json")
    off = [each for each in record["reported"][0]["contrasts"] if each["arm"] == "weight_0"]
    assert len(off) == 3 and all(each["difference"] == 0 for each in off)


def test_packed_results_are_the_same_results(folder, tmp_path, capsys):
    packed, other = tmp_path / "results.jsonl.xz", tmp_path / "other"
    assert main(["pack", str(packed), "--output-dir", str(folder)]) == 0
    first = packed.read_bytes()
    assert main(["unpack", str(packed), "--output-dir", str(other)]) == 0
    assert capsys.readouterr().out.count("14 results") == 2
    assert read_results(other, "reported") == read_results(folder, "reported")
    # What is there is not made again, and not overwritten
    run = Run(ARMS["sft"], 100, TINY)
    assert run_all([run], other, progress=False).skipped == 1
    changed = {**read_json(run.path(other)), "wall_seconds": -1}
    write_json(run.path(other), changed)
    assert main(["unpack", str(packed), "--output-dir", str(other)]) == 0
    assert read_json(run.path(other)) == changed
    assert main(["pack", str(packed), "--output-dir", str(folder)]) == 0 and packed.read_bytes() == first


ELSEWHERE = json.dumps({"arm": {"name": "x"}, "seed": 1, "purpose": "../../out", "identity": {}, "measures": {}})


@pytest.mark.parametrize(
    "content", [b"", b"{}", *map(lzma.compress, (b'{"arm": 1}\n', b"{", ELSEWHERE.encode(), b"\xff"))]
)
def test_what_is_no_packed_file_is_refused(content, tmp_path, capsys):
    path = tmp_path / "results.jsonl.xz"
    path.write_bytes(content)
    assert main(["unpack", str(path), "--output-dir", str(tmp_path / "other")]) == 2
    assert "does not hold packed results" in capsys.readouterr().err
    assert main(["unpack", str(tmp_path / "absent.gz"), "--output-dir", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_markdown_escapes_and_explains():
    part = ArmResults.of([fake_result("solar[a|b]", 100, [1, 0])])
    text = to_markdown(levels_table(part))
    assert "solar[a\\|b]" in text and "| 50.0 |" in text and "low: accuracy in low-resource languages, %" in text


# Command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--seeds", "5"], "Seeds 5 are not for reported runs"),
        (["tune", "--seeds", "100-110"], "are not for tuning runs"),
        (["search", "--seeds", "100"], "are not for tuning runs"),
        (["run", "--arm", "lunar"], "There is no arm 'lunar'"),
        (["run", "--set", "data.x=1"], "is no setting"),
        (["run", "--tuned", "--arm", "solar"], "'solar' was not tuned"),
        (["tune", "--arm", "placebo"], "'placebo' is not tuned"),
        (["tune", "--arm", "sft", "--rungs", "a"], "no list of whole numbers"),
        (["search", "--grid", "alignment_weight"], "is no part of a grid"),
        (["search", "--grid", "a=1", "--grid", "a=2"], "names 'a' twice"),
        (["report"], "There are no results"),
        (["pack", "x.jsonl.xz"], "There are no results"),
    ],
)
def test_command_line_names_what_is_wrong(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--output-dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_tune_and_run_with_what_was_chosen(tmp_path, capsys):
    shared = ["--output-dir", str(tmp_path), "--no-progress", *FLAGS]
    tune = ["tune", "--arm", "sft", "--grid", "learning_rate=1e-4,1e-2", "--rungs", "1,2", "--seeds", "0-1"]
    assert main([*tune, *shared]) == 0
    chosen = read_json(tmp_path / "tuned" / "sft.json")["chosen"]
    assert chosen["learning_rate"] in (1e-4, 1e-2)
    assert main(["run", "--arm", "sft", "--tuned", "--seeds", "100", *shared]) == 0
    (result,) = read_results(tmp_path, "reported")
    assert result["identity"]["arm"]["config"]["learning_rate"] == chosen["learning_rate"]
    assert len(read_results(tmp_path, "tuning")) == 3  # two candidates on a seed, and the better one on another
    capsys.readouterr()
    search = ["search", "--arm", "sft", "--grid", "learning_rate=1e-4,1e-2", "--seeds", "0"]
    assert main([*search, *shared]) == 0
    assert "sft[learning_rate=0.01]" in capsys.readouterr().out
