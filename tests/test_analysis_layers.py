"""The table of all measures by layer and language."""

import json
import logging

import numpy as np
import pytest
from models import tiny_model
from tiny_tokenizer import PARALLEL_TEXTS, parallel_rows, train_tokenizer

from solar_trl.analysis import (
    MEASURES,
    analyze_layers,
    centered_similarity,
    cross_lingual_similarity,
    hidden_state_summaries,
    incline_fit,
    language_separability,
    mexa_score,
    mixed_pool_map,
    mmd,
    neuron_state_summaries,
    principal_components,
    retrieval_accuracy,
    values_of,
)


LANGUAGES = ("sw", "en", "th")
N = 14


@pytest.fixture(scope="module")
def data():
    """Shuffled rows of three languages, two layers, and neuron states of one."""
    rng = np.random.default_rng(0)
    content = rng.normal(size=(N, 6))
    noise = {"en": 0.2, "sw": 0.7, "th": 1.2}
    rows = [(lang, item) for lang in LANGUAGES for item in range(N)]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    states = {
        layer: np.stack([content[item] + 0.5 + noise[lang] * rng.normal(size=6) for lang, item in rows])
        for layer in (0, 3)
    }
    return states, [lang for lang, _ in rows], [f"item-{item}" for _, item in rows], {3: np.abs(states[3])}


def paired(states, languages, ids, language):
    """Pivot and other states in the order of items, by explicit search."""
    rows = {(lang, item): i for i, (lang, item) in enumerate(zip(languages, ids, strict=True))}
    items = [f"item-{i}" for i in range(N) if ("en", f"item-{i}") in rows and (language, f"item-{i}") in rows]
    return tuple(np.stack([states[rows[lang, item]] for item in items]) for lang in ("en", language))


def test_every_measure_equals_its_own_function(data):
    states, languages, ids, neurons = data
    analysis = analyze_layers(states, languages, ids, neuron_states=neurons)
    assert json.loads(json.dumps(analysis)) == analysis and analysis["warnings"] == []
    assert analysis["pivot_language"] == analysis["languages"][0] == "en"
    assert analysis["layers"] == [0, 3] and set(analysis["rows"].values()) == {N}
    assert {record["measure"] for record in analysis["records"]} == set(MEASURES)
    keys = [(record["layer"], record["language"], record["measure"]) for record in analysis["records"]]
    assert len(set(keys)) == len(keys)

    components = analysis["settings"]["incline_components"]
    assert components == 3  # a quarter of the 12 training rows
    for layer, values in states.items():
        pool = mixed_pool_map(values, languages, ids)
        separability = language_separability(values, languages)
        assert values_of(analysis, "mixed_pool_map")[None][layer] == pytest.approx(pool["map"])
        assert values_of(analysis, "silhouette")[None][layer] == pytest.approx(separability["silhouette"])
        of_language = values_of(analysis, "silhouette")
        assert np.mean([of_language[lang][layer] for lang in LANGUAGES]) == pytest.approx(separability["silhouette"])
        probe = values_of(analysis, "probe_accuracy")
        assert np.mean([probe[lang][layer] for lang in LANGUAGES]) == pytest.approx(probe[None][layer])
        coordinates = principal_components(values, components)
        for lang in ("sw", "th"):
            pivot, other = paired(values, languages, ids, lang)
            # Folds go by the order of the pivot's rows
            order = [row for row in range(len(ids)) if languages[row] == "en"]
            partners = [
                next(row for row in range(len(ids)) if (languages[row], ids[row]) == (lang, ids[pivot_row]))
                for pivot_row in order
            ]
            fit = incline_fit(coordinates[order], coordinates[partners])
            retrieval = retrieval_accuracy(pivot, other)
            expected = {
                **cross_lingual_similarity(pivot, other),
                **{f"centered_{name}": value for name, value in centered_similarity(pivot, other).items()},
                "retrieval": retrieval["mean"],
                "retrieval_to_pivot": retrieval["to_pivot"],
                "retrieval_from_pivot": retrieval["from_pivot"],
                "mexa": mexa_score(pivot, other),
                "mmd": mmd(pivot, other),
                "mixed_pool_map": pool["by_language"][lang],
                **{f"incline_{name}": value for name, value in fit.items()},
            }
            for measure, value in expected.items():
                assert values_of(analysis, measure)[lang][layer] == pytest.approx(value), (measure, lang, layer)
    pivot, other = paired(neurons[3], languages, ids, "th")
    assert values_of(analysis, "neuronxa")["th"] == {3: mexa_score(pivot, other)}
    mexa = values_of(analysis, "mexa")
    assert list(mexa) == [*[lang for lang in analysis["languages"] if lang != "en"], None]
    assert mexa[None][3] == pytest.approx((mexa["sw"][3] + mexa["th"][3]) / 2)
    assert mexa["sw"][3] != mexa["th"][3]


