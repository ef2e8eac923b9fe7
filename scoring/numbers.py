"""Numbers as exact fractions, with their units. A reader may skip the table of units and the long patterns.

There is no tolerance: 0.956 is not 0.963, and 0.33 is not 1/3. What is lenient on purpose: a unit, a currency
or a per cent sign may be left out on one side (5 cm is 5, 50% is 0.5 and 50), and a decimal of six or more
significant digits may be a rounded one.
"""
import re
from dataclasses import dataclass
from fractions import Fraction

from scoring.limits import MAX_DIGITS

# "dimensions factor names": a few dozen units of school science. Others are compared by name.
_UNIT_LINES = """
m:1 1 m meter metre 米; m:1 0.001 mm millimeter millimetre 毫米; m:1 0.01 cm centimeter centimetre 厘米
m:1 0.1 dm 分米; m:1 1000 km kilometer kilometre 千米 公里; m:1 0.000001 µm; m:1 0.000000001 nm
m:1 0.0254 inch inches; m:1 0.3048 ft foot feet; m:1 1609.344 mile mi
m:2 10000 ha hectare 公顷; m:2 1 平方米; m:2 0.0001 平方厘米; m:3 1 立方米; m:3 0.000001 立方厘米 cc
m:3 0.001 L l liter litre 升; m:3 0.000001 mL ml milliliter 毫升
kg:1 1 kg kilogram 千克 公斤; kg:1 0.001 g gram 克; kg:1 0.000001 mg 毫克; kg:1 1000 t ton tonne 吨
kg:1 0.45359237 lb pound
s:1 1 s sec second 秒; s:1 0.001 ms; s:1 60 min minute 分钟 分; s:1 3600 h hr hour 小时 时; s:1 86400 day 天
m:1,s:-1 0.44704 mph
N:1 1 N newton 牛; N:1 1000 kN; J:1 1 J joule 焦; J:1 1000 kJ 千焦; W:1 1 W watt 瓦; W:1 1000 kW 千瓦
V:1 1 V volt 伏; V:1 0.001 mV; V:1 1000 kV; A:1 1 A amp ampere 安; A:1 0.001 mA
Ω:1 1 Ω ohm 欧 欧姆 \\Omega; Ω:1 1000 kΩ; Pa:1 1 Pa pascal 帕; Pa:1 1000 kPa; Pa:1 1000000 MPa
Hz:1 1 Hz hertz; Hz:1 1000 kHz; Hz:1 1000000 MHz; mol:1 1 mol mole 摩尔; K:1 1 K kelvin
°:1 1 ° degree deg 度; °C:1 1 °C celsius; °F:1 1 °F fahrenheit; rad:1 1 rad radian
$:1 1 $ dollar USD 美元; ¥:1 1 ¥ yuan 元 RMB; €:1 1 € euro; £:1 1 £; cent:1 1 cent
"""


def _units():
    """name -> (factor, dimensions): "km" -> (1000, {"m": 1})"""
    table = {}
    for entry in re.split("[;\n]", _UNIT_LINES.strip()):
        dims, factor, *names = entry.split()
        powers = [dim.split(":") for dim in dims.split(",")]
        for name in names:
            table[name] = (Fraction(factor), {dim: int(power) for dim, power in powers})
    return table


UNITS = _units()
_GLUED = set("mgsLJNWV°%")  # one-letter units that may touch their number: 5m is five metres, 5x is algebra
_NOT_UNITS = set("or and not to is are be but if than the of in on at a an for from no with without nor "
                 "either neither".split())
_UNIT_TOKEN = re.compile(
    r"\s*(/|\\cdot|\\times|\*|per\b)?\s*(\\Omega|°[CF]?|[A-Za-zµΩ]+|[\u3400-\u9fff]{1,4}|[$€£¥])\s*"
    r"(?:\^\s*\{?\s*(-?\d)\s*\}?)?")


def unit_of(text):
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
        known = _known_unit(name, glued)
        if not known:
            return None
        power *= int(m[3] or 1) * (-1 if over else 1)
        factor *= known[0] ** power
        for d, p in known[1].items():
            dims[d] = dims.get(d, 0) + p * power
        power, glued = 1, False
    return factor, tuple(sorted(dims.items()))


def _known_unit(name, glued):
    """(factor, dimensions) of one name; an unknown word is a unit of its own; None for "5x", "5 or 6", "5 is
    wrong"."""
    if len(name) == 1 and name.isascii() and glued and name not in _GLUED:
        return None
    singular = name.lower().removesuffix("s")
    known = UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(singular)
    if known:
        return known
    too_short = name.isascii() and (len(name) < 3 or glued)
    if name.lower() in _NOT_UNITS or too_short or re.search("[不非或和没]", name):
        return None
    return Fraction(1), {singular: 1}


@dataclass(frozen=True)
class Number:
    value: Fraction
    places: int | None  # decimals written, if it has six significant digits or more: then it may be rounded
    percent: bool
    unit: tuple         # (factor, dimensions)


