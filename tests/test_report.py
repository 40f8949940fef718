"""Groups of languages, paired results, tables, pictures and the page."""

import html.parser
import json
import math
import re
import sys

import numpy as np
import pytest

from solar_trl.evaluation import Record, score_records
from solar_trl.evaluation.groups import group_intervals, language_groups
from solar_trl.evaluation.paired import compare_results, correct
from solar_trl.report import Column, Section, Table, embed, evaluation_sections, render_page, text_of, write_report
from solar_trl.report.pictures import plot_agreement, plot_scores


LANGUAGES = ["sw", "en", "de", "te"]
HOSTILE = "<script>alert('x')</script> & \"quoted\" {{ 'bo' ~ 'om' }} http://example.org/a.png"


def make_result(name="model", seed=0, n_items=30, languages=LANGUAGES, share=0.5, output="The answer is 3.", **kwargs):
    rng = np.random.default_rng(seed)
    records = []
    for language in languages:
        for item in range(n_items):
            right = bool(rng.random() < share)
            prompt = [{"role": "user", "content": f"{item}?"}]
            records.append(Record(language, str(item), 0, prompt, output, "3" if right else "4", "3", right))
    return score_records(records, name, identifier="none", resamples=50, **kwargs)


def shares(result):
    """Accuracy by language, counted by hand."""
    found = {}
    for record in result.records:
        found.setdefault(record.language, []).append(record.correct)
    return {language: sum(right) / len(right) for language, right in found.items()}


# Groups


def test_groups_are_means_over_languages():
    result = make_result()
    groups = language_groups(LANGUAGES, ["te", "sw"])
    assert groups == {"high-resource": ["en", "de"], "low-resource": ["te", "sw"]}
    intervals = group_intervals(result.table(), groups, resamples=300)
    by_hand = shares(result)
    assert intervals["group/low-resource"].value == pytest.approx((by_hand["te"] + by_hand["sw"]) / 2)
    assert intervals["group/high-resource"].value == pytest.approx((by_hand["en"] + by_hand["de"]) / 2)
    assert intervals["gap/te"].value == pytest.approx(by_hand["en"] - by_hand["te"])
    # The pivot does not count in the gap of its own group
    assert intervals["gap/high-resource"].value == pytest.approx(by_hand["en"] - by_hand["de"])
    assert intervals["gap/low-resource"].value == pytest.approx(by_hand["en"] - (by_hand["te"] + by_hand["sw"]) / 2)
    assert "gap/en" not in intervals
    # The bootstrap against one done here, item by item
    table, rng, draws = result.table(), np.random.default_rng(1), []
    columns = [table.languages.index(language) for language in ("te", "sw")]
    for _ in range(2000):
        items = rng.integers(0, 30, 30)
        draws.append(table.accuracy[items][:, columns].mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    wide = group_intervals(table, groups, resamples=2000)["group/low-resource"]
    assert wide.low == pytest.approx(low, abs=0.03) and wide.high == pytest.approx(high, abs=0.03)


def test_what_resampling_cannot_tell():
    result = make_result(share=0.0)
    intervals = group_intervals(result.table(), {"all": LANGUAGES}, resamples=20)
    assert intervals["group/all"].value == 0 and intervals["group/all"].high == pytest.approx(
        0.1135, abs=1e-3
    )  # Wilson
    assert intervals["gap/sw"].value == 0 and math.isnan(intervals["gap/sw"].low)
    assert not [name for name in group_intervals(result.table(), {}, "fr", resamples=20) if name.startswith("gap/")]
    assert group_intervals(make_result(languages=["en"]).table(), {}) == {}


def test_unknown_low_resource_language():
    with pytest.raises(ValueError, match="'xx', which were not evaluated; the languages are 'sw', 'en'"):
        language_groups(LANGUAGES, ["te", "xx"])
    assert language_groups(LANGUAGES, None) == {}
    assert language_groups(["te"], ["te"]) == {"low-resource": ["te"]}


# Paired


def test_comparison_by_hand():
    first, second = make_result("a", 1, share=0.4), make_result("b", 2, share=0.7)
    comparison = compare_results(first, second, ["te", "sw"], resamples=50)
    before, after = shares(first), shares(second)
    for language in LANGUAGES:
        test = comparison.tests[f"accuracy/{language}"]
        assert comparison.accuracy[f"accuracy/{language}"] == pytest.approx((before[language], after[language]))
        assert test.difference == pytest.approx(after[language] - before[language])
        pairs = [
            (one.correct, other.correct)
            for one, other in zip(first.records, second.records, strict=True)
            if one.language == language
        ]
        wins, losses = pairs.count((False, True)), pairs.count((True, False))
        assert (test.wins, test.losses, comparison.rows[language]) == (wins, losses, 30)
        tail = sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses)
        assert test.p_value == pytest.approx(min(1, 2 * tail))
    low = comparison.tests["group/low-resource"].difference
    assert low == pytest.approx((after["te"] + after["sw"] - before["te"] - before["sw"]) / 2)
    assert comparison.left_out == 0 and comparison.warnings == []


