"""Pictures: what they show, that nothing overlaps or is cut off, and that they leave no state behind."""

import builtins
import sys

import numpy as np
import pytest

from solar_trl.analysis import analyze_layers, language_pair_matrix, plots, project_states, values_of
from solar_trl.analysis.fonts import display_names, display_text, fonts_for
from solar_trl.analysis.plot_style import language_styles


matplotlib = pytest.importorskip("matplotlib")
Text = pytest.importorskip("matplotlib.text").Text

CODES = (  # noqa: SIM905
    "en de sw th ar he ru el ka hy vi ja zh bn te hi ko am fr es it pt pl nl cs sv fi uk bg ro hu da no fa ur yo ha "
    "ig zu my km lo si ne mr gu kn id tr ta"
).split()
NATIVE = {
    "en": "English", "de": "Deutsch", "sw": "Kiswahili", "th": "ไทย", "ar": "العربية", "he": "עברית", "ru": "русский",
    "el": "Ελληνικά", "ka": "ქართული", "hy": "հայերեն", "vi": "Tiếng Việt", "ja": "日本語", "bn": "বাংলা", "hi": "हिन्दी",
    "uk": "українська", "fr": "$français$",
}  # fmt: skip

NATIVE["fi"] = "a name that is much longer than any language's"
TITLE = (
    "Languages: русский, 日本語, $5, in a title that is longer than the picture is wide, so that it needs two lines"
)


def data(number, items=8, layers=5):
    rng = np.random.default_rng(0)
    content, noise = rng.normal(size=(items, 6)), rng.normal(size=(number, items, 6))
    states = {
        layer: np.concatenate([1 + content + (0.2 + k / number) / (layer + 1) * noise[k] for k in range(number)])
        for layer in range(layers)
    }
    return states, [code for code in CODES[:number] for _ in range(items)], list(range(items)) * number


@pytest.fixture(scope="module")
def cases():
    made = {}
    for number in (2, 11, 50):
        states, languages, ids = data(number)
        analysis = analyze_layers(states, languages, ids, measures=["similarity", "retrieval", "separability"])
        better = {**analysis, "records": [dict(record) for record in analysis["records"]]}
        for record in better["records"]:
            record["value"] = (record["value"] + 1) / 2
        made[number] = (
            analysis,
            {"base": analysis, "SOLAR": better},
            language_pair_matrix(states[4], languages, ids),
            {method: project_states(states[4], languages, method) for method in ("pca", "tsne")},
        )
    return made


FIGURES = {
    "layers": lambda case, **kw: plots.plot_layers(case[0], "retrieval", **kw),
    "silhouette": lambda case, **kw: plots.plot_layers(case[0], "silhouette", **kw),
    "heat map": lambda case, **kw: plots.plot_layer_heat_map(case[0], "difference", **kw),
    "pairs": lambda case, **kw: plots.plot_language_pairs(case[2], **kw),
    "pca": lambda case, **kw: plots.plot_language_map(case[3]["pca"], **kw),
    "tsne": lambda case, **kw: plots.plot_language_map(case[3]["tsne"], **kw),
    "comparison": lambda case, **kw: plots.plot_comparison(case[1], "retrieval", **kw),
    "layer comparison": lambda case, names=None, **kw: plots.plot_layer_comparison(case[1], "difference", **kw),
}


def in_view(axis):
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def boxes(artists):
    return [artist.get_window_extent() for artist in artists if artist.get_visible() and artist.get_text()]


