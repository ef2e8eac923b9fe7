#!/bin/bash
# The three stages on one card of 24 GB: Qwen2.5-VL-3B or InternVL3-2B, the LLM learns by adapters (--lora).
#
#   bash recipes/lora_24gb.sh --rehearse        every step, small, on a CPU (with a tiny InternVL)
#   bash recipes/lora_24gb.sh                   started again it goes on where it stopped
#   the other model, of which encoder and connector train whole as in the paper:
#   MODEL=OpenGVLab/InternVL3-2B-hf CONFIG=recipes/configs/InternVL3-2B TRAIN="encoder connector llm" \
#       OUT=out/2b_lora bash recipes/lora_24gb.sh
#
# GPUs    one of 24 GB: `python recipes/plan.py --model recipes/configs/Qwen2.5-VL-3B --gpus 1 --gpu_gib 24
#         --tokens 8192 --max_new_tokens 2048 --lora 8 --train connector llm` says 12 GiB in training, 18 in
#         sampling; InternVL3-2B with all parts 13 and 14. Without --lora: 66 and 37 GiB in training.
#         The teacher in vLLM: 9 GiB of weights.
# memory  32 GiB: 14 to read the weights, and 11 in which vLLM's 7 wait while the trainer works (pinned, each
#         block rounded up to a power of two). Disk: 7 GiB a checkpoint (the adapters merged into it), 6 of
#         GRPO, 8 for a stage's optimizer: 100 GiB, and 20 for data.
# time    not measured.
GPUS=1 GIB=${GIB:-24}
. "$(dirname "$0")/stage.sh"
CONFIG=${CONFIG:-recipes/configs/Qwen2.5-VL-3B}
DATA=${DATA:-data/recipe} OUT=${OUT:-out/3b_lora}
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
TEACHER=${TEACHER:-Qwen/Qwen3-VL-4B-Thinking}  # the paper's is Skywork-R1V2; any model that thinks will do
TRAIN=${TRAIN:-connector llm}                  # the paper's encoder trains, too: 10 GiB more at 3B
SAME="--max_tiles 6 --pixels 3136 1003520"     # InternVL's limit of an image, and Qwen's (1,280 tokens)
VLLM="--rollout vllm"
# ours: rank 8, and ten times the learning rate, because adapters start at 0 and are few
LORA="--train $TRAIN --lora 8 --checkpointing --max_tokens 8192"

# the data sets of every step, from public ones: sources, licences and counts in $DATA/data.json
# Ours: 5,000 questions of the cold start (20K), 5,000 of breadth (10K rows with solutions)
stage recipes/data.py --out "$DATA" $SOURCES --cold_start 5000 --breadth 5000
# stage 1: cold start [2, 3.2]. COLD=FILE in front of the command: traces of your own, no teacher
[ -n "$COLD" ] || stage distill.py --model "$TEACHER" --data "$DATA/cold_start_questions.jsonl" --ask "$ASK" \
    --out "$OUT/cold_start.jsonl" --samples 2 --max_new_tokens 4096 $VLLM $SAME
stage sft.py --model "$MODEL" --data "${COLD:-$OUT/cold_start.jsonl}" --out "$OUT/cold_start" --ask "$ASK" \
    --lr 1e-4 --max_length 8192 $LORA $SAME
# stage 2: GRPO [3.1, 3.3]. Ours: 16 x 16 responses (32 x 32), 200 steps, lr 1e-5, 2,048 tokens (8,192)
stage grpo.py --model "$OUT/cold_start" --data "$DATA/maths.jsonl" --out "$OUT/grpo" --ask "$ASK" \
    --prompts 16 --samples 16 --lr 1e-5 --steps 200 --max_new_tokens 2048 --max_prompt 4096 --save_every 40 \
    --vllm_memory 0.45 $LORA $VLLM $SAME
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
