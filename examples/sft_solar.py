"""
Fine-tune with cross-lingual alignment: what `accelerate launch` starts. See `solar_trl/scripts/sft.py` for the
options, and
`--help` for all of them.

A run on real parallel chain-of-thought data that needs no download but the data: the worked exemplars of MGSM (Shi et
al., 2022), as JSON Lines with the fields `id`, `language`, `question` and `response`, one file per language.

    DATA=path/to/mgsm_cot
    python examples/make_tiny_model.py --texts $DATA/*.jsonl --output_dir outputs/tiny-qwen3

    accelerate launch examples/sft_solar.py \
        --model_name_or_path outputs/tiny-qwen3 --dtype float32 --data_files $DATA/*.jsonl \
        --prompt_column question --completion_column response --parallel_id_column id --conversational \
        --per_device_train_batch_size 11 --num_train_epochs 3 --learning_rate 1e-3 --bf16 false \
        --logging_steps 4 --report_to none --output_dir outputs/mgsm-solar

Add `--use_peft --lora_target_modules all-linear` for LoRA. Eleven languages make a group of eleven rows: with that
batch size every example finds its English parallel in its own batch.
"""

from solar_trl.scripts.sft import run


if __name__ == "__main__":
    run()
