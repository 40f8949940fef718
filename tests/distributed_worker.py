"""One optimizer step and one evaluation, on however many ranks it was launched; rank 0 saves what it saw."""

import json
import os
import sys
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from helpers import SPEC, GradientRecorder, leave, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig
from tiny_tokenizer import train_tokenizer

from solar_trl.data import carry_pivots


def main(options: dict, out: str) -> None:
    torch.set_num_threads(1)
    lora, resume_test = options.pop("lora", False), options.pop("resume_test", False)
    resume_from = options.pop("resume_from", None)
    kwargs = {}
    if lora:
        kwargs["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False)
    uneven = options.pop("uneven", False)
    rows = token_rows(SPEC) if options["pivot_batching"] == "grouped" else sorted_rows()
    if uneven:
        # A row is missing for two even batches: accelerate takes the first one again, and so does one process
        rows = rows[:7] if int(os.environ.get("WORLD_SIZE", "1")) > 1 else [*rows[:7], rows[0]]
    eval_dataset = Dataset.from_list(token_rows([*SPEC, ("th", 2)], seed=5))
    if num_shards := options.pop("stream", None):
        stream_rows = token_rows([(language, item) for item in range(8) for language in ("sw", "en", "th")])
        rows = carry_pivots(Dataset.from_list(stream_rows).to_iterable_dataset(num_shards))
        # Shards of 21 rows and of 3
        uneven = IterableDataset.from_generator(
            lambda shards: (dict(row) for shard in shards for row in shard),
            gen_kwargs={"shards": [tuple(stream_rows[:21]), tuple(stream_rows[21:])]},
        )
        eval_dataset = carry_pivots(uneven)
    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows,
        train_tokenizer(),
        Path(out).parent,
        config={"max_steps": 1, "alignment_weight": 3.0, "per_device_eval_batch_size": 2, **options},
        eval_dataset=eval_dataset,
        **kwargs,
    )
    seen: list[list[int]] = []  # the rows that this rank trained on
    compute_loss = trainer.compute_loss

    def record(model, inputs, *args, **kwargs):
        if model.training and num_shards:
            mask = inputs["attention_mask"].bool()
            seen.extend(ids[kept].tolist() for ids, kept in zip(inputs["input_ids"], mask, strict=True))
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = record
    if resume_test:
        checkpoint = None if resume_from is None else f"{trainer.args.output_dir}/checkpoint-{resume_from}"
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.is_world_process_zero():
            torch.save(
                {
                    "world_size": trainer.accelerator.num_processes,
                    "steps": trainer.state.global_step,
                    "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
                    "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
                },
                out,
            )
        return
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    metrics = trainer.evaluate()
    rows_by_rank = gather_object([seen])
    if trainer.is_world_process_zero():
        log = trainer.state.log_history[0]
        torch.save(
            {
                "world_size": trainer.accelerator.num_processes,
                "gradients": recorder.steps[0],
                "logs": log,
                "sum_of_pairs": log["aligned_pairs"],
                "eval": metrics,
                "rows": rows_by_rank,
                "all_rows": [row["input_ids"] for row in stream_rows] if num_shards else [],
            },
            out,
        )


def sorted_rows() -> list[dict]:
    """Taken in order by batches of two, rank 1 gets rows that pair with nothing; rank 0 misses pivots."""
    spec = [("sw", 1), ("th", 1), ("en", 7), ("de", 8), ("sw", 2), ("en", 1), ("en", 2), ("fr", 9)]
    return token_rows(spec)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
    leave()