def test_groups_can_be_chosen(data):
    states, languages, ids, _ = data
    analysis = analyze_layers(states, languages, ids, measures=["mexa", "similarity"])
    assert {record["measure"] for record in analysis["records"]} == {"mexa", "matched", "random", "difference"}
    with pytest.raises(ValueError, match=r"'mmd' was not computed; this analysis has 'mexa', 'matched'"):
        values_of(analysis, "mmd")
    with pytest.raises(ValueError, match="Unknown measure 'cka'"):
        values_of(analysis, "cka")
    assert "neuronxa" not in analyze_layers(states, languages, ids)["settings"]["measures"]


def test_unpaired_rows_are_counted_and_left_out_of_pairs(data, caplog):
    states, languages, ids, _ = data
    lost = {("en", "item-3"), ("th", "item-5"), ("th", "item-6")}
    kept = [i for i, row in enumerate(zip(languages, ids, strict=True)) if row not in lost]
    fewer = {layer: values[kept] for layer, values in states.items()}
    languages, ids = [languages[i] for i in kept], [ids[i] for i in kept]
    with caplog.at_level(logging.WARNING, logger="solar_trl"):
        analysis = analyze_layers(fewer, languages, ids, measures=["mexa", "mixed_pool", "similarity"])
    assert analysis["warnings"] == [record.message for record in caplog.records]
    assert sorted(analysis["warnings"])[-2:] == [
        "sw: 1 of 14 rows have no parallel in en; they are left out of the measures of pairs.",
        "th: 1 of 12 rows have no parallel in en; they are left out of the measures of pairs.",
    ]
    assert any("(sw 13, th 11)" in w or "(th 11, sw 13)" in w for w in analysis["warnings"])
    assert analysis["pairs"] == {"sw": 13, "th": 11} and analysis["rows"] == {"en": 13, "sw": 14, "th": 12}
    pivot, other = paired(fewer[3], languages, ids, "th")
    assert len(pivot) == 11 and values_of(analysis, "mexa")["th"][3] == mexa_score(pivot, other)

    common = analyze_layers(fewer, languages, ids, measures=["mexa", "mixed_pool"], common_items=True)
    assert common["warnings"] == [] and common["pairs"] == {"sw": 11, "th": 11} and common["rows"]["sw"] == 11
    items = {item for lang, item in zip(languages, ids, strict=True) if lang == "th"} - {"item-3"}
    rows = [i for i, item in enumerate(ids) if item in items]
    pool = mixed_pool_map(fewer[3][rows], [languages[i] for i in rows], [ids[i] for i in rows])
    assert values_of(common, "mixed_pool_map")[None][3] == pytest.approx(pool["map"])


def test_undefined_values_are_none_and_said(data):
    states, languages, ids, _ = data
    collapsed = {layer: values.copy() for layer, values in states.items()}
    collapsed[3][[i for i, lang in enumerate(languages) if lang == "sw"]] = states[3][0]
    analysis = analyze_layers(collapsed, languages, ids, measures=["centered_similarity", "mexa"])
    centered = values_of(analysis, "centered_difference")
    assert centered["sw"][3] is None and centered["sw"][0] is not None
    assert centered[None][3] == centered["th"][3]
    assert analysis["warnings"] == [
        "Layer 3, sw: centered_matched, centered_random, centered_difference not defined, as states of a language are "
        "all the same or equal to its mean."
    ]


