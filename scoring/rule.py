"""The rule: do two answers mean the same? Choice letters, spelling, numbers, shapes; the rest needs maths.

`equal` is the rule; a reader may skip what it calls. Prose is compared word for word: what needs
understanding is the verifier's part. What is lenient on purpose: "x = 5" is 5, and lists of answers have no
order.
"""
import re
from enum import Enum

from scoring.numbers import number, same_number, split_unit
from scoring.shapes import Kind, shape, split_label
from scoring.spelling import is_maths, key_of, plain, words_of


class Verdict(Enum):
    SAME = 1
    DIFFERENT = 2
    NEEDS_MATHS = 3  # spelling, numbers and shapes do not settle it: a worker has to look


SAME, DIFFERENT, NEEDS_MATHS = Verdict


def verdict(same):
    """Of a comparison that settles it."""
    return SAME if same else DIFFERENT


def needs_maths(a, g):
    """The `maths` of `equal` in a process that has none."""
    return NEEDS_MATHS


def equal(a, g, options, maths):
    """The Verdict on two plain strings. maths(a, g) gives the one on two expressions."""
    if not a or not g:
        return DIFFERENT
    settled = choice(a, g, options) or simple(a, g)
    if settled:
        return settled
    x, y = shape(a), shape(g)
    equations = "=" in a and "=" in g
    if x.label and y.label and x.label.casefold() != y.label.casefold():  # y = x + 1 against x = y - 1
        return maths(a, g) if x.kind is y.kind is Kind.ONE and equations else DIFFERENT
    if x.kind is y.kind is Kind.ONE:
        inner_a, inner_g = x.items[0], y.items[0]
        if "=" in inner_a or "=" in inner_g:
            return maths(a, g) if equations else DIFFERENT
        if (inner_a, inner_g) != (a, g):
            return equal(inner_a, inner_g, None, maths)
        return _expressions(a, g, maths)
    if Kind.ONE in (x.kind, y.kind):
        return DIFFERENT if {x.kind, y.kind} & {Kind.LIST, Kind.RATIO} or "=" in a + g else maths(a, g)
    if x.kind is y.kind is Kind.RATIO:
        return verdict(_same_ratio(x.items, y.items))
    return _pieces(x, y, maths) if len(x.items) == len(y.items) else DIFFERENT


def _pieces(x, y, maths):
    """Two shapes with equally many items."""
    kinds = {x.kind, y.kind}
    if kinds <= {Kind.LIST, Kind.SET}:
        labels = [_labels(x.items), _labels(y.items)]
        # x = 1, y = 2 against 1, 2: the order is all that says which is which
        ordered = bool(labels[0]) != bool(labels[1]) and max(map(len, labels)) > 1
        return _in_order(x.items, y.items, maths) if ordered else _in_any_order(x.items, y.items, maths)
    if kinds == {Kind.LIST, Kind.TUPLE}:
        several = x if x.kind is Kind.LIST else y
        if len(_labels(several.items)) == 1:
            return DIFFERENT  # x = 1, x = 2 are two solutions, no point and no interval
        return _in_order(x.items, y.items, maths)
    same_kind = x.kind is y.kind and x.columns == y.columns
    return _in_order(x.items, y.items, maths) if same_kind else DIFFERENT


def _labels(items):
    return {split_label(item)[0] for item in items} - {None}


def _same_ratio(xs, ys):
    """1:2:3 is 2:4:6."""
    x, y = [number(item).value for item in xs], [number(item).value for item in ys]
    proportional = len(x) == len(y) and all(x[0] * q == y[0] * p for p, q in zip(x, y))
    return proportional and (x[0] != 0) == (y[0] != 0)


def _in_order(xs, ys, maths):
    """The first pair of pieces that is not the same decides."""
    for x, y in zip(xs, ys):
        found = equal(x, y, None, maths)
        if found is not SAME:
            return found
    return SAME


def _in_any_order(xs, ys, maths):
    """Is there a partner for each? Equality is (nearly) transitive here, so the first free partner is good
    enough."""
    free, unsettled = list(ys), False
    for x in xs:
        for i, y in enumerate(free):
            found = equal(x, y, None, maths)
            unsettled = unsettled or found is NEEDS_MATHS
            if found is SAME:
                del free[i]
                break
        else:
            return NEEDS_MATHS if unsettled else DIFFERENT
    return SAME


