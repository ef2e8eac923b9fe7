"""Expressions, compared by value. Only the worker processes import this file: it brings sympy and math-verify
along.

The parser reads LaTeX alone, and nothing is ever evaluated as Python. A reader may skip `_latex`, which
rewrites plain typing (sqrt(2), x**2) as LaTeX.
"""
import re

from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from math_verify import verify
from sympy import And, Basic, Expr, Float, I, MatrixBase, Or, Rational, Set, Union
from sympy.core.relational import Eq, Relational

from scoring.numbers import number, rounds_to, split_unit
from scoring.rule import DIFFERENT, verdict
from scoring.shapes import COMMAS, cut, shape, split_label
from scoring.spelling import words_of

_FUNCTIONS = re.compile(r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln"
                        r"|exp|pi|sqrt)(?![A-Za-z])")


def compare(a, g):
    """The Verdict on two expressions."""
    try:
        return verdict(same_maths(a, g))
    except (RecursionError, MemoryError):
        raise
    except Exception:  # the parser and sympy raise everything there is on strings that are no mathematics
        return DIFFERENT


def readable(gold):
    """Can every part of this gold be parsed?"""
    found = shape(gold)
    if found.items != [gold]:
        return all(map(readable, found.items))
    x = split_unit(gold)[0]
    if number(x) or words_of(x):
        return True
    try:
        _parse(x, True)
    except (RecursionError, MemoryError):
        raise
    except Exception:  # as above: whatever it raises, it could not read the string
        return False
    return True


def same_maths(a, g):
    """Expressions are compared by their values at fixed points, equations up to a factor, inequalities and
    intervals as sets, matrices cell by cell, the rest by math-verify."""
    own_letters = [set(re.sub(r"\\[A-Za-z]+", "", s)) for s in (a, g)]
    lower = not any(_both_cases(letters) for letters in own_letters)  # R and r in one formula are two things
    sets = [_solutions(s, lower) for s in (a, g)]
    if all(sets):
        (x, names_x), (y, names_y) = sets
        return not (names_x and names_y and names_x != names_y) and (x == y or not (x ^ y).measure and x ^ y == x - x)
    x, y = _parse(a, lower), _parse(g, lower)
    if isinstance(x, MatrixBase) and isinstance(y, MatrixBase):
        return x.shape == y.shape and all(_same_values(p, q, []) for p, q in zip(x, y))
    same = None
    if isinstance(x, Relational) and isinstance(y, Relational):
        same = _same_relations(x, y)
    elif isinstance(x, Expr) and isinstance(y, Expr):
        same = _same_values(x, y, [number(a), number(g)])
    if same is not None:
        return same
    return isinstance(x, Basic) and bool(verify(y, x, timeout_seconds=None, allow_set_relation_comp=True))


def _both_cases(letters):
    return any(c.isupper() and c.lower() in letters for c in letters)


def _solutions(s, lower):
    """(set, names) of x > 5, 1 < x < 2, x < 1 or x > 2, (1, 2) \\cup (3, 4); None for anything else."""
    sets, names = [], set()
    for part in cut(s, COMMAS):
        body = split_label(part)[1][-1]
        found = _parse(body, lower) if re.search(r"[<>()\[\]]|\\(?:le|ge|ne)(?![a-z])", body) else None
        if isinstance(found, (Relational, And, Or)) and not isinstance(found, Eq) and len(found.free_symbols) == 1:
            names |= found.free_symbols
            found = found.as_set()
        if not isinstance(found, Set):
            return None
        sets.append(found)
    return Union(*sets), names


def _same_relations(x, y):
    """True, False, or None when the values do not settle it. 2x + 2y < 4 is x + y < 2, and -x - y > -2 too."""
    f, h = x.lhs - x.rhs, y.lhs - y.rhs
    symbols = sorted(f.free_symbols | h.free_symbols, key=str)
    ratios = [p / q for p, q in _values(f, h, symbols) if p != 0 and q != 0]
    if len(ratios) >= 3 and all(_near(ratio, ratios[0]) for ratio in ratios):
        if isinstance(x, Eq) or isinstance(y, Eq):
            return isinstance(x, Eq) and isinstance(y, Eq)
        flipped = {">": "<", "<": ">", ">=": "<=", "<=": ">="}.get(y.rel_op)
        return bool(ratios[0].is_real) and x.rel_op == (y.rel_op if ratios[0] > 0 else flipped)
    return None if f.free_symbols and h.free_symbols else False


def _same_values(x, y, numbers):
    """True, False, or None when too few points are defined. numbers: the two as plain numbers, where they are
    some."""
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
    digits.

    Points where one of them is undefined are left out.
    """
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


def _parse(s, lower):
    """LaTeX -> sympy, by the parser of math-verify. It must read the whole string; anything else is an
    error."""
    tidy = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False,
                               boxed="none", equations=False)
    conversion = ConversionConfig(lowercase_symbols=lower)
    expr = latex2sympy(_latex(s), normalization_config=tidy, conversion_config=conversion, is_real=True)
    return expr.subs({v: I for v in expr.free_symbols if v.name == "i"})


def _latex(s):
    s = s.replace("**", "^").replace("*", r"\cdot ")
    s = _FUNCTIONS.sub(r"\\\1 ", s)
    s = re.sub(r"(?<![\\A-Za-z])(?:inf|infinity|oo)(?![A-Za-z])", r"\\infty ", s)
    s = re.sub(r"\\sqrt\s+(?=[({\[])", r"\\sqrt", s)
    while (i := s.find("\\sqrt(")) >= 0:
        j = _closing(s, i + 5)
        s = s[:i] + "\\sqrt{" + s[i + 6:j] + "}" + s[j + 1:]
    s = re.sub(r"\\sqrt\s*([a-zA-Z])", r"\\sqrt{\1}", s)
    s = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", s)
    return re.sub(r"\^\s*(-?\d+)(?![}\d])", r"^{\1}", s).replace("°", "")


def _closing(s, start):
    """Where the bracket that opens at `start` closes; the string's end when it does not."""
    depth = 0
    for i in range(start, len(s)):
        depth += (s[i] == "(") - (s[i] == ")")
        if depth == 0:
            return i
    return len(s)
