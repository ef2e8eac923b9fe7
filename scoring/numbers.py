"""Numbers as exact fractions, with their units; clock times and dates.

There is no tolerance: 0.956 is not 0.963, and 0.33 is not 1/3. What is lenient on purpose: a unit, a currency
or a per cent sign may be left out on one side (5 cm is 5, 50% is 0.5 and 50), and a decimal of six or more
significant digits may be cut or rounded. A word that stands in no table makes a text of the whole; only in a
gold a noun behind a number may be any ("12 red pencils").
"""
import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

# "dimensions factor names": school science. * takes prefixes: *m is also km, *meter also kilometer
_UNIT_LINES = """
m1 1 *m *meter *metre *米; m1 0.01 cm; m1 0.1 dm; m1 1000 公里; m1 0.0254 in inch inches; m1 0.9144 yd yard
m1 0.3048 ft foot feet; m1 1609.344 mile mi; m2 10000 ha hectare 公顷; m2 4046.8564224 acre; m3 0.000001 cc
m3 0.001 *L *l *liter *litre *升; kg1 0.001 *g *gram *克; kg1 1 公斤; kg1 0.5 斤; kg1 1000 t ton tonne 吨
kg1 0.45359237 lb pound; kg1 0.028349523125 oz ounce; m3 0.003785411784 gal gallon; s1 1 s sec *second 秒
s1 0.001 ms; s1 60 min minute 分钟 分; s1 86400 day 天; s1 3600 h hr hour 小时 时; s1 604800 week 周
mo1 12 year 年; mo1 1 month 个月; m1s-1 0.44704 mph; kg1m1s-2 1 *N *newton *牛 牛顿
kg1m2s-2 1 *J *joule *焦 焦耳; kg1m2s-2 3600 *Wh; kg1m2s-3 1 *W *watt *瓦 瓦特
kg1m-1s-2 1 *Pa *pascal *帕 帕斯卡; psi1 1000 ksi; turn1s-1 1/60 rpm; frame1s-1 1 fps; bit1 1 *bit *b
byte1 1 *byte *B; A1 1 *A *amp *ampere *安 安培; A1s1 1 *C *coulomb 库仑; kg1m2s-3A-1 1 *V *volt *伏 伏特
kg1m2s-3A-2 1 *Ω *ohm 欧 欧姆; kg1s-2A-1 1 *T *tesla; kg1m2s-2A-1 1 *Wb weber; kg1m2s-2A-2 1 *H *henry
mol1 1 *mol mole 摩尔; mol1m-3 1000 *M; K1 1 K kelvin; °1 1 ° degree deg; °C1 1 °C celsius 摄氏度
°F1 1 °F fahrenheit; rad1 1 rad radian; eV1 1 *eV; cal1 1 *cal; $1 1 $ dollar USD 美元; ¥1 1 ¥ yuan 元 RMB
¥1 0.1 角; €1 1 € euro; £1 1 £; s-1 1 *Hz *hertz; $1 0.01 cent ¢; unit1 1 unit 单位; kg-1m-2s4A2 1 *F *farad
"""
_COUNTED = ("mmHg dB psi kip hp BTU lbf atm px cup apple orange ball marble coin card book page letter word "
            "digit point line side edge face vertex vertices triangle square circle person people student "
            "child children boy girl man men woman women car ticket way time step bus buses box boxes "
            "个 只 本 张 条 件 人 次 名 位 种 棵 块 支 页 岁")
_PREFIXES = re.findall(
    r"(\S+) (\S+)", "T 1e12 G 1e9 M 1e6 k 1e3 m 1e-3 µ 1e-6 n 1e-9 giga 1e9 mega 1e6 kilo 1e3 deci 0.1 "
    "centi 0.01 milli 1e-3 micro 1e-6 nano 1e-9 千 1e3 分 0.1 厘 0.01 毫 1e-3 微 1e-6")


def _units():
    """name -> (factor, dimensions): "km" -> (1000, {"m": 1})"""
    table = {name: (Fraction(1), {name.removesuffix("es"): 1}) for name in _COUNTED.split()}
    for entry in re.split("[;\n]", _UNIT_LINES.strip()):
        dims, factor, *names = entry.split()
        powers = {dim: int(power) for dim, power in re.findall(r"([^\d-]+)(-?\d)", dims)}
        for name in names:
            bare = name.lstrip("*")
            table[bare] = (Fraction(factor), powers)
            for prefix, times in _PREFIXES if name != bare else ():
                if (prefix > "一") == (bare > "一") and (len(prefix) > 1) == (len(bare) > 3):
                    table.setdefault(prefix + bare, (Fraction(factor) * Fraction(times), powers))
    return table


