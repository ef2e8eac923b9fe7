"""Conversations as people have them (LLaVA's, ShareGPT's, chat messages) -> turns of our own -> what a chat
template takes. No torch here.

A turn is {"role": "system", "user" or "assistant", "content": text}. A user's text names its images in place,
<image> or <image N>, and counts them over the whole talk. Of an answer, "learn": False says that it is only
read ("weight": 0 in other people's files).
"""
import json
import re

from machinery.fields import BadRow, text
from machinery.files import Refused
from machinery.plain_text import ANSWER, CLOSE, OPEN

THINK, END_THINK = "<think>\n", "</think>"
# MMMU writes <image 1>, MathVision <image1>, OlympiadBench <image_1>
IMAGE_MARK = re.compile(r"<image(?:[ _]?(\d+))?>")

COLUMNS = ("conversations", "messages")
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
         "model": "assistant", "chatgpt": "assistant"}
# what a turn can hold beside its text, and would be lost
LOST = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")


def talk_fields(row):
    """A row with a conversation in our fields: what stands before the last question (turns), the question,
    and the last answer, which is also the solution. A row without one as it is."""
    column = next((c for c in COLUMNS if row.get(c)), None)
    if not column:
        return row
    if row.get("question"):  # the talk may say the same once more, but no more than that
        if isinstance(row[column], list) and len(row[column]) > 2:
            raise BadRow(f"it has a question, and {column} of {len(row[column])} turns beside it: leave one "
                         f"away")
        return row
    talk, images = turns_of(row[column], column)
    if row.get("system") and all(turn["role"] != "system" for turn in talk):
        talk.insert(0, {"role": "system", "content": text(row, "system")})  # ShareGPT has it as a column
    if not talk or talk[-1]["role"] == "system":
        raise BadRow(f"its {column} have no turn of the user")
    if images and (row.get("images") or row.get("image")):
        raise BadRow(f"it has images in its {column} and in a column")
    answered = talk[-1]["role"] == "assistant"
    answer = talk[-1]["content"] if answered else None
    if "learn" in talk[-1]:
        raise BadRow(f"the last turn of its {column} is not to be learned: leave it away")
    if answered and row.get("solution") not in (None, "", answer):
        raise BadRow(f"it has a solution, and {column} that end with another answer: which is meant?")
    *turns, question = talk[:-1] if answered else talk
    given = {name: value for name, value in row.items() if value not in (None, "")}
    return {"answer": answer, "solution": answer, **({"images": images} if images else {}), **given,
            "turns": turns, "question": question["content"]}


def turns_of(talk, column="turns"):
    """(turns, images that stand in the turns themselves). The order of roles is that of a chat: a system turn
    or none, then user and assistant by turns."""
    if isinstance(talk, str):  # a cell of a CSV file
        try:
            talk = json.loads(talk)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"its {column} are no JSON ({str(error)[:80]})") from error
    if not isinstance(talk, list):
        raise BadRow(f"its {column} are {type(talk).__name__}, a list of turns was expected")
    turns, images = [], []
    for n, turn in enumerate(talk, 1):
        name = f"turn {n} of its {column}"
        if not isinstance(turn, dict):
            raise BadRow(f"{name} is {type(turn).__name__}, not an object with its role and text")
        turns.append({"role": role_of(turn, name), "content": text_of(turn, name, images)})
        if turn.get("learn") is False or turn.get("weight") == 0:
            turns[-1]["learn"] = False
    roles = [t["role"] for t in turns if t["role"] != "system"]
    system = [n for n, t in enumerate(turns) if t["role"] == "system"]
    wrong = [n for n, role in enumerate(roles) if role != ("user", "assistant")[n % 2]]
    if system not in ([], [0]):
        raise BadRow(f"turn {system[-1] + 1} of its {column} is of the system, which can only speak first, "
                     f"and once")
    if wrong:
        raise BadRow(f"turn {wrong[0] + len(system) + 1} of its {column} is out of order: user and assistant "
                     f"speak by turns, and the user begins")
    return turns, images


