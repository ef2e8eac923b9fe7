"""Types of answers: `read` turns a text (spelled by spelling.plain) into one typed Value.

READERS holds the types in the order in which they are tried; what none of them reads is a text. No reader
computes: an expression stays a text here, and maths.py parses it.
"""
import re
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from scoring.numbers import clock, date, number, unit_of
from scoring.spelling import key_of, words_of


class Value(NamedTuple):
    kind: str           # number, date, time, range, list, relation, tuple, ...: the keys of rule.RULES
    items: tuple        # numbers, texts or Values
    mark: object = ""   # what else distinguishes it: signs, brackets, "and" or "or", a unit
    label: object = ""  # a name that may be left out: x of x = 5, P of P(1, 2); of a system (x, y)


def cut(s, separators):
    """(parts, separators found) of a text split where these stand outside every bracket and environment"""
    parts, found, depth, last = [], [], 0, 0
    for m in re.finditer(rf"\\begin|\\end|\\[{{}}]|[(\[{{}})\]]|{separators}", s):
        token = m.group()
        step = (token in ("\\begin", "\\{", *"([{")) - (token in ("\\end", "\\}", *")]}"))
        depth += step
        if not step and not depth:
            parts.append(s[last:m.start()].strip())
            found.append(token.strip())
            last = m.end()
    return [*parts, s[last:].strip()], found


def balanced(s):
    """Does every bracket close, so that an outer pair belongs together? Not in (1, 2) and (3, 4)."""
    depths = [0, *accumulate(1 if c in "([{" else -1 for c in s if c in "()[]{}")]
    return min(depths) == depths[-1] == 0


# ------------------------------------------------------------------------------ names of figures, expressions

_CORNER = r"[A-Z]'?(?:_\{\w\})?"
NAME = re.compile(
    rf"m? ?\\(?P<sign>angle|triangle|odot|arc|parallelogram) ?(?P<of>\d{{1,2}}|{_CORNER}(?: ?{_CORNER}){{,4}}"
    r"|\\[a-z]+)|\\vec\{(?P<vector>[A-Z]{2}|[A-Za-z])\}|(?<![A-Za-z\\])(?P<points>[A-Z]'?(?:[A-Z]'?){1,5})"
    r"(?![A-Za-z])|(?<![A-Za-z\\])(?P<indexed>[A-Za-z])_\{(?P<index>[^{}]{2,20})\}")


def name_of(m):
    """The canonical form of a match of NAME: ∠ABC is ∠CBA and AB is BA, but no vector and no other order."""
    if m["vector"] or m["indexed"]:
        return m[0]
    letters = re.findall(_CORNER, m["points"] or m["of"]) or [m["of"]]
    if m["sign"] in ("angle", "arc") or not m["sign"] and len(letters) == 2:
        letters = min(letters, letters[::-1])
    sign = f"\\{m['sign']} " if m["sign"] else ""
    return sign + "".join(sorted(letters) if m["sign"] == "triangle" else letters)


FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|sqrt"
_COMMANDS = FUNCTIONS + (
    "|frac|cdot|times|div|infty|pm|mp|binom|overline|dot|lvert|rvert|lfloor|rfloor|lceil"
    "|rceil|int|sum|prod|lim|to|alpha|beta|gamma|delta|theta|lambda|mu|omega|varphi|phi|rho"
    "|sigma|epsilon|eta|xi|zeta|tau|kappa|nu|psi|Omega|Phi|Gamma|max|min|det")
_TOKENS = re.compile(
    rf"\\(?:{_COMMANDS})(?![A-Za-z])|(?<![A-Za-z\\])(?:{FUNCTIONS}|max|min|infinity|inf|oo)(?![a-z])"
    r"|(?<![A-Za-z\\])[a-z]{2,3}(?![a-z])|(?<![A-Za-z])[A-Za-z](?![a-z])'*|(?<=[a-z])[A-Z](?![a-z])"
    r"|\d+(?:\.\d+)?|\.\d+|[-+*/^_(){}\[\]|!,%°µΩ]|\s+")
_LITTLE = re.compile(r"(?<!\S)(?:is|or|and|not|the|if|of|in|to|no|for|but|as|at|by|on|per|are|was)(?!\S)")


