"""Settings and files as they should not be: named and refused; nothing is run that nobody asked for."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import gc
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import SPEC, solar_trainer, token_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_model
from peft import LoraConfig
from transformers import HfArgumentParser
from trl import SFTConfig, TrlParser

import solar_trl
from solar_trl import SolarSFTConfig
from solar_trl.data.report import LanguageReport, PairingReport
from solar_trl.model_card import SETTINGS, add_alignment_section, alignment_section
from solar_trl.objectives import FRAME_FIELDS


CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}
INHERITED = {field.name for field in dataclasses.fields(SFTConfig)}
FIELDS = {field.name: field for field in dataclasses.fields(SolarSFTConfig) if field.name not in INHERITED}
NUMBERS = ("alignment_weight", "alignment_warmup_ratio", "soft_token_temperature")
INTEGERS = ("soft_token_top_k", "logits_tile_mib")
SWITCHES = ("detach_pivot", "detach_embeddings", "alignment_alternate")
NAMES = ("pivot_language", "parallel_id_column", "language_column")
CHOICES = tuple(name for name, field in FIELDS.items() if "choices" in field.metadata)

BAD = [
    None,
    True,
    False,
    math.nan,
    math.inf,
    -math.inf,
    0,
    -1,
    -0.0,
    0.5,
    1,
    2,
    1e-400,
    5e-324,
    1e308,
    10**20,
    10**400,
    1j,
    "",
    " ",
    "1e-1",
    "-1",
    "nan",
    "1_0",
    "１",
    "true",
    "false",
    "no",
    "none",
    "None",
    "solar",
    "SOLAR",
    "en\n",
    "\x00",
    "x" * 1000,
    b"en",
    b"0.5",
    [],
    [None],
    [1],
    ["en"],
    ["en", ""],
    ["en", ["eng"]],
    (),
    ("en", "eng"),
    {},
    {"en": 1},
    {"en"},
    frozenset(),
    range(2),
    object(),
    print,
    int,
    np.float64("nan"),
    np.float32(0.5),
    np.int64(3),
    np.bool_(True),
    np.str_("en"),
    np.array([]),
    np.array([1.0, 2.0]),
    torch.tensor(2),
    torch.tensor(2.5),
    torch.tensor([1.0, 2.0]),
]


def is_normalised(name: str, value: object) -> bool:
    """Whether a field holds what the rest of the package may rely on."""
    if name == "alignment_kwargs":
        return value is None or (type(value) is dict and set(value) <= set(FRAME_FIELDS))
    if name in NUMBERS:
        low = math.ulp(0.0) if name == "soft_token_temperature" else 0.0
        high = 1.0 if name == "alignment_warmup_ratio" else 1.7e308
        return type(value) is float and low <= value <= high
    if name == "soft_token_top_k" and value is None:
        return True
    if name in INTEGERS:
        return type(value) is int and value >= 1
    if name in SWITCHES:
        return type(value) is bool
    if name in CHOICES:
        return type(value) is str and value in FIELDS[name].metadata["choices"]
    if name == "language_column" or isinstance(value, str):
        return isinstance(value, str) and value != ""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(part, str) and part for part in value)


def says(message: str, name: str, value: object) -> bool:
    """Whether it names field and value; a number may be shown as it was read."""
    shown = {repr(value), str(value)}
    with contextlib.suppress(ValueError, TypeError, OverflowError, RuntimeError):
        shown.add(str(float(value)))
    # Of a very long value, the beginning will do
    return f"`{name}`" in message and any(part[:30] in message for part in shown)


def check_field(name: str, value: object, folder) -> bool:
    try:
        config = SolarSFTConfig(str(folder), **{name: value}, **CPU)
    except (ValueError, TypeError) as error:
        assert says(str(error), name, value), str(error)[:500]
        return False
    assert is_normalised(name, getattr(config, name)), getattr(config, name)
    return True


@pytest.mark.parametrize("name", FIELDS)
def test_bad_values_of(name, tmp_path):
    """Accepted and normalised, or refused by name; set later, checked by the trainer all the same."""
    values = [*BAD, *FIELDS[name].metadata.get("choices", [])]
    accepted = [check_field(name, value, tmp_path) for value in values]
    assert 0 < sum(accepted) < len(values)
    config = SolarSFTConfig(str(tmp_path), **CPU)
    setattr(config, name, {"en": 1})
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        SolarSFTConfig.from_arguments(config)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FIELDS)), ANYTHING)
def test_any_value_of_any_field(name, value):
    check_field(name, value, "out")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NUMBERS), st.floats() | st.integers(-(10**30), 10**30))
def test_numbers_are_read_the_same_from_strings(name, number):
    """As YAML hands them over: the same value, or the same refusal. (Integers are converted by the parsers.)"""
    outcomes = []
    for value in (number, str(number)):
        try:
            outcomes.append(getattr(SolarSFTConfig("out", **{name: value}, **CPU), name))
        except (ValueError, TypeError) as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


@pytest.fixture(autouse=True, scope="module")
def _cheap_collections():
    """The Trainer collects garbage at each start: what the imports left need not be looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("parser", [HfArgumentParser, TrlParser])
