"""Does a text claim that the image is not there, or that it cannot be seen? (paper section 6)

These are patterns, so there will be misses; the tables of sentences in tests/cases are the specification. A
reader may skip everything but `denies_image`.
"""
import re


def denies_image(text):
    """True when the text claims that the image is not there or cannot be seen, in English or Chinese.

    The claim must be about the image as a whole and about the speaker: "we cannot see point B from A", "the
    image does not show the radius", "the figure is not drawn to scale", "the driver cannot see the picture",
    "图中没有给出半径" are none.
    """
    for sentence in re.split(r"(?<=[.!?])\s+|[\n;。！？；]+", text.replace("’", "'")):
        # a collapsed policy writes sentences without an end: they are read in pieces, so that the time stays
        # linear
        for start in range(0, len(sentence), 300):
            piece = sentence[start:start + 400]
            if _HINT.search(piece) and any(pattern.search(piece) for pattern in _DENIALS):
                return True
    return False


_HINT = re.compile(r"image|pict|photo|figure|diagram|graph|chart|drawing|illustr|screenshot|attachment"
                   r"|图|照片", re.IGNORECASE)

# -------------------------------------------------------------------------------------- parts of the patterns
_NOUN = (r"(?:images?|pictures?|photos?|photographs?|figures?|diagrams?|graphs?|charts?|drawings?"
         r"|illustrations?|screenshots?|attachments?)")
_THE = (r"(?:(?:the|this|that|these|those|your|an?|any|its|actual|attached|provided|given|original|external"
        r"|uploaded|accompanying|mentioned|said)\s+)*")
# not "the image of the point", "the graph crossing the axis", "the picture book", "that figure ABCD is",
# "the figures for 1995"
_IMAGE = (rf"{_THE}{_NOUN}(?!['-]\w|\s+(?:(?!(?:and|but|so|here)\b)\w+ing\b|that\b|which\b|whose\b"
          r"|with\s+(?!th|your)|as\b|for\b|on\b|(?-i:[A-Z]{2,})|of\b"
          r"|in\s+the\s+(?!question|problem|prompt|message)|\w+\s+(?:is|has)\b"
          r"|book|file|clearly|well\b|yet\b))")
_NOW = r"(?:(?:actually|really|directly|currently|also|even|still|just|physically)\s+)*"
_LOOK = (r"(?:see|view|access|open|look\s+at|display|process|perceive|observe|inspect|analy[sz]e)"
         r"(?:\s+(?:or|and)\s+\w+)?")
_I = r"(?:^|\b(?:i|we|and|but|so|since|as|because)\s+)"  # I, we, or nobody; not "the driver can't see"
_CANNOT = (rf"(?:{_I}{_NOW}(?:can't|cannot|can\s+not|couldn't|could\s+not)|(?:\bi|\bwe)(?:'m|'re"
           rf"|\s+am|\s+are)\s+(?:unable\s+to|not\s+able\s+to|blind\s+to))\s+{_NOW}")
_NEGATED = r"(?:n't|\s+not|\s+never)"
# behind "the image is not shown": the sentence ends, or goes on without a place or a person ("from P", "to
# scale")
_END = (r"(?=\s*(?:[.,:!?)]|$|here\b|to\s+me\b|for\s+me\b|so\b|but\b|and\b|because\b|unfortunately\b"
        r"|(?:in|with|to|along\s+with)\s+(?:the|this|your)\s+"
        r"(?:question|prompt|message|problem|text|input|chat|conversation)))")
_THERE = (r"(?:provided|attached|included|visible|available|uploaded|here|present|accessible|loaded|loading"
          r"|displayed|displaying|shown|showing\s+up|given)")
