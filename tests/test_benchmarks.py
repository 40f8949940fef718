"""The benchmarks of cost run at the smallest size, and compare what they say they compare. No time is judged here."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import relative_error


pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))  # for the processes that the benchmarks start, too

from benchmarks import data_cost, head_arms, machine, measure, report, step_cost, trainer_arms  # noqa: E402
from benchmarks.settings import SHAPES, Setting  # noqa: E402


TINY = {"vocab_size": 96, "hidden_size": 32, "layers": 1, "batch_size": 4, "length": 9, "languages": 2, "threads": 1}
TINY_OPTIONS = "--hidden-size 32 --layers 1 --batch 4x9 --languages 2 --threads 1 --steps 2 --warmup 1"


def run_here(module, options, out, monkeypatch):
    """What a script does, without importing the libraries in another process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *options.split(), "--out", str(out)])
    module.run(module.parse_args())


def read(out, name):
    with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return json.loads((out / f"{name}.json").read_text(encoding="utf-8")), list(csv.DictReader(file))


def step_gradients(trainer):
    """Gradients of the first optimizer step, without taking it."""
    batches = iter(trainer.get_train_dataloader())
    samples, num_items = trainer.get_batch_samples(batches, trainer.args.gradient_accumulation_steps, "cpu")
    trainer.current_gradient_accumulation_steps = len(samples)
    trainer.model.zero_grad()
    for inputs in samples:
        trainer.training_step(trainer.model, inputs, num_items)
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


def test_step_cost(tmp_path):
    arms = ["sft", "solar", "naive", "mid_align", "sft@1", "solar@1"]
    options = f"{TINY_OPTIONS} --vocab-size 96 160 --prompt-share 0.25 --arms {' '.join(arms)}"
    command = [sys.executable, "examples/benchmarks/step_cost.py", *options.split(), "--out", str(tmp_path)]
    env = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    printed = done.stdout
    results, rows = read(tmp_path, "step_cost")
    assert (tmp_path / "step_cost.png").stat().st_size > 5_000
    versions = results["machine"]["versions"]
    assert versions["torch"] == torch.__version__ and results["machine"]["commit"] and results["machine"]["device"]
    assert [setting["vocab_size"] for setting in results["settings"]] == [96, 160]
    for setting in results["settings"]:
        assert "mid_align" not in setting["left_out"]
        measured = [arm for arm in arms if arm not in setting["left_out"]]
        assert list(setting["arms"]) == measured
        assert all(len(arm["seconds"]) == 2 and arm["flops"] > 0 for arm in setting["arms"].values())
        assert [row["arm"] for row in rows if row["setting"] == setting["label"]] == measured
        assert setting["label"] in printed
    columns = ["seconds", "time_ratio", "time_ratio_q1", "time_ratio_q3", "tokens_per_second", "matmul_share"]
    columns += ["memory_mib", "memory_ratio"] if machine.before_a_peak() is not None else []
    for row in rows:
        # The peak of a model this small can be within what its process has anyway
        assert all(math.isfinite(float(row[column])) for column in columns if row[column] or "memory" not in column)
        assert float(row["time_ratio"]) > 0 and (row["arm"] != "sft" or float(row["time_ratio"]) == 1)
        assert bool(row["time_ratio_same_micro_batch"]) == (row["arm"] == "solar@1")


def test_head_cost(tmp_path, monkeypatch, capsys):
    options = f"{TINY_OPTIONS} --vocab-size 96 --head-only --no-memory --top-k all 5"
    run_here(step_cost, options, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    results, rows = read(tmp_path, "head_cost")
    assert (tmp_path / "head_cost.png").exists() and "top_k=5" in printed
    assert [row["arm"] for row in rows] == 2 * list(head_arms.ARMS)
    assert all(math.isfinite(float(row["time_ratio"])) and row["memory_mib"] == "" for row in rows)
    assert results["memory_mib"]


def test_data_cost(tmp_path, monkeypatch):
    options = "--rows 3000 --languages 3 --batch 4x8 8x8 --repeats 3 --epochs 2 --threads 1"
    run_here(data_cost, options, tmp_path, monkeypatch)
    results, rows = read(tmp_path, "data_cost")
    arms = ["TRL", "pivots in the batch", "every pivot appended"]
    pairing = ["find_pivots, integer ids", "find_pivots, string ids"]
    assert [row["arm"] for row in rows] == [*pairing, *arms, *arms, "torch's RandomSampler", "ParallelGroupSampler"]
    for row in rows:
        assert math.isfinite(float(row["seconds"])) and float(row["seconds"]) > 0
        assert (row["ratio"] == "") == (row["arm"] in ("TRL", "torch's RandomSampler", *pairing))
        assert row["ratio"] == "" or math.isfinite(float(row["ratio"]))
    assert (
        len(results["samplers"]["grouped"]["seconds"]) == 2 and len(results["collators"]["8x8"]["sft"]["seconds"]) == 3
    )


def test_arms_see_the_same_rows_and_only_small_batches_append(tmp_path):
    setting = Setting(**TINY)
    trainers = trainer_arms.make_trainers(setting, ["solar@1", "sft", "solar", "sft@2"], 2, str(tmp_path))
    batches = {name: list(trainer.get_train_dataloader()) for name, trainer in trainers.items()}
    tokens = {name: torch.cat([batch["input_ids"] for batch in found]) for name, found in batches.items()}
    assert tokens["sft"].shape == (8, 9) and all(torch.equal(found, tokens["sft"]) for found in tokens.values())
    assert {name: len(found) for name, found in batches.items()} == {"sft": 2, "solar": 2, "sft@2": 4, "solar@1": 8}
    assert all(batch["alignment"]["pivot_batch"] is None for batch in batches["solar"])
    appended = [batch["alignment"]["pivot_batch"] is not None for batch in batches["solar@1"]]
    assert appended == 4 * [False, True]  # a pivot, then its translation


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 7}], ids=["plain", "top_k"])
def test_naive_and_accumulated_arms_do_the_same_work(options, tmp_path):
    setting = Setting(**TINY, **options, prompt_share=0.3)
    trainers = trainer_arms.make_trainers(setting, ["sft", "naive", "solar", "solar@1"], 1, str(tmp_path))
    gradients = {name: step_gradients(trainer) for name, trainer in trainers.items()}
    assert relative_error(gradients["naive"], gradients["solar"]) < 1e-5
    assert relative_error(gradients["solar@1"], gradients["solar"]) < 1e-5
    assert relative_error(gradients["sft"], gradients["solar"]) > 1e-3