def test_holm_counts_all_comparisons_of_a_report():
    results = [make_result(str(seed), seed, share=0.3 + 0.15 * seed) for seed in range(3)]
    comparisons = [compare_results(results[0], other, resamples=20) for other in results[1:]]
    alone = [dict(comparison.corrected) for comparison in comparisons]
    correct(comparisons)
    p_values = sorted(
        (test.p_value, place, name)
        for place, comparison in enumerate(comparisons)
        for name, test in comparison.tests.items()
        if name.startswith("accuracy/")
    )
    assert len(p_values) == 8
    highest = 0.0
    for rank, (p_value, place, name) in enumerate(p_values):
        highest = max(highest, min(1.0, p_value * (8 - rank)))
        assert comparisons[place].corrected[name] == pytest.approx(highest)
    assert alone != [comparison.corrected for comparison in comparisons]


def test_rows_that_are_not_parallel():
    first, second = make_result("a"), make_result("b", 1)
    del second.records[:2]
    with pytest.raises(ValueError, match=r"2 only in the first \('sw/0', 'sw/1'\), 0 only in the second, 118 in both"):
        compare_results(first, second)
    comparison = compare_results(first, second, common_rows=True, resamples=20)
    assert comparison.left_out == 2 and comparison.rows == {"sw": 28, "en": 30, "de": 30, "te": 30}
    assert "2 of 238 rows are in only one of 'a' and 'b': left out." in comparison.warnings
    second.records[5].reference = "99"
    with pytest.raises(ValueError, match="1 rows have different right answers"):
        compare_results(first, second, common_rows=True)
    with pytest.raises(ValueError, match="share no row"):
        compare_results(make_result(languages=["en", "de"]), make_result(languages=["fr", "ja"]), common_rows=True)


def test_other_settings_are_told():
    first = make_result("a", settings={"num_shots": 0, "model": "x", "max_new_tokens": 5})
    second = make_result("b", settings={"num_shots": 8, "model": "y", "max_new_tokens": 5})
    (warning,) = compare_results(first, second, resamples=20).warnings
    assert "num_shots: 0 and 8" in warning and "model" not in warning.split("(")[1].split(")")[0]


# Tables


@pytest.mark.parametrize(
    "kind, value, text",
    [
        ("percent", 0.4567, "45.7"),
        ("percent_interval", (0.1, 1.0), "[10.0, 100.0]"),
        ("points", 0.05, "+5.0"),
        ("points", -0.05, "−5.0"),
        ("points", -0.0001, "0.0"),
        ("points_interval", (-0.1, 0.2), "[−10.0, +20.0]"),
        ("number", -0.1234, "−0.123"),
        ("count", 12345, "12,345"),
        ("p_value", 0.0004, "<0.001"),
        ("p_value", 0.0451, "0.045"),
        ("text", "zh", "zh"),
        ("percent", None, "–"),
        ("percent", float("nan"), "–"),
        ("points_interval", (float("nan"), 1.0), "–"),
        ("text", None, "–"),
    ],
)
def test_how_values_are_written(kind, value, text):
    assert Column("key", "Label", kind).show(value) == text


def test_text_tables_are_aligned_in_all_scripts():
    columns = [
        Column("name", "Name"),
        Column("share", "Share of items (%)", "percent", "of all"),
        Column("n", "n", "count"),
    ]
    rows = [{"name": "中文模型", "share": 0.5, "n": 1}, {"name": "ab", "share": 1.0, "n": 12}]
    table = Table("Title", columns, rows, [{"name": "all", "share": 0.75, "n": 13}], "A note.")
    assert table.to_text().split("\n") == [
        "Title",
        "          Share",
        "             of",
        "          items",
        "Name        (%)   n",
        "-------------------",
        "中文模型   50.0   1",
        "ab        100.0  12",
        "-------------------",
        "all        75.0  13",
        "  Share of items (%): of all",
        "  A note.",
    ]
    assert text_of([table, table]).count("of all") == 1
    assert table.to_dict()["rows"] == [*rows, {"name": "all", "share": 0.75, "n": 13}]
    undefined = Table("", columns, [{"name": "x", "share": float("nan")}]).to_dict()["rows"]
    assert undefined == [{"name": "x", "share": None, "n": None}]


# Page


