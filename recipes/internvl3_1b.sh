#!/bin/bash
# The recipe on InternVL3-1B and one GPU: what a student can rent for a day.
#
#   bash recipes/internvl3_1b.sh --rehearse     every step, small, on a CPU: do this before you rent anything
#   bash recipes/internvl3_1b.sh                started again it goes on where it stopped
#
# GPUs    one of 24 GB would do with --max_tokens 8192; the lines below want 40 GB or more: `python recipes/plan.py
#         --model recipes/configs/InternVL3-1B --gpus 1 --gpu_gib 40` says 18 GiB in training.
#         The teacher in vLLM: 18 GiB of weights.
# memory  16 GiB: 4 to read the weights, and 3 in which vLLM's wait while the trainer works. Disk: 1.8 GiB a
#         checkpoint, 11 of GRPO, 10 for a stage's optimizer: 50 GiB. Data: 20 GiB are downloaded, of which 3
#         stay in data/recipe (estimated, not measured).
# time    estimated, not measured, for an 80 GB GPU: a GRPO step of 16 x 16 responses of about 600 tokens is
#         6e14 FLOPs, 3 s, and its sampling 2,048 tokens at about 150 a second, 15 s: 200 steps in an hour.
#         The teacher writes 5,000 x 2 responses of about 2,000 tokens at 2,000 a second: 3 h.
GPUS=1 GIB=${GIB:-80}
. "$(dirname "$0")/stage.sh"
CONFIG=recipes/configs/InternVL3-1B
DATA=${DATA:-data/recipe} OUT=${OUT:-out/1b}
MODEL=${MODEL:-OpenGVLab/InternVL3-1B-hf}
TEACHER=${TEACHER:-Qwen/Qwen3-VL-8B-Thinking}  # the paper's is Skywork-R1V2; any model that thinks will do
SAME="--max_tiles 6"                           # ours; the paper does not say
VLLM="--rollout vllm"

# the data sets of every step, from public ones: sources, licences and counts in $DATA/data.json
# Ours: 5,000 questions of the cold start (20K), 5,000 of breadth (10K rows with solutions)
stage recipes/data.py --out "$DATA" $SOURCES --cold_start 5000 --breadth 5000
# stage 1: cold start [2, 3.2]. COLD=FILE in front of the command: traces of your own, no teacher
[ -n "$COLD" ] || stage distill.py --model "$TEACHER" --data "$DATA/cold_start_questions.jsonl" --ask "$ASK" \
    --out "$OUT/cold_start.jsonl" --samples 2 --max_new_tokens 4096 --pixels 3136 1003520 $VLLM
stage sft.py --model "$MODEL" --data "${COLD:-$OUT/cold_start.jsonl}" --out "$OUT/cold_start" --ask "$ASK" \
    --checkpointing $SAME
# stage 2: GRPO [3.1, 3.3]. Ours: 16 x 16 responses (32 x 32), 200 steps, lr 2e-6 (1e-5), 2,048 tokens (8,192)
stage grpo.py --model "$OUT/cold_start" --data "$DATA/maths.jsonl" --out "$OUT/grpo" --ask "$ASK" \
    --prompts 16 --samples 16 --lr 2e-6 --steps 200 --max_new_tokens 2048 --max_prompt 4096 --save_every 20 \
    --checkpointing --vllm_memory 0.3 $VLLM $SAME
# the checkpoint with the highest entropy at critical tokens [5.1]
stage entropy_select.py --folder "$OUT/grpo" --data "$DATA/maths_val.jsonl" --ask "$ASK" \
    --max_new_tokens 2048 $VLLM $SAME
# stage 3: the connector alone [3.4, 5.6], on solutions that the chosen checkpoint writes itself
for set in breadth breadth_val; do
    stage distill.py --model "$OUT/grpo" --data "$DATA/${set}_questions.jsonl" --out "$OUT/$set.jsonl" \
        --ask "$ASK" --max_new_tokens 2048 $VLLM $SAME
done
stage connector_tune.py --model "$OUT/grpo" --data "$OUT/breadth.jsonl" --val "$OUT/breadth_val.jsonl" \
    --out "$OUT/connector" --ask "$ASK" --checkpointing $SAME
# MMMU [4]. Ours: one run (five), 4,096 tokens (16,384)
stage eval_mmmu.py --model "$OUT/connector" --data MMMU/MMMU --out "$OUT/connector/eval" --ask "$ASK" \
    --max_new_tokens 4096 $VLLM $SAME
done_all
