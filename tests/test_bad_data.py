"""What people's data hold that can not be used: each in a sentence, with the row's name, and counted."""
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import plan
from conftest import write_jsonl
from data import read_records
from machinery.files import Refused


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_of(width, height):
    """A PNG that says it is so large, and holds nothing"""
    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


GREY = Image.new("L", (20, 20), 9)
FILES = {"good.png": encoded(GREY), "text.png": b"no picture", "empty.png": b"", "zero.png": png_of(0, 5),
         "cut.png": encoded(Image.effect_noise((99, 99), 9))[:300],
         "bomb.png": png_of(60000, 60000), "large.png": png_of(10000, 9999),
         "no_data.png": png_of(30, 30), "long.png": encoded(Image.new("L", (3001, 15))),
         "film.gif": encoded(GREY, "GIF", save_all=True, append_images=[Image.new("L", (20, 20), 200)]),
         "film.png": encoded(GREY, save_all=True, append_images=[Image.new("L", (20, 20), 200)]),
         "film.webp": encoded(GREY, "WEBP", save_all=True, append_images=[Image.new("L", (20, 20), 200)]),
         "pages.tiff": encoded(GREY, "TIFF", save_all=True, append_images=[GREY]),
         "cut.jpg": encoded(GREY, "JPEG")[:200], "cut.gif": encoded(GREY, "GIF")[:30],
         "cut.tiff": encoded(GREY, "TIFF")[:60],
         "cut.webp": encoded(GREY, "WEBP")[:40], "cut.bmp": encoded(GREY, "BMP")[:60],
         "nan.tiff": encoded(Image.fromarray(np.full((5, 5), np.nan, np.float32)), "TIFF"),
         "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return folder


def talk(*turns):
    return {"question": None, "conversations": [{"from": who, "value": text} for who, text in turns]}


OK_TALK = (("human", "Hi"), ("gpt", "Ho"))
DEEP = "[" * 100_000 + "]" * 100_000
FIELDS = {  # name: (what is different in the row, what the sentence says)
    "answer list in list": ({"answer": [["5"]]}, "its answer is a list"),
    "answer true in list": ({"answer": ["5", True]}, "its answer is true"),
    "an accepted answer blank": ({"answer": ["5", " "]}, "no answer"),
    "half pair in a list": ({"answer": ["5", "\udfff"]}, "its answer has no character at place 1"),
    "answer object": ({"answer": {"value": 5}}, "its answer is an object"),
    "answer nan": ({"answer": float("nan")}, "its answer is nan"),
    "answer inf": ({"answer": float("inf")}, "its answer is inf"),
    "answer -inf": ({"answer": float("-inf")}, "its answer is -inf"),
    "answer true": ({"answer": True}, "its answer is true"),
    "answer false": ({"answer": False}, "its answer is false"),
    "answer empty list": ({"answer": []}, "no answer"),
    "answer blank": ({"answer": " \n"}, "no answer"),
    "question list": ({"question": ["What", "is it?"]}, "its question is a list"),
    "question number": ({"question": 5}, "its question is a number"),
    "question object": ({"question": {"text": "Why?"}}, "its question is an object"),
    "question true": ({"question": True}, "its question is true"),
    "solution list": ({"solution": ["a", "b"]}, "its solution is a list"),
    "solution number": ({"solution": 5}, "its solution is a number"),
    "subject list": ({"subject": ["Art", "Music"]}, "its subject is a list"),
    "id list": ({"id": [1]}, "its id is a list"),
    "id nan": ({"id": float("nan")}, "its id is nan"),
    "options object": ({"options": {"all": ["x", "y"], "more": "z"}}, "its option 1 is a list"),
    "one option": ({"options": "52; -2; 675"}, r"its options are one, '52; -2; 675': write a list of all"),
    "one option in brackets": ({"options": "[0, 1) or not"}, r"its options are one, '\[0, 1\) or not'"),
    "options number": ({"options": 4}, "its options are a number"),
    "an option null": ({"options": ["x", None]}, "its option 2 is null"),
    "an option object": ({"options": [{"text": "x"}, "y"]}, "its option 1 is an object"),
    "an option list": ({"options": ["x", ["y"]]}, "its option 2 is a list"),
    "an option true": ({"options": [True, False]}, "its option 1 is true"),
    "printed options null": ({"options": "['x', None]"}, "its option 2 is null"),
    "27 options": ({"options": list(map(str, range(27)))}, "27 options, more than there are letters"),
    "half pair in question": ({"question": "What \ud800?"},
                              r"its question has no character at place 6, but '\\ud800'"),
    "half pair in answer": ({"answer": "\udfff"}, "its answer has no character at place 1"),
    "half pair in solution": ({"solution": "a\udc00"}, "its solution has no character"),
    "half pair in option": ({"options": ["a", "b\ud83d"]}, "its options has no character"),
    "half pair in subject": ({"subject": "\ud800"}, "its subject has no character"),
    "half pair in id": ({"id": "\ud800"}, "its id has no character"),
    "half pair in turn": (talk(("human", "\ud800"), *OK_TALK[1:]), "its question has no character"),
    "half pair in early turn": (talk(("human", "a"), ("gpt", "\ud800"), *OK_TALK),
                                "has no character"),
    "half pair in path": ({"images": ["\ud800.png"]}, "its images has no character"),
    "a mark of ours": ({"question": "\ufdd0"}, "its question has no character at place 1, but '.ufdd0'"),
    # images
    "null image": ({"images": [None]}, "image 1 is null"),
    "null beside image": ({"images": ["good.png", None]}, "image 2 is null"),
    "image number": ({"images": [5]}, "image 1 is int"),
    "image true": ({"image": True}, "image 1 is bool"),
    "list in list": ({"images": [["good.png"]]}, "image 1 is list"),
    "image without bytes": ({"images": [{"bytes": None, "path": None}]},
                            "image 1 has neither bytes nor a path"),
    "image empty object": ({"images": [{}]}, "image 1 has neither bytes nor a path"),
    "image empty text": ({"images": [""]}, "image 1 is empty"),
    "http": ({"images": ["http://a.org/b.png"]}, r"image 1 is an address \(http://a.org/b.png\)"),
    "https": ({"image": "https://a.org/b.png"}, r"image 1 is an address \(https://a"),
    "s3": ({"image": {"path": "s3://bucket/b.png"}}, r"image 1 is an address \(s3:"),
    "gs": ({"image_1": "gs://bucket/b.png"}, r"image 1 is an address \(gs:"),
    "file address": ({"image": "file:///b.png"}, "image 1 is an address"),
    "bare base64": ({"image": "iVBORw0KGgo" * 40 + "="},
                    r"image 1 is base64 \(iVBORw0KGgoiVBORw0KG...\): write data:image/png;base64, in front"),
    "long path": ({"image": "no/image.png" * 3000}, r"can not be read \(OSError: .{200}\)\n"),
    "data no base64": ({"image": "data:image/svg+xml,%3Csvg%3E"},
                       "image 1 is a data: address that can not be decoded"),
    "data broken": ({"image": "data:image/png;base64,a$b"},
                    "image 1 is a data: address that can not be decoded"),
    "data no image": ({"image": "data:image/png;base64,QUJD"}, r"image .bytes. can not be read"),
    "two columns": ({"images": ["good.png"], "image": "text.png"}, "a column image and a column images"),
    "image named by nul": ({"image": "a\x00b.png"}, "can not be read"),
    "image of long name": ({"image": "a.b" * 5000}, "can not be read"),
    **{name: ({"image": name}, f"image .*{name} {why}") for name, why in {
        **dict.fromkeys(("folder.png", "text.png", "cut.png", "empty.png", "no_data.png", "cut.jpg",
                         "cut.gif", "cut.tiff", "cut.webp", "cut.bmp", "pointer.png", "zero.png"),
                        "can not be read"),
        "none.png": r"can not be read \(FileNotFoundError", "large.png": "has 10000 x 9999 pixels, more than",
        "bomb.png": r"can not be read \(DecompressionBombError", "film.gif": r"is animated .* \(2\)",
        "long.png": "has 3001 x 15 pixels: it is more than 200 times", "film.png": "is animated",
        "film.webp": "is animated", "pages.tiff": "is animated or has several pages",
        "nan.tiff": ".*pixels that are no finite numbers"}.items()},
    # conversations
    "unknown role": (talk(*OK_TALK, ("observation", "x")),
                     "turn 3 of its conversations is by 'observation'; the roles"),
    "tool role": (talk(("human", "a"), ("tool", "x")), "turn 2 of its conversations is by 'tool'"),
    "no role": (talk((None, "a")), "turn 1 of its conversations is by None"),
    "role list": (talk((["human"], "a")), r"turn 1 of its conversations is by \['human'\]"),
    "answer first": (talk(("gpt", "a"), ("human", "b")), "turn 1 of its conversations is out of order"),
    "user twice": (talk(("human", "a"), ("human", "b"), ("gpt", "c")),
                   "turn 2 of its conversations is out of order"),
    "answer twice": (talk(*OK_TALK, ("gpt", "c")), "turn 3 of its conversations is out of order"),
    "system late": (talk(*OK_TALK, ("system", "c")), "turn 3 of its conversations is of the system"),
    "system twice": (talk(("system", "c"), ("system", "c"), *OK_TALK),
                     "turn 2 of its conversations is of the system"),
    "system alone": (talk(("system", "c")), "its conversations have no turn of the user"),
    "user last": (talk(*OK_TALK, ("human", "b")),
                  "no solution and no answer: its conversation ends with the user"),
    "turn empty": (talk(("human", "a"), ("gpt", " ")), "turn 2 of its conversations is empty"),
    "turn null": (talk(("human", "a"), ("gpt", None)), "turn 2 of its conversations is empty"),
    "turn number": (talk(("human", 5), ("gpt", "a")), "turn 1 of its conversations is int"),
    "turn text": ({"question": None, "messages": ["Hi", "Ho"]}, "turn 1 of its messages is str"),
    "talk object": ({"question": None, "messages": {"user": "Hi"}}, "its messages are dict"),
    "talk no JSON": ({"question": None, "conversations": "Hi"}, "its conversations are no JSON"),
    "talk and question": ({"conversations": talk(*OK_TALK, *OK_TALK)["conversations"]},
                          "conversations of 4 turns beside it"),
    "talk and solution": ({**talk(*OK_TALK), "solution": "He"},
                          "it has a solution, and conversations that end with another"),
    "tool calls": ({"question": None, "messages": [{"role": "user", "content": "a"}, {
        "role": "assistant", "content": "b", "tool_calls": [1]}]}, "turn 2 of its messages has tool_calls"),
    "hidden thought": ({"question": None, "messages": [{"role": "user", "content": "a"}, {
        "role": "assistant", "content": "b", "reasoning_content": "c"}]},
                       "turn 2 of its messages has reasoning_content"),
    "video part": ({"question": None, "messages": [{"role": "user", "content": [{"type": "video",
                   "video": "a"}]}]},
                   "turn 1 of its messages has a part of type 'video'"),
    "address in part": ({"question": None, "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.org/b"}}]},
        {"role": "assistant", "content": "b"}]}, "image 1 is an address"),
    "images twice": ({"question": None, "image": "good.png", "messages": [
        {"role": "user", "content": [{"type": "image", "image": "good.png"}]}]},
                     "images in its messages and in a column"),
    "mark in a late turn": (talk(*OK_TALK, ("human", "<image>?"), ("gpt", "c")),
                            "the text names <image 1> but the row has 0"),
    "turns end with user": ({"turns": [{"role": "user", "content": "a"}]},
                            "its turns hold images, or end with the user"),
    "video": ({**talk(*OK_TALK), "video": "a.mp4"}, "it has video, which would be lost"),
    "tools": ({**talk(*OK_TALK), "tools": "[1]"}, "it has tools, which would be lost"),
    "history": ({"history": [["Hi", "Ho"]]}, "it has history, which would be lost"),
    "system list": ({**talk(*OK_TALK), "system": ["Be kind."]}, "its system is a list"),
    "last not learned": ({"question": None, "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
        "the last turn of its messages is not to be learned"),
    "turns number": ({"turns": 5}, "its turns are int"),
}


