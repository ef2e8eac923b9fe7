"""Do two answers mean the same? The rule half of the reward (paper section 3.1 names no rules; these are
ours). It goes from cheap to dear:

1. spelling.py  one form for the many ways to type the same thing                     microseconds, here
2. values.py    each side becomes one typed value (numbers.py: numbers, units, times)  microseconds, here
3. rule.py      choice letters; by type, exactly; others differ unless a rule says so  microseconds, here
4. maths.py     expressions, equations, inequalities, sets: sympy                   milliseconds, workers.py

Here is what others call, and what checks golds of data.
"""
import re
import unicodedata
from itertools import accumulate

from machinery.rows import accepted_answers
from scoring.rule import LATER, LETTERS, NeedsMaths, equal, letters_of
from scoring.spelling import key_of, plain
from scoring.values import balanced, read
from scoring.workers import POOL

MAX_CHARS = 1000  # a longer answer is compared by its spelling only: no final answer needs more
_HEAVY = re.compile(  # sympy would crawl or eat all memory: 5^{99999}, 5^{5^5}, x^{x^{x}}, (9!)!, (10^9)!
    r"\^[\s{(]*[-+]?\d{5}|\^[\s{(]*\d+[\s}]*\^[\s{(]*\d|(?:\^[\s{}()]*(?:[\w.]+[\s{}()]*)?){2}\^"
    r"|!\s*[)}]*!|\d{4}\s*!|\^.{0,9}[)}]\s*!|binom.{0,9}\d{4}")


def same_answer(answer, gold, options=None):
    """Does the answer mean the same as the gold? options: texts of a multiple-choice question, if known."""
    return same_batch([(str(answer), str(gold), options)])[0][0]


def same_batch(pairs):
    """[(answer, gold, options)] -> [(right, why)]; equal pairs are looked at once. Of a gold that is a list
    of accepted answers in print, "['24/7', '3.429']", one is enough, and so is the list as it stands: a
    program may print one."""
    keys = [[(answer, one, tuple(map(str, options)) if options else None) for one in (
        [gold] if answer.strip() == gold.strip() else one_of(gold, options))]
        for answer, gold, options in pairs]
    done, hard = {}, []
    for key in dict.fromkeys(key for several in keys for key in several):
        try:
            right, why = first_look(*key)
            done[key] = right, "rule" if right else why
        except NeedsMaths:
            hard.append(key)
    done.update(zip(hard, POOL.map(hard)))
    return [max((done[key] for key in several), key=lambda verdict: verdict[0]) for several in keys]


def one_of(gold, options):
    """The accepted answers of a gold; an option that is itself a list in print is one answer."""
    return [gold] if gold in map(str, options or ()) else accepted_answers(gold)


def first_look(answer, gold, options):
    """(right, why) without mathematics, or NeedsMaths"""
    if answer == gold:
        return bool(answer.strip()), "rule"
    if len(answer) > 4 * MAX_CHARS or len(gold) > 4 * MAX_CHARS:
        return False, "too long to compare"
    a, g = plain(answer), plain(gold)
    if a and key_of(a) == key_of(g) and not options:
        return True, "rule"
    reason = too_heavy(a) or too_heavy(g)
    return (False, reason) if reason else (equal(a, g, options, LATER), "not equal")


def too_heavy(s):
    """A reason not to hand this to a parser, or None. What passes still meets the worker's time limit."""
    if len(s) > MAX_CHARS or re.search(r"\d{301}", s):
        return "too long to compare"
    if len(s) > 24 and max(accumulate((c in "([{") - (c in ")]}") for c in s)) > 24:
        return "nested too deeply to compare"
    return "a tower of exponents, or a factorial, too large to compute" if _HEAVY.search(s) else None


# ---------------------------------------------------------------------------- golds that nothing can match

def unreadable_golds(answers, options=None):
    """{index: reason} of the gold answers that the rule cannot compare with anything but themselves. A list
    of accepted answers is such a one when all of them are."""
    whys = {}
    for i, answer in enumerate(answers):
        of = options[i] if options else None
        doubts = [_doubt(gold, of) for gold in (one_of(answer, of) if isinstance(answer, str) else [answer])]
        if all(doubts):
            whys[i] = doubts[0]
    return whys


_NO_ANSWER = re.compile(
    r"略|.*(?:见解析|证明略|答案不唯一|解析略).*|证明.*|(?:proof|answers? (?:may |will )?var(?:y|ies)|omitted"
    r"|see (?:the )?(?:solution|explanation|figure|above|below)|n/?a)\b.*", re.I | re.S)


def _doubt(gold, options):
    """Why the rule cannot compare this gold, or None"""
    text, why = str(gold), None
    if not isinstance(gold, (str, int, float)) or not text.strip():
        return f"the answer {gold!r} is empty, or no text"
    g, letters = plain(text[:4 * MAX_CHARS]), LETTERS[:len(options or ())]
    words = len(g.split()) + len(re.findall(r"[\u3400-\u9fff]", g)) // 2
    if "</think>" in text:  # a conversation's last answer, where nothing else was given
        why = 'is a whole solution: give the row an "answer" of its own'
    elif heavy := too_heavy(g):
        why = f"is {heavy}"
    elif "\\" not in g and not any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in g):
        why = "holds no letter, digit or symbol"
    elif _NO_ANSWER.fullmatch(g):
        why = "says that there is none to compare"
    elif words > 12 and read(g).kind in ("text", "list"):
        why = f"is a sentence of {words} words: only a verifier can compare it"
    elif options and not (letters_of(g, letters) or letters_of(g.upper(), letters)) and not any(
            right for right, _ in same_batch([(text, letter, options) for letter in letters])):
        why = (f"names none of its {len(options)} options: write the letter (A to {letters[-1]}) or the text "
               "of one")
    elif "\\" in g and not balanced(g):
        why = "is neither a text nor mathematics that the rule can parse"
    return why and f"the answer {text[:60]!r} {why}"
