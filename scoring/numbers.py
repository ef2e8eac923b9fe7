"""Numbers as exact fractions, with their units; angles, clock times and dates.

There is no tolerance: 0.956 is not 0.963, and 0.33 is not 1/3. What is lenient on purpose: a unit, a currency
or a per cent sign may be left out on one side (5 cm is 5, 50% is 0.5 and 50), and a decimal of six or more
significant digits may be cut or rounded. A word that stands in no table makes a text of the whole; only in a
gold a noun behind a number may be any ("12 red pencils").
"""
import re
from dataclasses import dataclass, replace
from fractions import Fraction

MAX_DIGITS = 300  # of one number

# "dimensions factor names": school science. * takes prefixes: *m is also km, *meter also kilometer
_UNIT_LINES = """
m1 1 *m *meter *metre *米; m1 0.01 cm; m1 0.1 dm; m1 1000 公里; m1 0.0254 in inch inches; m1 0.9144 yd yard
m1 0.3048 ft foot feet; m1 1609.344 mile mi; m2 10000 ha hectare 公顷; m2 4046.8564224 acre; m3 0.000001 cc
m3 0.001 *L *l *liter *litre *升; kg1 0.001 *g *gram *克; kg1 1 公斤; kg1 0.5 斤; kg1 1000 t ton tonne 吨
kg1 0.45359237 lb pound; kg1 0.028349523125 oz ounce; m3 0.003785411784 gal gallon; s1 1 s sec *second 秒
s1 0.001 ms; s1 60 min minute 分钟 分; s1 86400 day 天; s1 3600 h hr hour 小时 时; s1 604800 week 周
mo1 12 year 年; mo1 1 month 个月; m1s-1 0.44704 mph; kg1m1s-2 1 *N *newton *牛 牛顿
kg1m2s-2 1 *J *joule *焦 焦耳; kg1m2s-2 3600 *Wh; kg1m2s-3 1 *W *watt *瓦 瓦特
kg1m-1s-2 1 *Pa *pascal *帕 帕斯卡; mmHg1 1 mmHg; dB1 1 dB; psi1 1 psi; psi1 1000 ksi; kip1 1 kip
hp1 1 hp horsepower; BTU1 1 BTU; lbf1 1 lbf; atm1 1 atm; bit1 1 *bit *b; byte1 1 *byte *B
A1 1 *A *amp *ampere *安 安培; A1s1 1 *C *coulomb 库仑; kg1m2s-3A-1 1 *V *volt *伏 伏特
kg1m2s-3A-2 1 *Ω *ohm 欧 欧姆; kg1s-2A-1 1 *T *tesla; kg1m2s-2A-1 1 *Wb weber; kg1m2s-2A-2 1 *H *henry
mol1 1 *mol mole 摩尔; mol1m-3 1000 *M; K1 1 K kelvin; °1 1 ° degree deg; °C1 1 °C celsius 摄氏度
°F1 1 °F fahrenheit; rad1 1 rad radian; eV1 1 *eV; cal1 1 *cal; $1 1 $ dollar USD 美元; ¥1 1 ¥ yuan 元 RMB
¥1 0.1 角; €1 1 € euro; £1 1 £; s-1 1 *Hz *hertz; $1 0.01 cent ¢; unit1 1 unit 单位; kg-1m-2s4A2 1 *F *farad
frame1s-1 1 fps; turn1s-1 1/60 rpm; px1 1 px pixel
"""
_COUNTED = ("apple orange ball marble coin card book page letter word digit point line side edge face vertex "
            "vertices triangle square circle person people student child children boy girl man men woman "
            "women car ticket way time step bus buses box boxes 个只本张条件人次名位种棵块支页岁")
_PREFIXES = {**dict(zip("G M k m µ n T giga mega kilo milli micro nano tera".split(),
                        2 * [Fraction(f"1e{n}") for n in (9, 6, 3, -3, -6, -9, 12)])),
             "centi": Fraction("0.01"), "deci": Fraction("0.1"),
             **dict(zip("千分厘毫微", map(Fraction, "1e3 1e-1 1e-2 1e-3 1e-6".split())))}


