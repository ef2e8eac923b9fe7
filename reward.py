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
import time
from dataclasses import dataclass, field

from scoring.answers import report_unreadable, same_answer, same_batch, unreadable_golds  # noqa: F401
from scoring.responses import Claim, after_thought, last_box, opens_thought, says_something, stated_answer
from scoring.verifier import Verifier, VerifierDown, askable, parse_verdict, second_opinions  # noqa: F401
from scoring.workers import POOL, TIME_LIMIT


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
    seconds: float = field(default=0.0, compare=False)  # how long the comparison took


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
    ruled = [(False, c.missing, 0.0) if c.answer is None else next(ruled) for c in claims]
    asked = second_opinions(verifier, claims, [right for right, _, _ in ruled]) if verifier else {}
    return [_reward(c, *ruled[i], i in asked, asked.get(i)) for i, c in enumerate(claims)]


def _reward(c, right, why, seconds, asked, verdict):
    """CHANGE THE REWARD HERE, as far as it needs no more than text and gold."""
    if asked and not right:
        no = "agrees" if verdict is False else "gave no verdict"
        why = "verifier" if verdict else f"{why}; the verifier {no}"
    accurate = right or verdict is True
    total = (0.8 if accurate else 0.0) + (0.2 if c.format else 0.0)  # two constants: exact
    return Reward(float(accurate), float(c.format), total, c.answer, why, right, asked, verdict, seconds)


def score_batch(responses, golds, thinking_prompt=True, options=None, verifier=None, questions=None):
    """One Reward for each response, in order.

    golds: the right answers as text. thinking_prompt: whether "<think>" ended the prompt, one bool or one a
    response. options: for each response the list of its choices, or None. verifier: a Verifier; it needs the
    questions, one text for each response. Raises VerifierDown when the verifier stays away.
    """
    n = len(responses)
    thinking = [thinking_prompt] * n if isinstance(thinking_prompt, bool) else list(thinking_prompt)
    golds, options, questions = list(golds), options or [None] * n, questions or [""] * n
    if not len(thinking) == len(golds) == len(options) == len(questions) == n:
        raise ValueError(
            f"score_batch got {n} responses, {len(golds)} golds, {len(thinking)} thinking_prompt, "
            f"{len(options)} options, {len(questions)} questions: one of each for every response, please")
    return judge([*map(read_claim, responses, golds, thinking, options, questions)], verifier)


def score(response, gold, thinking_prompt=True, options=None, verifier=None, question=None):
    """The Reward of one response; see score_batch."""
    return score_batch([response], [gold], thinking_prompt, [options], verifier, [question])[0]


def rates(rewards):
    """What to log about a batch, as fractions: rule and verifier (who accepted), asked, no_verdict (of it).
    audited: how many the rule accepted and the verifier saw too; disagree: how many of them it rejected."""
    n = max(1, len(rewards))
    asked = [r for r in rewards if r.asked]
    audited = [r for r in asked if r.rule]
    return {"rule": sum(r.rule for r in rewards) / n,
            "verifier": sum(r.accuracy > 0 and not r.rule for r in rewards) / n, "asked": len(asked) / n,
            "no_verdict": sum(r.verdict is None for r in asked) / max(1, len(asked)),
            "audited": len(audited), "disagree": sum(r.verdict is False for r in audited)}


@dataclass
class Config:
    responses: str                  # JSONL: "response" or "prediction", "answer", perhaps question, options
    out: str                        # JSONL; the same rows with accuracy, format, total, extracted, why
    thinking_prompt: bool = True    # "<think>" ended the prompt, so a response without </think> has no answer
    verifier: str = ""              # an OpenAI-compatible server, http://localhost:8000/v1; "": rule alone
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the name of the model there
    patience: float = 900.0         # seconds to wait for a verifier that does not answer before stopping
    check_golds: bool = False       # also list the rows whose right answer the rule cannot read
    workers: int = 0                # processes that compare hard pairs; 0: one a core, at most 8
    time_limit: float = TIME_LIMIT  # seconds of processor time for one pair


def main(cfg):
    from scoring import reward_rows
    reward_rows.check_out(cfg.out)
    POOL.size, POOL.limit = cfg.workers or None, cfg.time_limit
    rows = reward_rows.read_rows(cfg.responses, cfg.check_golds)
    verifier = Verifier(cfg.verifier, cfg.verifier_model, patience=cfg.patience) if cfg.verifier else None
    start, rewards = time.perf_counter(), []
    for part in reward_rows.parts(rows):
        rewards += judge([r.bare or read_claim(r.response, r.gold, cfg.thinking_prompt, r.options, r.question)
                          for r in part], verifier)
    seconds = time.perf_counter() - start
    reward_rows.write_rows(cfg.out, rows, rewards)
    reward_rows.print_summary(rows, rewards, seconds, cfg.out)
    if verifier:
        reward_rows.print_rates(rates(rewards), verifier.counts)


if __name__ == "__main__":
    from scoring.reward_rows import command
    command(main, Config, __doc__)
