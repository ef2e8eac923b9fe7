"""One spelling for the many ways to type the same thing. A reader may skip the tables: they only list
notations."""
import re
import unicodedata

_UNICODE = str.maketrans({
    "−": "-", "–": "-", "‐": "-", "⁄": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "∠": r"\angle ", "△": r"\triangle ",
    "∅": r"\emptyset ", "√": r"\sqrt", "。": ".", "、": ",", "⩽": r"\le ", "⩾": r"\ge ", "∶": ":",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "μ": "µ",
    "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": ""})  # these five are not visible
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")

_REWRITES = [(re.compile(pattern), to) for pattern, to in (
    # $..$ is mathematics, \$ is money
    (r"\\\$", "\0"), (r"\$", ""), ("\0", "$"),
    # \( \), and **bold**
    (r"(?<!\\)\\[()\[\]]", ""), (r"\*\*([^*]+)\*\*$", r"\1"),
    # how large or how visible something is
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
    (r"\\(?:displaystyle|textstyle|limits|nolimits|phantom\{[^{}]*\})", ""),
    # 1{,}234 and 1\,234, then other blanks
    (r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |~)(?=\d{3}(?!\d))", ","),
    (r"\{,\}", ","), (r"\\!", ""), (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    # fractions and roots
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"), (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d+)", r"\\sqrt{\1}"), (r"\\%", "%"),
    # relations, degrees, brackets, dots
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "), (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "),
    (r"\\neq(?![A-Za-z])", r"\\ne "), (r"<=", r"\\le "), (r">=", r"\\ge "),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])|\^\s*°", "°"),
    (r"\\varnothing", r"\\emptyset"), (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
    (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"), (r"\\colon(?![A-Za-z])", ":"), (r"\\(?:lt)(?![A-Za-z])", "<"),
    (r"\\(?:gt)(?![A-Za-z])", ">"), (r"\\(?:dots|ldots|cdots)(?![A-Za-z])", "..."))]
_WRAPPED = re.compile(  # \text{..}, \mathbf{..}: only what is inside counts
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt)"
    r"|operatorname|mbox|boldsymbol|bm|emph|underline)"
    r"\*?\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[\\$*~^<>{}]")  # an ASCII string without any of these is spelled plainly already


def plain(s):
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


def key_of(s):
    """What two spellings must share to be the same string: blanks matter only between digits."""
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", s))


def words_of(s):
    """The words of a text answer without case, articles and punctuation; None when it is not a text."""
    if re.search(r"[\\^=<>+*|{}]", s) or not re.search(r"[^\W\d_]{3}|[\u3400-\u9fff]", s):
        return None
    s = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", s.casefold())
    s = re.sub(r"(?<!\d)[.,'’:;!?()\"“”«»](?!\d)", " ", s)
    blank = "" if re.search(r"[\u3400-\u9fff]", s) else " "  # Chinese is written without blanks
    return re.sub(r"[\s]+", blank, re.sub(r"^\s*(?:the|an?)\s", "", s)).strip()


def is_maths(s):
    """Is it an expression rather than prose? Prose is compared word for word, never parsed as a product of
    letters."""
    if not re.search(r"[\d\\^+*/|=<>()-]", s) and len(s) > 1:
        return False
    if re.search(r"(?<![_\d])\d+\s+\d|[\u3400-\u9fff@#&?\"`;]|__", s):
        return False
    functions = r"(?<![A-Za-z])(?:arcsin|arccos|arctan|sinh|cosh|tanh|sqrt|infinity)(?![A-Za-z])"
    return not re.search(r"[A-Za-z]{4}", re.sub(rf"\\[A-Za-z]+|{functions}", " ", s))
