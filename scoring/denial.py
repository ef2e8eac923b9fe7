"""Does a text claim that the image is not there, or that it cannot be seen? (paper section 6)

These are patterns, so there will be misses; the tables of sentences in tests/cases are the specification.
"""
import re


def denies_image(text):
    """True when the text claims that the image is not there or cannot be seen, in English or Chinese.

    The claim must be about the image as a whole and about the speaker: "we cannot see point B from A", "the
    image does not show the radius", "the figure is not drawn to scale", "the driver cannot see the picture",
    "图中没有给出半径" are none."""
    text = text.replace("’", "'").replace("can not", "cannot")
    for sentence in re.split(r"(?<=[.!?])\s+|[\n;。！？；]+", text):
        sentence = " ".join(sentence.split())  # so a blank in a pattern is enough
        # a collapsed policy writes sentences without an end: they are read in pieces, so that the time stays
        # linear
        for start in range(0, len(sentence), 300):
            piece = sentence[start:start + 400]
            if _HINT.search(piece) and any(pattern.search(piece) for pattern in _DENIALS):
                return True
    return False


_HINT = re.compile(r"image|pict|photo|figure|diagram|graph|chart|drawing|illustr|screenshot|attachment"
                   r"|图|照片", re.IGNORECASE)

_NOUN = (r"(?:images?|pictures?|photos?|photographs?|figures?|diagrams?|graphs?|charts?|drawings?"
         r"|illustrations?|screenshots?|attachments?)")
# not "the image of the point", "the graph crossing the axis", "the picture book", "that figure ABCD is",
# "the figures for 1995"
_IMAGE = (r"(?:(?:the|this|that|these|those|your|an?|any|its|actual|attached|provided|given|original|external"
          rf"|uploaded|accompanying|mentioned|said) )*{_NOUN}\b(?!['-]\w| (?:(?!(?:and|but|so|here)\b)\w+ing"
          r"\b|that\b|which\b|whose\b|with (?!th|your)|as\b|for\b|on\b|(?-i:[A-Z]{2,})|of\b|in the "
          r"(?!question|problem|prompt|message)|\w+ (?:is|has)\b|book|file|clearly|well\b|yet\b))")
# behind "the image is not shown": the sentence ends, or goes on without a place or a person ("from P", "to
# scale")
_END = (r"(?= ?(?:[.,:!?)]|$|here\b|to me\b|for me\b|so\b|but\b|and\b|because\b|unfortunately\b|(?:in|with"
        r"|to|along with) (?:the|this|your) (?:question|prompt|message|problem|text|input|chat"
        r"|conversation)))")
_SPEAKER = r"(?:\b(?:i|we)(?:'\w+)?(?: \w+){,3}? ?|(?:^|\b(?:and|but|so|since|as|because) ))"
_SEE = (r"(?:(?:the |any )?(?:able|ability|access|actually|also|be|been|being|currently|direct|directly"
        r"|even|get|given|had|have|having|just|means|of|physically|provided|really|receiv(?:e|ed|ing)|see"
        r"|seeing|seen|shown|still|to|viewing|visual|way|with|(?:or|and) \w+|what(?:'s| is| is shown) in) )")
_LOOK = r"(?:view|access|open|look at|display|process|perceive|load|observe|inspect|analy[sz]e) "
_CANNOT = r"(?:cannot|can't|couldn't|could not|unable|blind|no|lack|not (?:being )?able|have the ability)"
# not "the angle in the figure is not given"
_WHOLE = (r"(?:(?<!\bof )(?<!\bin )(?<!\bon )\b(?:the|this|your|an?) (?:actual |attached )?|^\W*|\()"
          rf"(?<!\bof the )(?<!\bin the )(?<!\bon the )(?<!from the )(?<!\bin this ){_NOUN}"
          r"(?: (?:itself|content|provided|mentioned|in question))?")
_THERE = (r"(?:provided|attached|included|visible|available|uploaded|here|present|accessible|loaded|loading"
          r"|displayed|displaying|shown|showing up|given|seen|viewed|accessed|opened|rendered|load|upload"
          r"|come through|open|display|show up|render)")
