"""What a field of a row may hold: text, a number where one can be meant, nothing that can not be printed.

No torch here.
"""
import math
import re
from decimal import Decimal

# half a pair of UTF-16, which no tokenizer takes (bytes that are no UTF-8 are read as such), and code points
# that are no characters, which machinery/plain_text.py uses as marks
NO_TEXT = re.compile("[\ud800-\udfff\ufdd0-\ufdef]")


class BadRow(ValueError):
    """Why a row can not be used. The caller knows its name, counts it, and goes on (rows.report_bad)."""


def text(row, name, empty=""):
    if row.get(name) is None:
        return empty
    if not isinstance(row[name], str):
        raise BadRow(f"its {name} is {described(row[name])}, text was expected")
    return row[name]


def value(row, name):
    """A text or a number as text. True, nan and lists are neither: nobody would write what they look like in
    print."""
    given = row.get(name)
    if given is None:
        return ""
    finite = isinstance(given, (float, Decimal)) and math.isfinite(given)
    if not isinstance(given, (str, int)) and not finite or isinstance(given, bool):
        raise BadRow(f"its {name} is {described(given)}, text or a number was expected")
    return str(given)


def described(given):
    if isinstance(given, (bool, float)):
        return str(given).lower()  # nan, inf, true
    return {dict: "an object", list: "a list", int: "a number"}.get(type(given), type(given).__name__)


def refuse_no_text(name, given):
    if isinstance(given, list):
        for part in given:
            refuse_no_text(name, part["content"] if isinstance(part, dict) else part)
    elif isinstance(given, str) and (found := NO_TEXT.search(given)):
        what = f"{ascii(found[0])}: half of a surrogate pair"
        if "\udc80" <= found[0] <= "\udcff":  # how surrogateescape reads a byte that is no UTF-8
            what = f"the byte {ord(found[0]) - 0xdc00:#x}: save the file as UTF-8 (in Excel: CSV UTF-8)"
        raise BadRow(f"its {name} has no character at place {found.start() + 1}, but {what}")
