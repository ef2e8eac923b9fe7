"""MMMU: answers a model's questions (900 at validation), keeps every response, and scores them in two ways.

The paper's evaluation (section 4; 6.2 for the modes): temperature 1.0, up to 16,384 new tokens, the mean over
5 runs, a rule plus a judge. Its "thinking budget" (section 6.3) is the number of generated tokens, here
--max_new_tokens 1024, 2048, ... The two halves of this file are the two halves of the job:

    score   responses -> tables. No model, no torch, seconds. `score_rows` is the function.
    run     questions -> responses.jsonl, in chunks. After a stop, the same command goes on. Then it scores.

Two scores stand side by side because a parser alone can move a table by 15 points:
    rule      ours, deterministic. Only the reply (what follows the last </think>) counts. Its last \\boxed{}
              is the answer; without a box, an answer that the reply states plainly ("B", "**B**", "B) text",
              "The answer is B."). Anything else is unparsed, and unparsed is wrong. reward.py compares it.
    official  MMMU's own algorithm on the same reply (scoring/official.py), to compare with published numbers.
              Where it would pick a letter at random we count wrong, and report how often
              (official_random). It does not know \\boxed{B}:
              official_boxed is the same algorithm on the inside of the last box, for models that use boxes.

Other data sets with one answer a question are scored by the same rule: MMMU-Pro as it is, others with
--columns. Left out: turning open questions into multiple choice, and the prompts and the judge of the
published numbers of MathVista, MathVision and MathVerse (VLMEvalKit measures those).

    python eval_mmmu.py --model out/tiny/connector --data data/tiny/mmmu --max_new_tokens 128        # laptop
    torchrun --nproc_per_node 8 eval_mmmu.py --model out/connector --data MMMU/MMMU --runs 5 \\
        --ask "Put the final answer in \\boxed{}."
    python eval_mmmu.py score --responses out/eval/responses.jsonl --out out/eval/scores.json
"""
import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Literal

from tqdm import tqdm

from machinery.asking import Asking
from machinery.files import (
    Refused, append_jsonl, changed_settings, checkpoints, main, read_json, read_jsonl, resolve, say,
    write_json, write_text)
from machinery.mmmu_rows import DISCIPLINE_OF, of_mmmu, subject_of, subsets_of
from machinery.rows import LETTERS, accepted_answers, blank, check_images, report_bad, rows_fingerprint
from machinery.tables import percent, table_lines
from reward import Verifier, format_ok, rates, score_batch, unreadable_golds
from scoring.mmmu import SHARES, read_rows, summary
from signals import NOWAIT_WORDS, critical_spans


# ------------------------------------------------------------------------------------------------------ score

def score_rows(rows, mode="auto", verifier=None):
    """Scores of responses (rows as in responses.jsonl): the dictionary of scores.json and the rows with their
    verdicts.

    All rates are fractions. `mode` is for rows that do not carry their own. With a verifier (reward.py's),
    "judge" is the share that the rule or the verifier accepts.
    """
    rows = read_rows(rows, mode)
    # one comparison for each accepted answer, all in one batch: it runs in parallel, with time limits
    pairs = [(row, gold) for row in rows if row["parsed"] is not None for gold in row["gold"]]
    rewards = score_batch([f"\\boxed{{{row['parsed']}}}" for row, _ in pairs], [gold for _, gold in pairs],
                          thinking_prompt=False, verifier=verifier,
                          options=[row["options"] if row["choice"] else None for row, _ in pairs],
                          questions=[row.get("question", "") for row, _ in pairs])
    accepted = [((row["id"], row["run"]), reward) for (row, _), reward in zip(pairs, rewards)]
    by_rule = {who for who, reward in accepted if reward.rule}
    by_either = {who for who, reward in accepted if reward.accuracy}
    for row in rows:
        who = row["id"], row["run"]
        row |= {"rule": who in by_rule, "judge": who in by_either,
                "format": format_ok(row["response"], row["thinking"])}
    scores = summary(rows)
    if verifier:
        scores["judge"], scores["verifier"] = mean(row["judge"] for row in rows), rates(rewards)
    return scores, rows


@dataclass
class Score:
    responses: str = "out/eval/responses.jsonl"  # JSONL: id, question_type, options, answer, response, ...
    out: str = ""                # where the scores go, JSON; default: scores.json beside the responses
    mode: Literal["auto", "think", "nothink"] = "auto"  # of rows without a mode; auto: by </think> and finish
    verifier: str = ""           # judges what the rule refuses: an OpenAI-compatible server
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model's name on that server