@pytest.mark.filterwarnings("error::UserWarning")  # glyphs that are missing, layouts that do not fit
@pytest.mark.parametrize("number", [2, 11, 50])
@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_overlaps_or_is_cut_off(cases, kind, number, tmp_path):
    figure = FIGURES[kind](cases[number], names=NATIVE, title=TITLE)
    figure.savefig(tmp_path / "figure.png")
    figure.savefig(tmp_path / "figure.svg")
    axes = figure.axes[0]
    assert " ".join(axes.get_title(loc="left").split()) == TITLE.replace("日本語", "…")
    shown = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    ticks = {"x": in_view(axes.xaxis), "y": in_view(axes.yaxis)}
    inside = boxes([*shown, *ticks["x"], *ticks["y"], *axes.texts])
    for legend in figure.legends:
        inside += [legend.get_window_extent()]
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        assert len(legend.get_texts()) == len({text.get_text() for text in legend.get_texts()})
    if len(figure.axes) > 1:
        inside += boxes([figure.axes[1].yaxis.label])
    # A dollar sign in a name is no formula
    assert not any(text.get_parse_math() for text in (*shown, *ticks["y"], *figure.findobj(Text)))
    whole = figure.bbox
    for box in inside:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1, box
    for labels in (*ticks.values(), axes.texts):
        extents = boxes(labels)
        clashes = [(a, b) for i, a in enumerate(extents) for b in extents[:i] if a.overlaps(b)]
        assert not clashes, clashes[:1]
    if kind not in ("pca", "tsne"):
        assert axes.get_xlabel() or kind == "pairs"
        assert min(text.get_fontsize() for labels in ticks.values() for text in labels) >= 6


def test_lines_are_the_values(cases):
    analysis = cases[11][0]
    axes = plots.plot_layers(analysis, "retrieval").axes[0]
    values = values_of(analysis, "retrieval")
    assert [line.get_label() for line in axes.lines] == CODES[1:11]
    for line in axes.lines:
        assert list(line.get_xdata()) == [0, 1, 2, 3, 4]
        assert list(line.get_ydata()) == list(values[line.get_label()].values())
    assert axes.get_ylabel() == "Retrieval, both directions (share of texts)"
    assert axes.get_xlabel() == "Layer (0 = embeddings)"


def test_many_lines_show_the_range_and_the_extremes(cases):
    analysis = cases[50][0]
    axes = plots.plot_layers(analysis, "difference").axes[0]
    values = values_of(analysis, "difference")
    last = sorted((lang for lang in values if lang), key=lambda lang: -values[lang][4])
    labelled = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in labelled] == ["median of 49", *last[:3], *last[-3:]]
    lines = np.array([list(values[lang].values()) for lang in last])
    np.testing.assert_allclose(labelled[0].get_ydata(), np.median(lines, 0))
    assert len(axes.lines) == 49 + len(labelled)
    chosen = plots.plot_layers(analysis, "difference", highlight=["sw"]).axes[0]
    assert [line.get_label() for line in chosen.lines if not line.get_label().startswith("_")][1:] == ["sw"]
    with pytest.raises(ValueError, match="`highlight` names 'xx'"):
        plots.plot_layers(analysis, highlight=["xx"])


def test_heat_maps_are_the_values(cases):
    analysis, _, matrix, _ = cases[11]
    figure = plots.plot_layer_heat_map(analysis, "difference")
    axes, values = figure.axes[0], values_of(analysis, "difference")
    order = [label.get_text() for label in axes.get_yticklabels()]
    assert order == sorted(order, key=lambda lang: -np.mean(list(values[lang].values())))
    np.testing.assert_allclose(axes.images[0].get_array(), [list(values[lang].values()) for lang in order])
    assert figure.axes[1].get_ylabel().replace("\n", " ") == "Cosine, parallel minus unrelated"

    axes = plots.plot_language_pairs(matrix).axes[0]
    shown = axes.images[0].get_array()
    assert shown.mask.diagonal().all() and shown.mask.sum() == 11
    assert axes.texts[0].get_text() == f"{matrix['values'][0][1]:.2f}" and len(axes.texts) == 110
    assert not plots.plot_language_pairs(cases[50][2]).axes[0].texts


def test_undefined_values_leave_gaps(cases):
    analysis = {**cases[2][0], "records": [dict(record) for record in cases[2][0]["records"]]}
    for record in analysis["records"]:
        if record["layer"] == 1:
            record["value"] = None
    line = plots.plot_layers(analysis, "difference").axes[0].lines[0]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False, False, False]
    assert plots.plot_layer_heat_map(analysis, "difference").axes[0].images[0].get_array().mask.sum() == 1


