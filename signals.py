"""What can be seen in a text, without a model: critical words, claims of not seeing the image, repetition.

Three small functions that training, evaluation, checkpoint selection and the rollout page share. No torch.

- critical_spans (paper section 5.1): where the model opens a new line of thought ("Wait", "Alternatively"). The spans are
  *character* spans: entropy_select.py looks up which token holds the word's first letter, so tokenization does not matter.
- denies_image (paper section 6): the thought claims that there is no image or that it cannot be seen.
- repetition: how much of the text says again what it has said already; 0 is fresh, 1 is a loop.
"""
import bisect
import itertools
import re
from functools import lru_cache

# The paper names "Wait" and "Alternatively" and keeps its list to itself; this is the list of the related NoWait study.
CRITICAL_WORDS = ("wait", "alternatively", "hmm", "but", "however", "check", "double-check", "maybe", "verify", "again")


# ------------------------------------------------------------------------------------------------ critical words
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters: written without spaces, so no word boundary


@lru_cache(maxsize=64)
def _critical_pattern(words):
    letter = rf"[^\W{CJK}]"  # a word character of a script with spaces; "_" and digits included
    words = sorted(words, key=len, reverse=True)  # the longest first: "double-check" wins over "check"
    spaced = [re.escape(w) for w in words if re.match(letter, w) and re.search(rf"{letter}$", w)]
    others = [re.escape(w) for w in words if re.escape(w) not in spaced]
    # a spaced word is a whole one, and not behind "cross-", which makes another word of it; behind "--" (a dash) it is
    parts = [rf"(?<!{letter})(?<!{letter}-)(?:{'|'.join(spaced)})(?!{letter})"] if spaced else []
    return re.compile("|".join(parts + others), re.IGNORECASE)


def critical_spans(text, words=CRITICAL_WORDS):
    """[(start, end, word)]: where the words stand in text, in order, without overlap; word as the list spells it.

    Whole words only, in any case ("Wait", "WAIT"); "double-check" is one hit, not also a "check". Chinese words may be listed.
    """
    words = tuple(words)
    if not words:
        return []
    spelled = {word.casefold(): word for word in words}
    return [(m.start(), m.end(), spelled.get(m.group().casefold(), m.group())) for m in _critical_pattern(words).finditer(text)]


def critical_tokens(pieces, words=CRITICAL_WORDS):
    """[(first, last, word)] of each critical word in the joined pieces (the text of each token).

    first: index of the token that holds the word's first letter; last: of the one that holds its last letter.
    """
    ends = list(itertools.accumulate(len(piece) for piece in pieces))  # of each token, in characters
    hits = critical_spans("".join(pieces), words)
    return [(bisect.bisect_right(ends, start), bisect.bisect_right(ends, end - 1), word) for start, end, word in hits]


# ------------------------------------------------------------------------------------------------ "I cannot see the image"
def denies_image(text):
    """True when the text claims that the image is not there or cannot be seen, in English or Chinese.

    The claim must be about the image as a whole and about the speaker: "we cannot see point B from A", "the image does not show
    the radius", "the figure is not drawn to scale", "the driver cannot see the picture", "图中没有给出半径" are none. These are
    patterns, so there will be misses; the tables of sentences in tests/cases are the specification.
    """
    for sentence in re.split(r"(?<=[.!?])\s+|[\n;。！？；]+", text.replace("’", "'")):
        for start in range(0, len(sentence), 300):  # a sentence without an end (a collapsed policy writes them) in pieces: the time stays linear
            piece = sentence[start:start + 400]
            if _HINT.search(piece) and any(pattern.search(piece) for pattern in _DENIALS):
                return True
    return False