def score(cfg: Score):
    """Score saved responses: no model needed.

    Rows hold id, question_type, options, answer, response, and perhaps subject, question, run, finish, mode.
    """
    folder = Path(cfg.responses).parent
    if not Path(cfg.responses).exists():
        raise Refused(f"--responses {cfg.responses}: no such file")
    return report(read_jsonl(cfg.responses), cfg, Verifier.of(cfg), folder, cfg.out or folder / "scores.json")


def report(rows, cfg, verifier, folder, out):
    """Score the rows, print the tables, write scores.json."""
    scores, rows = score_rows(rows, cfg.mode, verifier)
    about = Path(folder) / "data.json"  # the run has written there where the questions came from
    write_json(out, {**scores, "data": read_json(about) if about.exists() else None})
    say(tables(scores))
    keys = [(row["id"], gold) for row in rows if not row["choice"] for gold in row["gold"]]
    odd = {keys[i][0]: why for i, why in unreadable_golds([gold for _, gold in keys]).items()}
    if odd:
        say(f"The rule cannot read the key of {len(odd)} questions: {dict([*odd.items()][:5])}")
    say(f"scores: {out}")
    return scores


def tables(scores):
    """The scores as a table: accuracies in % by our rule, by MMMU's algorithm, and by the same where it reads
    the last box; length in tokens. Below it shares of all responses, and the accuracy of each run."""
    parts = [(DISCIPLINE_OF.get(name, "Other"), f"- {name}", g) for name, g in scores["subjects"].items()]
    parts += [(name, "", g) for name, g in scores["disciplines"].items()]
    cells = [(name or discipline, g["n"], percent(g["rule"], g["rule_se"]), percent(g["official"]),
              percent(g["official_boxed"]), "-" if g["length"] is None else f"{g['length']:.0f}")
             for discipline, name, g in [*sorted(parts), ("all", "", scores)]]
    header = ("", "n", "rule, %", "MMMU's, %", "MMMU's on the box, %", "tokens")
    shares = [f"{name} {percent(scores[name])}" for name in (*SHARES, "judge") if name in scores]
    runs = f"runs {', '.join(map(percent, scores['runs']))} (standard error {percent(scores['runs_se'])})"
    return "\n".join([*table_lines(header, cells), f"in %: {', '.join(shares)}; {runs}"])


# ----------------------------------------------------------------------------------------- run: the questions

@dataclass
class Config(Asking):
    model: str = "out/tiny/connector"  # a checkpoint folder, a run folder (its selected one) or a hub name
    checkpoints: bool = False     # of a run folder every checkpoint, each scored in --out/step_000123
    data: str = "data/tiny/mmmu"  # questions: a Parquet folder, a file (Parquet, JSONL, CSV) or a hub name
    split: str = "validation"     # which Parquet files: those of this split, by their names
    subset: str = ""              # configuration of a hub data set (a folder): "standard (10 options)"
    revision: str = ""            # commit of the hub data set; default: its newest
    subjects: tuple[str, ...] = ()  # only these
    limit: int = 0                # at most so many questions, evenly from all subjects; 0: all
    out: str = "out/eval"         # for responses.jsonl, scores.json, ...; run again, it goes on
    mode: Literal["think", "nothink", "nowait"] = "think"  # does <think> end the prompt? nowait: and words
    blank: bool = False           # ask with grey pictures: what can be answered without seeing
    ban: tuple[str, ...] = ()     # are banned, these; default in mode nowait: the NoWait study's [6.2]
    runs: int = 1                 # how often each question is asked; the paper reports the mean of 5
    max_new_tokens: int = 16384   # thought and answer together: the paper's "thinking budget" [6.3]
    chunk: int = 512              # questions sampled and written together: what an interruption can lose
    rollout_batch: int = 512      # responses that the torch sampler decodes at a time
    verifier: str = ""            # judges what the rule refuses: an OpenAI-compatible server
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model's name on that server


