"""Do two answers mean the same? The rule half of the reward (paper section 3.1: its rule set is unknown, this one is ours).

same_answer(answer, gold) reads numbers, fractions, percentages, units, LaTeX, intervals, inequalities, sets, tuples, matrices,
equations, expressions, text, choice letters, and several answers in one string. It goes from cheap to dear:

1. spelling   one form for the many ways to type the same thing                                    microseconds, here
2. numbers    exact fractions with units; no tolerance: 0.956 is not 0.963, 0.33 is not 1/3         microseconds, here
3. shapes     lists, tuples, intervals, sets, matrices, equations are taken apart and compared piece by piece       here
4. maths      what is left is parsed by math-verify's LaTeX parser and compared by value         milliseconds, in a worker

sympy can be made to crawl or to eat all memory by a short string (5^5^5^5), and its own time-outs do not work in threads.
So step 4 happens behind limits on length, depth and exponents, in a few worker processes: a pair that uses up its processor
time is killed by the system, counts as not equal, and the worker is replaced. Nothing is ever evaluated as Python.
Prose is compared word for word; what needs understanding is the verifier's part (reward.py).

What is deliberately lenient: a unit, a currency or a per cent sign may be left out on one side (5 cm is 5, 50% is 0.5 and 50),
"x = 5" is 5, lists of answers have no order, a decimal with six or more significant digits may be a rounded one.
"""
import atexit
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 1000       # a longer answer is compared by its spelling only: no final answer needs more
MAX_DEPTH = 24         # of nested brackets
MAX_DIGITS = 300       # of one number
MAX_EXPONENT = 10_000  # written as a number; 5^{5^{5}} has no business in an answer
MAX_FACTORIAL = 1000
TIME_LIMIT = 2.0       # seconds of processor time (not wall time: a busy machine must not change a verdict) for one pair
MEMORY_LIMIT = 4 << 30  # bytes of address space for one worker


# ------------------------------------------------------------------------------------------------ one spelling for everything
_UNICODE = str.maketrans({
    "−": "-", "–": "-", "‐": "-", "⁄": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "∓": r"\mp ", "∠": r"\angle ", "△": r"\triangle ", "∅": r"\emptyset ", "√": r"\sqrt", "。": ".", "、": ",",
    "⩽": r"\le ", "⩾": r"\ge ", "∶": ":", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "μ": "µ",
    "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": ""})
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_REWRITES = [(re.compile(pattern), to) for pattern, to in (
    (r"\\\$", "\0"), (r"\$", ""), ("\0", "$"),                                # $..$ is mathematics, \$ is money
    (r"(?<!\\)\\[()\[\]]", ""), (r"\*\*([^*]+)\*\*$", r"\1"),                        # \( \), and **bold**
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
    (r"\\(?:displaystyle|textstyle|limits|nolimits|phantom\{[^{}]*\})", ""),
    (r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |~)(?=\d{3}(?!\d))", ","),                 # 1{,}234 and 1\,234
    (r"\{,\}", ","), (r"\\!", ""), (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"), (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d+)", r"\\sqrt{\1}"), (r"\\%", "%"), (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "),
    (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "), (r"\\neq(?![A-Za-z])", r"\\ne "), (r"<=", r"\\le "), (r">=", r"\\ge "),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])|\^\s*°", "°"), (r"\\varnothing", r"\\emptyset"),
    (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"), (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"), (r"\\colon(?![A-Za-z])", ":"),
    (r"\\(?:lt)(?![A-Za-z])", "<"), (r"\\(?:gt)(?![A-Za-z])", ">"), (r"\\(?:dots|ldots|cdots)(?![A-Za-z])", "..."))]
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt)|operatorname|mbox|boldsymbol|bm|emph|underline)"
                      r"\*?\s*\{([^{}]*)\}")


_MARKUP = re.compile(r"[\\$*~^<>{}]")  # an ASCII string without any of these is spelled plainly already


def _plain(s):
    """One spelling for the many ways to write the same thing. Linear; callers bound the length first."""
    if s.isascii() and not _MARKUP.search(s):
        return " ".join(s.split()).lstrip(" ,;").rstrip(" .,;")
    s = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", s)
    s = re.sub("[¼-¾⅐-⅞]", lambda m: " " + unicodedata.normalize("NFKC", m[0]), s)  # 3½ is 3 1/2
    s = unicodedata.normalize("NFKC", s.translate(_UNICODE)).translate(_UNICODE)
    for pattern, to in _REWRITES:
        s = pattern.sub(to, s)
    for _ in range(3):
        s, n = _WRAPPED.subn(r" \1 ", s)
        if not n:
            break
    return re.sub(r"\s+", " ", s).lstrip(" ,;").rstrip(" .,;")


def _key(s):
    """What two spellings must share to be the same string: blanks matter only between digits."""
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", s))


def _words(s):
    """The words of a text answer without case, articles and punctuation; None when it is not a text."""
    if re.search(r"[\\^=<>+*|{}]", s) or not re.search(r"[^\W\d_]{3}|[\u3400-\u9fff]", s):
        return None
    s = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", s.casefold())
    s = re.sub(r"(?<!\d)[.,'’:;!?()\"“”«»](?!\d)", " ", s)
    return re.sub(r"[\s]+", "" if re.search(r"[\u3400-\u9fff]", s) else " ", re.sub(r"^\s*(?:the|an?)\s", "", s)).strip()