def test_a_list_of_accepted_answers(model_path, tmp_path, capsys):
    """Training and `plan.py data` read it as the evaluation does: any of them is right. When no row is left,
    no share of --limit_bad is recommended."""
    rows = [{"question": "Why?", "answer": answer} for answer in (["24/7", 3.429], ["5"], "['5', 'five']")]
    write_jsonl(tmp_path / "t.jsonl", rows)
    records = read_records(tmp_path / "t.jsonl", limit_bad=0)
    assert [r.answer for r in records] == ["['24/7', '3.429']", "5", "['5', 'five']"]
    cfg = plan.DataConfig(data=str(tmp_path / "t.jsonl"), model=model_path)
    plan.report(cfg)
    assert "3 rows can be used" in capsys.readouterr().out
    write_jsonl(tmp_path / "t.jsonl", [{"question": "Why?", "answer": [["5"]]}])
    with pytest.raises(Refused, match="its answer is a list, .*\nMend them, because no row is left.$"):
        plan.report(cfg)


@pytest.mark.parametrize("what", FIELDS)
def test_row_is_named_and_counted(pictures, what, tmp_path, capsys):
    changes, sentence = FIELDS[what]
    row = {"question": "Why?", "answer": "5", "id": "r"}
    if "conversations" in changes or "messages" in changes:
        del row["answer"]
    rows = [{"question": "Why?", "answer": "5", "solution": "s"}, {**row, **changes}]
    write_jsonl(tmp_path / "t.jsonl", rows)
    need = ("solution", "answer") if what == "user last" else ("question", "answer")
    options = dict(image_root=str(pictures), need=need)
    named = r"(?s)1 of 2 rows of .*t.jsonl can not be used:\n.*(row 2|row r|t-2).*"
    with pytest.raises(Refused, match=named + sentence) as error:
        read_records(tmp_path / "t.jsonl", **options)
    str(error.value).encode()  # it can be written to a terminal
    assert len(read_records(tmp_path / "t.jsonl", limit_bad=0.5, **options)) == 1
    assert "skipped 1 of 2 rows" in capsys.readouterr().out