@pytest.mark.parametrize("training, products", [("full", 4), ("lora", 3)])
def test_every_matrix_product_of_the_head_is_counted(training, products):
    """Logits, logits once more, and the gradients of the hidden states and of the weight, unless it is frozen."""
    setting = Setting(**TINY, training=training)
    results, rate, failed = measure.measure("head_arms", setting, ["trl", "solar"], steps=1, warmup=0, memory=False)
    exact = products * 2 * setting.scored_tokens * 96 * 32
    assert results["trl"].flops == exact and not failed and rate > 0
    # Beside: the entropy's row-wise products, and those of summaries with the embedding
    assert exact <= results["solar"].flops < 1.5 * exact


@pytest.mark.parametrize("arms", [trainer_arms, head_arms])
def test_arms_take_turns(arms, monkeypatch):
    order = []
    names = list(arms.ARMS[:3])
    monkeypatch.setattr(
        arms, "build", lambda setting, names, *_: {name: lambda name=name: order.append(name) for name in names}
    )
    kind = arms.__name__.rpartition(".")[2]
    results, _, _ = measure.measure(kind, Setting(**TINY), names, steps=2, warmup=1, memory=False)
    first, second, third = names
    assert order == [*names, first, second, third, second, third, first, third, first, second]
    assert all(len(result.seconds) == 2 for result in results.values())


def hold(mib):
    """By how much a process grows that holds memory for a while, and has held more before."""
    del [bytearray(b"x") * (4 * mib * 2**20)][0]
    before = machine.before_a_peak()
    held = bytearray(b"x") * (mib * 2**20)
    del held
    return None if before is None else machine.resident_mib(peak=True) - before


def test_memory_is_that_of_the_step_alone():
    growth = measure.in_fresh_process(hold, 64)
    if growth is None:
        pytest.skip("this system does not tell the peak of a process")
    assert 63 < growth < 80


def test_ratios_are_paired():
    # Twice as slow in every round, while the machine itself slows down by a factor of 10
    assert report.ratio_columns("r", [2.0, 4.0, 20.0], [1.0, 2.0, 10.0]) == {"r": 2.0, "r_q1": 2.0, "r_q3": 2.0}
    spread = report.ratio_columns("r", [1.0, 2.0, 3.0, 4.0, 5.0], 5 * [1.0])
    assert spread == {"r": 3.0, "r_q1": 2.0, "r_q3": 4.0}


def test_shapes():
    """Sizes as published: embedding and backbone, tied."""
    sizes = {"qwen2.5-0.5b": 0.494, "qwen2.5-1.5b": 1.544, "qwen3-4b": 4.022}
    with torch.device("meta"):
        found = {name: Setting(shape=name, device="meta").model().num_parameters() / 1e9 for name in sizes}
    assert found == pytest.approx(sizes, rel=1e-3) and set(SHAPES) == {*sizes, "tiny"}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Setting(batch_size=6, languages=4), "batch of 6 rows"),
        (lambda: Setting(prompt_share=1.0), "`prompt_share` is 1.0"),
        (lambda: Setting(languages=1), "`languages` is 1"),
        (lambda: trainer_arms.parse_arm("solar@0"), "'solar@0'"),
        (lambda: trainer_arms.parse_arm("fast"), "'fast'"),
        (lambda: head_arms.unavailable("sft", Setting()), "'sft'"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_page_names_options_that_exist(monkeypatch):
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python examples/benchmarks/(\w+)\.py(.*)$", page.replace("\\\n", ""), re.MULTILINE)
    assert [script for script, _ in commands] == 3 * ["step_cost"] + ["data_cost"]
    for script, options in commands:
        module = {"step_cost": step_cost, "data_cost": data_cost}[script]
        monkeypatch.setattr(sys, "argv", [script, *options.split()])
        args = module.parse_args()
        assert script == "data_cost" or all(map(Setting.config, step_cost.settings_of(args)))
    for title in re.findall(r"^## (.+)$", page, re.MULTILINE):
        assert f"- [{title}](#{title.lower().replace(' ', '-')})" in page
