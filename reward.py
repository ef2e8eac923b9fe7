"""The reward of stage 2 (paper section 3.1, 3.3): R = 0.8 * accuracy + 0.2 * format, so R is 0, 0.2, 0.8 or 1.

RL optimises whatever this file pays for, so it is strict in what it reads and patient in how it compares:

1. extract   only the text after the last </think>, only its last balanced \\boxed{}; never a look into the reasoning
2. rule      answers.py: does it mean the same as the gold? Microseconds for most; the rest in workers that can be killed
3. verifier  verifier.py: a language model behind any OpenAI-compatible server, asked only when the rule says no: the paper's "rule OR
             verifier" costs nothing that way. When the server stays away, VerifierDown stops the run; zeros are not made up
4. format    with <think> in the prompt: exactly one </think>, a thought before it, an answer behind it

What the paper does not say: its rules and its verifier's prompt. Both are ours. No torch here; importing this file is cheap.

    python reward.py --responses in.jsonl --out out.jsonl     # rows {"response", "answer"} or {"prediction", "answer"}
    ... --verifier http://host:8000/v1 --verifier_model Qwen/Qwen2.5-32B-Instruct        # with the second opinion
"""
import ast
import json
import os
import re
import sys
import time
import unicodedata
from dataclasses import dataclass, field

from answers import POOL, TIME_LIMIT, readable_gold, same_answer, same_batch, unreadable_golds  # noqa: F401 (re-exported)
from scoring.golds import report_unreadable  # noqa: F401
from verifier import Verifier, VerifierDown, askable, parse_verdict  # noqa: F401 (re-exported)


# ------------------------------------------------------------------------------------------------ what is scored
@dataclass(frozen=True)
class Reward:
    accuracy: float            # 1.0 or 0.0
    format: float              # 1.0 or 0.0
    total: float               # 0.8 * accuracy + 0.2 * format
    extracted: str | None      # what stood in the last \boxed{} of the answer
    why: str                   # "rule", "verifier", or why there is no accuracy, in words
    rule: bool = False         # what the rule said
    asked: bool = False        # whether the verifier was asked
    verdict: bool | None = None  # what it said; None is no verdict
    seconds: float = field(default=0.0, compare=False)  # how long the comparison took


def _answer_part(response, thinking_prompt):
    """The text behind the last </think>; None when a thought was prompted and never closed."""
    _, tag, tail = response.rpartition("</think>")
    return tail if tag or not thinking_prompt else None


_BRACES = re.compile(r"\\{1,4}boxed\s*\{|\\.|[{}]", re.DOTALL)  # an escaped brace (\{) is a character, not a brace


def extract_answer(response, thinking_prompt=True):
    """What the last balanced \\boxed{} of the answer holds, or None. One pass over the text, whatever it is.

    thinking_prompt: "<think>" ended the prompt, so a response without </think> is an unfinished thought: it has no answer.
    """
    text = _answer_part(response, thinking_prompt)
    if text is None or "boxed" not in text:
        return None
    open_braces, boxes = [], []  # boxes: (start of \boxed, start of its content, end of its content), outermost ones only
    for m in _BRACES.finditer(text, max(0, text.find("boxed") - 8)):
        token = m.group()
        if token == "{":
            open_braces.append((m.start(), None))
        elif token[-1] == "{" and len(token) > 2:
            open_braces.append((m.start(), m.end()))
        elif token == "}" and open_braces:
            start, inside = open_braces.pop()
            if inside is not None:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()  # it stood inside this one
                boxes.append((start, inside, m.start()))
    if not boxes:
        return None
    answer = text[boxes[-1][1]:boxes[-1][2]].strip()
    inner = re.fullmatch(r"\\{1,4}boxed\s*\{([^{}]*)\}", answer)  # \boxed{\boxed{5}}
    return (inner[1].strip() if inner else answer) or None


def _says_something(text):
    """Is there a word, a number or a symbol left once tags, special tokens and an empty \\boxed{} are taken away?"""
    text = re.sub(r"</?think>|<\|[^|<>]{1,40}\|>|\\{1,4}boxed\s*\{\s*\}", "", text)
    return any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in text)


def format_ok(response, thinking_prompt=True):
    """The thinking template is kept: exactly one </think>, something thought before it, something answered behind it.

    thinking_prompt: "<think>" was the end of the prompt. Without it (NoThink) there is no thought to ask for: then an answer
    in a \\boxed{} is the format, and no </think> may appear.
    """
    if not thinking_prompt:
        return "</think>" not in response and extract_answer(response, False) is not None
    thought, tag, answer = response.partition("</think>")
    return bool(tag) and "</think>" not in answer and _says_something(thought) and _says_something(answer)


