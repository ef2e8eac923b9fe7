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
    """True when the text claims that the image is not there or cannot be seen, in English or Chinese.

    A claim is about the image as a whole, and about this conversation: "we cannot see point B from A", "the image does not show
    the radius", "the figure is not drawn to scale" and "图中没有给出半径" are none. Sentence by sentence, by patterns: the table of
    cases in tests/ is the specification. Words that are only *about* seeing images ("the blind man cannot see ...") are not the
    speaker's, so the subject must be I, we, or nobody.
    """
    return any(pattern.search(text.replace("’", "'")) for pattern in _DENIALS if text)


_IMAGE = r"(?:images?|pictures?|photos?|photographs?|figures?|diagrams?|graphs?|charts?|drawings?|illustrations?|screenshots?|attachments?)"
_THE = r"(?:(?:the|this|that|these|those|your|an?|any|its|actual|attached|provided|given|original|accompanying|mentioned|above|corresponding|said)\s+)*"
_AN_IMAGE = rf"{_THE}{_IMAGE}(?!['-]s?\w|\s+(?:of\s+(?:the\s+)?(?:\$|[a-z]\b|function|point|map|vector|set)|for\b|book|file|cross|as\b))"
_NOW = r"(?:actually|really|directly|currently|also|even|still|just|physically)\s+"
_CANNOT = (rf"(?:can't|cannot|can\s+not|couldn't|could\s+not|(?:am|'m|are|'re)\s+(?:unable\s+to|not\s+able\s+to))\s+(?:{_NOW})?"
           r"(?:see|view|access|open|look\s+at|display|process|perceive|observe|inspect|analy[sz]e)"
           r"(?:\s+(?:or|and|nor)\s+\w+)?")
_MISSING = r"(?:provided|attached|included|visible|available|uploaded|here|there|present|accessible|loaded|loading|displayed|displaying|shown|given)"
_GONE = (r"(?!\s+(?:to\s+scale|in\s+(?:stores|the\s+\d+)|from|at|on|by|through|edition))"  # not drawn to scale, not available in stores
         r"(?=\s*(?:[.,;:!?)]|$|here|to\s+me|for\s+me|in\s+(?:the|this|your)\s+(?:question|prompt|message|problem|text|input|chat|conversation)"
         r"|with\s+(?:the|this|your)|so\b|but\b|and\b|because\b|we\b|i\b|let))")