def read_questions(cfg):
    """([Record], where they came from: data.json). Only the images of what is asked are opened."""
    from data import find_records
    subsets = [cfg.subset] if cfg.subset else subsets_of(cfg.data, cfg.revision or None)
    subsets = [subset for subset in subsets if subset in cfg.subjects] or subsets  # MMMU has one for each
    records, bad = [], []
    for subset in subsets:
        found = find_records(cfg.data, cfg.columns, ("answer",), cfg.split, cfg.image_root, subset,
                             cfg.revision or None, of_mmmu)
        records, bad = records + found[0], bad + found[1]
    records, no_letter = with_letters(records)
    bad += no_letter
    report_bad(cfg.data, len(records), bad, limit_bad=1.0)
    if twice := [name for name, n in Counter(r.id for r in records).items() if n > 1]:
        raise Refused(f"{cfg.data}: {len(twice)} ids stand there more than once, e.g. {twice[0]}. Name the "
                      f"column that tells them apart (--columns id=COLUMN), or say which of several "
                      f"configurations is meant (--subset).")
    turn, count = {}, Counter()
    for r in records:
        r.subject = subject_of(r.id) if subject_of(r.id) != "unknown" else r.subject or "unknown"
        turn[r.id] = count[r.subject]
        count[r.subject] += 1
    if unknown := sorted(set(cfg.subjects) - set(count)):
        raise Refused(f"--subjects {' '.join(unknown)}: not in {cfg.data}")
    records = [r for r in records if not cfg.subjects or r.subject in cfg.subjects]
    if cfg.limit:  # the first question of every subject, then the second of every subject, ...
        records = sorted(records, key=lambda r: turn[r.id])[:cfg.limit]
    records, broken = check_images(records)
    report_bad(cfg.data, len(records), broken, limit_bad=0.0)
    about = {"source": cfg.data, "split": cfg.split, "revision": cfg.revision or None,
             "questions": rows_fingerprint(records), "left_out": [name for name, _ in bad]}
    for r in records if cfg.blank else ():  # behind the fingerprint: the questions are the same
        r.images = list(map(blank, r.images))
    return records, about


def with_letters(records):
    """(records, [(name, why)] of others). The answer becomes a letter where the data state the right option
    by its text, as MathVista does. "4" or "B" can be both: data that name an option anywhere by a text that
    is no letter do so everywhere."""
    asked = [r for r in records if r.options and r.answer != "?"]  # "?": of a hidden test split
    by_text = any(letter_of(answer, r.options, False) is None and answer in r.options
                  for r in asked for answer in accepted_answers(r.answer))
    bad = []
    for r in asked:
        found = [letter_of(answer, r.options, by_text) for answer in accepted_answers(r.answer)]
        if None in found:
            bad.append((r.name(), f"its answer {r.answer!r} is no letter or text of its options"))
            r.answer = None
        else:
            r.answer = found[0] if len(found) == 1 else str(found)
    return [r for r in records if r.answer is not None], bad


def letter_of(answer, options, by_text):
    """The letter of the option that an answer names, or None"""
    texts, bare = [option.strip() for option in options], answer.strip("(). \n")
    if by_text and answer.strip() in texts:
        return LETTERS[texts.index(answer.strip())]
    return bare if bare in list(LETTERS[:len(options)]) else None


def fingerprint(folder):
    """Tells whether a checkpoint folder still holds the same weights. Only the end of every weights file is
    hashed: all of them would take minutes at 38B."""
    total = hashlib.sha256()
    for file in sorted(Path(folder).glob("model*.safetensors")):
        with open(file, "rb") as f:
            f.seek(max(0, file.stat().st_size - 2 ** 20))
            total.update(f"{file.name} {file.stat().st_size}".encode() + f.read())
    return total.hexdigest()


# ----------------------------------------------------------------------------------------- run: the responses

def banned_ids(processor, words):
    """(ids, words that no id spells): every id that spells one of the words as a whole, in any case, alone or
    with spaces and marks around it ("Wait", " wait", "Wait,"). Each id is decoded for that, so that it does
    not matter how the tokenizer itself writes a space."""
    special = set(processor.tokenizer.all_special_ids)
    texts = processor.tokenizer.batch_decode([[i] for i in range(len(processor.tokenizer))])
    found = {i: {word for _, _, word in critical_spans(text, words)} for i, text in enumerate(texts)}
    found = {i: hits for i, hits in found.items() if hits and i not in special}
    return sorted(found), sorted(set(words).difference(*found.values()))