# ------------------------------------------------------------------------------------------------ the score
def score_batch(responses, golds, thinking_prompt=True, options=None, verifier=None, questions=None):
    """One Reward for each response, in order.

    golds: the right answers as text. thinking_prompt: whether "<think>" ended the prompt; one bool, or one for each response.
    options: None, or for each response the list of its choices (or None). verifier: a Verifier, asked where the rule says no;
    give it the questions, one text for each response. Raises VerifierDown when the verifier stays away.
    """
    n = len(responses)
    thinking = [thinking_prompt] * n if isinstance(thinking_prompt, bool) else list(thinking_prompt)
    golds, options, questions = [str(g) for g in golds], options or [None] * n, questions or [""] * n
    if not len(thinking) == len(golds) == len(options) == len(questions) == n:
        raise ValueError(f"score_batch got {n} responses, {len(golds)} golds, {len(thinking)} thinking_prompt, {len(options)} options, "
                         f"{len(questions)} questions: one of each for every response, please")
    extracted = [extract_answer(r, t) for r, t in zip(responses, thinking)]
    formats = [format_ok(r, t) for r, t in zip(responses, thinking)]
    missing = ["no </think>" if t and "</think>" not in r else "no answer in a \\boxed{}" for r, t in zip(responses, thinking)]
    return _judge(extracted, golds, options, formats, missing, verifier, questions)


def _judge(extracted, golds, options, formats, missing, verifier, questions):
    ruled = iter(same_batch([(a, g, o) for a, g, o in zip(extracted, golds, options) if a is not None]))
    ruled = [(False, why, 0.0) if a is None else next(ruled) for a, why in zip(extracted, missing)]
    verdicts = {}
    if verifier is not None:  # only where the rule said no, and on the audited sample where it said yes
        asked, items = [], []
        for i, (answer, gold, (right, _, _)) in enumerate(zip(extracted, golds, ruled)):
            text = questions[i] or ""
            if options[i]:
                text += "\n" + "\n".join(f"{chr(65 + k)}. {o}" for k, o in enumerate(options[i]))
            if askable(answer) and (not right or verifier.audited(text, answer, gold)):
                asked.append(i)
                items.append((text, answer, gold))
        verdicts = dict(zip(asked, verifier.ask(items)))
    out = []
    for i, (right, why, seconds) in enumerate(ruled):
        accurate = right or verdicts.get(i) is True
        if not right and i in verdicts:
            why = {True: "verifier", False: f"{why}; the verifier agrees", None: f"{why}; the verifier gave no verdict"}[verdicts[i]]
        total = (0.8 if accurate else 0.0) + (0.2 if formats[i] else 0.0)  # exactly 0, 0.2, 0.8 or 1
        out.append(Reward(float(accurate), float(formats[i]), total, extracted[i], why, bool(right), i in verdicts, verdicts.get(i), seconds))
    return out


def score(response, gold, thinking_prompt=True, options=None, verifier=None, question=None):
    """The Reward of one response; see score_batch."""
    return score_batch([response], [gold], thinking_prompt, [options], verifier, [question])[0]


def rates(rewards):
    """What to log about a batch, as fractions: rule and verifier (who accepted), asked, no_verdict (of the asked);
    audited is the number of answers that the rule accepted and the verifier saw too, disagree how many of those it rejected."""
    n = max(1, len(rewards))
    asked = [r for r in rewards if r.asked]
    audited = [r for r in asked if r.rule]
    return {"rule": sum(r.rule for r in rewards) / n, "verifier": sum(r.accuracy > 0 and not r.rule for r in rewards) / n,
            "asked": len(asked) / n, "no_verdict": sum(r.verdict is None for r in asked) / max(1, len(asked)),
            "audited": len(audited), "disagree": sum(r.verdict is False for r in audited)}


# ------------------------------------------------------------------------------------------------ the command
@dataclass
class Config:
    responses: str                  # JSONL; rows {"response", "answer"} or {"prediction", "answer"}, and if you like "question", "options", "id"
    out: str                        # JSONL; the same rows with accuracy, format, total, extracted, why
    thinking_prompt: bool = True    # "<think>" ended the prompt, so a response without </think> has no answer
    verifier: str = ""              # address of an OpenAI-compatible server, such as http://localhost:8000/v1; empty: the rule alone
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the name of the model there
    patience: float = 900.0         # seconds to wait for a verifier that does not answer before stopping
    check_golds: bool = False       # also list the rows whose right answer the rule cannot read
    workers: int = 0                # processes that compare hard pairs; 0: one a core, at most 8
    time_limit: float = TIME_LIMIT  # seconds of processor time for one pair