_DENIALS = [re.compile(pattern, re.IGNORECASE) for pattern in (
    # I cannot see the image; not: the person cannot see, I cannot see a cat in the image, cannot see the graph crossing
    rf"(?:\b(?:i|we)\b(?:\s+\w+)?|(?<=')m|(?<=')re)\s+{_CANNOT}\s+{_AN_IMAGE}(?!\s+\w+ing\b|\s+on\s+the\s+wall)",
    rf"\b(?:i'm|we're|i\s+am|we\s+are)\s+(?:unable|not\s+able)\s+to\s+(?:{_NOW})?(?:see|view|access|open|look\s+at|process|analy[sz]e)(?:\s+or\s+\w+)?\s+{_AN_IMAGE}",
    rf"\b(?:model|ai|assistant)\b[^.!?\n]{{0,40}}?(?:\b(?:i|we)\s+)?{_CANNOT}\s+{_AN_IMAGE}",
    rf"\bnot\s+being\s+able\s+to\s+(?:see|view|access)\s+{_AN_IMAGE}",
    rf"\b(?:i|we)\s+(?:{_NOW})?{_CANNOT}\s+what(?:'s|\s+is)?(?:\s+(?:shown|depicted|displayed))?\s+(?:in|on)\s+{_AN_IMAGE}",
    rf"\b(?:i|we)\s+(?:{_NOW})?(?:don't|do\s+not|didn't|did\s+not)\s+(?:{_NOW})?(?:see|have|receive|get)\s+(?:access\s+to\s+)?{_AN_IMAGE}"
    r"(?=\s*(?:[.,;:!?)]|$|here|attached|provided|in\s+(?:front|your|the\s+(?:question|prompt|message|problem))|to\s+(?:look|work|refer)|so\b|but\b|and\b|available|with))"
    r"(?!\s*[.,]?\s*with\s+\w)",
    rf"\b(?:i|we)(?:'m|'re|\s+am|\s+are)\s+not\s+(?:{_NOW})?(?:seeing|receiving|getting)\s+{_AN_IMAGE}",
    rf"\b(?:i|we)\s+(?:{_NOW})?(?:have\s+no|lack|don't\s+have|do\s+not\s+have)\s+(?:the\s+|any\s+)?(?:visual\s+|direct\s+)*(?:access|way|ability|means|capability)"
    rf"\s+(?:to|of)\s+(?:(?:see|view|access|seeing|viewing|analy[sz]e|process|look\s+at)\s+)?{_AN_IMAGE}",
    rf"\bwithout\s+(?:(?:having\s+|direct\s+|visual\s+)*access\s+to|(?:actually\s+|directly\s+)?(?:seeing|viewing|having)|being\s+able\s+to\s+(?:see|view|access)|the\s+actual)"
    rf"\s+{_AN_IMAGE}",
    # the image is not provided; not: the angle in the figure is not given
    rf"(?<!\bin\s)(?<!\bof\s)(?<!\bon\s)(?<!\bin\sthe\s)(?<!\bof\sthe\s)(?<!\bon\sthe\s)(?<!\bin\sthis\s)(?<!\bfrom\sthe\s)\b{_IMAGE}\s+(?:itself\s+)?"
    rf"(?:isn't|is\s+not|wasn't|was\s+not|aren't|are\s+not|has\s+not\s+been|hasn't\s+been|is\s+neither)\s+(?:{_NOW})?{_MISSING}\b{_GONE}",
    rf"\bthe\s+{_IMAGE}\s+(?:is|was|are)\s+(?:inaccessible|unavailable|not\s+accessible|invisible\s+to\s+me)\b",
    rf"\bno\s+{_IMAGE}\s+(?:is|was|were|are|has\s+been|have\s+been)?\s*(?:actually\s+)?(?:provided|attached|included|uploaded|available|given|supplied|here|visible)\b{_GONE[:0]}",
    rf"\bthere(?:'s|\s+is|\s+was)\s+no\s+(?:actual\s+|visible\s+)?{_IMAGE}\s+(?:here|provided|attached|included|uploaded|available|given|"
    rf"in\s+(?:the|this|your)\s+(?:question|prompt|message|problem|input|chat|conversation))",
    rf"(?<!\bin\s)(?<!\bof\s)(?<!\bin\sthe\s)(?<!\bof\sthe\s)\b(?:the|this|your)\s+{_IMAGE}\s+(?:(?:is|was|seems\s+to\s+be|appears\s+to\s+be|might\s+be|may\s+be)\s+missing"
    r"(?=\s*(?:[.,;:!?)]|$|so\b|but\b|and\b|here|in\s+(?:the|this|your)\s+(?:question|prompt|message|problem)))"
    r"|(?:didn't|did\s+not|failed\s+to|couldn't|could\s+not|doesn't|does\s+not|won't)\s+(?:load|come\s+through|upload|open|display|appear)\b"
    r"|(?:can't|cannot|can\s+not|couldn't|could\s+not)\s+be\s+(?:seen|viewed|accessed|displayed|loaded|opened|rendered)(?=\s*(?:[.,;:!?)]|$|here|so\b|but\b|and\b)))",
    rf"\b(?:please|could\s+you|can\s+you|if\s+you\s+(?:can|could))\s+(?:please\s+)?(?:re-?)?(?:upload|attach|share|send|provide|supply|describe)\s+(?:me\s+)?{_AN_IMAGE}",
    rf"\byou\s+(?:haven't|have\s+not|didn't|did\s+not|forgot\s+to)\s+(?:actually\s+)?(?:attach|upload|provide|include|share|send)(?:ed|d)?\s+{_AN_IMAGE}",
    # the question mentions a figure, but I can't see it
    rf"\b{_IMAGE}\b[^.!?\n]{{0,60}}\b(?:but|though|however|which|yet)\b[^.!?\n]{{0,20}}\b(?:(?:it's|it\s+is|it\s+was|is|was)\s+not\s+(?:provided|here|attached|included|uploaded|"
    r"shown\s+here|visible\s+to\s+me|available)\b|(?:i|we)\s+(?:can't|cannot|don't|do\s+not|am\s+unable\s+to|didn't)\s+(?:actually\s+)?(?:see|view|access|have)\s+(?:it|that|one)\b)",
    # Chinese: the object is the image itself, not something in it (图中)
    r"(?:看不到|看不见|无法(?:直接)?(?:看到|看见|查看|访问|打开|读取|获取|识别|显示)|不能(?:直接)?(?:看到|看见|查看|读取)|没(?:有)?(?:能)?(?:看到|收到|提供|给出|附上|上传|附)|"
    r"未(?:能)?(?:看到|收到|提供|附上|上传|给出|附)|缺少|请(?:重新)?(?:提供|上传|发送))"
    r"(?:任何|这张|这个|这幅|该|此|你的|您的|你|您|题目的?|题中的?|所|上传的?|提供的?|具体的?|实际的?|相关的?|原|到|出)*(?:图片|图像|图形|附图|配图|原图|示意图|照片|图表|图)"
    r"(?![中里内上像片形]|的?(?:性质|信息|解析式|大小|面积|颜色|数据|关系|标注))",
    r"(?<!从)(?<![看据])(?:图片|附图|配图|原图|示意图|照片|图表|图像|图形|(?<=[的张幅，。]) ?图|^图)(?:并)?(?:没有|没|未能?|无法|不能)(?:被)?(?:正常)?(?:提供|附上|上传|加载|给出|显示出来|展示出来|显示(?=[，。！；]|$))"
    r"(?!\w*[度长径积数])",
    r"(?:图片|附图|配图|图像|图)(?:缺失|丢失|加载失败|看不到|看不见)(?=[，。！；、]|$)",
    r"(?:这里|此处|题目|但|而|因为|由于|^|[，。；])(?:并)?没有(?:图片|附图|配图|图)(?=[，。；！]|可|能|的情况|就|只|所以|$)",
)]


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