LINE = json.dumps({"question": "Why?", "answer": "5"}).encode()
TEXTS = {  # name: (file, content, rows that are good, what is said)
    "latin-1": ("t.jsonl", LINE + b"\n" + LINE.replace(b"Why", b"Wh\xff"), 1,
                "row 2: its question has no character"),
    "deep line": ("t.jsonl", LINE + b"\n" + DEEP.encode(), 1, "row 2: no JSON"),
    "cut line": ("t.jsonl", LINE + b"\n" + LINE[:-4], 1, "row 2: no JSON"),
    "long number": ("t.jsonl", LINE + b"\n" + b'{"answer": ' + b"1" * 5000 + b"}", 1, "row 2: no JSON"),
    "array of more": ("t.json", b"[" + LINE + b", 5]", 1, "row 2: no JSON object but 5"),
    "csv cells": ("t.csv", b"question,answer\nWhy?,5\nWhy?,5,6\n", 1, "row 2: 3 cells, but the header has 2"),
    "csv few cells": ("t.csv", b"question,answer\nWhy?,5\nWhy?\n", 1, "row 2: 1 cells, but the header has 2"),
    "csv quote": ("t.csv", b'question,answer\nWhy?,5\n"Why"?,5\n', 1, "row 2: no CSV"),
    "csv latin-1": ("t.csv", b"question,answer\nWhy?,5\nWh\xf6?,5\n", 1,
                    r"row 2: its question has no character at place 3, but the byte 0xf6: save the file as "
                    r"UTF-8 \(in Excel: CSV UTF-8\)"),
    "csv no answer": ("t.tsv", b"question\tanswer\nWhy?\t5\nWhy?\t\n", 1, "row 2: no answer")}
