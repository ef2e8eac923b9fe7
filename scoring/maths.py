"""Expressions, compared by value. Only the worker processes import this file: it brings sympy along.

The parser reads LaTeX alone, and nothing is ever evaluated as Python. A reader may skip `_latex`, which
rewrites plain typing (sqrt(2), x**2) as LaTeX.
"""
import re
from functools import lru_cache

from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from math_verify import verify
from sympy import And, Basic, Expr, Float, I, MatrixBase, Or, Rational, Set, Union
from sympy.core.relational import Eq, Relational

from scoring.numbers import number, rounds_to, split_unit
from scoring.rule import verdict
from scoring.shapes import OR, cut, shape, split_label
from scoring.spelling import words_of

_FUNCTIONS = re.compile(r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln"
                        r"|exp|pi|sqrt)(?![A-Za-z])")


def compare(a, g):
    """The Verdict on two expressions."""
    return verdict(_tried(same_maths, a, g))


def _tried(function, *args):
    """Its result; None where the string is no mathematics: the parser and sympy raise everything there is."""
    try:
        return function(*args)
    except (RecursionError, MemoryError):
        raise
    except Exception:
        return None


def readable(gold):
    """Can every part of this gold be parsed?"""
    found = shape(gold)
    if found.items != [gold]:
        return all(map(readable, found.items))
    x = split_unit(gold)[0]
    return bool(number(x) or words_of(x) or _tried(_parse, x, True) is not None)


def same_maths(a, g):
    """Expressions are compared by their values at fixed points, equations up to a factor, inequalities and
    intervals as sets, matrices cell by cell, the rest by math-verify."""
    letters = re.sub(r"\\[A-Za-z]+", "", a), re.sub(r"\\[A-Za-z]+", "", g)
    lower = not any(c.lower() in s for s in letters for c in set(s) - set(s.lower()))  # R, r: two things
    sets = [_solutions(s, lower) for s in (a, g)]
    if all(sets):
        (x, names_x), (y, names_y) = sets
        return (not names_x or not names_y or names_x == names_y) and bool(x == y or (x ^ y).is_empty)
    x, y = _parse(a, lower), _parse(g, lower)
    if isinstance(x, MatrixBase) and isinstance(y, MatrixBase):
        return x.shape == y.shape and all(_same_values(p, q, []) for p, q in zip(x, y))
    same = None
    if isinstance(x, Eq) and isinstance(y, Eq):
        same = _same_equations(x, y)
    elif isinstance(x, Expr) and isinstance(y, Expr):
        same = _same_values(x, y, [number(a), number(g)])
    if same is not None:
        return same
    return isinstance(x, Basic) and bool(verify(y, x, float_rounding=12, timeout_seconds=None))


def _solutions(s, lower):
    """(set, names) of x > 5, 1 < x < 2, x < 1 or x > 2, (1, 2) \\cup (3, 4); None for anything else."""
    sets, names = [], set()
    for part in cut(s, OR):
        body = split_label(part)[1][-1]
        found = _parse(body, lower) if re.search(r"[<>()\[\]]|\\(?:le|ge|ne|setminus)\b", body) else None
        relation = isinstance(found, (Relational, And, Or)) and not isinstance(found, Eq)
        if relation and len(found.free_symbols) == 1:
            names |= found.free_symbols
            found = found.as_set()
        if not isinstance(found, Set):
            return None
        sets.append(found)
    return Union(*sets), names


def _same_equations(x, y):
    """True, False, or None when the values do not settle it. 2x = 4 is x = 2."""
    f, h = x.lhs - x.rhs, y.lhs - y.rhs
    symbols = sorted(f.free_symbols | h.free_symbols, key=str)
    ratios = [p / q for p, q in _values(f, h, symbols) if p != 0 and q != 0]
    if len(ratios) >= 3 and all(_near(ratio, ratios[0]) for ratio in ratios):
        return True
    return None if f.free_symbols and h.free_symbols else False


def _same_values(x, y, numbers):
    """True, False, or None when too few points are defined. numbers: the two as plain numbers or None."""
    symbols = sorted(x.free_symbols | y.free_symbols, key=str)
    both = _values(x, y, symbols)
    if both and not symbols:
        p, q = both[0]
        exact = zip((q, p), numbers)  # 1.414214 for the root of 2
        return _near(p, q) or any(n and n.places and v.is_real and rounds_to(v, n) for v, n in exact)
    return all(_near(p, q) for p, q in both) if len(both) >= 3 else None


_POINTS = (733, -1327, 2411, -389, 1801, 3571, -2203, 641, -911, 1447)  # over the prime 1009: none is special


def _values(x, y, symbols):
    """[(value of x, value of y)] at five points (one when there is no variable), complex numbers of 30
    digits. Points where one of them is undefined are left out."""
    pairs = []
    for k in range(5 if symbols else 1):
        at = {s: Rational(_POINTS[(2 * k + 3 * j) % 10] + 17 * j, 1009) for j, s in enumerate(symbols)}
        values = [(expr.subs(at) if at else expr).evalf(30) for expr in (x, y)]
        if all(value.is_number and value.is_finite for value in values):
            pairs.append(values)
    return pairs


def _near(x, y):
    scale = max(abs(x), abs(y))
    return scale == 0 or abs(x - y) <= scale * 1e-13


@lru_cache(maxsize=256)  # the responses to one question have one gold
def _parse(s, lower):
    """LaTeX -> sympy, by the parser of math-verify. It must read the whole string, or it is an error."""
    if re.search(r"\d ?[_']", s):
        raise ValueError("the parser would drop what stands behind the number")
    tidy = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False,
                               boxed="none", equations=False)
    conversion = ConversionConfig(lowercase_symbols=lower)
    expr = latex2sympy(_latex(s), normalization_config=tidy, conversion_config=conversion, is_real=True)
    expr = expr.xreplace({decimal: Rational(str(decimal)) for decimal in expr.atoms(Float)})
    return expr.subs({v: I for v in expr.free_symbols if v.name == "i"})


def _latex(s):
    s = s.replace("**", "^").replace("*", r"\cdot ").replace("°", "")
    s = _FUNCTIONS.sub(r"\\\1 ", s)
    s = re.sub(r"(?<![\\A-Za-z])(?:inf|infinity|oo)(?![A-Za-z])", r"\\infty ", s)
    s = re.sub(r"(\\sqrt|\^) *\(([^()]*(?:\([^()]*\)[^()]*)*)\)", r"\1{\2}", s)  # one level of () inside
    s = re.sub(r"\\sqrt *([a-zA-Z])", r"\\sqrt{\1}", s)
    return re.sub(r"\^ *(-?\d+)(?![}\d])", r"^{\1}", s)