def _expressions(a, g, maths):
    """Two expressions without a shape: units off, then mathematics."""
    (a, unit_a), (g, unit_g) = split_unit(a), split_unit(g)
    if unit_a and unit_g:
        (factor_a, dims_a), (factor_g, dims_g) = unit_a, unit_g
        if dims_a != dims_g:
            return DIFFERENT
        if factor_a != factor_g:
            a, g = _times(a, factor_a), _times(g, factor_g)
    if unit_a or unit_g:
        settled = simple(a, g)
        if settled:
            return settled
    # "xy" is a product only beside an expression; "cat" is not "act"
    short = [bool(re.fullmatch("[a-z]{2,3}", s)) for s in (a, g)]
    both_maths = (is_maths(a) or short[0]) and (is_maths(g) or short[1]) and not all(short)
    return maths(a, g) if both_maths else DIFFERENT


def _times(s, factor):
    return f"({s})\\cdot ({factor.numerator}/{factor.denominator})"


def simple(a, g):
    """A Verdict from spelling and plain numbers alone, or None: these do not settle it."""
    if key_of(a) == key_of(g):
        return SAME
    x, y = number(a), number(g)
    if x and y:
        if same_number(x, y):
            return SAME
        return None if "," in a + g else DIFFERENT
    words_a, words_g = words_of(a), words_of(g)
    if words_a and words_g:
        return SAME if words_a == words_g else None
    return verdict(a.casefold() == g.casefold()) if len(a) == len(g) == 1 else None


# --------------------------------------------------------------------------------------------- choice letters

_SEVERAL = r"[A-J](?:[\s,;]*(?:and )?[A-J])+"
_BARE = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice|选项|答案)\s*:?\s*)?\(?([A-J])\)?")
_LETTER = re.compile(r"(?:(?:option|choice|answer|选项|答案)\s*(?:is\s*)?[:：]?\s*)?"
                     r"[(\[]?\s*([A-Ja-j])\s*[)\]]?[.:)]*", re.IGNORECASE)
_LETTER_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])\s*[.):,])\s*(.+)", re.DOTALL)
_MORE_LETTERS = re.compile(r"(?:^|[\s,;/(])[A-J][.):]|\b(?:or|and)\s+\(?[A-J]\b|[,;/]\s*[A-J]\b"
                           r"|^\(?[A-J]\)?$|或|和")


def choice(a, g, options):
    """A Verdict when this is about choice letters, None when it is not. a and g are plain."""
    letters = "ABCDEFGHIJ"[:len(options)] if options else "ABCDEFGHIJ"
    texts = [plain(str(option)) for option in options or ()]
    several = re.fullmatch(_SEVERAL, g) and re.fullmatch(_SEVERAL, a, re.IGNORECASE)
    if several and (options or re.search(r"[\s,;]", a + g)):  # else AC and CA may be segments
        return verdict(_picked(a) == _picked(g))  # "AC" is "A, C" and "C, A"
    bare = _BARE.fullmatch(g)
    wanted = _wanted(g, bare, letters, texts)
    if not wanted:
        return None
    want, text = wanted
    m = _LETTER.fullmatch(a)
    if m and (m[1].isupper() or bare) and m[1].upper() in letters:
        return verdict(m[1].upper() == want)
    return _letter_and_text(a, want, text, letters, texts) or _text_alone(a, bare, text, texts)


def _picked(s):
    """The letters of "A, C" in their order."""
    return sorted(c for c in s.upper().replace("AND", "") if c.isalpha())


def _wanted(g, bare, letters, texts):
    """(letter, text or None) that the gold asks for: "B", "B. dog", or an option's text; None for any other
    gold."""
    if bare and bare[1] in letters:
        return bare[1], texts[ord(bare[1]) - 65] if texts else None
    told = None if bare else _LETTER_TEXT.fullmatch(g)
    if told and not _MORE_LETTERS.search(told[3]):
        return told[1] or told[2], told[3]
    named = _named(g, texts)
    return (named[0], g) if len(named) == 1 else None


def _named(s, texts):
    """Letters of the options that this text names."""
    return [chr(65 + i) for i, text in enumerate(texts) if simple(s, text) is SAME]


def _letter_and_text(a, want, text, letters, texts):
    """The answer is "B. dog": the letter must be the wanted one, and the text must not be another
    option's."""
    m = _LETTER_TEXT.fullmatch(a)
    if not m:
        return None
    letter, rest = m[1] or m[2], m[3].strip()
    named = _named(rest, texts[:len(letters)])
    if named:
        return verdict(letter == want and want in named)  # "B. the text of C" is not B
    if letter == want and text is not None and simple(rest, text) is SAME:
        return SAME
    return verdict(letter == want and not _MORE_LETTERS.search(rest)) if letter in letters else None


def _text_alone(a, bare, text, texts):
    """The answer is "dog". When two options have this text, it decides for neither."""
    if text is not None:
        if len(_named(a, texts)) > 1:
            return DIFFERENT
        if simple(a, text) is SAME:
            return SAME
    names_several = bare and len(set(re.findall(r"\b[A-J]\b", a))) > 1
    return DIFFERENT if names_several else None
