"""Make the cold-start set: sample a teacher, keep what verifies, drop what rambles (paper sections 2, 3.2).

The paper's teacher wrote a trace for each of about 20K questions; those with a wrong final answer went,
and so did rambling or overlong ones (a reward model and GPT-4o judged that); about 12K stayed. Here
rambling is judged by what can be counted: repetition, length, and claims of not seeing the image.

    laptop:  python distill.py --model out/tiny/rl --data data/tiny/cold_start.jsonl --out out/distill/c.jsonl
    8 GPUs:  torchrun --nproc_per_node 8 distill.py --model TEACHER --data q.parquet --out out/distill/c.jsonl

It writes
    OUT                     one row a kept response, ready for sft.py: the question's fields, solution (what
                            the model is to write after the prompt), pass_rate
    OUT.pass_rates.jsonl    one row a question, kept or not: id, n, right, pass_rate, and the fates of its
                            responses. A difficulty split:  jq -r 'select(.pass_rate < 0.5) | .id'

Stopped at any moment, the same command goes on, and ends with what it would have written in one go. A
pass is a right final answer (rule, and verifier when one is named), whatever its form. A response is kept
when it is right, keeps the format, ended by itself and does not ramble. Of more than --keep such
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

from data import Chat, open_image, read_records
from machinery.files import (
    Refused, append_jsonl, as_read_back, changed_settings, check_flags, describe_change, main,
    read_json, read_jsonl, say, write_text, writing)
from machinery.processes import gather, start
from machinery.rows import refuse_other_rows, rows_fingerprint
from machinery.run import hold
from machinery.steps import seed_of
from model import load
from reward import Verifier, VerifierDown, score_batch
from rollout import make_sampler
from signals import denies_image, repetition

FATES = ("kept", "surplus", "duplicate", "wrong", "truncated", "format", "denial", "repetition", "long")


@dataclass
class Config:
    model: str = "out/tiny/rl"        # the teacher: model folder, run folder or hub name
    data: str = "data/tiny/cold_start.jsonl"  # questions with answers; solutions in it are not looked at
    columns: tuple[str, ...] = ()     # OURS=THEIRS where the data names columns otherwise: question=problem
    image_root: str = ""              # folder that image paths start from; "": the data file's
    out: str = "out/distill/cold_start.jsonl"  # kept responses; OUT.pass_rates.jsonl stands beside it
    samples: int = 4                  # responses to each question
    keep: int = 1                     # at most so many of them are kept
    thinking: bool = True             # end the prompt with <think>
    ask: str = ""                     # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                  # system prompt; "": what the chat template has
    max_new_tokens: int = 8192        # longest response; one that reaches it is cut off, so it is dropped
    max_length: int = 0               # drop responses of more tokens; 0: no limit beside max_new_tokens
    max_repetition: float = 0.3       # drop responses that repeat more than this share of their text
    temperature: float = 1.0          # of sampling
    limit: int = 0                    # only the first so many questions; 0: all
    chunk: int = 64                   # questions a process samples at a time: what an interruption can lose
    limit_bad: float = 0.01           # share of unusable rows in --data that is tolerated
    verifier: str = ""                # OpenAI-like server asked when the rule says no: http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # its model
    rollout: str = "torch"            # the sampler: torch, or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1          # processes that share one vLLM engine
    max_tiles: int = 12               # tiles of an image (InternVL)
    pixels: tuple[int, int] = (0, 0)  # fewest and most pixels (Qwen-VL); 0 = what the model folder says
    dtype: str = "auto"               # bf16 (over fp32 weights), fp32, or auto: bf16 if the processor has it
    seed: int = 0                     # of sampling


def fate(text, length, finish, reward, max_length=0, max_repetition=0.3):
    """Why a response is dropped, "" when it may be kept. The first reason in this order counts."""
    if finish != "stop":
        return "truncated"
    if not reward.accuracy:
        return "wrong"
    if not reward.format:
        return "format"
    if denies_image(text):
        return "denial"
    if repetition(text) > max_repetition:
        return "repetition"
    if max_length and length > max_length:
        return "long"
    return ""


def judge(rollouts, rewards, keep=1, max_length=0, max_repetition=0.3):
    """One question's responses -> (texts to keep, its row of pass_rates.jsonl without the id)."""
    fates, kept = Counter(), []
    for rollout, reward in zip(rollouts, rewards, strict=True):
        why = fate(rollout.text, len(rollout.ids), rollout.finish, reward, max_length, max_repetition)
        if not why and rollout.text in kept:
            why = "duplicate"
        elif not why and len(kept) == keep:
            why = "surplus"
        elif not why:
            why = "kept"
            kept.append(rollout.text)
        fates[why] += 1
    right = sum(bool(r.accuracy) for r in rewards)
    n = len(rollouts)
    return kept, {"n": n, "right": right, "pass_rate": right / n, "fates": dict(fates)}