def is_expression(s):
    """Does it consist of what the mathematics of maths.py knows, and of more than letters?"""
    prose = re.search(r"(?<![_\d])\d+\s+\d|\) ?\d|\d ?[_']|__|\b0[xb]\w|\d([./])\d+\1\d", s)
    more = not prose and not _LITTLE.search(s) and re.search(r"[\d\\^+*/|()-]", s)
    return bool(more) and not _TOKENS.sub("", NAME.sub("1", s)).strip()


# -------------------------------------------------------------------------------------------------- relations

RELATION = (r"=|<|>|\\(?:approx|ne|le|ge|in|notin|parallel|nparallel|perp|sim|cong|subseteq|subset|equiv"
            r"|propto)(?![A-Za-z])")
ORDER = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}  # each with its mirror image
CONDITIONS = {*ORDER, "\\ne", "\\in"}
_LABEL = re.compile(
    r"(?:\\?[A-Za-z]'*|pH|\\frac\{d\w\}\{d\w\}|\\(?!sqrt|frac|pi\b)[a-z]+|[A-Z]{2,3}"
    r"|m? ?\\(?:angle|triangle) ?\w{1,3}|[A-Za-z][a-z]{3,}(?: [a-z]+){0,3}|[\u3400-\u9fff]{1,8}[A-Z]{0,4})"
    r"(?:_\{[^{}]+\})?(?: ?\([^()=]{1,20}\))?|\( ?\w(?:_\{\w+\})? ?(?:, ?\w(?:_\{\w+\})? ?){1,3}\)")
_OTHER = r"(?:\\(?:frac|cdot|times)(?![a-z])|[^A-Za-z\\<>])*"
_MEASURE = re.compile(  # of a figure: AB + BC, \frac{AB}{BC}, \cos A, f(x), A : B; no x + y: an equation
    rf"{_OTHER}(?:(?:\\(?:sin|cos|tan|cot|vec|hat|bar|overline) ?\{{?\\?[A-Za-z]+\}}?|m? ?\\(?:angle|triangle"
    r"|alpha|beta|gamma|theta|varphi|phi|rho|sigma|lambda|omega)(?![a-z])|[A-Za-z]_\{[^{}]+\}|[A-Z]"
    rf"|[a-zA-Z]\([A-Za-z]\)|[A-Z][a-z](?=:|$)|([a-z])\1(?=:|$)){_OTHER})+")
_SIMILAR = re.compile(rf"(?:\\triangle ?)?(?:{_CORNER}){{3,6}}")


def _relation(s):
    """Sides and signs. A label stands first: x of x = 5, 5 = x, x = 2+3 = 5, \\cos A of \\cos A = 0.6."""
    sides, signs = cut(s, RELATION)
    if not signs or not all(sides):
        return None
    if {*signs} <= {"\\sim", "\\cong"} and all(map(_SIMILAR.fullmatch, sides)):  # corners correspond
        corners = [re.findall(_CORNER, side) for side in sides]
        return Value("symbol", (signs[0], min(sorted(zip(*corners)), sorted(zip(*corners[::-1])))))
    sides, label = [NAME.sub(name_of, side) for side in sides], ""
    if {*signs} <= {"=", "\\approx"} or signs == ["\\in"]:
        for name, *others in (sides, sides[::-1])[:1 + ({*signs} == {"="})]:
            if not label and (_LABEL.fullmatch(name) or _MEASURE.fullmatch(name) and not any(
                    map(_MEASURE.fullmatch, others))):
                sides, label = [name, *others], key_of(name)
    return Value("relation", tuple(sides), tuple(signs), label)


# ---------------------------------------------------------------------------------------------------- readers

def _row(kind, separators, kinds=(), never="(?!)"):
    """A reader of parts between separators, of such kinds, in texts that never hold something else"""
    def reader(s):
        parts, signs = cut(s, separators)
        if not signs or not all(parts) or re.search(never, s):
            return None
        items = tuple(map(read, parts))
        return Value(kind, items, tuple(signs)) if not kinds or {v.kind for v in items} <= kinds else None
    return reader


