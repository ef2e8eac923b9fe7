"""Do two answers mean the same? The rule half of the reward (paper section 3.1 names no rules; these are
ours). It goes from cheap to dear:

1. spelling.py  one form for the many ways to type the same thing                       microseconds, here
2. values.py    each side becomes one typed value (numbers.py: numbers, units, times)   microseconds, here
3. compare.py   by type, exactly; other types differ unless a named rule says so        microseconds, here
4. maths.py     expressions, equations, inequalities, sets: sympy                     milliseconds, workers.py

rule.py puts these together, choice letters first. Here is what others call; a reader may skip what checks the
golds of data sets.
"""
import re
import time
import unicodedata

from machinery.files import Refused, say
from machinery.rows import accepted_answers
from scoring.compare import LATER, NeedsMaths
from scoring.limits import MAX_CHARS, too_heavy
from scoring.numbers import pair_or_decimal
from scoring.rule import equal, names_an_option
from scoring.spelling import key_of, plain
from scoring.values import read
from scoring.workers import POOL

_INTEGER = re.compile(r"-?[0-9]{1,40}")


def same_answer(answer, gold, options=None):
    """Does the answer mean the same as the gold? options: texts of a multiple-choice question, if known."""
    return same_batch([(str(answer), str(gold), options)])[0][0]


def same_batch(pairs):
    """[(answer, gold, options)] -> [(right, why, seconds)]. Of a gold that is a list of accepted answers in
    print, "['24/7', '3.429']", one is enough, and so is the list as it stands: a program may print one."""
    tried = [[(answer, one, options) for one in
              ([gold] if answer.strip() == gold.strip() else one_of(gold, options))]
             for answer, gold, options in pairs]
    found = iter(_same_pairs([pair for several in tried for pair in several]))
    out = []
    for several in tried:
        verdicts = [next(found) for _ in several]
        right = next((verdict for verdict in verdicts if verdict[0]), verdicts[0])
        out.append((*right[:2], sum(seconds for _, _, seconds in verdicts)))
    return out


def one_of(gold, options):
    """The accepted answers of a gold; an option that is itself a list in print is one answer."""
    return [gold] if gold in map(str, options or ()) else accepted_answers(gold)


def _same_pairs(pairs):
    """As same_batch, of single golds; equal pairs are looked at once."""
    keys = [(answer, gold, tuple(map(str, options)) if options else None) for answer, gold, options in pairs]
    done, hard = {}, []
    for key in dict.fromkeys(keys):
        start = time.perf_counter()
        try:
            right, why = first_look(*key)
            done[key] = (right, "rule" if right else why, time.perf_counter() - start)
        except NeedsMaths:
            hard.append(key)
    done.update(zip(hard, POOL.map(hard)))
    return [done[key] for key in keys]


def first_look(answer, gold, options):
    """(right, why) without mathematics; raises NeedsMaths."""
    if answer == gold:
        return bool(answer.strip()), "rule"
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold) and not options:
        return int(answer) == int(gold), "not equal"
    if len(answer) > 4 * MAX_CHARS or len(gold) > 4 * MAX_CHARS:
        return False, "too long to compare"
    a, g = plain(answer), plain(gold)
    if a and key_of(a) == key_of(g) and not options:
        return True, "rule"
    reason = too_heavy(a) or too_heavy(g)
    return (False, reason) if reason else (equal(a, g, options, LATER), "not equal")


# ---------------------------------------------------------------------------- golds that nothing can match

def unreadable_golds(answers, options=None):
    """{index: reason} of the gold answers that the rule cannot compare with anything but themselves. A list
    of accepted answers is such a one when all of them are."""
    options = options or [None] * len(answers)
    golds = [(i, gold) for i, answer in enumerate(answers)
             for gold in (one_of(answer, options[i]) if isinstance(answer, str) else [answer])]
    whys, unsure = [], []  # one a gold, None: it can be compared; (position, task of a worker)
    for i, gold in golds:
        g = plain(str(gold)[:4 * MAX_CHARS])
        whys.append(_unreadable(gold, g))
        if not whys[-1] and options[i] and not names_an_option(g, options[i]):
            unsure += [(len(whys) - 1, (str(option), str(gold), None)) for option in options[i]]
            whys[-1] = (f"the answer {str(gold)[:60]!r} names none of its {len(options[i])} options: write "
                        f"the letter (A to {chr(64 + len(options[i]))}) or the text of one")
        elif not whys[-1] and not options[i] and ("\\" in g or read(g).kind not in _AT_SIGHT) and len(g) > 1:
            unsure.append((len(whys) - 1, ("parse", g, None)))
            whys[-1] = (f"the answer {str(gold)[:60]!r} is neither a text nor mathematics that the rule can "
                        f"parse")
    for parse in (True, False):
        tasks = [(k, task) for k, task in unsure if (task[0] == "parse") is parse]
        found = POOL.map([t for _, t in tasks], True) if parse else same_batch([t for _, t in tasks])
        for (k, _), (right, why, _) in zip(tasks, found):
            whys[k] = None if right or not whys[k] else whys[k] + f" ({why})" * (why == "time limit")
    bad = {}
    for (i, _), why in zip(golds, whys):
        bad.setdefault(i, []).append(why)
    return {i: several[0] for i, several in bad.items() if all(several)}


_AT_SIGHT = ("number", "text", "name", "formula", "time", "date")
_NO_ANSWER = re.compile(
    r"略|.*(?:见解析|证明略|答案不唯一|解析略).*|证明.*|(?:proof|answers? (?:may |will )?var(?:y|ies)|omitted"
    r"|see (?:the )?(?:solution|explanation|figure|above|below)|n/?a)\b.*", re.I | re.S)


def _unreadable(answer, g):
    """Why this gold cannot be compared, as far as can be seen without parsing; None: perhaps it can."""
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return "the answer is empty"
    if not isinstance(answer, (str, int, float)):
        return f"the answer is a {type(answer).__name__}, not a text"
    if "</think>" in str(answer):  # a conversation's last answer, where nothing else was given
        return f"the answer {answer[:60]!r} is a whole solution: give the row an \"answer\" of its own"
    if "\\" not in g and not any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in g):
        return f"the answer {str(answer)[:40]!r} holds no letter, digit or symbol"
    if heavy := too_heavy(g):
        return f"the answer {'is' if heavy.startswith(('too', 'nested')) else 'holds'} {heavy}"
    if _NO_ANSWER.fullmatch(g):
        return f"the answer {str(answer)[:60]!r} says that there is none to compare"
    words = len(g.split()) + len(re.findall(r"[\u3400-\u9fff]", g)) // 2
    if words > 12 and read(g).kind in ("text", "list"):
        return f"the answer is a sentence of {words} words: only a verifier can compare it"
    return None


def report_unreadable(source, records, limit_bad, verifier):
    """Say which records' gold answers the rule cannot read, before training and not at step 412. More than a
    share of limit_bad is refused, unless there is a verifier that can read them. Returns {index: reason}."""
    if pairs := [r for r in records if pair_or_decimal(plain(str(r.answer)[:MAX_CHARS]))]:
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
