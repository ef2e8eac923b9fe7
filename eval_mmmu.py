"""MMMU: answers a model's questions (900 at validation), keeps every response, and scores them in two ways.

The paper's evaluation (section 4; 6.2 for the modes, 6.3 for the thinking budget): temperature 1.0, up to 16,384 new
tokens, the mean over 5 runs, a rule plus a judge. The two halves of this file are the two halves of the job:

    score   responses -> tables. No model, no torch, seconds. `score_rows` is the function.
    run     questions -> responses.jsonl, in chunks; stop it at any moment, the same command goes on. Then it scores.

Two scores stand side by side because a parser alone can move a table by 15 points:
    rule      ours, deterministic. Only the reply (what follows the last </think>) counts. Its last \\boxed{} is the answer;
              without a box, an answer that the reply states plainly ("B", "**B**", "B) text", "The answer is B.").
              Anything else is unparsed, and unparsed is wrong. reward.py decides whether it equals the key.
    official  MMMU's own algorithm on the same reply, so that numbers compare with published ones. Where it would pick a
              letter at random we count wrong and report how often (official_random) and what luck would have added on
              average (official_luck). It does not know \\boxed{B}: official_boxed is the same algorithm reading the
              inside of the last box where there is one, and is the one to compare for models that box their answers.

Left out: MMMU-Pro, and turning open questions into multiple choice. The judge (--verifier) is reward.py's.

    python eval_mmmu.py --model out/tiny/connector --data data/tiny/mmmu --out out/eval --max_new_tokens 128    # laptop
    torchrun --nproc_per_node 8 eval_mmmu.py --model out/connector --data MMMU/MMMU --runs 5 --ask "Put the final answer in \\boxed{}."
    python eval_mmmu.py score --responses out/eval/responses.jsonl --out out/eval/scores.json
"""
import ast
import hashlib
import json
import re
import string
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import tyro
from tqdm import tqdm

from reward import Verifier, VerifierDown, extract_answer, format_ok, rates, score_batch, unreadable_golds
from signals import CRITICAL_WORDS, critical_spans, denies_image

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": ("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
                            "Public_Health"),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": ("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics",
                             "Energy_and_Power", "Materials", "Mechanical_Engineering")}
DISCIPLINE_OF = {subject: name for name, subjects in DISCIPLINES.items() for subject in subjects}  # others: "Other"


class Refused(ValueError):
    """Bad input, told in one sentence. (common.Refused would bring torch along, which scoring does without.)"""


# ------------------------------------------------------------------------------------------------------- rows of the data

