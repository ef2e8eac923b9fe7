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
import re
from dataclasses import dataclass

from machinery.files import Refused, json_lines, main, say, write_text
from machinery.rows import accepted_answers, answer_of, parse_options
from scoring.answers import same_answer, same_batch, unreadable_golds  # noqa: F401
from scoring.responses import Claim, after_thought, last_box, opens_thought, says_something, stated_answer
from scoring.verifier import Verifier, VerifierDown, askable, parse_verdict  # noqa: F401


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
    """What the last balanced \\boxed{} of the answer holds, or None. thinking_prompt: "<think>" ended the
    prompt, so a response without </think> has no answer yet. Nor has one that opens a <think> of its own."""
    return last_box(after_thought(response, thinking_prompt) or "")


def format_ok(response, thinking_prompt=True):
    """The thinking template is kept: exactly one </think>, a thought before it, an answer behind it. Without
    <think> in the prompt (NoThink) it is an answer in a \\boxed{} and no </think>, unless the response opens
    its own <think> (the self-incentive prompt, section 6.6)."""
    if not thinking_prompt and not opens_thought(response):
        return "</think>" not in response and extract_answer(response, False) is not None
    thought, tag, answer = response.partition("</think>")
    return bool(tag) and "</think>" not in answer and says_something(thought) and says_something(answer)


def read_claim(response, gold, thinking_prompt, options, question):
    text, answer = after_thought(response, thinking_prompt), extract_answer(response, thinking_prompt)
    missing = "no </think>" if text is None else "no answer in a \\boxed{}"
    return Claim(answer, missing, format_ok(response, thinking_prompt), str(gold), options, question or "",
                 stated_answer(text or "") if answer is None else None)


def judge(claims, verifier):
    """One Reward for each Claim, in order. The verifier is asked about those that the rule refuses."""
    verdicts = iter(same_batch([(c.answer, c.gold, c.options) for c in claims if c.answer is not None]))
    ruled = [(False, c.missing) if c.answer is None else next(verdicts) for c in claims]
    asked = second_opinions(verifier, claims, [right for right, _ in ruled]) if verifier else {}
    return [_reward(c, *ruled[i], i in asked, asked.get(i)) for i, c in enumerate(claims)]


def second_opinions(verifier, claims, ruled):
    """{index of the claim: True | False | None}, where the rule said no"""
    items = {}
    for i, claim in enumerate(claims):
        said, gold = claim.answer or claim.stated, " or ".join(accepted_answers(claim.gold))
        if not ruled[i] and askable(said):
            options = [f"{chr(65 + k)}. {option}" for k, option in enumerate(claim.options or ())]
            items[i] = "\n".join([claim.question, *options]), said, gold
    return dict(zip(items, verifier.ask(list(items.values()))))


def _reward(c, right, why, asked, verdict):
    """CHANGE THE REWARD HERE, where the boxed answer, the format and the gold are enough; for the text or the
    length: set_rewards in grpo.py."""
    if asked:
        no = "agrees" if verdict is False else "gave no verdict"
        why = "verifier" if verdict else f"{why}; the verifier {no}"
    accurate = right or verdict is True
    total = (0.8 if accurate else 0.0) + (0.2 if c.format else 0.0)  # two constants: exact
    return Reward(float(accurate), float(c.format), total, c.answer, why, right, asked, verdict)


def score_batch(responses, golds, thinking_prompt=True, options=None, verifier=None, questions=None):
    """One Reward for each response, in order. golds: the right answers as text. thinking_prompt: whether
    "<think>" ended the prompt, one bool or one a response. options: for each response a list of choices or
    None. verifier: a Verifier; it needs the questions, one text for each response. Raises VerifierDown."""
    n = len(responses)
    thinking = [thinking_prompt] * n if isinstance(thinking_prompt, bool) else thinking_prompt
    rows = zip(responses, golds, thinking, options or [None] * n, questions or [""] * n, strict=True)
    return judge([read_claim(*row) for row in rows], verifier)


def score(response, gold, thinking_prompt=True, options=None, verifier=None, question=None):
    """The Reward of one response; see score_batch."""
    return score_batch([response], [gold], thinking_prompt, [options], verifier, [question])[0]


def rates(rewards):
    """What to log about a batch, as fractions: who accepted (rule, verifier), how many answers the verifier
    was asked about, and on how many of these it gave no verdict."""
    n, asked = max(1, len(rewards)), [r for r in rewards if r.asked]
    return {"rule": sum(r.rule for r in rewards) / n, "verifier": sum(r.verdict is True for r in rewards) / n,
            "asked": len(asked) / n, "no_verdict": sum(r.verdict is None for r in asked) / max(1, len(asked))}


def report_unreadable(source, records, limit_bad, verifier):
    """Say which records' gold answers the rule cannot read, before training and not at step 412. More than a
    share of limit_bad is refused, unless there is a verifier that can read them. Returns {index: reason}."""
    if pairs := [r for r in records if re.fullmatch(r"[+-]?[1-9]\d*,\d[^\d,]{0,20}", str(r.answer))]:
        say(f"{source}: {len(pairs)} answers are read as two numbers ({pairs[0].name()}: "
            f"{pairs[0].answer!r}). If that is a decimal comma, write a point.")
    unreadable = unreadable_golds([r.answer for r in records], [r.options or None for r in records])
    if not unreadable:
        return {}
    listed = "; ".join(f"{records[i].name()}: {why}" for i, why in list(unreadable.items())[:5])
    if len(unreadable) > limit_bad * len(records) and not verifier:
        raise Refused(f"{source}: the rule cannot read the gold answer of {len(unreadable)} of "
                      f"{len(records)} rows ({listed}). Mend them, give a --verifier, or raise --limit_bad.")
    say(f"{source}: the rule cannot read {len(unreadable)} gold answers ({listed})")
    return unreadable


@dataclass
class Config:
    responses: str                  # JSONL: "response" or "prediction", "answer", perhaps question, options
    out: str                        # JSONL; the same rows with the fields of Reward
    thinking_prompt: bool = True    # "<think>" ended the prompt, so a response without </think> has no answer
    verifier: str = ""              # an OpenAI-compatible server, http://localhost:8000/v1; "": rule alone
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the name of the model there


def score_file(cfg):
    """The command: rows in, the same rows with their rewards out. A "prediction" is a bare answer, which has
    no format to keep."""
    rows, claims = [], []
    for number, row in json_lines(cfg.responses):
        try:
            gold, options, question = answer_of(row), parse_options(row.get("options")), row.get("question")
            if not gold.strip():
                raise ValueError("no answer to compare with")
            claims.append(read_claim(row["response"], gold, cfg.thinking_prompt, options, question)
                          if "response" in row else
                          Claim(row["prediction"].strip() or None, "empty", False, gold, options,
                                question or ""))
        except (AttributeError, KeyError, ValueError) as error:
            why = repr(row if isinstance(row, ValueError) else error)
            raise Refused(f"{cfg.responses} line {number} cannot be scored: {why}") from error
        rows.append(row)
    rewards = judge(claims, Verifier.of(cfg))
    write_text(cfg.out, "".join(json.dumps(row | vars(reward)) + "\n" for row, reward in zip(rows, rewards)))
    print(f"{len(rows)} rows -> {cfg.out}:", *(f"{name} {x:.3g}" for name, x in rates(rewards).items()))


if __name__ == "__main__":
    main(score_file, Config)