def _units():
    """name -> (factor, dimensions): "km" -> (1000, {"m": 1})"""
    table = {name: (Fraction(1), {name.removesuffix("es"): 1}) for name in re.findall(r"[a-z]+|\S", _COUNTED)}
    for entry in re.split("[;\n]", _UNIT_LINES.strip()):
        dims, factor, *names = entry.split()
        powers = {dim: int(power) for dim, power in re.findall(r"([^\d-]+)(-?\d)", dims)}
        for name in names:
            bare = name.lstrip("*")
            table[bare] = (Fraction(factor), powers)
            for prefix, times in _PREFIXES.items() if name != bare else ():
                if (prefix > "一") == (bare > "一") and (len(prefix) > 1) == (len(bare) > 3):
                    table.setdefault(prefix + bare, (Fraction(factor) * times, powers))
    return table


UNITS = _units()
# glued to a number these are units, and other short ones algebra: 5m is metres, 5mg and 5k are products
_GLUED = set("m g s L N J W V A K cm mm km dm kg mL ml Hz kW kJ dB °C °F in ft".split())
_UNIT_TOKEN = re.compile(r" ?(/|\\cdot|\\times|\*|-|per\b)? ?(°[CF]?|[A-Za-zµΩ]+|[\u3400-\u9fff]{1,4}"
                         r"|[$€£¥¢]) ?(?:\^ ?\{? ?(-?\d) ?\}?)?")
_POWERS = {"square": 2, "sq": 2, "cubic": 3}
# what one letter may stand for, and a degree of which scale
_SAME_DIMENSIONS = [{"A1s1", "°C1"}, {"A2kg-1m-2s4", "°F1"}, {"°1", "°C1"}, {"°1", "°F1"}]


def unit_of(text):
    """"km/h" -> (5/18, (("m", 1), ("s", -1))); "" -> (1, ()); anything but units of the table -> None."""
    if not text:
        return Fraction(1), ()
    glued, text = text[:1] not in (" ", "("), text.rstrip().replace("\\Omega", "Ω").replace("k Ω", "kΩ")
    text = re.sub(r"^ ?\(([^()]*)\)$", r"\1", re.sub(r"\\mu ?", "µ", text))  # 18(cm)
    text = re.sub(r"/ ?\(([^()]+)\)", lambda m: "/" + re.sub(r"\\cdot|\*", "/", m[1]), text)
    text = re.sub(r"(?:°|\bdegrees?) ?([CF])(?:elsius|ahrenheit)?\b", r"°\1", text, flags=re.IGNORECASE)
    factor, dims, at, power, count = Fraction(1), {}, 0, 1, 0
    while at < len(text):
        m, count = _UNIT_TOKEN.match(text, at), count + 1
        if not m or count > 8:
            return None
        name, at = m[2], m.end()
        if name.lower() in _POWERS:
            power = _POWERS[name.lower()]
            continue
        if name[:2] in ("平方", "立方"):
            name, power = name[2:], 2 + (name[0] == "立")
        if glued and name.isascii() and len(name) < 3 and name not in _GLUED:
            return None
        known = UNITS.get(name) or UNITS.get(name.removeprefix("每")) or len(name) > 1 and (
            UNITS.get(name.lower()) or UNITS.get(name.lower().removesuffix("s")))
        if not known:
            return None
        power *= int(m[3] or 1) * (-1 if m[1] in ("/", "per") or name[0] == "每" else 1)
        factor *= known[0] ** power
        for d, p in known[1].items():
            dims[d] = dims.get(d, 0) + p * power
        power, glued = 1, False
    dims = tuple(sorted((d, p) for d, p in dims.items() if p))
    return (factor, dims) if dims else None  # h/s is none


def same_dimensions(x, y):
    """Of two units: do they measure the same thing?"""
    names = {"".join(f"{d}{p}" for d, p in unit[1]) for unit in (x, y)}
    return len(names) == 1 or names in _SAME_DIMENSIONS


@dataclass(frozen=True)
class Number:
    value: Fraction
    places: int | None = None  # decimals written, of six significant digits or more: then it may be rounded
    percent: bool = False
    unit: tuple = (Fraction(1), ())  # (factor, dimensions)
    fraction: bool = False     # written with a bar: then it may stand for a ratio


_SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
          "sixteen seventeen eighteen nineteen").split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = {word: i for i, word in enumerate(_SMALL)}  # "twenty one" -> 21
_SPELLED |= {f"{ten} {one}".strip(): 10 * i + k for i, ten in enumerate(_TENS, 2)
             for k, one in enumerate(["", *_SMALL[1:10]])}
