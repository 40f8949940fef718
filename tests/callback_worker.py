"""A training run with `CrossLingualEvalCallback`, on however many ranks it was launched; rank 0 saves what it saw."""

import json
import sys
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from helpers import SPEC, leave, solar_trainer, token_rows
from models import tiny_model
from tiny_tokenizer import parallel_rows, train_tokenizer

import solar_trl.callbacks
from solar_trl import CrossLingualEvalCallback


def main(options: dict, out: str) -> None:
    torch.set_num_threads(1)
    fail_on = options.pop("fail_on", None)
    trainer = solar_trainer(
        tiny_model("qwen3", vocab_size=384),
        token_rows(SPEC),
        train_tokenizer(),
        Path(out).parent,
        # Weights that stay, whatever the ranks train on
        config={"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0},
        eval_dataset=Dataset.from_list(token_rows(SPEC, seed=5)),
    )
    rows = Dataset.from_list(parallel_rows(["en", "sw", "th"]))
    path = Path(out).with_suffix(f".{trainer.accelerator.process_index}.jsonl")
    rows.to_json(path)
    texts = rows.rename_column("response", "text").rename_column("question", "prompt")
    trainer.add_callback(CrossLingualEvalCallback(trainer, str(path), texts, max_new_tokens=4, **options))
    rank = trainer.accelerator.process_index
    if fail_on is not None:
        generate = solar_trl.callbacks.generate_responses

        def failing(*args, **kwargs):
            if rank == fail_on and trainer.state.global_step == 2:
                raise ValueError("out of luck")
            return generate(*args, **kwargs)

        solar_trl.callbacks.generate_responses = failing
    failed = None
    try:
        trainer.train()
    except (ValueError, RuntimeError) as error:
        failed = repr(error)
    scores = [
        {name: value for name, value in log.items() if "crosslingual" in name} for log in trainer.state.log_history
    ]
    gathered = gather_object([(failed, [score for score in scores if score])])
    if trainer.is_world_process_zero():
        torch.save({"world_size": trainer.accelerator.num_processes, "ranks": gathered}, out)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
    leave()
