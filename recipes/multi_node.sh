#!/bin/bash
# Cold start and GRPO of an 8B model on several nodes by plain torchrun; the pattern for any stage and size.
#
#   NODES=2 MASTER=node0:29500 bash recipes/multi_node.sh     the same line on both nodes (srun, ssh, by hand)
#   bash recipes/multi_node.sh --rehearse                     every step, small, in one process on a CPU
#
# GPUs    two nodes of 8 x 80 GB. --hybrid keeps a whole copy on each node, so that only gradients cross the
#         network between them. `python recipes/plan.py --model recipes/configs/InternVL3-8B --gpus 16 --hybrid`
#         says 29 GiB in training, 36 in sampling.
# memory  256 GiB a node: 218 in which the weights of 8 engines wait while the trainer works, pinned, each
#         block rounded up to a power of two (14.7 GiB become 27.3), and 16 where weights are read and
#         checkpoints gathered. vLLM's sleep level 2 would keep none, but is reported to corrupt what a VLM
#         samples afterwards (NeMo-RL#2631, vllm#29341).
# disk    15 GiB a checkpoint, 90 for the optimizer. All nodes must see the out/ folder: each rank writes its
#         part of trainer/. Any number of GPUs can resume it.
# time    estimated, not measured: 1,024 responses of 1,500 tokens are 7.2e16 FLOPs, 20 s at 30% of 16 x 989
#         TFLOP/s with checkpointing; sampling 8,192 tokens at about 120 a second, 70 s.
# A rank that dies ends the job on every node, with its reason. Ranks that wait give up after 30 minutes
# at most.
NODES=${NODES:-2}
. "$(dirname "$0")/stage.sh"
CONFIG=recipes/configs/InternVL3-8B
DATA=${DATA:-data/recipe} OUT=${OUT:-out/8b}
MODEL=${MODEL:-OpenGVLab/InternVL3-8B-hf}
TEACHER=${TEACHER:-Qwen/Qwen3-VL-8B-Thinking}  # ours; the paper's is Skywork-R1V2-38B
VLLM="--rollout vllm"

# the data sets, from public ones: sources, licences and counts in $DATA/data.json. One node makes them
stage recipes/data.py --out "$DATA" $SOURCES
# stage 1: cold start [2, 3.2]. COLD=FILE in front of the command: traces of your own, no teacher
[ -n "$COLD" ] || stage distill.py --model "$TEACHER" --data "$DATA/cold_start_questions.jsonl" --ask "$ASK" \
    --out "$OUT/cold_start.jsonl" --pixels 3136 1003520 $VLLM
stage sft.py --model "$MODEL" --data "${COLD:-$OUT/cold_start.jsonl}" --out "$OUT/cold_start" --ask "$ASK" \
    --checkpointing --hybrid
# stage 2: GRPO [3.1, 3.3], with the paper's numbers
stage grpo.py --model "$OUT/cold_start" --data "$DATA/maths.jsonl" --out "$OUT/grpo" --ask "$ASK" \
    --max_prompt 6144 --checkpointing --hybrid $VLLM
# the checkpoint with the highest entropy at critical tokens [5.1]; stage 3 goes on as in r1v3_38b.sh
stage entropy_select.py --folder "$OUT/grpo" --data "$DATA/maths_val.jsonl" --ask "$ASK" $VLLM
done_all
