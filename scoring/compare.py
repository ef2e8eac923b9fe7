"""Are two Values the same? RULES has a line for each pair of types that may be equal; all others differ.

`maths` is the module scoring.maths in a worker process and LATER elsewhere: whatever needs mathematics raises
NeedsMaths there, and the pair goes to a worker. `ordered`: a list counts in its order, as in options.
"""
import re

from scoring.numbers import Number, same_dimensions, same_number, same_time
from scoring.spelling import key_of
from scoring.values import NAME, ORDER, Value, label_of, name_of, read


class NeedsMaths(Exception):
    """Spelling, numbers and shapes do not settle it; a worker has to look."""


class Without:
    """No mathematics: each of its functions raises NeedsMaths, or says no."""

    def __init__(self, settled):
        self.settled = settled

    def __getattr__(self, name):
        if not self.settled:
            raise NeedsMaths
        return lambda *args: False


LATER, AT_SIGHT = Without(False), Without(True)


def same(x, y, maths, ordered=False):
    if x == y:
        return True
    for a, b in ((x, y), (y, x)):
        if a.kind == "set" and len(a.items) == 1 and b.kind not in ("set", "list", "union", "relation"):
            return same(a.items[0], b, maths)  # {(1, 2)} is (1, 2)
        if a.kind == "time" and a.mark and b.kind in ("ratio", "range", "number"):
            return same(a.mark, b, maths)  # 3:12 is 1:4, but 12:00 is a time
        if rule := RULES.get(f"{a.kind} {b.kind}"):
            return bool(rule(a, b, maths, ordered))
    return False


def same_text(a, g, maths, ordered=False):
    return key_of(a) == key_of(g) or same(read(a), read(g), maths, ordered)


# ------------------------------------------------------------------------------------------- several answers

def _in_order(x, y, maths, ordered):
    return len(x.items) == len(y.items) and all(same(p, q, maths, ordered) for p, q in zip(x.items, y.items))


def _in_any_order(x, y, maths, ordered):
    """Is there a partner for each? Equality is (nearly) transitive, so the first free one is good enough."""
    free = list(y.items)
    for p in x.items:
        i = next((i for i, q in enumerate(free) if same(p, q, maths, ordered)), None)
        if i is None:
            return False
        del free[i]
    return not free


def _labels(value):
    return [item.kind == "relation" and label_of(item)[0] or None for item in value.items]


def _inequalities(value):
    return all(item.kind == "relation" and set(item.mark) <= {*ORDER, "\\ne", "\\in"} for item in value.items)


def _roots(value):
    """(x, values) of x = 2 or x = 3, and of x_1 = 2, x_2 = 3; (None, value) of others"""
    labels = _labels(value)
    names = {re.sub(r"_\{\d\}$", "", str(name)) for name in labels}
    if len(names) > 1 or None in labels:
        return None, value
    return names.pop(), Value("list", tuple(read(label_of(item)[1][0]) for item in value.items))


def _lists(x, y, maths, ordered):
    """"or" is not "and"; between relations a comma is "and", unless it is x = 1, x = 2."""
    (p, values), (q, others) = _roots(x), _roots(y)
    labels, said = [_labels(x), _labels(y)], {x.mark, y.mark}
    if p and p == q and p in labels[0] + labels[1] or (p or q) and "or" in said and None in (p, q):
        return "and" not in said and _in_any_order(values, others, maths, ordered)
    distinct = max(len(set(of) - {None}) for of in labels) > 1
    relations = _inequalities(x) or _inequalities(y) or distinct
    if said >= {"and", "or"} or said == {"", "or"} and relations or (
            ordered and len(said) > 1 and any(item.kind == "text" for item in x.items)):
        return False
    if ordered or distinct and any(set(of) == {None} for of in labels):
        return _in_order(x, y, maths, ordered)  # x = 1, y = 2 against 1, 2: nothing else says which is which
    sets = _inequalities(x) and _inequalities(y) and sorted(map(str, x.items)) != sorted(map(str, y.items))
    return sets and maths.same_sets(x, y) or _in_any_order(x, y, maths, ordered)


def _list_set(x, y, *more):
    name, values = _roots(x)
    return (name or set(_labels(x)) == {None}) and _in_any_order(values, y, *more)


def _list_tuple(x, y, maths, ordered):
    """x = 1, y = 2 is (1, 2), and 0, 2, 0 is [0, 2, 0]; but two roots are no point and no open interval."""
    labels = set(_labels(x))
    if _inequalities(x):
        return maths.same_sets(x, y)
    listed = y.mark == "[]" and len(y.items) > 2 and x.mark == "" and labels == {None}
    return (listed or None not in labels and len(labels) > 1) and _in_order(x, y, maths, ordered)


def _tuples(x, y, *more):
    """Brackets count; a name may be left out on one side."""
    (brackets, name), (others, other) = ((v.mark[:2], v.mark[2:]) for v in (x, y))
    return brackets == others and (name == other or "" in (name, other)) and _in_order(x, y, *more)


def _ratios(x, y, *more):
    """1:2:3 is 2:4:6; a nought has no multiple"""
    if {item.kind for item in x.items + y.items} != {"number"}:
        return _in_order(x, y, *more)
    p, q = ([item.items[0].value for item in v.items] for v in (x, y))
    return len(p) == len(q) and (p == q or all(p + q) and all(p[0] * b == q[0] * a for a, b in zip(p, q)))


