"""MMMU: answers a model's questions (900 at validation), keeps every response, and scores them in two ways.

The paper's evaluation (section 4; 6.2 for the modes): temperature 1.0, up to 16,384 new tokens, the mean over
5 runs, a rule plus a judge. Its "thinking budget" (section 6.3) is the number of generated tokens, here
--max_new_tokens 1024, 2048, ... With --budget the thought is closed by force and the model has to answer:
another experiment. The two halves of this file are the two halves of the job:

    score   responses -> tables. No model, no torch, seconds. `score_rows` is the function.
    run     questions -> responses.jsonl, in chunks. After a stop, the same command goes on. Then it scores.

Two scores stand side by side because a parser alone can move a table by 15 points:
    rule      ours, deterministic. Only the reply (what follows the last </think>) counts. Its last \\boxed{}
              is the answer; without a box, an answer that the reply states plainly ("B", "**B**", "B) text",
              "The answer is B."). Anything else is unparsed, and unparsed is wrong. reward.py compares it.
    official  MMMU's own algorithm on the same reply (scoring/official.py), to compare with published numbers.
              Where it would pick a letter at random we count wrong, and report how often (official_random)
              and what luck would have added on average (official_luck). It does not know \\boxed{B}:
              official_boxed is the same algorithm on the inside of the last box, for models that use boxes.

Left out: turning open questions into multiple choice. The judge (--verifier) is reward.py's.

Other data sets with one answer a question are scored by the same rule: MMMU-Pro as it is, others with
--columns. An answer is a letter, the text of an option, free, or a list of accepted ones. Published numbers
of some are an LLM's judgement; for these the command that measures them is printed at the end.

    python eval_mmmu.py --model out/tiny/connector --data data/tiny/mmmu --max_new_tokens 128        # laptop
    torchrun --nproc_per_node 8 eval_mmmu.py --model out/connector --data MMMU/MMMU --runs 5 \\
        --ask "Put the final answer in \\boxed{}."
    python eval_mmmu.py --model out/connector --data AI4Math/MathVista --split testmini \\
        --columns id=pid options=choices image=decoded_image --out out/mathvista
    python eval_mmmu.py --model out/connector --data MMMU/MMMU_Pro --subset "standard (10 options)" \\
        --split test --out out/mmmu_pro
    python eval_mmmu.py score --responses out/eval/responses.jsonl --out out/eval/scores.json
"""
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Literal

import tyro
from tqdm import tqdm

from machinery.files import (
    Refused, changed_settings, check_flags, checkpoints, main, read_json, resolve, say, write_json)
from machinery.rows import (
    LETTERS, accepted_answers, check_images, report_bad, rows_fingerprint, subsets_of)
from reward import Verifier, VerifierDown, format_ok, rates, score_batch, unreadable_golds
from scoring.mmmu import has_places, mark, read_responses, read_rows, rounded, subject_of, summary, tables
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
    parsed = [row for row in rows if row["parsed"] is not None]
    pairs = [(row, gold) for row in parsed for gold in row["gold"]]
    options = [row["options"] if row["choice"] else None for row, _ in pairs]
    questions = [row.get("question", "") for row, _ in pairs]
    answers = [rounded(row["parsed"], gold, row.get("precision")) for row, gold in pairs]
    rewards = score_batch([f"\\boxed{{{answer}}}" for answer in answers], [gold for _, gold in pairs],
                          thinking_prompt=False, options=options, verifier=verifier, questions=questions)
    accepted = list(zip([(row["id"], row["run"]) for row, _ in pairs], rewards))
    by_rule = {who for who, reward in accepted if reward.rule}
    by_either = {who for who, reward in accepted if reward.accuracy}
    for row in rows:
        who = row["id"], row["run"]
        mark(row, who in by_rule, who in by_either, format_ok(row["response"], row["thinking"]))
    scores = summary(rows)
    if verifier:
        scores["judge"], scores["verifier"] = mean(row["judge"] for row in rows), rates(rewards)
    return scores, rows


