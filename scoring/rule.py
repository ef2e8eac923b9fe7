"""The rule: do two plain texts mean the same? Choice letters first, then types (values.py): RULES has a line
for each pair of types that may be equal; all others differ.

With the options at hand, an answer is right when it names the right one and no other, by letter or by text;
a text counts only when it names exactly one. Without them, a letter with a number or a formula behind it is
that letter; words behind it could be anything.

`maths` is the module scoring.maths in a worker process and LATER elsewhere: whatever needs mathematics raises
NeedsMaths there, and the pair goes to a worker. `ordered`: a list counts in its order, as in options.
"""
import re
from types import SimpleNamespace

from scoring.numbers import number, same_number
from scoring.spelling import key_of, plain
from scoring.values import CONDITIONS, ORDER, Value, read


class NeedsMaths(Exception):
    """Spelling, numbers and shapes do not settle it; a worker has to look."""


def _later(*args):
    raise NeedsMaths


LATER, AT_SIGHT = (SimpleNamespace(same_values=f, same_sets=f, same_equations=f)
                   for f in (_later, lambda *args: False))  # AT_SIGHT says no


def equal(a, g, options, maths):
    """Does the answer mean the same as the gold? maths: the module scoring.maths, or LATER."""
    if not a or not g:
        return False
    if (settled := choice(a, g, options, maths)) is not None:
        return settled
    x, y = read(a), read(g)
    if x.kind == "number" and y.kind in ("text", "expression") and (noun := number(g, any_noun=True)):
        return not x.items[0].unit[1] and same_number(x.items[0], noun)
    return same(x, y, maths)


# --------------------------------------------------------------------------------------------- choice letters

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"(?:(?:option|choice|answer|选项|答案) ?(?:is )?:? ?)?[(\[]? ?([A-Za-z]) ?[)\]]?[.:)]*"
                     r"(?: is (?:correct|right)| ?选项)?", re.IGNORECASE)
_LETTER_TEXT = re.compile(r"(?:[Oo]ption )?(?:[(\[]([A-Z])[)\]]:?|([A-Z]) ?(?:[.)]|[:,-](?= )|:(?=[^A-Z])))"
                          r" ?(\S.*)", re.DOTALL)
_DOUBTED = re.compile(r"\b[B-J]\b|\bA\b(?! )|^[a-j]$|错|不|^(?:is|not|never|wrong|incorrect)\b")


def letters_of(s, letters):
    """The letters of "A, C", "AC" as a set; None when a text names no two, or leaves open which."""
    found = re.findall("[A-Z]", s)
    several = len({*found}) == len(found) > 1 and not re.sub(r"and|[A-Z\s,;()\[\]]", "", s)
    return {*found} if several and {*found} <= {*letters} else None


def _said(s, letters, small):
    """(letter, text) of "B", "(B) dog"; (None, s) of a text alone. small: e is E here, and no number"""
    if (m := _LETTER.fullmatch(s)) and (m[1].isupper() or small or m[1] in "abcd"):
        letter, text = m[1].upper(), ""
    elif m := _LETTER_TEXT.fullmatch(s):
        letter, text = m[1] or m[2], m[3]
    return (letter, text) if m and letter in letters else (None, s)


def choice(a, g, options, maths):
    """True, False, or None when this is not about choice letters. a and g are plain."""
    letters = LETTERS[:len(options)] if options else LETTERS[:10]
    texts = [plain(str(option)) for option in options or ()]
    several = letters_of(g, letters)
    picked = several and letters_of(a, letters)
    if several and (options or picked and re.search(r"[ ,;]", a + g)):
        return picked == several  # else AC and CA may be segments
    a = re.sub("^([A-Z]): ?(?=[^:]+$)", r"\1. ", a) if texts else a
    want, text = _said(g, letters, texts)
    said, rest = _said(a, letters, texts or want and not text)
    if texts:  # "B. dog": the right letter, and no other text than its own
        want = want or _named(text, texts, AT_SIGHT)
        return (_named(rest, texts, maths) if rest else said) == want == (said or want) if want else None
    if not want or _DOUBTED.search(text):
        return None
    if said:
        return said == want and (not rest or (same_text(rest, text, maths) if text else _harmless(rest)))
    return same_text(a, text, maths) if text else None


def _named(s, texts, maths):
    """The letter of the one option that a text names: by its value at sight, else by mathematics. None when
    there is none, or several."""
    for how in (AT_SIGHT, maths):
        if found := [letter for letter, text in zip(LETTERS, texts) if same_text(s, text, how, True)]:
            return found[0] if len(found) == 1 else None
    return None


def _harmless(text):
    """Behind the right letter of options that we do not know: a number or a formula, no word, no letter."""
    letter = re.search(r"\b[A-Ja-j]\b", re.sub(r"\\[A-Za-z]+", " ", text))
    return read(text).kind in ("number", "expression") and text != "-" and not letter


def same(x, y, maths, ordered=False):
    if x == y:
        return True
    for a, b in ((x, y), (y, x)):
        if rule := RULES.get(f"{a.kind} {b.kind}") or a.kind == "relation" and _relation_value:
            return bool(rule(a, b, maths, ordered))
    return False


def same_text(a, g, maths, ordered=False):
    return key_of(a) == key_of(g) or same(read(a), read(g), maths, ordered)


# --------------------------------------------------------------------------------------------- typed values

def _in_order(x, y, *more):
    return len(x.items) == len(y.items) and all(same(p, q, *more) for p, q in zip(x.items, y.items))


def _in_any_order(x, y, *more):
    """Is there a partner for each? Equality is (nearly) transitive, so the first free one is good enough."""
    free = y.items
    for p in x.items:
        free = next((free[:i] + free[i + 1:] for i, q in enumerate(free) if same(p, q, *more)), None)
        if free is None:
            return False
    return not free