# not "the angle in the figure is not given"
_WHOLE = (r"(?:(?<!\bof\s)(?<!\bin\s)(?<!\bon\s)\b(?:the|this|your|an?)\s+(?:actual\s+|attached\s+)?|^\W*|\()"
          r"(?<!\bof\sthe\s)(?<!\bin\sthe\s)(?<!\bon\sthe\s)(?<!from\sthe\s)(?<!\bin\sthis\s)"
          rf"{_NOUN}(?:\s+(?:itself|content|provided|mentioned|in\s+question))?")

# --------------------------------------------------------------------------------------- each in one sentence
_ENGLISH = (
    rf"{_CANNOT}(?:{_LOOK}\s+)?{_IMAGE}",
    rf"{_CANNOT}{_LOOK}\s+what(?:'s|\s+is)?(?:\s+(?:shown|depicted|displayed))?\s+(?:in|on)\s+{_IMAGE}",
    rf"\b(?:not\s+(?:being\s+able\s+to\s+{_LOOK}|having|seeing)|without\s+(?:being\s+able\s+to\s+{_LOOK}"
    r"|(?:actually\s+|directly\s+)*(?:seeing|viewing|having)"
    r"|(?:direct\s+|visual\s+|having\s+)*access\s+to|the\s+actual))"
    rf"\s+{_IMAGE}",
    rf"(?:^\W*|\b(?:however|but|and|so)\W+)without\s+{_IMAGE}\s*,?\s*"
    rf"(?:i|we|it)(?:'m|'ll|'s|'d)?\s+(?:can't|cannot"
    r"|can\s+only|have\s+to|must|will|would|am|are|is|need|hard|difficult|impossible|guess)",
    rf"\b(?:can't|cannot|hard|difficult|impossible|tough|unable)\b[^,]*\bwithout\s+{_IMAGE}{_END}",
    rf"\b(?:i|we)\s+{_NOW}(?:do|did|have){_NEGATED}\s+{_NOW}(?:see|seen|have|receive[d]?|get|been\s+given)\s+"
    rf"(?:access\s+to\s+)?{_IMAGE}(?=\s*(?:[.,:!?)]|$|here|attached|provided|in\s+(?:front|your|the)"
    r"|to\s+(?:look|work|refer)|so\b|but\b|and\b|available))",
    r"\b(?:i|we)(?:'m|'re|\s+am|\s+are|\s+was|\s+were|wasn't|weren't|aren't)?(?:\s+was|\s+were|\s+are)?"
    rf"(?:{_NEGATED})\s+{_NOW}(?:seeing|receiving|given|shown|provided\s+with)\s+{_IMAGE}{_END}",
    rf"\b(?:i|we)\s+{_NOW}(?:have\s+no|lack|do{_NEGATED}\s+have)\s+(?:the\s+|any\s+|visual\s+|direct\s+)*"
    rf"(?:access|way|ability|means|capability)\s+(?:to|of)\s+(?:(?:{_LOOK}|seeing|viewing)\s+)?{_IMAGE}",
    rf"\b(?:if|wish)\s+(?:only\s+)?(?:i|we)\s+(?:could\s+{_LOOK}|had(?:\s+access\s+to)?)\s+{_IMAGE}",
    rf"\b(?:i|we)(?:'d|\s+would)\s+(?:have\s+to|need(?:\s+to)?)\s+(?:{_LOOK}\s+)?{_IMAGE}",
    rf"{_WHOLE}\s+(?:(?:is|was|are|were|has|have)(?=n't|\s))*(?:{_NEGATED}\s+|\s*not\s+)"
    rf"(?:been\s+)?{_NOW}{_THERE}\b{_END}",
    rf"{_WHOLE}\s+(?:(?:is|was|seems\s+to\s+be|appears\s+to\s+be|may\s+be|might\s+be)\s+)"
    rf"(?:missing|inaccessible|unavailable)\b{_END}",
    rf"{_WHOLE}\s+(?:(?:did|does|could|will|wo){_NEGATED}|failed\s+to)\s+"
    r"(?:load|come\s+through|upload|open|display|show\s+up|render)\b",
    rf"{_WHOLE}\s+(?:can't|cannot|can\s+not|couldn't|could\s+not)\s+be\s+"
    rf"(?:seen|viewed|accessed|displayed|loaded|opened|rendered)\b{_END}",
    rf"\bno\s+(?:actual\s+)?{_NOUN}\s+(?:(?:is|was|were|are|has\s+been|have\s+been)\s+)?"
    r"(?:provided|attached|included|uploaded|available|given|supplied|here|visible)\b",
    rf"\b(?:there(?:'s|\s+is|\s+was|\s+are)|with)\s+no\s+(?:actual\s+|visible\s+)?{_NOUN}{_END}",
    r"\b(?:please|could\s+you|can\s+you|if\s+you\s+(?:can|could))\s+(?:please\s+)?(?:re-?)?"
    rf"(?:upload|attach|share|send|provide|supply|describe)\s+(?:me\s+)?{_IMAGE}",
    rf"\b(?:you|users?|problem|question|prompt|message)\s+(?:do|does|did|has|have){_NEGATED}\s+{_NOW}"
    rf"(?:attach|upload|provide|include|share|send|contain|come\s+with)(?:e?d)?\s+{_IMAGE}{_END}",
    # the question mentions a figure, but I can't see it; we imagine the figure since I can't see it
    rf"\b{_NOUN}\b.*\b(?:i|we)\s+(?:can't|cannot|am\s+unable\s+to|do{_NEGATED}|did{_NEGATED})\s+{_NOW}"
    r"(?:see|view|access|have)\s+(?:it|that|one|them)\b(?!\s+(?:clearly|well|all|as))",
    rf"\b{_NOUN}\b.*\b(?:but|though|however|which|yet|as|since|because)\b.*\b"
    rf"(?:it|is|was)(?:'s|\s+is|\s+was)?{_NEGATED}"
    rf"\s+(?:provided|(?:shown\s+|given\s+)?here|attached|included|uploaded|visible|available)\b{_END}",
)

