"""Options of multiple choice as people have them -> their texts, in the order of the letters A, B, C, ...

A list, one in print, ARC's {"label": [...], "text": [...]}, {"A": ..., "B": ...}, VLMEvalKit's columns A, B,
C, D; with their letters ("A. 52") or without. A reader of the recipe may skip this file. No torch here.
"""
import ast
import json
import re
from itertools import takewhile
from string import ascii_uppercase

from machinery.fields import BadRow, described, value
from machinery.mmmu_rows import printed_list

OWN_LETTER = re.compile(r"\s*(?:\(([A-Z])\)\s*|([A-Z])(?:[.)．、]\s*|[:：]\s+))(?=\S)")  # "A:B" is a ratio


def options_of(row):
    """(texts of a row's options, what the data call each of them). The second is empty where they have no
    names of their own; a BadRow says what can not be read."""
    given = row.get("options") or columns_of(row)
    if isinstance(given, str):
        given = cell(given.strip())
    labels, given = labelled(given)
    if not isinstance(given, list):
        raise BadRow(f"its options are {described(given)}, a list was expected")
    if wrong := [i for i, option in enumerate(given, 1) if option is None]:
        raise BadRow(f"its option {wrong[0]} is null")
    options = [value({f"option {i}": option}, f"option {i}") for i, option in enumerate(given, 1)]
    if len(options) > 26:
        raise BadRow(f"{len(options)} options, more than there are letters")
    if len(options) == 1:
        raise BadRow(f"its options are one, {options[0][:80]!r}: write a list of all, [\"52\", \"-2\"]")
    found = [OWN_LETTER.match(option) for option in options]
    if options and [m and (m[1] or m[2]) for m in found] == list(ascii_uppercase[:len(options)]):
        return [option[m.end():] for option, m in zip(options, found)], labels or options
    return options, labels


def columns_of(row):
    """A column for each letter. Only where the answer is one of them, or several ("B", "(b)", "A, C"):
    otherwise they may be anything."""
    cells = [row[c] for c in takewhile(lambda c: row.get(c) not in (None, ""), ascii_uppercase)]
    answer = str(row.get("answer") or "").strip()
    picked = set(re.sub(r"[\s,;()]", "", answer.upper()))
    named = picked and picked <= set(ascii_uppercase[:len(cells)])
    return cells if len(cells) > 1 and named else []


def cell(text):
    """Options in one cell of a table: a list or an object in print, else a text that stands for all."""
    try:
        if text.startswith("["):
            return printed_list(text)
        if text.startswith("{"):
            return json.loads(text) if '"' in text else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass  # an option that begins with a bracket
    return [text] if text else []


def labelled(given):
    """(labels, texts) of options that have names, in the order of these; ([], as they are) of others."""
    columns = given.values() if isinstance(given, dict) else ()
    if columns and given.keys() == {"label", "text"} and all(isinstance(column, list) for column in columns):
        pairs = list(zip(given["label"], given["text"]))
    elif isinstance(given, dict):
        pairs = [(label, text) for label, text in given.items() if text is not None]  # Parquet fills up
    elif isinstance(given, list) and given and all(
            isinstance(option, dict) and {"label", "text"} <= option.keys() for option in given):
        pairs = [(option["label"], option["text"]) for option in given]
    else:
        return [], given
    pairs = sorted(((str(label), text) for label, text in pairs), key=lambda pair: (len(pair[0]), pair[0]))
    return [label for label, _ in pairs], [text for _, text in pairs]


def as_letter(answer, labels):
    """The answer, as a letter where it is what the data call an option ("3" of 1, 2, 3, 4 is C)."""
    return ascii_uppercase[labels.index(answer)] if answer in labels else answer