class Elements(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_nothing_and_escapes_everything(tmp_path):
    pytest.importorskip("matplotlib")
    languages = ["en", "<i>sw</i>"]
    first = make_result("base", languages=languages, output=HOSTILE, settings={"benchmark": HOSTILE})
    second = make_result(HOSTILE, 1, languages=languages, output=HOSTILE, settings={"benchmark": HOSTILE})
    comparison = compare_results(first, second, ["<i>sw</i>"], resamples=20)
    sections, tables = evaluation_sections(
        [first, second], ["<i>sw</i>"], [comparison], resamples=20, warnings=[HOSTILE]
    )
    page = write_report(tmp_path / "new" / "folder", HOSTILE, HOSTILE, sections).read_text(encoding="utf-8")
    elements = Elements(page)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "object", "embed", "i", "b", "form"} and {"img", "table"} <= tags
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#")), (tag, attributes[name][:60])
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page and "boom" not in page
    assert elements.text.count("<script>") >= 6  # title, heading, warning, names, responses: as text
    pictures = [attributes for tag, attributes in elements.found if tag == "img"]
    assert len(pictures) == 4 and all(attributes["alt"] for attributes in pictures)
    anchors = {f"#{attributes['id']}" for _, attributes in elements.found if "id" in attributes}
    assert anchors == {attributes["href"] for tag, attributes in elements.found if tag == "a"}
    data = json.loads((tmp_path / "new" / "folder" / "report.json").read_text(encoding="utf-8"))
    assert data["title"] == HOSTILE and len(data["tables"]) == len(tables) + 1  # and the settings
    assert HOSTILE in data["warnings"]


def test_numbers_of_the_page(tmp_path):
    result = make_result("base", settings={"pivot_language": "en"})
    sections, (overview, by_language) = evaluation_sections([result], ["te", "sw"], resamples=40)
    text = Elements(render_page("Title", "", sections)).text
    by_hand = shares(result)
    rows = {row["language"]: row for row in by_language.rows}
    assert list(rows) == ["en (pivot)", "de", "sw", "te"]  # the pivot, then group by group
    for language, share in by_hand.items():
        row = rows[f"{language} (pivot)" if language == "en" else language]
        assert row["accuracy"] == pytest.approx(share) and f"{100 * share:.1f}" in text
        assert row["items"] == 30 and row["rows"] == 30
    sums = {row["language"]: row for row in by_language.summaries}
    assert sums["all"]["accuracy"] == pytest.approx(result.metrics["macro_accuracy"])
    assert sums["all"]["gap"] == pytest.approx(result.metrics["pivot_gap"])
    assert sums["low-resource"]["accuracy"] == pytest.approx((by_hand["te"] + by_hand["sw"]) / 2)
    assert sums["low-resource"]["rows"] == 60
    (row,) = overview.rows
    for name in ("consistency", "ac3", "clc", "co"):
        assert row[name] == pytest.approx(result.metrics[name])
    assert row["low-resource"] == sums["low-resource"]["accuracy"] and row["fidelity"] == sums["all"]["fidelity"]


def test_wrong_responses_are_shown_first():
    result = make_result()
    sections, _ = evaluation_sections([result], resamples=20, num_examples=3)
    (section,) = [section for section in sections if section.title.startswith("Responses")]
    assert list(section.examples) == [f"{language}: 3 of 30 responses" for language in LANGUAGES]
    assert all(
        not example.right and "wrong" in example.heading for found in section.examples.values() for example in found
    )
    long = make_result(output="x" * 5000)
    sections, _ = evaluation_sections([long], resamples=20, num_examples=1)
    (section,) = [section for section in sections if section.title.startswith("Responses")]
    assert "(5,000 characters)" in section.examples["en: 1 of 30 responses"][0].parts[1][1]


def test_one_language_and_no_answer_at_all():
    result = make_result("lonely", languages=["sw"], share=0.0, output="")
    sections, (overview, by_language) = evaluation_sections([result], resamples=20)
    assert by_language.rows[0]["empty"] == by_language.rows[0]["undecided"] == 30
    assert by_language.columns[4].label == "Gap to en"
    assert by_language.cells(by_language.rows[0])[4] == "–" and overview.rows[0]["consistency"] is None
    assert "lonely" in render_page("One", "", sections)


def test_without_matplotlib_tables_say_it_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    first, second = make_result("a"), make_result("b", 1)
    sections, tables = evaluation_sections(
        [first, second], comparisons=[compare_results(first, second, resamples=20)], resamples=20
    )
    assert not any(section.pictures for section in sections) and len(tables) == 4
    assert "matplotlib is not installed" in render_page("Title", "", sections)


def test_pictures_are_whole_and_not_too_large():
    pytest.importorskip("matplotlib")
    scores = {
        "a": {"en": (0.5, 0.4, 0.6), "sw": (float("nan"),) * 3},
        "b": {"en": (0.7, 0.6, 0.8), "sw": (0.1, 0, 0.2)},
    }
    figure = plot_scores(scores, "Accuracy (%)")
    picture = embed(figure, "A caption")
    assert picture.uri.startswith("data:image/svg+xml;base64,") and picture.width == 720
    assert picture == embed(plot_scores(scores, "Accuracy (%)"), "A caption")  # the same each time
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["en", "sw"]
    np.testing.assert_allclose(axes.collections[1].get_offsets()[0], [50, -0.275])
    axes.scatter(*np.random.default_rng(0).random((2, 20_000)))
    assert embed(figure, "").uri.startswith("data:image/png;base64,")
    figure = plot_agreement(np.array([[1, 0.25], [0.25, 1]]), ["en", "sw"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.25"]  # none on the diagonal


def test_empty_parts_leave_no_mark():
    page = render_page("Title", "", [Section("Nothing")])
    assert not re.search(r"<(table|figure|details|dl)\b", page) and "Mind" not in page