# 100-200, 5~10 cm, 1990-1995, 3-2, 8:00-9:00, 1 to 4: two values, and no difference
_range = _row("range", r"(?<=[^\s(-]) ?(?:-|~|(?<= )to |(?<= )through )(?= ?-?[$€£¥]? ?\d)",
              {"number", "time"}, r"[\\/^*+=,;<>]|^-.*\d ?-|-.*-.*-|-\D*-")
# 3 by 4, 1920x1080, 2 \times 3: sides in order
_size = _row("size", r"(?<=[\w)]) ?(?:x|X| by |\\times(?![a-z])) ?(?=\d)", {"number"}, r"[/^]|\\[^t]")
_ratio = _row("ratio", ":")

_BETWEEN = (r"\s(?:and|or|\\land|\\lor|\\vee|\\wedge)\s|(?<=[^\u3400-\u9fff])[和与及]"
            r"|(?<=[\u3400-\u9fff])[和与及](?=[^\u3400-\u9fff])")


def _list(s):
    """Answers between commas, "and", "or"; with ± two of them. mark: "and", "or", "" for commas alone.
    A list of inequalities are conditions; x = 1 or x = 2 are roots; x = 1, y = 2 is a system."""
    both = "," in s and cut(s, ";")[1]
    parts, signs = cut(s, ("[;]|" if both else "[,;]|") + _BETWEEN)
    if re.fullmatch(r"[①-⑳]{2,}|(?:\(\d\) ?){2,}", s):  # ①③ are statements
        parts, signs = re.findall(r"[①-⑳]|\(\d\)", s), ["and"]
    parts = [p.replace("\\pm", sign).replace("\\mp", "-" if sign == "+" else "+") for p in parts if p
             for sign in ("+-" if "\\pm" in p else " ")]
    parts = [re.sub(r"(^|[=({,]) *\+", r"\1", p).strip() for p in parts]
    if len(parts) < 2:
        return None
    name = re.match(r"[^=<>]+?(?:=|\\ne(?![a-z]))", parts[0])  # x = 1, 2
    if name and not re.search(RELATION, "".join(parts[1:])):
        parts = [parts[0], *(f"{name[0]} {p}" for p in parts[1:])]
    items = tuple(map(read, parts))
    said = "or" if {"or", "\\lor", "\\vee"} & {*signs} else "and" if {*signs} - {*",;"} else ""
    if all(v.kind == "relation" and {*v.mark} <= CONDITIONS for v in items):
        return Value("conditions", items, said)
    labels = tuple(v.label for v in items if v.mark == ("=",) and v.label)
    if len(labels) < len(items):
        return Value("list", items, said)
    if len({*labels}) > 1:
        return Value("system", items, said, labels)
    return Value("roots", tuple(read(v.items[1]) for v in items), said, labels[0])


_TERM = re.compile(r"\d*(?:(?:\(?[A-Z][a-z]?\d*(?:\)\d*)?)+[+-]?|e-)")  # 2H2O, Ca(OH)2, SO42-
_ELEMENT = re.compile(r"^(?=.*[A-Z][_{}\d]*[A-Z]).*\+.*[HNO]_?\{?[2-9]|Ag|Al|Ca|Cl|Cu|Fe|Mg|Na|Zn")
_ARROW = r"\\(?:to|Rightarrow|rightarrow)(?![a-z])"


def _reaction(s):
    """With = too, where its elements say that it is one"""
    bare = re.sub(r"[_^{}↑↓]|\\(?:up|down)arrow", "", s)
    sides = [sorted(map(key_of, cut(side, r" ?\+ ?(?=[\dA-Z(e])")[0])) for side in cut(
        bare, _ARROW + "|=" * bool(_ELEMENT.search(s)))[0]]
    found = sides[1:] and all(_TERM.fullmatch(term) for side in sides for term in side)
    return Value("symbol", tuple(map(tuple, sides))) if found else None


_BUILDER = re.compile(r" ?\w ?(?:\\in ?(?:\(-\\infty,\\infty\)|R) ?)?(?:\||\\mid|:)")
_MATRIX = re.compile(r"[(\[]? ?\\begin ?\{([pb]?matrix|array)\}(?: ?\{[lcr]+\})?(.+)\\end ?\{\1\} ?[)\]]?")


