"""One spelling for the many ways to type the same thing: `plain` is the table of notations, read once.

Unicode signs become LaTeX, LaTeX loses its looks, Chinese punctuation its width; x₁, x1 and x_1 are x_{1}.
Linear in the length of the text; callers bound that first.
"""
import re
import unicodedata
from functools import lru_cache

_SIGNS = r"""− -;– -;— -;‐ -;⁄ /;× \times ;· \cdot ;⋅ \cdot ;∙ \cdot ;÷ \div ;≤ \le ;≥ \ge ;⩽ \le ;⩾ \ge ;
≦ \le ;≧ \ge;≠ \ne ;≈ \approx ;π \pi ;∞ \infty ;∪ \cup ;∩ \cap ;∈ \in ;∉ \notin ;± \pm ;∓ \mp ;∠ \angle ;
△ \triangle ;Δ \triangle;∅ \emptyset ;√ \sqrt;。 .;、 , ;∶ :;θ \theta ;α \alpha ;β \beta ;γ \gamma ;
λ \lambda ;ω \omega ;φ \varphi ;ρ \rho;σ \sigma ;μ µ;∥ \parallel ;∦ \nparallel ;⊥ \perp ;∽ \sim ;∼ \sim ;
≌ \cong ;≅ \cong ;⊆ \subseteq ;⊂ \subset ;⊙ \odot;º °;˚ °;∘ °;′ ';″ '';’ ';→ \to ;⇒ \Rightarrow ;∵ ;∴ ;
¬ \neg ;∧ \land ;∨ \lor ;∁ \complement ;～ ~;〜 ~;⌒ \arc;﹣ -;＂ ";▱ \parallelogram ;⟂ \perp ;≡ \equiv ;
î i;ĵ j"""
_UNICODE = str.maketrans({entry[0]: entry[2:] for entry in re.split(";\n?", _SIGNS)}
                         | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""))  # these are not visible
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "₀₁₂₃₄₅₆₇₈₉₋₊ₙ"
_LEVEL = str.maketrans(_RAISED + _LOWERED, 2 * "0123456789-+n")
_EDGE = r"([^\s\[\](),;][^\[\](),;]*[,;][^\[\](),;]+)"  # "1, 2" of ]1, 2[ and of [1, 2[
_WRAPPER = (r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|cal)|operatorname|mbox|boldsymbol|bm"
            r"|emph|underline|ce|fbox|boxed|framebox|bbox|ensuremath)\*?(?: ?\[[^\[\]]*\])? ?")