# ------------------------------------------------------------------------------------------------ numbers and units
def _units():
    """name -> (factor, dimensions): a few dozen units of school science. Others are compared by name."""
    table = {}
    for line in (
        "m:1 m:1 meter metre 米; m:1 0.001 mm millimeter millimetre 毫米; m:1 0.01 cm centimeter centimetre 厘米; m:1 0.1 dm 分米;"
        "m:1 1000 km kilometer kilometre 千米 公里; m:1 0.000001 µm; m:1 0.000000001 nm; m:1 0.0254 inch inches; m:1 0.3048 ft foot feet;"
        "m:1 1609.344 mile mi; m:2 10000 ha hectare 公顷; m:2 1 平方米; m:2 0.0001 平方厘米; m:3 1 立方米; m:3 0.000001 立方厘米 cc;"
        "m:3 0.001 L l liter litre 升; m:3 0.000001 mL ml milliliter 毫升; kg:1 1 kg kilogram 千克 公斤; kg:1 0.001 g gram 克;"
        "kg:1 0.000001 mg 毫克; kg:1 1000 t ton tonne 吨; kg:1 0.45359237 lb pound; s:1 1 s sec second 秒; s:1 0.001 ms; s:1 60 min minute 分钟 分;"
        "s:1 3600 h hr hour 小时 时; s:1 86400 day 天; m:1,s:-1 0.44704 mph; N:1 1 N newton 牛; N:1 1000 kN; J:1 1 J joule 焦; J:1 1000 kJ 千焦;"
        "W:1 1 W watt 瓦; W:1 1000 kW 千瓦; V:1 1 V volt 伏; V:1 0.001 mV; V:1 1000 kV; A:1 1 A amp ampere 安; A:1 0.001 mA;"
        "Ω:1 1 Ω ohm 欧 欧姆 \\Omega; Ω:1 1000 kΩ; Pa:1 1 Pa pascal 帕; Pa:1 1000 kPa; Pa:1 1000000 MPa; Hz:1 1 Hz hertz; Hz:1 1000 kHz;"
        "Hz:1 1000000 MHz; mol:1 1 mol mole 摩尔; K:1 1 K kelvin; °:1 1 ° degree deg 度; °C:1 1 °C celsius; °F:1 1 °F fahrenheit;"
        "rad:1 1 rad radian; $:1 1 $ dollar USD 美元; ¥:1 1 ¥ yuan 元 RMB; €:1 1 € euro; £:1 1 £; cent:1 1 cent").split(";"):
        dims, factor, *names = line.replace("m:1 m:1", "m:1 1 m").split()
        for name in names:
            table[name] = (Fraction(factor), {d.split(":")[0]: int(d.split(":")[1]) for d in dims.split(",")})
    return table


UNITS = _units()
_GLUED = set("mgsLJNWV°%")  # one-letter units that may touch their number: 5m is five metres, 5x is algebra
_NOT_UNITS = set("or and not to is are be but if than the of in on at a an for from no with without nor either neither".split())
_UNIT_TOKEN = re.compile(r"\s*(/|\\cdot|\\times|\*|per\b)?\s*(\\Omega|°[CF]?|[A-Za-zµΩ]+|[\u3400-\u9fff]{1,4}|[$€£¥])\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?")


def _unit(text):
    """"km/h" -> (5/18, (("m", 1), ("s", -1))); "" -> (1, ()); not a unit -> None."""
    text, glued = text.rstrip(), text[:1] != " "
    factor, dims, at, power = Fraction(1), {}, 0, 1
    while at < len(text):
        m = _UNIT_TOKEN.match(text, at)
        if not m or len(dims) > 4:
            return None
        name, over = m[2], m[1] in ("/", "per")
        at = m.end()
        if name.lower() in ("square", "sq", "cubic"):
            power = 3 if name.lower() == "cubic" else 2
            continue
        known = UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(name.lower().removesuffix("s"))
        if len(name) == 1 and name.isascii() and glued and name not in _GLUED:
            return None
        if not known:
            if name.lower() in _NOT_UNITS or (name.isascii() and (len(name) < 3 or glued)) or re.search("[不非或和没]", name):
                return None  # "5x", "5 or 6", "5 is wrong"
            known = (Fraction(1), {name.lower().removesuffix("s"): 1})
        power *= int(m[3] or 1) * (-1 if over else 1)
        factor *= known[0] ** power
        for d, p in known[1].items():
            dims[d] = dims.get(d, 0) + p * power
        power, glued = 1, False
    return factor, tuple(sorted(dims.items()))


@dataclass(frozen=True)
class _Number:
    value: Fraction
    places: int | None  # decimals written, when it has at least six significant digits: such a number may be a rounded one
    percent: bool
    unit: tuple         # (factor, dimensions)


_DIGITS = r"(?:\d[\d,. ]*\d|\d)\.?|\.\d+"
_NUMBER = re.compile(
    rf"([+-]?)\s*([$€£¥]?)\s*(-?)(?:(?P<whole>\d{{1,20}})\s*)??(?:\\frac\s*\{{\s*(?P<a>-?\d{{1,40}})\s*\}}\s*\{{\s*(?P<b>-?\d{{1,40}})\s*\}}"
    rf"|(?P<c>\d{{1,40}})\s*/\s*(?P<d>\d{{1,40}})|(?P<digits>{_DIGITS})"
    r"(?:(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*|[eE])[{(]?\s*(?P<power>[+-]?\d{1,3})\s*[})]?)?)(?P<unit>(?!\s*[\d.^!:]|\s*/\s*\d).*)?", re.DOTALL)


