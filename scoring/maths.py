"""Mathematics: expressions by value, equations and inequalities by their solutions. Only the worker processes
import this file: it brings sympy along.

Constants are compared exactly: 2^{2024}-1 is not 2^{2024}. Where there are variables, at random points, with
as many digits as the sizes of the numbers need. What cannot be parsed or decided is not equal. The parser
reads LaTeX alone, and nothing is ever evaluated as Python.
"""
import re
from functools import lru_cache
from operator import and_, or_, sub

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy import And, Eq, Expr, FiniteSet, Float, I, Interval, MatrixBase, Rational, S, pi

from scoring.numbers import Number, number, rounds_to
from scoring.values import FUNCTIONS, NAME, Value, balanced, label_of, name_of, read

_FUNCTIONS = re.compile(rf"(?<![\\A-Za-z])({FUNCTIONS})(?![a-z])")
_IMAGINARY = re.compile(r"\dj|[\w}] ?[-+] ?[\d.]+ j")  # 4j, 3 + 4 j; but 2 j alone is a vector, 2\hat{j}
_TRIG = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_CASE = ConversionConfig(lowercase_symbols=False)


def _careful(function):
    """False where the strings are no mathematics: the parser and sympy raise everything there is."""
    def tried(*args):
        try:
            return function(*args)
        except (RecursionError, MemoryError):
            raise
        except Exception:
            return False
    return tried


@lru_cache(maxsize=512)  # the responses to one question have one gold
def parse(s):
    """LaTeX -> sympy, by the parser of math-verify. Names of figures become symbols before."""
    # its own tidying would read \frac{\log_{10} 11}{2} as log 2 / 2
    expr = latex2sympy(_latex(s), normalization_config=None, is_real=True, conversion_config=_CASE)
    if not isinstance(expr, (Expr, MatrixBase)):
        raise ValueError("no expression")
    expr = expr.xreplace({decimal: Rational(str(decimal)) for decimal in expr.atoms(Float)})
    units = {"i", "j"} if {v.name for v in expr.free_symbols} == {"j"} and _IMAGINARY.search(s) else {"i"}
    expr = expr.subs({v: I for v in expr.free_symbols if v.name in units})
    if expr.has(S.NaN, S.ComplexInfinity):
        raise ValueError("undefined")
    return expr


def _latex(s):
    if _TRIG.search(s):
        s = re.sub(r"(\d+(?:\.\d+)?)°", r"(\\frac{\1\\pi}{180})", s)
    s = NAME.sub(_symbol, s.replace("°", "").replace("*", r"\cdot "))
    s = _FUNCTIONS.sub(r"\\\1 ", s)
    s = re.sub(r"(?<![\\A-Za-z])(?:inf|infinity|oo)(?![A-Za-z])", r"\\infty ", s)
    s = re.sub(r"(\\sqrt|\^) *\(([^()]*(?:\([^()]*\)[^()]*)*)\)", r"\1{\2}", s)  # one level of () inside
    s = re.sub(r"(\\sqrt ?\[ ?\d*[13579] ?\] ?\{) ?-( ?[\d.]+ ?\})", r"-\1\2", s)  # the real root
    return re.sub(r"([A-Za-z])('+)", lambda m: f"{m[1]}_{{{9 * len(m[2])}}}", s)


def _symbol(m):
    name = name_of(m)
    return f" {name} " if len(name) == 1 else f" z_{{{int.from_bytes(name.encode(), 'big')}}} "


# ----------------------------------------------------------------------------------------------------- values

def _number_of(value):
    """The sympy number or expression of a Value, in the units of its dimension"""
    if value.kind == "number":
        n = value.items[0]
        exact = Rational(n.value.numerator, n.value.denominator)
        return exact / 100 if n.percent else exact
    return parse(value.items[0] if value.kind == "expression" else value.mark)


def _unit(value):
    return value.items[0].unit if value.kind == "number" else value.mark or None