@pytest.mark.parametrize("name", FIELDS)
def test_command_line(parser, name, capsys):
    """Strings, which is all that a command line has: a value of the right type, or an error by name."""
    accepted = 0
    for text in ("nan", "-inf", "-1", "0", "0.5", "1e-1", "3", "", "[]", "None", "true", "solar", "x;y", "$(id)"):
        # `=` since a value may start with a dash
        arguments = ["--output_dir", "out", "--use_cpu", "--bf16", "false", f"--{name}={text}"]
        try:
            (config,) = parser(SolarSFTConfig).parse_args_into_dataclasses(arguments)
        except SystemExit:
            assert f"argument --{name}" in capsys.readouterr().err
        except (ValueError, TypeError) as error:
            assert f"`{name}`" in str(error) and (text in str(error) or str(float(text)) in str(error))
        else:
            accepted += 1
            assert is_normalised(name, getattr(config, name)), getattr(config, name)
    assert accepted < 14 or name in NAMES


YAML_VALUES = ["null", ".nan", "-.inf", "-1", "0", "1e-1", "0.5", "3", "'3'", "''", "[]", "[en, '']", "{}", "{a: 1}"]
YAML_VALUES += ["true", "'true'", "no", "2024-01-01", "0x10", "!!binary ZW4=", "[[en]]", "solar", "'no'", "5"]


