"""What can be seen in a text, without a model: critical words, claims of not seeing the image, repetition.

Training, evaluation, checkpoint selection and the page of rollouts share these functions:
- critical_spans (paper section 5.1): where the model opens a new line of thought ("Wait", "Alternatively");
  critical_tokens: the same as numbers of tokens. Words are found in the text, in any tokenization.
- denies_image (paper section 6): the thought claims that there is no image, or that it cannot be seen.
- repetition: how much of the text says again what it has said already; 0 is fresh, 1 is a loop.
"""
import re
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

from scoring.denial import denies_image  # noqa: F401 (re-exported)

# The 17 words that the NoWait study bans.
NOWAIT_WORDS = ("wait", "alternatively", "hmm", "but", "however", "alternative", "another", "check",
                "double-check", "oh", "maybe", "verify", "other", "again", "now", "ah", "any")
# The paper names "Wait" and "Alternatively" and keeps its list to itself. These are ten of NoWait's words:
# those that are left out stand in ordinary sentences of a solution, too ("now add the other two").
CRITICAL_WORDS = ("wait", "alternatively", "hmm", "but", "however", "check", "double-check", "maybe",
                  "verify", "again")
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters: written without spaces


@lru_cache(maxsize=64)
def _critical_pattern(words):
    letter = rf"[^\W{CJK}]"  # a word character of a script with spaces; "_" and digits included
    words = sorted(words, key=len, reverse=True)  # the longest first: "double-check" wins over "check"
    spaced = [re.escape(w) for w in words if re.match(letter, w) and re.search(rf"{letter}$", w)]
    others = [re.escape(w) for w in words if re.escape(w) not in spaced]
    # a spaced word is a whole one, and not behind "cross-", which makes another word of it; behind "--" (a
    # dash) it is
    parts = [rf"(?<!{letter})(?<!{letter}-)(?:{'|'.join(spaced)})(?!{letter})"] if spaced else []
    return re.compile("|".join(parts + others), re.IGNORECASE)


def critical_spans(text, words=CRITICAL_WORDS):
    """[(start, end, word)]: where the words stand in text, in order, without overlap; word as listed.

    Whole words only, in any case ("Wait", "WAIT"); "double-check" is one hit, not also a "check". Chinese
    words may be listed.
    """
    words = tuple(words)
    if not words:
        return []
    spelled = {word.casefold(): word for word in words}
    found = _critical_pattern(words).finditer(text)
    return [(m.start(), m.end(), spelled.get(m.group().casefold(), m.group())) for m in found]


def critical_tokens(pieces, words=CRITICAL_WORDS):
    """[(first, last, word)]: of each critical word the tokens that hold its first and its last letter.

    pieces: the text of each token, in order.

        pieces                "Wa"  "it"  ", x"  " but"
        characters up to here   2     4     7      11      -> [(0, 1, "wait"), (3, 3, "but")]
    """
    ends = list(accumulate(map(len, pieces)))  # the token that holds character c is the first whose end > c
    spans = critical_spans("".join(pieces), words)
    return [(bisect_right(ends, start), bisect_right(ends, end - 1), word) for start, end, word in spans]


def repetition(text, n=8):
    """Share of the text's n-grams that occurred before, in [0, 1]. Units are words or Chinese characters.

    Ordinary reasoning stays below about 0.2 (names and formulas come back); a loop goes towards 1. Short
    texts give 0.
    """
    units = re.findall(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]", text)
    total = len(units) - n + 1
    if total < 2:
        return 0.0
    seen = len({tuple(units[i:i + n]) for i in range(total)})
    return 1.0 - seen / total
