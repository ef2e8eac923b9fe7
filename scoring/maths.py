"""Mathematics: expressions by value, equations and inequalities by their solutions. Only the worker processes
import this file: it brings sympy along.

Constants are compared exactly: 2^{2024}-1 is not 2^{2024}. Where there are variables, at random points, with
many digits. What cannot be parsed or decided is not equal. The parser
reads LaTeX alone, and nothing is ever evaluated as Python.
"""
import random
import re
from contextlib import suppress
from functools import lru_cache
from operator import and_, or_, sub

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy import And, Expr, FiniteSet, Float, I, Interval, Rational, S, pi

from scoring.numbers import Number, number, rounds_to
from scoring.values import FUNCTIONS, NAME, name_of, read

_IMAGINARY = re.compile(r"\dj|[\w}] ?[-+] ?[\d.]+ j")  # 4j, 3 + 4 j; but 2 j alone is a vector, 2\hat{j}
DIGITS = 1200  # so that no difference drowns: 2^{3000}\sqrt2 + 1 is not 2^{3000}\sqrt2
_CASE = ConversionConfig(lowercase_symbols=False)
_LATEX = [(re.compile(pattern), to) for pattern, to in (
    (r"°", ""), (r"\*", r"\\cdot "), (NAME.pattern, lambda m: _symbol(NAME.match(m[0]))),
    (rf"(?<![\\A-Za-z])({FUNCTIONS})(?![a-z])", r"\\\1 "),
    (r"(?<![\\A-Za-z])(?:inf|infinity|oo)(?![A-Za-z])", r"\\infty "),
    (r"(\\sqrt|\^) *\(([^()]*(?:\([^()]*\)[^()]*)*)\)", r"\1{\2}"),  # one level of () inside
    (r"(\\sqrt ?\[ ?\d*[13579] ?\] ?\{) ?-( ?[\d.]+ ?\})", r"-\1\2"),  # the real root
    (r"([A-Za-z])('+)", lambda m: f"{m[1]}_{{{9 * len(m[2])}}}"))]


def _symbol(m):
    name = m["vector"] or m[0].replace(" ", "") if m["vector"] or m["indexed"] else name_of(m)
    return f" {name} " if len(name) == 1 else f" z_{{{int.from_bytes(name.encode(), 'big')}}} "


def _careful(function):
    """None where the strings are no mathematics: the parser and sympy raise everything there is."""
    def tried(*args):
        with suppress(Exception):
            return function(*args)
    return tried


@lru_cache(maxsize=512)  # the responses to one question have one gold
def parse(s):
    """LaTeX -> sympy, by the parser of math-verify. Names of figures become symbols before."""
    latex = re.sub(r"(\d+(?:\.\d+)?)°", r"(\\frac{\1\\pi}{180})", s) if re.search(
        "(?:sin|cos|tan|cot|sec|csc)(?![a-z])", s) else s
    for pattern, to in _LATEX:
        latex = pattern.sub(to, latex)
    # its own tidying would read \frac{\log_{10} 11}{2} as log 2 / 2
    expr = latex2sympy(latex, normalization_config=None, is_real=True, conversion_config=_CASE)
    if not isinstance(expr, Expr):
        raise ValueError("no expression")
    expr = expr.xreplace({decimal: Rational(str(decimal)) for decimal in expr.atoms(Float)})
    units = {"i", "j"} if {v.name for v in expr.free_symbols} == {"j"} and _IMAGINARY.search(s) else {"i"}
    expr = expr.subs({v: I for v in expr.free_symbols if v.name in units})
    if expr.has(S.NaN, S.ComplexInfinity):
        raise ValueError("undefined")
    return expr


# ----------------------------------------------------------------------------------------------------- values

def _number_of(value):
    """The sympy number or expression of a Value, in the units of its dimension"""
    if value.kind == "number":
        n = value.items[0]
        return Rational(n.value.numerator, n.value.denominator) / (100 if n.percent else 1)
    return parse(value.items[0] if value.kind == "expression" else value.mark)