def evaluate(cfg: Config):
    """Ask, keep, score. What is already in --out is not asked again."""
    if cfg.checkpoints:
        for step in checkpoints(cfg.model) or [Path(resolve(cfg.model))]:
            say(f"{step}:")
            evaluate(replace(cfg, model=str(step), out=f"{cfg.out}/{step.name}", checkpoints=False))
        return
    from data import Processor
    from machinery.parallel import gather, start_processes
    from machinery.run import Run, seed_of
    from model import load
    from rollout import make_sampler

    world, checkpoint, verifier = start_processes(cfg.seed), resolve(cfg.model), Verifier.of(cfg)
    records, about = read_questions(cfg)
    about |= {"checkpoint": checkpoint, "max_new_tokens": cfg.max_new_tokens,
              "weights": fingerprint(checkpoint) if Path(checkpoint).exists() else None}
    run = Run(cfg.out, cfg, world, may_change=("runs", "chunk", "verifier", "verifier_model"))
    path, about_path = run.dir / "responses.jsonl", run.dir / "data.json"
    before = {**about, **(read_json(about_path) if about_path.exists() else {})}
    if changed := changed_settings(before, about):
        raise Refused(f"{run.dir} holds responses to others ({changed}). Use another --out, or delete the "
                      f"folder to ask again.")
    done = read_jsonl(path)
    have = {(row["id"], row["run"]) for row in done}
    world.barrier()  # everybody has read before rank 0 writes
    if world.rank == 0:
        write_json(about_path, about)
        write_text(path, "".join(json.dumps(row) + "\n" for row in done))  # without a torn line

    # a chunk is sampled as a whole with the seed of its number, so that a resumed run writes what an
    # undisturbed one would have written
    size = min(cfg.chunk, -(-len(records) // world.size))
    chunks = [(k, records[i:i + size]) for k in range(cfg.runs) for i in range(0, len(records), size)]
    chunks = [(number, k, part) for number, (k, part) in enumerate(chunks)
              if any((r.id, k) not in have for r in part)]
    if chunks:
        processor = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
        prompts = {p.record.id: p for p in processor.prompts(records, thinking=cfg.mode != "nothink")}
        if long := [r.id for r in records if r.id not in prompts]:
            raise Refused(f"{len(long)} questions are longer than the model's context of {processor.context} "
                          f"tokens, e.g. {long[0]}. Leaving them out would change the score: lower "
                          f"--max_tiles (now {cfg.max_tiles}) or --pixels.")
        words = cfg.ban or NOWAIT_WORDS * (cfg.mode == "nowait")
        ban, missing = banned_ids(processor, words) if words else ((), ())
        if missing:
            say(f"no token spells {', '.join(missing)} on its own: these can still be written in pieces")
        # vLLM loads the model itself; every process has a whole model and asks its own chunks
        vlm = None if cfg.rollout == "vllm" else load(cfg.model, world.device, cfg.dtype).eval()
        sampler = make_sampler(cfg.rollout, vlm, processor, batch=cfg.rollout_batch, dtype=cfg.dtype,
                               tensor_parallel=cfg.tensor_parallel)
    say(f"{len(records)} questions x {cfg.runs} runs, {len(have)} answers there already; {cfg.mode}")
    bar = tqdm(total=len(records) * cfg.runs, initial=len(have), desc="answers", disable=world.rank > 0,
               dynamic_ncols=True)
    for i in range(0, len(chunks), world.size):
        # a process without a chunk asks nothing, but it does so with the others: they may share an engine
        number, k, part = (chunks[i:] + [(0, 0, [])] * world.size)[world.rank]
        groups = sampler.generate([prompts[r.id] for r in part], 1, cfg.max_new_tokens, cfg.temperature,
                                  seed_of(cfg.seed, number), ban=ban,
                                  progress=None if world.rank else f"run {k + 1}/{cfg.runs}")
        rows = [row_of(r, k, response, cfg.mode) for r, (response,) in zip(part, groups)]
        rows = [row for row in rows if (row["id"], row["run"]) not in have]
        rows = [row for rank_rows in gather(rows, world) for row in rank_rows]
        if world.rank == 0:
            append_jsonl(path, rows)
        bar.update(len(rows))
    bar.close()
    if world.rank == 0:
        rows = [row for row in read_jsonl(path) if row["run"] < cfg.runs]
        report(rows, cfg, verifier, run.dir, run.dir / "scores.json")


def row_of(record, run, response, mode):
    """A row of responses.jsonl"""
    kind = "multiple-choice" if record.options else "open"
    return {"id": record.id, "run": run, "subject": record.subject, "question_type": kind,
           "options": record.options, "answer": record.answer, "question": record.question,
           "response": response.text, "finish": response.finish, "tokens": len(response.ids), "mode": mode}


if __name__ == "__main__":
    if sys.argv[1:2] == ["score"]:
        sys.argv.pop(1)
        main(score, Score)
    else:
        main(evaluate, Config)
