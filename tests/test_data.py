"""data.py: rows of every format, what is refused by name, prompts, tiles, and no image is lost."""
import base64
import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import data
from conftest import write_jsonl
from data import THINK, Chat, read_records
from machinery.files import Refused


def png(colour=0, size=(48, 48)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    return tmp_path


def row(i, **more):
    return {"id": f"r{i}", "question": "How many?", "images": ["a.png"], "answer": "3", **more}


def read(folder, rows, **options):
    write_jsonl(folder / "rows.jsonl", rows)
    return read_records(folder / "rows.jsonl", **options)


# ---------------------------------------------------------------------------------------------------- formats

def test_jsonl(folder):
    a, b, c = read(folder, [row(1, options=["x", "y"], subject="Math", solution="s"),
                            {"question": "2+2?", "answer": 4},
                            {"question": "q", "answer": "3", "image": "b.png"}])
    assert a.id == "r1" and a.images == [str(folder / "a.png")] and a.sizes == [(48, 48)]
    assert a.solution == "s" and a.subject == "Math"
    assert a.text() == "How many?\nA. x\nB. y"
    # a number is an answer, and so is 0
    assert b.id == "rows-2" and b.answer == "4" and b.images == [] and b.solution is None
    assert c.images == [str(folder / "b.png")]
    assert read(folder, [row(1, answer=0)])[0].answer == "0"


def test_columns_are_mapped(folder):
    rows = [{"problem": "p", "ground_truth": "5", "picture": "a.png"}]
    record, = read(folder, rows,
                   columns={"question": "problem", "answer": "ground_truth", "images": "picture"})
    assert (record.question, record.answer, len(record.images)) == ("p", "5", 1)


def test_parquet_file_and_folder(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq
    images = [{"bytes": png(7, (60, 50)), "path": None}, {"bytes": png(8), "path": "x.png"}]
    table = pa.Table.from_pylist([{"id": "p1", "question": "q <image 2>", "images": images, "answer": "1"}])
    pq.write_table(table, folder / "t.parquet")
    pq.write_table(table, folder / "u.parquet")
    one, both = read_records(folder / "t.parquet"), read_records(folder)
    assert len(one) == 1 and len(both) == 2
    assert one[0].sizes == [(50, 60), (48, 48)]
    assert data.open_image(one[0].images[0]).getpixel((0, 0)) == (7, 20, 30)


def test_the_worlds_files(tiny):
    for name, need in (("base", ("question", "solution")), ("rl", ("question", "answer")),
                       ("connector", ("question", "solution"))):
        records = read_records(tiny / f"{name}.jsonl", need=need)
        assert len(records) == sum(1 for _ in open(tiny / f"{name}.jsonl"))
        assert all(r.images and r.sizes for r in records)


def test_unusual_line_breaks_inside_a_text(folder):
    """JSON may hold U+2028 and U+0085 as they are: only \\n ends a row. A last empty line is no row."""
    odd = "one\u2028two\u0085three"
    lines = [json.dumps(row(1, question=odd), ensure_ascii=False), json.dumps(row(2)), ""]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    assert [r.question for r in read_records(folder / "rows.jsonl")] == [odd, "How many?"]


# ---------------------------------------------------------------------------------------------- unusable rows

BAD = {
    "no answer": (dict(answer=""), r"row 2 \(id r1\): no answer"),
    "answer is null": (dict(answer=None), r"row 2 \(id r1\): no answer"),
    "no question": (dict(question="  "), r"row 2 \(id r1\): no question"),
    "missing image": (dict(images=["gone.png"]),
                      r"rows.jsonl row 2 \(id r1\): image .*gone.png can not be read "
                      r"\(FileNotFoundError"),
    "torn image": (dict(images=["a.png", "torn.png"]), r"row 2 \(id r1\): image .*torn.png can not be read"),
    "no image at all": (dict(images=["rows.jsonl"]),
                        r"row 2 \(id r1\): image .*rows.jsonl can not be read \(UnidentifiedImageError"),
    "image is a folder": (dict(images=["."]), r"row 2 \(id r1\): image .* can not be read"),
    "names a third image": (dict(question="See <image 3>."),
                            r"row 2 \(id r1\): the text names <image 3> but the row has 1 image"),
    "names image 0": (dict(question="See <image 0>."), r"names <image 0>"),
    "an option names it": (dict(options=["<image 1>", "<image 2>"]), r"names <image 2>"),
    "two marks, one image": (dict(question="<image> and <image>"),
                             r"row 2 \(id r1\): the text names <image 2> but the row has 1 image"),
    "a mark, no image": (dict(question="<image>", images=[]), r"names <image 1> but the row has 0 image"),
}


@pytest.mark.parametrize("what", BAD)
def test_unusable_row_is_named_and_refused(folder, what):
    (folder / "torn.png").write_bytes(png(size=(300, 300))[:200])
    changes, pattern = BAD[what]
    with pytest.raises(Refused,
                       match=f"(?s)1 of 3 rows of .*rows.jsonl can not be used:.*{pattern}.*--limit_bad"):
        read(folder, [row(0), row(1, **changes), row(2)])


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "5", "null", '"text"'])
def test_line_that_is_no_row(folder, line):
    (folder / "rows.jsonl").write_text("\n".join([json.dumps(row(0)), line, json.dumps(row(2))]))
    with pytest.raises(Refused, match=r"(?s)1 of 3 rows.*rows.jsonl row 2: no JSON"):
        read_records(folder / "rows.jsonl")