_ENGLISH = (
    rf"(?:{_SPEAKER}(?:(?:\w+n't|not|never) {_SEE}+|{_CANNOT} (?:{_SEE}|{_LOOK})+)|\bwithout (?:{_SEE}+"
    r"|the actual (?=\w))|\b(?:if|wish) (?:only )?(?:i|we) (?:could (?:see|view|access)|had(?: access to)?) "
    rf"|\b(?:i|we)(?:'d| would) (?:have to|need(?: to)?) (?:see |view )?){_IMAGE}",
    rf"(?:^|\b(?:however|but|and|so)\W+)without {_IMAGE} ?,? ?(?:i|we|it)\b",
    rf"\b(?:can't|cannot|hard|difficult|impossible|tough|unable|guess)\b[^,]*\bwithout {_IMAGE}{_END}",
    rf"{_WHOLE} (?:(?:\w+(?:n't| not)|not|cannot|failed to) (?:(?:been|be|actually|even) )*{_THERE}"
    rf"|(?:\w+ to be|may be|might be|is|was) (?:missing|inaccessible|unavailable))\b{_END}",
    rf"\bno (?:actual )?{_NOUN} (?:(?:is|was|were|are|has been|have been) )?(?:provided|attached|included"
    r"|uploaded|available|given|supplied|here|visible)\b",
    rf"\b(?:there(?:'s| is| was| are)|with) no (?:actual |visible )?{_NOUN}{_END}",
    r"\b(?:please|could you|can you|if you (?:can|could)) (?:please )?(?:re-?)?(?:upload|attach|share|send"
    rf"|provide|supply|describe) (?:me )?{_IMAGE}",
    r"\b(?:you|users?|problem|question|prompt|message) \w+(?:n't| not) (?:attach|upload|provide|include|share"
    rf"|send|contain|come with)(?:e?d)? {_IMAGE}{_END}",
    # the question mentions a figure, but I can't see it; we imagine the figure, as it is not shown
    rf"\b{_NOUN}\b.*\b(?:i|we) (?:\w+n't|cannot|am unable to|\w+ not) (?:see|view|access|have) (?:it|that"
    r"|one|them)\b(?! (?:clearly|well|all|as))",
    rf"\b{_NOUN}\b.*\b(?:but|though|however|which|yet|as|since|because)\b.*\b(?:it|is|was)(?:'s| is| was)?"
    rf"(?:n't| not) (?:shown here|given here|{_THERE})\b{_END}",
)

# Chinese: the image itself, not something in it (图中) and not a function's graph (图像 with a property)
_TU = (r"(?:图片|图像|图形|附图|配图|原图|示意图|照片|图表|图)(?![中里内上像象片形]|的?(?:性质|信息|解析式"
       r"|大小|面积|颜色|数据|关系|标注))")
_ITS = (r"(?:任何|这张|这个|这幅|该|此|你的|您的|你|您|题目中?的?|题中的?|提到的|所|上传的?|提供的?|具体的?"
        r"|实际的?|相关的?|原|到|出)*")
_OVER = r"(?=[，,。！；、)]|$|可|能|的情况|就|只|所以)"
_CHINESE = (
    r"(?:看不到|看不见|(?:无法|不能|没法)(?:直接)?(?:看到|看见|查看|访问|打开|读取|获取|识别)|(?:没有?"
    rf"|未)(?:能)?(?:直接)?(?:看到|看见|收到)){_ITS}{_TU}",
    rf"(?:(?:没有?|未)(?:能)?(?:提供|给出|附上|附|上传|配)|缺少|请(?:重新)?(?:提供|上传|发送)){_ITS}{_TU}",
    r"(?:图片|附图|配图|原图|示意图|照片|图表|图像|图形|[的张幅，]图|^图)(?:并)?(?:没有?|未能?|无法"
    rf"|不能)(?:被)?(?:正常)?(?:提供|附上|上传|加载|给出|显示|展示)(?:出来)?{_OVER}",
    rf"(?:图片|附图|配图|图像|图)(?:缺失|丢失|加载失败|我?(?:看不到|看不见|无法看到)){_OVER}",
    rf"(?:这里|此处|题目?|但|而|因为|由于|^|[，,\s])(?:并)?没有(?:图片|附图|配图|图){_OVER}",
)
_DENIALS = [re.compile(pattern, re.IGNORECASE) for pattern in _ENGLISH + _CHINESE]
