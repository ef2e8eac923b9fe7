"""One spelling for the many ways to type the same thing. A reader may skip the tables of notations."""
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

_EDGE = r"([^\s\[\](),;][^\[\](),;]*[,;][^\[\](),;]+)"  # "1, 2" of ]1, 2[ and of [1, 2[

_REWRITES = [(re.compile(pattern), to) for pattern, to in (
    # $..$ is mathematics, \$ is money
    (r"\\\$", "\0"), (r"\$", ""), ("\0", "$"),
    # \( \), and **bold**
    (r"(?<!\\)\\[()\[\]]", ""), (r"\*\*([^*]+)\*\*$", r"\1"),
    # how large, how coloured or how visible something is
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
    (r"\\(?:(?:display|text|script)style|(?:no)?limits|mathstrut|bf|it|rm|large|Large|LARGE|huge|Huge|small)"
     r"(?![A-Za-z])", ""),
    (r"\\(?:[hv]?phantom|[hv]space|label|tag|(?:text)?color|colorbox|fcolorbox ?\{\w*\})\*? ?\{[^{}]*\}", ""),
    # 1{,}234 and 1\,234, then other blanks
    (r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |~)(?=\d{3}(?!\d))", ","),
    (r"\{,\}", ","), (r"\\!", ""), (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    # fractions and roots
    (r"\\(?:[dtcx]|nice|s|flat)frac(?![A-Za-z])", r"\\frac"), (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d+)", r"\\sqrt{\1}"), (r"\\%", "%"),
    # relations, degrees, brackets, dots
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "), (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "),
    (r"\\neq(?![A-Za-z])", r"\\ne "), (r"<=", r"\\le "), (r">=", r"\\ge "),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])|\^\s*°", "°"),
    (r"\\varnothing", r"\\emptyset"), (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
    (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"), (r"\\colon(?![A-Za-z])", ":"), (r"\\(?:lt)(?![A-Za-z])", "<"),
    (r"\\(?:gt)(?![A-Za-z])", ">"), (r"\\(?:dots|ldots|cdots)(?![A-Za-z])", "..."),
    (r"\\[lr]angle(?![A-Za-z])", lambda m: "()"[m[0][1] == "r"]), (r"\.(\d)\1{2,}\.\.\.", r".\\overline{\1}"),
    (rf"\]{_EDGE}\[", r"(\1)"), (rf"\]{_EDGE}\]", r"(\1]"), (rf"\[{_EDGE}\[", r"[\1)"))]
_WRAPPER = (r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt)|operatorname|mbox|boldsymbol|bm|emph"
            r"|underline|fbox|boxed|framebox|bbox|ensuremath)\*?(?: ?\[[^\[\]]*\])? ?")
_WRAPPED = re.compile(_WRAPPER + r"\{([^{}]*)\}")  # \text{..}, \mathbf{..}: only what is inside counts
_MARKUP = re.compile(r"[\\$*~^<>{}\[\]]|\.\.\.")  # ASCII without any of these is spelled plainly already
_OPENING = re.compile(
    r"^(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my|our) )?(?:(?:(?:final|correct) )?answer|solution"
    r"|result|(?:value|measure|length|area|perimeter|volume|radius)(?: of \\?[A-Za-z]{1,5}(?: ?[A-Z]{1,4})?"
    r")?)(?: is| are|:| =)+ (?=.)|^(?:所以|因此)?,?(?:答案(?:是|为|:)|选(?=[A-J]$)) ?|^\\approx ?", re.I)
_PHRASES = {**dict.fromkeys(("all real numbers", "all reals", "any real number", "全体实数",
                             "\\mathbb{R}", "\\mathbb R", "\\R", "\\Reals"), "(-\\infty, \\infty)"),
            **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions", "无解",
                             "empty set", "\\{\\}", "\\{ \\}"), "\\emptyset"),
            "noon": "12:00 pm", "midnight": "12:00 am", "infinity": "\\infty"}


def plain(s):
    """One spelling for the many ways to write the same thing. Linear; callers bound the length first."""
    if not s.isascii() or _MARKUP.search(s):
        s = _unmarked(s)
    s = _OPENING.sub("", " ".join(s.split()).lstrip(" ,;").rstrip(" .,;"))
    return _PHRASES.get(s.lower() if s.isascii() and "\\" not in s else s, s)


def _unmarked(s):
    s = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", s)
    s = re.sub("[¼-¾⅐-⅞]", lambda m: " " + unicodedata.normalize("NFKC", m[0]), s)  # 3½ is 3 1/2
    s = unicodedata.normalize("NFKC", s.translate(_UNICODE)).translate(_UNICODE)
    if "{cases}" in s:
        s = s.replace("\\begin{cases}", "").replace("\\end{cases}", "").replace("\\\\", ", ")
    for pattern, to in _REWRITES:
        s = pattern.sub(to, s)
    for _ in range(3):
        s, n = _WRAPPED.subn(r" \1 ", s)
        if not n:
            break
    s = re.sub(_WRAPPER + r"(?=\{)", "", s).strip()
    return s[1:-1] if s[:1] == "{" and s[-1:] == "}" and "{" not in s[1:] else s


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
    """Is it an expression rather than prose? Prose is compared word for word, never parsed."""
    if "\\begin" in s:
        s = re.sub(r"\\(?:begin|end) ?\{[a-z]*matrix\}|&", "+", s)
    if not re.search(r"[\d\\^+*/|=<>()-]", s) and len(s) > 1:
        return False
    if re.search(r"(?<![_\d])\d+\s+\d|[\u3400-\u9fff@#&?\"`;]|__", s):
        return False
    functions = r"(?<![A-Za-z])(?:arcsin|arccos|arctan|sinh|cosh|tanh|sqrt|infinity)(?![A-Za-z])"
    return not re.search(r"[A-Za-z]{4}", re.sub(rf"\\[A-Za-z]+|{functions}", " ", s))
