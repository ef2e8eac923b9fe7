"""The reward of stage 2 (paper sections 3.1, 3.3): R = 0.8 * accuracy + 0.2 * format.

RL optimises whatever this file pays for, so it is strict in what it reads and patient in how it compares:

1. extract   only the text after the last </think>, only its last balanced \\boxed{}, nothing of the thought
2. rule      does it mean the same as the gold? (scoring/answers.py)
3. verifier  a language model behind a server (scoring/verifier.py), asked only where the rule says no: so the
             paper's "rule OR verifier" is cheap. If it stays away, VerifierDown stops the run
4. format    with <think> in the prompt: exactly one </think>, a thought before it, an answer behind it

The rules and the verifier's prompt are ours: the paper does not give its own. No torch here.

    python reward.py --responses in.jsonl --out out.jsonl  # rows {"response" or "prediction", "answer"}
    ... --verifier http://host:8000/v1 --verifier_model Qwen/Qwen2.5-32B-Instruct  # with the second opinion
"""
import json
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from machinery.files import Refused, json_lines, main, write_text
from machinery.rows import answer_of, parse_options
from scoring.answers import report_unreadable, same_answer, same_batch, unreadable_golds  # noqa: F401
from scoring.responses import Claim, after_thought, last_box, opens_thought, says_something, stated_answer
from scoring.verifier import Verifier, VerifierDown, askable, parse_verdict, second_opinions  # noqa: F401


@dataclass(frozen=True)
class Reward:
    accuracy: float            # 1.0 or 0.0
    format: float              # 1.0 or 0.0
    total: float               # 0.8 * accuracy + 0.2 * format: 0, 0.2, 0.8 or 1
    extracted: str | None      # what stood in the last \boxed{} of the answer
    why: str                   # "rule", "verifier", or why there is no accuracy, in words
    rule: bool = False         # what the rule said
    asked: bool = False        # whether the verifier was asked
    verdict: bool | None = None  # what it said; None is no verdict


def extract_answer(response, thinking_prompt=True):
    """What the last balanced \\boxed{} of the answer holds, or None.

    thinking_prompt: "<think>" ended the prompt, so a response without </think> has no answer yet. Nor has one
    that opens with a <think> of its own and never closes it.
    """
    text = after_thought(response, thinking_prompt or opens_thought(response))
    return None if text is None else last_box(text)


def format_ok(response, thinking_prompt=True):
    """The thinking template is kept: exactly one </think>, a thought before it, an answer behind it.

    Without <think> in the prompt (NoThink) the format is an answer in a \\boxed{} and no </think>, unless the
    response opens its own <think> (the self-incentive prompt, section 6.6).
    """
    if not thinking_prompt and not opens_thought(response):
        return "</think>" not in response and extract_answer(response, False) is not None
    thought, tag, answer = response.partition("</think>")
    return bool(tag) and "</think>" not in answer and says_something(thought) and says_something(answer)


def read_claim(response, gold, thinking_prompt, options, question):
    text = after_thought(response, thinking_prompt or opens_thought(response))
    missing = "no </think>" if text is None else "no answer in a \\boxed{}"
    answer = last_box(text) if text is not None else None
    return Claim(answer, missing, format_ok(response, thinking_prompt), str(gold), options, question or "",
                 stated_answer(text) if text and answer is None else None)


def judge(claims, verifier):
    """One Reward for each Claim, in order. The verifier is asked about those that the rule refuses."""
    ruled = iter(same_batch([(c.answer, c.gold, c.options) for c in claims if c.answer is not None]))
    ruled = [(False, c.missing) if c.answer is None else next(ruled) for c in claims]
    asked = second_opinions(verifier, claims, [right for right, _ in ruled]) if verifier else {}
    return [_reward(c, *ruled[i], i in asked, asked.get(i)) for i, c in enumerate(claims)]


