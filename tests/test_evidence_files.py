"""The committed results of the benchmark, and the pages that quote them."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from solar_trl.benchmark.contrasts import compare, item_values, layer_value
from solar_trl.benchmark.report import write_report
from solar_trl.benchmark.report_tables import ArmResults
from solar_trl.benchmark.results import read_results, unpack_results
from solar_trl.benchmark.settings import digest


DOCS = Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"
FINALISTS = ("solar", "solar_decay", "solar_lora")
# First cell of a row of README's table: arm and control
QUOTED = {
    "full fine-tuning, weight 0.3": ("solar", "sft"),
    "full fine-tuning, weight 3 that decays": ("solar_decay", "sft"),
    "LoRA, weight 0.3": ("solar_lora", "sft_lora"),
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Folders of the committed results."""
    folders = {}
    for name in ("tuning", "reported", "clones"):
        folders[name] = tmp_path_factory.mktemp(name)
        unpack_results(DOCS / "evidence" / f"{name}.jsonl.xz", folders[name])
    return folders


def tables(text: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def test_every_tuning_run_can_be_reported(unpacked):
    text = write_report(unpacked["tuning"]).read_text(encoding="utf-8")
    assert "There are no reported runs yet." in text
    assert text.count("## Tuning runs") >= 5


def test_the_evidence_page_shows_the_whole_report(unpacked):
    report = write_report(unpacked["reported"], FINALISTS).read_text(encoding="utf-8")
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    clones = write_report(unpacked["clones"]).read_text(encoding="utf-8")
    # Of the second series the arms and what they are compared with; it has no criteria of the claim
    assert tables(page) == [*tables(report), *tables(clones)[:2]] and len(tables(page)) == 7
    seeds = re.findall(r"^(?:Seeds .*|.* lacks seeds .*)$", report, re.MULTILINE)
    assert seeds and all(line in page for line in seeds)


@pytest.fixture(scope="module")
def arms(unpacked):
    return ArmResults.of(read_results(unpacked["reported"], "reported")).arms


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"[+-]?\d+(?:\.\d+)?", text.replace("−", "-"))]


@pytest.mark.parametrize("label", QUOTED)
def test_readme_quotes_what_was_measured(label, arms):
    lines = [line.split("|") for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = {cells[1].strip(): cells[2:-1] for cells in lines}
    seeds, reference, gain, silhouettes = (numbers(cell) for cell in rows[label])
    arm, control = (arms[name] for name in QUOTED[label])
    contrast = compare(arm, control, "accuracy", "low")
    assert seeds == [contrast.seeds]
    measured = [100 * value for value in (contrast.reference, contrast.difference, contrast.low, contrast.high)]
    assert [*reference, *gain] == pytest.approx(measured, abs=0.0501)
    shared = {result["seed"] for result in arm} & {result["seed"] for result in control}
    means = [
        np.mean([layer_value(result, "silhouette") for result in results if result["seed"] in shared])
        for results in (control, arm)
    ]
    assert silhouettes == pytest.approx(means, abs=0.00501)


# Columns of the lab book: a value per run, in the unit of the page, and half of its last digit
COLUMNS = {
    "low": (lambda result: 100 * item_mean(result, "accuracy", "low"), 0.0501),
    "area": (lambda result: 100 * item_mean(result, "area", "low"), 0.0501),
    "NLL": (lambda result: item_mean(result, "nll", "low"), 0.00501),
    "English": (lambda result: 100 * item_mean(result, "accuracy", "pivot"), 0.501),
    "high": (lambda result: 100 * item_mean(result, "accuracy", "high"), 0.501),
    "silhouette": (lambda result: layer_value(result, "silhouette"), 0.00501),
}


def item_mean(result, outcome: str, group: str) -> float:
    return float(np.mean(item_values(result, outcome, group)))


@pytest.fixture(scope="module")
def candidates(unpacked):
    """Runs of the tuning seeds by seed, for each arm and setting that was tried."""
    found = defaultdict(dict)
    for result in read_results(unpacked["tuning"], "tuning"):
        identity = result["identity"]
        found[digest({"conditions": identity["conditions"], "arm": identity["arm"]})][result["seed"]] = result
    return [by_seed for by_seed in found.values() if "area" in next(iter(by_seed.values()))["measures"]["items"]]


def lab_book_rows() -> list[dict[str, str]]:
    """Rows of the tables that tell seeds apart, by the heads of their columns."""
    rows = []
    for table in tables((DOCS / "lab_book.md").read_text(encoding="utf-8")):
        head, _, *body = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        if "low, by seed" in head:
            rows += [dict(zip(head, cells, strict=True)) for cells in body]
    return rows


def fits(runs, low, shown) -> bool:
    """Whether an arm's runs have the low-resource accuracies of these seeds, and these means over them."""
    if not low.keys() <= runs.keys():
        return False
    found = {seed: 100 * item_mean(runs[seed], "accuracy", "low") for seed in low}
    return found == pytest.approx(low, abs=0.501) and all(
        np.mean([COLUMNS[name][0](runs[seed]) for seed in low]) == pytest.approx(mean, abs=COLUMNS[name][1])
        for name, mean in shown.items()
    )


def test_the_lab_book_quotes_runs_that_were_made(candidates):
    """Every row is an arm that was tried, in all columns."""
    rows = lab_book_rows()
    assert len(rows) >= 50
    for row in rows:
        low = {int(seed): float(value) for seed, value in re.findall(r"(\d+): (\d+)", row["low, by seed"])}
        shown = {name: float(row[name]) for name in COLUMNS if name in row}
        assert low and len(shown) >= 4
        assert any(fits(runs, low, shown) for runs in candidates), row