def write_rows(path, rows, how="w"):
    with open(path, how, encoding="utf-8", errors="backslashreplace") as f:  # half a surrogate
        f.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@dataclass
class Score:
    responses: str = "out/eval/responses.jsonl"  # JSONL: id, question_type, options, answer, response, ...
    out: str = ""                # where the scores go, JSON; default: scores.json beside the responses
    rows: str = ""               # also write every row with what was read in it and the verdicts, JSONL
    mode: Literal["auto", "think", "nothink"] = "auto"  # of rows without a mode; auto: by </think> and finish
    verifier: str = ""           # judges what the rule refuses: an OpenAI-compatible server
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model's name on that server


def score(cfg: Score):
    """Score saved responses: no model needed.

    Rows hold id, question_type, options, answer, response, and perhaps subject, question, run, finish, mode.
    """
    check_flags(cfg)
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    scores, rows = score_rows(read_responses(cfg.responses), cfg.mode, verifier)
    folder = Path(cfg.responses).parent
    report(scores, rows, folder, cfg.out or folder / "scores.json", print)
    if cfg.rows:
        write_rows(cfg.rows, rows)
    return scores


def report(scores, rows, folder, out, say):
    """Print the tables and what a reader should know about them; write scores.json."""
    about = Path(folder) / "data.json"  # the run has written there where the questions came from
    write_json(out, {**scores, "data": read_json(about) if about.exists() else None})
    say(tables(scores))
    unsure = [row for row in rows if row["thinking"] is False and not row.get("mode")]
    if unsure and any(row["thinking"] for row in rows):
        say(f"{len(unsure)} of {len(rows)} rows hold no </think> though others do, and were read as answers "
            f"without a thought; --mode think counts them as thoughts without an answer.")
    open_rows = [row for row in rows if not row["choice"]]
    keys = [(row["id"], gold) for row in open_rows for gold in row["gold"]]
    odd = {keys[i][0]: why for i, why in unreadable_golds([gold for _, gold in keys]).items()}
    if odd:
        listed = "; ".join(f"{i} ({why})" for i, why in list(odd.items())[:5])
        say(f"The rule cannot read the key of {len(odd)} questions: {listed}")
    say(f"scores: {out}")
    if about.exists():
        say_published(read_json(about))


# what an LLM judges in the published numbers: {part of a data set's name: its name in VLMEvalKit}
JUDGED = {"mathvista": "MathVista_MINI", "mathvision": "MathVision", "mathverse": "MathVerse_MINI"}


def say_published(about):
    """How to get the number that compares with published ones, of data that they let an LLM judge.
    about: data.json."""
    plain = re.sub(r"[\W_]", "", str(about.get("source"))).casefold()
    if name := next((name for part, name in JUDGED.items() if part in plain), ""):
        name += "_MINI" if name == "MathVision" and about.get("split") == "testmini" else ""
        say(f"Published numbers of this data set are an LLM's judgement, after other prompts. VLMEvalKit "
            f"(github.com/open-compass/VLMEvalKit) measures such a one:\n"
            f"  vllm serve {about.get('checkpoint', 'CHECKPOINT')} --served-model-name NAME\n"
            f"  python run.py --data {name} --model NAME --verbose\n"
            f"NAME has to stand in its vlmeval/config.py, as a model behind that server, which asks by the "
            f"chat template (most open no <think>); the judge needs OPENAI_API_KEY.")


# ----------------------------------------------------------------------------------------- run: the questions

Mode = Literal["think", "nothink", "nowait"]