@_careful
def same_values(x, y):
    """Two Values, numbers or expressions, with or without units"""
    p, q, (unit_p, unit_q) = _number_of(x), _number_of(y), map(_unit, (x, y))
    if both := unit_p and unit_q and unit_p[1] and unit_q[1]:
        p, q = (v * Rational(u[0].numerator, u[0].denominator) for v, u in ((p, unit_p), (q, unit_q)))
    degrees = [bool(unit) and unit[1] == (("°", 1),) for unit in (unit_p, unit_q)]
    if degrees[0] != degrees[1] and (both or (q if degrees[0] else p).has(pi)):
        p, q = (v * pi / 180 if in_degrees else v for v, in_degrees in zip((p, q), degrees))
    numbers = [v.items[0] if v.kind == "number" else number(v.items[0]) for v in (x, y)]
    return _same(p, q) or any(_rounds(v, n) for v, n in zip((q, p), numbers))


def _rounds(exact, n):
    """Is the number n, of six digits or more, the cut or rounded value of an expression?"""
    if not n or not n.places or not isinstance(exact, Expr) or exact.free_symbols or exact.is_Rational:
        return False
    value = exact.evalf(n.places + 30)
    return bool(value.is_real) and rounds_to(Rational(value), Number(Rational(str(n.value)), n.places))


def _same(x, y):
    if isinstance(x, MatrixBase) or isinstance(y, MatrixBase):
        return x.shape == y.shape and all(_same(p, q) for p, q in zip(x, y))
    symbols = sorted(x.free_symbols | y.free_symbols, key=str)
    if x == y or not symbols:
        return x == y or _same_constants(x, y)
    found = [_same_constants(x.subs(at), y.subs(at)) for at in _points(symbols)]
    defined = [verdict for verdict in found if verdict is not None]
    return len(defined) >= 3 and all(defined)


def _points(symbols):
    """Five points over the prime 1009: none is special."""
    base = (733, -1327, 2411, -389, 1801, 3571, -2203, 641, -911, 1447)
    for k in range(5):
        yield {s: Rational(base[(2 * k + 3 * j) % 10] + 17 * j, 1009) for j, s in enumerate(symbols)}


def _same_constants(x, y):
    """True, False; None when one of them is undefined."""
    x, y = x.doit(), y.doit()
    if x.is_Rational and y.is_Rational or x.is_infinite or y.is_infinite:
        return x == y
    digits = 60 + _digits(x) + _digits(y)
    p, q = x.evalf(digits), y.evalf(digits)
    if not (p.is_number and q.is_number and p.is_finite and q.is_finite):
        return None
    scale = max(abs(p), abs(q))
    return scale == 0 or bool(abs(p - q) <= scale * Rational(1, 10 ** (digits - 20)))


def _digits(expr):
    """How many digits its numbers have, its powers and factorials included, so that no difference drowns"""
    size = sum(len(str(abs(n.p))) + len(str(n.q)) for n in expr.atoms(Rational))
    value = abs(expr.evalf(5))
    size += abs(int(sympy.log(value, 10).evalf(5))) if value.is_finite and value > 0 else 0
    return min(20_000, size)


@_careful
def rounded(x, y):
    """Is y, written with some digits, about x? Behind ≈, it may be rounded, or cut behind two places."""
    if y.kind != "number" or x.kind not in ("number", "expression"):
        return same_values(x, y)
    n = y.items[0]
    if x.kind == "number" and not x.items[0].fraction:
        return n.value == x.items[0].value  # 4.9 is not 5
    places = next(k for k in range(60) if (n.value * 10 ** k).denominator == 1)
    difference = abs(_number_of(x).evalf(places + 30) - Rational(str(n.value)))
    return bool(difference <= Rational(1 if places > 1 else "1/2") / 10 ** places)


# -------------------------------------------------------------------------------------------------- equations

