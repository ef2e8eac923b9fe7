"""What is too heavy to compare, because sympy crawls or eats all memory on a short string (5^5^5^5).
What passes here still meets the worker's time limit."""
import re

MAX_CHARS = 1000       # a longer answer is compared by its spelling only: no final answer needs more
MAX_DEPTH = 24         # of nested brackets
MAX_DIGITS = 300       # of one number
MAX_EXPONENT = 10_000  # written as a number; 5^{5^{5}} has no business in an answer
MAX_FACTORIAL = 1000

_BRACKET = r"[\s{}()\[\]]*"
_POWER = rf"(?:\^|\*\*){_BRACKET}"  # ^ or **, then what opens the exponent
_THREE_POWERS = re.compile(rf"{_POWER}(?:[\w.]+{_BRACKET})?{_POWER}(?:[\w.]+{_BRACKET})?(?:\^|\*\*)")
_TWO_POWERS = re.compile(rf"{_POWER}\d+\s*{_POWER}\d")  # 5^{5^5}; (x^2)^3 may be computed
_EXPONENT = re.compile(rf"\^{_BRACKET}[-+]?(\d+)")


def too_heavy(s):
    """A reason not to hand this to a parser, or None."""
    if len(s) < 30 and not re.search(r"[\\^!*]", s):
        return None
    if len(s) > MAX_CHARS:
        return "too long to compare"
    depth = deepest = 0
    for c in s:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or len(re.findall(r"\\(?:sqrt|frac)", s)) > 2 * MAX_DEPTH:
        return "nested too deeply to compare"
    if any(len(digits) > MAX_DIGITS for digits in re.findall(r"\d+", s)):
        return "a number too long to compare"
    if any(int(exponent) > MAX_EXPONENT for exponent in _EXPONENT.findall(s)):
        return "an exponent too large to compute"
    if _THREE_POWERS.search(s) or _TWO_POWERS.search(s):
        return "a tower of exponents"
    large = re.search("!|binom", s) and any(int(digits) > MAX_FACTORIAL for digits in re.findall(r"\d+", s))
    of_power = re.search(r"[)}\]]\s*!", s) and re.search(r"\^|!.*!", s)
    return "a factorial too large to compute" if large or of_power or re.search(r"![\s)}\]]*!", s) else None