def _decimal(body):
    """[(value, decimals written)] of "1,234.5", "1.234,5", "1 234", "3,14"; [] when the commas separate answers."""
    if sum(c.isdigit() for c in body) > MAX_DIGITS:
        return []
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", body) or re.fullmatch(r"\d{1,3}( \d{3})+(\.\d+)?", body):
        body = body.replace(",", "").replace(" ", "")
    elif re.fullmatch(r"\d{1,3}(\.\d{3})+,\d+", body):
        body = body.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d+,\d{2}|\d+,\d{4,}|0,\d+", body):  # a decimal comma; "1,2" is rather two answers
        body = body.replace(",", ".")
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", body):
        return []
    fraction = body.partition(".")[2]
    significant = len(body.replace(".", "").lstrip("0"))
    return [(Fraction(body.rstrip(".") if body != "." else "0"), len(fraction) if fraction and significant >= 6 else None)]


def _number(s):
    """A plain number with its unit, or None: digits, fractions, mixed numbers, powers of ten, money, per cent."""
    m = _NUMBER.fullmatch(s)
    if not m:
        return None
    if m["a"] or m["c"]:
        top, bottom = int(m["a"] or m["c"]), int(m["b"] or m["d"])
        if not bottom:
            return None
        value, places = Fraction(top, bottom), None
        if m["whole"]:
            if m["c"] and not re.search(r"\d\s+\d", s):
                return None
            value += int(m["whole"])
    elif m["whole"]:
        return None
    else:
        found = _decimal(m["digits"])
        if not found:
            return None
        value, places = found[0]
        if m["power"]:
            value, places = value * Fraction(10) ** int(m["power"]), None
    if (m[1] == "-") != (m[3] == "-"):
        value = -value
    rest, percent = m["unit"] or "", False
    if rest.lstrip().startswith("%") or rest.strip().lower() in ("percent", "per cent"):
        rest, percent = rest.lstrip()[1:] if "%" in rest else "", True
    unit = _unit((" " + m[2] if m[2] else "") + rest)
    return None if unit is None else _Number(value, places, percent, unit)


def _close(x, y):
    """Exact equality; or one is a decimal of six or more significant digits, cut or rounded from an exact fraction."""
    if x.value == y.value:
        return True
    for a, b in ((x, y), (y, x)):
        if a.places and not b.places and abs(a.value - b.value) < Fraction(1, 10 ** a.places) and not _terminates(b.value):
            return True
    return False


def _terminates(value):
    d = value.denominator
    for p in (2, 5):
        while d % p == 0:
            d //= p
    return d == 1


def _same_number(x, y):
    if x.unit[1] and y.unit[1]:  # both have a unit: it must measure the same thing
        return x.unit[1] == y.unit[1] and x.value * x.unit[0] == y.value * y.unit[0] and x.percent == y.percent
    if x.percent != y.percent:  # 50% is 0.5; and the sign left out, as any unit may be
        p, n = (x, y) if x.percent else (y, x)
        return p.value == n.value or p.value == n.value * 100
    return _close(x, y)


# ------------------------------------------------------------------------------------------------ choice letters
_LETTER = re.compile(r"(?:(?:option|choice|answer|选项|答案)\s*(?:is\s*)?[:：]?\s*)?[(\[]?\s*([A-Ja-j])\s*[)\]]?[.:)]*", re.IGNORECASE)
_LETTER_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])\s*[.):,])\s*(.+)", re.DOTALL)
_MORE_LETTERS = re.compile(r"(?:^|[\s,;/(])[A-J][.):]|\b(?:or|and)\s+\(?[A-J]\b|[,;/]\s*[A-J]\b|^\(?[A-J]\)?$|或|和")


def _choice(a, g, options):
    """True or False when this is about choice letters, None when it is not. a and g are plain."""
    letters = "ABCDEFGHIJ"[:len(options)] if options else "ABCDEFGHIJ"
    texts = [_plain(str(o)) for o in options] if options else []
    several = r"[A-J](?:[\s,;]*(?:and )?[A-J])+"
    if re.fullmatch(several, g) and re.fullmatch(several, a, re.IGNORECASE) and (options or re.search(r"[\s,;]", a + g)):
        picks = [sorted(c for c in s.upper().replace("AND", "") if c.isalpha()) for s in (a, g)]
        return picks[0] == picks[1]  # "AC" is "A, C" and "C, A"; without options or commas AC and CA may be segments
    bare = re.fullmatch(r"(?:(?:[Oo]ption|[Cc]hoice|选项|答案)\s*:?\s*)?\(?([A-J])\)?", g)
    told = None if bare else _LETTER_TEXT.fullmatch(g)
    told = None if told and _MORE_LETTERS.search(told[3]) else told
    if bare and bare[1] in letters:
        want, text = bare[1], texts[ord(bare[1]) - 65] if texts else None
    elif told:
        want, text = told[1] or told[2], told[3]
    elif texts and sum(_simple(g, t) is True for t in texts) == 1:  # the gold is an option's text
        want = letters[[_simple(g, t) is True for t in texts].index(True)]
        text = g
    else:
        return None
    m = _LETTER.fullmatch(a)
    if m and (m[1].isupper() or bare) and m[1].upper() in letters:
        return m[1].upper() == want
    m = _LETTER_TEXT.fullmatch(a)
    if m:
        letter, rest = m[1] or m[2], m[3].strip()
        if texts:
            named = [l for l, t in zip(letters, texts) if _simple(rest, t)]
            if named:
                return letter == want and want in named  # "B. the text of C" is not B
        if letter == want and text is not None and _simple(rest, text):
            return True
        if letter in letters:
            return letter == want and not _MORE_LETTERS.search(rest)
    if text is not None:
        if texts and sum(_simple(a, t) is True for t in texts) > 1:
            return False
        if _simple(a, text):
            return True
    return False if bare and len(set(re.findall(r"\b[A-J]\b", a))) > 1 else None  # it names several letters


