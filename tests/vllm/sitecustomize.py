"""Copied into .venv-vllm by the Makefile where torchvision does not load: pip pairs a CPU torch with its
build for CUDA, whose operators are missing then. Preprocessing images needs none of them; their names are
enough for the import. They have to be known in the processes that vLLM starts, too."""
import torch

names = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