@_careful
def same_values(x, y):
    """Two Values, numbers or expressions, with or without units. Degrees may stand for radians."""
    p, q = map(_number_of, (x, y))
    unit, other = ((v.items[0].unit if v.kind == "number" else v.mark) or (1, ()) for v in (x, y))
    for v, w, (_, dims), (_, others) in ((p, q, unit, other), (q, p, other, unit)):
        if dims == (("°", 1),) and (others == (("rad", 1),) or not others and w.has(pi)):
            return _same(v * pi / 180, w)
    if unit[1] and other[1]:
        if unit[1] != other[1]:
            return False
        p, q = (v * Rational(*factor.as_integer_ratio()) for v, (factor, _) in ((p, unit), (q, other)))
    numbers = [v.items[0] if v.kind == "number" else number(v.items[0]) for v in (x, y)]
    return _same(p, q) or any(_rounds(v, n) for v, n in zip((q, p), numbers))


def _rounds(exact, n):
    """Is the number n, of six digits or more, the cut or rounded value of an expression?"""
    if not n or not n.places or exact.free_symbols or exact.is_Rational:
        return False
    value = exact.evalf(n.places + 30)
    return bool(value.is_real) and rounds_to(Rational(value), Number(Rational(str(n.value)), n.places))


def _same(x, y):
    symbols = sorted(x.free_symbols | y.free_symbols, key=str)
    if x == y or not symbols:
        return x == y or _same_constants(x, y)
    found = [_same_constants(x.subs(at), y.subs(at)) for at in _points(symbols)]
    return found.count(None) < 3 and False not in found


def _points(symbols):
    """Five points over the prime 1009: none is special."""
    r = random.Random(3)
    return [{s: Rational(r.randint(-3000, 3000), 1009) for s in symbols} for _ in range(5)]


def _same_constants(x, y):
    """True, False; None when one of them is undefined."""
    x, y = x.doit(), y.doit()
    if x.is_Rational and y.is_Rational or x.is_infinite or y.is_infinite:
        return x == y
    p, q = x.evalf(DIGITS), y.evalf(DIGITS)
    if not (p.is_number and q.is_number and p.is_finite and q.is_finite):
        return None
    scale = max(abs(p), abs(q))
    return scale == 0 or bool(abs(p - q) <= scale * Rational(1, 10 ** (DIGITS - 20)))


# ----------------------------------------------------------------------------------- equations, sets of reals

@_careful
def same_equations(x, y):
    """Two equations, each as its two sides: is the same 0, up to a factor? y/x = 2 is y = 2x."""
    f, g = map(_zero, (x, y))
    if not f.free_symbols or f.free_symbols != g.free_symbols:
        return False
    at = _points(sorted(f.free_symbols, key=str))[0]
    return _same(f * g.subs(at), g * f.subs(at))


def _zero(sides):
    """What is 0: the numerator of left - right; of a root and a number their squares"""
    for a, b in (map(parse, sides), map(parse, sides[::-1])):
        if a.is_Pow and a.exp == Rational(1, 2) and b.is_number and b.is_nonnegative:
            return a.base - b ** 2
    return sympy.fraction(sympy.together(parse(sides[0]) - parse(sides[1])))[0]


_RELATIONS = {"<": sympy.Lt, ">": sympy.Gt, "\\le": sympy.Le, "\\ge": sympy.Ge, "\\ne": sympy.Ne}


@_careful
def same_sets(x, y):
    """Inequalities in one variable, intervals, unions: the same real numbers?"""
    names = set()
    p, q = _set_of(x, names), _set_of(y, names)
    empty = [computed == S.EmptySet and v.kind != "set" for computed, v in ((p, x), (q, y))]
    return len(names) <= 1 and not any(empty) and bool(p == q or (p ^ q).is_empty)


def _set_of(value, names):
    if value.mark == ("\\in",):
        names.add(value.label or value.items[0])
        return _set_of(read(value.items[1]), names)
    if value.kind == "relation":
        sides = [parse(side) for side in value.items]
        variable, = set().union(*(side.free_symbols for side in sides))
        names.add(variable.name)
        return And(*(_RELATIONS[sign](a, b) for sign, a, b in zip(value.mark, sides, sides[1:]))).as_set()
    if value.kind == "tuple":
        low, high = map(_number_of, value.items)
        return Interval(low, high, value.mark[0] == "(", value.mark[1] == ")")
    if value.kind in ("set", "number", "expression"):
        return FiniteSet(*map(_number_of, value.items if value.kind == "set" else [value]))
    signs = value.mark if value.kind == "union" else [value.mark] * (len(value.items) - 1)
    result, *others = [_set_of(item, names) for item in value.items]
    for sign, other in zip(signs, others):
        result = {"\\setminus": sub, "\\cup": or_, "or": or_}.get(sign, and_)(result, other)
    return result
