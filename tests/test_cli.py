"""The command `solar-trl`, on tiny models saved to disk."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from datasets import Dataset
from markdown_pages import write_files
from models import tiny_model
from peft import LoraConfig, get_peft_model
from tiny_tokenizer import parallel_rows, train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from solar_trl.analysis import analyze_layers, hidden_state_summaries, neuron_state_summaries, soft_token_summaries
from solar_trl.evaluation import EvaluationResult, evaluate_model
from solar_trl.scripts.cli import main
from solar_trl.scripts.loading import load_tokenizer, loaded, model_sources
from solar_trl.scripts.options import ModelOptions


pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
ROOT = Path(__file__).parent.parent
FAST = ["--max-new-tokens", "6", "--resamples", "20", "--identifier", "none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, an adapter, items and texts."""
    path = tmp_path_factory.mktemp("cli")
    for seed, name in enumerate(("base", "other")):
        model = tiny_model("qwen3", vocab_size=384, seed=seed)
        model.save_pretrained(path / name)
        train_tokenizer().save_pretrained(path / name)
    base = AutoModelForCausalLM.from_pretrained(path / "base")
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(path / "lora")
    rows = [row for row in parallel_rows(["en", "de", "sw", "th"]) if row["parallel_id"] < 6]
    write(path / "items.jsonl", rows)
    names = {"language": "language", "parallel_id": "parallel_id", "response": "text", "question": "ask"}
    write(path / "texts.jsonl", [{new: row[old] for old, new in names.items()} for row in rows])
    return path


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs a command inside `folder`; gives the exit status and what was printed."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def load(name):
    return AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)


# evaluate


def test_evaluate_two_models_and_an_adapter(run, folder, tmp_path):
    out = tmp_path / "out"
    status, printed, _ = run(
        "evaluate", "--model", "base", "--adapter", "none", "lora", "--name", "base,SFT model", "--benchmark",
        "items.jsonl", "--low-resource", "sw,th", "--output-dir", out, *FAST
    )  # fmt: skip
    assert status == 0
    model, tokenizer = load("base")
    expected = evaluate_model(model, tokenizer, "items.jsonl", max_new_tokens=6, resamples=20, identifier="none")
    result = EvaluationResult.load(out / "base.json")
    assert [record.output for record in result.records] == [record.output for record in expected.records]
    assert {name: value for name, value in result.metrics.items() if value == value} == {
        name: value for name, value in expected.metrics.items() if value == value
    }
    adapted = EvaluationResult.load(out / "SFT-model.json")
    assert [record.output for record in adapted.records] != [record.output for record in expected.records]
    assert adapted.settings["adapter"] == "lora" and adapted.name == "SFT model"
    for expected_text in ("All languages", "base by language", "SFT model against base", "low-resource", "p, Holm"):
        assert re.sub(r"\s", "", expected_text) in re.sub(r"\s", "", printed)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "SFT model against base" in page and page.count("<img ") == 4
    tables = {table["title"]: table for table in json.loads((out / "report.json").read_text())["tables"]}
    assert [row["language"] for row in tables["base by language"]["rows"]] == [
        "en (pivot)", "de", "sw", "th", "high-resource", "low-resource", "all"
    ]  # fmt: skip
    # What was cut off is told, on the page too
    warning = f"base: of 24 outputs, .*{result.counts['all']['unfinished']} unfinished"
    assert re.search(warning, page) and result.counts["all"]["unfinished"] > 0


def test_evaluate_goes_on_where_it_stopped(run, folder, tmp_path, monkeypatch):
    options = ["evaluate", "--model", "other", "--benchmark", "items.jsonl", "--output-dir", tmp_path, *FAST]
    assert run(*options)[0] == 0
    whole = (tmp_path / "other.json").read_text()
    file = tmp_path / "other.responses.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:12]) + "\n", encoding="utf-8")
    (tmp_path / "other.json").unlink()
    import solar_trl.evaluation.generation as generation

    runner, batches = generation.transformers_runner, []

    def counted(*args):
        inner = runner(*args)
        return lambda sequences, begin: batches.append(len(sequences)) or inner(sequences, begin)

    monkeypatch.setattr(generation, "transformers_runner", counted)
    assert run(*options)[0] == 0
    assert (tmp_path / "other.json").read_text() == whole and sum(batches) == 16  # two batches of 8 of three
    status, _, error = run(*options, "--max-new-tokens", "7")
    assert status == 1 and "max_new_tokens: 6 there, 7 now" in error


