"""The flags that distill.py, entropy_select.py and eval_mmmu.py share. No torch here."""
from dataclasses import dataclass


@dataclass
class Asking:
    """How a model is asked."""
    columns: tuple[str, ...] = ()     # OURS=THEIRS where the data name columns otherwise: question=problem
    image_root: str = ""              # folder that image paths start from; "": the data file's
    ask: str = ""                     # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                  # system prompt; "": what the chat template has
    max_new_tokens: int = 8192        # longest response
    temperature: float = 1.0          # of sampling; 0: always the most likely token
    rollout: str = "torch"            # the sampler: torch, or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1          # processes that share one vLLM engine
    max_tiles: int = 12               # tiles of an image, as in training (InternVL)
    pixels: tuple[int, int] = (0, 0)  # fewest and most pixels (Qwen-VL); 0 = what the model folder says
    dtype: str = "auto"               # bf16 (over fp32 weights), fp32, or auto: bf16 if the processor has it
    seed: int = 0                     # of sampling, and of what is drawn from the data
