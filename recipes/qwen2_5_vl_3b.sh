#!/bin/bash
# The same three stages on Qwen2.5-VL-3B: does it hold where the connector is a merger in the encoder?
#
#   bash recipes/qwen2_5_vl_3b.sh --rehearse    every step, small, on a CPU (with a tiny InternVL)
#   bash recipes/qwen2_5_vl_3b.sh               started again it goes on where it stopped
#   the next generation:
#   GPUS=2 MODEL=Qwen/Qwen3-VL-4B-Instruct CONFIG=recipes/configs/Qwen3-VL-4B bash recipes/qwen2_5_vl_3b.sh
#
# GPUs    one of 80 GB: `python recipes/plan.py --model recipes/configs/Qwen2.5-VL-3B --gpus 1 --tokens 8192`
#         says 66 GiB in training and 55 in sampling. Two GPUs (GPUS=2) halve weights and optimizer.
# memory  32 GiB: 14 to read the weights, and 11 a GPU in which vLLM's 7 wait while the trainer works (pinned,
#         each block rounded up to a power of two). Disk: 7 GiB a checkpoint, 6 of GRPO, 42 for a stage's
#         optimizer: 150 GiB, and 20 for data.
# time    estimated, not measured: a GRPO step of 16 x 16 responses of about 600 tokens is 2.9e15 FLOPs, 10 s
#         with checkpointing at 40% of 989 TFLOP/s; sampling 2,048 tokens at about 80 a second, 25 s: 200
#         steps in 2 h.
GPUS=${GPUS:-1}
. "$(dirname "$0")/stage.sh"
CONFIG=${CONFIG:-recipes/configs/Qwen2.5-VL-3B}
DATA=${DATA:-data/recipe} OUT=${OUT:-out/3b}
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
TEACHER=${TEACHER:-Qwen/Qwen3-VL-8B-Thinking}  # the paper's is Skywork-R1V2; any model that thinks will do
SAME="--pixels 3136 1003520"  # at most 1,280 visual tokens an image; the folder's own limit is 16,384
VLLM="--rollout vllm"

# the data sets of every step, from public ones: sources, licences and counts in $DATA/data.json
# Ours: 5,000 questions of the cold start (20K), 5,000 of breadth (10K rows with solutions)
stage recipes/data.py --out "$DATA" $SOURCES --cold_start 5000 --breadth 5000
# stage 1: cold start [2, 3.2]. COLD=FILE in front of the command: traces of your own, no teacher
[ -n "$COLD" ] || stage distill.py --model "$TEACHER" --data "$DATA/cold_start_questions.jsonl" --ask "$ASK" \
    --out "$OUT/cold_start.jsonl" --samples 2 --max_new_tokens 4096 $VLLM $SAME
stage sft.py --model "$MODEL" --data "${COLD:-$OUT/cold_start.jsonl}" --out "$OUT/cold_start" --ask "$ASK" \
    --checkpointing --max_tokens 8192 --max_length 8192 $SAME
# stage 2: GRPO [3.1, 3.3]. Ours: 16 x 16 responses (32 x 32), 200 steps, lr 1e-6 (1e-5), 2,048 tokens (8,192)
stage grpo.py --model "$OUT/cold_start" --data "$DATA/maths.jsonl" --out "$OUT/grpo" --ask "$ASK" \
    --prompts 16 --samples 16 --lr 1e-6 --steps 200 --max_new_tokens 2048 --max_prompt 4096 \
    --max_tokens 8192 --save_every 40 --checkpointing --vllm_memory 0.3 $VLLM $SAME
# the checkpoint with the highest entropy at critical tokens [5.1]
stage entropy_select.py --folder "$OUT/grpo" --data "$DATA/maths_val.jsonl" --ask "$ASK" \
    --max_new_tokens 2048 $VLLM $SAME
# stage 3: the connector alone [3.4, 5.6], on solutions that the chosen checkpoint writes itself
for set in breadth breadth_val; do
    stage distill.py --model "$OUT/grpo" --data "$DATA/${set}_questions.jsonl" --out "$OUT/$set.jsonl" \
        --ask "$ASK" --max_new_tokens 2048 $VLLM $SAME
done
stage connector_tune.py --model "$OUT/grpo" --data "$OUT/breadth.jsonl" --val "$OUT/breadth_val.jsonl" \
    --out "$OUT/connector" --ask "$ASK" --checkpointing --max_tokens 8192 --max_length 8192 $SAME
# MMMU [4]. Ours: one run (five), 4,096 tokens (16,384)
stage eval_mmmu.py --model "$OUT/connector" --data MMMU/MMMU --out "$OUT/connector/eval" --ask "$ASK" \
    --max_new_tokens 4096 $VLLM $SAME
done_all
