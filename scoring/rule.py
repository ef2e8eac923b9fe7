"""The rule: do two answers mean the same? Choice letters, spelling, numbers, shapes; the rest needs maths.

`equal` is the rule; a reader may skip what it calls. Prose is compared word for word: what needs
understanding is the verifier's part. What is lenient on purpose: "x = 5" is 5, and lists of answers have no
order.
"""
import re
from enum import Enum

from scoring.numbers import number, same_number, split_unit
from scoring.shapes import RELATION, shape, split_label
from scoring.spelling import is_maths, key_of, plain, words_of


# NEEDS_MATHS: spelling, numbers and shapes do not settle it, a worker has to look
SAME, DIFFERENT, NEEDS_MATHS = Enum("Verdict", "SAME DIFFERENT NEEDS_MATHS")


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
    settled = choice(a, g, options, maths) or simple(a, g)
    if settled:
        return settled
    x, y = shape(a), shape(g)
    equations = a.count("=") == g.count("=") == 1
    if x.label and y.label and x.label.casefold() != y.label.casefold():  # y = x + 1 against x = y - 1
        return maths(a, g) if x.kind == y.kind == "one" and equations else DIFFERENT
    if x.kind == y.kind == "one":
        if equations and not (x.label and y.label):
            return maths(a, g)
        if (x.items, y.items) == ([a], [g]):
            return _expressions(a, g, maths)
        # all values of a chain must be the same: x = 6 = 5 is neither 6 nor 5
        first = [y.items[0]] * len(x.items) + [x.items[0]] * (len(y.items) - 1)
        return _in_order(first, x.items + y.items[1:], maths)
    if "one" in (x.kind, y.kind):
        relation = re.search(RELATION, a if x.kind == "one" else g)
        return DIFFERENT if {x.kind, y.kind} & {"list", "ratio"} and not relation else maths(a, g)
    if x.kind == y.kind == "ratio":
        return verdict(_same_ratio(x.items, y.items))
    return _pieces(x, y, maths) if len(x.items) == len(y.items) else DIFFERENT


def _pieces(x, y, maths):
    """Two shapes with equally many items."""
    kinds = {x.kind, y.kind}
    if kinds <= {"list", "{}"}:
        labels = [_labels(x.items), _labels(y.items)]
        # x = 1, y = 2 against 1, 2: the order is all that says which is which
        ordered = bool(labels[0]) != bool(labels[1]) and max(map(len, labels)) > 1
        return _in_order(x.items, y.items, maths) if ordered else _in_any_order(x.items, y.items, maths)
    if kinds == {"list", "()"}:
        several = x if x.kind == "list" else y
        if len(_labels(several.items)) == 1:
            return DIFFERENT  # x = 1, x = 2 are two solutions, no point and no interval
        return _in_order(x.items, y.items, maths)
    return _in_order(x.items, y.items, maths) if x.kind == y.kind else DIFFERENT


def _labels(items):
    return {split_label(item)[0] for item in items} - {None}


def _same_ratio(xs, ys):
    """1:2:3 is 2:4:6; a nought has no multiple."""
    x, y = [number(item).value for item in xs], [number(item).value for item in ys]
    return len(x) == len(y) and (x == y or all(x) and all(x[0] * q == y[0] * p for p, q in zip(x, y)))


def _in_order(xs, ys, maths):
    """The first pair of pieces that is not the same decides."""
    for x, y in zip(xs, ys):
        found = equal(x, y, None, maths)
        if found is not SAME:
            return found
    return SAME