@pytest.mark.parametrize("name", FIELDS)
def test_yaml(name, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    for text in YAML_VALUES:
        path.write_text(f"output_dir: out\nuse_cpu: true\nbf16: false\n{name}: {text}\n")
        try:
            (config,) = TrlParser(SolarSFTConfig).parse_args_and_config(["--config", str(path)])
        except SystemExit:
            assert f"argument --{name}" in capsys.readouterr().err
        except (ValueError, TypeError) as error:
            assert f"`{name}`" in str(error) or f"--{name}" in str(error), (text, str(error))
        else:
            assert is_normalised(name, getattr(config, name)), (text, getattr(config, name))


def test_yaml_runs_nothing(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "config.yaml"
    for tag in ("!!python/object/apply:os.system", "!!python/object/new:os.mkdir", "!!python/name:os.system"):
        path.write_text(f"output_dir: out\nalignment_weight: {tag} ['touch {marker}']\n")
        with pytest.raises(yaml.YAMLError):
            TrlParser(SolarSFTConfig).parse_args_and_config(["--config", str(path)])
    assert not marker.exists()


# Nothing evaluates, unpickles or loads remote code

CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "subprocess", "pty", "ctypes"}
ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("os", "execv"),
    ("torch", "load"),
    ("np", "load"),
    ("numpy", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("pd", "read_pickle"),
    ("hub", "load"),
}
KEYWORDS = {"trust_remote_code", "allow_pickle", "weights_only", "shell"}
PACKAGE = Path(solar_trl.__file__).parent

# (file, what): why it is harmless
ALLOWED = {
    ("benchmark/pictures.py", "np.load"): "arrays of its own runs, with `allow_pickle=False` by default",
    ("data/streaming.py", "pickle"): "copies a row in memory: what it loads it has dumped itself",
    ("data/stream_pairs.py", "pickle"): "compares two pivots in memory: dumps, never loads",
    ("scripts/loading.py", "trust_remote_code"): "hands on the user's own `--trust_remote_code`, off by default",
}


def dangers(source: str) -> list[str]:
    """What in a module could run strings, files or remote code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                found.append(node.func.id)
            if isinstance(node.func, ast.Attribute):
                owner = node.func.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                if (name, node.func.attr) in ATTRIBUTES:
                    found.append(f"{name}.{node.func.attr}")
            if getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module" and node.args:
                # Of a literal, or of a table of the module's own
                if not isinstance(node.args[0], (ast.Constant, ast.JoinedStr)):
                    found.append("import_module")
                elif isinstance(node.args[0], ast.Constant) and node.args[0].value.split(".")[0] in MODULES:
                    found.append(node.args[0].value)
            found += [keyword.arg for keyword in node.keywords if keyword.arg in KEYWORDS]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import pickle",
        "from pickle import loads",
        "import os\nos.system('ls')",
        "torch.load(path)",
        "torch.hub.load('a', 'b')",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "yaml.load(file)",
        "import_module(name)",
        "import_module('subprocess')",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_dangers_are_found(source):
    assert dangers(source)


def test_no_dangers():
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 50
    assert not dangers("model.eval()\nre.compile('a')\nimport_module('vllm')\nyaml.safe_load(file)")
    found = {(path.relative_to(PACKAGE).as_posix(), name) for path in paths for name in dangers(path.read_text())}
    assert found == set(ALLOWED)


def test_unpickling_is_of_own_bytes():
    """The reasons given above: `streaming` loads what it dumps in the same expression, `stream_pairs` nothing."""
    calls = {}
    for name in ("data/streaming.py", "data/stream_pairs.py"):
        tree = ast.parse((PACKAGE / name).read_text())
        loads = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("loads", "load")
            and getattr(node.func.value, "id", "") == "pickle"
        ]
        calls[name] = [ast.unparse(node.args[0]) for node in loads]
    assert calls["data/stream_pairs.py"] == []
    assert all(argument.startswith("pickle.dumps(") for argument in calls["data/streaming.py"])


@pytest.mark.parametrize("lora", [False, True])
def test_checkpoints_are_safetensors(lora, tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("qwen3"),
        token_rows(SPEC),
        tokenizer,
        tmp_path,
        config={"max_steps": 1, "save_strategy": "steps", "save_steps": 1},
        **({"peft_config": LoraConfig(r=2, target_modules="all-linear")} if lora else {}),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in (tmp_path / "solar" / "checkpoint-1", tmp_path / "final"):
        names = {path.name for path in folder.iterdir()}
        assert ("adapter_model.safetensors" if lora else "model.safetensors") in names
        # What the Trainer itself writes, and reads with `weights_only` or not at all
        own = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
        assert {name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle"))} <= own


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_poisoned_checkpoints_run_nothing(name, container, tokenizer, tmp_path):
    marker = tmp_path / "marker"
    config = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config).train()
    checkpoint = tmp_path / "solar" / "checkpoint-1"
    if container == "torch":
        torch.save(Touch(marker), checkpoint / name)
    else:
        (checkpoint / name).write_bytes(pickle.dumps(Touch(marker)))
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config)
    if name == "training_args.bin":
        trainer.train(resume_from_checkpoint=str(checkpoint))  # never read
    else:
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    assert not marker.exists()
    if container == "torch":
        torch.load(checkpoint / name, weights_only=False)
    else:
        pickle.loads((checkpoint / name).read_bytes())
    assert marker.exists()  # it would have been


# What is shown is text

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b",
    "a\\| b",
    "line\n# Heading",
    "line\r\n\r\n---\r\nlicense: mit",
    "`code`",
    "``",
    "[x](javascript:alert(1))",
    "![x](http://example.invalid/x.png)",
    "**bold** _it_ ~~s~~",
    "&lt;b&gt;",
    "http://example.invalid",
    "$x^2$",
    "\x1b[2J\x07",
    "\u202egnp.exe",
    "en\x00",
]


def report_of(languages: list[str]) -> PairingReport:
    counts = {name: LanguageReport(rows=3, pairs=2, unpaired=1, dropped=0) for name in languages}
    return PairingReport("train dataset", 3 * len(counts), 2 * len(counts), len(counts), 0, 2, 0, 0, counts)


@pytest.mark.parametrize("text", HOSTILE)
def test_model_card_escapes(text, tmp_path):
    """Whatever a language is called, the card keeps its form, and shows the name."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    calm, hostile = (
        SolarSFTConfig(str(tmp_path), pivot_language=[name, "en"], language_column=name, **CPU) for name in ("x", text)
    )

    def tokens(args, name):
        return markdown.parse(alignment_section(args, report_of([name, "en"])))

    expected, got = tokens(calm, "x"), tokens(hostile, text)
    assert [token.type for token in got] == [token.type for token in expected]
    kinds = {child.type for token in got for child in token.children or []}
    assert kinds <= {"text", "code_inline", "text_special", "link_open", "link_close"}, kinds
    links = [child.attrs["href"] for token in got for child in token.children or [] if child.type == "link_open"]
    assert links == [c.attrs["href"] for t in expected for c in t.children or [] if c.type == "link_open"]
    raw = alignment_section(hostile, report_of([text, "en"]))
    assert "<script" not in raw and "<img" not in raw
    assert all(character.isprintable() or character == "\n" for character in raw)
    words = re.sub(r"\W", "", text, flags=re.ASCII)
    shown = re.sub(r"\W", "", "".join(c.content for t in got for c in t.children or []), flags=re.ASCII)
    assert words in shown or not text.isprintable()


