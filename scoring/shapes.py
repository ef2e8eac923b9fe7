"""Shapes of answers: lists, sets, tuples, intervals, ratios are taken apart, to be compared piece by piece.

`shape` is the function that others use. Inequalities, unions and matrices are left to math-verify (maths.py).
"""
import re
from dataclasses import dataclass
from itertools import accumulate

from scoring.numbers import number

_OPEN, _CLOSE = "([{", ")]}"
_NAME = (r"(?:\\?[A-Za-zα-ω]'*(?:_\{?\w+\}?)?|\\(?!le\b|ge\b|ne\b|in\b|sqrt|frac)[a-z]+(?:_\{?\w+\}?)?"
         r"|[A-Z]{2,3}|(?:\\angle|\\triangle) ?[A-Z]{1,3}|[A-Za-z][a-z]{3,}(?: [a-z]+){0,3})")
_LABEL = re.compile(rf"{_NAME}(?: ?\([^()=]{{1,20}}\))?|\( ?\w ?(?:, ?\w ?){{1,3}}\)")
_MEASURES = re.compile(  # \cos A, \vec a, f(x), \alpha: the names in \frac{AB}{BC}, AB + BC, |AB|, A : B
    r"\\(?:sin|cos|tan|cot|vec|overline|overrightarrow|hat|bar) ?\{?\\?[A-Za-z]+\}?|m? ?\\(?:angle|triangle"
    r"|alpha|beta|gamma|theta|varphi|phi|rho|sigma|lambda|omega|Delta)(?![a-z])|[A-Za-z]_(?:\{\w+\}|\w)"
    r"|[a-zA-Z]\([A-Za-z]\)")
RELATION = r"\\(?:le|ge|ne|in)(?![a-z])|<|>"
OR = r"\\cup(?![a-z])|\s(?:or|\\lor|\\vee)\s|或"
_COMMAS = rf"[,;]|{OR}|\sand\s|(?<=[^\u3400-\u9fff])和"
_BUILDER = re.compile(r"\\\{ ?(\w) ?(?:\\in ?(?:\\mathbb ?\{?R\}?|R) ?)?(?:\||\\mid|:) ?(.+)\\\}")
_COLUMN = re.compile(r"[(\[]? ?\\begin ?\{([pb]?matrix|array)\}(?: ?\{[lcr]+\})?([^&]+)\\end ?\{\1\} ?[)\]]?")


@dataclass
class Shape:
    kind: str              # "one", "list" (in any order), "ratio", "{}", or an interval's or tuple's brackets
    items: list            # the pieces, as text; of "one" the values of a chain 2+3 = 5
    label: str | None = None  # "x" of x = 5


def shape(s):
    """What kind of answer the string is, with its pieces."""
    items = [p for p in cut(s, _COMMAS) if p]
    if len(items) == 1 and "\\pm" in items[0]:
        items = [_with_sign(items[0], sign) for sign in "+-"]
    if len(items) > 1:
        return Shape("list", items)
    label, values = split_label(items[0] if items else s)
    if len(values) > 1:
        return Shape("one", values, label)
    return _brackets(values[0], label) or _ratio(values[0], label) or Shape("one", values, label)


def cut(s, separators):
    """Split at separators that stand outside every bracket and environment."""
    parts, depth, last = [], 0, 0
    for m in re.finditer(rf"\\begin|\\end|\\[{{}}]|[(\[{{}})\]]|{separators}", s):
        token = m.group()
        if token in ("\\begin", "\\{") or token in _OPEN:
            depth += 1
        elif token in ("\\end", "\\}") or token in _CLOSE:
            depth -= 1
        elif depth == 0:
            parts.append(s[last:m.start()].strip())
            last = m.end()
    return [*parts, s[last:].strip()]


def split_label(s):
    """(label, values): "x = 5", "5 = x" -> ("x", ["5"]); a chain "x = 2+3 = 5" -> ("x", ["2+3", "5"])."""
    if cond := _BUILDER.fullmatch(s):
        s = cond[2] if re.search(RELATION, cond[2]) else s
    parts = cut(s, r"=|\\approx(?![a-z])|\\in(?![a-z])")
    if len(parts) == 1 or not all(parts) or re.search(r"\\(?:le|ge|ne)(?![a-z])|<|>", s):
        return None, [s]
    for name, values in ((parts[0], parts[1:]), (parts[-1], parts[:-1])):
        if _LABEL.fullmatch(name) or _is_measure(name) and not any(map(_is_measure, values)):
            return name.replace(" ", ""), values
    return None, parts


def _is_measure(s):
    """Does it name a quantity of a figure, as AB + BC does? x + y does not: that is an equation."""
    names = re.sub(r"\\(?:frac|cdot|times|left|right)(?![a-z])", "", _MEASURES.sub("A", s))
    return bool(re.search("[A-Z]", names)) and not re.search(r"[a-z\\<>]", names)


def _with_sign(s, sign):
    """One of the two answers in "3 \\pm 2"."""
    s = s.replace("\\pm", sign).replace("\\mp", "-" if sign == "+" else "+")
    return re.sub(r"(^|[=({,])\s*\+", r"\1", s).strip()


def _brackets(body, label):
    """Sets, tuples, intervals, columns. Brackets around a single thing are taken off: (5) is 5."""
    if column := _COLUMN.fullmatch(body):
        items = [p for p in cut(column[2], r"\\\\|\\cr(?![a-z])") if p]
        return Shape("()", items, label) if "\\begin" not in column[2] and len(items) > 1 else None
    size = 2 if body.startswith("\\{") else 1
    kind, inside = body[:size] + body[-size:], body[size:-size]
    if kind not in ("\\{\\}", "{}", "()", "[]", "(]", "[)") or not inside or not _balanced(inside):
        return None
    inner = [p for p in cut(inside, "[,;]") if p]
    kind = kind.replace("\\", "")
    if len(inner) > 1:
        return Shape(kind, inner, label)
    if kind in ("()", "{}") and inner:
        return Shape("one", inner, label) if label else shape(inner[0])
    return None


def _balanced(s):
    """Does every bracket close, so that the outer pair belongs together? Not in (1, 2) and (3, 4)."""
    depths = [0, *accumulate(1 if c in _OPEN else -1 for c in s if c in _OPEN + _CLOSE)]
    return min(depths) == depths[-1] == 0


def _ratio(body, label):
    parts = cut(body, ":")
    return Shape("ratio", parts, label) if len(parts) > 1 and all(map(number, parts)) else None
