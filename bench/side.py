"""One side of a comparison: a process that works whenever a line comes in, and tells its times.

Started by bench/compare.py, several at a time, which then work in turn on the folder that bench/workload.py
made. Ours is grpo.py and sft.py themselves, which only wait in front of each measurement; TRL's trainers are
asked for the same: AdamW, no checkpointing of activations, on-policy, the same lengths.
"""
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

from bench.workload import SETTINGS, peak_gib, reward as pay

BATCH, BLOCK = 16, 8  # rows of an SFT step, steps of a measurement


@dataclass
class Config:
    side: tyro.conf.Positional[str]     # ours or trl
    task: tyro.conf.Positional[str]     # grpo or sft
    setting: tyro.conf.Positional[str]  # of bench.workload
    dtype: tyro.conf.Positional[str]
    folder: tyro.conf.Positional[Path]  # with model/ and rows.jsonl
    steps: int = 7                      # measurements before the process ends by itself

    def own_folder(self):
        """Two sides may do the same in another precision: each writes to a folder of its own."""
        return str(self.folder / str(os.getpid()))


class Line:
    """The conversation with compare.py: `wait` for a line, `tell` a dictionary. All else that is printed is
    thrown away."""

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w")
        sys.stdout = open(os.devnull, "w")

    def wait(self):
        if not sys.stdin.readline():
            sys.exit()

    def tell(self, **numbers):
        self.out.write(json.dumps(numbers | {"peak_gib": peak_gib()}) + "\n")
        self.out.flush()


# ------------------------------------------------------------------------------------------------------- ours

def our_grpo(cfg, line):
    import grpo
    from machinery.run import Run
    from reward import Reward
    s, make_processor, collect, log = SETTINGS[cfg.setting], grpo.Processor, grpo.collect, Run.log
    waited = 0.0

    def without_end(*args, **more):
        processor = make_processor(*args, **more)
        processor.stop_ids = [-1]  # every response has its full length
        return processor

    def rewarded(rollouts, *_):
        for r in rollouts:
            r.reward = Reward(1.0, 1.0, pay(r.text), None, "bench")

    def when_asked(*args):
        nonlocal waited
        begin = time.time()
        line.wait()
        waited = time.time() - begin  # the step's clock was running
        return collect(*args)

    def told(run, step, m):
        line.tell(step=m["time_step"] - waited, sample=m["time_sample"] - waited,
                  reward=m["time_reward"], update=m["time_update"])
        log(run, step, m)

    grpo.Processor, grpo.set_rewards, grpo.collect, Run.log = without_end, rewarded, when_asked, told
    grpo.train(grpo.Config(
        model=str(cfg.folder / "model"), data=str(cfg.folder / "rows.jsonl"), out=cfg.own_folder(),
        prompts=s.prompts, samples=s.samples, max_new_tokens=s.tokens, steps=cfg.steps, save_every=cfg.steps,
        dtype=cfg.dtype, max_tiles=1))


def our_sft(cfg, line):
    """BLOCK supervised steps a measurement. The first has what comes before them in it, too."""
    import sft
    from machinery.run import Run
    log, begin = Run.log, 0.0

    def told(run, step, m):
        log(run, step, m)
        if step % BLOCK == 0:  # then wait at once: another step would disturb the side whose turn it is
            line.tell(step=(time.time() - begin) / BLOCK)
            when_asked()

    def when_asked():
        nonlocal begin
        line.wait()
        begin = time.time()

    Run.log = told
    rows = sum(1 for _ in open(cfg.folder / "rows.jsonl"))
    when_asked()
    sft.train(sft.Config(
        model=str(cfg.folder / "model"), data=str(cfg.folder / "rows.jsonl"), out=cfg.own_folder(),
        batch=BATCH, dtype=cfg.dtype, max_tiles=1, save_every=cfg.steps * BLOCK,
        epochs=cfg.steps * BLOCK * BATCH / rows))


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
        output_dir=cfg.own_folder(), bf16=cfg.dtype == "bf16", fp16=False, report_to=[],
        use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False, save_strategy="no",
        disable_tqdm=True, logging_steps=10 ** 6, lr_scheduler_type="constant", learning_rate=1e-6,
        model_init_kwargs={"dtype": "float32"}, **more)


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
        callbacks=[stops(line, 1, spent)], processing_class=processor_of(cfg.folder / "model"),
        args=GRPOConfig(**arguments(
            cfg, per_device_train_batch_size=s.prompts * s.samples, num_generations=s.samples, beta=0.0,
            max_steps=cfg.steps, max_completion_length=s.tokens, steps_per_generation=1,
            generation_kwargs={"min_new_tokens": s.tokens})))
    timed("_generate", "sample")
    timed("_calculate_rewards", "reward")
    trainer.train()


def stops(line, block, spent):
    """A callback that waits in front of each measurement, a block of steps, and tells the mean times of a
    step behind it."""
    from transformers import TrainerCallback

    class Stops(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % block == 0:
                line.wait()
                spent.clear()
                self.begin = time.time()

        def on_step_end(self, args, state, control, **_):
            if state.global_step % block == 0:
                step = (time.time() - self.begin) / block
                update = {"update": step - sum(spent.values())} if spent else {}
                line.tell(step=step, **spent, **update)
    return Stops()


def trl_sft(cfg, line):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    rows = [{"prompt": [{"role": "user", "content": row["question"]}], "images": images,
             "completion": [{"role": "assistant", "content": row["solution"]}]}
            for row, images in rows_of(cfg)]
    SFTTrainer(
        str(cfg.folder / "model"), train_dataset=Dataset.from_list(rows), callbacks=[stops(line, BLOCK, {})],
        processing_class=processor_of(cfg.folder / "model"),
        args=SFTConfig(**arguments(cfg, per_device_train_batch_size=BATCH, max_steps=cfg.steps * BLOCK,
                                   max_length=None))).train()


if __name__ == "__main__":
    cfg = tyro.cli(Config, description=__doc__)
    work = {"ours": {"grpo": our_grpo, "sft": our_sft}, "trl": {"grpo": trl_grpo, "sft": trl_sft}}
    work[cfg.side][cfg.task](cfg, Line())
