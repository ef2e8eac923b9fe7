"""Shapes of answers: lists, sets, tuples, intervals, ratios and matrices are taken apart, to be compared
piece by piece.

A reader may skip the patterns; `shape` is the function that others use.
"""
import re
from dataclasses import dataclass
from enum import Enum

from scoring.numbers import number

_OPEN, _CLOSE = "([{", ")]}"
_NAME = (r"(?:\\?[A-Za-zα-ω]'*(?:_\{?\w+\}?)?|\\(?!le\b|ge\b|ne\b|in\b|sqrt|frac)[a-z]+(?:_\{?\w+\}?)?"
         r"|[A-Z]{2,3}|(?:\\angle|\\triangle)\s*[A-Z]{1,3}|[A-Za-z][a-z]{3,}(?: [a-z]+){0,3})")
_LABEL = re.compile(rf"({_NAME}(?:\s*\([^()=]{{1,20}}\))?|\(\s*\w\s*(?:,\s*\w\s*){{1,3}}\))\s*"
                    r"(?:=|\\approx|\\in)\s*(.+)", re.DOTALL)
_RELATION = r"\\le(?![a-z])|\\ge(?![a-z])|<|>"
_COMMAS = r"[,;]|\\cup(?![a-z])|\s(?:or|and)\s|或|(?<=[^\u3400-\u9fff])和"
_MATRIX = re.compile(r"[(\[]?\s*\\begin\s*\{([pb]?matrix|array)\}(?:\s*\{[lcr|]+\})?"
                     r"(.*)\\end\s*\{\1\}\s*[)\]]?", re.DOTALL)


class Kind(Enum):
    ONE = "one"            # nothing to take apart
    LIST = "list"          # several answers, in any order
    SET = "{}"
    TUPLE = "()"
    OPEN = "()"            # another name of TUPLE: the point (1, 2) and the open interval are written alike
    CLOSED = "[]"          # the other intervals, by their brackets
    CLOSED_LEFT = "[)"
    CLOSED_RIGHT = "(]"
    RATIO = ":"
    MATRIX = "matrix"      # the items are its cells, row by row


@dataclass
class Shape:
    kind: Kind
    items: list            # the pieces, as text
    label: str | None = None  # "x" of x = 5 and of x > 5
    columns: int = 0       # of a matrix


def shape(s):
    """What kind of answer the string is, with its pieces."""
    items = [p for p in cut(s, _COMMAS) if p]
    if len(items) == 1 and "\\pm" in items[0]:
        items = [_with_sign(items[0], sign) for sign in "+-"]
    if len(items) > 1:
        return Shape(Kind.LIST, items)
    label, body = split_label(items[0] if items else s)
    found = None if label else _inequality(body)
    found = found or _matrix(body, label) or _brackets(body, label) or _ratio(body, label)
    return found or Shape(Kind.ONE, [body], label)


def cut(s, separators):
    """Split at separators that stand outside every bracket and environment."""
    parts, depth, last, i = [], 0, 0, 0
    pattern = re.compile(rf"\\begin|\\end|\\[{{}}]|[(\[{{}})\]]|{separators}")
    while m := pattern.search(s, i):
        token, i = m.group(), max(m.end(), m.start() + 1)
        if token in ("\\begin", "\\{") or token in _OPEN:
            depth += 1
        elif token in ("\\end", "\\}") or token in _CLOSE:
            depth -= 1
        elif depth == 0:
            parts.append(s[last:m.start()].strip())
            last = m.end()
    parts.append(s[last:].strip())
    return parts


def split_label(s):
    """"x = 5" -> ("x", "5"); a chain "x = 2+3 = 5" keeps its last value; no label -> (None, s)."""
    m = _LABEL.fullmatch(s)
    if not m or re.search(_RELATION, m[2]):
        return None, s
    return re.sub(r"\s", "", m[1]), cut(m[2], r"=|\\approx")[-1]


def _with_sign(s, sign):
    """One of the two answers in "3 \\pm 2"."""
    s = s.replace("\\pm", sign).replace("\\mp", "-" if sign == "+" else "+")
    return re.sub(r"(^|[=({,])\s*\+", r"\1", s).strip()


def _inequality(body):
    """x > 5 and 1 < x <= 2 as intervals, labelled x; None for anything else."""
    parts = cut(body, _RELATION)
    signs = [sign.strip() for sign in re.findall(_RELATION, body)]
    if len(parts) not in (2, 3) or not all(parts) or len(signs) != len(parts) - 1:
        return None
    names = [i for i, part in enumerate(parts) if re.fullmatch(_NAME, part)]
    closed = [sign in ("\\le", "\\ge") for sign in signs]
    upward = [sign in ("<", "\\le") for sign in signs]
    if len(parts) == 3 and 1 in names and upward[0] == upward[1]:
        first, name, last = parts
        if upward[0]:
            return Shape(_interval(closed[0], closed[1]), [first, last], name)
        return Shape(_interval(closed[1], closed[0]), [last, first], name)
    if len(parts) == 2 and len(names) == 1:
        name, bound = parts[names[0]], parts[1 - names[0]]
        if upward[0] == (names[0] == 0):  # x < 5, or 5 > x
            return Shape(_interval(False, closed[0]), ["-\\infty", bound], name)
        return Shape(_interval(closed[0], False), [bound, "\\infty"], name)
    return None


def _interval(left_closed, right_closed):
    return Kind(("[" if left_closed else "(") + ("]" if right_closed else ")"))


def _matrix(body, label):
    """Rows of equal length, by cells; None for anything else."""
    m = _MATRIX.fullmatch(body)
    if not m or "\\begin" in m[2]:
        return None
    rows = [cut(row, "&") for row in re.split(r"\\\\|\\cr(?![a-z])", m[2]) if row.strip()]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return None
    return Shape(Kind.MATRIX, [cell for row in rows for cell in row], label, columns=len(rows[0]))


_BRACKETS = (("\\{", "\\}", Kind.SET), ("{", "}", Kind.SET), ("(", ")", Kind.TUPLE), ("[", "]", Kind.CLOSED),
             ("(", "]", Kind.CLOSED_RIGHT), ("[", ")", Kind.CLOSED_LEFT))


def _brackets(body, label):
    """Sets, tuples and intervals. Brackets around a single thing are taken off: (5) is 5."""
    for left, right, kind in _BRACKETS:
        inside = body[len(left):-len(right)]
        if not (inside and body.startswith(left) and body.endswith(right) and _balanced(inside)):
            continue
        inner = [p for p in cut(inside, "[,;]") if p]
        if len(inner) > 1 or left == "\\{":
            return Shape(kind, inner, label)
        if kind in (Kind.TUPLE, Kind.SET) and inner:
            return Shape(Kind.ONE, [inner[0]], label) if label else shape(inner[0])
    return None


def _balanced(s):
    """Does every bracket close, so that the outer pair belongs together? Not in (1, 2) and (3, 4)."""
    depth = 0
    for m in re.finditer(r"[()\[\]{}]", s):
        depth += 1 if m.group() in _OPEN else -1
        if depth < 0:
            return False
    return depth == 0


def _ratio(body, label):
    parts = [] if "=" in body else cut(body, ":")
    return Shape(Kind.RATIO, parts, label) if len(parts) > 1 and all(map(number, parts)) else None