def test_yaml_and_command_line(run, folder, tmp_path):
    config = tmp_path / "evaluate.yaml"
    config.write_text(
        "model: [base]\nbenchmark: items.jsonl\nlanguages: en,sw\nlimit: 2\nmax_new_tokens: 5\nresamples: 10\n"
        f"output_dir: {tmp_path / 'from_yaml'}\nchat_template_kwargs: {{enable_thinking: false}}\n"
    )
    assert run("evaluate", "--config", config)[0] == 0
    settings = EvaluationResult.load(tmp_path / "from_yaml" / "base.json").settings
    assert settings["languages"] == ["en", "sw"] and settings["max_new_tokens"] == 5
    assert settings["chat_template_kwargs"] == {"enable_thinking": False}
    assert run("evaluate", f"--config={config}", "--languages", "en", "de", "--output-dir", tmp_path / "cli")[0] == 0
    result = EvaluationResult.load(tmp_path / "cli" / "base.json")
    assert result.settings["languages"] == ["en", "de"] and len(result.records) == 4
    config.write_text("model: base\nbenchmark: items.jsonl\nlanguage: en\n")
    status, _, error = run("evaluate", "--config", config)
    assert status == 1 and "--language" in error and "Unknown arguments" in error


def test_samples_few_shots_and_likelihood(run, folder, tmp_path):
    rows = [row for row in parallel_rows(["en", "sw"]) if row["parallel_id"] >= 6]
    exemplars = write(tmp_path / "exemplars.jsonl", rows)
    common = ["evaluate", "--model", "base", "--languages", "en", "sw", "--limit", "2", *FAST]
    options = ["--benchmark", "items.jsonl", "--num-shots", "2", "--exemplars", exemplars, "--chat", "false",
               "--temperature", "0.8", "--num-samples", "2", "--output-dir", tmp_path / "samples"]  # fmt: skip
    assert run(*common, *options)[0] == 0
    records = EvaluationResult.load(tmp_path / "samples" / "base.json").records
    assert len(records) == 8 and rows[0]["response"] in records[0].prompt
    choices = [
        {"language": language, "parallel_id": i, "question": "?", "choices": ["a", "b"], "answer": "B"}
        for language in ("en", "sw")
        for i in range(2)
    ]
    write(tmp_path / "choices.jsonl", choices)
    options = [
        "--benchmark",
        tmp_path / "choices.jsonl",
        "--method",
        "likelihood",
        "--output-dir",
        tmp_path / "choices",
    ]
    assert run(*common, *options)[0] == 0
    assert {record.language_by for record in EvaluationResult.load(tmp_path / "choices" / "base.json").records} == {
        "scored"
    }


@pytest.mark.parametrize(
    "options, message",
    [
        (["--benchmark", "nothing"], "no benchmark 'nothing'; there are mgsm"),
        (["--benchmark", "items.jsonl", "--languages", "xx"], "has no 'xx'"),
        (["--benchmark", "items.jsonl", "--low-resource", "te"], "names 'te', which were not evaluated"),
        (["--benchmark", "items.jsonl", "--limit", "0"], "`limit` is 0"),
        (["--benchmark", "items.jsonl", "--num-shots", "2"], "needs `--exemplars`"),
        (["--benchmark", "items.jsonl", "--adapter", "lora", "none", "lora"], "have one name"),
        (["--benchmark", "items.jsonl", "--name", "a", "b"], "There are 1 models and 2 names"),
        (["--benchmark", "items.jsonl", "--backend", "vllm", "--adapter", "lora"], "merge the adapters first"),
        (["--benchmark", "items.jsonl", "--chat_template_kwargs", "no"], "is no JSON"),
        (["--benchmark", "items.jsonl", "--chat_template_kwargs", "[1]"], "must be a JSON object"),
        (["--benchmark", "items.jsonl", "--method", "likelihood"], "some items have none"),
        (["--benchmark", "items.jsonl", "--confidence", "1.5", "--max-new-tokens", "1"], "`confidence` is 1.5"),
    ],
)
def test_bad_input_is_told_without_a_traceback(options, message, run, tmp_path):
    status, _, error = run("evaluate", "--model", "base", *options, "--output-dir", tmp_path)
    assert status == 1 and message in error and "Traceback" not in error