# Chinese: the image itself, not something in it (图中) and not a function's graph (图像 with a property)
_TU = (r"(?:图片|图像|图形|附图|配图|原图|示意图|照片|图表|图)(?![中里内上像象片形]"
       r"|的?(?:性质|信息|解析式|大小|面积|颜色|数据|关系|标注))")
_ITS = (r"(?:任何|这张|这个|这幅|该|此|你的|您的|你|您|题目中?的?|题中的?|提到的|所|上传的?|提供的?|具体的?"
        r"|实际的?|相关的?|原|到|出)*")
_OVER = r"(?=[，,。！；、)]|$|可|能|的情况|就|只|所以)"
_CHINESE = (
    r"(?:看不到|看不见|(?:无法|不能|没法)(?:直接)?(?:看到|看见|查看|访问|打开|读取|获取|识别)"
    rf"|(?:没有?|未)(?:能)?(?:直接)?(?:看到|看见|收到)){_ITS}{_TU}",
    rf"(?:(?:没有?|未)(?:能)?(?:提供|给出|附上|附|上传|配)|缺少|请(?:重新)?(?:提供|上传|发送)){_ITS}{_TU}",
    r"(?:图片|附图|配图|原图|示意图|照片|图表|图像|图形|[的张幅，]图|^图)(?:并)?(?:没有?|未能?|无法|不能)(?:被)?(?:正常)?"
    rf"(?:提供|附上|上传|加载|给出|显示|展示)(?:出来)?{_OVER}",
    rf"(?:图片|附图|配图|图像|图)(?:缺失|丢失|加载失败|我?(?:看不到|看不见|无法看到)){_OVER}",
    rf"(?:这里|此处|题目?|但|而|因为|由于|^|[，,\s])(?:并)?没有(?:图片|附图|配图|图){_OVER}",
)
_DENIALS = [re.compile(pattern, re.IGNORECASE) for pattern in _ENGLISH + _CHINESE]