def _reward(c, right, why, asked, verdict):
    """CHANGE THE REWARD HERE, as far as it needs no more than text and gold."""
    if asked:
        no = "agrees" if verdict is False else "gave no verdict"
        why = "verifier" if verdict else f"{why}; the verifier {no}"
    accurate = right or verdict is True
    total = (0.8 if accurate else 0.0) + (0.2 if c.format else 0.0)  # two constants: exact
    return Reward(float(accurate), float(c.format), total, c.answer, why, right, asked, verdict)


def score_batch(responses, golds, thinking_prompt=True, options=None, verifier=None, questions=None):
    """One Reward for each response, in order.

    golds: the right answers as text. thinking_prompt: whether "<think>" ended the prompt, one bool or one a
    response. options: for each response the list of its choices, or None. verifier: a Verifier; it needs the
    questions, one text for each response. Raises VerifierDown when the verifier stays away.
    """
    n = len(responses)
    thinking = [thinking_prompt] * n if isinstance(thinking_prompt, bool) else list(thinking_prompt)
    rows = zip(responses, golds, thinking, options or [None] * n, questions or [""] * n, strict=True)
    return judge([read_claim(*row) for row in rows], verifier)


def score(response, gold, thinking_prompt=True, options=None, verifier=None, question=None):
    """The Reward of one response; see score_batch."""
    return score_batch([response], [gold], thinking_prompt, [options], verifier, [question])[0]


def rates(rewards):
    """What to log about a batch, as fractions: who accepted (rule, verifier), how many answers the verifier
    was asked about, and on how many of these it gave no verdict."""
    n, asked = max(1, len(rewards)), [r for r in rewards if r.asked]
    return {"rule": sum(r.rule for r in rewards) / n,
            "verifier": sum(r.accuracy > 0 and not r.rule for r in rewards) / n, "asked": len(asked) / n,
            "no_verdict": sum(r.verdict is None for r in asked) / max(1, len(asked))}


@dataclass
class Config:
    responses: str                  # JSONL: "response" or "prediction", "answer", perhaps question, options
    out: str                        # JSONL; the same rows with accuracy, format, total, extracted, why
    thinking_prompt: bool = True    # "<think>" ended the prompt, so a response without </think> has no answer
    verifier: str = ""              # an OpenAI-compatible server, http://localhost:8000/v1; "": rule alone
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the name of the model there


def read_row(row, thinking_prompt):
    """A row of the file as a Claim. A "prediction" is a bare answer, which has no format to keep."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    said, gold = row.get("response", row.get("prediction")), answer_of(row)
    if not isinstance(said, str) or not gold.strip():
        raise ValueError('needs a text in "response" (or "prediction") and the right answer in "answer"')
    options, question = parse_options(row.get("options")) or None, str(row.get("question") or "")
    if "response" in row:
        return read_claim(said, gold, thinking_prompt, options, question)
    return Claim(said.strip() or None, "empty", False, gold, options, question)


def score_file(cfg):
    """The command: rows in, the same rows with their rewards out; when one cannot be scored, nothing."""
    Path(cfg.out).absolute().parent.mkdir(parents=True, exist_ok=True)
    rows, claims, rewards, bad = [], [], [], []
    for number, row in json_lines(cfg.responses):
        try:
            claims.append(read_row(row, cfg.thinking_prompt))
            rows.append(row)
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        raise Refused(f"{cfg.responses}: {len(bad)} rows cannot be scored\n  " + "\n  ".join(bad[:20]))
    start = time.perf_counter()
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    for k in tqdm(range(0, len(rows), 1000), unit="thousand rows", disable=None):
        rewards += judge(claims[k:k + 1000], verifier)
    found = [{name: getattr(r, name) for name in ("accuracy", "format", "total", "extracted", "why")}
             for r in rewards]
    write_text(cfg.out, "".join(json.dumps({**row, **new}) + "\n" for row, new in zip(rows, found)))
    print(f"{len(rows)} rows in {time.perf_counter() - start:.2f} s -> {cfg.out}")
    means = {name: sum(r[name] for r in found) / max(1, len(rows)) for name in ("accuracy", "format")}
    print("  ".join(f"{name} {value:.3g}" for name, value in (means | rates(rewards)).items()))


if __name__ == "__main__":
    main(score_file, Config)