def test_comparison_is_sorted_by_the_last_model(cases):
    analyses = cases[11][1]
    axes = plots.plot_comparison(analyses, "difference", layer=2).axes[0]
    order = [label.get_text() for label in axes.get_yticklabels()]
    for points, (model, analysis) in zip(axes.collections, analyses.items(), strict=True):
        values = values_of(analysis, "difference")
        assert points.get_label() == model
        np.testing.assert_allclose(points.get_offsets()[:, 0], [values[lang][2] for lang in order])
    assert (np.diff(axes.collections[1].get_offsets()[:, 0]) >= 0).all()
    assert axes.get_xlabel() == "Cosine, parallel minus unrelated, layer 2"
    with pytest.raises(ValueError, match="'base' has no layer 7, only 0, 1, 2, 3, 4"):
        plots.plot_comparison(analyses, "difference", layer=7)
    with pytest.raises(ValueError, match="'two' and 'eleven' have different languages: only one has ar, "):
        plots.plot_comparison({"eleven": cases[11][0], "two": cases[2][0]}, "difference")
    with pytest.raises(ValueError, match="holds no model"):
        plots.plot_layer_comparison({})


def test_layer_comparison_shows_means(cases):
    axes = plots.plot_layer_comparison(cases[11][1], "difference").axes[0]
    for line, analysis in zip(axes.lines, cases[11][1].values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), list(values_of(analysis, "difference")[None].values()))


def test_every_language_has_a_look_of_its_own():
    styles = language_styles(72)
    assert len({(style["color"], style["marker"]) for style in styles}) == 72
    assert len({(style["color"], style["linestyle"]) for style in styles[:12]}) == 12


def test_names_without_a_font_become_codes(monkeypatch):
    languages = ["en", "ar", "ja", "ru"]
    labels = display_names(languages, NATIVE)
    missing = chr(0x10FFFD)  # private use: no font has it
    assert labels["en"] == "English" and labels["ru"] == "русский"
    assert display_names(["en", "sw"], {"en": f"a{missing}"}) == {"en": "en", "sw": "sw"}
    assert display_names(["sw", missing], None) == {"sw": "sw", missing: "language 2"}
    assert display_text(f"a {missing}{missing} {missing} b") == "a … b"
    # Without shaping, Arabic letters would stand alone and in the wrong order
    monkeypatch.setattr("solar_trl.analysis.fonts._can_shape", lambda: False)
    assert display_names(languages, NATIVE)["ar"] == "ar"
    assert display_names(languages, NATIVE)["ru"] == "русский"


def test_another_font_helps_out():
    """A character that DejaVu Sans lacks and one of matplotlib's other fonts has."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    plain = set(get_font(findfont("DejaVu Sans")).get_charmap())
    family = "STIXGeneral"
    assert family in {font.name for font in fontManager.ttflist}
    char = chr(min(set(get_font(findfont(family)).get_charmap()) - plain))
    families, lacking = fonts_for(["abc", char])
    assert families[0] == "DejaVu Sans" and len(families) == 2 and not lacking
    assert ord(char) in get_font(findfont(families[1])).get_charmap()


def test_no_global_state_is_left(cases, monkeypatch, tmp_path):
    before = dict(matplotlib.rcParams)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    for kind in FIGURES:
        FIGURES[kind](cases[2]).savefig(tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 37, "xtick.labelsize": 30, "axes.facecolor": "black"}):
        figure = plots.plot_layers(cases[2][0], "retrieval")
        assert matplotlib.rcParams["font.size"] == 37
    assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)  # a user's style does not leak in
    assert max(text.get_fontsize() for text in figure.axes[0].get_xticklabels()) <= 11


def test_missing_matplotlib_names_the_extra(cases, monkeypatch):
    real_import = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=r"pip install \"solar-trl\[plot\]\""):
        plots.plot_layers(cases[2][0], "retrieval")
