"""Metrics and statistics against brute force: loops over rows, all subsets, all signs, all outcomes."""

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest

from solar_trl.evaluation import (
    CrossLingualConsistency,
    Interval,
    LanguageFidelity,
    MultilingualAccuracy,
    ScoreTable,
    bootstrap_mean,
    compare_tables,
    consistency_matrix,
    holm,
    judge_language,
    load_benchmark,
    mcnemar,
    score_intervals,
    sign_flip,
)
from solar_trl.evaluation.scores import item_contributions, subset_consistency
from solar_trl.evaluation.statistics import wilson_interval


DATA = Path(__file__).parents[2] / "shared" / "data"


# Brute force, straight from the definitions; rows are (language, id, prediction, reference)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def reference_accuracy(rows, pivot="en"):
    languages = list(dict.fromkeys(row[0] for row in rows))
    by_language = {
        name: mean(prediction == gold for language, _, prediction, gold in rows if language == name)
        for name in languages
    }
    others = [by_language[name] for name in languages if name != pivot]
    gap = by_language[pivot] - mean(others) if pivot in by_language and others else math.nan
    return {
        "accuracy": mean(prediction == gold for _, _, prediction, gold in rows),
        "macro_accuracy": mean(by_language.values()),
        "pivot_gap": gap,
        **{f"accuracy/{name}": value for name, value in by_language.items()},
    }


def reference_consistency(rows, pivot="en", sizes=()):
    cells = {(language, item): (prediction, prediction == gold) for language, item, prediction, gold in rows}
    languages = list(dict.fromkeys(row[0] for row in rows))
    items = list(dict.fromkeys(row[1] for row in rows))

    def rate(subset, judge, among=None):
        common = [i for i in (items if among is None else among) if all((language, i) in cells for language in subset)]
        return mean(judge([cells[language, i] for language in subset]) for i in common)

    def agree(answers):
        return answers[0][0] is not None and all(answer[0] == answers[0][0] for answer in answers)

    pairs = list(itertools.combinations(languages, 2))
    rates = [value for value in (rate(pair, agree) for pair in pairs) if not math.isnan(value)]
    both = either = 0
    for one, other in pairs:
        for item in items:
            if (one, item) in cells and (other, item) in cells:
                both += cells[one, item][1] and cells[other, item][1]
                either += cells[one, item][1] or cells[other, item][1]
    clc = math.nan
    if pivot in languages:
        with_pivot = [rate((pivot, name), lambda a: a[0][1] and a[1][1]) for name in languages if name != pivot]
        clc = mean(value for value in with_pivot if not math.isnan(value))
    accuracy = reference_accuracy(rows)["macro_accuracy"]

    def harmonic(consistency):
        return 0.0 if accuracy + consistency == 0 else 2 * accuracy * consistency / (accuracy + consistency)

    consistency = mean(rates)
    scores = {"consistency": consistency, "ac3": harmonic(consistency), "clc": clc}
    scores["co"] = both / either if either else math.nan
    complete = [item for item in items if all((language, item) in cells for language in languages)]
    for size in sizes:
        value = mean(rate(subset, agree, complete) for subset in itertools.combinations(languages, size))
        scores |= {f"consistency@{size}": value, f"ac3@{size}": harmonic(value)}
    return scores


def columns(rows):
    languages, ids, predictions, golds = zip(*rows, strict=True)
    return {"predictions": predictions, "references": golds, "languages": languages, "parallel_ids": ids}


def random_rows(seed, missing=0.0):
    rng = random.Random(seed)
    languages = rng.sample(["en", "sw", "te", "de", "zh", "th"], rng.randint(2, 6))
    rows = []
    for item in range(rng.randint(1, 12)):
        gold = str(rng.randint(0, 3))
        for language in languages:
            if rng.random() >= missing:
                prediction = rng.choice([gold, gold, str(rng.randint(0, 3)), None])
                rows.append((language, item, prediction, gold))
    rng.shuffle(rows)
    return rows


def is_parallel(rows):
    ids = [row[1] for row in rows]
    return len(set(ids)) < len(ids)


