"""One spelling for the many ways to type the same thing: `plain` is the table of notations, read once.

Unicode signs become LaTeX, LaTeX loses its looks, Chinese punctuation its width; x₁, x1 and x_1 are x_{1}.
"""
import re
import unicodedata
from functools import lru_cache

# what is canonical, then its other names: commands without their backslash, and Unicode's signs
_NAMES = r"""
- − – — ‐ ﹣; / ⁄; \times ×; \cdot · ⋅ ∙; \div ÷; \le leq leqslant ≤ ⩽ ≦; \ge geq geqslant ≥ ⩾ ≧; \ne neq ≠
\approx ≈; \pi π; \infty ∞; \cup ∪; \cap ∩; \in ∈; \notin ∉; \pm ±; \mp ∓; \angle ∠; \triangle △ Δ vartriangle
\{\} ∅ varnothing emptyset; \sqrt √; . 。; , 、; : ∶ colon; < lt; > gt; \{ lbrace; \} rbrace; ( langle
) rangle; \theta θ; \alpha α; \beta β; \gamma γ; \lambda λ; \omega ω; \varphi φ; \rho ρ; \sigma σ; µ μ
\parallel ∥; \nparallel ∦; \perp ⊥ ⟂; \sim ∽ ∼; \cong ≌ ≅ simeq; \subseteq ⊆; \subset ⊂; \odot ⊙; ° ∘ degree
' ′ ’; '' ″; \to → rightarrow longrightarrow xrightarrow; \Rightarrow ⇒; \neg ¬ lnot; \land ∧; \lor ∨
\complement ∁; ~ ～ 〜; \arc ⌒; " ＂; \parallelogram ▱; \equiv ≡; i î; j ĵ; ... … ldots cdots dots
\vec overrightarrow; \frac dfrac tfrac cfrac xfrac nicefrac sfrac flatfrac
"""
_CANONICAL = {name: to + " " * (to[0] == "\\" and to[-1].isalpha()) for to, *names in
              map(str.split, re.split("[;\n]", _NAMES.strip())) for name in names}
_CANONICAL |= dict.fromkeys(  # how large, how coloured or how visible something is
    "left right middle left. right. big bigg Big Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr "
    "displaystyle textstyle scriptstyle limits nolimits mathstrut bf it rm large Large LARGE huge Huge small "
    "therefore because ∵ ∴ \u200b \u200c \u200d \u2060 \ufeff".split(), "")
_UNICODE = str.maketrans({name: to for name, to in _CANONICAL.items() if len(name) == 1 and name > "~"})
_FRACTIONS = str.maketrans({c: "\\frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", c).split("⁄"))
                            for c in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"} | dict.fromkeys("º˚", "°"))
_EDGE = r"([^\s\[\](),;][^\[\](),;]*[,;][^\[\](),;]+)"  # "1, 2" of ]1, 2[ and of [1, 2[
_WRAPPED = re.compile(  # \text{..}: what is inside counts
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|cal)|operatorname|mbox|boldsymbol|bm"
            r"|emph|underline|ce|fbox|boxed|framebox|bbox|ensuremath)\*?(?: ?\[[^\[\]]*\])? ?"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}")