def test_one_percent_is_skipped_with_a_count(folder, capsys):
    rows = [row(i) for i in range(99)] + [row(99, answer="")]
    assert len(read(folder, rows)) == 99
    said = capsys.readouterr().out
    assert "skipped 1 of 100 rows" in said and "row 100 (id r99): no answer" in said
    with pytest.raises(Refused, match="2 of 100 rows"):
        read(folder, rows[1:] + [row(100, images=["gone.png"])])
    assert len(read(folder, rows[1:] + [row(100, images=["gone.png"])], limit_bad=0.02)) == 98
    with pytest.raises(Refused, match="1 of 1 rows"):  # nothing left is refused however much is allowed
        read(folder, [row(1, answer="")], limit_bad=1.0)


def test_most_images_are_missing(folder):
    """Then the folder is wrong, and not the rows."""
    gone = [row(i, images=["gone.png"]) for i in range(2)]
    with pytest.raises(Refused, match=r"is --image_root right\?\nMend"):
        read(folder, [*gone, row(2)])
    with pytest.raises(Refused) as error:
        read(folder, [*gone, row(2), row(3)])
    assert "image_root" not in str(error.value)


def test_the_id_0_is_an_id(folder):
    first, second = read(folder, [row(0, id=0), row(1, id="")])
    assert (first.id, first.place) == ("0", f"{folder / 'rows.jsonl'} row 1 (id 0)")
    assert second.id == "rows-2" and second.place.endswith("rows.jsonl row 2")


def test_ids_that_stand_twice_are_told(folder, capsys):
    assert len(read(folder, [row(0), row(0), row(0), row(1)])) == 4
    said = capsys.readouterr().out
    assert said == f"{folder / 'rows.jsonl'}: 1 ids stand on several rows (r0 on 3): logs name rows by id\n"
    read(folder, [row(0), row(1)])
    assert capsys.readouterr().out == ""