BROKEN = {  # name: (file, content, what is said)
    "empty": ("t.jsonl", b"", "holds no rows"), "blank": ("t.json", b"\n \n", "holds no rows"),
    "empty array": ("t.json", b"[]", "holds no rows"), "empty csv": ("t.csv", b"", "holds no rows"),
    "header only": ("t.csv", b"question,answer\n", "holds no rows"),
    "cut array": ("t.json", b"[" + LINE + b", " + LINE[:-3], "the JSON array breaks in row 2.*Mend the file"),
    "open array": ("t.json", b"[" + LINE + b", " + LINE, "the JSON array breaks behind row 2"),
    "comma at the end": ("t.json", b"[" + LINE + b",", "the JSON array breaks in row 2"),
    "two arrays": ("t.json", b"[" + LINE + b"]\n[" + LINE + b"]", "text behind the JSON array of 1 rows"),
    "deep array": ("t.json", b"[" + LINE + b', {"a": ' + DEEP.encode() + b"}]",
                   "the JSON array breaks in row 2"),
    "utf-16": ("t.json", LINE.decode().encode("utf-16"), "written in UTF-16: save it as UTF-8"),
    "utf-16 csv": ("t.csv", "question,answer".encode("utf-16"), "written in UTF-16"),
    "pointer": ("t.parquet", FILES["pointer.png"], "Git LFS pointer.*git lfs pull"),
    "no parquet": ("t.parquet", b"question,answer\n", "it can not be read as Parquet"),
    "empty parquet": ("t.parquet", b"", "it can not be read as Parquet"),
    "csv open quote": ("t.csv", b'question,answer\nWhy?,5\n"Why?,5\nWhy?,5\n',
                       "a quoted cell is open at the end"),
    "csv header": ("t.csv", b"question,question\n1,2\n",
                   "its header names the column 'question' more than once"),
    "zip": ("t.zip", b"PK", "data files are .jsonl.*unpacked"), "gz": ("t.jsonl.gz", b"\x1f\x8b",
            "data files are"),
    "xlsx": ("t.xlsx", b"PK", "data files are")}


@pytest.mark.parametrize("what", TEXTS)
def test_row_of_a_file_is_named_and_counted(tmp_path, what):
    name, content, good, sentence = TEXTS[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=f"(?s)1 of 2 rows of .*{name} {sentence}"):
        read_records(tmp_path / name)
    assert len(read_records(tmp_path / name, limit_bad=0.5)) == good


@pytest.mark.parametrize("what", BROKEN)
def test_file_that_is_broken(tmp_path, what):
    """Nobody knows how many rows are lost with it, so --limit_bad does not help."""
    name, content, sentence = BROKEN[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=f"(?s)t\\..*{sentence}"):
        read_records(tmp_path / name, limit_bad=1.0)
