"""MMMU's official algorithm, rebuilt from words, to compare with published numbers. Faults are on purpose."""
import re
import string


def official_right(reply, row):
    """(right?, did it pick at random?) by the official algorithm; the random pick is wrong here."""
    if row["choice"]:
        letter = official_choice(reply, row["options"])
        return letter in row["gold"], letter is None
    keys = [key for gold in row["gold"] for key in official_normal(gold)]
    return any(key == guess or isinstance(key, str) and isinstance(guess, str) and key in guess
               for guess in official_open(reply) for key in keys), False


def official_choice(response, options):
    """The letter that the official parser reads, or None where it would pick one at random."""
    for mark in ",.!?;:'":  # one mark after the other, in this order
        response = response.strip(mark)
    response = f" {response} "
    lower, letters = response.lower(), string.ascii_uppercase[:len(options)]
    last = {c: response.rfind(f"({c})") for c in letters}  # letter -> where it stands last, -1: nowhere
    if max(last.values()) < 0:
        last = {c: response.rfind(f" {c} ") for c in letters}
    if max(last.values()) < 0 and len(response.split()) > 5:
        last = {c: lower.rfind(option.lower()) for c, option in zip(letters, options)}
    return max(last, key=last.get) if max(last.values()) >= 0 else None


def official_normal(text):
    """[a number rounded to two decimals] or [lower-cased text]; one character counts only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


_CUES = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
_NUMBERS = (r"-?\b\d{1,3}(?:,\d{3})+\b",  # 1,234,567
            r"(?:-|(?<!\d))\d+(?:\.\d+)?[eE][+-]?\d+",  # 1.5e-3; begun where its digits begin: linear
            r"(?:-|(?<!\d)|(?=\.))(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d)(?![,\d])")  # 12, 1.5, .5


def official_open(response):
    """Everything that the official parser takes for a possible answer: texts (lower case) and numbers."""
    response = response.strip().strip(".").lower()
    lines, found = response.split("\n"), []
    for i, line in enumerate(lines):
        cues = _CUES + ["="] if i == len(lines) - 1 else _CUES  # "=" counts in the last line only
        tails = [line.rsplit(cue, 1)[1].strip() for cue in cues if cue in line]
        if tails and (shortest := min(tails, key=len)) not in ("", *",.!?;:'"):
            found.append(shortest)
    found = found or [response]
    for text in list(found):
        for pattern in _NUMBERS:
            found += re.findall(pattern, text)
    return [guess for text in found for guess in official_normal(text)]