def _simple(a, g):
    """True, False or None (not settled) from spelling and plain numbers alone."""
    if _key(a) == _key(g):
        return True
    x, y = _number(a), _number(g)
    if x and y:
        same = _same_number(x, y)
        return True if same else (None if "," in a + g else False)
    if (wa := _words(a)) and (wg := _words(g)):
        return True if wa == wg else None
    if len(a) == len(g) == 1:
        return a.casefold() == g.casefold()
    return None


# ------------------------------------------------------------------------------------------------ shapes: lists, tuples, intervals
_OPEN, _CLOSE = "([{", ")]}"


def _cut(s, separators):
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


_NAME = r"(?:\\?[A-Za-zα-ω]'*(?:_\{?\w+\}?)?|\\(?!le\b|ge\b|ne\b|in\b|sqrt|frac)[a-z]+(?:_\{?\w+\}?)?|[A-Z]{2,3}|(?:\\angle|\\triangle)\s*[A-Z]{1,3}|[A-Za-z][a-z]{3,}(?: [a-z]+){0,3})"
_LABEL = re.compile(rf"({_NAME}(?:\s*\([^()=]{{1,20}}\))?|\(\s*\w\s*(?:,\s*\w\s*){{1,3}}\))\s*(?:=|\\approx|\\in)\s*(.+)", re.DOTALL)
_RELATION = r"\\le(?![a-z])|\\ge(?![a-z])|<|>"


def _label(s):
    """"x = 5" -> ("x", "5"); a chain "x = 2+3 = 5" keeps its last value; no label -> (None, s)."""
    m = _LABEL.fullmatch(s)
    if not m or re.search(_RELATION, m[2]):
        return None, s
    return re.sub(r"\s", "", m[1]), _cut(m[2], r"=|\\approx")[-1]


def _shape(s):
    """(kind, items, label): kind "one", "list", "{}", an interval or tuple by its brackets "(]", or "2x2" for a matrix."""
    items = [p for p in _cut(s, r"[,;]|\\cup(?![a-z])|\s(?:or|and)\s|或|(?<=[^\u3400-\u9fff])和") if p]
    if len(items) == 1 and "\\pm" in items[0]:
        items = [items[0].replace("\\pm", sign).replace("\\mp", "-" if sign == "+" else "+") for sign in "+-"]
        items = [re.sub(r"(^|[=({,])\s*\+", r"\1", p).strip() for p in items]
    if len(items) > 1:
        return "list", items, None
    s = items[0] if items else s
    label, body = _label(s)
    parts = _cut(body, _RELATION) if label is None else [body]
    if len(parts) in (2, 3) and all(parts):  # x > 5 and 1 < x <= 2 are intervals
        ops = [op.strip() for op in re.findall(_RELATION, body)]
        if len(ops) == len(parts) - 1:
            at = [i for i, p in enumerate(parts) if re.fullmatch(_NAME, p)]
            up = [op in ("<", "\\le") for op in ops]
            if len(parts) == 3 and 1 in at and up[0] == up[1]:
                lo, hi, left, right = parts[0], parts[2], ops[0], ops[1]
                if not up[0]:
                    lo, hi, left, right = hi, lo, right, left
                return ("[" if left in ("\\le", "\\ge") else "(") + ("]" if right in ("\\le", "\\ge") else ")"), [lo, hi], parts[1]
            if len(parts) == 2 and len(at) == 1:
                below = up[0] == (at[0] == 0)  # x < 5, or 5 > x
                closed = ops[0] in ("\\le", "\\ge")
                bound = parts[1 - at[0]]
                if below:
                    return "(" + ("]" if closed else ")"), ["-\\infty", bound], parts[at[0]]
                return ("[" if closed else "(") + ")", [bound, "\\infty"], parts[at[0]]
    m = re.fullmatch(r"[(\[]?\s*\\begin\s*\{([pb]?matrix|array)\}(?:\s*\{[lcr|]+\})?(.*)\\end\s*\{\1\}\s*[)\]]?", body, re.DOTALL)
    if m and "\\begin" not in m[2]:
        rows = [_cut(r, "&") for r in re.split(r"\\\\|\\cr(?![a-z])", m[2]) if r.strip()]
        if rows and all(len(r) == len(rows[0]) for r in rows):
            return f"{len(rows)}x{len(rows[0])}", [c for r in rows for c in r], label
    for left, right, kind in (("\\{", "\\}", "{}"), ("{", "}", "{}"), ("(", ")", "()"), ("[", "]", "[]"), ("(", "]", "(]"), ("[", ")", "[)")):
        if body.startswith(left) and body.endswith(right) and len(body) > len(left + right):
            inside = body[len(left):-len(right)]
            if _cut(body, "(?!)")[0] != body or not _balanced(inside):
                continue
            inner = [p for p in _cut(inside, "[,;]") if p]
            if len(inner) > 1 or kind == "{}" and left == "\\{":
                return kind, inner, label
            if kind in ("()", "{}") and inner:
                return _shape(inner[0]) if label is None else ("one", [inner[0]], label)
    if "=" not in body and len(ratio := _cut(body, ":")) > 1 and all(_number(p) for p in ratio):
        return ":", ratio, label
    return "one", [body], label