UNITS = _units()
# glued to a number these are units, and other short ones algebra: 5m is metres, 5mg and 5k are products
_GLUED = set("m g s L N J W V A K cm mm km dm kg mL ml Hz kW kJ dB °C °F in ft".split())
_UNIT_SPELLING = [(re.compile(pattern, re.I), to) for pattern, to in (
    (r"\\Omega", "Ω"), ("k Ω", "kΩ"), (r"\\mu ?", "µ"), (r"^ ?\(([^()]*)\)$", r" \1"), ("每", "/"),  # 18(cm)
    (r"/ ?\(([^()\\*]+)(?:\\cdot|\*)([^()\\*]+)\)", r"/\1/\2"), ("立方", "cubic "), ("平方", "square "),
    (r"(?:°|\bdegrees?) ?([CF])(?:elsius|ahrenheit)?\b", r"°\1"), ("^ C$", "°C"),
    (r"\b(?:sq|square|(cubic)) ([a-z]+|[\u3400-\u9fff]+)", lambda m: f"{m[2]}^{3 if m[1] else 2}"))]
_UNIT = re.compile(r" ?(/|\\cdot|\\times|\*|-|per\b)? ?(°[CF]?|[A-Za-zµΩ]+|[\u3400-\u9fff]{1,4}|[$€£¥¢])"
                   r" ?(?:\^ ?\{? ?(-?\d) ?\}?)? ?")


def unit_of(text):
    """"km/h" -> (5/18, (("m", 1), ("s", -1))); "" -> (1, ()); anything but units of the table -> None."""
    glued, factor, dims = text[:1] not in (" ", "("), Fraction(1), Counter()
    for pattern, to in _UNIT_SPELLING if text else ():
        text = pattern.sub(to, text)
    found = _UNIT.findall(text)
    if _UNIT.sub("", text) or len(found) > 8:
        return None
    for sign, name, power in found:
        known = UNITS.get(name) or len(name) > 1 and (
            UNITS.get(name.lower()) or UNITS.get(name.lower().removesuffix("s")))
        if not known or glued and name.isascii() and len(name) < 3 and name not in _GLUED:
            return None
        times, glued = int(power or 1) * (-1 if sign in ("/", "per") else 1), False
        factor *= known[0] ** times
        for dim, n in known[1].items():
            dims[dim] += n * times
    dims = tuple(sorted((dim, n) for dim, n in dims.items() if n))
    return (factor, dims) if dims or not text else None  # h/s is none


class Number(NamedTuple):
    value: Fraction
    places: int | None = None  # decimals written, of six significant digits or more: then it may be rounded
    percent: bool = False
    unit: tuple = (Fraction(1), ())  # (factor, dimensions)
    fraction: bool = False     # written with a bar: then it may stand for a ratio


_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
          "sixteen seventeen eighteen nineteen").split()
