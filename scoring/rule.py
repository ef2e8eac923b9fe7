"""The rule: do two plain texts mean the same? Choice letters first, then types (values.py, compare.py).

With the options at hand, an answer is right when it names the right one and no other, by letter or by text;
a text counts only when it names exactly one. Without them, a letter with a number or a formula behind it is
that letter; words behind it could be anything.
"""
import re

from scoring.compare import AT_SIGHT, same, same_text
from scoring.numbers import number, same_number, split_unit
from scoring.spelling import plain
from scoring.values import is_expression, read


def equal(a, g, options, maths):
    """Does the answer mean the same as the gold? maths: the module scoring.maths, or compare.LATER."""
    if not a or not g:
        return False
    settled = choice(a, g, options, maths)
    if settled is not None:
        return settled
    x, y = read(a), read(g)
    if x.kind == "number" and y.kind in ("text", "expression") and (noun := number(g, any_noun=True)):
        return not x.items[0].unit[1] and same_number(x.items[0], noun)
    return same(x, y, maths)


# --------------------------------------------------------------------------------------------- choice letters

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"(?:(?:option|choice|answer|选项|答案) ?(?:is )?:? ?)?[(\[]? ?([A-Za-z]) ?[)\]]?[.:)]*"
                     r"(?: is (?:correct|right)| ?选项)?", re.IGNORECASE)
_LETTER_TEXT = re.compile(r"(?:[Oo]ption )?(?:[(\[]([A-Z])[)\]]:?|([A-Z]) ?(?:[.)]|[:,-](?= )|:(?=[^A-Z])))"
                          r" ?(\S.*)", re.DOTALL)
_TEXT_LETTER = re.compile(r"((?:[^(]|\((?![A-Z]\)))*\S) ?\(([A-Z])\)")
_DOUBTED = re.compile(r"\b[B-J]\b|\bA\b(?! )|^[a-j]$|错|不|^(?:is|not|never|wrong|incorrect)\b")


def letters_of(s, letters):
    """The set of several letters that a text names: {"A", "C"} of "A, C", "AC"; None when it names none, or
    leaves open which."""
    found = re.findall("[A-Z]", s)
    several = len({*found}) == len(found) > 1 and not re.sub(r"and|[A-Z\s,;()\[\]]", "", s)
    return {*found} if several and {*found} <= {*letters} else None


def _said(s, letters, known):
    """(letter, text) of "B", "(B) dog", "dog (B)"; (None, s) of a text alone"""
    letter, text = None, s
    if (m := _LETTER.fullmatch(s)) and (m[1].isupper() or known or m[1] in "abcd"):
        letter, text = m[1].upper(), ""
    elif m := _LETTER_TEXT.fullmatch(s):
        letter, text = m[1] or m[2], m[3]
    elif m := _TEXT_LETTER.fullmatch(s):
        text, letter = m.groups()
    return (letter, text) if letter and letter in letters else (None, s)


def choice(a, g, options, maths):
    """True, False, or None when this is not about choice letters. a and g are plain."""
    letters = LETTERS[:len(options)] if options else LETTERS[:10]
    texts = [plain(str(option)) for option in options or ()]
    several = letters_of(g, letters)
    picked = several and letters_of(a, letters)
    if several and (options or picked and re.search(r"[ ,;]", a + g)):
        return picked == several  # else AC and CA may be segments
    want, text = _said(g, letters, texts)
    if texts and text:  # an option's text, or its letter with a text
        want = _named(g, texts, AT_SIGHT) or want
    if not want or not texts and _DOUBTED.search(text):
        return None
    text = texts[letters.index(want)] if texts else text
    said, rest = _said(a, letters, texts)
    if said:  # "B. dog": the right letter, and no other text than its own
        right = not rest or (same_text(rest, text, maths, True) if text else _harmless(rest))
        return said == want and right
    return _named(a, texts, maths) == want if texts else same_text(a, text, maths) if text else None


def _named(s, texts, maths):
    """The letter of the one option that a text names: by its value at sight, else by mathematics. None when
    there is none, or several."""
    for how in (AT_SIGHT, maths):
        if found := [letter for letter, text in zip(LETTERS, texts) if same_text(s, text, how, True)]:
            return found[0] if len(found) == 1 else None
    return None


def _harmless(text):
    """Behind the right letter of options that we do not know: a number or a formula, no word, no letter."""
    text = split_unit(text)[0]
    return bool(number(text)) or is_expression(text) and text != "-" and not re.search(
        r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])|[A-Za-z]{2}|[^\x00-\x7f]", re.sub(r"\\[A-Za-z]+", " ", text))