def test_empty_and_missing_data(folder):
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(Refused, match="empty.jsonl holds no rows"):
        read_records(folder / "empty.jsonl")
    with pytest.raises(Refused, match="none.jsonl: no such file.*make tiny"):
        read_records(folder / "none.jsonl")
    with pytest.raises(Refused, match="none.parquet"):
        read_records(folder / "none.parquet")
    (folder / "sub").mkdir()
    with pytest.raises(Refused, match="sub: no Parquet file"):
        read_records(folder / "sub")
    with pytest.raises(Refused, match="nobody/nothing-at-all: neither a file"):
        read_records("nobody/nothing-at-all")
    with pytest.raises(Refused, match="--data is empty"):
        read_records("")
    with pytest.raises(Refused, match="--need solutions: no such field; there are id, question"):
        read(folder, [row(1)], need=("solutions",))


# ---------------------------------------------------------------------------------------------------- prompts

def test_thinking_opens_the_thought(chat, rows):
    think, direct = chat.prompts(rows, thinking=True), chat.prompts(rows, thinking=False)
    for a, b in zip(think, direct):
        assert chat.tokenizer.decode(a.ids) == chat.tokenizer.decode(b.ids) + THINK
        assert chat.tokenizer.decode(b.ids).endswith("<|im_start|>assistant\n")
    text = chat.tokenizer.decode(direct[2].ids)
    assert text == "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"


def test_places_of_images(chat, rows, prompts):
    """In place when the text says where, first when it says nothing, last when it names only others."""
    texts = [chat.tokenizer.decode(p.ids).split("user\n")[1].split("<|im_end|>")[0] for p in prompts]
    assert texts[0] == "<IMG_CONTEXT>\n Add the digits in the top row."
    assert texts[1] == "Add the middle digit of <IMG_CONTEXT>\n and the top digit of <IMG_CONTEXT>\n."
    assert [p.record.shown for p in prompts] == [[0], [1, 0], [], [1, 0], [0], [], [0, 1], [0]]
    question, *options = texts[3].split("\n", 1)
    assert question == "In which image is the top digit 4?"
    assert options == ["A. <IMG_CONTEXT>\n\nB. <IMG_CONTEXT>\n\nC. 5 \u00e9"]
    assert texts[4] == "<IMG_CONTEXT>\nWhat is the largest number?"
    assert texts[5] == "How many?\nA. 4\nB. 5"


def test_image_named_twice_and_image_not_named(chat, folder):
    records = read(folder, [row(1, question="<image 2> like <image 2>?", images=["a.png", "b.png"])])
    p, = chat.prompts(records)
    assert p.record.shown == [1, 1, 0] and p.ids.count(chat.image_id) == 3  # the one not named is not lost
    assert p.full.count(chat.image_id) == 3 * chat.per_tile
    pixels = chat.pixels(p)["pixel_values"]
    assert torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[1], pixels[2])


def test_expansion_keeps_everything_else(chat, prompts):
    begin, end = chat.marks
    assert len(begin) == len(end) == 1
    for p in prompts:
        kept = [i for i in p.full if i not in (chat.image_id, *begin, *end)]
        assert kept == [i for i in p.ids if i != chat.image_id]
        assert p.full.count(chat.image_id) == len(chat.pixels(p).get("pixel_values", [])) * chat.per_tile


def test_literal_placeholder_is_text(chat, folder):
    p, = chat.prompts(read(folder, [row(1, question="What does <IMG_CONTEXT> mean?")]))
    assert p.ids.count(chat.image_id) == 1 and "What does <IMG_CONTEXT> mean?" in chat.tokenizer.decode(p.ids)


def test_long_prompts_are_left_out_and_counted(chat, rows, prompts, capsys):
    lengths = [len(p.full) for p in prompts]
    limit = sorted(lengths)[-2]
    # never cut: a prompt as long as the limit leaves no room for a token
    fits = chat.prompts(rows, limit=limit)
    assert [p.record.id for p in fits] == [p.record.id for p, n in zip(prompts, lengths) if n < limit]
    assert "left out: 2 of 8 prompts are longer than" in capsys.readouterr().out and len(fits) == 6
    with pytest.raises(Refused,
                       match="8 of 8 prompts are longer than 5 tokens .*nothing is left.*--max_tiles"):
        chat.prompts(rows, limit=5)