def _read_rows(path):
    rows, bad = [], []
    try:
        lines = open(path, encoding="utf-8")
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; --responses is a JSONL file with one response a line")
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                bad.append(f"line {number}: is not JSON")
                continue
            name = f"row {row.get('id', number)!r}" if isinstance(row, dict) else f"line {number}"
            options = row.get("options") if isinstance(row, dict) else None
            if isinstance(options, str):  # the printed form of a list, as MMMU has it
                try:
                    options = ast.literal_eval(options)
                except (ValueError, SyntaxError, RecursionError, MemoryError):
                    options = 0
            if not isinstance(row, dict):
                bad.append(f"{name}: is not an object with fields")
            elif not isinstance(row.get("response", row.get("prediction")), str):
                bad.append(f"{name}: needs a text in \"response\" (or \"prediction\", for a bare answer)")
            elif isinstance(row.get("answer"), (bool, list, dict, type(None))) or not str(row["answer"]).strip():
                bad.append(f"{name}: needs the right answer, a text or a number, in \"answer\"")
            elif options is not None and not isinstance(options, (list, tuple)):
                bad.append(f"{name}: \"options\" is not a list of texts")
            else:
                rows.append((name, row, [str(o) for o in options] if options else None))
    if bad:
        sys.exit(f"{path}: {len(bad)} rows cannot be scored; nothing was written\n  " + "\n  ".join(bad[:20]) + ("\n  ..." if len(bad) > 20 else ""))
    return rows


def main(cfg):
    from tqdm import tqdm
    if not os.path.isdir(os.path.dirname(os.path.abspath(cfg.out))):
        sys.exit(f"{cfg.out}: the folder of --out does not exist; make it first")
    POOL.size, POOL.limit = cfg.workers or None, cfg.time_limit
    rows = _read_rows(cfg.responses)
    if cfg.check_golds:
        odd = unreadable_golds([str(row["answer"]) for _, row, _ in rows], [o for _, _, o in rows])
        print(f"{len(odd)} of {len(rows)} rows have a right answer that the rule cannot read")
        print("".join(f"  {rows[i][0]}: {why}\n" for i, why in odd.items()), end="")
    verifier = Verifier(cfg.verifier, cfg.verifier_model, patience=cfg.patience) if cfg.verifier else None
    start, rewards = time.perf_counter(), []
    with tqdm(total=len(rows), unit="row", disable=None) as bar:
        for k in range(0, len(rows), 1000):
            part = rows[k:k + 1000]
            bare = ["response" not in row for _, row, _ in part]
            texts = [row["prediction"] if b else row["response"] for b, (_, row, _) in zip(bare, part)]
            extracted = [t.strip() or None if b else extract_answer(t, cfg.thinking_prompt) for b, t in zip(bare, texts)]
            formats = [not b and format_ok(t, cfg.thinking_prompt) for b, t in zip(bare, texts)]  # a bare answer has no format to keep
            missing = ["empty" if b else "no </think>" if cfg.thinking_prompt and "</think>" not in t else "no answer in a \\boxed{}"
                       for b, t in zip(bare, texts)]
            rewards += _judge(extracted, [str(row["answer"]) for _, row, _ in part], [o for _, _, o in part], formats, missing, verifier,
                              [str(row.get("question") or "") for _, row, _ in part])
            bar.update(len(part))
    seconds = time.perf_counter() - start
    with open(cfg.out + ".part", "w", encoding="utf-8", errors="backslashreplace") as file:
        for (_, row, _), r in zip(rows, rewards):
            file.write(json.dumps({**row, "accuracy": r.accuracy, "format": r.format, "total": r.total, "extracted": r.extracted, "why": r.why},
                                  ensure_ascii=False) + "\n")
    os.replace(cfg.out + ".part", cfg.out)
    n = max(1, len(rewards))
    print(f"{len(rows)} rows in {seconds:.2f} s, {len(rows) / max(seconds, 1e-9):.0f} rows/s -> {cfg.out}")
    print(f"accuracy {sum(r.accuracy for r in rewards) / n:.3f}  format {sum(r.format for r in rewards) / n:.3f}  total {sum(r.total for r in rewards) / n:.3f}")
    if rows:
        name, r = max(((name, r) for (name, _, _), r in zip(rows, rewards)), key=lambda pair: pair[1].seconds)
        print(f"slowest: {name}, {r.seconds * 1000:.1f} ms ({r.why}): {str(r.extracted)[:60]!r}")
    if verifier:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rates(rewards).items()), verifier.counts)


if __name__ == "__main__":
    import tyro
    try:
        main(tyro.cli(Config, description=__doc__.split("\n\n")[0]))
    except VerifierDown as error:
        sys.exit(f"{error} (nothing was written)")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