def _denials():
    """The patterns, from parts: an image, not seeing, not being there. Each is searched in one sentence."""
    noun = r"(?:images?|pictures?|photos?|photographs?|figures?|diagrams?|graphs?|charts?|drawings?|illustrations?|screenshots?|attachments?)"
    the = r"(?:(?:the|this|that|these|those|your|an?|any|its|actual|attached|provided|given|original|external|uploaded|accompanying|mentioned|said)\s+)*"
    # not "the image of the point", "the graph crossing the axis", "the picture book", "that figure ABCD is", "the figures for 1995"
    image = (rf"{the}{noun}(?!['-]\w|\s+(?:(?!(?:and|but|so|here)\b)\w+ing\b|that\b|which\b|whose\b|with\s+(?!th|your)|as\b|for\b|on\b|(?-i:[A-Z]{{2,}})"
             r"|of\b|in\s+the\s+(?!question|problem|prompt|message)|\w+\s+(?:is|has)\b|book|file|clearly|well\b|yet\b))")
    now = r"(?:(?:actually|really|directly|currently|also|even|still|just|physically)\s+)*"
    look = r"(?:see|view|access|open|look\s+at|display|process|perceive|observe|inspect|analy[sz]e)(?:\s+(?:or|and)\s+\w+)?"
    i = r"(?:^|\b(?:i|we|and|but|so|since|as|because)\s+)"  # I, we, or nobody: "the driver can't see" is somebody else
    cannot = rf"(?:{i}{now}(?:can't|cannot|can\s+not|couldn't|could\s+not)|(?:\bi|\bwe)(?:'m|'re|\s+am|\s+are)\s+(?:unable\s+to|not\s+able\s+to|blind\s+to))\s+{now}"
    negated = r"(?:n't|\s+not|\s+never)"
    # behind "the image is not shown": the sentence ends, or goes on without a place or a person ("from P", "to scale")
    end = (r"(?=\s*(?:[.,:!?)]|$|here\b|to\s+me\b|for\s+me\b|so\b|but\b|and\b|because\b|unfortunately\b|(?:in|with|to|along\s+with)\s+(?:the|this|your)\s+"
           r"(?:question|prompt|message|problem|text|input|chat|conversation)))")
    there = r"(?:provided|attached|included|visible|available|uploaded|here|present|accessible|loaded|loading|displayed|displaying|shown|showing\s+up|given)"
    of = r"(?<!\bof\s)(?<!\bin\s)(?<!\bon\s)"  # not "the angle in the figure is not given"
    whole = rf"(?:{of}\b(?:the|this|your|an?)\s+(?:actual\s+|attached\s+)?|^\W*|\()(?<!\bof\sthe\s)(?<!\bin\sthe\s)(?<!\bon\sthe\s)(?<!from\sthe\s)(?<!\bin\sthis\s){noun}"
    whole += r"(?:\s+(?:itself|content|provided|mentioned|in\s+question))?"
    english = (
        rf"{cannot}(?:{look}\s+)?{image}",
        rf"{cannot}{look}\s+what(?:'s|\s+is)?(?:\s+(?:shown|depicted|displayed))?\s+(?:in|on)\s+{image}",
        rf"\b(?:not\s+(?:being\s+able\s+to\s+{look}|having|seeing)|without\s+(?:being\s+able\s+to\s+{look}|(?:actually\s+|directly\s+)*(?:seeing|viewing|having)|"
        rf"(?:direct\s+|visual\s+|having\s+)*access\s+to|the\s+actual))\s+{image}",
        rf"(?:^\W*|\b(?:however|but|and|so)\W+)without\s+{image}\s*,?\s*(?:i|we|it)(?:'m|'ll|'s|'d)?\s+(?:can't|cannot|can\s+only|have\s+to|must|will|would|am|are|is|need|hard|difficult|impossible|guess)",
        rf"\b(?:can't|cannot|hard|difficult|impossible|tough|unable)\b[^,]*\bwithout\s+{image}{end}",
        rf"\b(?:i|we)\s+{now}(?:do|did|have){negated}\s+{now}(?:see|seen|have|receive[d]?|get|been\s+given)\s+(?:access\s+to\s+)?{image}"
        r"(?=\s*(?:[.,:!?)]|$|here|attached|provided|in\s+(?:front|your|the)|to\s+(?:look|work|refer)|so\b|but\b|and\b|available))",
        rf"\b(?:i|we)(?:'m|'re|\s+am|\s+are|\s+was|\s+were|wasn't|weren't|aren't)?(?:\s+was|\s+were|\s+are)?(?:{negated})\s+{now}(?:seeing|receiving|given|shown|provided\s+with)\s+{image}{end}",
        rf"\b(?:i|we)\s+{now}(?:have\s+no|lack|do{negated}\s+have)\s+(?:the\s+|any\s+|visual\s+|direct\s+)*(?:access|way|ability|means|capability)"
        rf"\s+(?:to|of)\s+(?:(?:{look}|seeing|viewing)\s+)?{image}",
        rf"\b(?:if|wish)\s+(?:only\s+)?(?:i|we)\s+(?:could\s+{look}|had(?:\s+access\s+to)?)\s+{image}",
        rf"\b(?:i|we)(?:'d|\s+would)\s+(?:have\s+to|need(?:\s+to)?)\s+(?:{look}\s+)?{image}",
        rf"{whole}\s+(?:(?:is|was|are|were|has|have)(?=n't|\s))*(?:{negated}\s+|\s*not\s+)(?:been\s+)?{now}{there}\b{end}",
        rf"{whole}\s+(?:(?:is|was|seems\s+to\s+be|appears\s+to\s+be|may\s+be|might\s+be)\s+)(?:missing|inaccessible|unavailable)\b{end}",
        rf"{whole}\s+(?:(?:did|does|could|will|wo){negated}|failed\s+to)\s+(?:load|come\s+through|upload|open|display|show\s+up|render)\b",
        rf"{whole}\s+(?:can't|cannot|can\s+not|couldn't|could\s+not)\s+be\s+(?:seen|viewed|accessed|displayed|loaded|opened|rendered)\b{end}",
        rf"\bno\s+(?:actual\s+)?{noun}\s+(?:(?:is|was|were|are|has\s+been|have\s+been)\s+)?(?:provided|attached|included|uploaded|available|given|supplied|here|visible)\b",
        rf"\b(?:there(?:'s|\s+is|\s+was|\s+are)|with)\s+no\s+(?:actual\s+|visible\s+)?{noun}{end}",
        rf"\b(?:please|could\s+you|can\s+you|if\s+you\s+(?:can|could))\s+(?:please\s+)?(?:re-?)?(?:upload|attach|share|send|provide|supply|describe)\s+(?:me\s+)?{image}",
        rf"\b(?:you|users?|problem|question|prompt|message)\s+(?:do|does|did|has|have){negated}\s+{now}(?:attach|upload|provide|include|share|send|contain|come\s+with)(?:e?d)?\s+{image}{end}",
        # the question mentions a figure, but I can't see it; we imagine the figure since I can't see it
        rf"\b{noun}\b.*\b(?:i|we)\s+(?:can't|cannot|am\s+unable\s+to|do{negated}|did{negated})\s+{now}(?:see|view|access|have)\s+(?:it|that|one|them)\b(?!\s+(?:clearly|well|all|as))",
        rf"\b{noun}\b.*\b(?:but|though|however|which|yet|as|since|because)\b.*\b(?:it|is|was)(?:'s|\s+is|\s+was)?{negated}\s+(?:provided|(?:shown\s+|given\s+)?here|attached|included|uploaded|visible|available)\b{end}",
    )
    # Chinese: the image itself, not something in it (图中) and not a function's graph (图像 with a property)
    tu = r"(?:图片|图像|图形|附图|配图|原图|示意图|照片|图表|图)(?![中里内上像象片形]|的?(?:性质|信息|解析式|大小|面积|颜色|数据|关系|标注))"
    its = r"(?:任何|这张|这个|这幅|该|此|你的|您的|你|您|题目中?的?|题中的?|提到的|所|上传的?|提供的?|具体的?|实际的?|相关的?|原|到|出)*"
    over = r"(?=[，,。！；、)]|$|可|能|的情况|就|只|所以)"
    chinese = (
        rf"(?:看不到|看不见|(?:无法|不能|没法)(?:直接)?(?:看到|看见|查看|访问|打开|读取|获取|识别)|(?:没有?|未)(?:能)?(?:直接)?(?:看到|看见|收到)){its}{tu}",
        rf"(?:(?:没有?|未)(?:能)?(?:提供|给出|附上|附|上传|配)|缺少|请(?:重新)?(?:提供|上传|发送)){its}{tu}",
        r"(?:图片|附图|配图|原图|示意图|照片|图表|图像|图形|[的张幅，]图|^图)(?:并)?(?:没有?|未能?|无法|不能)(?:被)?(?:正常)?(?:提供|附上|上传|加载|给出|显示|展示)(?:出来)?"
        + over,
        rf"(?:图片|附图|配图|图像|图)(?:缺失|丢失|加载失败|我?(?:看不到|看不见|无法看到)){over}",
        rf"(?:这里|此处|题目?|但|而|因为|由于|^|[，,\s])(?:并)?没有(?:图片|附图|配图|图){over}",
    )
    return [re.compile(p, re.IGNORECASE) for p in english + chinese]


_HINT = re.compile(r"image|pict|photo|figure|diagram|graph|chart|drawing|illustr|screenshot|attachment|图|照片", re.IGNORECASE)
_DENIALS = _denials()


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
