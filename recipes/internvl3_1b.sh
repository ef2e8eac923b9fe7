#!/bin/bash
# The recipe on InternVL3-1B and one GPU: what a student can rent for a day.
#
#   bash recipes/internvl3_1b.sh --dry_run      checks everything that needs no GPU
#   bash recipes/internvl3_1b.sh                started again it goes on where it stopped
#
# GPUs    one of 24 GB would do with --max_tokens 8192; the lines below want 40 GB or more: `python model.py
#         plan --model recipes/configs/InternVL3-1B --gpus 1 --gpu_gib 40` says 22 GiB in training.
# memory  16 GiB; disk: 1.8 GiB a checkpoint, 11 of GRPO, 10 for a stage's optimizer: 50 GiB.
# time    estimated, not measured, for an 80 GB GPU: a GRPO step of 16 x 16 responses of about 600 tokens is
#         6e14 FLOPs, 3 s, and its sampling 2,048 tokens at about 150 a second, 15 s: 200 steps in an hour.
GPUS=1 GIB=${GIB:-80}
. "$(dirname "$0")/stage.sh"
CONFIG=recipes/configs/InternVL3-1B
MODEL=${MODEL:-OpenGVLab/InternVL3-1B-hf}
COLD=${COLD:-data/cold_start.jsonl}
MATHS=${MATHS:-FanqingM/MMK12}
HELD_OUT=${HELD_OUT:-data/maths_val.jsonl}
BREADTH=${BREADTH:-data/breadth.jsonl}
BREADTH_VAL=${BREADTH_VAL:-data/breadth_val.jsonl}
SAME="--max_tiles 6"

stage sft.py --model "$MODEL" --data "$COLD" --out out/1b/cold_start --checkpointing $SAME
stage grpo.py --model out/1b/cold_start --data "$MATHS" --out out/1b/grpo --prompts 16 --samples 16 \
    --lr 2e-6 --steps 200 --max_new_tokens 2048 --max_prompt 4096 --save_every 20 --checkpointing \
    --rollout vllm --vllm_memory 0.3 $SAME
stage entropy_select.py --folder out/1b/grpo --data "$HELD_OUT" --max_new_tokens 2048 --rollout vllm $SAME
stage connector_tune.py --model out/1b/grpo --data "$BREADTH" --val "$BREADTH_VAL" --out out/1b/connector \
    --checkpointing $SAME
stage eval_mmmu.py --model out/1b/connector --data MMMU/MMMU --out out/1b/connector/eval \
    --max_new_tokens 4096 --rollout vllm $SAME
done_all
