"""Do two answers mean the same? The rule half of the reward (paper section 3.1 names no rules; these are
ours). It goes from cheap to dear:

1. spelling.py  one form for the many ways to type the same thing                      microseconds, here
2. numbers.py   exact fractions with units                                             microseconds, here
3. shapes.py    lists, tuples, intervals, ratios, labels and chains, piece by piece    microseconds, here
4. maths.py     expressions, equations, inequalities, matrices: math-verify parses    milliseconds, workers.py

rule.py puts these together. Here is what others call; a reader may skip what checks the golds of data sets.
"""
import re
import time
import unicodedata

from machinery.files import Refused, say
from machinery.rows import accepted_answers
from scoring.limits import MAX_CHARS, too_heavy
from scoring.numbers import number, pair_or_decimal
from scoring.rule import NEEDS_MATHS, SAME, choice, equal, names_an_option, needs_maths, verdict
from scoring.spelling import key_of, plain, words_of
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
        found, why = first_look(*key)
        if found is NEEDS_MATHS:
            hard.append(key)
        else:
            done[key] = (found is SAME, "rule" if found is SAME else why, time.perf_counter() - start)
    done.update(zip(hard, POOL.map(hard)))
    return [done[key] for key in keys]


def first_look(answer, gold, options):
    """(Verdict, why) without mathematics."""
    if answer is None:
        return verdict(False), "no answer in a \\boxed{}"
    if answer == gold:
        return verdict(answer.strip()), "rule"
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold) and not options:
        return verdict(int(answer) == int(gold)), "not equal"
    if len(answer) > 4 * MAX_CHARS or len(gold) > 4 * MAX_CHARS:
        return verdict(False), "too long to compare"
    a, g = plain(answer), plain(gold)
    if a and key_of(a) == key_of(g):
        return SAME, "rule"
    reason = too_heavy(a) or too_heavy(g)
    return (verdict(False), reason) if reason else (equal(a, g, options, needs_maths), "not equal")


def unreadable_golds(answers, options=None):
    """{index: reason} of the gold answers that the rule cannot compare with anything but themselves. A list
    of accepted answers is such a one when all of them are."""
    several = [one_of(answer, options and options[i]) if isinstance(answer, str) else [answer]
               for i, answer in enumerate(answers)]
    of = [i for i, golds in enumerate(several) for _ in golds]  # whose each of them is
    found = _unreadable_singles([gold for golds in several for gold in golds],
                                [options[i] for i in of] if options else None)
    bad = {}
    for k, why in found.items():
        bad.setdefault(of[k], []).append(why)
    return {i: whys[0] for i, whys in bad.items() if len(whys) == len(several[i])}


def _unreadable_singles(answers, options):
    bad, unsure, strange = {}, {}, {}
    for i, answer in enumerate(answers):
        g = plain(str(answer)[:4 * MAX_CHARS])
        reason = _unreadable(answer, g)
        if reason:
            bad[i] = reason
        elif options and options[i] and not names_an_option(g, options[i]):
            strange[i] = g
        elif not _read_at_sight(g, options[i] if options else None):
            unsure[i] = g
    parsed = POOL.map([("parse", g, None) for g in unsure.values()], parse_only=True)
    for i, (ok, why, _) in zip(unsure, parsed):
        if not ok:
            late = f" ({why})" if why == "time limit" else ""
            bad[i] = (f"the answer {str(answers[i])[:60]!r} is neither a text nor mathematics that the rule "
                      f"can parse{late}")
    bad.update(_no_option(answers, options, strange))
    return dict(sorted(bad.items()))


def _no_option(answers, options, strange):
    """{index: reason} of those golds (strange: their indices) that no option equals by mathematics either."""
    pairs = [(i, str(option)) for i in strange for option in options[i]]
    same = same_batch([(option, str(answers[i]), None) for i, option in pairs])
    named = {i for (i, _), (right, _, _) in zip(pairs, same) if right}
    return {i: f"the answer {str(answers[i])[:60]!r} names none of its {len(options[i])} options: write the "
               f"letter (A to {chr(64 + len(options[i]))}) or the text of one"
            for i in strange if i not in named}


def _unreadable(answer, g):
    """Why this gold cannot be compared, as far as can be seen without parsing; None: perhaps it can."""
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return "the answer is empty"
    if not isinstance(answer, (str, int, float)):
        return f"the answer is a {type(answer).__name__}, not a text"
    if "</think>" in str(answer):  # a talk's last answer, where nothing else was given
        return f"the answer {answer[:60]!r} is a whole solution: give the row an \"answer\" of its own"
    if "\\" not in g and not any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in g):
        return f"the answer {str(answer)[:40]!r} holds no letter, digit or symbol"
    heavy = too_heavy(g)
    if heavy:
        return f"the answer {'is' if heavy.startswith(('too', 'nested')) else 'holds'} {heavy}"
    if len(g.split()) > 12 and words_of(g):
        return f"the answer is a sentence of {len(g.split())} words: only a verifier can compare it"
    return None


def _read_at_sight(g, options):
    return bool(number(g) or choice("A", g, options, needs_maths) or words_of(g) or len(g) == 1)


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