_DIGITS = r"(?:\d[\d,. ]*\d|\d)\.?|\.\d+"
_NUMBER = re.compile(
    r"([+-]?)\s*([$€£¥]?)\s*(-?)(?:(?P<whole>\d{1,20})\s*)??(?:"
    rf"\\frac\s*\{{\s*(?P<a>-?\d{{1,40}})\s*\}}\s*\{{\s*(?P<b>-?\d{{1,40}})\s*\}}"
    rf"|(?P<c>\d{{1,40}})\s*/\s*(?P<d>\d{{1,40}})|(?P<digits>{_DIGITS})"
    r"(?:(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*|[eE])[{(]?\s*(?P<power>[+-]?\d{1,3})\s*[})]?)?)"
    r"(?P<unit>(?!\s*[\d.^!:]|\s*/\s*\d).*)?", re.DOTALL)


def _decimal(body):
    """(value, decimals written) of "1,234.5", "1.234,5", "1 234", "3,14"; None when the commas separate
    answers."""
    if sum(c.isdigit() for c in body) > MAX_DIGITS:
        return None
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", body) or re.fullmatch(r"\d{1,3}( \d{3})+(\.\d+)?", body):
        body = body.replace(",", "").replace(" ", "")
    elif re.fullmatch(r"\d{1,3}(\.\d{3})+,\d+", body):
        body = body.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d+,\d{2}|\d+,\d{4,}|0,\d+", body):  # a decimal comma; "1,2" is rather two answers
        body = body.replace(",", ".")
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", body):
        return None
    fraction = body.partition(".")[2]
    significant = len(body.replace(".", "").lstrip("0"))
    return Fraction(body.rstrip(".")), len(fraction) if fraction and significant >= 6 else None


def _value(m, s):
    """(value, decimals written) of a match of _NUMBER in s, without its sign; None when it is no number."""
    if m["a"] or m["c"]:
        top, bottom = int(m["a"] or m["c"]), int(m["b"] or m["d"])
        glued = m["whole"] and m["c"] and not re.search(r"\d\s+\d", s)  # "31/2" is no mixed number
        if not bottom or glued:
            return None
        return Fraction(top, bottom) + int(m["whole"] or 0), None
    found = None if m["whole"] else _decimal(m["digits"])
    if found and m["power"]:
        return found[0] * Fraction(10) ** int(m["power"]), None
    return found


def number(s):
    """A plain number with its unit, or None: digits, fractions, mixed numbers, powers of ten, money, per
    cent."""
    m = _NUMBER.fullmatch(s)
    found = _value(m, s) if m else None
    if not found:
        return None
    value, places = found
    if (m[1] == "-") != (m[3] == "-"):
        value = -value
    rest, percent = m["unit"] or "", False
    if rest.lstrip().startswith("%") or rest.strip().lower() in ("percent", "per cent"):
        rest, percent = rest.lstrip()[1:] if "%" in rest else "", True
    unit = unit_of((" " + m[2] if m[2] else "") + rest)
    return None if unit is None else Number(value, places, percent, unit)


def same_number(x, y):
    if x.unit[1] and y.unit[1]:  # both have a unit: it must measure the same thing
        same_value = x.value * x.unit[0] == y.value * y.unit[0]
        return x.unit[1] == y.unit[1] and same_value and x.percent == y.percent
    if x.percent != y.percent:  # 50% is 0.5; and the sign left out, as any unit may be
        p, n = (x, y) if x.percent else (y, x)
        return p.value in (n.value, n.value * 100)
    return _close(x, y)


def _close(x, y):
    """Exact equality; or one is a decimal of six or more significant digits, cut or rounded from an exact
    fraction."""
    if x.value == y.value:
        return True
    for a, b in ((x, y), (y, x)):
        rounded = a.places and not b.places and abs(a.value - b.value) < Fraction(1, 10 ** a.places)
        if rounded and not _terminates(b.value):
            return True
    return False


def _terminates(value):
    """Can the fraction be written as a decimal with an end?"""
    d = value.denominator
    for p in (2, 5):
        while d % p == 0:
            d //= p
    return d == 1


_TRAILING_UNIT = re.compile(
    r"(?<=[\d})])\s*((?:°[CF]?|[A-Za-zµΩ]+)(?:\s*\^\s*\{?-?\d\}?)?(?:\s*/\s*[A-Za-z]+(?:\^\{?-?\d\}?)?)?)$")


def split_unit(s):
    """"2\\sqrt{3} cm^2" -> ("2\\sqrt{3}", unit). Only units of the table, and only behind a number or a
    bracket."""
    m = _TRAILING_UNIT.search(s)
    if not m or m.start() == 0 or s[m.start()] not in " °":
        return s, None
    unit = unit_of(" " + m[1])
    if unit is None or any(len(dim) > 3 for dim, _ in unit[1]):
        return s, None
    return s[:m.start()], unit