def role_of(turn, name):
    role = turn.get("from") or turn.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRow(f"{name} is by {ascii(role)[:40]}; the roles that are known are {', '.join(ROLES)}")
    if lost := [key for key in LOST if turn.get(key)]:
        raise BadRow(f"{name} has {lost[0]}, which would be lost: write it into the text")
    return ROLES[role.lower()]


def text_of(turn, name, images):
    """The text of a turn. Of a list of parts, an image becomes a mark in the text, and its source is appended
    to `images`."""
    content = turn.get("value") or turn.get("content")
    if isinstance(content, list):
        content = "".join(text_of_part(part, name, images) for part in content)
    if not isinstance(content, str) or not content.strip():
        kind = "empty" if not content or isinstance(content, str) else type(content).__name__
        raise BadRow(f"{name} is {kind}, a text was expected")
    return content


def text_of_part(part, name, images):
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind not in ("image", "image_url"):
        raise BadRow(f"{name} has a part of type {ascii(kind)[:40]}; text and image are read")
    source = part.get("image") or part.get("image_url") or part.get("path") or part.get("url")
    source = source.get("url") if isinstance(source, dict) and "url" in source else source
    if source:
        images.append(source)
    return "<image>"


# -------------------------------------------------------------------------------------- for the chat template

def messages(record, rest, ask, system, hide):
    """What a chat template is filled with. rest: number of images that no text names; they stand before the
    first question, or behind the last where texts name others. hide: of PlainText. Earlier answers are
    stand-ins, because some templates (Qwen3's) throw their thoughts away."""
    turns = [{"role": turn["role"], "content": parts_of(turn, hide)} for turn in record.turns]
    turns.append({"role": "user", "content": parts_of({"role": "user", "content": record.text()}, hide)})
    if ask:
        turns[-1]["content"].append(text_part("\n" * bool(record.text()) + ask, hide))
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    images = [{"type": "image"} for _ in range(rest)]
    if record.named_images():
        asked[-1] += images
    else:
        asked[0][:0] = images
    if system and turns[0]["role"] == "system":
        raise Refused(f"{record.name()} has a system turn of its own, and --system gives another. "
                      f"Leave one of them away.")
    return [{"role": "system", "content": [text_part(system, hide)]}] * bool(system) + turns


def text_part(text, hide):
    return {"type": "text", "text": hide(text)}


def parts_of(turn, hide):
    """The parts of a turn: texts, and an image where the user's text has a mark."""
    if turn["role"] == "assistant":
        return [{"type": "text", "text": ANSWER}]
    if turn["role"] == "system":
        return [text_part(turn["content"], hide)]
    parts, at = [], 0
    for mark in IMAGE_MARK.finditer(turn["content"]):
        parts += [text_part(turn["content"][at:mark.start()], hide), {"type": "image"}]
        at = mark.end()
    parts.append(text_part(turn["content"][at:], hide))
    return [part for part in parts if part["type"] == "image" or part["text"]]


def answers_of(record):
    """[(text, is it learned?)] of its earlier turns"""
    return [(t["content"], t.get("learn", True)) for t in record.turns if t["role"] == "assistant"]


def fill_answers(out, turns, record, hide, path):
    """The text that a template made, with the answers in their places. Those that are learned stand between
    OPEN and CLOSE. A thought is opened before that: the model does not learn to write <think>, because its
    prompts end with it."""
    answers = answers_of(record)
    system = turns[0]["content"][0]["text"] if turns[0]["role"] == "system" else ""
    if system.strip() not in out:
        of = record.name() if len(turns) == len(record.turns) + 1 else "--system"
        raise Refused(f"{of}: the chat template of {path} leaves a system turn out. Use --ask.")
    if out.count(ANSWER) != len(answers):
        raise Refused(f"{record.name()}: the chat template of {path} leaves answers of earlier turns out")
    for answer, learned in answers:
        if thinks := END_THINK in answer:
            answer = answer.removeprefix("<think>").lstrip("\n")
        answer = f"{OPEN}{hide(answer)}{CLOSE}" if learned else hide(answer)
        out = out.replace(ANSWER, THINK * thinks + answer, 1)
    return out
