"""One side of a comparison with TRL: a process that works whenever a line comes in, and tells its times.

Started by bench/compare.py, twice for each setting: `ours` and `trl`. Both read the folder that workload.py
made. Ours is grpo.py and sft.py themselves, which only wait in front of each step; TRL's trainers are asked
for the same: AdamW, no checkpointing of activations, on-policy, the same lengths.
"""
import json
import os
import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import tyro
from PIL import Image

from bench.workload import SETTINGS, reward as pay

BATCH, BLOCK = 16, 8  # rows of an SFT step, steps of a measurement


@dataclass
class Config:
    side: tyro.conf.Positional[str]     # ours or trl
    task: tyro.conf.Positional[str]     # grpo or sft
    folder: tyro.conf.Positional[Path]  # with model/ and rows.jsonl
    setting: str = "short"              # of bench.workload
    dtype: str = "fp32"
    steps: int = 6


class Line:
    """The talk with compare.py: `wait` for a line, `tell` a dictionary. All else that is printed is thrown
    away."""

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w")
        sys.stdout = open(os.devnull, "w")

    def wait(self):
        if not sys.stdin.readline():
            sys.exit()

    def tell(self, **numbers):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20  # GiB
        self.out.write(json.dumps(numbers | {"peak_gib": peak}) + "\n")
        self.out.flush()


# ------------------------------------------------------------------------------------------------------- ours

def our_grpo(cfg, line):
    import grpo
    from machinery.run import Run
    from reward import Reward
    s, collect, log, chat_of = SETTINGS[cfg.setting], grpo.collect, Run.log, grpo.Chat

    def when_asked(*args):
        line.wait()
        return collect(*args)

    def told(run, step, m):
        line.tell(step=m["time_step"], sample=m["time_sample"], reward=m["time_reward"],
                  update=m["time_update"])
        log(run, step, m)

    def without_end(*args, **more):
        chat = chat_of(*args, **more)
        chat.stop_ids = [-1]  # every response has its full length
        return chat

    def rewarded(rollouts, **_):
        for r in rollouts:
            r.reward = Reward(1.0, 1.0, pay(r.text), None, "bench")

    grpo.collect, Run.log, grpo.Chat, grpo.set_rewards = when_asked, told, without_end, rewarded
    grpo.train(grpo.Config(
        model=str(cfg.folder / "model"), data=str(cfg.folder / "rows.jsonl"), out=str(cfg.folder / "ours"),
        prompts=s.prompts, samples=s.samples, max_new_tokens=s.tokens, steps=cfg.steps, save_every=cfg.steps,
        dtype=cfg.dtype, max_tiles=1))


def our_sft(cfg, line):
    import sft
    from machinery.run import Run
    log, begin = Run.log, [0.0]

    def told(run, step, m):
        log(run, step, m)
        if step % BLOCK == 0:
            line.tell(step=time.time() - begin[0])
            line.wait()
            begin[0] = time.time()

    Run.log = told
    line.wait()
    begin[0] = time.time()
    rows = sum(1 for _ in open(cfg.folder / "rows.jsonl"))
    sft.train(sft.Config(
        model=str(cfg.folder / "model"), data=str(cfg.folder / "rows.jsonl"), out=str(cfg.folder / "ours"),
        batch=BATCH, epochs=cfg.steps * BLOCK * BATCH / rows, dtype=cfg.dtype, max_tiles=1))


# -------------------------------------------------------------------------------------------------------- TRL

def rows_of(cfg):
    for text in open(cfg.folder / "rows.jsonl"):
        row = json.loads(text)
        images = [Image.open(cfg.folder / name).convert("RGB") for name in row["images"]]
        yield row, images


def processor_of(folder):
    """The family's processor, without the one for videos, which needs torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer, InternVLProcessor

    class ForImages(InternVLProcessor):
        def check_argument_for_proper_class(self, *_):
            pass

    tokenizer = AutoTokenizer.from_pretrained(folder)
    visual = json.loads((folder / "processor_config.json").read_text())["image_seq_length"]
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return ForImages(images, tokenizer, None, visual, chat_template=tokenizer.chat_template)


def arguments(cfg, **more):
    return dict(
        output_dir=str(cfg.folder / "trl"), bf16=cfg.dtype == "bf16", fp16=False, use_cpu=True, report_to=[],
        gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, logging_steps=10 ** 6,
        lr_scheduler_type="constant", learning_rate=1e-6, **more)


def trl_grpo(cfg, line):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    s, spent = SETTINGS[cfg.setting], defaultdict(float)
    rows = [{"prompt": [{"role": "user", "content": row["question"]}], "images": images}
            for row, images in rows_of(cfg)]

    def rewards(completions, **_):
        return [pay(c[0]["content"] if isinstance(c, list) else c) for c in completions]

    def timed(name, key):
        work = getattr(trainer, name)

        def measured(*args, **more):
            begin = time.time()
            out = work(*args, **more)
            spent[key] += time.time() - begin
            return out
        setattr(trainer, name, measured)

    trainer = GRPOTrainer(
        str(cfg.folder / "model"), rewards, train_dataset=Dataset.from_list(rows),
        callbacks=[stops(line, spent, s)], processing_class=processor_of(cfg.folder / "model"),
        args=GRPOConfig(**arguments(
            cfg, per_device_train_batch_size=s.prompts * s.samples, num_generations=s.samples, beta=0.0,
            max_steps=cfg.steps, max_completion_length=s.tokens, steps_per_generation=1,
            generation_kwargs={"min_new_tokens": s.tokens}, model_init_kwargs={"dtype": "float32"})))
    timed("_generate", "sample")
    timed("_calculate_rewards", "reward")
    trainer.train()


def stops(line, spent, s=None):
    """A callback that waits in front of each measurement and tells its times behind it."""
    from transformers import TrainerCallback
    every, begin = 1 if s else BLOCK, SimpleNamespace(at=0.0)

    class Stops(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % every == 0:
                line.wait()
                spent.clear()
                begin.at = time.time()

        def on_step_end(self, args, state, control, **_):
            if state.global_step % every == 0:
                step, more = time.time() - begin.at, {}
                if s:
                    more = {**spent, "update": step - sum(spent.values())}
                line.tell(step=step, **more)
    return Stops()


def trl_sft(cfg, line):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    rows = [{"prompt": [{"role": "user", "content": row["question"]}], "images": images,
             "completion": [{"role": "assistant", "content": row["solution"]}]}
            for row, images in rows_of(cfg)]
    SFTTrainer(
        str(cfg.folder / "model"), train_dataset=Dataset.from_list(rows), callbacks=[stops(line, {})],
        processing_class=processor_of(cfg.folder / "model"),
        args=SFTConfig(**arguments(cfg, per_device_train_batch_size=BATCH, max_steps=cfg.steps * BLOCK,
                                   max_length=None, model_init_kwargs={"dtype": "float32"}))).train()


if __name__ == "__main__":
    cfg = tyro.cli(Config, description=__doc__)
    {"ours grpo": our_grpo, "ours sft": our_sft, "trl grpo": trl_grpo,
     "trl sft": trl_sft}[f"{cfg.side} {cfg.task}"](cfg, Line())