_WRAPPED = re.compile(_WRAPPER + r"\{((?:[^{}]|\{[^{}]*\})*)\}")  # \text{..}: what is inside counts
_REWRITES = [(re.compile(pattern), to) for pattern, to in (
    # $..$ is mathematics; \$ is money, and so is a last $ before a number
    (r"\\\$|(?<![^\s:-])\$(?= ?\d[\d,.]*(?: [a-z ]+)?$)", "\0"), (r"\$", ""), ("\0", "$"),
    (r"(?<!\\)\\[()\[\]]", ""), (r"\*\*([^*]+)\*\*$", r"\1"),
    # how large, how coloured or how visible something is
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
    (r"\\(?:(?:display|text|script)style|(?:no)?limits|mathstrut|bf|it|rm|large|Large|LARGE|huge|Huge|small"
     r"|therefore|because)(?![A-Za-z])", ""),
    (r"\\(?:[hv]?phantom|[hv]space|label|tag|(?:text)?color|colorbox|fcolorbox ?\{\w*\})\*? ?\{[^{}]*\}", ""),
    # 1{,}234, 1\,234 and 32,\! 349, then other blanks; 5~10 is a range, another ~ is a blank
    (r"(?<=\d)(?:\{,\}|,\\! ?|\\,|\\ )(?=\d{3}(?!\d))", ","), (r"\{,\}", ","), (r"\\!", ""),
    (r"(?<=[\d%°}]) ?(?:~|\\sim(?![a-z])) ?(?=[$\d])", "\0"),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    ("\0", "~"),
    # fractions and roots
    (r"\\(?:[dtcx]|nice|s|flat)frac(?![A-Za-z])", r"\\frac"), (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d+)", r"\\sqrt{\1}"), (r"\\sqrt\s*([A-Za-z])", r"\\sqrt{\1}"), (r"\\%", "%"),
    # relations, degrees, brackets, dots
    (r"\\not ?(?:=|\\eq(?![a-z]))|\\neq(?![A-Za-z])|!=", r"\\ne "), (r"\\not ?\\in(?![a-z])", r"\\notin "),
    (r"\\(?:leq|leqslant)(?![A-Za-z])|<=|=<", r"\\le "), (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])|\^\s*°|(?<=\d) ?度", "°"),
    (r"\^\s*\{?\s*\\prime(?:\s*\\prime)?\s*\}?", lambda m: "'" * m[0].count("prime")),
    (r"\\(?:varnothing|empty)(?![A-Za-z])", r"\\emptyset"), (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"), (r"\\colon(?![A-Za-z])", ":"), (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"), (r"\\[lc]?dots(?![A-Za-z])|…+", "..."),
    (r"\\mathbb ?\{?R\}?", r"(-\\infty,\\infty)"),
    (r"\\(?:rightarrow|longrightarrow|xrightarrow)(?![A-Za-z])|->", r"\\to "),
    (r"\\simeq(?![a-z])", r"\\cong "), (r"\\pmod ?\{?(\w+)\}?", r" (mod \1)"),
    (r"\\lnot(?![a-z])", r"\\neg "), (r"\\(?:Delta|vartriangle)(?= ?[A-Z]{3})", r"\\triangle "),
    (r"(?<=[A-Z]) ?// ?(?=[A-Z])", r"\\parallel "), (r"\*\*", "^"),
    (r"\\[lr]angle(?![A-Za-z])", lambda m: "()"[m[0][1] == "r"]), (r"\.(\d)\1{2,}\.\.\.", r".\\overline{\1}"),
    (rf"\]{_EDGE}\[", r"(\1)"), (rf"\]{_EDGE}\]", r"(\1]"), (rf"\[{_EDGE}\[", r"[\1)"),
    (r"(\\(?:angle|triangle|odot|arc)) ?\{ ?([A-Z][A-Z\d']*) ?\}", r"\1 \2"),
    # names: a segment has no bar, an arrow and an arc are part of the name
    (r"\\(?:overline|bar) ?\{ ?([A-Z]{2,3}) ?\}", r"\1"),
    (r"\\(?:overrightarrow|vec) ?(?:\{ ?([A-Z]{2}|[A-Za-z]) ?\}|([A-Za-z]))", r"\\vec{\1\2}"),
    (r"\\(?:overset ?\{?\\frown\}?|wideparen|overparen|widehat) ?\{ ?([A-Z]{2,3}) ?\}"
     r"|(?:\barc |弧) ?([A-Z]{2,3})", r"\\arc \1\2"),
    (r"\\(?:wide)?hat ?\{? ?\\?([ijk])(?:math)?(?![a-z]) ?\}?", r" \1"),  # unit vectors
    # one form of powers and indices
    (r"\^ *([-+]?\d+|[A-Za-z])(?![}\d])", r"^{\1}"), (r"(?<!log)_ *(\d+|[A-Za-z])(?![}\d])", r"_{\1}"),
    (r"(?<![\w.^{/])(\d+) ?/ ?(\d+)(?= [A-Za-z\\])", r"\\frac{\1}{\2}"),
    (r" +(?=[_^])", ""), (r"(?<=[\d/])( ?[cdkm]?m)([23])(?!\d)", r"\1^{\2}"),
    (r"log_ *(\d)", r"log_{\1}"), (r"\\?lg(?= ?[\d(\\{])", r"\\log_{10}"),
    (r"(?<![A-Za-z\\_}.^{])(?!(?<=\d)[eExX])([A-Za-z])(\d{1,3})(?![\dA-Za-z.])", r"\1_{\2}"),
    # Chinese words between answers
    (r",?(?:并且|而且|且|以及)", " and "), (r",?(?:或者|或)", " or "), (r"(?<=\d)[至到](?=[\d$])", "~"),
    (r"(?<=\\in) ?R\b", r"(-\\infty,\\infty)"), (r"\\mathbb ?\{? ?([ZNQ]) ?\}?", r" \1"),
    (r"百分之(\d+)", r"\1%"),
    # whole numbers behind an answer: (k \in Z)
    (r"^(.+?) ?(?:[,;]|(?:where|for) |(?=\()) ?(?:where |for )?(\()?([kmn]) ?"
     r"(?:\\in *Z|is an integer|[为是]整数)(?(2)\))$", r"\1, \3\\in Z"))]

