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
    if x.kind == "number" and y.kind in ("text", "expression") and (
            noun := number(g, any_noun=True)):
        return not x.items[0].unit[1] and same_number(x.items[0], noun)
    return same(x, y, maths)


# --------------------------------------------------------------------------------------------- choice letters

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BARE = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice|选项|答案) ?:? ?)?[(\[]? ?([A-Za-d]) ?[)\]]?[.:)]*")
_LETTER = re.compile(r"(?:(?:option|choice|answer|选项|答案) ?(?:is )?:? ?)?[(\[]? ?([A-Za-z]) ?[)\]]?[.:)]*"
                     r"(?: is (?:correct|right)| ?选项)?", re.IGNORECASE)
_SEVERAL = re.compile(r"[(\[]?[A-Z][)\]]?(?:( ?[,;] ?(?:and )?| ?and ?| ?or ?| ?/ ?| ?)[(\[]?[A-Z][)\]]?)+")
_LETTER_TEXT = re.compile(r"(?:[Oo]ption )?(?:[(\[]([A-Z])[)\]]:?|([A-Z]) ?(?:[.)]|[:,-](?= )|:(?=[^A-Z])))"
                          r" ?(\S.*)", re.DOTALL)
_TEXT_LETTER = re.compile(r"(.*\S) ?\(([A-Z])\)", re.DOTALL)
_DOUBTED = re.compile(r"\b[A-J][.):]|\b(?:or|and) \(?[A-J]\b|[,;/] ?[A-J]\b|^\(?[A-Ja-j]\)?$|\b[B-J]$|错|不"
                      r"|^(?:is|not|never|wrong|incorrect)\b")  # no option's text: a text about the letter


def letters_of(s, letters):
    """The set of several letters that a text names: {"A", "C"} of "A, C", "AC"; None when it names none, or
    leaves open which."""
    if not _SEVERAL.fullmatch(s) or re.search("or|/", s):
        return None
    found = re.findall("[A-Z]", s)
    return set(found) if set(found) <= set(letters) and len(set(found)) == len(found) else None


def choice(a, g, options, maths):
    """True, False, or None when this is not about choice letters. a and g are plain."""
    letters = LETTERS[:len(options)] if options else LETTERS[:10]
    texts = [plain(str(option)) for option in options or ()]
    several = letters_of(g, letters)
    picked = several and letters_of(a, letters)
    if several and (options or picked and re.search(r"[ ,;]", a + g)):
        return picked == several  # else AC and CA may be segments
    want, text = _wanted(g, letters, texts)
    if not want:
        return None
    said, rest = _said(a, letters, bool(_BARE.fullmatch(g)), bool(texts))
    if said and not rest:
        return said == want
    if said:  # "B. dog": the right letter, and no other text than its own
        return said == want and (same_text(rest, text, maths, True) if text else _harmless(rest))
    return _named(a, texts, maths) == want if texts else same_text(a, text, maths) if text else None


def _said(a, letters, bare, known):
    """(letter, text) that an answer says: "B", "(B) dog", "dog (B)"; (None, None) of a text alone"""
    m = _LETTER.fullmatch(a)
    if m and (m[1].isupper() or bare) and m[1].upper() in letters:
        return m[1].upper(), ""
    m = _LETTER_TEXT.fullmatch(a) or known and re.fullmatch(r"()([A-Z]):(.+)", a)
    if m and (m[1] or m[2]) in letters and not (m[2] and a[1:2] == ":" and ":" in m[3]):
        return m[1] or m[2], m[3]
    m = _TEXT_LETTER.fullmatch(a)
    return (m[2], m[1]) if m and m[2] in letters and not re.search(r"\([A-Z]\)", m[1]) else (None, None)


def _wanted(g, letters, texts):
    """(letter, text) that the gold asks for: "B", "B. dog", or an option's text; each None where unknown."""
    bare, of = _BARE.fullmatch(g), dict(zip(letters, texts))
    letter = bare[1].upper() if bare else _named(g, texts, AT_SIGHT)
    if letter and letter in letters:
        return letter, of.get(letter)
    told = None if bare else _LETTER_TEXT.fullmatch(g)
    letter = told and (told[1] or told[2])
    if letter and letter in letters and not _DOUBTED.search(told[3]):
        return letter, of.get(letter, told[3])
    return None, None


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