def _balanced(s):
    depth = 0
    for m in re.finditer(r"[()\[\]{}]", s):
        depth += 1 if m.group() in _OPEN else -1
        if depth < 0:
            return False
    return depth == 0


class _NeedMaths(Exception):
    """The pair is not settled by spelling, numbers and shapes: it goes to a worker."""


def _equal(a, g, options, maths):
    """a, g: plain strings. maths(a, g) -> bool settles a pair of expressions; in this process it raises _NeedMaths."""
    if not a or not g:
        return False
    chosen = _choice(a, g, options)
    if chosen is not None:
        return chosen
    simple = _simple(a, g)
    if simple is not None:
        return simple
    (ka, xs, la), (kg, ys, lg) = _shape(a), _shape(g)
    if la and lg and la.casefold() != lg.casefold():
        return maths(a, g) if ka == kg == "one" and "=" in a and "=" in g else False  # y = x + 1 against x = y - 1
    if ka == kg == "one":
        x, y = xs[0], ys[0]
        if "=" in x or "=" in y:
            return maths(a, g) if "=" in a and "=" in g else False
        if (x, y) != (a, g):
            return _equal(x, y, None, maths)
        return _leaf(x, y, maths)
    if "one" in (ka, kg):
        return False if {ka, kg} & {"list", ":"} or "=" in a + g else maths(a, g)
    if ka == kg == ":":
        x, y = [[_number(p).value for p in z] for z in (xs, ys)]
        return len(x) == len(y) and all(x[0] * q == y[0] * p for p, q in zip(x, y)) and (x[0] != 0) == (y[0] != 0)
    if len(xs) != len(ys):
        return False
    if ka == kg and ka not in ("list", "{}"):
        return all(_equal(x, y, None, maths) for x, y in zip(xs, ys))
    if {ka, kg} <= {"list", "{}"}:
        names = [{l for l, _ in map(_label, z) if l} for z in (xs, ys)]
        if bool(names[0]) != bool(names[1]) and max(map(len, names)) > 1:  # x = 1, y = 2 against 1, 2: the order is what is left
            return all(_equal(x, y, None, maths) for x, y in zip(xs, ys))
        return _matched(xs, ys, maths)
    if {ka, kg} == {"list", "()"}:
        if len({l for l, _ in map(_label, xs if ka == "list" else ys) if l}) == 1:
            return False  # x = 1, x = 2 are two solutions, no point and no interval
        return all(_equal(x, y, None, maths) for x, y in zip(xs, ys))
    return False


def _matched(xs, ys, maths):
    """Is there a partner for each? Equality is (nearly) transitive here, so taking the first free partner is enough."""
    free, unsettled = list(ys), False
    for x in xs:
        for i, y in enumerate(free):
            try:
                if _equal(x, y, None, maths):
                    del free[i]
                    break
            except _NeedMaths:
                unsettled = True
        else:
            if unsettled:
                raise _NeedMaths
            return False
    return True


def _leaf(a, g, maths):
    """Two expressions without a shape: units off, then mathematics."""
    (a, ua), (g, ug) = _split_unit(a), _split_unit(g)
    if ua and ug:
        if ua[1] != ug[1]:
            return False
        if ua[0] != ug[0]:
            a, g = f"({a})\\cdot ({ua[0].numerator}/{ua[0].denominator})", f"({g})\\cdot ({ug[0].numerator}/{ug[0].denominator})"
    if ua or ug:
        simple = _simple(a, g)
        if simple is not None:
            return simple
    short = [bool(re.fullmatch("[a-z]{2,3}", s)) for s in (a, g)]  # "xy" is a product only beside an expression; "cat" is not "act"
    return maths(a, g) if (_is_maths(a) or short[0]) and (_is_maths(g) or short[1]) and not all(short) else False


def _split_unit(s):
    """"2\\sqrt{3} cm^2" -> ("2\\sqrt{3}", unit); only units of the table, and only behind a number or a bracket."""
    m = re.search(r"(?<=[\d})])\s*((?:°[CF]?|[A-Za-zµΩ]+)(?:\s*\^\s*\{?-?\d\}?)?(?:\s*/\s*[A-Za-z]+(?:\^\{?-?\d\}?)?)?)$", s)
    if not m or m.start() == 0 or not (s[m.start()] == " " or s[m.start()] == "°"):
        return s, None
    unit = _unit(" " + m[1])
    if unit is None or any(len(d) > 3 for d, _ in unit[1]):
        return s, None
    return s[:m.start()], unit