@dataclass
class Config:
    model: str = "out/tiny/connector"  # a checkpoint folder, a run folder (its selected one) or a hub name
    checkpoints: bool = False     # of a run folder every checkpoint, each scored in --out/step_000123
    data: str = "data/tiny/mmmu"  # questions: a Parquet folder, a file (Parquet, JSONL, CSV) or a hub name
    columns: tuple[str, ...] = ()  # OURS=THEIRS for columns with other names, e.g. options=choices
    image_root: str = ""          # folder that image paths start from; "": the data file's
    split: str = "validation"     # which Parquet files: those of this split, by their names
    subset: str = ""              # configuration of a hub data set (a folder): "standard (10 options)"
    revision: str = ""            # commit of the hub data set; default: its newest, which is written down
    subjects: tuple[str, ...] = ()  # only these
    limit: int = 0                # at most so many questions, evenly from all subjects; 0: all
    out: str = "out/eval"         # for responses.jsonl, scores.json, ...; run again, it goes on
    mode: Mode = "think"          # does <think> end the prompt? nowait: it does, and --ban holds
    ban: tuple[str, ...] = NOWAIT_WORDS  # words that nowait bans (the paper: --ban wait alternatively hmm)
    ask: str = ""                 # said below every question: "Put the final answer in \boxed{}."
    system: str = ""              # system prompt; "": what the chat template has
    temperature: float = 1.0      # 0: always the most likely token
    runs: int = 1                 # how often each question is asked; the paper reports the mean of 5
    max_new_tokens: int = 16384   # thought and answer together: the paper's "thinking budget" [6.3]
    budget: int = 0               # force the thought closed after so many tokens (not the paper's); 0: never
    on_budget: Literal["close", "cut"] = "close"  # when it ends: ask for the answer, or stop
    closing: str = "\n</think>\n\n\\boxed{"  # what closes an unfinished thought; the model goes on from there
    chunk: int = 512              # questions sampled and written together: what an interruption can lose
    max_tiles: int = 12           # of an image (InternVL)
    pixels: tuple[int, int] = (0, 0)  # fewest and most pixels of an image (Qwen-VL); 0 = the model folder's
    rollout: str = "torch"        # the sampler: torch, or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1      # processes that share one vLLM engine
    rollout_batch: int = 512      # responses that the torch sampler decodes at a time
    dtype: str = "auto"           # bf16: computing in bf16 over fp32 weights; fp32; auto: bf16 if native
    seed: int = 0                 # of the sampling
    verifier: str = ""            # judges what the rule refuses: an OpenAI-compatible server
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model's name on that server


def read_questions(cfg):
    """([{"id", "subject", "question_type", "options", "answer", "question", "precision", "record"}], where
    they came from, their fingerprint, what is left out). Only the images of what is asked are opened."""
    from data import find_records
    subsets = [cfg.subset] if cfg.subset else subsets_of(cfg.data, cfg.revision or None)
    subsets = [subset for subset in subsets if subset in cfg.subjects] or subsets  # MMMU has one for each
    records, bad = [], []
    for subset in subsets:
        found = find_records(cfg.data, cfg.columns, ("answer",), cfg.split, cfg.image_root, subset,
                             cfg.revision or None)
        records, bad = records + found[0], bad + found[1]
    records, no_letter = with_letters(records)
    bad += no_letter
    report_bad(cfg.data, len(records), bad, limit_bad=1.0)
    if twice := [name for name, n in Counter(r.id for r in records).items() if n > 1]:
        raise Refused(f"{cfg.data}: {len(twice)} ids stand there more than once, e.g. {twice[0]}. Number "
                      f"them, name the column that tells them apart (--columns id=COLUMN), or say which of "
                      f"several configurations is meant (--subset).")
    for r in records:
        r.subject = subject_of(r.id) if subject_of(r.id) != "unknown" else r.subject or "unknown"
    have = Counter(r.subject for r in records)
    if unknown := sorted(set(cfg.subjects) - set(have)):
        there = ", ".join(sorted(have))
        raise Refused(f"--subjects {' '.join(unknown)}: not in {cfg.data}, which has {there}.")
    records = [r for r in records if not cfg.subjects or r.subject in cfg.subjects]
    if cfg.limit:  # the first question of every subject, then the second of every subject, ...
        count, turn = Counter(), {}
        for r in records:
            count[r.subject] += 1
            turn[r.id] = count[r.subject]
        records = sorted(records, key=lambda r: turn[r.id])[:cfg.limit]
    records, broken = check_images(records)
    report_bad(cfg.data, len(records), broken, limit_bad=0.0)
    if not cfg.ask and (silent := [r for r in records if not r.question.strip()]):
        say(f"{len(silent)} questions stand in their pictures alone, with their options: --ask says what to "
            f"do with them")
    about = {"source": cfg.data, "split": cfg.split, "revision": hub_revision(cfg),
             "questions": rows_fingerprint(records), "left_out": [name for name, _ in bad]}
    return [{"id": r.id, "subject": r.subject, "question_type": "multiple-choice" if r.options else "open",
             "options": r.options, "answer": r.answer, "question": r.question, "precision": r.precision,
             "record": r} for r in records], about