CASES = {
    "random": [random_rows(seed) for seed in range(40)],
    "missing": [rows for rows in (random_rows(seed, 0.4) for seed in range(60)) if rows and is_parallel(rows)],
    "all wrong": [[("en", 0, "1", "2"), ("sw", 0, "1", "2"), ("en", 1, "3", "2"), ("sw", 1, "1", "2")]],
    "all right": [[(name, i, "2", "2") for name in ("en", "sw", "te") for i in range(3)]],
    "no answers": [[("en", 0, None, "2"), ("sw", 0, None, "2")]],
    "ties of three": [[("en", 0, "1", "2"), ("sw", 0, "1", "2"), ("te", 0, "1", "2"), ("de", 0, "2", "2")]],
    "no pivot": [[("sw", 0, "2", "2"), ("te", 0, "1", "2")]],
    "one pair without items": [[("en", 0, "1", "1"), ("sw", 0, "1", "1"), ("te", 5, "1", "1"), ("en", 5, "2", "1")]],
}


@pytest.mark.parametrize("kind", CASES)
def test_metrics_equal_brute_force(kind):
    assert CASES[kind]
    for rows in CASES[kind]:
        given = columns(rows)
        expected = reference_consistency(rows)
        assert CrossLingualConsistency().compute(**given) == pytest.approx(expected, nan_ok=True)
        given.pop("parallel_ids")
        assert MultilingualAccuracy().compute(**given) == pytest.approx(reference_accuracy(rows), nan_ok=True)


@pytest.mark.parametrize("rows", [*CASES["random"][:15], *CASES["missing"][:15]])
def test_subsets_equal_brute_force(rows):
    sizes = list(range(2, len({row[0] for row in rows}) + 1))
    scores = CrossLingualConsistency().compute(**columns(rows), subset_sizes=sizes)
    expected = reference_consistency(rows, sizes=sizes)
    assert scores == pytest.approx(expected, nan_ok=True)


def test_pairs_are_subsets_of_two_when_all_is_there():
    rows = random_rows(3)
    scores = CrossLingualConsistency().compute(**columns(rows), subset_sizes=[2])
    assert scores["consistency@2"] == pytest.approx(scores["consistency"])


def test_other_pivot():
    rows = random_rows(5)
    pivot = next(row[0] for row in rows if row[0] != "en")
    scores = CrossLingualConsistency().compute(**columns(rows), pivot_language=pivot)
    assert scores == pytest.approx(reference_consistency(rows, pivot), nan_ok=True)
    given = columns(rows)
    given.pop("parallel_ids")
    scores = MultilingualAccuracy().compute(**given, pivot_language=pivot)
    assert scores == pytest.approx(reference_accuracy(rows, pivot), nan_ok=True)


def test_values_of_every_type():
    scores = CrossLingualConsistency().compute(
        predictions=[7, "7.0", np.int64(30), None],
        references=["7", 7, 30.0, 30],
        languages=np.array(["en", "sw", "en", "sw"]),
        parallel_ids=[0, "0", 1, np.int64(1)],
    )
    assert scores == pytest.approx({"consistency": 0.5, "ac3": 0.6, "clc": 0.5, "co": 2 / 3 - 1 / 6})


def test_batches():
    rows = random_rows(7)
    given = columns(rows)
    metric = CrossLingualConsistency()
    metric.add_batch(**{name: values[:3] for name, values in given.items()})
    metric.add_batch(**{name: values[3:-1] for name, values in given.items()})
    metric.add_batch(**{name: [] for name in given})
    metric.add(
        prediction=given["predictions"][-1],
        reference=given["references"][-1],
        languages=given["languages"][-1],
        parallel_ids=given["parallel_ids"][-1],
    )
    scores = metric.compute(pivot_language="en")
    assert scores == pytest.approx(reference_consistency(rows), nan_ok=True)
    with pytest.raises(ValueError, match="no rows"):
        metric.compute()  # they are used up
    assert metric.compute(**given) == pytest.approx(reference_consistency(rows), nan_ok=True)


