#!/bin/bash
# Skywork-R1V3 with the paper's numbers: InternVL3-38B, cold start, GRPO, selection, connector tuning, MMMU.
#
#   bash recipes/r1v3_38b.sh --rehearse                    every step, small, on a CPU
#   NODES=4 MASTER=host:29500 bash recipes/r1v3_38b.sh     on each of four nodes
# Started again it goes on where it stopped.
#
# GPUs    32 of 80 GB (4 nodes x 8) for training and sampling, and 2 more for the verifier: `python recipes/plan.py
#         --gpus 32 --tensor_parallel 4` says 48 GiB a GPU in training and 43 in sampling. On 16 GPUs 66:
#         --max_tokens 8192 in every stage.
# memory  about 290 GiB a node, in which vLLM's weights wait while the trainer works: pinned, each block
#         rounded up to a power of two. (vLLM's sleep level 2 would keep none, but is reported to corrupt what
#         a VLM samples afterwards: NeMo-RL#2631, vllm#29341.) 72 more on the node that reads the weights and
#         gathers the checkpoints.
# disk    72 GiB a checkpoint and 430 for the newest one's optimizer; the run below keeps 11 of GRPO: 2 TiB
#         with the other stages.
# time    estimated, not measured. GRPO: 1,024 responses of about 1,500 tokens are 3.1e17 FLOPs (6 x 32.7e9
#         weights x 1.6e6 tokens), a third more for checkpointing; at 30% of 32 x 989 TFLOP/s that is 45 s.
#         Sampling ends with its longest response: 4,096 to 8,192 tokens at about 100 a second and engine, 40
#         to 80 s. Two minutes a step, 528 steps: 18 h. Cold start: 12K rows x 2 epochs x 3K tokens are 1.6e19
#         FLOPs, 40 min. Connector tuning: less. MMMU, five runs: 1 h. The teacher's 20K x 4 responses of
#         about 3K tokens at 8,000 a second on 32 GPUs: 8 h.
NODES=${NODES:-4}
. "$(dirname "$0")/stage.sh"
CONFIG=recipes/configs/InternVL3-38B
DATA=${DATA:-data/recipe} OUT=${OUT:-out/38b}
MODEL=${MODEL:-OpenGVLab/InternVL3-38B-hf}
TEACHER=${TEACHER:-Qwen/Qwen3-VL-32B-Thinking}  # ours; the paper's is Skywork-R1V2-38B
# on two more GPUs: vllm serve Qwen/Qwen2.5-32B-Instruct --tensor-parallel-size 2 --port 8000
VERIFIER=${VERIFIER:-http://localhost:8000/v1}
BIG="--checkpointing"                           # not --hybrid: a copy on every node of 8 does not fit 80 GB
VLLM="--rollout vllm --tensor_parallel 4"
JUDGE="--verifier $VERIFIER"

# the data sets of every step, from public ones: sources, licences and counts in $DATA/data.json. The paper's
# are not published; the sizes are: 20K questions, 15K maths problems, 10K rows of 20 subjects with solutions
stage recipes/data.py --out "$DATA" $SOURCES --cold_start 20000 --breadth 15000
# stage 1: cold start [2, 3.2]. COLD=FILE in front of the command: traces of your own, no teacher
[ -n "$COLD" ] || stage distill.py --model "$TEACHER" --data "$DATA/cold_start_questions.jsonl" --ask "$ASK" \
    --out "$OUT/cold_start.jsonl" --pixels 3136 1003520 $JUDGE $VLLM
stage sft.py --model "$MODEL" --data "${COLD:-$OUT/cold_start.jsonl}" --out "$OUT/cold_start" --ask "$ASK" \
    --lr 1e-5 --batch 64 --epochs 2 $BIG
# stage 2: GRPO [3.1, 3.3]; the length limit rises half way (the paper does not say when)
RL="--model $OUT/cold_start --data $DATA/maths.jsonl --out $OUT/grpo --prompts 32 --samples 32 --lr 1e-5"
RL="$RL --max_prompt 6144 $JUDGE $VLLM $BIG"
stage grpo.py $RL --ask "$ASK" --steps 264 --max_new_tokens 4096
stage grpo.py $RL --ask "$ASK" --steps 528 --max_new_tokens 8192
# the checkpoint with the highest entropy at critical tokens [5.1]
stage entropy_select.py --folder "$OUT/grpo" --data "$DATA/maths_val.jsonl" --ask "$ASK" $VLLM
# stage 3: the connector alone [3.4, 5.6], on solutions that the chosen checkpoint writes itself
for set in breadth breadth_val; do
    stage distill.py --model "$OUT/grpo" --data "$DATA/${set}_questions.jsonl" --out "$OUT/$set.jsonl" \
        --ask "$ASK" $JUDGE $VLLM
done
stage connector_tune.py --model "$OUT/grpo" --data "$OUT/breadth.jsonl" --val "$OUT/breadth_val.jsonl" \
    --out "$OUT/connector" --ask "$ASK" --lr 1e-5 --batch 64 --epochs 2 $BIG
# MMMU [4]: temperature 1, mean of five runs
stage eval_mmmu.py --model "$OUT/connector" --data MMMU/MMMU --out "$OUT/connector/eval" --ask "$ASK" \
    --runs 5 --temperature 1 --max_new_tokens 16384 $JUDGE $VLLM
done_all