_MULTIPLIERS = {name: Fraction(entry.split()[0]) for entry in (
    "100 hundred 百;1000 thousand 千;1e6 million;1e9 billion;1e12 trillion;12 dozen;10000 万;1e8 亿;1/2 half "
    "halves;1/3 third;1/4 quarter fourth;1/5 fifth;1/6 sixth;1/7 seventh;1/8 eighth;1/9 ninth;1/10 tenth;"
    "1/100 hundredth;1/1000 thousandth ‰;1/1000000 millionth").split(";") for name in entry.split()[1:]}
_MULTIPLIER = re.compile(
    rf" ?({'|'.join(sorted(_MULTIPLIERS, key=len, reverse=True))})s?(?![A-Za-z]|克|米|瓦|焦)", re.I)
_VALUE = re.compile(
    r"([+-]?) ?((?:USD|RMB|[$€£¥])?) ?(-?) ?(?:"
    r"(?:(?P<n>\d{1,20}) ?)?\\frac ?\{ ?(?P<a>-?\d{1,40}) ?\} ?\{ ?(?P<b>-?\d{1,40}) ?\}"
    r"|(?:(?P<m>\d{1,20}) )?(?P<c>\d{1,40}) ?/ ?(?P<d>\d{1,40})"
    r"|(?P<before>\d*\.\d*)(?:\\overline ?\{ ?|\\dot ?\{? ?|\()(?P<again>\d{1,40})[)} ]*"
    r"|(?P<digits>\d(?:[,. ]?\d)*\.?|\.\d+)"
    r"(?:(?: ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?|[eE])[{(]? ?(?P<power>[+-]?\d{1,3}) ?[})]?)?)")
_MORE = re.compile(r" ?[\d.^!:,]| ?/ ?\d")  # behind a value: so it was none
_PART = re.compile(r" ?(?:and )?(\d{1,40}(?:\.\d{1,40})?) ?([^\d\s]+)")  # of "1 h 30 min"
_ARC = re.compile(r"(-?)(\d{1,5})° ?(?:(\d{1,2})' ?)?(?:(\d{1,2}(?:\.\d{1,9})?)(?:''|\") ?)?")


def _decimal(body):
    """(value, decimals written) of "1,234.5", "1.234,5", "1 234", "3,14"; None: commas between answers."""
    if sum(c.isdigit() for c in body) > MAX_DIGITS:
        return None
    if re.fullmatch(r"[1-9]\d{0,2}((,\d{3})+|( \d{3})+)(\.\d+)?", body):  # no thousands behind a nought
        body = body.replace(",", "").replace(" ", "")
    elif re.fullmatch(r"[1-9]\d{0,2}(\.\d{3})+,\d+", body):
        body = body.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d+,\d{2}|\d+,\d{4,}|0,\d+", body):  # a decimal comma; "1,2" is rather two answers
        body = body.replace(",", ".")
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", body):
        return None
    fraction = body.partition(".")[2]
    significant = len(body.replace(".", "").lstrip("0"))
    return Fraction(body.rstrip(".")), len(fraction) if fraction and significant >= 6 else None


def pair_or_decimal(s):
    """Is it "12,5", with a unit or without? It is read as 12 and 5, because a pair is often written so: what
    is meant, only its author knows."""
    return not number(s) and bool(re.fullmatch(r"[+-]? ?[$€£¥]? ?\d+,\d(?: ?[^\d\s,][^\d,]{0,20})?", s))


def _value(m):
    """(value, decimals written) of a match of _VALUE without its sign; None when it is no number."""
    if m["a"] or m["c"]:
        bottom = int(m["b"] or m["d"])
        whole, top = int(m["n"] or m["m"] or 0), int(m["a"] or m["c"])
        return (whole + Fraction(top, bottom), None) if bottom else None
    if m["again"]:  # 0.1\overline{6} is 0.1 and 6/90
        places = len(m["before"].partition(".")[2])
        again = Fraction(int(m["again"]), (10 ** len(m["again"]) - 1) * 10 ** places)
        return Fraction("0" + m["before"] + "0") + again, None
    found = _decimal(m["digits"])
    return (found[0] * Fraction(10) ** int(m["power"]), None) if found and m["power"] else found