def test_a_language_of_one_row(data):
    states, languages, ids, _ = data
    rows = [i for i, lang in enumerate(languages) if lang != "th"] + [languages.index("th")]
    few = {layer: values[rows] for layer, values in states.items()}
    analysis = analyze_layers(few, [languages[i] for i in rows], [ids[i] for i in rows])
    assert "th: a single row; it is left out of silhouette and probe." in analysis["warnings"]
    assert "th: 1 pairs, at least two are needed; its measures of pairs are None." in analysis["warnings"]
    for measure in ("mexa", "silhouette", "incline_residual"):
        assert values_of(analysis, measure)["th"] == {0: None, 3: None}
        assert values_of(analysis, measure)["sw"][3] is not None
    assert values_of(analysis, "mixed_pool_map")["th"][3] is not None


def test_bad_input(data):
    states, languages, ids, neurons = data

    def fails(match, error=ValueError, **changes):
        arguments = {"states": states, "languages": languages, "parallel_ids": ids, **changes}
        with pytest.raises(error, match=match):
            analyze_layers(**arguments)

    fails("holds no layer", states={})
    fails("At least two languages are needed, got en", languages=["en"] * len(ids), parallel_ids=range(len(ids)))
    fails("no row of the pivot language 'de'; the languages are ", pivot_language="de")
    other_ids = [i if lang == "en" else f"x{i}" for lang, i in zip(languages, ids, strict=True)]
    fails(r"No row has a parallel in the pivot language 'en'.*'item-.*'xitem-", parallel_ids=other_ids)
    fails("has the id 'item-0' more than once", parallel_ids=["item-0"] * len(ids))
    fails(r"`languages` has shape \(3,\), expected \(42,\)", languages=["en", "sw", "th"])
    fails("got a single string", TypeError, languages="en")
    fails(r"`parallel_ids` has shape \(1,\)", parallel_ids=[1])
    fails(r"Unknown group of measures 'matched' \('matched' is one of group 'similarity'\)", measures=["matched"])
    fails("got the string 'mexa'", TypeError, measures="mexa")
    fails("NeuronXA needs `neuron_states`", measures=["neuronxa"])
    fails(r"`states\[3\]` has 41 rows, expected 42", states={**states, 3: states[3][1:]})
    fails(r"Row 0 of `states\[3\]` is zero", states={**states, 3: states[3] * (np.arange(42) > 0)[:, None]})
    fails(r"`states\[0\]` holds values that are not finite", states={0: states[0] * np.inf})
    fails(r"`neuron_states\[3\]` has 41 rows", neuron_states={3: neurons[3][1:]})
    fails("`components` is 7, expected 1 to 6", incline_components=7)
    only_one = [f"{lang}-{i}" if i != "item-0" else i for lang, i in zip(languages, ids, strict=True)]
    fails("No language has two rows with a pivot", parallel_ids=only_one)
    fails("1 of `parallel_ids` occur in every language", parallel_ids=only_one, common_items=True)


def test_from_texts_to_scores():
    """The same texts under two names score 1.0 at every layer; ids that pair other items score 0."""
    model, tokenizer = tiny_model("qwen3"), train_tokenizer()
    rows = parallel_rows(["en"])
    texts = [row["response"] for row in rows] * 2
    languages, ids = ["en"] * len(rows) + ["xx"] * len(rows), [row["parallel_id"] for row in rows]
    states = hidden_state_summaries(model, tokenizer, texts, batch_size=3)
    neurons = neuron_state_summaries(model, tokenizer, texts, batch_size=3)
    same = analyze_layers(states, languages, ids * 2, neuron_states=neurons)
    for measure in ("mexa", "retrieval", "neuronxa", "mixed_pool_map"):
        found = values_of(same, measure)["xx"]
        assert set(found.values()) == {1.0} and len(found) == (2 if measure == "neuronxa" else 3), measure
    assert max(values_of(same, "mmd")["xx"].values()) < 1e-6
    rolled = analyze_layers(states, languages, ids + ids[1:] + ids[:1], neuron_states=neurons)
    for measure in ("mexa", "retrieval", "neuronxa"):
        assert set(values_of(rolled, measure)["xx"].values()) == {0.0}, measure
    assert len(rows) == len(PARALLEL_TEXTS) > 5
