"""
Fine-tune with cross-lingual alignment from the command line or a YAML file, as TRL's own `sft.py` does without.

Every argument of [`SolarSFTConfig`], [`~trl.ModelConfig`] and [`~trl.ScriptArguments`] is an option; `--config
file.yaml` reads them from a file, and options on the command line win.

# Full fine-tuning, local JSON Lines (one file per language, the same `id` on every translation)
```bash
accelerate launch examples/sft_solar.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --data_files data/en.jsonl data/sw.jsonl data/th.jsonl \
    --prompt_column question --completion_column response --parallel_id_column id \
    --conversational \
    --learning_rate 2e-5 --num_train_epochs 3 \
    --per_device_train_batch_size 8 --gradient_accumulation_steps 2 \
    --output_dir Qwen3-0.6B-SOLAR
```

# LoRA
```bash
accelerate launch examples/sft_solar.py \
    ... \
    --learning_rate 2e-4 --use_peft --lora_r 32 --lora_alpha 16
```

# 4-bit QLoRA
```bash
accelerate launch examples/sft_solar.py \
    ... \
    --learning_rate 2e-4 --use_peft --lora_r 32 --lora_alpha 16 --load_in_4bit --dtype bfloat16
```

# Data too large to hold: files in which the translations of an item follow each other
```bash
accelerate launch examples/sft_solar.py \
    ... \
    --data_files data/part-*.jsonl --dataset_streaming --shuffle_buffer 10000 --max_steps 50000
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.data import carry_pivots
from solar_trl.data.pairing import as_list
from solar_trl.data.streaming import CARRIED_PIVOT_COLUMN
from solar_trl.data.tables import column_names


@dataclass
class SolarScriptArguments(ScriptArguments):
    """
    What to train on.

    Args:
        dataset_name (`str`, *optional*):
            Dataset on the Hub, or a local folder. See also the other arguments of [`~trl.ScriptArguments`].
        data_files (`list[str]`, *optional*):
            Local JSON or JSON Lines files to train on, in place of `dataset_name`.
        eval_data_files (`list[str]`, *optional*):
            The same for evaluation.
        prompt_column (`str`, *optional*):
            Column that holds the prompt, if it is not called `prompt`.
        completion_column (`str`, *optional*):
            Column that holds the response, if it is not called `completion`.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether to make a chat of prompt and completion, to which the model's chat template applies.
        shuffle_buffer (`int`, *optional*, defaults to `1000`):
            With `dataset_streaming`, the number of items among which training rows are shuffled; 0 for the order of
            the files. See [`carry_pivots`].
    """

    # TRL's is required, unless a mixture is given
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or a local folder."})
    data_files: list[str] | None = field(
        default=None, metadata={"help": "Local JSON or JSON Lines files to train on, in place of `dataset_name`."}
    )
    eval_data_files: list[str] | None = field(
        default=None, metadata={"help": "Local JSON or JSON Lines files to evaluate on."}
    )
    prompt_column: str | None = field(
        default=None, metadata={"help": "Column that holds the prompt, if it is not called `prompt`."}
    )
    completion_column: str | None = field(
        default=None, metadata={"help": "Column that holds the response, if it is not called `completion`."}
    )
    conversational: bool = field(default=False, metadata={"help": "Whether to make a chat of prompt and completion."})
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "With `dataset_streaming`, the number of items among which training rows are shuffled."},
    )


_JSON = re.compile(r"\.(json|jsonl|ndjson)(\.(gz|bz2|xz|zst|zip))?$", re.IGNORECASE)

Rows: TypeAlias = Dataset | IterableDataset
Splits: TypeAlias = DatasetDict | IterableDatasetDict


def load_splits(script_args: SolarScriptArguments, evaluate: bool) -> tuple[Rows, Rows | None]:
    """Training and evaluation rows, with the columns named as TRL wants them."""
    if (script_args.dataset_name is None) == (script_args.data_files is None):
        raise ValueError("Give either `--dataset_name` or `--data_files`, to say what to train on.")
    if script_args.data_files is not None:
        for option in ("data_files", "eval_data_files"):
            if others := [name for name in getattr(script_args, option) or () if not _JSON.search(name)]:
                raise ValueError(
                    f"`--{option}` has {others[0]!r}, expected JSON or JSON Lines (.json, .jsonl; compressed is "
                    "fine). Write it as such, e.g. `Dataset.from_csv(path).to_json('train.jsonl')`."
                )
        files = {"train": script_args.data_files}
        if script_args.eval_data_files is not None:
            files["test"] = script_args.eval_data_files
        splits = load_dataset("json", data_files=files, streaming=script_args.dataset_streaming)
        train_name, eval_name = "train", "test"
    else:
        splits = load_dataset(
            script_args.dataset_name, name=script_args.dataset_config, streaming=script_args.dataset_streaming
        )
        train_name, eval_name = script_args.dataset_train_split, script_args.dataset_test_split
    if evaluate and eval_name not in splits:
        raise ValueError(
            f"`--eval_strategy` asks for evaluation, but there is no {eval_name!r} split (found: "
            f"{', '.join(splits)}). Pass `--eval_data_files` or `--dataset_test_split`, or set `--eval_strategy no`."
        )
    splits = rename_columns(splits, script_args)
    return splits[train_name], splits[eval_name] if evaluate else None


def rename_columns(splits: Splits, script_args: SolarScriptArguments) -> Splits:
    """`prompt` and `completion` from the columns that hold them, as a chat if asked for."""
    for name, old in (("prompt", script_args.prompt_column), ("completion", script_args.completion_column)):
        if old is None or old == name:
            continue
        for split, dataset in splits.items():
            if old not in (names := column_names(dataset)):
                raise ValueError(
                    f"`--{name}_column` is {old!r}, but the {split} split has the columns "
                    f"{', '.join(map(repr, names))}."
                )
        splits = splits.rename_column(old, name)
    if script_args.conversational:
        splits = splits.map(
            lambda row: {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
        )
    return splits


def carry(rows: Rows, training_args: SolarSFTConfig, shuffle_buffer: int = 0, evaluate: bool = False) -> Rows:
    """
    Streams with their pivots, if they have none and alignment is on; tables as they are.

    So are streams for evaluation that have no languages or ids: they get the SFT metrics alone.
    """
    if not isinstance(rows, IterableDataset) or training_args.objective is None:
        return rows
    names = column_names(rows)
    needed = [training_args.language_column, *as_list(training_args.parallel_id_column)]
    if CARRIED_PIVOT_COLUMN in names or (evaluate and not set(needed) <= set(names)):
        return rows
    return carry_pivots(
        rows,
        language_column=training_args.language_column,
        parallel_id_column=training_args.parallel_id_column,
        pivot_language=training_args.pivot_language,
        multiple_pivots=training_args.multiple_pivots,
        shuffle_buffer=shuffle_buffer or None,
        seed=training_args.seed if training_args.data_seed is None else training_args.data_seed,
    )


def main(script_args: SolarScriptArguments, training_args: SolarSFTConfig, model_args: ModelConfig) -> SolarSFTTrainer:
    """Train, save, and push to the Hub if asked to. Returns the trainer."""
    if script_args.dataset_streaming and training_args.max_steps <= 0:
        raise ValueError("`--dataset_streaming` needs `--max_steps`: how long a stream is cannot be known before.")
    model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    training_args.model_init_kwargs = {**model_init_kwargs, **(training_args.model_init_kwargs or {})}
    train_dataset, eval_dataset = load_splits(script_args, training_args.eval_strategy != "no")
    train_dataset = carry(train_dataset, training_args, script_args.shuffle_buffer)
    if eval_dataset is not None:
        eval_dataset = carry(eval_dataset, training_args, evaluate=True)
    trainer = SolarSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.accelerator.print(f"Training on {trainer.accelerator.num_processes} process(es).")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    if hasattr(trainer, "end"):  # transformers 5.18: trackers and the process group
        trainer.end()
    return trainer


def make_parser() -> TrlParser:
    """Parser of the three groups of arguments."""
    return TrlParser((SolarScriptArguments, SolarSFTConfig, ModelConfig))


def run() -> None:
    """Entry point: parse, then train."""
    main(*make_parser().parse_args_and_config())


if __name__ == "__main__":
    run()