def number(s):
    """A plain number with its unit, or None: digits, words, fractions, powers of ten, money, per cent."""
    s = _digits(s.replace(" and a half", " 1/2")) if s[:1].isalpha() else s
    m = _VALUE.match(s)
    found = _value(m) if m and not _MORE.match(s, m.end()) else None
    if not found:
        return _compound(s) if m else None
    (value, places), rest, percent = found, s[m.end():], False
    if (m[1] == "-") != (m[3] == "-"):
        value = -value
    while times := _MULTIPLIER.match(rest):
        value, places = value * _MULTIPLIERS[times[1].lower()], None
        rest = re.sub("^ (?:of )?an? ", " ", rest[times.end():])  # half an hour
    if sign := re.match(r" ?(?:%|per ?cent\b)", rest, re.IGNORECASE):
        rest, percent = rest[sign.end():], True
    unit = unit_of((" " + m[2] if m[2] else "") + rest)
    return Number(value, places, percent, unit, bool(m["a"] or m["c"])) if unit else _compound(s)


_CHINESE = {c: str(i) for i, c in enumerate("零一二三四五六七八九十")}
_CHINESE |= {ten + "十" + one: f"{_CHINESE.get(ten, 1)}{_CHINESE.get(one, 0)}"
             for ten in ["", *"二三四五六七八九"] for one in ["", *"一二三四五六七八九"]}


def _digits(s):
    """"twenty-one apples" -> "21 apples\"; 百分之五十 -> 50%"""
    if s in _CHINESE:
        return _CHINESE[s]
    if s.startswith("百分之"):
        return (_CHINESE.get(s[3:]) or s[3:]) + "%"
    words = s.replace("-", " ").split(" ")
    if words[0].lower() in ("minus", "negative"):
        return "-" + _digits(" ".join(words[1:]))
    for k in (2, 1):
        head = " ".join(words[:k]).lower()
        if head in _SPELLED:
            return " ".join([str(_SPELLED[head]), *words[k:]])
    article = len(words) > 1 and words[0].lower() in ("a", "an") and words[1].lower() in _MULTIPLIERS
    return " ".join(["1", *words[article:]]) if article or words[0].lower() == "half" else s


def _compound(s):
    """"1 h 30 min", "5 ft 6 in", 12°36': parts of one dimension, each unit smaller than the one before."""
    if arc := _ARC.fullmatch(s):
        minutes, seconds = int(arc[3] or 0), Fraction(arc[4] or 0)
        value = int(arc[2]) + Fraction(minutes, 60) + seconds / 3600
        return Number(-value if arc[1] else value, unit=unit_of("°")) if max(minutes, seconds) < 60 else None
    parts, at = [], 0
    while len(parts) < 4 and (m := _PART.match(s, at)):
        parts.append((Fraction(m[1]), unit_of(" " + m[2])))
        at = m.end()
    units = [unit for _, unit in parts]
    if len(parts) < 2 or at < len(s) or None in units or len({dims for _, dims in units}) > 1:
        return None
    factors = [factor for factor, _ in units]
    fits = units[0][1] and all(big > small for big, small in zip(factors, factors[1:]))
    return Number(sum(x * f for x, (f, _) in parts) / factors[0], unit=units[0]) if fits else None


_NOUN = re.compile(r"(?!(?:less|plus|minus|times|not)$)[a-z]{3,20}", re.IGNORECASE)


def counted(gold):
    """The number of a gold such as "12 red pencils", "12名学生": an answer may leave the noun out, as it may
    a unit. In an answer itself, a word behind a number is a unit of the table, or makes a text of it."""
    if len(gold) > 60:
        return None
    if m := re.fullmatch(r"([^\u3400-\u9fff]+)[\u3400-\u9fff]{1,6}", gold):
        return None if re.search("[多余几上下左右以约不或错误对否非]", gold) else number(m[1].strip())
    *head, last, noun = ["", *gold.split(" ")]
    if noun[-1:] != "s" or not _NOUN.fullmatch(noun) or noun[:-1].lower() in _MULTIPLIERS:
        return None
    if last.lower() in _MULTIPLIERS or last.lower() in _SPELLED or last == "and":
        return None
    return number(" ".join([*head, last]).strip()) or _NOUN.fullmatch(last) and number(" ".join(head).strip())