def test_context_of_the_model_is_a_limit(chat, folder):
    records = read(folder, [row(0), row(1, question="1 " * 600)])
    assert [p.record.id for p in chat.prompts(records, limit=10 ** 6)] == ["r0"]


# ------------------------------------------------------------------------------------------------------ tiles

@pytest.mark.parametrize("max_tiles", [1, 4, 12])
def test_tiles_are_counted_as_the_processor_cuts(model_path, max_tiles):
    chat = Chat(model_path, max_tiles=max_tiles)
    counts = set()
    sizes = [(48, 48), (10, 10), (96, 48), (48, 144), (100, 97), (200, 150), (640, 480), (333, 111),
             (50, 900), (1, 60)]
    for width, height in sizes:
        n = len(chat.processor(Image.new("RGB", (width, height)), return_tensors="pt")["pixel_values"])
        tokens = chat.family.image_tokens(chat.processor, (height, width), chat.per_tile)
        assert tokens == n * chat.per_tile, (width, height)
        counts.add(n)
    assert max(counts) <= max_tiles + 1 and (len(counts) > 2 or max_tiles == 1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1", "LA"])
def test_every_kind_of_image(chat, folder, mode):
    image = Image.new(mode, (48, 48))
    name = "m.tiff" if mode in ("CMYK", "I;16") else "m.png"
    image.save(folder / name)
    record, = read(folder, [row(1, images=[name])])
    assert chat.pixels(chat.prompts([record])[0])["pixel_values"].shape == (1, 3, 48, 48)


def test_cache_of_pixels_changes_nothing(model_path, rows, monkeypatch):
    big, small = Chat(model_path, max_tiles=4), Chat(model_path, max_tiles=4, cache_gib=100e3 / 2 ** 30)
    opened = []
    monkeypatch.setattr(data, "open_image", lambda image, f=data.open_image: opened.append(image) or f(image))
    for chat, reads in ((big, 5), (small, 5 + 2 * (9 - 3))):
        opened.clear()
        for _ in range(3):
            for p in chat.prompts(rows):
                out = chat.pixels(p)
                assert not out or torch.equal(out["pixel_values"],
                                              Chat(model_path, max_tiles=4).pixels(p)["pixel_values"])
    assert len(small.cache) < len(big.cache) == 5  # four pictures and the wide one


def test_images_in_memory(chat, folder):
    """PIL images and bytes instead of paths give the same prompt and pixels."""
    path, = read(folder, [row(1)])
    by_path, = chat.prompts([path])
    for image in (png(1), Image.open(folder / "a.png")):
        record = data.Record("m", path.question, [image], "3", sizes=[(48, 48)])
        p, = chat.prompts([record])
        assert p.full == by_path.full
        assert torch.equal(chat.pixels(p)["pixel_values"], chat.pixels(by_path)["pixel_values"])


def test_stop_ids(chat):
    assert chat.tokenizer.eos_token_id in chat.stop_ids and chat.image_id not in chat.stop_ids


# ---------------------------------------------------------------------------------- files as people have them

GOOD = [{"id": "x", "question": "How many?", "options": ["a", "b"], "answer": "3", "images": ["a.png"]},
        {"id": "y", "question": "Why, \"you\"?\nSay; it, now", "options": [], "answer": "4", "images": []}]


def as_array(rows):
    return json.dumps(rows, indent=2)


def as_csv(separator, bom=""):
    def write(rows):
        out = io.StringIO()
        table = csv.writer(out, delimiter=separator)
        table.writerow(rows[0])
        table.writerows([json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows)
        return bom + out.getvalue()
    return write


@pytest.mark.parametrize("name, write", {
    "t.json": as_array, "u.jsonl": as_array, "v.json": lambda rows: "\ufeff  " + json.dumps(rows),
    "w.JSONL": lambda rows: "\ufeff" + "\n".join(map(json.dumps, rows)), "t.csv": as_csv(","),
    "t.tsv": as_csv("\t"), "u.csv": as_csv(";", bom="\ufeff"), "v.csv": as_csv("\t")}.items())
@pytest.mark.parametrize("as_folder", [False, True])
def test_formats_hold_the_same(folder, name, write, as_folder):
    (folder / "sub").mkdir()
    (folder / "a.png").rename(folder / "sub" / "a.png")
    (folder / "sub" / name).write_text(write(GOOD), encoding="utf-8")
    records = read_records(folder if as_folder else folder / "sub" / name)
    want = [(r["id"], r["question"], r["options"], r["answer"]) for r in GOOD]
    assert [(r.id, r.question, r.options, r.answer) for r in records] == want
    assert records[0].images == [str(folder / "sub" / "a.png")] and records[0].sizes == [(48, 48)]
    assert records[1].images == []


@pytest.mark.parametrize("options", [
    ["52", "-2", "6"], "['52', '-2', '6']", '["52", "-2", "6"]', ["A. 52", "B. -2", "C. 6"],
    ["(A) 52", "(B) -2", "(C) 6"], ["A: 52", "B: -2", "C: 6"], "['A) 52', 'B) -2', 'C) 6']",
    ["A.52", "B.-2", "C.6"], {"A": 52, "B": -2, "C": 6, "D": None}, {"C": "6", "B": "-2", "A": "52"},
    '{"A": "52", "B": "-2", "C": "6"}', "{'A': '52', 'B': '-2', 'C': '6'}",
    {"label": ["A", "B", "C"], "text": ["52", "-2", "6"]},
    [{"label": "B", "text": "-2"}, {"label": "A", "text": "52"}, {"label": "C", "text": "6"}]])
def test_shapes_of_options(folder, options):
    record, = read(folder, [row(0, options=options, answer="B")])
    assert (record.options, record.answer) == (["52", "-2", "6"], "B")


@pytest.mark.parametrize("options, answer", [
    ({"1": "52", "2": "-2", "10": "6"}, "2"), ({"label": [1, 2, 3], "text": ["52", "-2", "6"]}, 2),
    (["A. 52", "B. -2", "C. 6"], "B. -2")])
def test_an_answer_by_the_name_of_an_option(folder, options, answer):
    record, = read(folder, [row(0, options=options, answer=answer)])
    assert (record.options, record.answer) == (["52", "-2", "6"], "B")


@pytest.mark.parametrize("options", [["A: 52", "C: -2"], ["A:B", "B:C"], ["A. 52", "-2"], ["A", "B"]])
def test_options_that_are_left_as_they_are(folder, options):
    assert read(folder, [row(0, options=options)])[0].options == options


def test_an_empty_column_of_images(folder):
    """<image 2> is the picture of the column image_2, also when image_1 is empty."""
    Image.new("RGB", (20, 30)).save(folder / "b.png")
    columns = {"image_1": None, "image_2": "a.png", "image_3": "b.png"}
    texts = {"question": "<image_3> or <image 2>?", "options": ["<image 2>", "no"], "answer": "B"}
    record, = read(folder, [{**texts, **columns}])
    assert (record.question, record.options) == ("<image 2> or <image 1>?", ["<image 1>", "no"])
    assert record.sizes == [(48, 48), (30, 20)]
    with pytest.raises(Refused, match="<image 1>, and the column image_1 is empty"):
        read(folder, [{"question": "<image 1>?", "answer": "1", **columns}])


@pytest.mark.parametrize("more, options", [
    (dict(A="52", B="-2", C="", D=None, answer="B"), ["52", "-2"]),
    (dict(A="52", B="-2", answer="C"), []), (dict(A="52", B="-2", answer="52"), []),
    (dict(A="52", answer="A"), []), (dict(A="52", B="-2", answer="(b)"), ["52", "-2"]),
    (dict(A="52", B="-2", answer="A, B", options=[]), ["52", "-2"]),
    (dict(A="52", B="-2", answer="B", options=["x", "y"]), ["x", "y"])])
def test_options_in_columns(folder, more, options):
    """VLMEvalKit has a column for each letter."""
    assert read(folder, [row(0, **more)])[0].options == options


@pytest.mark.parametrize("names, read, left", [
    (["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"], [0, 1], "test-0000"),
    (["data/train", "data/val", "data/testmini-00000-of-00001"], [0], "data/testmini-00000-of-00001"),
    (["train/0000", "validation/0000"], [0], "validation/0000"),
    (["mine", "test"], [0], "test"), (["train", "mine"], [0], "mine"),
    (["val-00000-of-00002", "val-00001-of-00002"], [0, 1], None), (["trained", "testing"], [0], "testing"),
    (["train/data-00000-of-00001", "test/data-00000-of-00001"], [0], "test/data-00000-of-00001"),
    (["math_train", "math_test"], [0], "math_test"), (["Train", "Test"], [0], "Test"),
    (["algebra-00000-of-00001", "contest"], [0, 1], None)])
def test_a_folder_with_splits(tmp_path, capsys, names, read, left):
    """Rows that are for testing are not trained on, and what is left out is said."""
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": i, "question": "?", "answer": "1"}))
    assert sorted(int(r.id) for r in read_records(tmp_path)) == read
    said = capsys.readouterr().out
    assert f"split 'train': {left}" in said if left else said == ""


def test_a_folder_of_other_splits(tmp_path):
    for name in ("val", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "?", "answer": "1"}')
    with pytest.raises(Refused, match="no file of the split 'train', but of test, validation: name the file"):
        read_records(tmp_path)
    assert len(read_records(tmp_path, split="test")) == len(read_records(tmp_path, split="validation")) == 1


def test_one_object_over_several_lines(folder):
    (folder / "t.json").write_text(json.dumps(GOOD[0], indent=2))
    assert read_records(folder / "t.json")[0].options == ["a", "b"]


def test_folder_of_several_kinds(folder):
    (folder / "t.json").write_text(as_array(GOOD))
    (folder / "u.csv").write_text(as_csv(",")(GOOD))
    with pytest.raises(Refused, match="holds files of several kinds .*1 .json, 1 .csv"):
        read_records(folder)
    (folder / "u.csv").rename(folder / ".u.csv")
    assert len(read_records(folder)) == 2


def test_broken_parquet(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = pa.table({"question": ["Why?"] * 2000, "answer": [str(i) for i in range(2000)]})
    pq.write_table(table, folder / "t.parquet", row_group_size=500)
    whole = (folder / "t.parquet").read_bytes()
    assert len(read_records(folder / "t.parquet")) == 2000
    for broken in (whole[:-100], whole[:50], whole[:1000] + b"?" * 900 + whole[1900:]):
        (folder / "t.parquet").write_bytes(broken)
        with pytest.raises(Refused, match="t.parquet: it can not be read as Parquet .*Mend the file"):
            read_records(folder / "t.parquet", limit_bad=1.0)
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"Why?", b"\xff\xfe"], pa.binary()).buffers())
    pq.write_table(pa.table({"question": bad, "answer": ["1", "2"]}), folder / "t.parquet")
    with pytest.raises(Refused, match="t.parquet row 2: a text of it is no UTF-8"):
        read_records(folder / "t.parquet")