@_careful
def same_equations(x, y):
    """Two equations, each as its two sides: equal up to a factor, or with the same solutions."""
    f, g = map(_difference, (x, y))
    symbols = sorted(f.free_symbols | g.free_symbols, key=str)
    if not f.free_symbols or f.free_symbols != g.free_symbols:
        return False
    if _ratio(f, g, symbols) is not None:
        return True
    for v in symbols:  # of one of them, at values of the others
        points = [{s: n for s, n in at.items() if s != v} for at in _points(symbols)]
        roots = [[_roots(h.subs(at), v) for at in points[:len(symbols[1:]) * 4 + 1]] for h in (f, g)]
        if None not in roots[0] + roots[1]:
            return all(p and len(p) == len(q) and all(any(_same_constants(a, b) for b in q) for a in p)
                       for p, q in zip(*roots))
    return False


def _difference(sides):
    """What is 0: left - right; of a root and a number their squares"""
    for a, b in (map(parse, sides), map(parse, sides[::-1])):
        if a.is_Pow and a.exp == Rational(1, 2) and b.is_number and b.is_nonnegative:
            return a.base - b ** 2
    return parse(sides[0]) - parse(sides[1])


def _ratio(f, g, symbols):
    """The constant f / g, or None: by its values at five points"""
    values = [(f.subs(at), g.subs(at)) for at in _points(symbols)]
    ratios = [p / q for p, q in values if p.is_finite and q.is_finite and 0 not in (q.evalf(20), p.evalf(20))]
    return ratios[0] if len(ratios) >= 3 and all(_same_constants(r, ratios[0]) for r in ratios) else None


def _roots(f, v):
    """All of them, the complex ones too; None where sympy finds none to be sure of"""
    z = sympy.Symbol("z")
    try:
        found = sympy.solve(f.subs(v, z), z)
    except NotImplementedError:
        return None
    return found if all(root.is_number for root in found) else None


# ---------------------------------------------------------------------------------------------- sets of reals

_RELATIONS = {"<": sympy.Lt, ">": sympy.Gt, "\\le": sympy.Le, "\\ge": sympy.Ge, "\\ne": sympy.Ne, "=": Eq}


@_careful
def same_sets(x, y):
    """Inequalities in one variable, intervals, unions: the same real numbers?"""
    names = set()
    p, q = _set_of(x, names), _set_of(y, names)
    empty = [computed == S.EmptySet and v.kind != "set" for computed, v in ((p, x), (q, y))]
    return len(names) <= 1 and not any(empty) and bool(p == q or (p ^ q).is_empty)


def _set_of(value, names):
    if value.kind == "relation" and value.mark == ("\\in",):
        names.add(label_of(value)[0] or value.items[0])
        return _set_of(read(value.items[1]), names)
    if value.kind == "relation":
        sides = [parse(side) for side in value.items]
        parts = [_RELATIONS[sign](a, b) for sign, a, b in zip(value.mark, sides, sides[1:])]
        variables = set().union(*(side.free_symbols for side in sides))
        if len(variables) != 1:
            raise ValueError("not in one variable")
        names.update(v.name for v in variables)
        return And(*parts).as_set()
    if value.kind == "tuple":
        low, high = map(_number_of, value.items)
        return Interval(low, high, value.mark[0] == "(", value.mark[1] == ")")
    if value.kind == "set":
        return FiniteSet(*map(_number_of, value.items))
    signs = value.mark if value.kind == "union" else [value.mark] * (len(value.items) - 1)
    result, *others = [_set_of(item, names) for item in value.items]
    for sign, other in zip(signs, others):
        result = {"\\setminus": sub, "\\cup": or_, "or": or_}.get(sign, and_)(result, other)
    return result


@_careful
def readable(value):
    """Can every part of a gold be parsed?"""
    if value.kind == "relation":
        return all(readable(read(side)) for side in value.items)
    if value.kind == "expression":
        return isinstance(parse(value.items[0]), (Expr, MatrixBase))
    if value.kind == "text":
        return "\\" not in value.mark or balanced(value.mark)
    return all(readable(item) for item in value.items if isinstance(item, Value))


