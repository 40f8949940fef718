"""One optimizer step and one evaluation, on however many ranks it was launched; rank 0 saves what it saw."""

import json
import sys
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
from datasets import Dataset
from helpers import SPEC, GradientRecorder, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig
from tiny_tokenizer import train_tokenizer


def main(options: dict, out: str) -> None:
    torch.set_num_threads(1)
    lora, resume_test = options.pop("lora", False), options.pop("resume_test", False)
    resume_from = options.pop("resume_from", None)
    kwargs = {}
    if lora:
        kwargs["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False)
    rows = token_rows(SPEC) if options["pivot_batching"] == "grouped" else sorted_rows()
    trainer = solar_trainer(
        tiny_model("qwen3"),
        rows,
        train_tokenizer(),
        Path(out).parent,
        config={"max_steps": 1, "alignment_weight": 3.0, "per_device_eval_batch_size": 2, **options},
        eval_dataset=Dataset.from_list(token_rows([*SPEC, ("th", 2)], seed=5)),
        **kwargs,
    )
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
    if trainer.is_world_process_zero():
        log = trainer.state.log_history[0]
        torch.save(
            {
                "world_size": trainer.accelerator.num_processes,
                "gradients": recorder.steps[0],
                "logs": log,
                "sum_of_pairs": log["aligned_pairs"],
                "eval": metrics,
            },
            out,
        )


def sorted_rows() -> list[dict]:
    """Taken in order by batches of two, rank 1 gets rows that pair with nothing; rank 0 misses pivots."""
    spec = [("sw", 1), ("th", 1), ("en", 7), ("de", 8), ("sw", 2), ("en", 1), ("en", 2), ("fr", 9)]
    return token_rows(spec)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
    if torch.distributed.is_initialized():
        # A rank that leaves while the other still works can be aborted on its way out
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
