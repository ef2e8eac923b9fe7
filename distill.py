"""Make the cold-start set: sample a teacher, keep what verifies, drop what rambles (paper sections 2, 3.2).

The paper's teacher wrote a trace for each of about 20K questions; those with a wrong final answer went,
and so did rambling or overlong ones (a reward model and GPT-4o judged that); about 12K stayed. Here
rambling is judged by what can be counted: repetition, length, and claims of not seeing the image.

    laptop:  python distill.py --model out/tiny/rl --data data/tiny/cold_start.jsonl --out out/distill/c.jsonl
    8 GPUs:  torchrun --nproc_per_node 8 distill.py --model TEACHER --data q.parquet --out out/distill/c.jsonl

OUT gets a row a kept response, ready for sft.py: the question's fields, solution (what the model is to write
after the prompt), pass_rate. OUT.pass_rates.jsonl gets a row a question, kept or not: id, n, right, pass_rate
and the fates of its responses. A difficulty split:  jq -r 'select(.pass_rate < 0.5) | .id'

Stopped at any moment, the same command goes on, and ends with what it would have written in one go. A pass
is a right final answer (rule, and verifier when one is named), whatever its form. Of more than --keep good
responses to a question the first are kept: choosing the shortest or the longest would teach a length.
"""
import hashlib
import io
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data import Processor, read_records
from machinery.asking import Asking
from machinery.files import (
    Refused, append_jsonl, changed_settings, main, read_json, read_jsonl, say, write_json, write_text)
from machinery.parallel import gather, start_processes
from machinery.rows import rows_fingerprint
from machinery.run import hold, seed_of
from model import load
from reward import Verifier, score_batch
from rollout import make_sampler
from signals import denies_image, repetition


@dataclass
class Config(Asking):
    model: str = "out/tiny/rl"        # the teacher: model folder, run folder or hub name
    data: str = "data/tiny/cold_start.jsonl"  # questions with answers; solutions in it are not looked at
    out: str = "out/distill/cold_start.jsonl"  # kept responses; OUT.pass_rates.jsonl stands beside it
    samples: int = 4                  # responses to each question
    keep: int = 1                     # at most so many of them are kept
    thinking: bool = True             # end the prompt with <think>
    max_length: int = 0               # drop longer responses (tokens), beside those cut off; 0: no limit
    max_repetition: float = 0.3       # drop responses that repeat more than this share of their text
    limit: int = 0                    # only the first so many questions; 0: all
    chunk: int = 64                   # questions a process samples at a time: what an interruption can lose
    limit_bad: float = 0.01           # share of unusable rows in --data that is tolerated
    verifier: str = ""                # OpenAI-like server asked when the rule says no: http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # its model


def judge(rollouts, rewards, keep=1, max_length=0, max_repetition=0.3):
    """One question's responses -> (texts to keep, its row of pass_rates.jsonl without the id).

    Of the reasons to drop a response the first counts.
    """
    fates, kept = Counter(), []
    for rollout, reward in zip(rollouts, rewards, strict=True):
        reasons = {"truncated": rollout.finish != "stop", "wrong": not reward.accuracy,
                   "format": not reward.format, "denial": denies_image(rollout.text),
                   "repetition": repetition(rollout.text) > max_repetition,
                   "long": max_length and len(rollout.ids) > max_length,
                   "duplicate": rollout.text in kept, "surplus": len(kept) == keep}
        why = next((why for why, holds in reasons.items() if holds), "kept")
        kept += [rollout.text] * (why == "kept")
        fates[why] += 1
    n, right = len(rollouts), sum(bool(r.accuracy) for r in rewards)
    return kept, {"n": n, "right": right, "pass_rate": right / n, "fates": dict(fates)}


def image_path(image, folder):
    """How a row in `folder` names an image. Bytes (Parquet, hub) become a file. Its content gives the name:
    the same image is written once."""
    if isinstance(image, str):
        return os.path.relpath(image, folder)
    kind = Image.open(io.BytesIO(image)).format.lower()
    path = folder / "images" / f"{hashlib.sha256(image).hexdigest()[:24]}.{kind}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_bytes(image)
        os.replace(path.with_suffix(".part"), path)
    return os.path.relpath(path, folder)


def rows_of(record, texts, pass_rate, folder):
    """Rows for sft.py of a question's kept responses. The id gains "#0", "#1", ..."""
    images = [image_path(image, folder) for image in record.images]
    turns = {"turns": record.turns} if record.turns else {}
    return [{"id": f"{record.id}#{i}", "images": images, "question": record.question, **turns,
             "options": record.options, "answer": record.answer, "subject": record.subject, "solution": text,
             "pass_rate": pass_rate} for i, text in enumerate(texts)]


