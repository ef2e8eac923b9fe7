"""The reward of stage 2 (paper section 3.1): R = 0.8 * accuracy + 0.2 * format. First working version."""
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Reward:
    accuracy: float
    format: float
    total: float
    extracted: str | None
    why: str


class VerifierDown(RuntimeError):
    """The verifier stayed away: save everything and stop; do not train on made-up zeros."""


def answer_part(response, thinking_prompt=True):
    head, tag, tail = response.rpartition("</think>")
    if not tag and thinking_prompt:
        return None
    return tail


def extract_answer(response, thinking_prompt=True):
    text = answer_part(response, thinking_prompt)
    if text is None:
        return None
    stack, done = [], []
    for m in re.finditer(r"\\+boxed\s*\{|\\.|[{}]", text, re.S):
        token = m.group()
        if token.endswith("{") and (token == "{" or "boxed" in token):
            stack.append((m.start(), m.end() if token != "{" else None))
        elif token == "}" and stack:
            start, inside = stack.pop()
            if inside is not None:
                while done and done[-1][0] > start:
                    done.pop()
                done.append((start, inside, m.start()))
    if not done:
        return None
    return text[done[-1][1]:done[-1][2]].strip() or None


def format_ok(response, thinking_prompt=True):
    if not thinking_prompt:
        return extract_answer(response, False) is not None
    if response.count("</think>") != 1:
        return False
    thought, answer = response.split("</think>")
    return bool(re.search(r"\w", thought.replace("<think>", ""))) and bool(re.search(r"\w", answer.replace("<think>", "")))


def _plain(s):
    s = unicodedata.normalize("NFKC", s).strip().strip("$").strip().rstrip(".").strip()
    return re.sub(r"\s+", " ", s)


def _number(s):
    s = s.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", s) else s
    if len(s) <= 60 and re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)", s):
        return Fraction(s)
    m = re.fullmatch(r"(-?)\\[dt]?frac\{(-?\d{1,30})\}\{(\d{1,30})\}", s) or re.fullmatch(r"(-?)(\d{1,30}) ?/ ?(\d{1,30})", s)
    if m and int(m[3]):
        return Fraction(int(m[2]), int(m[3])) * (-1 if m[1] else 1)
    return None


def same_answer(answer, gold, options=None):
    a, g = _plain(answer), _plain(gold)
    if not a or not g:
        return False
    if a.casefold() == g.casefold():
        return True
    x, y = _number(a), _number(g)
    if x is not None and y is not None:
        return x == y
    if re.fullmatch(r"[A-Z]", g):
        m = re.fullmatch(r"\(?([A-Z])(?:\)|[.:]|$)\s*(.*)", a)
        if m:
            return m[1] == g
        if options and ord(g) - 65 < len(options):
            return a.casefold() == _plain(options[ord(g) - 65]).casefold()
    return False


def score_batch(responses, golds, thinking_prompt=True, options=None, verifier=None):
    """One Reward for each response. options: one list of options (or None) for each response, or None."""
    out = []
    for i, (response, gold) in enumerate(zip(responses, golds, strict=True)):
        extracted = extract_answer(response, thinking_prompt)
        fmt = float(format_ok(response, thinking_prompt))
        right = extracted is not None and same_answer(extracted, str(gold), options[i] if options else None)
        out.append(Reward(float(right), fmt, 0.8 * right + 0.2 * fmt, extracted, "rule" if right else "no match"))
    return out


def score(response, gold, thinking_prompt=True, options=None, verifier=None):
    return score_batch([response], [gold], thinking_prompt, [options], verifier)[0]


def readable_gold(answer):
    return None if str(answer).strip() else "the answer is empty"