def _in_any_order(xs, ys, maths):
    """Is there a partner for each? Equality is (nearly) transitive, so the first free one is good enough."""
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
        if unit_a[1] != unit_g[1]:
            return DIFFERENT
        if unit_a[0] != unit_g[0]:
            a, g = (f"({s})({f.numerator}/{f.denominator})" for s, (f, _) in [(a, unit_a), (g, unit_g)])
    if unit_a or unit_g:
        settled = simple(a, g)
        if settled:
            return settled
    # "xy" is a product only beside an expression; "cat" is not "act"
    short = [bool(re.fullmatch("[a-z]{2,3}", s)) for s in (a, g)]
    both_maths = (is_maths(a) or short[0]) and (is_maths(g) or short[1]) and not all(short)
    return maths(a, g) if both_maths else DIFFERENT


def simple(a, g):
    """A Verdict from spelling, clocks and plain numbers alone, or None: these do not settle it."""
    if key_of(a) == key_of(g):
        return SAME
    clocks = _clock(a), _clock(g)
    if all(clocks):
        return verdict(_same_time(*clocks))
    if any(clocks) and re.search("m|:0|^0", "".join(s for s, clock in zip((a, g), clocks) if clock)):
        return DIFFERENT  # 12:00 is a time and no ratio
    x, y = number(a), number(g) or _counted(g)
    if x and y:
        if same_number(x, y):
            return SAME
        return None if "," in a + g else DIFFERENT
    words_a, words_g = words_of(a), words_of(g)
    if words_a and words_g:
        return SAME if words_a == words_g else None
    if a.casefold() == g.casefold() in _SHORT:
        return SAME
    return verdict(a.casefold() == g.casefold()) if len(a) == len(g) == 1 else None


_SHORT = ("no", "on", "up", "in", "he", "it", "we", "us")  # words, where ab and AB may be two quantities
_NOUN = re.compile(r"(?!(?:less|plus|minus|times|not)$)[a-z]{3,20}", re.IGNORECASE)


def _counted(gold):
    """The number of a gold such as "12 red pencils": an answer may leave the noun out, as it may a unit. In
    an answer itself, a word behind a number is a unit of the table, or makes a text of it."""
    *head, last, noun = ["", *gold.split(" ")]
    if len(gold) > 60 or noun[-1:] != "s" or not _NOUN.fullmatch(noun):
        return None
    return number(" ".join([*head, last]).strip()) or _NOUN.fullmatch(last) and number(" ".join(head).strip())


def _clock(s):
    """(minutes since midnight as written, "a", "p" or "") of "2:30", "2:30 p.m.", "2 pm"; None: no time."""
    m = re.fullmatch(r"([01]?\d|2[0-4])(?::([0-5]\d)(?::([0-5]\d))?)? ?(?:([ap])\.? ?m\.?)?", s, re.I)
    if not m or not (m[2] or m[4]) or m[4] and not 1 <= int(m[1]) <= 12:
        return None
    return int(m[1]) % 24 * 60 + int(m[2] or 0) + int(m[3] or 0) / 60, (m[4] or "").lower()


def _same_time(x, y):
    """2:30 pm is 14:30; and the half of the day may be left out on one side, as a unit may."""
    hours = [minutes % 720 + 720 * (half == "p") if half else minutes for minutes, half in (x, y)]
    bare = [minutes for minutes, half in (x, y) if not half]
    lenient = len(bare) == 1 and bare[0] < 780 and hours[0] % 720 == hours[1] % 720
    return hours[0] == hours[1] or lenient


# --------------------------------------------------------------------------------------------- choice letters

_SEVERAL = r"[A-J](?:[ ,;]*(?:and )?[A-J])+"
_BARE = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice|选项|答案) ?:? ?)?\(?([A-J])\)?")
_LETTER = re.compile(r"(?:(?:option|choice|answer|选项|答案) ?(?:is )?:? ?)?[(\[]? ?([A-Ja-j]) ?[)\]]?[.:)]*"
                     r"(?: is (?:correct|right))?", re.IGNORECASE)
_LETTER_TEXT = re.compile(r"(?:[Oo]ption )?(?:\(([A-J])\):?|([A-J]) ?(?:[.)]|[:,-] )) ?([^=]+)", re.DOTALL)