def image_path(image, folder):
    """How a row in `folder` names an image. One that is no file yet (Parquet, hub) becomes one.

    Its content gives the name: the same image is written once.
    """
    if isinstance(image, str):
        return os.path.relpath(image, folder)
    if isinstance(image, bytes):
        content = image
    else:
        buffer = io.BytesIO()
        open_image(image).save(buffer, "PNG")
        content = buffer.getvalue()
    kind = Image.open(io.BytesIO(content)).format.lower()
    path = folder / "images" / f"{hashlib.sha256(content).hexdigest()[:24]}.{kind}"
    if not path.exists():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_bytes(content)
            os.replace(path.with_suffix(".part"), path)
    return os.path.relpath(path, folder)


def rows_of(record, texts, pass_rate, folder):
    """Rows for sft.py of a question's kept responses. The id gains "#0", "#1", ..."""
    images = [image_path(image, folder) for image in record.images]
    turns = {"turns": record.turns} if record.turns else {}
    return [{"id": f"{record.id}#{i}", "images": images, "question": record.question, **turns,
             "options": record.options, "answer": record.answer, "subject": record.subject, "solution": text,
             "pass_rate": pass_rate} for i, text in enumerate(texts)]


def finished(out, rates):
    """{id: row of pass_rates.jsonl} of the questions that are done: all their kept responses are there.

    What an interruption has left of other questions is removed from both files: of one question at most.
    """
    rows, rated = read_jsonl(out, {"id": str}), read_rates(rates)
    there = Counter(question(row) for row in rows)
    done = {r["id"]: r for r in rated if there[r["id"]] == r["fates"].get("kept", 0)}
    if len(lost := there.keys() - {r["id"] for r in rated}) > 1:
        raise Refused(f"{out} has responses to {len(lost)} questions that {rates} does not know: they would "
                      f"be lost. Put that file back as it was, or take another --out.")
    write_text(out, "".join(json.dumps(row) + "\n" for row in rows if question(row) in done))
    write_text(rates, "".join(json.dumps(rate) + "\n" for rate in done.values()))
    return done


def read_rates(path):
    return read_jsonl(path, {"id": str, "n": int, "right": int, "fates": dict})


def question(row):
    """Id of the question that a row of OUT answers."""
    return row["id"].rpartition("#")[0]


def check_settings(path, cfg, world, rows):
    """Refuse to go on with other settings, half of the file would be something else; and to write into files
    that are not ours."""
    now = as_read_back({k: v for k, v in asdict(cfg).items() if k not in ("out", "limit")})
    now["verifier"] = bool(cfg.verifier)  # its address may change
    now["processes"] = world.size  # the random numbers depend on it
    now["rows"] = rows
    ours = [Path(f"{cfg.out}{end}") for end in ("", ".pass_rates.jsonl", ".settings.json")]
    if Path(cfg.data).exists() and any(p.exists() and p.samefile(cfg.data) for p in ours):
        raise Refused(f"--out {cfg.out}: --data {cfg.data} is one of the files that are written there")
    if there := [p for p in ours[:2] if p.exists() and not path.exists()]:
        raise Refused(f"--out {cfg.out}: {there[0]} is there already, and without {path} nobody knows whose "
                      f"it is: it would be lost. Take another --out, or move it away.")
    if path.exists():
        before = {"rows": rows, **read_json(path)}
        refuse_other_rows(before["rows"], rows, f"--data {cfg.data}", cfg.out)
        if changed := changed_settings(before, now):
            change = describe_change(before, now, changed)
            raise Refused(f"{cfg.out} was begun with other settings ({change}). "
                          f"Use the same flags to go on, or another --out.")
    write_text(path, json.dumps(now, indent=1))