def test_image_root(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "a.png").write_bytes(png(9, (60, 50)))
    assert read(folder, [row(1)], image_root=str(other))[0].images == [str(other / "a.png")]
    whole = row(1, images=[str(folder / "b.png")])
    assert read(folder, [whole], image_root=str(other))[0].sizes == [(48, 48)]
    with pytest.raises(Refused, match="--image_root .*nowhere: no such folder"):
        read(folder, [row(1)], image_root=str(other / "nowhere"))


# -------------------------------------------------------------------------------------- pictures of all kinds

def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_data_address_is_decoded(folder):
    text = "data:image/png;base64," + base64.b64encode(png(5)).decode()
    assert read(folder, [row(1, images=[text])])[0].images == [png(5)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_of_cameras(folder, orientation):
    """The picture as it is to be looked at, and its size"""
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste((255, 0, 0), (0, 0, 20, 10))  # a red corner, top left
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's number of the turn that the camera made
    turned = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(folder / "camera.png", exif=exif)
    record, = read(folder, [row(1, images=["camera.png"])])
    assert record.sizes == [(40, 60)]
    assert data.open_image(record.images[0]).tobytes() == upright.tobytes()


@pytest.mark.parametrize("image, kind, want", [
    (Image.fromarray(np.uint16([[0, 257, 32768, 65535]])), "PNG", [0, 1, 128, 255]),
    (Image.fromarray(np.uint16([[0, 100, 100, 200]])), "TIFF", [0, 0, 0, 1]),  # the file says 16 bits
    (Image.fromarray(np.int32([[0, 257, 32768, 65535]])), "TIFF", [0, 1, 128, 255]),
    (Image.fromarray(np.int32([[0, 1, 128, 255]])), "TIFF", [0, 1, 128, 255]),
    (Image.fromarray(np.int32([[-100, -100, 0, 100000]])), "TIFF", [0, 0, 0, 255]),
    (Image.fromarray(np.float32([[0, 0.25, 0.5, 1]])), "TIFF", [0, 64, 128, 255]),
    (Image.fromarray(np.float32([[0, 1, 128, 255]])), "TIFF", [0, 1, 128, 255]),
    (Image.fromarray(np.float32([[5e5, 5e5, 5e5, 5e5]])), "TIFF", [0, 0, 0, 0])])
def test_deep_pictures_are_scaled(image, kind, want):
    opened = data.open_image(saved(image, kind))
    assert opened.mode == "RGB" and [p[0] for p in opened.get_flattened_data()] == want


def with_alpha(mode, *pixels):
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def test_what_is_transparent_is_white():
    """It lies over black in most files, and would be black on black."""
    rgba = with_alpha("RGBA", (0, 0, 0, 0), (10, 20, 30, 255), (0, 0, 0, 127))
    seen = [(255, 255, 255), (10, 20, 30), (128, 128, 128)]
    assert list(data.open_image(saved(rgba)).get_flattened_data()) == seen
    la = with_alpha("LA", (0, 0), (10, 255), (0, 127))
    assert [p[0] for p in data.open_image(saved(la)).get_flattened_data()] == [255, 10, 128]
    palette = with_alpha("P", 0, 1, 2)
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    assert list(data.open_image(saved(palette, transparency=0)).get_flattened_data()) == [
        (255, 255, 255), (10, 20, 30), (40, 50, 60)]
    rgb = with_alpha("RGB", (1, 2, 3), (4, 5, 6))
    assert list(data.open_image(saved(rgb, transparency=(1, 2, 3))).get_flattened_data()) == [
        (255, 255, 255), (4, 5, 6)]
    assert list(data.open_image(saved(rgb)).get_flattened_data()) == [(1, 2, 3), (4, 5, 6)]


def test_ink_of_printers():
    """CMYK, and as Adobe writes it into JPEG: inverted"""
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        red, green, blue = data.open_image(saved(ink, kind)).getpixel((8, 8))
        assert red < 5 and green > 250 and blue > 250


def test_photo_with_a_small_one_behind_it(folder):
    big, small = Image.new("RGB", (40, 30), (200, 0, 0)), Image.new("RGB", (4, 3))
    (folder / "phone.jpg").write_bytes(saved(big, "MPO", save_all=True, append_images=[small]))
    assert read(folder, [row(1, images=["phone.jpg"])])[0].sizes == [(30, 40)]