def same_number(x, y):
    if x.percent != y.percent:  # 50% is 0.5; and the sign left out, as any unit may be
        p, n = (x, y) if x.percent else (y, x)
        return not n.unit[1] and (_close(p, n) or _close(p, replace(n, value=n.value * 100)))
    if x.unit[1] and y.unit[1]:  # both have a unit: it must measure the same thing
        if not same_dimensions(x.unit, y.unit):
            return False
        y = replace(y, value=y.value * y.unit[0] / x.unit[0], places=y.places if x.unit == y.unit else None)
    return _close(x, y)


def _close(x, y):
    """Exact equality; or one is a decimal of six or more significant digits for a fraction without an end."""
    if x.value == y.value:
        return True
    return any(a.places and not b.places and not _terminates(b.value) and rounds_to(b.value, a)
               for a, b in ((x, y), (y, x)))


def rounds_to(exact, decimal):
    """Is the decimal the exact value, cut or rounded to the places it has?"""
    scaled, written = abs(exact) * 10 ** decimal.places, abs(decimal.value) * 10 ** decimal.places
    return (exact > 0) == (decimal.value > 0) and written in (int(scaled), int(scaled + Fraction(1, 2)))


def _terminates(value):
    """Can the fraction be written as a decimal with an end?"""
    return pow(10, value.denominator.bit_length(), value.denominator) == 0


_TRAILING_UNIT = re.compile(
    r"(?:(?<=[\d})])|(?<=\\pi))( ?\(?(?:(?:square|cubic) )?(?:°[CF]?|[A-Za-zµΩ]+|[\u3400-\u9fff]{1,6})"
    r"(?:\^\{?-?\d\}?)?(?: ?/ ?[A-Za-z]+(?:\^\{?-?\d\}?)?)?\)?)$")


def split_unit(s):
    """"2\\sqrt{3} cm^2" -> ("2\\sqrt{3}", unit). Units of the table, behind a number, a bracket or π."""
    m = _TRAILING_UNIT.search(s)
    unit = unit_of(m[1]) if m else None
    return (s[:m.start()], unit) if unit else (s, None)


# ------------------------------------------------------------------------------------------- times and dates

def clock(s):
    """(minutes since midnight as written, "a", "p" or "") of "2:30", "2:30 p.m.", "2 pm"; None: no time."""
    m = re.fullmatch(r"([01]?\d|2[0-4])(?::([0-5]\d)(?::([0-5]\d))?)? ?(?:([ap])\.? ?m\.?)?", s, re.I)
    if not m or not (m[2] or m[4]) or m[4] and not 1 <= int(m[1]) <= 12:
        return None
    return int(m[1]) % 24 * 60 + int(m[2] or 0) + Fraction(int(m[3] or 0), 60), (m[4] or "").lower()


def same_time(x, y):
    """2:30 pm is 14:30; and the half of the day may be left out on one side, as a unit may."""
    hours = [minutes % 720 + 720 * (half == "p") if half else minutes for minutes, half in (x, y)]
    bare = [minutes for minutes, half in (x, y) if not half]
    lenient = len(bare) == 1 and bare[0] < 780 and hours[0] % 720 == hours[1] % 720
    return hours[0] == hours[1] or lenient


_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]{{0,6}}\.?"
_DATES = (  # (pattern, which of its groups are year, month, day)
    (r"(\d{4})([-/.]) ?(\d{1,2})\2 ?(\d{1,2})", (1, 3, 4)),
    (r"(?:(\d{4})年)?(\d{1,2})月(?:(\d{1,2})[日号])?", (1, 2, 3)),
    (rf"{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?", (3, 1, 2)),
    (rf"(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? (\d{{4}}))?", (3, 2, 1)),
    (r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})", (4, 1, 3)))  # month first, or day: only its author knows


def date(s):
    """(year or 0, month, day or 0); the last form stays as it is written, under the name "as written"."""
    for pattern, groups in _DATES if re.search(r"\d", s) else ():
        if m := re.fullmatch(pattern, s, re.I):
            parts = [m[g] or "0" for g in groups]
            parts = [int(p) if p.isdigit() else 1 + _MONTHS.index(p[:3].lower()) for p in parts]
            if groups == (4, 1, 3) and parts[1] > 12:
                parts[1:] = parts[:0:-1]
            return (*parts, *["as written"] * (groups == (4, 1, 3) and max(parts[1:]) <= 12))
    return None
