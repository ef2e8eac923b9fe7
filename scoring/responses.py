"""What stands where in a response: the text behind its thought, the last \\boxed{} of that text. No torch."""
import re
import unicodedata
from dataclasses import dataclass

_BRACES = re.compile(r"\\{1,4}boxed\s*\{|\\.|[{}]", re.DOTALL)  # \{ is a character, not a brace


@dataclass(frozen=True)
class Claim:
    """What a response says, and what it is compared with."""
    answer: str | None   # what it claims to be the answer
    missing: str         # why there is none
    format: bool         # does it keep the template?
    gold: str
    options: list | None = None  # the texts of A, B, C, ...
    question: str = ""
    stated: str | None = None    # an unboxed answer, plainly stated: for a verifier, never for the rule


def after_thought(response, thinking_prompt):
    """The text behind the last </think>; None when a thought was prompted, or opened, and never closed."""
    _, tag, tail = response.rpartition("</think>")
    return None if not tag and (thinking_prompt or opens_thought(response)) else tail


def opens_thought(response):
    """Did it write the <think> that its prompt lacks? Then it is judged like one that was prompted."""
    return response.lstrip().startswith("<think>")


_STATED = re.compile(r"(?:^|[.!?。！？] ?)(?:(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my|our) )?"
                     r"(?:(?:final|correct) )?answer(?: is:?|:)|(?:所以|因此)?,?答案(?:是|为|[:：])) *"
                     r"(\S.{0,199})$", re.IGNORECASE)


def stated_answer(text):
    """The 5 of a text whose last sentence is "The answer is 5."; None when there is more or less to read."""
    m = _STATED.search(text.replace("**", "").strip().rpartition("\n")[2])
    once = len(re.findall(r"\banswer(?: is|:)|答案(?:是|为|[:：])", text, re.IGNORECASE)) == 1
    answer = re.sub(r",? (?:because|since)\b.*", "", m[1]).rstrip(" .。") if m and once else ""
    whole = answer.count("{") == answer.count("}") and not re.search(r"[.!?] |[。！？;；]", answer)
    return answer if answer and whole else None


def last_box(text):
    """What the last balanced \\boxed{} of the text holds, or None. It is the box that closes last."""
    open_braces, answer = [], ""  # of each open brace where its content starts when it is a box, else None
    for m in _BRACES.finditer(text, max(0, text.find("boxed") - 8)):
        if m[0] == "}" and open_braces:
            start = open_braces.pop()
            answer = answer if start is None else text[start:m.start()].strip()
        elif m[0][-1] == "{" and m[0] != "\\{":
            open_braces.append(None if m[0] == "{" else m.end())
    inner = re.fullmatch(r"\\{1,4}boxed\s*\{([^{}]*)\}", answer)  # \boxed{\boxed{5}}
    return (inner[1].strip() if inner else answer) or None


def says_something(text):
    """Is there a word, a number or a symbol left without tags, special tokens and an empty \\boxed{}?"""
    text = re.sub(r"</?think>|<\|[^|<>]{1,40}\|>|\\{1,4}boxed\s*\{\s*\}", "", text)
    return any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in text)