_CHINESE = {d[n // 10] * (n > 19) + "十" * (n > 9) + d[n % 10] * (n % 10 > 0 or not n): str(n)
            for d in ["零一二三四五六七八九"] for n in range(100)} | {"百": "100"}
_REWRITES = [(re.compile(pattern), to) for pattern, to in (
    # $..$ is mathematics; \$ is money, and so is a last $ before a number
    (r"\\\$|(?<![^\s:-])\$(?= ?\d[\d,.]*(?: [a-z ]+)?$)", "\0"), (r"\$", ""), ("\0", "$"),
    (r"(?<!\\)\\[()\[\]]", ""), (r"\*\*([^*]+)\*\*$", r"\1"),
    (r"\\(?:[hv]?phantom|[hv]space|label|tag|(?:text)?color|colorbox|fcolorbox ?\{\w*\})\*? ?\{[^{}]*\}", ""),
    # 1{,}234, 1\,234 and 32,\! 349, then other blanks; 5~10 is a range, another ~ is a blank
    (r"(?<=\d)(?:\{,\}|,\\! ?|\\,|\\ )(?=\d{3}(?!\d))", ","), (r"\{,\}", ","), (r"\\!", ""),
    (r"(?<=[\d%°}]) ?(?:~|\\sim(?![a-z])) ?(?=[$\d])", "\0"),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "), ("\0", "~"), (r"\s+", " "),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"), (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"), (r"\\%", "%"),
    # relations, degrees, brackets
    (r"\\not ?=|\\not ?\\eq(?![a-z])|!=", r"\\ne "), (r"\\not ?\\in(?![a-z])", r"\\notin "),
    (r"<=|=<", r"\\le "), (r">=", r"\\ge "), ("->", r"\\to "), (r"\*\*", "^"),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\^\s*°|(?<=\d) ?度", "°"),
    (r"\^\s*\{?\s*\\prime(?:\s*\\prime)?\s*\}?", lambda m: "'" * m[0].count("prime")),
    (r"\\mathbb ?\{?R\}?|(?<=\\in) ?R(?![A-Za-z])", r"(-\\infty,\\infty)"),
    (r"\\mathbb ?\{? ?([ZNQ]) ?\}?", r" \1"),
    (r"\\pmod ?\{?(\w+)\}?", r" (mod \1)"), (r"(?<=[A-Z]) ?// ?(?=[A-Z])", r"\\parallel "),
    (r"\.(\d)\1{2,}\.\.\.", r".\\overline{\1}"), (r"\\Delta(?= ?[A-Z]{3})", r"\\triangle "),
    (rf"\]{_EDGE}\[", r"(\1)"), (rf"\]{_EDGE}\]", r"(\1]"), (rf"\[{_EDGE}\[", r"[\1)"),
    # names: a segment has no bar, an arrow and an arc are part of the name; unit vectors
    (r"(\\(?:angle|triangle|odot|arc)) ?\{ ?([A-Z][A-Z\d']*) ?\}", r"\1 \2"),
    (r"\\(?:overline|bar) ?\{ ?([A-Z]{2,3}) ?\}", r"\1"),
    (r"\\vec ?(?:\{ ?([A-Z]{2}|[A-Za-z]) ?\}|([A-Za-z]))", r"\\vec{\1\2}"),
    (r"(?:\\overset ?\{?\\frown\}? ?\{|\barc |弧) ?([A-Z]{2,3})(?: ?\})?", r"\\arc \1"),
    (r"\\(?:wide)?hat ?\{? ?\\?([ijk])(?:math)?(?![a-z]) ?\}?", r" \1"),
    # one form of powers and indices
    (r"\^ *([-+]?\d+|[A-Za-z])(?![}\d])", r"^{\1}"), (r"(?<!log)_ *(\d+|[A-Za-z])(?![}\d])", r"_{\1}"),
    (r"(?<![\w.^{/])(\d+) ?/ ?(\d+)(?= [A-Za-z\\])", r"\\frac{\1}{\2}"),
    (r" +(?=[_^])", ""), (r"(?<=[\d/])( ?[cdkm]?m)([23])(?!\d)", r"\1^{\2}"),
    (r"log_ *(\d)", r"log_{\1}"), (r"\\?lg(?= ?[\d(\\{])", r"\\log_{10}"),
    (r"(?<![A-Za-z\\_}.^{])(?!(?<=\d)[eExX])([A-Za-z])(\d{1,3})(?![\dA-Za-z.])", r"\1_{\2}"),
    # Chinese words between answers
    (r",?(?:并且|而且|且|以及)", " and "), (r",?(?:或者|或)", " or "), (r"(?<=\d)[至到](?=[\d$])", "~"),
    (r" ?(?:[,;]|where|for|(?=\()) ?(?:where |for )?\(?([kmn]) ?(?:\\in *Z|is an integer|[为是]整数)\)?$",
     r", \1\\in Z"),  # k is any whole number, and so is n
    (r"^([^k]+), ([mn])\\in Z$",
     lambda m: re.sub(rf"(?<![A-Za-z\\]){m[2]}(?![a-z])", "k", m[1]) + ", k\\in Z"),
    # an exact value counts, and no decimal behind ≈
    (r" ?\\approx ?\d[^=]{0,30}$", lambda m: m[0] * (not re.search(r"\\(?:sqrt|pi)", m.string[:m.start()]))),
    (r"百分之(\d+)", r"\1%"), (r"([一-十百]{1,3})分之([一-十百]{1,3})", lambda m: "\\frac{%s}{%s}" % (
        _CHINESE[m[2]], _CHINESE[m[1]]) if {m[1], m[2]} <= {*_CHINESE} else m[0]))]

_MARKUP = re.compile(r"[\\$*~^<>{}\[\]_]|\.\.\.|[A-Za-z]\d|//|->|!=|\barc ")  # ASCII without is plain
_OPENING = re.compile(
    r"^(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my|our) )?(?:(?:(?:final|correct) )?ans(?:wer)?|solution"
    r"|result|(?:value|measure|length|area|perimeter|volume|radius)(?: of \\?[A-Za-z]{1,5}(?: ?[A-Z]{1,4})?"
    r")?)(?: is| are|:| =)+ (?=.)|^(?:所以|因此|故|综上)?,?(?:(?:正确)?(?:答案|选项)(?:应?[是为选]|:)+"
    r"|(?:故|应)?选:?(?= ?[A-J]+$)) ?|^(?:\\approx|=) ?", re.I)
_PHRASES = {**dict.fromkeys(("all real numbers", "all reals", "any real number", "全体实数", "\\R"),
                            "(-\\infty,\\infty)"),
            **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions", "无解",
                             "empty set", "空集"), "\\{\\}"),
            **{word: word for word in ("no", "on", "up", "in", "it")},  # No is no element, NO no gas
            **_CHINESE,
            "noon": "12:00 pm", "midnight": "12:00 am", "infinity": "\\infty"}


@lru_cache(maxsize=4096)  # the responses to one question have one gold and the same options
def plain(s):
    """One spelling for the many ways to write the same thing."""
    if not s.isascii() or _MARKUP.search(s):
        for sign, level in (("^", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ"), ("_", "₀₁₂₃₄₅₆₇₈₉₋₊ₙ")):
            s = re.sub(f"[{level}]+", lambda m: f"{sign}{{{unicodedata.normalize('NFKC', m[0])}}}", s)
        # ① is the name of a statement, no number; ½ is \frac{1}{2}, also behind a 3
        s = re.sub("[^①-⑳]+", lambda m: unicodedata.normalize("NFKC", m[0]), s.translate(_FRACTIONS))
        s = s.translate(_UNICODE)
        s = re.sub(r"\\(left\.|right\.|[A-Za-z]+)", lambda m: _CANONICAL.get(m[1], m[0]), s)
        if "{cases}" in s:
            s = s.replace("\\begin{cases}", "").replace("\\end{cases}", "").replace("\\\\", ", ")
        for _ in range(3):
            s = _WRAPPED.sub(r" \1 ", s)
        for pattern, to in _REWRITES:
            s = pattern.sub(to, s)
    s = _OPENING.sub("", " ".join(s.split()).lstrip(" ,;").rstrip(" .,;"))
    return _PHRASES.get(s.lower() if s.isascii() and "\\" not in s else s, s)


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