def test_models_without_a_chat_template(run, folder, tmp_path):
    tokenizer = train_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    options = ["evaluate", "--model", "base", "--tokenizer", tmp_path / "plain", "--benchmark", "items.jsonl", *FAST]
    status, _, error = run(*options, "--chat", "true", "--output-dir", tmp_path / "chat")
    assert status == 1 and "no chat template" in error
    assert run(*options, "--output-dir", tmp_path / "text")[0] == 0
    assert not EvaluationResult.load(tmp_path / "text" / "base.json").settings["chat"]


def test_debug_shows_the_traceback(run, folder, tmp_path):
    with pytest.raises(ValueError, match="no benchmark"):
        run("evaluate", "--model", "base", "--benchmark", "nothing", "--debug")


def test_which_models_are_meant():
    def sources(baseline=None, **options):
        return [(each.name, each.model, each.adapter) for each in model_sources(ModelOptions(**options), baseline)]

    assert sources(model=["a/x", "b/y/"]) == [("x", "a/x", None), ("y", "b/y/", None)]
    assert sources(model=["m"], adapter=["none,s", "t"]) == [("m", "m", None), ("s", "m", "s"), ("t", "m", "t")]
    assert sources(model=["m", "n"], adapter=["s", "None"]) == [("s", "m", "s"), ("n", "n", None)]
    assert sources("base", model=["m"], name=["mine"]) == [("baseline", "base", None), ("mine", "m", None)]
    assert sources("base", model=["m"], name=["one", "two"]) == [("one", "base", None), ("two", "m", None)]
    with pytest.raises(ValueError, match="2 models and 3 adapters"):
        sources(model=["m", "n"], adapter=["s", "t", "u"])


def test_the_adapters_own_tokenizer_comes_first(folder, tmp_path):
    tokenizer = train_tokenizer()
    tokenizer.chat_template = "mine"
    tokenizer.save_pretrained(tmp_path / "adapter")
    options = ModelOptions(model=[str(folder / "base")], adapter=[str(tmp_path / "adapter")])
    (source,) = model_sources(options)
    assert load_tokenizer(source, options).chat_template == "mine"
    # Else that of the model, also where only the adapter was named
    for options in (
        ModelOptions(model=[str(folder / "base")], adapter=[str(folder / "lora")]),
        ModelOptions(model=[str(folder / "lora")]),
    ):
        (source,) = model_sources(options)
        assert load_tokenizer(source, options).chat_template == train_tokenizer().chat_template
        with loaded(source, options) as model:
            names = [name for name, _ in model.named_parameters()]
        assert any("lora_A" in name for name in names)


# compare


def test_compare_saved_results(run, folder, tmp_path):
    for name in ("base", "other"):
        options = ["--model", name, "--benchmark", "items.jsonl", "--output-dir", tmp_path, *FAST]
        assert run("evaluate", *options)[0] == 0
    files = [tmp_path / "base.json", tmp_path / "other.json"]
    status, printed, _ = run("compare", *files, "--low_resource", "sw", "th", "--output_dir", tmp_path / "both")
    assert status == 0 and "other against base" in printed
    data = json.loads((tmp_path / "both" / "report.json").read_text())
    tests = data["comparisons"][0]["tests"]
    accuracy = [EvaluationResult.load(file).metrics for file in files]
    for language in ("en", "de", "sw", "th"):
        name = f"accuracy/{language}"
        assert tests[name]["difference"] == pytest.approx(accuracy[1][name] - accuracy[0][name])
        assert name in data["comparisons"][0]["corrected"]
    assert "group/low-resource" in tests and "<img " in (tmp_path / "both" / "report.html").read_text()

    other = EvaluationResult.load(files[1])
    other.records = [record for record in other.records if record.parallel_id != "0"]
    other.settings["num_shots"] = 5
    other.save(tmp_path / "fewer.json")
    status, _, error = run("compare", files[0], tmp_path / "fewer.json", "--output_dir", tmp_path / "fewer")
    assert status == 1 and "4 only in the first" in error and "--common_rows" in error
    options = ["compare", files[0], tmp_path / "fewer.json", "--common-rows", "--output_dir", tmp_path / "fewer"]
    assert run(*options)[0] == 0
    page = (tmp_path / "fewer" / "report.html").read_text(encoding="utf-8")
    assert "4 of 44 rows are in only one of" in page and "num_shots: 0 and 5" in page


