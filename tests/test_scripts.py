"""The example script, as a user starts it, on local JSON files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_tokenizer import LANGUAGES, parallel_rows

from solar_trl import SolarSFTConfig
from solar_trl.scripts.sft import SolarScriptArguments, carry, load_splits, main, make_parser


ROOT = Path(__file__).parent.parent
MGSM = Path(os.environ.get("SOLAR_TRL_DATA", ROOT.parent / "shared" / "data")) / "mgsm_cot"
COLUMNS = "--prompt_column question --completion_column response --parallel_id_column {} --conversational"
FAST = "--report_to none --bf16 false --use_cpu --max_steps 6 --logging_steps 2 --learning_rate 1e-3 --dtype float32"


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """One JSON Lines file per language."""
    folder = tmp_path_factory.mktemp("data")
    for language in LANGUAGES:
        lines = [json.dumps(row, ensure_ascii=False) for row in parallel_rows([language])]
        (folder / f"{language}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [str(folder / f"{language}.jsonl") for language in LANGUAGES]


def call(command, **environment):
    env = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tiny(own_files, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "model"
    out = call(["examples/make_tiny_model.py", "--texts", *own_files, "--output_dir", str(path)])
    assert "parameters" in out
    return str(path)


def logs_of(output_dir):
    (checkpoint,) = Path(output_dir).glob("checkpoint-*")
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


@pytest.mark.skipif(not MGSM.is_dir(), reason=f"no {MGSM}")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_real_chain_of_thought_in_eleven_languages(lora, tiny, tmp_path):
    files = sorted(map(str, MGSM.glob("*.jsonl")))
    assert len(files) == 11
    command = ["examples/sft_solar.py", "--model_name_or_path", tiny, "--data_files", *files]
    command += COLUMNS.format("id").split() + FAST.split()
    command += ["--per_device_train_batch_size", "11", "--pivot_batching", "grouped"]
    command += ["--output_dir", str(tmp_path / "out")]
    if lora:
        command += ["--use_peft", "--lora_target_modules", "all-linear"]
    out = call(command)
    assert "88 rows, 80 pairs with 8 pivots" in out and "Training on 1 process(es)." in out
    logs = [log for log in logs_of(tmp_path / "out") if "alignment_loss" in log]
    assert [log["aligned_pairs"] for log in logs] == [10, 10, 10]  # whole groups of eleven
    assert logs[-1]["pivot_similarity"] > logs[0]["pivot_similarity"]
    assert (tmp_path / "out" / ("adapter_model.safetensors" if lora else "model.safetensors")).exists()


@pytest.mark.distributed
def test_accelerate_launch_on_two_processes(own_files, tiny, tmp_path):
    command = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "examples/sft_solar.py",
    ]
    command += ["--model_name_or_path", tiny, "--data_files", *own_files, "--eval_data_files", *own_files]
    command += COLUMNS.format("parallel_id").split() + FAST.split()
    command += [
        "--eval_strategy",
        "epoch",
        "--per_device_train_batch_size",
        "4",
        "--pivot_batching",
        "grouped",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    out = call(command)
    assert "Training on 2 process(es)." in out
    logs = logs_of(tmp_path / "out")
    assert [log["aligned_pairs"] for log in logs if "alignment_loss" in log] == [6, 6, 6]  # over both ranks
    assert any(log.get("eval_aligned_pairs") == 24 for log in logs)


@pytest.fixture(scope="module")
def adjacent_files(tmp_path_factory):
    """JSON Lines files in which the translations of an item follow each other."""
    folder = tmp_path_factory.mktemp("adjacent")
    by_language = [list(parallel_rows([language])) for language in LANGUAGES]
    items = list(zip(*by_language, strict=True))
    for part in range(2):
        lines = [json.dumps(row, ensure_ascii=False) for item in items[part::2] for row in item]
        (folder / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [str(folder / f"{part}.jsonl") for part in range(2)]


def test_streaming(adjacent_files, tiny, tmp_path):
    """The same rows as a stream: shuffled by item, aligned, evaluated, and trained on with dataloader workers."""
    command = ["examples/sft_solar.py", "--model_name_or_path", tiny, "--data_files", *adjacent_files]
    command += ["--eval_data_files", *adjacent_files, "--dataset_streaming", "--shuffle_buffer", "4"]
    command += COLUMNS.format("parallel_id").split() + FAST.split()
    command += ["--eval_strategy", "steps", "--eval_steps", "6", "--dataloader_num_workers", "2"]
    command += ["--per_device_train_batch_size", str(len(LANGUAGES)), "--output_dir", str(tmp_path / "out")]
    call(command)
    logs = logs_of(tmp_path / "out")
    aligned = [log for log in logs if "alignment_loss" in log]
    assert [log["aligned_pairs"] for log in aligned] == [len(LANGUAGES) - 1] * 3  # whole items
    assert aligned[-1]["pivot_similarity"] > aligned[0]["pivot_similarity"]
    n_rows = sum(len(Path(file).read_text(encoding="utf-8").splitlines()) for file in adjacent_files)
    assert any(log.get("eval_aligned_pairs") == n_rows * (len(LANGUAGES) - 1) // len(LANGUAGES) for log in logs)


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ("adjacent", "", "`--dataset_streaming` needs `--max_steps`"),
        ("adjacent", "--max_steps 1 --parallel_id_column uid", r"no column 'uid' \(`parallel_id_column`\)"),
        ("adjacent", "--max_steps 1 --multiple_pivots sample", "`multiple_pivots` is 'sample'"),
        ("adjacent", "--max_steps 1 --shuffle_buffer -1", "`shuffle_buffer` is -1"),
        ("by language", "--max_steps 1", "the translations of an item must be adjacent"),
    ],
)
def test_bad_streams(files, arguments, message, adjacent_files, own_files, tmp_path):
    command = ["--model_name_or_path", "no-such-model", "--dataset_streaming", "--output_dir", str(tmp_path)]
    command += ["--data_files", *(adjacent_files if files == "adjacent" else own_files), *arguments.split()]
    command += ["--prompt_column", "question", "--completion_column", "response"]
    command += ["--use_cpu", "--bf16", "false", "--report_to", "none"]
    with pytest.raises(ValueError, match=message):
        main(*make_parser().parse_args_and_config(command))


@pytest.mark.parametrize("option", ["data_files", "eval_data_files"])
def test_other_kinds_of_files_are_named(option, adjacent_files):
    files = {"data_files": adjacent_files, option: ["rows.csv"]}
    with pytest.raises(ValueError, match=rf"`--{option}` has 'rows\.csv', expected JSON"):
        load_splits(SolarScriptArguments(**files), evaluate=False)


def test_streams_that_stay_as_they_are(adjacent_files):
    """Pivots are carried once, and only where alignment needs them."""
    script_args = SolarScriptArguments(data_files=adjacent_files, dataset_streaming=True)
    rows, _ = load_splits(script_args, evaluate=False)
    config = SolarSFTConfig("out", use_cpu=True, bf16=False, report_to="none")
    carried = carry(rows, config)
    assert "pivot" in next(iter(carried)) and carry(carried, config) is carried
    in_order, shuffled = (
        [row["parallel_id"] for row in carried],
        [row["parallel_id"] for row in carry(rows, config, 8)],
    )
    assert sorted(in_order) == sorted(shuffled) and in_order != shuffled
    off = SolarSFTConfig("out", use_cpu=True, bf16=False, report_to="none", alignment_objective="none")
    assert carry(rows, off) is rows
    plain = rows.remove_columns("language")
    assert carry(plain, config, evaluate=True) is plain
    table, _ = load_splits(SolarScriptArguments(data_files=adjacent_files), evaluate=False)
    assert carry(table, config) is table


def test_config_file(tmp_path, own_files):
    path = tmp_path / "config.yaml"
    path.write_text(
        f"data_files: {json.dumps(own_files)}\noutput_dir: out\nalignment_weight: 0.5\nuse_cpu: true\nbf16: false\n"
    )
    script_args, training_args, model_args = make_parser().parse_args_and_config(["--config", str(path), "--use_peft"])
    assert script_args.data_files == own_files and training_args.alignment_weight == 0.5 and model_args.use_peft


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either `--dataset_name` or `--data_files`"),
        ({"data_files": "own", "dataset_name": "x"}, "either `--dataset_name` or `--data_files`"),
        ({"data_files": "own", "prompt_column": "query"}, "`--prompt_column` is 'query'"),
        (
            {"data_files": "own", "prompt_column": "query", "dataset_streaming": True},
            r"'query', but the train split has the columns .*'question'",
        ),
    ],
)
def test_bad_arguments(arguments, message, own_files):
    arguments = {k: own_files if v == "own" else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=message):
        load_splits(SolarScriptArguments(**arguments), evaluate=False)


def test_evaluation_needs_a_split(own_files):
    with pytest.raises(ValueError, match="no 'test' split"):
        load_splits(SolarScriptArguments(data_files=own_files), evaluate=True)
    train, test = load_splits(
        SolarScriptArguments(data_files=own_files, eval_data_files=own_files[:1], completion_column="response"), True
    )
    assert "completion" in train.column_names and len(train) == 4 * len(test)