_MARKUP = re.compile(r"[\\$*~^<>{}\[\]_]|\.\.\.|[A-Za-z]\d|//|->|!=|\barc ")  # ASCII without is plain
_OPENING = re.compile(
    r"^(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my|our) )?(?:(?:(?:final|correct) )?ans(?:wer)?|solution"
    r"|result|(?:value|measure|length|area|perimeter|volume|radius)(?: of \\?[A-Za-z]{1,5}(?: ?[A-Z]{1,4})?"
    r")?)(?: is| are|:| =)+ (?=.)|^(?:所以|因此|故|综上)?,?(?:(?:正确)?(?:答案|选项)(?:应?[是为选]|:)+"
    r"|(?:故|应)?选:?(?= ?[A-J]+$)) ?|^(?:\\approx|=) ?", re.I)
_PHRASES = {**dict.fromkeys(("all real numbers", "all reals", "any real number", "全体实数", "\\R"),
                            "(-\\infty,\\infty)"),
            **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions", "无解",
                             "empty set", "空集", "\\{\\}", "\\{ \\}"), "\\emptyset"),
            **{word: word for word in ("no", "on", "up", "in", "it")},  # No is no element, NO no gas
            **{digit: str(n) for n, digit in enumerate("零一二三四五六七八九十")},
            "noon": "12:00 pm", "midnight": "12:00 am", "infinity": "\\infty"}


@lru_cache(maxsize=4096)  # the responses to one question have one gold and the same options
def plain(s):
    """One spelling for the many ways to write the same thing."""
    if not s.isascii() or _MARKUP.search(s):
        s = _unmarked(s)
    s = _OPENING.sub("", " ".join(s.split()).lstrip(" ,;").rstrip(" .,;"))
    return _PHRASES.get(s.lower() if s.isascii() and "\\" not in s else s, s)


def _unmarked(s):
    s = re.sub(f"[{_RAISED}]+", lambda m: "^{" + m[0].translate(_LEVEL) + "}", s)
    s = re.sub(f"[{_LOWERED}]+", lambda m: "_{" + m[0].translate(_LEVEL) + "}", s).translate(_UNICODE)
    # ① is the name of a statement, no number; ½ is \frac{1}{2}, also behind a 3
    s = re.sub("[^①-⑳]+", lambda m: unicodedata.normalize("NFKC", m[0]), s.translate(_FRACTIONS))
    s = s.translate(_UNICODE)
    if "{cases}" in s:
        s = s.replace("\\begin{cases}", "").replace("\\end{cases}", "").replace("\\\\", ", ")
    for pattern, to in _REWRITES[:9]:
        s = pattern.sub(to, s)
    for _ in range(3):
        s, n = _WRAPPED.subn(r" \1 ", s)
        if not n:
            break
    s = " ".join(re.sub(_WRAPPER + r"(?=\{)", "", s).split())
    for pattern, to in _REWRITES[9:]:
        s = pattern.sub(to, s)
    s = s.strip()
    return s[1:-1].strip() if re.fullmatch(r"\{[^{},|:]*(?:\{[^{},]*\}[^{},|:]*)*\}", s) else s


_FRACTIONS = str.maketrans({c: "\\frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", c).split("⁄"))
                            for c in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"})


def key_of(s):
    """What two spellings must share to be the same string: blanks matter only between digits, and in
    2, 157."""
    return re.sub(r"(?<!\d)(?<!\d,) | (?!\d)|(?<=,) (?!\d{3})", "", s)


def words_of(s):
    """The words of a text answer without case, articles and punctuation; None when it is not a text. A word
    with capitals inside keeps its case: AaBb, NaCl."""
    if re.search(r"[\\^=<>+*|{}]", s) or not re.search(r"[^\W\d_]{3}|[\u3400-\u9fff]", s):
        return None
    s = re.sub(r"[^\W\d_]+", lambda m: m[0] if _CASED.fullmatch(m[0]) else m[0].casefold(), s)
    s = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", s)
    s = re.sub(r"(?<!\d)[.,'’:;!?()\"“”«»](?!\d)", " ", s)
    blank = "" if re.search(r"[\u3400-\u9fff]", s) else " "  # Chinese is written without blanks
    return re.sub(r"[\s]+", blank, re.sub(r"^\s*(?:the|an?)\s", "", s)).strip()


_CASED = re.compile(r"(?:([A-Za-z])(?i:\1)){2,}|[A-Za-z]*[a-z][A-Z][A-Za-z]*")