def _is_maths(s):
    """Is it an expression rather than prose? Prose is compared word for word, never parsed as a product of letters."""
    if not re.search(r"[\d\\^+*/|=<>()-]", s) and len(s) > 1:
        return False
    if re.search(r"(?<![_\d])\d+\s+\d|[\u3400-\u9fff@#&?\"`;]|__", s):
        return False
    s = re.sub(r"\\[A-Za-z]+|(?<![A-Za-z])(?:arcsin|arccos|arctan|sinh|cosh|tanh|sqrt|infinity)(?![A-Za-z])", " ", s)
    return not re.search(r"[A-Za-z]{4}", s)


def _too_heavy(s):
    """A reason not to hand this to a parser, or None. What slips through here still meets the worker's time limit."""
    if len(s) > MAX_CHARS:
        return "too long to compare"
    depth = deepest = 0
    for c in s:
        depth += (c in _OPEN) - (c in _CLOSE)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or len(re.findall(r"\\(?:sqrt|frac)", s)) > 2 * MAX_DEPTH:
        return "nested too deeply to compare"
    if any(len(d) > MAX_DIGITS for d in re.findall(r"\d+", s)):
        return "a number too long to compare"
    bracket = r"[\s{(\[]*"
    if any(int(d) > MAX_EXPONENT for d in re.findall(rf"\^{bracket}[-+]?(\d+)", s)):
        return "an exponent too large to compute"
    if re.search(rf"(?:\^|\*\*){bracket}[\w.]*{bracket}(?:\^|\*\*){bracket}[\w.]*{bracket}(?:\^|\*\*)", s):
        return "a tower of exponents"
    for b, c in re.findall(rf"(?:\^|\*\*){bracket}(\d+)[\s)}}]*(?:\^|\*\*){bracket}(\d+)", s):
        if len(b) * int(c) > 5 or len(b) > 4:
            return "a tower of exponents"
    if "!" in s or "binom" in s:
        if any(int(d) > MAX_FACTORIAL for d in re.findall(r"\d+", s)) or re.search(r"![\s)}\]]*!", s):
            return "a factorial too large to compute"
        if re.search(r"[)}\]]\s*!", s) and re.search(r"\^|!.*!", s):
            return "a factorial too large to compute"
    return None


# ------------------------------------------------------------------------------------------------ the rule
_INTEGER = re.compile(r"-?[0-9]{1,40}")


def _quick(answer, gold, options):
    """(True | False | None, why): None means that a worker has to look."""
    if answer is None:
        return False, "no answer in a \\boxed{}"
    if answer == gold:
        return bool(answer.strip()), "rule"
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold) and not options:
        return int(answer) == int(gold), "not equal"
    if len(answer) > 4 * MAX_CHARS or len(gold) > 4 * MAX_CHARS:
        return False, "too long to compare"
    a, g = _plain(answer), _plain(gold)
    if a and _key(a) == _key(g):
        return True, "rule"
    reason = _too_heavy(a) or _too_heavy(g)
    if reason:
        return False, reason

    def unsettled(a, g):
        raise _NeedMaths
    try:
        return _equal(a, g, options, unsettled), "not equal"
    except _NeedMaths:
        return None, ""


def same_answer(answer, gold, options=None):
    """Does the answer mean the same as the gold? options: the texts of a multiple-choice question, when they are known."""
    return same_batch([(str(answer), str(gold), options)])[0][0]


def same_batch(pairs):
    """[(answer, gold, options)] -> [(right, why, seconds)]; equal pairs are looked at once."""
    done, hard = {}, []
    keys = [(a, g, tuple(map(str, o)) if o else None) for a, g, o in pairs]
    for key in keys:
        if key not in done:
            start = time.perf_counter()
            right, why = _quick(*key)
            done[key] = (right, "rule" if right else why, time.perf_counter() - start)
            if right is None:
                hard.append(key)
    if hard:
        done.update(zip(hard, POOL.map(hard)))
    return [done[key] for key in keys]


def readable_gold(answer, options=None):
    """None when the rule can read this gold answer, else the reason. Run it over a data set before training on it."""
    return unreadable_golds([answer], [options]).get(0)


def unreadable_golds(answers, options=None):
    """{index: reason} of the gold answers that the rule cannot compare with anything but themselves."""
    bad, ask = {}, {}
    for i, answer in enumerate(answers):
        if not isinstance(answer, (str, int, float)) or not str(answer).strip():
            bad[i] = "the answer is empty" if isinstance(answer, str) or answer is None else f"the answer is a {type(answer).__name__}, not a text"
            continue
        g = _plain(str(answer)[:4 * MAX_CHARS])
        if not any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in g) and "\\" not in g:
            bad[i] = f"the answer {str(answer)[:40]!r} holds no letter, digit or symbol"
        elif reason := _too_heavy(g):
            bad[i] = f"the answer is {reason}" if reason.startswith(("too", "nested")) else f"the answer holds {reason}"
        elif len(g.split()) > 12 and _words(g):
            bad[i] = f"the answer is a sentence of {len(g.split())} words: only a verifier can compare it"
        elif not (_number(g) or _choice("A", g, options[i] if options else None) is not None or _words(g) or len(g) == 1):
            ask[i] = g
    for i, (ok, why, _) in zip(ask, POOL.map([("parse", g, None) for g in ask.values()], parse_only=True)):
        if not ok:
            bad[i] = f"the answer {ask[i][:60]!r} is neither a text nor mathematics that the rule can parse" + (f" ({why})" if why == "time limit" else "")
    return dict(sorted(bad.items()))