_WORDS = {word: n for n, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_SPELLED = re.compile(rf"^-?(?:(?:{'|'.join(_TENS)})[ -](?:{'|'.join(_SMALL[1:10])})|{'|'.join(_WORDS)})"
                      "(?![A-Za-z])", re.I)
_MULTIPLIERS = {name: Fraction(entry.split()[0]) for entry in (
    "100 hundred 百;1000 thousand 千;1e6 million;1e9 billion;1e12 trillion;12 dozen;10000 万;1e8 亿;1/2 half "
    "halve;1/3 third;1/4 quarter fourth;1/5 fifth;1/6 sixth;1/7 seventh;1/8 eighth;1/9 ninth;1/10 tenth;"
    "1/100 hundredth;1/1000 thousandth ‰;1/1000000 millionth").split(";") for name in entry.split()[1:]}
_MULTIPLIER = re.compile(rf"[ -]?({'|'.join(sorted(_MULTIPLIERS, key=len, reverse=True))})"
                         r"s?(?![A-Za-z]|克|米|瓦|焦)(?: (?:of )?an?(?= ))?", re.I)  # half an hour
_FRACTION = re.compile(r"\\frac ?\{ ?(-?\d+) ?\} ?\{ ?(-?\d+) ?\}(?! ?\d)")
_VALUE = re.compile(
    r"([+-]?) ?((?:USD|RMB|[$€£¥])?) ?(-?) ?(?:"
    r"(?:(?P<whole>\d{1,20}) )?(?P<top>\d{1,40}) ?/ ?(?P<bottom>-?\d{1,40})"
    r"|(?P<before>\d*\.\d*)(?:\\overline ?\{ ?|\\dot ?\{? ?|\()(?P<again>\d{1,40})[)} ]*"
    r"|(?P<digits>\d(?:[,. ]?\d)*\.?|\.\d+)"
    r"(?:(?: ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?|[eE])[{(]? ?(?P<power>[+-]?\d{1,3}) ?[})]?)?)")
_MORE = re.compile(r" ?[\d.^!:,]| ?/ ?\d")  # behind a value: so it was none
_PART = re.compile(r" ?(?:and )?(\d{1,40}(?:\.\d{1,40})?) ?([^\d\s]+)")  # of "1 h 30 min" and 12°36'
_ARC = {"'": (Fraction(1, 60), (("°", 1),)), "''": (Fraction(1, 3600), (("°", 1),))}
_NOUN = re.compile(r"(?!.*\b(?:less|plus|minus|times|not)\b)(?: [a-z]{3,20})? [a-z]{2,19}s"
                   r"| ?[^\x00-\u33ff\ua000-\uffff多余几上下左右以约不或错误对否非]{1,6}", re.I)


def number(s, any_noun=False):
    """A plain number with its unit, or None: digits, words, fractions, powers of ten, money, per cent.
    any_noun: of a gold, "12 red pencils", "12名学生". An answer may leave the noun out, as it may a unit; but
    in an answer itself, a word behind a number is a unit of the table, or makes a text of it."""
    s = _digits(s) if s[:1].isalpha() else s
    if "\\frac" in s:
        s = _FRACTION.sub(r" \1/\2", s).strip()
    m = _VALUE.match(s)
    found = _value(m) if m and not _MORE.match(s, m.end()) else None
    if not found:
        return _compound(s) if m else None
    (value, places), rest = found, s[m.end():]
    if (m[1] == "-") != (m[3] == "-"):
        value = -value
    while times := _MULTIPLIER.match(rest):
        value, places, rest = value * _MULTIPLIERS[times[1].lower()], None, rest[times.end():]
    if percent := re.match(r" ?(?:%|per ?cent\b)", rest, re.I):
        rest = rest[percent.end():]
    unit = unit_of((" " + m[2] if m[2] else "") + rest) or any_noun and _NOUN.fullmatch(rest) and unit_of("")
    return Number(value, places, bool(percent), unit, bool(m["top"])) if unit else _compound(s)


def _digits(s):
    """"twenty-one apples" -> "21 apples"; "a quarter" -> "1 quarter\""""
    s = re.sub("^(?:minus|negative) ", "-", s, flags=re.I).replace(" and a half", " 1/2")
    article = re.match(r"an? |(?=half\b)", s, re.I)
    s = "1 " + s[article.end():] if article and _MULTIPLIER.match(s, article.end()) else s
    return _SPELLED.sub(lambda m: "-" * (m[0][0] == "-") + str(sum(
        _WORDS[word] for word in re.findall("[a-z]+", m[0].lower()))), s)


def _value(m):
    """(value, decimals written) of a match of _VALUE without its sign; None when it is no number."""
    if m["top"]:
        bottom = int(m["bottom"])
        return (int(m["whole"] or 0) + Fraction(int(m["top"]), bottom), None) if bottom else None
    if m["again"]:  # 0.1\overline{6} is 0.1 and 6/90
        places = len(m["before"].partition(".")[2])
        again = Fraction(int(m["again"]), (10 ** len(m["again"]) - 1) * 10 ** places)
        return Fraction("0" + m["before"] + "0") + again, None
    body = m["digits"]
    if re.fullmatch(r"[1-9]\d{0,2}([, ])\d{3}(?:\1\d{3})*(?:\.\d+)?", body):  # no thousands behind a nought
        body = re.sub("[, ]", "", body)
    elif re.fullmatch(r"[1-9]\d{0,2}(\.\d{3})+,\d+", body):  # as half of the world writes it
        body = body.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d+,\d{2}|\d+,\d{4,}|0,\d+", body):  # a decimal comma; "1,2" is rather two answers
        body = body.replace(",", ".")
    if len(body) > 300 or not re.fullmatch(r"\d+\.?\d*|\.\d+", body):
        return None
    value, places = Fraction(body.rstrip(".")), len(body.partition(".")[2])
    significant = len(body.replace(".", "").lstrip("0"))
    if m["power"]:
        return value * Fraction(10) ** int(m["power"]), None
    return value, places if significant >= 6 else None


def _compound(s):
    """"1 h 30 min", "5 ft 6 in", 12°36': parts of one dimension, each less than a unit of the one before."""
    found = _PART.findall(s)
    if not 1 < len(found) < 5 or _PART.sub("", s):
        return None
    parts = [(Fraction(n), _ARC.get(name) or unit_of(" " + name)) for n, name in found]
    units = [unit for _, unit in parts]
    if None in units or len({dims for _, dims in units}) > 1:
        return None
    fits = all(x * small < big for (_, (big, _)), (x, (small, _)) in zip(parts, parts[1:]))
    return Number(sum(x * factor for x, (factor, _) in parts) / units[0][0], unit=units[0]) if fits else None


def same_number(x, y):
    if x.percent != y.percent:  # 50% is 0.5; and the sign left out, as any unit may be
        x, y = (y, x) if x.percent else (x, y)
        return not x.unit[1] and (_close(x, y) or _close(x._replace(value=x.value * 100), y))
    if x.unit[1] and y.unit[1]:  # both have a unit: it must measure the same thing
        if x.unit[1] != y.unit[1]:
            return False
        y = y._replace(value=y.value * y.unit[0] / x.unit[0], places=y.places if x.unit == y.unit else None)
    return _close(x, y)


def _close(x, y):
    """Exact equality; or one is a decimal of six or more significant digits for a fraction without an end."""
    return x.value == y.value or any(
        a.places and pow(10, b.denominator.bit_length(), b.denominator) and rounds_to(b, a)
        for a, b in ((x, y.value), (y, x.value)))


def rounds_to(exact, decimal):
    """Is the decimal the exact value, cut or rounded to the places it has?"""
    scaled, written = abs(exact) * 10 ** decimal.places, abs(decimal.value) * 10 ** decimal.places
    return (exact > 0) == (decimal.value > 0) and written in (int(scaled), int(scaled + Fraction(1, 2)))


# ------------------------------------------------------------------------------------------- times and dates

def clock(s):
    """(is the half of the day known, minutes since midnight that it may mean) of "2:30", "2 pm"; or None"""
    m = re.fullmatch(r"([01]?\d|2[0-4])(?::([0-5]\d))?(?::([0-5]\d))? ?(?:([ap])\.? ?m\.?)?", s, re.I)
    if not m or not (m[2] or m[4]) or m[4] and not 1 <= int(m[1]) <= 12:
        return None
    minutes = int(m[1]) % 24 * 60 + int(m[2] or 0) + Fraction(int(m[3] or 0), 60)
    if m[4]:
        return True, {minutes % 720 + 720 * (m[4] in "pP")}
    return False, {minutes % 720, minutes % 720 + 720} if minutes < 780 else {minutes}


_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH, _DAY = rf"({'|'.join(_MONTHS)})[a-z]{{0,6}}\.?", r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(rf"(?:{_MONTH} {_DAY}|{_DAY} (?:of )?{_MONTH})(?:,? \d{{4}})?", re.I)


def date(s):
    """(year, month, day) of 2024-03-05, 2024年3月5日, March 5, 2024, 5th of March; or None. Of 5/3/2024 only
    its author knows whether the month is first."""
    numbers = re.findall(r"\d+", s)
    if re.fullmatch(r"\d{4}([-/.]|年) ?\d{1,2}(?:\1|月) ?\d{1,2}[日号]?", s):
        return tuple(map(int, numbers))
    if m := numbers and _DATE.fullmatch(s):
        return int([0, *numbers[1:]][-1]), 1 + _MONTHS.index((m[1] or m[2]).lower()), int(numbers[0])
    return None