def begin(cfg, world, rows):
    """{id: row of pass_rates.jsonl} of the questions that are done: all their kept responses are in OUT. What
    an interruption has left of another one is removed. Refused is what would mix two kinds of rows, or lose
    some: other flags, other data, files of somebody else."""
    out, rates, settings = (Path(f"{cfg.out}{end}") for end in ("", ".pass_rates.jsonl", ".settings.json"))
    now = {k: v for k, v in asdict(cfg).items() if k not in ("out", "limit")}
    now |= {"verifier": bool(cfg.verifier), "processes": world.size, "rows": rows}  # its address may change
    before = read_json(settings) if settings.exists() else {}
    changed = changed_settings(before, now)
    if changed and (before or rates.exists()) or out.exists() and not rates.exists():
        raise Refused(f"--out {cfg.out} was begun with other flags or data ({changed[:300]}), or {rates} is "
                      f"gone. Use the same ones to go on, or another --out.")
    write_json(settings, now)
    kept, rated = read_jsonl(out), read_jsonl(rates)
    there = Counter(row["id"].rpartition("#")[0] for row in kept)
    done = {r["id"]: r for r in rated if there[r["id"]] == r["fates"].get("kept", 0)}
    write_text(rates, "".join(json.dumps(rate) + "\n" for rate in done.values()))
    write_text(out, "".join(json.dumps(row) + "\n" for row in kept if row["id"].rpartition("#")[0] in done))
    return done


def distill(cfg):
    world, out, rates = start_processes(cfg.seed), Path(cfg.out), Path(f"{cfg.out}.pass_rates.jsonl")
    records = read_records(cfg.data, cfg.columns, limit_bad=cfg.limit_bad, image_root=cfg.image_root)
    rows, records = rows_fingerprint(records), records[:cfg.limit or None]
    if len({r.id for r in records}) < len(records):
        raise Refused(f"--data {cfg.data}: an id stands there more than once, and pass rates are kept by id")
    processor, done = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system), None
    prompts = processor.prompts(records, thinking=cfg.thinking)
    if world.rank == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(out.with_name(f".{out.name}.lock"), out)  # noqa: F841 (until the end)
        done = begin(cfg, world, rows)
    done = gather(done, world)[0]
    fates = sum((Counter(row["fates"]) for row in done.values()), Counter())
    stride = cfg.chunk * world.size
    chunks = [(k, prompts[i:i + stride]) for k, i in enumerate(range(0, len(prompts), stride))]
    chunks = [(k, part) for k, part in chunks if any(p.record.id not in done for p in part)]
    if chunks:
        verifier = Verifier.of(cfg)
        # vLLM loads the model itself
        vlm = None if cfg.rollout == "vllm" else load(cfg.model, world.device, cfg.dtype)
        sampler = make_sampler(cfg.rollout, vlm, processor, dtype=cfg.dtype,
                               tensor_parallel=cfg.tensor_parallel)
    say(f"{len(done)} of {len(prompts)} questions are done already")
    bar = tqdm(chunks, desc="distill", unit="chunk", dynamic_ncols=True, disable=world.rank > 0)
    for k, part in bar:
        mine = part[world.rank::world.size]
        # chunk k's responses depend on (seed, k) alone: so an interruption does not change the result
        groups = sampler.generate(mine, cfg.samples, cfg.max_new_tokens, cfg.temperature,
                                  seed=seed_of(cfg.seed, k, world.rank))
        flat = [(p.record, r.text) for p, group in zip(mine, groups) for r in group]
        rewards = iter(score_batch(
            [text for _, text in flat], [record.answer for record, _ in flat], cfg.thinking,
            [record.options for record, _ in flat], verifier, [record.question for record, _ in flat]))
        judged = gather([(p.record, *judge(group, [next(rewards) for _ in group], cfg.keep, cfg.max_length,
                                           cfg.max_repetition)) for p, group in zip(mine, groups)], world)
        for record, texts, rate in (item for part_of_rank in judged for item in part_of_rank):
            if record.id in done:  # sampled again with its chunk
                continue
            fates.update(rate["fates"])
            if world.rank == 0:
                append_jsonl(out, rows_of(record, texts, rate["pass_rate"], out.parent))
                append_jsonl(rates, [{"id": record.id, **rate}])
        bar.set_postfix(fates)
    shares = ", ".join(f"{fate} {n} ({100 * n / fates.total():.1f}%)" for fate, n in fates.most_common())
    say(f"{out}: {fates.total()} responses to {len(prompts)} questions: {shares}")


if __name__ == "__main__":
    main(distill, Config)
