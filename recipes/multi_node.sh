#!/bin/bash
# GRPO of an 8B model on several nodes by plain torchrun; the pattern for any stage and size.
#
#   NODES=2 MASTER=node0:29500 bash recipes/multi_node.sh     the same line on both nodes (srun, ssh, by hand)
#   bash recipes/multi_node.sh --dry_run                      checks everything that needs no GPU
#
# GPUs    two nodes of 8 x 80 GB. --hybrid keeps a whole copy on each node, so that only gradients cross the
#         network between them. `python model.py plan --model recipes/configs/InternVL3-8B --gpus 16 --hybrid`
#         says 38 GiB in training.
# memory  16 GiB where weights are read and checkpoints gathered; disk: 15 GiB a checkpoint, 90 for the
#         optimizer. All nodes must see the out/ folder: each rank writes its part of trainer/. Any number of
#         GPUs can resume it.
# time    estimated, not measured: 1,024 responses of 1,500 tokens are 7.2e16 FLOPs, 20 s at 30% of 16 x 989
#         TFLOP/s with checkpointing; sampling 8,192 tokens at about 120 a second, 70 s.
# A rank that dies ends the job on every node, with its reason. Ranks that wait give up after 30 minutes
# at most.
NODES=${NODES:-2}
. "$(dirname "$0")/stage.sh"
CONFIG=recipes/configs/InternVL3-8B
stage grpo.py --model "${MODEL:-OpenGVLab/InternVL3-8B-hf}" --data "${MATHS:-FanqingM/MMK12}" \
    --out out/8b/grpo --max_prompt 6144 --checkpointing --hybrid --rollout vllm
done_all