def _agree(x, y):
    """"or" is not "and"; where a comma means "and", it is not "or" either."""
    said = {x.mark, y.mark}
    return not (said >= {"and", "or"} or said == {"", "or"} and x.kind in ("conditions", "system"))


def _lists(x, y, maths, ordered):
    if ordered and x.mark != y.mark and any(item.kind == "text" for item in x.items):
        return False
    return _agree(x, y) and (_in_order if ordered else _in_any_order)(x, y, maths, ordered)


def _roots(x, y, *more):
    """x = 1 or x = 2 is 2, 1 and {1, 2} and x_1 = 1, x_2 = 2; but it is not y = 1 or y = 2."""
    names = {re.sub(r"_\{\d\}$", "", name) for name in y.label} if y.kind == "system" else {y.label}
    return names <= {"", x.label} and "and" not in (x.mark, y.mark) and _in_any_order(x, y, *more)


def _ratios(x, y, *more):
    """1:2:3 is 2:4:6, but a nought has no multiple. 3/4 is 3:4, because it is written as a fraction."""
    p, q = ([n.items[0].value for n in v.items if n.kind == "number"] for v in (x, y))
    if len(p) == len(x.items) == len(q) == len(y.items) and all(p + q):
        return all(a * q[0] == b * p[0] for a, b in zip(p, q))
    return _in_order(x, y, *more)


def _chain(x, maths):
    """The values of x = 2+3 = 5 as Values; none when they contradict each other, or this is no equation."""
    values = [*map(read, x.items[bool(x.label):])]
    agree = {*x.mark} <= {"=", "\\approx"} and all(same(p, q, maths) for p, q in zip(values, values[1:]))
    return values if agree else []


def _relation_value(x, y, maths, ordered):
    """x = 5 against 5: any of its values. Inequalities, against intervals and lists of these"""
    if {*x.mark} & CONDITIONS:
        return y.kind in ("tuple", "union", "set", "conditions") and maths.same_sets(x, y)
    return any(same(value, y, maths, ordered) for value in _chain(x, maths))


def _relations(x, y, maths, ordered):
    """The same sides, or mirrored; same label and same value; the same solutions: y = x + 1 is x = y - 1"""
    signs, both = {*x.mark, *y.mark}, [y]
    if not {"\\in", "\\notin", "\\subseteq", "\\subset", "\\propto"} & signs:  # AB ⊥ CD may be turned round
        both.append(Value("relation", y.items[::-1], tuple(ORDER.get(sign, sign) for sign in y.mark[::-1])))
    equations = signs <= {"=", "\\approx"}
    sight = AT_SIGHT if equations else maths
    if any(x.mark == z.mark and all(same_text(p, q, sight) for p, q in zip(x.items, z.items)) for z in both):
        return len(x.items) == 2 or not equations or _chain(x, maths)
    if not equations:
        return signs <= CONDITIONS and maths.same_sets(x, y)
    if x.label and (x.label == y.label or {x.label, y.label} == {"y", "f(x)"}):
        return any(same(v, w, maths, ordered) for v in _chain(x, maths) for w in _chain(y, maths))
    return len(x.items) == len(y.items) == 2 and maths.same_equations(x.items, y.items)


RULES = {  # dates and symbols are the same when their Values are; a relation may be the same as any Value
    **dict.fromkeys(("conditions union", "conditions tuple", "tuple union", "union union", "set union"),
                    lambda x, y, maths, _: maths.same_sets(x, y)),
    **dict.fromkeys(("range range", "size size", "sequence sequence"), _in_order),
    **dict.fromkeys(("roots roots", "roots system", "roots list", "roots set"), _roots),
    **dict.fromkeys(("list set", "set set"), _in_any_order),
    # x = 1, y = 2 is (1, 2), and 0, 2, 0 is [0, 2, 0]; but two roots are no point and no open interval
    "system list": lambda x, y, *more: _agree(x, y) and _in_order(x, y, *more),
    "system tuple": _in_order,
    "list tuple": lambda x, y, *more: (
        y.mark == "[]" and len(y.items) > 2 and not x.mark and _in_order(x, y, *more)),
    "list list": _lists, "system system": _lists,
    "conditions conditions": lambda x, y, maths, ordered: _agree(x, y) and (
        maths.same_sets(x, y) or _in_any_order(x, y, maths, ordered)),
    # brackets count; a name may be left out on one side
    "tuple tuple": lambda x, y, *more: x.mark == y.mark and (
        x.label == y.label or "" in (x.label, y.label)) and _in_order(x, y, *more),
    "number number": lambda x, y, *_: same_number(x.items[0], y.items[0]),
    # 2:30 pm is 14:30; and the half of the day may be left out on one side, as a unit may
    "time time": lambda x, y, *_: (
        x.items[1] == y.items[1] or x.items[0] != y.items[0] and x.items[1] & y.items[1]),
    "ratio ratio": _ratios,
    "range ratio": lambda x, y, *more: x.mark == ("to",) and _ratios(x, y, *more),
    "number ratio": lambda x, y, *more: x.items[0].fraction and not x.items[0].unit[1] and _ratios(
        Value("ratio", (x, read("1"))), y, *more),
    # 3:12 is 1:4, but 12:00 is a time
    **dict.fromkeys(("time ratio", "time range", "time number"),
                    lambda x, y, *more: x.mark and same(x.mark, y, *more)),
    "relation relation": _relations,
    **dict.fromkeys(("text text", "text symbol"), lambda x, y, *_: x.items == y.items),
    **dict.fromkeys(("number expression", "expression expression"),
                    lambda x, y, maths, _: maths.same_values(x, y))}
