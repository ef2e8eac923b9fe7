#!/bin/bash
# The same three stages on Qwen2.5-VL-3B: does it hold where the connector is a merger in the encoder?
#
#   bash recipes/qwen2_5_vl_3b.sh --dry_run     checks everything that needs no GPU
#   bash recipes/qwen2_5_vl_3b.sh               started again it goes on where it stopped
#   the next generation:
#   GPUS=2 MODEL=Qwen/Qwen3-VL-4B-Instruct CONFIG=recipes/configs/Qwen3-VL-4B bash recipes/qwen2_5_vl_3b.sh
#
# GPUs    one of 80 GB: `python model.py plan --model recipes/configs/Qwen2.5-VL-3B --gpus 1 --tokens 8192`
#         says 73 GiB in training and 55 in sampling. Two GPUs (GPUS=2) halve weights and optimizer.
# memory  32 GiB; disk: 7 GiB a checkpoint, 6 of GRPO, 42 for a stage's optimizer: 150 GiB.
# time    estimated, not measured: a GRPO step of 16 x 16 responses of about 600 tokens is 2.9e15 FLOPs, 10 s
#         with checkpointing at 40% of 989 TFLOP/s; sampling 2,048 tokens at about 80 a second, 25 s: 200
#         steps in 2 h.
GPUS=${GPUS:-1}
. "$(dirname "$0")/stage.sh"
CONFIG=${CONFIG:-recipes/configs/Qwen2.5-VL-3B}
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
COLD=${COLD:-data/cold_start.jsonl}
MATHS=${MATHS:-hiyouga/geometry3k}
COLUMNS=${COLUMNS_OF_MATHS:-question=problem}
HELD_OUT=${HELD_OUT:-data/maths_val.jsonl}
BREADTH=${BREADTH:-data/breadth.jsonl}
BREADTH_VAL=${BREADTH_VAL:-data/breadth_val.jsonl}
SAME="--pixels 3136 1003520"  # at most 1,280 visual tokens an image; the folder's own limit is 16,384

stage sft.py --model "$MODEL" --data "$COLD" --out out/3b/cold_start --checkpointing --max_tokens 8192 \
    --max_length 8192 $SAME
stage grpo.py --model out/3b/cold_start --data "$MATHS" --columns $COLUMNS --out out/3b/grpo --prompts 16 \
    --samples 16 --lr 1e-6 --steps 200 --max_new_tokens 2048 --max_prompt 4096 --max_tokens 8192 \
    --save_every 40 --checkpointing --rollout vllm --vllm_memory 0.3 $SAME
stage entropy_select.py --folder out/3b/grpo --data "$HELD_OUT" --max_new_tokens 2048 --rollout vllm $SAME
stage connector_tune.py --model out/3b/grpo --data "$BREADTH" --val "$BREADTH_VAL" --out out/3b/connector \
    --checkpointing --max_tokens 8192 --max_length 8192 $SAME
stage eval_mmmu.py --model out/3b/connector --data MMMU/MMMU --out out/3b/connector/eval \
    --max_new_tokens 4096 --rollout vllm $SAME
done_all