def parse_options(options, name):
    """MMMU stores options as the printed form of a Python list; literal_eval reads it and executes nothing."""
    if isinstance(options, str) and options.strip():
        try:
            options = ast.literal_eval(options.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise Refused(f"Row {name}: its options are not the printed form of a Python list ({error}): {options[:200]!r}") from error
    options = options or []
    if not isinstance(options, (list, tuple)):
        raise Refused(f"Row {name}: its options are {type(options).__name__}, a list was expected: {str(options)[:200]!r}")
    if len(options) > 26:
        raise Refused(f"Row {name}: {len(options)} options, more than there are letters.")
    return [str(option) for option in options]


def accepted_answers(answer):
    """[accepted answers] of an open question: MMMU prints a few of them as a list of strings, "['24/7', '3.429']"."""
    if answer.lstrip().startswith("["):
        try:
            several = ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return [answer]  # an interval, a matrix, ...
        if isinstance(several, list) and several and all(isinstance(a, str) for a in several):
            return several
    return [answer]


def subject_of(row_id):
    """ids are {split}_{Subject}_{n}, and subjects hold underscores."""
    match = re.fullmatch(r"[^_]+_(.+)_\d+", row_id)
    return match[1] if match else "unknown"


def checked(row, where):
    """A responses row with everything that scoring needs, or a sentence that names the row."""
    if not isinstance(row, dict):
        raise Refused(f"{where}: a JSON object was expected, not {str(row)[:100]!r}.")
    name = f"{row.get('id', '(without an id)')} ({where})"
    for field in ("id", "question_type", "answer", "response"):
        if row.get(field) is None:
            raise Refused(f"Row {name} has no {field!r}. Needed: id, question_type, options, answer, response.")
    if not isinstance(row["response"], str):
        raise Refused(f"Row {name}: its response is {type(row['response']).__name__}, a text was expected.")
    row = {**row, "id": str(row["id"]), "answer": str(row["answer"]).strip(), "options": parse_options(row.get("options"), name)}
    row["choice"] = row["question_type"] == "multiple-choice"  # anything else is open
    if row["answer"] in ("", "?"):
        raise Refused(f"Row {name} has no answer to compare with ({row['answer']!r}). MMMU's test split keeps its answers: send it to its server.")
    if row["choice"]:
        letters = string.ascii_uppercase[:len(row["options"])]
        row["answer"] = row["answer"].strip("().")
        if not letters:
            raise Refused(f"Row {name} is multiple choice and has no options.")
        if row["answer"] not in list(letters):
            raise Refused(f"Row {name}: its answer {row['answer']!r} is none of the letters {', '.join(letters)} of its {len(letters)} options.")
    row["gold"] = [row["answer"]] if row["choice"] else accepted_answers(row["answer"])
    row["subject"] = row.get("subject") or subject_of(row["id"])
    return row


def read_responses(path):
    """Rows of a responses file. A torn last line (the writer was killed) is left out, any other broken line is refused."""
    if not Path(path).is_file():
        raise Refused(f"--responses {path}: there is no such file. An evaluation writes it as responses.jsonl into its --out folder.")
    rows, lines = [], Path(path).read_text(encoding="utf-8-sig", errors="replace").split("\n")  # not splitlines: U+2028 ends no row
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise Refused(f"{path} line {number} is not JSON ({error}).") from error
    return rows


# -------------------------------------------------------------------------------------------------------------- our rule

def was_thinking(row, mode="auto"):
    """Did <think> end the prompt? The row's own mode says it; where a file does not know it, --mode or the text does."""
    mode = row.get("mode") or mode
    if mode != "auto":
        return mode != "nothink"
    return "</think>" in row["response"] or row["response"].lstrip().startswith("<think>") or row.get("finish") == "length"


def reply_of(response, thinking):
    """What the model says after its thought; None while the thought is still open."""
    before, closed, after = response.rpartition("</think>")
    return after if closed else None if thinking else response


def stated_answer(reply, row):
    """The answer of a reply without a box when it plainly states exactly one, else None. Never guesses.

    "B", "(B)", "**B**", "B) text", "The answer is B, because ...", an option's text and nothing else; for open questions
    what follows "answer is" / "answer:", or a reply of at most five words.
    """
    text = re.sub(r"\*\*|__|`", "", reply).strip()
    said = re.findall(r"\banswer(?: is\b(?: ?:)?| ?:)\s*(\S.*)", text, re.I)  # "." stops at the line's end
    if not said and ("\n" in text or not text):
        return None
    text = (said[-1] if said else text).strip()
    if not row["choice"]:
        text = text.removesuffix(".").strip()
        return text if text and len(text) <= 200 and (said or len(text.split()) <= 5) else None
    letters = string.ascii_uppercase[:len(row["options"])]
    if len(set(re.findall(rf"(?<!\w)([{letters}])[).:]", text))) > 1:
        return None  # it repeats the list of options
    if match := re.match(rf"(?:option |choice )?\(?([{letters}])(?=[).:;]|$|,? because\b|,? since\b)", text, re.I if len(text) == 1 else 0):
        return match[1].upper()
    same = [letter for letter, option in zip(letters, row["options"]) if text.removesuffix(".").casefold() == option.strip().casefold()]
    return same[0] if len(same) == 1 else None


def rule_answer(row):
    """What our rule reads in a row: (answer or None, stands it in a box?)."""
    boxed = extract_answer(row["response"], row["thinking"])
    if boxed is not None:
        return boxed, True
    reply = reply_of(row["response"], row["thinking"])
    answer = stated_answer(reply, row) if reply else None
    balanced = answer is not None and answer.count("{") == answer.count("}")
    return (answer if balanced else None), False


# ------------------------------------------------------------------------- MMMU's official algorithm, rebuilt from words

def official_choice(response, options):
    """The letter that the official parser reads, or None where it would pick one at random."""
    for mark in ",.!?;:'":  # one mark after the other, in this order: "B.'" keeps its dot no longer than "B'."
        response = response.strip(mark)
    response = f" {response} "
    lower, letters = response.lower(), string.ascii_uppercase[:len(options)]
    last = {c: response.rfind(f"({c})") for c in letters}  # letter -> where its last occurrence starts, -1: nowhere
    if max(last.values()) < 0:
        last = {c: response.rfind(f" {c} ") for c in letters}
    if max(last.values()) < 0 and len(response.split()) > 5:
        last = {c: lower.rfind(option.lower()) for c, option in zip(letters, options)}
    return max(last, key=last.get) if max(last.values()) >= 0 else None


def official_normal(text):
    """[a number rounded to two decimals] or [lower-cased text]; one character counts only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


NUMBERS = (r"-?\b\d{1,3}(?:,\d{3})+\b",  # 1,234,567
           r"-?\d+(?:\.\d+)?[eE][+-]?\d+",  # 1.5e-3
           r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")  # 12, 1.5, .5


def official_open(response):
    """Everything that the official parser takes for a possible answer: texts (lower case) and numbers."""
    cues = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
    response = response.strip().strip(".").lower()
    pieces, found = response.split("\n"), []
    for i, piece in enumerate(pieces):
        tails = [piece.rsplit(cue, 1)[1].strip() for cue in cues + ["="] * (i == len(pieces) - 1) if cue in piece]
        if tails and (shortest := min(tails, key=len)) not in ("", *",.!?;:'"):
            found.append(shortest)
    found = found or [response]
    found += [number for text in found for pattern in NUMBERS for number in re.findall(pattern, text)]
    return [guess for text in found for guess in official_normal(text)]


def official_right(reply, row):
    """(right?, did it pick at random?) by the official algorithm; the random pick is wrong here."""
    if row["choice"]:
        letter = official_choice(reply, row["options"])
        return letter == row["answer"], letter is None
    keys = [key for gold in row["gold"] for key in official_normal(gold)]
    return any(key == guess if isinstance(guess, float) else isinstance(key, str) and key in guess
               for guess in official_open(reply) for key in keys), False


# -------------------------------------------------------------------------------------------------------- scores and tables

def score_rows(rows, mode="auto", verifier=None):
    """Scores of responses (rows as in responses.jsonl): the dictionary of scores.json and the rows with their verdicts.

    All rates are fractions. `mode` is for rows that do not carry their own. With a verifier (reward.py's), "judge" is the
    share that the rule or the verifier accepts.
    """
    if not rows:
        raise Refused("No responses to score.")
    rows = [checked(row, f"row {i}") for i, row in enumerate(rows, 1)]
    seen = {}
    for i, row in enumerate(rows, 1):
        row["run"] = row.get("run", 0)
        if (first := seen.setdefault((row["id"], row["run"]), i)) != i:
            raise Refused(f"Row {row['id']} stands there twice (rows {first} and {i}). If these are several runs, number them in a 'run' field.")
        row["thinking"] = was_thinking(row, mode)
        row["parsed"], row["boxed"] = rule_answer(row)

    # one comparison for each accepted answer, all in one batch: reward.py works through it in parallel, with time limits
    pairs = [(row, gold) for row in rows if row["parsed"] is not None for gold in row["gold"]]
    rewards = score_batch([f"\\boxed{{{row['parsed']}}}" for row, _ in pairs], [gold for _, gold in pairs], thinking_prompt=False,
                          options=[row["options"] if row["choice"] else None for row, _ in pairs], verifier=verifier,
                          questions=[row.get("question", "") for row, _ in pairs])
    ruled = {(row["id"], row["run"]) for (row, _), reward in zip(pairs, rewards) if reward.rule}
    judged = {(row["id"], row["run"]) for (row, _), reward in zip(pairs, rewards) if reward.accuracy}

    for row in rows:
        row["rule"], row["judge"] = float((row["id"], row["run"]) in ruled), float((row["id"], row["run"]) in judged)
        reply = reply_of(row["response"], row["thinking"])
        reply = (row["response"] if reply is None else reply).strip()  # of an open thought the official algorithm reads all there is
        row["official"], row["official_random"] = map(float, official_right(reply, row))
        row["official_boxed"] = official_right(row["parsed"], row)[0] * 1.0 if row["boxed"] else row["official"]
        row["official_luck"] = row["official_random"] / max(1, len(row["options"]))
        row["unparsed"] = float(row["parsed"] is None)
        row["truncated"] = float(row.get("finish") == "length")
        row["forced"] = float(bool(row.get("forced")))
        row["format"] = float(format_ok(row["response"], row["thinking"]) and not row["forced"])  # a closing of ours is not its own
        row["denial"] = float(denies_image(row["response"]))

    scores = {**group(rows), "questions": len({row["id"] for row in rows})}
    for name in ("official_boxed", "official_random", "official_luck", "unparsed", "truncated", "forced", "format", "denial"):
        scores[name] = mean(row[name] for row in rows)
    for name, claim in (("rule_with_denial", 1.0), ("rule_without_denial", 0.0)):
        part = [row["rule"] for row in rows if row["denial"] == claim]
        scores[name] = mean(part) if part else None
    if verifier:
        scores["judge"], scores["verifier"] = mean(row["judge"] for row in rows), rates(rewards)
    runs = sorted({row["run"] for row in rows}, key=str)
    scores["runs"] = [mean(row["rule"] for row in rows if row["run"] == run) for run in runs]
    scores["runs_se"] = stdev(scores["runs"]) / len(runs) ** 0.5 if len(runs) > 1 else None
    by_subject, by_discipline = {}, {}
    for row in rows:
        by_subject.setdefault(row["subject"], []).append(row)
        by_discipline.setdefault(DISCIPLINE_OF.get(row["subject"], "Other"), []).append(row)
    scores["subjects"] = {name: group(by_subject[name]) for name in sorted(by_subject)}
    scores["disciplines"] = {name: group(by_discipline[name]) for name in [*DISCIPLINES, "Other"] if name in by_discipline}
    return scores, rows


def group(rows):
    """Of some rows: how many, both scores, the rule's standard error over questions (runs of one question are averaged
    first: they are not independent), and the mean response length in tokens where it is known."""
    questions = {}
    for row in rows:
        questions.setdefault(row["id"], []).append(row["rule"])
    means = [mean(values) for values in questions.values()]
    lengths = [row["tokens"] for row in rows if isinstance(row.get("tokens"), (int, float))]
    return {"n": len(rows), "rule": mean(row["rule"] for row in rows), "official": mean(row["official"] for row in rows),
            "rule_se": stdev(means) / len(means) ** 0.5 if len(means) > 1 else None,
            "official_boxed": mean(row["official_boxed"] for row in rows), "length": mean(lengths) if lengths else None}


def tables(scores):
    """The scores as plain aligned text, in percent (rates and accuracies) and tokens (length)."""
    def percent(x):
        return "-" if x is None else f"{100 * x:.1f}"

    def line(name, g):
        return (name, str(g["n"]), *(percent(g[k]) for k in ("rule", "rule_se", "official", "official_boxed")),
                "-" if g["length"] is None else f"{g['length']:.0f}")

    rows = [("", "n", "rule %", "+- se", "official %", "in box %", "tokens")]
    for discipline, g in scores["disciplines"].items():
        rows.append(line(discipline, g))
        rows += [line(f"  {s}", g) for s, g in scores["subjects"].items() if DISCIPLINE_OF.get(s, "Other") == discipline]
    rows.append(line("Overall", scores))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows]
    text.insert(1, "-" * len(text[0]))
    text.insert(-1, "-" * len(text[0]))
    rates = [("unparsed", "unparsed"), ("truncated", "cut off"), ("forced", "thought closed by force"), ("format", "format"),
             ("denial", "image denied"), ("official_random", "official picks at random")]
    text += ["", "in %: " + ", ".join(f"{label} {percent(scores[name])}" for name, label in rates),
             f"rule where the image is denied {percent(scores['rule_with_denial'])}, elsewhere {percent(scores['rule_without_denial'])}; "
             f"luck would add {percent(scores['official_luck'])} to official"]
    if "judge" in scores:
        text.append(f"rule or judge {percent(scores['judge'])}; of what was asked, no verdict on {percent(scores['verifier']['no_verdict'])}; "
                    f"of {scores['verifier']['audited']} answers that the rule accepts, the judge refuses {scores['verifier']['disagree']}")
    if len(scores["runs"]) > 1:
        text.append(f"{len(scores['runs'])} runs: {', '.join(map(percent, scores['runs']))}; mean {percent(scores['rule'])} "
                    f"+- {percent(scores['runs_se'])} (standard error over runs)")
    return "\n".join(text)


def write_rows(path, rows, how="w"):
    with open(path, how, encoding="utf-8", errors="backslashreplace") as f:  # half a surrogate pair becomes its JSON escape
        f.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


@dataclass
class Score:
    responses: str = "out/eval/responses.jsonl"   # JSONL rows: id, question_type, options, answer, response (+ subject, question, run, finish, mode)
    out: str = ""                                 # where the scores go, JSON; default: scores.json beside the responses
    rows: str = ""                                # also write every row with what was read in it and the verdicts, JSONL
    mode: Literal["auto", "think", "nothink"] = "auto"  # for rows without a mode: auto takes a row with </think>, or cut off, for thinking
    verifier: str = ""                            # judge what the rule refuses: an OpenAI-compatible server, http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model's name on that server


def score(cfg: Score):
    """Score saved responses: no model needed."""
    scores, rows = score_rows(read_responses(cfg.responses), cfg.mode, Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None)
    report(cfg, scores, rows, Path(cfg.responses).parent, cfg.out or Path(cfg.responses).with_name("scores.json"), print)
    return scores


def report(cfg, scores, rows, folder, out, say):
    """Print the tables and what a reader should know about them; write scores.json."""
    about = Path(folder) / "data.json"  # written by the run: where the questions came from, their revision and hashes
    write_json(out, {**scores, "data": json.loads(about.read_text()) if about.exists() else None})
    say(tables(scores))
    unsure = [row for row in rows if row["thinking"] is False and not row.get("mode")]
    if unsure and any(row["thinking"] for row in rows):
        say(f"{len(unsure)} of {len(rows)} rows hold no </think> though others do, and were read as answers without a thought; "
            f"--mode think counts them as thoughts without an answer.")
    keys = [(row["id"], gold) for row in rows if not row["choice"] for gold in row["gold"]]
    odd = {keys[i][0]: why for i, why in unreadable_golds([gold for _, gold in keys]).items()}
    if odd:
        say(f"The rule cannot read the key of {len(odd)} questions: " + "; ".join(f"{i} ({why})" for i, why in list(odd.items())[:5]))
    say(f"scores: {out}")
    if getattr(cfg, "rows", ""):
        write_rows(cfg.rows, rows)


# ---------------------------------------------------------------------------------------------------- the run: questions

@dataclass
class Config:
    model: str = "out/tiny/connector"             # a checkpoint folder, a run folder (its selected or newest checkpoint) or a hub name
    data: str = "data/tiny/mmmu"                  # a folder of Parquet files in MMMU's schema, a Parquet or JSONL file, or a hub name (MMMU/MMMU)
    split: str = "validation"                     # which Parquet files: those whose names start with it
    revision: str = ""                            # commit of the hub data set; default: its newest, which is written down
    subjects: tuple[str, ...] = ()                # only these
    limit: int = 0                                # at most so many questions, evenly from all subjects; 0: all
    out: str = "out/eval"                         # responses.jsonl, scores.json, config.json, data.json; run again, it goes on
    mode: Literal["think", "nothink", "nowait"] = "think"  # prompt ends with <think>; does not; does, and the words of --ban cannot be written
    ban: tuple[str, ...] = CRITICAL_WORDS         # words that nowait bans (the paper's experiment: --ban wait alternatively hmm)
    ask: str = ""                                 # said at the end of each question, e.g. "Put the final answer in \\boxed{}."
    temperature: float = 1.0                      # 0: always the most likely token
    runs: int = 1                                 # how often each question is asked; the paper reports the mean of 5
    max_new_tokens: int = 16384                   # thought and answer together; the model's context is the other limit
    budget: int = 0                               # tokens for the thought; 0: no budget
    on_budget: Literal["close", "cut"] = "close"  # when it runs out: close the thought and ask for the answer, or stop there
    closing: str = "\n</think>\n\n\\boxed{"       # what closes an unfinished thought; the model goes on from there
    chunk: int = 512                              # questions that are sampled and written together: what an interruption can lose
    max_tiles: int = 12                           # of an image (InternVL)
    pixels: tuple[int, int] = (0, 0)              # fewest and most pixels of an image (Qwen-VL); 0 = what the model folder says
    rollout: str = "torch"                        # the sampler: torch, or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1                      # processes that share one vLLM engine
    rollout_batch: int = 512                      # responses that the torch sampler decodes at a time
    dtype: str = "auto"                           # bf16: computing in bf16 over fp32 weights; fp32; auto: bf16 where the processor has it
    seed: int = 0                                 # of the sampling
    verifier: str = ""                            # judge what the rule refuses: an OpenAI-compatible server, http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model's name on that server


def find_parquet(source, split, revision="", subjects=()):
    """(folder, its Parquet files of the split, hub revision or None) of a local folder or file, or a hub data set."""
    path = Path(source)
    if path.is_file():
        return path.parent, [path], None
    if not path.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith(("data/", "out/", ".")):
            raise Refused(f"--data {source}: no such folder or file. Run `make tiny` (or python tiny/make.py) for the tiny world, or name "
                          f"a folder of Parquet files or a hub data set such as MMMU/MMMU.")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        patterns = [f"*{s}/{split}-*.parquet" for s in subjects] or [f"*{split}-*.parquet"]
        try:
            path = Path(snapshot_download(source, repo_type="dataset", revision=revision or None, allow_patterns=patterns))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise Refused(f"--data {source}: no such folder or file here, and it cannot be had from the hub under this name"
                          f"{f' at revision {revision}' if revision else ''} ({type(error).__name__}: {str(error).splitlines()[0]}). "
                          f"Is the name right (MMMU/MMMU), and is the network there?") from error
        revision = path.name
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise Refused(f"--data {source}: no Parquet files in it.")
    named = [f for f in files if re.match(r"(dev|validation|test|train)\b", f.name)]
    if named and not (files := [f for f in named if f.name.startswith(split)]):
        there = ", ".join(sorted({f.name.split("-")[0] for f in named}))
        raise Refused(f"--data {source}: no Parquet file of the split {split!r}; there are {there}.")
    return path, files, revision or None



def question_of(row, name, folder):
    """A row of MMMU's schema as {"id", "subject", "question_type", "options", "answer", "record"}.

    <image N> names the column image_N; in a Record it names the N-th image, so the marks are renumbered where columns are empty.
    """
    from data import Record
    columns = [n for n in range(1, 8) if row.get(f"image_{n}")]
    images = [row[f"image_{n}"]["bytes"] or str(folder / row[f"image_{n}"]["path"]) for n in columns]

    def renumber(mark):
        if int(mark[1]) not in columns:
            raise Refused(f"Row {name}: its text names <image {mark[1]}>, and the column image_{mark[1]} is empty.")
        return f"<image {columns.index(int(mark[1])) + 1}>"

    options = parse_options(row["options"], name)
    question, *shown = [re.sub(r"<image (\d+)>", renumber, text) for text in (row["question"] or "", *options)]
    subject = subject_of(row["id"])
    return {"id": row["id"], "subject": folder.name if subject == "unknown" else subject, "question_type": row["question_type"],
            "options": options, "answer": str(row["answer"]), "record": Record(row["id"], question, images, options=shown, subject=subject)}


def read_questions(cfg):
    """(questions, where they came from: source, revision, hash of every file)."""
    from data import _check_images, read_records
    about = {"source": cfg.data, "split": cfg.split, "revision": None, "files": {}}
    questions = []
    if cfg.data.endswith(".jsonl"):
        for r in read_records(cfg.data, limit_bad=0.0):
            questions.append({"id": r.id, "subject": r.subject or "unknown", "question_type": "multiple-choice" if r.options else "open",
                              "options": r.options, "answer": r.answer, "record": r})
        about["files"][Path(cfg.data).name] = sha256(cfg.data)
    else:
        import pyarrow.parquet as pq
        folder, files, about["revision"] = find_parquet(cfg.data, cfg.split, cfg.revision, cfg.subjects)
        for file in files:
            about["files"][str(file.relative_to(folder))] = sha256(file)
            table = pq.read_table(file)
            if lacking := {"id", "question", "options", "answer", "question_type"} - set(table.column_names):
                raise Refused(f"{file} lacks the columns {', '.join(sorted(lacking))} of MMMU's schema (it has {', '.join(table.column_names)}).")
            for i, row in enumerate(table.to_pylist(), 1):
                questions.append(question_of(row, f"{row['id']} ({file.name} row {i})", file.parent))
        _, broken = _check_images([q["record"] for q in questions])  # decodes each once, and notes its size
        if broken:
            raise Refused(f"{cfg.data}: {len(broken)} questions have images that cannot be read:\n"
                          + "\n".join(f"  {name}: {why}" for name, why in broken[:5]))
    have = Counter(q["subject"] for q in questions)
    if unknown := sorted(set(cfg.subjects) - set(have)):
        raise Refused(f"--subjects {' '.join(unknown)}: not in {cfg.data}, which has {', '.join(sorted(have))}.")
    questions = [q for q in questions if not cfg.subjects or q["subject"] in cfg.subjects]
    if twice := [i for i, n in Counter(q["id"] for q in questions).items() if n > 1]:
        raise Refused(f"{cfg.data}: {len(twice)} ids stand there more than once, e.g. {twice[0]}.")
    if cfg.limit:  # the first question of every subject, then the second of every subject, ...
        count = Counter()
        for q in questions:
            count[q["subject"]] += 1
            q["nth"] = count[q["subject"]]
        questions = sorted(questions, key=lambda q: q["nth"])[:cfg.limit]
    for q in questions:
        q["question"] = q["record"].question
        if cfg.ask:  # it stands after the options, so they become a part of the question's text
            q["record"].question, q["record"].options = f"{q['record'].text()}\n{cfg.ask}", []
    return questions, about


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fingerprint(folder):
    """Tells whether a checkpoint folder still holds the same weights: the end of every weights file, hashed (all of them would
    take minutes at 38B)."""
    total = hashlib.sha256()
    for file in sorted(Path(folder).glob("model*.safetensors")):
        with open(file, "rb") as f:
            f.seek(max(0, file.stat().st_size - 2 ** 20))
            total.update(f"{file.name} {file.stat().st_size}".encode() + f.read())
    return total.hexdigest()


# ----------------------------------------------------------------------------------------------------- the run: responses

def banned_ids(chat, words):
    """Every id that spells one of the words as a whole, alone or with spaces and marks around it, in any case ("Wait", " wait",
    "Wait,"). Each vocabulary entry is decoded for that: the tokenizer's own spelling of a space does not matter."""
    special = set(chat.tokenizer.all_special_ids)
    texts = chat.tokenizer.batch_decode([[i] for i in range(len(chat.tokenizer))])
    found = {i: {word for _, _, word in critical_spans(text, words)} for i, text in enumerate(texts) if i not in special}
    missing = set(words) - set().union(*found.values())
    return sorted(i for i, hits in found.items() if hits), sorted(missing)


def respond(sampler, chat, prompts, cfg, ban, seed, label):
    """One response to each prompt, within the thinking budget: [{"response", "finish", "tokens", "forced"}].

    A thought that is still open when its budget ends is closed with cfg.closing, and the model goes on from there; an answer
    that the budget caught in the middle simply goes on. (--on_budget cut: both stay as they are.)
    """
    limit = cfg.budget or cfg.max_new_tokens
    sample = dict(temperature=cfg.temperature, ban=ban)
    first = [r[0] for r in sampler.generate(prompts, 1, max_new_tokens=limit, seed=seed, progress=label, **sample)]
    out = [{"response": r.text, "finish": r.finish, "tokens": len(r.ids), "forced": False} for r in first]
    if not cfg.budget or cfg.on_budget == "cut":
        return out
    closing = chat.tokenizer(cfg.closing, add_special_tokens=False)["input_ids"]
    heads = {}  # which responses go on -> what they have so far
    for i, r in enumerate(first):
        still_open = "</think>" not in r.text
        head = list(r.ids) + (closing if still_open else [])
        if r.finish == "length" and len(prompts[i].full) + len(head) < chat.context:
            heads[i], out[i]["forced"] = head, still_open
    more = sampler.generate([prompts[i].continued(head) for i, head in heads.items()], 1, max_new_tokens=cfg.max_new_tokens - limit,
                            seed=seed + 1, progress=label and f"{label}, answers", **sample)
    for (i, head), (r,) in zip(heads.items(), more):
        out[i].update(response=chat.decode(head + list(r.ids)), finish=r.finish, tokens=len(head) + len(r.ids))
    return out


def evaluate(cfg: Config):
    """Ask, keep, score. What is already in --out is not asked again."""
    from common import Run, gather, resolve, say, seed_of, start
    if cfg.budget and (cfg.mode == "nothink" or not 0 < cfg.budget < cfg.max_new_tokens):
        raise Refused(f"--budget {cfg.budget} is for the thought: it needs --mode think or nowait, and has to be below "
                      f"--max_new_tokens {cfg.max_new_tokens}, which leaves the rest for the answer.")
    for flag in ("runs", "max_new_tokens", "chunk"):
        if getattr(cfg, flag) < 1:
            raise Refused(f"--{flag} {getattr(cfg, flag)}: at least 1.")
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    world = start(cfg.seed)
    checkpoint = resolve(cfg.model)
    questions, about = read_questions(cfg)
    about = {**about, "checkpoint": checkpoint, "weights": fingerprint(checkpoint) if Path(checkpoint).exists() else None}
    run = Run(cfg.out, cfg, world, may_change=("runs", "chunk", "verifier", "verifier_model"))
    path, about_path = run.dir / "responses.jsonl", run.dir / "data.json"
    before = json.loads(about_path.read_text()) if about_path.exists() else about
    if changed := [k for k in about if before.get(k) != about[k]]:
        raise Refused(f"{run.dir} holds responses of another {' and '.join(changed)} (see {about_path}). "
                      f"Use another --out, or delete the folder to ask again.")
    done = read_responses(path) if path.exists() else []
    have = {(row["id"], row["run"]) for row in done}
    gather(None, world)  # everybody has read before rank 0 writes
    if world.rank == 0:
        write_json(about_path, about)
        write_rows(path, done)  # without a torn line

    # a chunk is sampled as a whole with its own seed, so that a resumed run writes what an undisturbed one would have written
    size = min(cfg.chunk, -(-len(questions) // world.size))
    chunks = [(k, questions[i:i + size]) for k in range(cfg.runs) for i in range(0, len(questions), size)]
    chunks = [(n, k, part) for n, (k, part) in enumerate(chunks) if any((q["id"], k) not in have for q in part)]
    if chunks:
        from data import Chat
        from model import load
        from rollout import make_sampler
        chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels)
        prompts = {p.record.id: p for p in chat.prompts([q["record"] for q in questions], thinking=cfg.mode != "nothink")}
        if long := [q["id"] for q in questions if q["id"] not in prompts]:
            raise Refused(f"{len(long)} questions are longer than the model's context of {chat.context} tokens, e.g. {long[0]}. "
                          f"Leaving them out would change the score: lower --max_tiles (now {cfg.max_tiles}) or --pixels.")
        ban, missing = banned_ids(chat, cfg.ban) if cfg.mode == "nowait" else ((), ())
        if missing:
            say(f"nowait: no token spells {', '.join(missing)} on its own, so these words can still be written in pieces.")
        vlm = None if cfg.rollout == "vllm" else load(cfg.model, world.device, cfg.dtype).eval()  # vLLM loads the model itself
        sampler = make_sampler(cfg.rollout, vlm, chat, None, cfg.rollout_batch, cfg.dtype, cfg.tensor_parallel)  # a whole model each; own chunks
        say(f"{len(questions)} questions x {cfg.runs} runs, {len(have)} answers there already; {cfg.mode}"
            + (f", {len(ban)} tokens banned" if ban else ""))
        bar = tqdm(total=len(questions) * cfg.runs, initial=len(have), desc="answers", disable=world.rank > 0, dynamic_ncols=True)
        for i in range(0, len(chunks), world.size):
            # a process without a chunk asks nothing, but with the others: they may share an engine
            n, k, part = chunks[i + world.rank] if i + world.rank < len(chunks) else (0, 0, [])
            answers = respond(sampler, chat, [prompts[q["id"]] for q in part], cfg, ban, seed_of(cfg.seed, n),
                              f"run {k + 1}/{cfg.runs}" if world.rank == 0 else None)
            rows = [{"id": q["id"], "run": k, **{f: q[f] for f in ("subject", "question_type", "options", "answer")},
                     "question": q["question"], **answer,
                     "mode": cfg.mode} for q, answer in zip(part, answers) if (q["id"], k) not in have]
            rows = [row for rank_rows in gather(rows, world) for row in rank_rows]
            if world.rank == 0:
                write_rows(path, rows, "a")
            bar.update(len(rows))
        bar.close()

    if world.rank == 0:
        wanted = {(q["id"], k) for q in questions for k in range(cfg.runs)}
        rows = [row for row in read_responses(path) if (row["id"], row["run"]) in wanted]
        scores, rows = score_rows(rows, verifier=verifier)
        report(cfg, scores, rows, run.dir, run.dir / "scores.json", say)


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["score"]:
            score(tyro.cli(Score, args=sys.argv[2:], prog="eval_mmmu.py score", description=score.__doc__))
        else:
            from common import main
            main(evaluate, Config)
    except (Refused, VerifierDown) as error:
        sys.exit(f"\n{error}")