def hub_revision(cfg):
    """The commit of a hub data set; None of local files, or where the hub does not answer."""
    if Path(cfg.data).exists():
        return None
    from huggingface_hub import HfApi
    try:
        return HfApi().dataset_info(cfg.data, revision=cfg.revision or None, timeout=10).sha
    except Exception:  # of its HTTP client's own kinds: the copy in the cache was read
        return cfg.revision or None


def with_letters(records):
    """(records, [(name, why)] of others). The answer becomes a letter where the data state the right option
    by its text, as MathVista does. "4" or "B" can be both: data that name an option anywhere by a text that
    is no letter do so everywhere."""
    asked = [r for r in records if r.options and r.answer != "?"]  # "?": of a hidden test split
    by_text = any(answer.strip("(). ") not in list(LETTERS[:len(r.options)]) and answer in r.options
                  for r in asked for answer in accepted_answers(r.answer))
    good, bad = [], []
    for r in records:
        found = [letter_of(answer, r.options, by_text) for answer in accepted_answers(r.answer)]
        if not r.options or r.answer == "?":
            good.append(r)
        elif None in found:
            bad.append((r.name(), f"its answer {r.answer!r} is neither a letter nor the text of one of its "
                                  f"{len(r.options)} options"))
        else:
            good.append(replace(r, answer=found[0] if len(found) == 1 else str(found)))
    return good, bad


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

def banned_ids(chat, words):
    """(ids, words that no id spells): every id that spells one of the words as a whole, in any case, alone or
    with spaces and marks around it ("Wait", " wait", "Wait,"). Each id is decoded for that, so that it does
    not matter how the tokenizer itself writes a space."""
    special = set(chat.tokenizer.all_special_ids)
    texts = chat.tokenizer.batch_decode([[i] for i in range(len(chat.tokenizer))])
    found = {i: {word for _, _, word in critical_spans(text, words)} for i, text in enumerate(texts)}
    found = {i: hits for i, hits in found.items() if i not in special}
    missing = set(words) - set().union(*found.values())
    return sorted(i for i, hits in found.items() if hits), sorted(missing)


def respond(sampler, chat, prompts, cfg, ban, seed, label):
    """One response to each prompt, within --budget: [{"response", "finish", "tokens", "forced"}].

    A thought that is still open when its budget ends is closed with cfg.closing, and the model goes on from
    there; an answer that the budget caught in the middle simply goes on. (--on_budget cut: both stay as they
    are.)
    """
    limit = cfg.budget or cfg.max_new_tokens
    sample = dict(temperature=cfg.temperature, ban=ban)
    first = sampler.generate(prompts, 1, max_new_tokens=limit, seed=seed, progress=label, **sample)
    first = [r for r, in first]
    out = [{"response": r.text, "finish": r.finish, "tokens": len(r.ids), "forced": False} for r in first]
    if not cfg.budget or cfg.on_budget == "cut":
        return out
    closing = chat.tokenizer(cfg.closing, add_special_tokens=False)["input_ids"]
    heads = {}  # number of a response that goes on -> what it has so far
    for i, r in enumerate(first):
        still_open = "</think>" not in r.text
        head = list(r.ids) + (closing if still_open else [])
        if r.finish == "length" and len(prompts[i].full) + len(head) < chat.context:
            heads[i], out[i]["forced"] = head, still_open
    more = sampler.generate([prompts[i].continued(head) for i, head in heads.items()], 1,
                            max_new_tokens=cfg.max_new_tokens - limit, seed=seed + 1,
                            progress=label and f"{label}, answers", **sample)
    for (i, head), (r,) in zip(heads.items(), more):
        ids = head + list(r.ids)
        out[i].update(response=chat.decode(ids), finish=r.finish, tokens=len(ids))
    return out