_DOUBTED = re.compile(r"\b[A-J][.):]|\b(?:or|and) \(?[A-J]\b|[,;/] ?[A-J]\b|^\(?[A-Ja-j]\)?$|\b[B-J]$|错|不"
                      r"|^(?:is|not|never|wrong|incorrect)\b")  # no option's text: a text about the letter


def choice(a, g, options, maths):
    """A Verdict when this is about choice letters, None when it is not. a and g are plain."""
    letters = "ABCDEFGHIJ"[:len(options)] if options else "ABCDEFGHIJ"
    texts = [plain(str(option)) for option in options or ()]
    several = re.fullmatch(_SEVERAL, g) and re.fullmatch(_SEVERAL, a, re.IGNORECASE)
    if several and (options or re.search(r"[ ,;]", a + g)):  # else AC and CA may be segments
        picked = [sorted(c for c in s.upper().replace("AND", "") if c.isalpha()) for s in (a, g)]
        return verdict(picked[0] == picked[1])  # "AC" is "A, C" and "C, A"
    bare = _BARE.fullmatch(g)
    want, text = _wanted(g, bare, letters, texts)
    if not want:
        return None
    m = _LETTER.fullmatch(a)
    if m and (m[1].isupper() or bare) and m[1].upper() in letters:
        return verdict(m[1].upper() == want)
    m = _LETTER_TEXT.fullmatch(a)
    if m and (m[1] or m[2]) in letters:  # "B. dog": the right letter, and no other text than its own
        if (m[1] or m[2]) != want or not text:
            return verdict((m[1] or m[2]) == want and _harmless(m[3]))
        return equal(m[3], text, None, maths)
    return None if text is None else _text_alone(a, bare, text, texts, maths)


def _wanted(g, bare, letters, texts):
    """(letter, text) that the gold asks for: "B", "B. dog", or an option's text; each None where unknown."""
    if bare and bare[1] in letters:
        return bare[1], texts[ord(bare[1]) - 65] if texts else None
    told = None if bare else _LETTER_TEXT.fullmatch(g)
    if told and not _DOUBTED.search(told[3]):
        return told[1] or told[2], told[3]
    named = _named(g, texts)
    return (named[0], g) if len(named) == 1 else (None, None)


def _named(s, texts):
    """Letters of the options that this text names."""
    return [chr(65 + i) for i, text in enumerate(texts) if simple(s, text) is SAME]


def names_an_option(g, options):
    """Does a gold name one of the options, or several: by letters in range, or the text of one? g is plain.
    In doubt it does; mathematics is not asked."""
    letters = [chr(65 + i) for i in range(len(options))]
    picked = re.sub(r"OPTION|CHOICE|AND|选项|答案|[\W_]", "", g.upper())
    if picked and set(picked) <= set(letters) and len(set(picked)) == len(picked):
        return True
    own = re.match(r"(?:[Oo]ption )?\(?([A-Za-z])[).:]+ ", g)
    if own and own[1].upper() in letters:
        return True
    texts = [plain(str(option)) for option in options]
    keys = [re.sub(r"[\W_]", "", re.sub(r"^\(?[A-Za-z][).:] ?", "", text)).casefold() for text in texts]
    return bool(_named(g, texts)) or re.sub(r"[\W_]", "", g).casefold() in filter(None, keys)


def _harmless(text):
    """Behind the right letter of options that we do not know: a number or a formula, no word, no letter."""
    text = split_unit(text)[0]
    return bool(number(text)) or is_maths(text) and text != "-" and not re.search(
        r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])|[A-Za-z]{2}|[^\x00-\x7f]", re.sub(r"\\[A-Za-z]+", " ", text))


def _text_alone(a, bare, text, texts, maths):
    """The answer is "dog". When two options have this text, it decides for neither."""
    if len(_named(a, texts)) > 1:
        return DIFFERENT
    found = simple(a, text)
    return equal(a, text, None, maths) if bare and not found and is_maths(text) else found or None