def _brackets(s):
    """Sets, tuples, intervals, matrices, points with a name. Brackets around a single thing are taken off."""
    if matrix := _MATRIX.fullmatch(s):  # [[1, 2], [3, 4]] is one, and a column is a tuple
        rows = [cut(row, "&")[0] for row in cut(matrix[2], r"\\\\|\\cr(?![a-z])")[0] if row]
        if "\\begin" in matrix[2] or not all(map(all, rows)):
            return None
        column = max(map(len, rows)) == 1 < len(rows)
        return Value("tuple", tuple(read(row[0]) if column else Value("tuple", tuple(map(read, row)), "[]")
                                    for row in rows), "()" if column else "[]")
    point = re.match(r"([A-Z]'?(?:_\{\w+\})?|\\vec\{\w+\}) ?(?=\()", s)
    body = s[point.end():] if point else s
    size = 2 if body.startswith("\\{") else 1
    kind, inside = (body[:size] + body[-size:]).replace("\\", ""), body[size:-size]
    if kind not in ("{}", "()", "[]", "(]", "[)") or not balanced(inside):
        return None
    builder = kind == "{}" and _BUILDER.match(inside)
    if builder and re.search(RELATION, inside[builder.end():]):  # {x | x > 5}
        return read(inside[builder.end():].strip())
    parts = [p for p in cut(inside, "[,;]")[0] if p]
    inner = _list(inside) if kind == "{}" else None
    if inner or kind == "{}" and not parts:
        return Value("set", inner.items if inner else ())
    if len(parts) > 1:
        return Value("tuple", tuple(map(read, parts)), kind, point[1] if point else "")
    return read(parts[0]) if kind in ("()", "{}") and parts and not point else None


_FORMULA = re.compile(  # chemistry; genotypes and names such as AB, whose case matters; 1s^2 2s^2
    r"(?:\(?[A-Z][a-z]?\d*(?:\)\d*)?)+(?:\^?\d?[+-])?|(?:([A-Za-z])(?i:\1))+"
    r"|(?:\[[A-Z][a-z]\])?(?:[1-7][spdf]\^?\d{1,2}){2,}")


def _symbol(s):
    """Formulas, indices with and without _; names of figures: the same when they are spelled the same"""
    if len(s) > 1 and _FORMULA.fullmatch(bare := re.sub(r"[_{} ]", "", s)):
        return Value("symbol", (bare.replace("^", ""),))
    name = NAME.fullmatch(s)
    return Value("symbol", (name_of(name),)) if name and not name["indexed"] else None


_UNIT = re.compile(  # of the table, behind a number, a bracket or π
    r"(?:(?<=[\d})])|(?<=\\pi))( ?\(?(?:(?:square|cubic) )?(?:°[CF]?|[A-Za-zµΩ]+|[\u3400-\u9fff]{1,6})"
    r"(?:\^\{?-?\d\}?)?(?: ?/ ?[A-Za-z]+(?:\^\{?-?\d\}?)?)?\)?)$")


def _expression(s):
    """2\\sqrt{3} cm^2 is 2\\sqrt{3} with a unit."""
    m = _UNIT.search(s)
    body, unit = s[:m.start()] if m else "", unit_of(m[1]) if m else None
    if unit and is_expression(body) and not (s[-1] == "°" and re.search("sin|cos|tan|cot|sec|csc", s)):
        return Value("expression", (body,), unit)
    return Value("expression", (s,), None) if is_expression(s) else None


READERS = (
    lambda s: (found := number(s)) and Value("number", (found,)),
    lambda s: (found := date(s)) and Value("date", found),
    lambda s: (found := clock(s)) and Value(  # 12:00 is a time and no ratio; 3:12 may be both
        "time", found, None if re.search("m|:0|^0", s, re.I) else _ratio(s)),
    _range, _size, _list, _reaction, _row("sequence", _ARROW), _relation,
    _row("union", r"\\(?:cup|cap|setminus)(?![a-z])"), _brackets, _ratio, _symbol, _expression)


@lru_cache(maxsize=4096)
def read(s):
    """The typed Value of a plain text. Linear, but for what nests (answers.too_heavy bounds that)."""
    for reader in READERS:
        if found := reader(s):
            return found
    return Value("text", (words_of(s) or key_of(s),), s)