def evaluate(cfg: Config):
    """Ask, keep, score. What is already in --out is not asked again."""
    check_together(cfg)
    if cfg.checkpoints:
        return evaluate_all(cfg)
    from machinery.parallel import start
    from machinery.run import Run
    check_flags(cfg)
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    world = start(cfg.seed)
    checkpoint = resolve(cfg.model)
    questions, about = read_questions(cfg)
    about["checkpoint"] = checkpoint
    about["weights"] = fingerprint(checkpoint) if Path(checkpoint).exists() else None
    run = Run(cfg.out, cfg, world, may_change=("runs", "chunk", "verifier", "verifier_model"))
    path, about_path = run.dir / "responses.jsonl", run.dir / "data.json"
    before = {"questions": about["questions"], **(read_json(about_path) if about_path.exists() else about)}
    if changed := changed_settings(before, about):
        raise Refused(f"{run.dir} holds responses to others ({changed}). Use another --out, or delete the "
                      f"folder to ask again.")
    done = read_responses(path) if path.exists() else []
    have = {(row["id"], row["run"]) for row in done}
    world.barrier()  # everybody has read before rank 0 writes
    if world.rank == 0:
        write_json(about_path, about)
        write_rows(path, done)  # without a torn line

    chunks = chunks_to_ask(cfg, questions, have, world)
    if chunks:
        ask(cfg, questions, chunks, have, path, world)

    if world.rank == 0:
        wanted = {(q["id"], k) for q in questions for k in range(cfg.runs)}
        rows = [row for row in read_responses(path) if (row["id"], row["run"]) in wanted]
        scores, rows = score_rows(rows, verifier=verifier)
        report(scores, rows, run.dir, run.dir / "scores.json", say)


def evaluate_all(cfg):
    """Every checkpoint of a run, one after the other."""
    steps = checkpoints(cfg.model)
    if not steps:
        raise Refused(f"--checkpoints --model {cfg.model}: there is no step_* folder in it")
    if cfg.rollout == "vllm":
        raise Refused("--checkpoints --rollout vllm: its engine keeps its memory until the process ends; "
                      "evaluate one checkpoint a command")
    for step in steps:
        say(f"{step}:")
        evaluate(replace(cfg, model=str(step), out=f"{cfg.out}/{step.name}", checkpoints=False))


def check_together(cfg):
    """Refuse a flag that another one would make meaningless, and a budget that leaves nothing to answer
    from."""
    def given(*names):
        fields = type(cfg).__dataclass_fields__
        return [name for name in names if getattr(cfg, name) != fields[name].default]

    if given("ban") and cfg.mode != "nowait":
        raise Refused(f"--ban {' '.join(cfg.ban)}: words are banned in --mode nowait alone, and the mode is "
                      f"{cfg.mode}; add --mode nowait, or leave --ban out.")
    if not cfg.budget and (idle := given("on_budget", "closing")):
        raise Refused(f"--{idle[0]} says what happens when --budget ends, and there is none: add --budget N, "
                      f"or leave --{idle[0]} out.")
    if cfg.budget and (cfg.mode == "nothink" or not 0 < cfg.budget < cfg.max_new_tokens):
        raise Refused(f"--budget {cfg.budget} is for the thought: it needs --mode think or nowait, and has "
                      f"to be below --max_new_tokens {cfg.max_new_tokens}, which leaves the rest for the "
                      f"answer.")