# ------------------------------------------------------------------------------------------------ mathematics, inside a worker process
def _latex(s):
    """Plain typing (sqrt(2), x**2, 2*pi) as LaTeX, which is all that the parser reads: nothing is ever evaluated as Python."""
    s = s.replace("**", "^").replace("*", r"\cdot ")
    s = re.sub(r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|sqrt)(?![A-Za-z])", r"\\\1 ", s)
    s = re.sub(r"(?<![\\A-Za-z])(?:inf|infinity|oo)(?![A-Za-z])", r"\\infty ", s)
    s = re.sub(r"\\sqrt\s+(?=[({\[])", r"\\sqrt", s)
    while (i := s.find("\\sqrt(")) >= 0:  # sqrt(...) -> \sqrt{...}
        depth, j = 0, i + 5
        while j < len(s):
            depth += (s[j] == "(") - (s[j] == ")")
            if depth == 0:
                break
            j += 1
        s = s[:i] + "\\sqrt{" + s[i + 6:j] + "}" + s[j + 1:]
    s = re.sub(r"\\sqrt\s*([a-zA-Z])", r"\\sqrt{\1}", s)
    s = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", s)
    return re.sub(r"\^\s*(-?\d+)(?![}\d])", r"^{\1}", s).replace("°", "")


def _parse(s, lower):
    """LaTeX -> sympy, by the parser of math-verify. It must read the whole string; anything else is an error."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
    from sympy import I, Symbol
    tidy = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False)
    expr = latex2sympy(_latex(s), normalization_config=tidy, conversion_config=ConversionConfig(lowercase_symbols=lower), is_real=True)
    return expr.subs({v: I for v in expr.free_symbols if v.name == "i"})


_POINTS = [Fraction(p, 1009) for p in (733, -1327, 2411, -389, 1801, 3571, -2203, 641, -911, 1447)]


def _values(expr, symbols):
    """The expression at five points (one when it has no variable), as complex numbers of 30 digits; None where undefined."""
    from sympy import Rational
    out = []
    for k in range(5 if symbols else 1):
        at = {s: Rational(_POINTS[(2 * k + 3 * j) % 10].numerator + 17 * j, 1009) for j, s in enumerate(symbols)}
        value = (expr.subs(at) if at else expr).evalf(30)
        out.append(value if value.is_number and value.is_finite else None)
    return out


def _near(x, y):
    scale = max(abs(x), abs(y))
    return scale == 0 or abs(x - y) <= scale * 1e-13


def _same_maths(a, g):
    """Two expressions, compared by their values at fixed points; relations up to a factor; the rest by math-verify."""
    from math_verify import verify
    from sympy import Basic, Expr
    from sympy.core.relational import Eq, Relational
    letters = [set(re.sub(r"\\[A-Za-z]+", "", s)) for s in (a, g)]
    lower = not any(c.isupper() and c.lower() in own for own in letters for c in own)  # R and r in one formula are two things
    x, y = _parse(a, lower), _parse(g, lower)
    if isinstance(x, Relational) and isinstance(y, Relational):
        f, h = x.lhs - x.rhs, y.lhs - y.rhs
        symbols = sorted(f.free_symbols | h.free_symbols, key=str)
        ratios = [p / q for p, q in zip(_values(f, symbols), _values(h, symbols)) if p is not None and q is not None and p != 0 and q != 0]
        if len(ratios) >= 3 and all(_near(r, ratios[0]) for r in ratios):
            if isinstance(x, Eq) or isinstance(y, Eq):
                return isinstance(x, Eq) and isinstance(y, Eq)
            flip = {">": "<", "<": ">", ">=": "<=", "<=": ">="}
            return ratios[0].is_real and x.rel_op == (y.rel_op if ratios[0] > 0 else flip.get(y.rel_op))
        if not (f.free_symbols and h.free_symbols):
            return False
    elif isinstance(x, Expr) and isinstance(y, Expr):
        symbols = sorted(x.free_symbols | y.free_symbols, key=str)
        both = [(p, q) for p, q in zip(_values(x, symbols), _values(y, symbols)) if p is not None and q is not None]
        if both and not symbols:
            if _near(*both[0]):
                return True
            n = [_number(s) for s in (a, g)]
            places = max((d.places or 0) for d in n if d) if any(n) else 0
            return bool(places) and abs(both[0][0] - both[0][1]) < Fraction(1, 10 ** places)  # 1.414214 for the root of 2
        if len(both) >= 3:
            return all(_near(p, q) for p, q in both)
    return isinstance(x, Basic) and bool(verify(y, x, timeout_seconds=None, allow_set_relation_comp=True))


def _worker():
    """Reads one JSON task a line, writes one JSON reply a line. A task that uses up its processor time kills this process."""
    import logging
    import resource
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":  # macOS refuses this one
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not a reply
    try:
        _same_maths(r"\frac{1}{\sqrt{2}}+x^{2}", r"\frac{\sqrt{2}}{2}+x^{2}")  # imports and the parser's tables, before the clock runs
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, task["limit"])  # nothing handles this signal: the system ends the process
        why = "not equal"
        try:
            if task["parse_only"]:
                right = _readable(task["gold"])
            else:
                right = bool(_equal(_plain(task["answer"]), _plain(task["gold"]), task["options"], _guarded_maths))
        except (RecursionError, MemoryError) as error:
            right, why = False, type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"right": right, "why": "rule" if right else why, "seconds": time.perf_counter() - start}), file=replies, flush=True)


def _guarded_maths(a, g):
    try:
        return _same_maths(a, g)
    except (RecursionError, MemoryError):
        raise
    except Exception:  # the parser and sympy raise everything there is on strings that are not mathematics: then they are not equal
        return False


def _readable(gold):
    """Can every part of this gold be parsed?"""
    kind, items, _ = _shape(gold)
    if kind != "one":
        return all(_readable(p) for p in items)
    x = _split_unit(items[0])[0]
    if _number(x) or _words(x):
        return True
    try:
        _parse(x, True)
    except (RecursionError, MemoryError):
        raise
    except Exception:  # as above: whatever it raises, it could not read the string
        return False
    return True


# ------------------------------------------------------------------------------------------------ the worker processes
class _Pool:
    """A few child processes that run this file with --worker. They start when the first hard pair comes, import no torch,
    inherit nothing, and are replaced when they die: of a time limit, of memory, of anything."""

    def __init__(self):
        self.workers, self.pid, self.lock = [], None, threading.Lock()
        self.size, self.limit = None, TIME_LIMIT

    def _start(self):
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   start_new_session=True, bufsize=0)  # its own session: Ctrl-C is for the trainer
        return {"process": process, "task": None, "ready": False, "buffer": b"", "deadline": time.monotonic() + 120}

    def map(self, pairs, parse_only=False):
        """[(answer, gold, options)] -> [(right, why, seconds)] in order. One caller at a time; safe from any thread."""
        if not pairs:
            return []
        with self.lock:
            if self.pid != os.getpid():  # first use, or this process is a fork: its parent's workers are not ours
                self.workers, self.pid = [], os.getpid()
            size = self.size or max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
            while len(self.workers) < min(size, len(pairs)):
                self.workers.append(self._start())
            return self._run(pairs, parse_only)

    def _run(self, pairs, parse_only):
        results, waiting, left = [None] * len(pairs), list(range(len(pairs)))[::-1], len(pairs)
        failed_starts = 0
        with selectors.DefaultSelector() as selector:
            for slot, worker in enumerate(self.workers):
                selector.register(worker["process"].stdout, selectors.EVENT_READ, slot)
            while left:
                for worker in self.workers:
                    if worker["ready"] and worker["task"] is None and waiting:
                        i = waiting.pop()
                        worker["task"], worker["start"] = i, time.perf_counter()
                        worker["deadline"] = time.monotonic() + 10 * self.limit + 10  # wall time: only for a process that hangs asleep
                        answer, gold, options = pairs[i]
                        line = {"answer": answer, "gold": gold, "options": options, "limit": self.limit, "parse_only": parse_only}
                        try:
                            worker["process"].stdin.write(json.dumps(line).encode() + b"\n")
                        except BrokenPipeError:
                            pass  # it died while idle; the end of its output tells below
                events = selector.select(timeout=1.0)
                slots = {key.data for key, _ in events}
                for slot, worker in enumerate(self.workers):
                    late = time.monotonic() > worker["deadline"] and (worker["task"] is not None or not worker["ready"])
                    chunk = os.read(worker["process"].stdout.fileno(), 65536) if slot in slots else None
                    if chunk:
                        worker["buffer"] += chunk
                        while b"\n" in worker["buffer"]:
                            line, _, worker["buffer"] = worker["buffer"].partition(b"\n")
                            reply = json.loads(line)
                            if "missing" in reply:
                                raise RuntimeError(f"comparing answers needs math-verify: {reply['missing']}; pip install -r requirements.txt")
                            if "ready" in reply:
                                worker["ready"] = True
                            else:
                                results[worker["task"]] = (reply["right"], reply["why"], reply["seconds"])
                                worker["task"], left = None, left - 1
                    elif chunk == b"" or late:
                        process = worker["process"]
                        if late:
                            process.kill()
                        code = process.wait()
                        if not worker["ready"]:
                            failed_starts += 1
                            if failed_starts > 3:
                                raise RuntimeError("the processes that compare answers do not start; `python answers.py --worker` shows why")
                        if worker["task"] is not None:
                            why = "time limit" if late or code == -signal.SIGPROF else f"the comparison died (exit {code})"
                            results[worker["task"]] = (False, why, time.perf_counter() - worker["start"])
                            left -= 1
                        selector.unregister(process.stdout)
                        process.stdin.close(), process.stdout.close()
                        self.workers[slot] = self._start()
                        selector.register(self.workers[slot]["process"].stdout, selectors.EVENT_READ, slot)
        return results

    def close(self):
        if self.pid == os.getpid():
            for worker in self.workers:
                worker["process"].kill()
                worker["process"].wait()
            self.workers = []


POOL = _Pool()
atexit.register(POOL.close)


if __name__ == "__main__":
    if sys.argv[1:] != ["--worker"]:
        sys.exit("answers.py is a library; its only command is --worker, which the library itself starts. Did you mean reward.py?")
    _worker()