def _number_ratio(x, y, *more):
    """3/4 is 3:4, because it is written as a fraction; 0.75 is not."""
    n = x.items[0]
    parts = tuple(Value("number", (Number(part),)) for part in n.value.as_integer_ratio())
    return n.fraction and not n.unit[1] and _ratios(Value("ratio", parts), y, *more)


# ------------------------------------------------------------------------------------ relations, expressions

def _chain(value, maths):
    """The values of x = 2+3 = 5 as Values; None when they contradict each other, or this is no equation."""
    sides = label_of(value)[1]
    values, signs = [*map(read, sides)], value.mark[len(value.items) - len(sides):]
    agree = set(value.mark) <= {"=", "\\approx"} and all(
        maths.rounded(p, q) if sign == "\\approx" else same(p, q, maths)
        for p, q, sign in zip(values, values[1:], signs))
    return values if agree else []


def _relation_value(x, y, maths, ordered):
    """x = 5 against 5: any of its values. Inequalities, against intervals and lists of these"""
    if set(x.mark) & {*ORDER, "\\ne", "\\in"}:
        return y.kind in ("tuple", "union", "set", "list") and maths.same_sets(x, y)
    return any(same(value, y, maths, ordered) for value in _chain(x, maths))


def _relations(x, y, maths, ordered):
    """The same sides, or mirrored; same label and same value; the same solutions: y = x + 1 is x = y - 1"""
    signs, mirrored = {*x.mark, *y.mark}, y
    if not {"\\in", "\\notin", "\\subseteq", "\\subset", "\\propto"} & signs:  # AB ⊥ CD may be turned round
        mirrored = Value("relation", y.items[::-1], tuple(ORDER.get(sign, sign) for sign in y.mark[::-1]))
    equations = signs <= {"=", "\\approx"}
    sight = AT_SIGHT if equations else maths
    if _side_by_side(x, y, sight) or _side_by_side(x, mirrored, sight):
        return len(x.items) == 2 or not equations or _chain(x, maths)
    if not equations:
        return signs <= {*ORDER, "\\ne", "\\in"} and maths.same_sets(x, y)
    (a, _), (b, _) = label_of(x), label_of(y)
    if a and (a == b or {a, b} == {"y", "f(x)"}):
        return any(same(v, w, maths, ordered) for v in _chain(x, maths) for w in _chain(y, maths))
    if len(x.items) == len(y.items) == 2:
        return maths.same_equations(x.items, y.items)
    return sorted(map(key_of, x.items)) == sorted(map(key_of, y.items))


def _side_by_side(x, y, maths):
    """The same signs between the same sides. Of similar or congruent figures corners correspond."""
    if x.mark == y.mark and set(x.mark) <= {"\\sim", "\\cong"}:
        corners = [[re.findall(r"[A-Z]'?(?:_\{\w+\})?", side) or [side] for side in v.items] for v in (x, y)]
        return sorted(zip(*corners[0])) == sorted(zip(*corners[1]))
    names = [[(m := NAME.fullmatch(side)) and name_of(m) for side in v.items] for v in (x, y)]
    return x.mark == y.mark and all(m and m == n or same_text(p, q, maths) for m, n, p, q in zip(
        *names, x.items, y.items))


def _expressions(x, y, maths, ordered):
    """Units off, then mathematics"""
    unit, other = (v.items[0].unit if v.kind == "number" else v.mark or None for v in (x, y))
    fit = not (unit and other and unit[1] and other[1]) or same_dimensions(unit, other) or (
        {unit[1], other[1]} == {(("rad", 1),), (("°", 1),)})
    return fit and maths.same_values(x, y)


def _letters(x, y, maths, ordered):
    """xy is a product only beside an expression, and e a number beside another; cat is not act."""
    letters = "[a-z]{2,3}|[A-Za-z]" if y.kind == "expression" else "e"
    return re.fullmatch(letters, x.mark) and maths.same_values(Value("expression", (x.mark,)), y)


def _texts(x, y, *more):
    """Words have no case already; short ones have none either, where ab and AB may be two quantities."""
    a, b = x.items[0], y.items[0]
    if a == b or a.casefold() == b.casefold() in "no on up in he it we us".split():
        return True
    (p, _, noun), (q, _, other) = (str(v.mark).partition(" ") for v in (x, y))  # 3 cups are 3.0 cups
    p, q = read(p), read(q)
    return noun and noun == other and p.kind == q.kind == "number" and same(p, q, *more)


RULES = {  # dates, names and formulas are the same when their Values are
    **{f"relation {kind}": _relation_value for kind in "number time date range size ratio list sequence "
       "union set tuple formula name expression text".split()},
    **dict.fromkeys(("list union", "tuple union", "union union", "set union"),
                    lambda x, y, maths, _: maths.same_sets(x, y)),
    **dict.fromkeys(("range range", "size size", "sequence sequence"), _in_order),
    "number number": lambda x, y, *_: same_number(x.items[0], y.items[0]),
    "time time": lambda x, y, *_: same_time(x.items, y.items),
    "range ratio": lambda x, y, *more: x.mark == "to" and _ratios(x, y, *more),
    "text tuple": lambda x, y, *_: x.mark == "R" and y == read("(-\\infty,\\infty)"),
    "number ratio": _number_ratio, "ratio ratio": _ratios, "tuple tuple": _tuples, "set set": _in_any_order,
    "list list": _lists, "list set": _list_set, "list tuple": _list_tuple, "relation relation": _relations,
    "text text": _texts, "text formula": _texts, "text expression": _letters, "text number": _letters,
    "number expression": _expressions, "expression expression": _expressions}