@dataclass
class Chunk:
    number: int      # among all chunks of all runs: its seed depends on it
    run: int
    questions: list


def chunks_to_ask(cfg, questions, have, world):
    """The chunks that lack a response. A chunk is sampled as a whole with its own seed, so that a resumed run
    writes what an undisturbed one would have written."""
    size = min(cfg.chunk, -(-len(questions) // world.size))
    chunks = []
    for k in range(cfg.runs):
        for i in range(0, len(questions), size):
            chunks.append(Chunk(len(chunks), k, questions[i:i + size]))
    return [c for c in chunks if any((q["id"], c.run) not in have for q in c.questions)]


def ask(cfg, questions, chunks, have, path, world):
    """Sample every chunk, one a process at a time; rank 0 appends the responses to the file at `path`."""
    from data import Chat
    from machinery.parallel import gather
    from machinery.run import seed_of
    from model import load
    from rollout import make_sampler
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    prompts = chat.prompts([q["record"] for q in questions], thinking=cfg.mode != "nothink")
    prompts = {p.record.id: p for p in prompts}
    if long := [q["id"] for q in questions if q["id"] not in prompts]:
        raise Refused(f"{len(long)} questions are longer than the model's context of {chat.context} tokens, "
                      f"e.g. {long[0]}. Leaving them out would change the score: "
                      f"lower --max_tiles (now {cfg.max_tiles}) or --pixels.")
    ban, missing = banned_ids(chat, cfg.ban) if cfg.mode == "nowait" else ((), ())
    if missing:
        say(f"nowait: no token spells {', '.join(missing)} on its own, "
            f"so these words can still be written in pieces.")
    # vLLM loads the model itself
    vlm = None if cfg.rollout == "vllm" else load(cfg.model, world.device, cfg.dtype).eval()
    # every process has a whole model and asks its own chunks
    sampler = make_sampler(cfg.rollout, vlm, chat, None, cfg.rollout_batch, cfg.dtype, cfg.tensor_parallel)
    say(f"{len(questions)} questions x {cfg.runs} runs, {len(have)} answers there already; {cfg.mode}"
        + (f", {len(ban)} tokens banned" if ban else ""))
    bar = tqdm(total=len(questions) * cfg.runs, initial=len(have), desc="answers", disable=world.rank > 0,
               dynamic_ncols=True)
    for i in range(0, len(chunks), world.size):
        mine = i + world.rank
        # a process without a chunk asks nothing, but it does so with the others: they may share an engine
        chunk = chunks[mine] if mine < len(chunks) else Chunk(0, 0, [])
        label = f"run {chunk.run + 1}/{cfg.runs}" if world.rank == 0 else None
        answers = respond(sampler, chat, [prompts[q["id"]] for q in chunk.questions], cfg, ban,
                          seed_of(cfg.seed, chunk.number), label)
        rows = [row_of(q, chunk.run, answer, cfg.mode) for q, answer in zip(chunk.questions, answers)]
        rows = [row for row in rows if (row["id"], row["run"]) not in have]
        rows = [row for rank_rows in gather(rows, world) for row in rank_rows]
        if world.rank == 0:
            write_rows(path, rows, "a")
        bar.update(len(rows))
    bar.close()


def row_of(q, run, answer, mode):
    fields = ("subject", "question_type", "options", "answer", "question")
    row = {"id": q["id"], "run": run, **{f: q[f] for f in fields}, **answer, "mode": mode}
    return row | ({"precision": q["precision"]} if has_places(q.get("precision")) else {})


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["score"]:
            score(tyro.cli(Score, args=sys.argv[2:], prog="eval_mmmu.py score", description=score.__doc__))
        else:
            main(evaluate, Config)
    except (Refused, VerifierDown) as error:
        sys.exit(f"\n{error}")