def test_compare_bad_files(run, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "y.json").write_text("no")
    for files, message in (
        ([], "Name two files of results or more"),
        (["a.json"], "Name two files of results or more"),
        (["a.json", "b.json"], "There is no file 'a.json'"),
        ([tmp_path / "x.json"] * 2, "x.json is no result of `solar-trl evaluate`"),
        ([tmp_path / "y.json"] * 2, "y.json is no result of `solar-trl evaluate`"),
    ):
        status, _, error = run("compare", *files)
        assert status == 1 and message in error


# analyze


def test_analyze(run, folder, tmp_path):
    status, printed, _ = run(
        "analyze", "--model", "other", "--baseline-model", "base", "--path", "texts.jsonl", "--output-dir", tmp_path,
        "--measures", "similarity", "mexa,retrieval", "--layers", "0", "-1", "--layer", "2", "--neurons",
        "--soft-tokens", "--prompt-column", "ask"
    )  # fmt: skip
    assert status == 0 and "other: layer 2" in printed
    data = json.loads((tmp_path / "report.json").read_text())
    assert list(data["analyses"]) == ["base", "other"] and data["layer"] == 2
    rows = Dataset.from_json(str(folder / "texts.jsonl"), cache_dir=str(tmp_path / "cache"))
    model, tokenizer = load("other")
    columns = rows["language"][:], [str(item) for item in rows["parallel_id"]]
    shared = {"prompts": rows["ask"][:]}
    states = hidden_state_summaries(model, tokenizer, rows["text"][:], [0, 2], "position_weighted", **shared)
    neurons = neuron_state_summaries(model, tokenizer, rows["text"][:], **shared)
    measures = ["similarity", "mexa", "retrieval", "neuronxa"]
    expected = analyze_layers(states, *columns, measures=measures, neuron_states=neurons)
    got = data["analyses"]["other"]
    assert got["layers"] == [0, 2]

    def values(records):
        return {(record["layer"], record["language"], record["measure"]): record["value"] for record in records}

    assert values(got["records"]) == pytest.approx(values(expected["records"]), abs=1e-6)
    soft = soft_token_summaries(model, tokenizer, rows["ask"][:], rows["text"][:])
    expected = analyze_layers({0: soft}, *columns, measures=["similarity", "centered_similarity"])
    assert values(data["soft_tokens"]["other"]["records"]) == pytest.approx(values(expected["records"]), abs=1e-6)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # 4 measures: by model 4 + heat map, side by side 2 each, map and pairs of each model
    assert page.count("<img ") == 2 * 5 + 4 * 2 + 2 * 2
    table = next(table for table in data["tables"] if table["title"] == "other: layer 2")
    by_language = {row["language"]: row for row in table["rows"]}
    assert by_language["sw"]["mexa"] == values(got["records"])[2, "sw", "mexa"] and by_language["sw"]["pairs"] == 6