def judge_chunk(cfg, prompts, groups, verifier):
    """[(record, texts to keep, row of pass_rates.jsonl without the id)]: one of each question."""
    flat = [(p.record, r) for p, group in zip(prompts, groups) for r in group]
    records = [record for record, _ in flat]
    try:
        rewards = score_batch([r.text for _, r in flat], [record.answer for record in records], cfg.thinking,
                              [record.options for record in records], verifier,
                              [record.question for record in records])
    except VerifierDown as error:
        raise Refused(f"{error}\nWhat was sampled before is kept: "
                      f"the same command goes on from there.") from error
    rewards, judged = iter(rewards), []
    for p, group in zip(prompts, groups):
        own = [next(rewards) for _ in group]
        judged.append((p.record, *judge(group, own, cfg.keep, cfg.max_length, cfg.max_repetition)))
    return judged


def read_questions(cfg):
    """(the first --limit questions, fingerprint of all)"""
    records = read_records(cfg.data, cfg.columns, limit_bad=cfg.limit_bad, image_root=cfg.image_root)
    rows, records = rows_fingerprint(records), records[:cfg.limit or None]
    twice = [i for i, n in Counter(r.id for r in records).items() if n > 1]
    if twice:
        raise Refused(f"--data {cfg.data}: id {twice[0]} stands there more than once ({len(twice)} such "
                      f"ids). Pass rates are kept by id, so give every row its own.")
    return records, rows


def distill(cfg):
    check_flags(cfg)
    world = start(cfg.seed)
    out, rates = Path(cfg.out), Path(f"{cfg.out}.pass_rates.jsonl")
    records, rows = read_questions(cfg)
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    prompts = chat.prompts(records, thinking=cfg.thinking)
    done = None
    if world.rank == 0:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(out.with_name(f".{out.name}.lock"), out)  # noqa: F841 (until the end)
        check_settings(Path(f"{cfg.out}.settings.json"), cfg, world, rows)
        done = finished(out, rates)
    done = gather(done, world)[0]
    fates = sum((Counter(row["fates"]) for row in done.values()), Counter())
    if done:
        say(f"{len(done)} of {len(prompts)} questions are done already")
    stride = cfg.chunk * world.size
    chunks = [(k, prompts[i:i + stride]) for k, i in enumerate(range(0, len(prompts), stride))]
    chunks = [(k, part) for k, part in chunks if any(p.record.id not in done for p in part)]
    if chunks:
        # vLLM loads the model itself
        vlm = None if cfg.rollout == "vllm" else load(cfg.model, world.device, cfg.dtype)
        sampler = make_sampler(cfg.rollout, vlm, chat, dtype=cfg.dtype, tensor_parallel=cfg.tensor_parallel)
        verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    left = sum(len(part) for _, part in chunks)
    bar = tqdm(total=len(prompts), initial=len(prompts) - left, desc="distill", unit="question",
               dynamic_ncols=True, disable=world.rank > 0)
    for k, part in chunks:
        mine = part[world.rank::world.size]
        # chunk k's responses depend on (seed, k) alone: so an interruption does not change the result
        groups = sampler.generate(mine, cfg.samples, cfg.max_new_tokens, cfg.temperature,
                                  seed=seed_of(cfg.seed, k, world.rank))
        judged = gather(judge_chunk(cfg, mine, groups, verifier), world)
        for record, texts, rate in (item for part_of_rank in judged for item in part_of_rank):
            if record.id in done:  # sampled again with its chunk
                continue
            fates.update(rate["fates"])
            if world.rank == 0:
                append_jsonl(out, rows_of(record, texts, rate["pass_rate"], out.parent))
                append_jsonl(rates, [{"id": record.id, **rate}])
        bar.update(len(part))
        bar.set_postfix({f: fates[f] for f in FATES if fates[f]})
    bar.close()
    if world.rank == 0:
        summary(out, rates, fates)


def summary(out, rates, fates):
    """What happened to all responses, and how hard the questions were."""
    total, questions = max(1, fates.total()), read_rates(rates)
    print(f"{fates.total()} responses to {len(questions)} questions: "
          + ", ".join(f"{f} {fates[f]} ({100 * fates[f] / total:.1f}%)" for f in FATES if fates[f]))
    none, every = sum(q["right"] == 0 for q in questions), sum(q["right"] == q["n"] for q in questions)
    some = len(questions) - none - every
    print(f"questions by their right responses: none {none}, some {some}, all {every}")
    without = len(questions) - len({question(row) for row in read_jsonl(out)})
    print(f"{out}: {fates['kept']} rows; {without} questions have no response that could be kept")


if __name__ == "__main__":
    main(distill, Config)
