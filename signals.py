"""What can be seen in a text, without a model: critical words, claims of not seeing the image, repetition.

Three small functions that training, evaluation, checkpoint selection and the rollout page share. No torch.

- critical_spans (paper section 5.1): where the model opens a new line of thought ("Wait", "Alternatively"). The spans are
  *character* spans: entropy_select.py looks up which token holds the word's first letter, so tokenization does not matter.
- denies_image (paper section 6): the thought claims that there is no image or that it cannot be seen.
- repetition: how much of the text says again what it has said already; 0 is fresh, 1 is a loop.
"""
import re
from functools import lru_cache

# The paper names "Wait" and "Alternatively" and keeps its list to itself; this is the list of the related NoWait study.
CRITICAL_WORDS = ("wait", "alternatively", "hmm", "but", "however", "check", "double-check", "maybe", "verify", "again")


# ------------------------------------------------------------------------------------------------ critical words
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters: written without spaces, so no word boundary


@lru_cache(maxsize=64)
def _critical_pattern(words):
    letter = rf"[^\W{CJK}]"  # a word character of a script with spaces; "_" and digits included
    parts = []
    for word in sorted(words, key=len, reverse=True):  # the longest first: "double-check" wins over "check"
        body = re.escape(word)
        if re.match(letter, word):  # also not behind "cross-": another word; but "--wait" (a dash) is "wait"
            body = rf"(?<!{letter})(?<!{letter}-){body}"
        if re.search(rf"{letter}$", word):
            body = rf"{body}(?!{letter})"
        parts.append(body)
    return re.compile("|".join(parts), re.IGNORECASE)


def critical_spans(text, words=CRITICAL_WORDS):
    """[(start, end, word)]: where the words stand in text, in order, without overlap; word as the list spells it.

    Whole words only, in any case ("Wait", "WAIT"); "double-check" is one hit, not also a "check". Chinese words may be listed.
    """
    words = tuple(words)
    if not words:
        return []
    spelled = {word.casefold(): word for word in words}
    return [(m.start(), m.end(), spelled.get(m.group().casefold(), m.group())) for m in _critical_pattern(words).finditer(text)]


# ------------------------------------------------------------------------------------------------ "I cannot see the image"
def denies_image(text):
    """True when the text claims that the image is not there or cannot be seen, in English or Chinese."""
    return bool(_DENIAL.search(text))


_DENIAL = re.compile(r"\b(?:can't|cannot|can not|unable to|not able to) (?:see|view|access|open) (?:the|this|any|an|your) (?:image|picture|figure|diagram)|"
                     r"(?:看不到|无法看到|看不见|无法查看)(?:这张|该|这个|题目的)?(?:图片|图像|图)(?![中里上])", re.I)


# ------------------------------------------------------------------------------------------------ repetition
def repetition(text, n=8):
    """Share of the text's n-grams that occurred before, in [0, 1]. Units are words, or single characters of Chinese; cheap.

    Ordinary reasoning stays below about 0.2 (names and formulas come back); a loop goes towards 1. Short texts give 0.
    """
    units = re.findall(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]", text)
    total = len(units) - n + 1
    if total < 2:
        return 0.0
    seen = len({tuple(units[i:i + n]) for i in range(total)})
    return 1.0 - seen / total