@pytest.mark.parametrize(
    "options, message",
    [
        (["--path", "nothing.jsonl"], "no file or folder 'nothing.jsonl'"),
        (["--path", "items.jsonl"], "has no 'text'; its fields are 'language'"),
        (["--path", "texts.jsonl", "--languages", "en", "xx"], "has no 'xx'"),
        (["--path", "texts.jsonl", "--languages", "sw", "th"], "no row of the pivot language 'en'"),
        (["--path", "texts.jsonl", "--layers", "9"], "no layer 9"),
        (["--path", "texts.jsonl", "--layer", "9"], "`--layer` is 9"),
        (["--path", "texts.jsonl", "--soft_tokens"], "name the prompts"),
        (["--path", "texts.jsonl", "--measures", "speed"], "Unknown group of measures 'speed'"),
        (["--path", "texts.jsonl", "--limit", "0"], "`--limit` is 0"),
    ],
)
def test_analyze_bad_input(options, message, run, tmp_path):
    status, _, error = run("analyze", "--model", "base", *options, "--output-dir", tmp_path)
    assert status == 1 and message in error


def test_texts_without_parallels(run, folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    unparallel = write(tmp_path / "unparallel.jsonl", [row | {"parallel_id": i} for i, row in enumerate(rows)])
    status, _, error = run("analyze", "--model", "base", "--path", unparallel, "--output-dir", tmp_path)
    assert status == 1 and "No row has a parallel in the pivot language 'en'" in error
    fewer = write(
        tmp_path / "fewer.jsonl", [row for row in rows if (row["language"], row["parallel_id"]) != ("en", 0)]
    )
    options = ["--path", fewer, "--measures", "mexa", "--output-dir", tmp_path]
    assert run("analyze", "--model", "base", *options)[0] == 0
    assert "1 of 6 rows have no parallel in en" in (tmp_path / "report.html").read_text(encoding="utf-8")


# The documentation


def test_commands_of_the_page(folder, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    write_files(page, tmp_path)
    for settings in tmp_path.glob("*.yaml"):
        settings.write_text(settings.read_text(encoding="utf-8").replace("256", "6"), encoding="utf-8")
    for source, name in (
        ("base", "Qwen/Qwen3-0.6B"),
        ("lora", "out/sft"),
        ("lora", "out/solar"),
        ("other", "out/full"),
    ):
        shutil.copytree(folder / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^```bash cli\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for command in commands:
        program, *arguments = shlex.split(command.replace("\\\n", " ").replace("256", "6"))
        assert program == "solar-trl" and main(arguments) == 0, capsys.readouterr().err
    assert len(commands) == 4
    for name in ("items/SOLAR.json", "compared/report.html", "states/report.html", "yaml/Qwen3-0.6B.json"):
        assert (tmp_path / "reports" / name).is_file()
    assert (tmp_path / "reports" / "items" / "base.responses.jsonl").is_file()


# The program itself


def test_help_tells_of_every_option(capsys):
    for command in ("evaluate", "compare", "analyze"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        module = import_module(f"solar_trl.scripts.{command}")
        assert module.DESCRIPTION.split("\n")[0] in shown and "--config" in shown
        for name in re.findall(r"^  (--\w+)", shown, re.MULTILINE):
            words = re.search(rf"^  {name}\b.*?(?=^  --|^\w|\Z)", shown, re.MULTILINE | re.DOTALL).group(0)
            assert len(words.split()) > 4, words
        assert "==SUPPRESS==" not in shown and "default: None" not in shown
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "solar-trl COMMAND --help" in capsys.readouterr().out
    for wrong in ([], ["bogus"], ["evaluate"], ["evaluate", "--config"], ["analyze", "--model", "x", "--pat", "y"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


def test_sft_is_the_training_script(monkeypatch):
    from solar_trl.scripts import sft

    seen = []
    monkeypatch.setattr(sft, "run", lambda: seen.append(list(sys.argv)))
    before = list(sys.argv)
    assert main(["sft", "--config", "sft.yaml", "--max_steps", "3"]) == 0
    assert seen == [["solar-trl sft", "--config", "sft.yaml", "--max_steps", "3"]] and sys.argv == before


def test_the_console_script():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["solar-trl"].partition(":")
    assert getattr(import_module(module), function) is main
    command = [sys.executable, "-m", "solar_trl.scripts.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and re.fullmatch(r"solar-trl \S+", done.stdout.strip())