def test_card_of_a_trained_model_escapes(tokenizer, tmp_path):
    name = "<b>sw</b> | x\n# y"
    rows = token_rows([("en", 1), (name, 1), ("en", 2), (name, 2)])
    trainer = solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config={"max_steps": 1})
    trainer.create_model_card(dataset_name="a/b\n# z")
    card = (tmp_path / "solar" / "README.md").read_text()
    section = card[card.index("### Cross-lingual alignment") : card.index("### Framework versions")]
    assert "<b>" not in section and "\n# y" not in section and "alignment_weight" in section
    assert all(field in section for field in SETTINGS)


def test_card_with_a_section_of_the_same_name(tmp_path):
    """Text of the card is text, not a pattern or a template."""
    path = tmp_path / "README.md"
    path.write_text("\\1 {{ 7 * 7 }} %s\n\n### Framework versions\n\n### Framework versions\n")
    add_alignment_section(path, SolarSFTConfig(str(tmp_path), **CPU), None)
    card = path.read_text()
    assert card.startswith("\\1 {{ 7 * 7 }} %s\n") and card.count("### Cross-lingual alignment") == 1


def test_the_page_of_promises_names_tests_that_exist():
    """Each promise of `docs/trust.md` has a test, and each test that it names is one."""
    page = (Path(__file__).parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", page)
    assert len(named) > 60
    for module, name in named:
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{module}.py::{name}"
    rows = [
        line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| Promise"))
    ]
    untested = [row for row in rows if "::test_" not in row]
    assert len(rows) > 40 and not untested, untested


@pytest.mark.parametrize("text", HOSTILE)
def test_text_report_keeps_its_form(text):
    """A language name adds no line to the printed report, and sends nothing to the terminal."""
    shown = str(report_of([text, "en"]))
    assert len(shown.splitlines()) == len(str(report_of(["x", "en"])).splitlines())
    assert all(character.isprintable() or character == "\n" for character in shown)