def test_one_language(caplog):
    scores = CrossLingualConsistency().compute(predictions=["1"], references=["1"], languages=["en"], parallel_ids=[0])
    assert all(math.isnan(value) for value in scores.values()) and "two languages" in caplog.text
    scores = MultilingualAccuracy().compute(predictions=["1"], references=["1"], languages=["en"])
    assert scores["accuracy/en"] == 1.0 and math.isnan(scores["pivot_gap"]) and "no language beside" in caplog.text


def test_missing_pivot_is_said(caplog):
    MultilingualAccuracy().compute(predictions=["1", "2"], references=["1", "1"], languages=["sw", "te"])
    assert "'en' is not among the languages ('sw', 'te')" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": [], "references": [], "languages": [], "parallel_ids": []}, "no rows"),
        ({"predictions": ["1"]}, "1 predictions, 2 references"),
        ({"parallel_ids": None}, "`parallel_ids` is missing"),
        ({"parallel_ids": [0, 1]}, "share a parallel id"),
        ({"parallel_ids": [0, None]}, "missing value"),
        ({"languages": ["en", "en"], "parallel_ids": [0, 0]}, "en/0"),
        ({"references": ["1", ""]}, "reference of row 1"),
        ({"subset_sizes": [3]}, "subset of 3"),
        ({"group": "x"}, "group|unexpected"),
    ],
)
def test_bad_input(change, message):
    given = {"predictions": ["1", "2"], "references": ["1", "1"], "languages": ["en", "sw"], "parallel_ids": [0, 0]}
    with pytest.raises((ValueError, TypeError), match=message):
        CrossLingualConsistency().compute(**{**given, **change})


def table_of(rows, samples=None):
    languages, ids, predictions, golds = zip(*rows, strict=True)
    correct = [prediction == gold for prediction, gold in zip(predictions, golds, strict=True)]
    return ScoreTable.from_rows(predictions, correct, languages, ids, samples)


def test_matrix():
    rows = random_rows(11, 0.3)
    table = table_of(rows)
    matrix = consistency_matrix(table)
    cells = {row[:2]: row[2] for row in rows}
    for (i, one), (j, other) in itertools.product(enumerate(table.languages), repeat=2):
        common = [item for item in table.items if (one, item) in cells and (other, item) in cells]
        expected = mean(cells[one, i] is not None and cells[one, i] == cells[other, i] for i in common)
        assert matrix[i, j] == pytest.approx(1.0 if i == j else expected, nan_ok=True)


def test_samples_are_averaged():
    rows, other = random_rows(2), random_rows(2)
    random.Random(0).shuffle(other)
    other = [(language, item, "9" if i % 2 else gold, gold) for i, (language, item, _, gold) in enumerate(other)]
    both = table_of([*rows, *other], [0] * len(rows) + [1] * len(other))
    values = score_intervals(both, resamples=1)
    for name in ("accuracy", "accuracy/en", "consistency", "clc"):
        each = [score_intervals(table_of(part), resamples=1)[name].value for part in (rows, other)]
        assert values[name].value == pytest.approx(mean(each)), name
    with pytest.raises(ValueError, match="samples are missing"):
        table_of([*rows, *other[1:]], [0] * len(rows) + [1] * (len(other) - 1))


def test_subset_of_no_complete_items_is_undefined():
    table = table_of([("en", 0, "1", "1"), ("sw", 1, "1", "1")])
    assert math.isnan(subset_consistency(table, 2))


# Statistics


def test_bootstrap_resamples_items_with_all_their_rows():
    """Against an explicit loop over the same draws."""
    rows = random_rows(21, 0.2)
    table = table_of(rows)
    found = score_intervals(table, resamples=200, seed=3)
    rng = np.random.default_rng(3)
    n = len(table.items)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=200)
    draws = {name: [] for name in ("accuracy", "macro_accuracy", "consistency", "co")}
    for counts in weights:
        drawn = []
        for item, count in zip(table.items, counts, strict=True):
            for copy in range(count):
                drawn += [(row[0], (item, copy), row[2], row[3]) for row in rows if row[1] == item]
        scores = reference_accuracy(drawn) | reference_consistency(drawn)
        for name, values in draws.items():
            values.append(scores[name])
    for name, values in draws.items():
        known = [value for value in values if not math.isnan(value)]
        assert (found[name].low, found[name].high) == pytest.approx(tuple(np.quantile(known, [0.025, 0.975]))), name


