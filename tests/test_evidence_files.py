"""The committed results of the benchmark, and the numbers that README quotes from them."""

import re
from pathlib import Path

import numpy as np
import pytest

from solar_trl.benchmark.contrasts import item_values, layer_value
from solar_trl.benchmark.report import write_report
from solar_trl.benchmark.results import read_results, unpack_results


ROOT = Path(__file__).parents[1]
TUNING = ROOT / "docs" / "evidence" / "tuning.jsonl.xz"
SFT, LORA = "sft[learning_rate=0.01]", "learning_rate=0.02,order=random"
# Label in README: arm and control in the committed results
QUOTED = {
    "full fine-tuning, weight 0.3": ("solar_random[alignment_weight=0.3,learning_rate=0.01]", SFT),
    "full fine-tuning, weight 1": ("solar_random[alignment_weight=1,learning_rate=0.01]", SFT),
    "full fine-tuning, weight 10 that decays": (
        "solar_random[alignment_schedule=linear_decay,alignment_weight=10,learning_rate=0.01]",
        SFT,
    ),
    "LoRA, weight 0.3": (f"solar_lora[alignment_weight=0.3,{LORA}]", f"sft_lora[{LORA}]"),
    "**LoRA, weight 1**": (f"solar_lora[alignment_weight=1,{LORA}]", f"sft_lora[{LORA}]"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuning")
    unpack_results(TUNING, path)
    return path


def test_every_tuning_run_can_be_reported(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    assert "There are no reported runs yet." in text
    assert text.count("## Tuning runs") >= 5


def readme_rows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| points of low-resource accuracy") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {label: cells for label, *cells in rows}


@pytest.mark.parametrize("label", QUOTED)
def test_readme_quotes_what_was_measured(label, folder):
    results = {}
    for result in read_results(folder, "tuning"):
        conditions = result["identity"]["conditions"]
        settings = conditions["data"]["n_high"], conditions["base"]["steps"], conditions["model"]["tied"]
        if settings == (300, 1500, True):
            results.setdefault(result["arm"]["name"], {})[result["seed"]] = result
    arm, control = (results[name] for name in QUOTED[label])
    gains = [
        100 * (item_values(arm[seed], "accuracy", "low").mean() - item_values(control[seed], "accuracy", "low").mean())
        for seed in sorted(arm)
    ]
    points, silhouettes = readme_rows()[label]
    quoted = [float(text.replace("−", "-")) for text in re.findall(r"[+−][\d.]+", points)]
    # One decimal, and an accuracy on 400 answers has a quarter of a point as its step
    assert quoted == pytest.approx(gains, abs=0.0501)
    means = [np.mean([layer_value(result, "silhouette") for result in each.values()]) for each in (arm, control)]
    quoted = [float(text) for text in re.findall(r"\d\.\d+", silhouettes)]
    assert quoted == pytest.approx(means[: len(quoted)], abs=0.00501)