def test_bootstrap_in_pieces_equals_at_once(monkeypatch):
    values, clusters = [0.0, 1.0, 1.0, 0.0, 1.0], [1, 1, 2, 3, 4]
    whole = bootstrap_mean(values, clusters, resamples=100)
    monkeypatch.setattr("solar_trl.evaluation.statistics._CELLS", 7)
    assert bootstrap_mean(values, clusters, resamples=100) == whole
    assert bootstrap_mean(values, clusters, resamples=100, seed=1) != whole


def test_clusters_widen_intervals():
    values = np.repeat(np.arange(40) % 2, 10)
    rows, items = bootstrap_mean(values), bootstrap_mean(values, np.repeat(np.arange(40), 10))
    assert rows.value == items.value == 0.5
    assert items.high - items.low > 2.5 * (rows.high - rows.low)  # sqrt(10)
    assert items.high - items.low == pytest.approx(4 * 0.5 / math.sqrt(40), rel=0.15)


def test_coverage():
    """A 90 % interval holds the true mean in about 90 of 100 data sets."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        interval = bootstrap_mean(rng.random(60) < 0.4, confidence=0.9, resamples=300)
        hits += interval.low <= 0.4 <= interval.high
    assert 165 <= hits <= 195


def test_wilson_where_all_are_alike():
    table = table_of([("en", i, "1", "1") for i in range(30)] + [("sw", i, "2", "1") for i in range(30)])
    found = score_intervals(table, resamples=50)
    assert found["accuracy/en"].high == 1.0 and 0.85 < found["accuracy/en"].low < 0.9
    assert found["accuracy/sw"].low == 0.0 and 0.1 < found["accuracy/sw"].high < 0.15
    # From a table of Wilson's interval: 0 of 10
    assert wilson_interval(0, 10) == Interval(0.0, 0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson_interval(5, 10).low == pytest.approx(0.2366, abs=1e-4)


def test_mcnemar_equals_all_outcomes():
    for wins, losses in itertools.product(range(7), repeat=2):
        tosses = list(itertools.product([0, 1], repeat=wins + losses))
        tail = sum(sum(toss) <= min(wins, losses) for toss in tosses) / len(tosses)
        assert mcnemar(wins, losses) == pytest.approx(min(1.0, 2 * tail))
    assert 0 < mcnemar(900, 1100) < 1e-4


def test_sign_flip_equals_all_signs():
    rng = np.random.default_rng(1)
    for n in (1, 3, 8):
        values = rng.integers(-3, 4, n) / 10
        sums = [abs(float(np.dot(signs, values))) for signs in itertools.product([1, -1], repeat=n)]
        expected = np.mean([value >= abs(values.sum()) - 1e-9 for value in sums])
        assert sign_flip(values) == pytest.approx(expected)
    values = rng.normal(0.3, 1, 40)
    exact = sign_flip(values[:13])
    assert sign_flip(values[:13], permutations=4000) == pytest.approx(exact, abs=0.03)
    assert sign_flip([0.0, 0.0]) == 1.0


def test_sign_flip_for_binary_is_mcnemar():
    assert sign_flip([1] * 2 + [-1] * 9 + [0] * 20) == pytest.approx(mcnemar(2, 9))


def test_compare():
    rng = random.Random(4)
    languages = ["en", "sw", "te"]
    first = [(name, i, rng.choice("12"), "1") for i in range(60) for name in languages]
    second = [(name, i, "1" if name == "sw" else p, gold) for name, i, p, gold in first]
    shuffled = rng.sample(second, len(second))
    tests = compare_tables(table_of(first), table_of(shuffled), resamples=300)
    wrong = sum(name == "sw" and p != "1" for name, _, p, _ in first)
    swahili = tests["accuracy/sw"]
    assert (swahili.wins, swahili.losses, swahili.ties) == (wrong, 0, 60 - wrong)
    assert swahili.difference == pytest.approx(wrong / 60) and swahili.low > 0.2
    assert swahili.p_value == pytest.approx(mcnemar(wrong, 0)) and swahili.test == "mcnemar"
    assert tests["accuracy/te"].difference == 0 and tests["accuracy/te"].p_value == 1
    for name in ("accuracy", "macro_accuracy", "pivot_gap"):
        before, after = reference_accuracy(first)[name], reference_accuracy(second)[name]
        assert tests[name].difference == pytest.approx(after - before)
        assert tests[name].p_value < 0.01
        assert tests[name].low <= tests[name].difference <= tests[name].high
    for name in ("consistency", "clc"):
        before, after = reference_consistency(first)[name], reference_consistency(second)[name]
        assert tests[name].difference == pytest.approx(after - before) and tests[name].test == "sign_flip"
        assert tests[name].low <= tests[name].difference <= tests[name].high
    assert tests["clc"].p_value < 0.01
    # The other way round, everything changes sign
    back = compare_tables(table_of(shuffled), table_of(first), resamples=300)
    assert back["pivot_gap"].difference == pytest.approx(-tests["pivot_gap"].difference)


def test_compare_with_missing_rows():
    first = [("en", i, "1", "1") for i in range(8)] + [("sw", i, "2", "1") for i in range(5)]
    second = [(name, i, "1" if i < 3 else p, gold) for name, i, p, gold in first]
    test = compare_tables(table_of(first), table_of(second), resamples=50)["accuracy/sw"]
    assert (test.wins, test.losses, test.ties, test.difference) == (3, 0, 2, pytest.approx(3 / 5))


def test_no_difference_is_rarely_significant():
    rng = random.Random(0)
    found = 0
    for _ in range(60):
        rows = [[(name, i, rng.choice("12"), "1") for i in range(30) for name in ("en", "sw")] for _ in range(2)]
        found += compare_tables(*map(table_of, rows), resamples=1, permutations=400)["macro_accuracy"].p_value < 0.05
    assert found <= 8


def test_compare_needs_the_same_rows():
    rows = [(name, i, "1", "1") for i in range(3) for name in ("en", "sw")]
    with pytest.raises(ValueError, match=r"different items: only the first has \['2'\]"):
        compare_tables(table_of(rows), table_of(rows[:4]))
    with pytest.raises(ValueError, match="different languages"):
        compare_tables(table_of(rows), table_of([("de", *row[1:]) for row in rows[::2]]))
    with pytest.raises(ValueError, match="en/1"):
        compare_tables(table_of([row for row in rows if row[:2] != ("en", 1)]), table_of(rows))


@pytest.mark.parametrize("rows", [*CASES["random"][:10], *CASES["missing"][:10]])
def test_contributions_add_up(rows):
    expected = {name: value for name, value in reference_consistency(rows).items() if name in ("consistency", "clc")}
    parts = {name: values.sum() for name, values in item_contributions(table_of(rows), "en").items()}
    assert parts == pytest.approx({name: value for name, value in expected.items() if not math.isnan(value)})


def test_holm():
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9}
    order = sorted(values, key=values.get)
    expected = {
        name: min(1, max((4 - rank) * values[other] for rank, other in enumerate(order[: order.index(name) + 1])))
        for name in values
    }
    assert holm(values) == pytest.approx(expected) and list(holm(values)) == list(values)


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"resamples": 0}, {"values": []}, {"clusters": [1]}])
def test_bad_statistics(options):
    with pytest.raises(ValueError):
        bootstrap_mean(**{"values": [1.0, 0.0], **options})
    with pytest.raises(ValueError):
        mcnemar(-1, 2)
    with pytest.raises(ValueError, match="finite"):
        sign_flip([math.inf])


# Language fidelity


@pytest.mark.parametrize(
    ("text", "language", "in_language", "by"),
    [
        ("คำตอบคือสิบสองบาท", "th", True, "script"),
        ("The answer is twelve.", "th", False, "script"),
        ("สิบสอง bottles of water and bread", "th", False, "script"),
        ("答案是苹果和香蕉还有梨。", "zh", True, "script"),
        ("答えはりんごとバナナです。", "zh", False, "script"),
        ("答えはりんごとバナナです。", "ja", True, "script"),
        ("答案是苹果和香蕉还有梨。", "ja", False, "script"),
        ("정답은 사과와 배입니다.", "ko", True, "script"),
        ("答案是苹果和香蕉还有梨。", "ko", False, "script"),
        ("Hii ni jibu la swali hili la hesabu.", "sw", True, "identifier"),
        ("This is the answer to the question.", "sw", False, "identifier"),
        ("This is the answer to the question.", "eng_Latn", True, "identifier"),
        ("Это ответ на вопрос задачи.", "ru", True, "identifier"),
        ("Jawabannya adalah dua belas buah apel.", "id", True, "identifier"),
        ("\\frac{1}{2} <think> 12", "en", None, "short"),
        ("12 km", "sw", None, "short"),
        ("  \n", "sw", None, "empty"),
        ("This is the answer to the question.", "qqq", None, "unknown"),
        ("uttar barah seb hai aur kele", "hin_Latn", None, "unknown"),
        ("इस प्रश्न का उत्तर बारह सेब है।", "hin_Latn", False, "script"),
        ("ಇದು ಪ್ರಶ್ನೆಗೆ ಉತ್ತರ.", "kan_Knda", True, "script"),
        ("Ovo je odgovor na postavljeno pitanje.", "srp_Latn", True, "identifier"),
    ],
)
def test_judge(text, language, in_language, by):
    if by in ("identifier", "unknown"):
        pytest.importorskip("py3langid")
    decision = judge_language(text, language)
    assert (decision.in_language, decision.by) == (in_language, by)


def test_fidelity_counts_everything():
    pytest.importorskip("py3langid")
    texts = ["คำตอบคือสิบสอง", "The answer is twelve.", "12", "", None, "Hii ni jibu la swali hili."]
    languages = ["th", "th", "th", "th", "sw", "sw"]
    scores = LanguageFidelity().compute(predictions=texts, languages=languages)
    assert scores == {
        "fidelity": pytest.approx(2 / 3),
        "macro_fidelity": 0.75,
        "fidelity/th": 0.5,
        "fidelity/sw": 1.0,
        "decided_by_script": 2,
        "decided_by_identifier": 1,
        "undecided": 1,
        "empty": 2,
    }


def test_fidelity_without_identifier(monkeypatch, caplog):
    monkeypatch.setattr("solar_trl.evaluation.fidelity.has_identifier", lambda: False)
    texts, languages = ["Hii ni jibu la swali.", "คำตอบคือสิบสอง"], ["sw", "th"]
    scores = LanguageFidelity().compute(predictions=texts, languages=languages)
    assert math.isnan(scores["fidelity/sw"]) and scores["fidelity/th"] == 1.0 and scores["macro_fidelity"] == 1.0
    assert scores["undecided"] == 1 and "py3langid" in caplog.text
    quiet = LanguageFidelity().compute(predictions=texts, languages=languages, identifier="none")
    assert quiet == pytest.approx(scores, nan_ok=True)
    with pytest.raises(ValueError, match="'fasttext'"):
        LanguageFidelity().compute(predictions=texts, languages=languages, identifier="fasttext")


def test_identifier_names_the_extra(monkeypatch):
    from solar_trl.evaluation import language_id

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(language_id, "import_module", missing)
    language_id.load_identifier.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"solar-trl\[eval\]"):
            LanguageFidelity().compute(predictions=["This is the answer."], languages=["sw"], identifier="py3langid")
    finally:
        language_id.load_identifier.cache_clear()


@pytest.mark.skipif(not (DATA / "mgsm").exists(), reason="the benchmark files are not here")
def test_fidelity_of_real_texts():
    pytest.importorskip("py3langid")
    rows = load_benchmark("mgsm", path=DATA / "mgsm")
    questions, languages = rows["question"][:], rows["language"][:]
    scores = LanguageFidelity().compute(predictions=questions, languages=languages)
    assert scores["fidelity"] > 0.999 and scores["undecided"] == scores["empty"] == 0
    # As answers to prompts in the next language
    names = sorted(set(languages))
    moved = [names[names.index(name) - 1] for name in languages]
    assert LanguageFidelity().compute(predictions=questions, languages=moved)["fidelity"] < 0.001
