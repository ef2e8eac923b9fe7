"""data.py and machinery/rows.py: rows of every format, what cannot be used is named and counted, prompts,
tiles, and no image is lost."""
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import data
from conftest import png, write_jsonl, write_parquet
from data import THINK, Processor, Record, read_records
from machinery.supervised import rows_with_solutions
from families import make_qwen, make_qwen3
from machinery import rows as R
from machinery.files import Refused
from machinery.mmmu_rows import of_mmmu


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


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

GOOD = [{"id": "x", "question": "How many?", "options": ["a", "b"], "answer": "3.50", "images": ["a.png"]},
        {"id": "07", "question": "Why, \"you\"?\nSay; it, now\u2028", "options": [], "answer": "NA",
         "images": []}]


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(rows[0])
        table.writerows([str(v) if isinstance(v, list) else v for v in row.values()] for row in rows)


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")


def write_array(path, rows):
    path.write_text("\ufeff " + json.dumps(rows, indent=1))


@pytest.mark.parametrize("name, write", {
    "t.jsonl": write_lines, "t.json": write_array, "u.json": write_lines, "t.csv": write_csv,
    "t.parquet": write_parquet}.items())
def test_formats_hold_the_same(folder, name, write):
    """Types are the file's: no float is made of 3.50, no number of 07, no null of NA."""
    write(folder / name, GOOD)
    records = read_records(folder / name)
    want = [(r["id"], r["question"], r["options"], r["answer"]) for r in GOOD]
    assert [(r.id, r.question, r.options, r.answer) for r in records] == want
    assert records[0].images == [str(folder / "a.png")] and records[0].sizes == [(48, 48)]
    assert records[1].images == [] and records[0].text() == "How many?\nA. a\nB. b"


LINE = json.dumps({"question": "Why?", "answer": "5"}).encode()


@pytest.mark.parametrize("name, content", {
    "cut.jsonl": LINE + b"\n" + LINE[:-4], "latin.jsonl": LINE + b"\n" + LINE.replace(b"W", b"\xff"),
    "deep.jsonl": LINE + b"\n" + b"[" * 100_000, "five.json": b"[" + LINE + b", 5]",
    "cells.csv": b"question,answer\nWhy?,5\nWhy?,5,6\n",
    "few.csv": b"question,answer,options\nWhy?,5\nWhy?,5,\n",
    "latin.csv": b"question,answer\nWhy?,5\nWh\xf6?,5\n",
    "half.jsonl": LINE + b"\n" + LINE.replace(b"Why", b"\\ud800")}.items())
def test_a_broken_row_is_counted_and_the_others_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=f"(?s)1 of 2 rows of .*{name} cannot be used.*{name} row "):
        read_records(tmp_path / name)
    assert len(read_records(tmp_path / name, limit_bad=0.5)) == 1


@pytest.mark.parametrize("name, content", {
    "cut.json": b"[" + LINE + b", " + LINE[:-3], "no.parquet": LINE, "empty.jsonl": b"", "none.txt": None,
    "quote.csv": b'question,answer\n"Why"?,5\n', "open.csv": b'question,answer\nWhy?,5\n"Why?,5\nWhy?,5\n',
    "twice.csv": b"question,question\n1,2\n", "t.xlsx": b"PK"}.items())
def test_a_file_whose_rows_nobody_can_count(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=name):
        read_records(tmp_path / name, limit_bad=1.0)


@pytest.mark.parametrize("names, kept", [
    (["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"], [0, 1]),
    (["testmini", "test", "mine"], [2]), (["train/0", "validation/0"], [0]), (["Train", "trained"], [0]),
    (["math_train", "math_test"], [0]), (["algebra-00000-of-00001", "contest"], [0, 1])])
def test_a_folder_is_its_parquet_files_of_the_split(tmp_path, capsys, names, kept):
    """By the exact name. What is left out is said, and a file of another kind beside them is none of them."""
    (tmp_path / "train.jsonl").write_text('{"id": 9, "question": "?", "answer": "1"}')
    for i, name in enumerate(names):
        write_parquet(tmp_path / f"{name}.parquet", [{"id": i, "question": "?", "answer": "1"}])
    assert sorted(int(r.id) for r in read_records(tmp_path)) == kept
    said = capsys.readouterr().out
    assert all((f"{name}.parquet" in said) == (i not in kept) for i, name in enumerate(names))
    if "testmini" in names:
        assert [r.id for r in read_records(tmp_path, split="test")] == ["1"]
        (tmp_path / "mine.parquet").unlink()
        with pytest.raises(Refused, match="no Parquet file of the split 'train'"):
            read_records(tmp_path)


def test_image_root_and_columns(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "a.png").write_bytes(png(9, (60, 50)))
    rows = [{"problem": "p", "ground_truth": 5, "picture": "a.png", "images": ["gone.png"]}]
    columns = ("question=problem", "answer=ground_truth", "image=picture")
    record, = read(folder, rows, columns=columns, image_root=str(other))
    assert (record.question, record.answer, record.sizes) == ("p", "5", [(50, 60)])
    with pytest.raises(Refused, match="no column 'none' .*its columns are problem, ground_truth"):
        read(folder, rows, columns=("question=none",))


# ---------------------------------------------------------------------------------------------- unusable rows

BAD = {
    "no answer": {"answer": ""}, "no question": {"question": "  "}, "an answer blank": {"answer": ["5", " "]},
    "answer true": {"answer": True}, "answer nan": {"answer": float("nan")},
    "question list": {"question": ["a"]}, "missing": {"images": ["gone.png"]}, "null": {"images": [None]},
    "torn": {"images": ["a.png", "torn.png"]}, "two columns": {"image": "b.png"},
    "film": {"images": ["film.gif"]}, "long": {"images": ["long.png"]},
    "third image": {"question": "See <image 3>."}, "a mark, no image": {"question": "<image>", "images": []},
    "two images, three marks": {"question": "<image> <image> <image>", "images": ["a.png", "b.png"]},
    "an option's mark": {"options": ["<image 3>", "<image 2>"], "images": ["a.png", "b.png"]},
    "options text": {"options": "52; -2; 675"}, "an option null": {"options": ["x", None]},
    "turns of one": {"turns": [{"role": "user", "content": "a"}]},
    "turn by a tool": {"turns": [{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}]}}


@pytest.mark.parametrize("what", BAD)
def test_unusable_row_is_named_and_counted(folder, what, capsys):
    (folder / "torn.png").write_bytes(png(size=(300, 300))[:200])
    (folder / "long.png").write_bytes(png(size=(3001, 15)))
    first, second = Image.new("L", (20, 20)), Image.new("L", (20, 20), 200)
    (folder / "film.gif").write_bytes(saved(first, "GIF", save_all=True, append_images=[second]))
    rows = [row(0), row(1, **BAD[what]), row(2)]
    with pytest.raises(Refused, match=r"(?s)1 of 3 rows of .*rows.jsonl cannot be used:.*row 2 \(id r1\): "):
        read(folder, rows)
    assert [r.id for r in read(folder, rows, limit_bad=0.4)] == ["r0", "r2"]
    assert "skipped 1 of 3 rows" in capsys.readouterr().out


def test_one_percent_is_skipped(folder):
    rows = [row(i) for i in range(99)] + [row(99, answer="")]
    assert len(read(folder, rows)) == 99
    with pytest.raises(Refused, match="2 of 100 rows"):
        read(folder, rows[1:] + [row(100, images=["gone.png"])])
    with pytest.raises(Refused, match="1 of 1 rows"):  # nothing left is refused however much is allowed
        read(folder, rows[-1:], limit_bad=1.0)


def test_what_is_not_needed_is_ignored(folder):
    """Whatever its type is"""
    odd = row(1, solution={"steps": ["a"]}, subject=["numbers"], id={"n": 1}, other={"x": 1})
    record, = read(folder, [odd])
    assert (record.id, record.solution, record.subject) == ("rows-1", None, "numbers")
    record, = read(folder, [row(1, solution="s", answer={"a": 1}, subject={})], need=("question", "solution"))
    assert (record.solution, record.answer, record.subject) == ("s", "", "")
    with pytest.raises(Refused, match="its solution is"):
        read(folder, [odd], need=("question", "solution"))


def test_ids_and_answers(folder):
    records = read(folder, [row(0, id=0), row(1, id=""), row(0, answer=0), row(3, answer=["24/7", 3.429])])
    assert [r.id for r in records] == ["0", "rows-2", "r0", "r3"]
    assert records[0].place == f"{folder / 'rows.jsonl'} row 1 (id 0)"
    assert (records[2].answer, records[3].answer) == ("0", "['24/7', '3.429']")


@pytest.mark.parametrize("given, told", [
    ({"image_path": "q/3.png"}, "image=image_path"), ({"decoded": {"bytes": png()}}, "image=decoded"),
    ({"option": "A. 3; B. 5; E. none"}, "options=option"), ({"A": "x", "B": "y"}, "options=COLUMN")])
def test_columns_that_are_not_read_are_said(given, told):
    """With the --columns to type; not where the row has pictures and options of its own."""
    row = {"question": "What is x?", "answer": "B", **given}
    said, = R.remarks(row, {}, Record("", "What is x?", [] if "image" in told else ["a.png"], "B",
                                      options=["x", "y"] if "image" in told else []))
    assert f": --columns {told} (docs/your_data.md)" in said
    assert not [*R.remarks(row, {}, Record("", "What is x?", ["a.png"], "B", options=["x", "y"]))]


# ----------------------------------------------------------------------------------------- options and MMMU's

@pytest.mark.parametrize("options, read_as", [
    *((options, ["52", "-2", "6"]) for options in (
        ["52", "-2", "6"], [52, -2, 6], "['52', '-2', '6']", '["52", "-2", "6"]', ["A. 52", "B. -2", "C. 6"],
        ["A: 52", "B: -2", "C: 6"], ["(A) 52", "(B) -2", "(C) 6"])),
    *((options, options) for options in (["A: 52", "C: -2"], ["A:B", "B:C"], ["A. 52", "-2"]))])
def test_shapes_of_options(folder, options, read_as):
    assert read(folder, [row(0, options=options, answer="B")])[0].options == read_as


@pytest.mark.parametrize("question, answer, options", [
    ("What comes next? (A) a ring (B) a bar (C) a dot", "C", ["a ring", "a bar", "a dot"]),
    ("Next?\nA. a ring\nB. a bar\nAnswer with a letter.", "(A)", ["a ring", "a bar"]),
    ("What comes next? (A) a ring (B) a bar", "a ring", []), ("Next? (A) a ring (B) a bar", "C", []),
    ("Triangle (A)(B) or (C)?", "B", []), ("Point (B) or (A)?", "B", [])])
def test_options_in_the_question(folder, question, answer, options):
    """With letters as golds they are known, and not told once more."""
    record, = read(folder, [row(0, question=question, answer=answer)])
    assert record.options == options and record.text() == question


def test_one_picture_with_several_marks(folder, processor, capsys):
    """They are parts of it: they stay as text, it stands first, and that is said once."""
    question = "Which of <image1>, <image2>, <image3>?"
    records = read(folder, [row(i, question=question, options=["A", "B", "C"]) for i in (1, 2)])
    assert "2 of 2 rows have one picture and several marks" in capsys.readouterr().out
    text = processor.tokenizer.decode(processor.prompts(records)[0].ids)
    assert "user\n<IMG_CONTEXT>\nWhich of <image1>, <image2>, <image3>?<|im_end|>" in text


def test_mmmus_columns(folder):
    """<image 2> is the picture of image_2; one that no text names belongs to the explanation, where others
    are named; an open question has no options."""
    def read_mmmu(row):
        path = folder / "mmmu.jsonl"
        write_jsonl(path, [row])
        return data.find_records(path, convert=of_mmmu)

    columns = {"image_1": None, "image_2": "a.png", "image_3": "b.png", "image_4": "gone.png"}
    texts = {"question": "<image_3> or <image 2>?", "options": "['<image 2>', 'no, \"so\"']", "answer": "B"}
    (record,), _ = read_mmmu({**texts, **columns})
    assert (record.question, record.options) == ("<image 2> or <image 1>?", ["<image 1>", 'no, "so"'])
    assert record.images == [str(folder / "a.png"), str(folder / "b.png")]
    (record,), _ = read_mmmu({"question": "How many?", "answer": "3", "image_1": "a.png", "image_2": "b.png"})
    assert len(record.images) == 2
    (record,), _ = read_mmmu({**texts, **columns, "question_type": "open", "question": "<image 2>?"})
    assert record.options == [] and record.images == [str(folder / "a.png")]
    _, [(_, why)] = read_mmmu({"question": "<image 1>?", "answer": "1", **columns})
    assert "<image 1>, and the column image_1 is empty" in why


# ---------------------------------------------------------------------------------------------------- prompts

def test_places_of_images(processor, rows, prompts):
    """In place when the text says where, first when it says nothing, last when it names only others; and
    what opens the thought stands at the end."""
    direct, text = processor.prompts(rows, thinking=False), "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n"
    assert processor.tokenizer.decode(direct[2].ids) == text + "<|im_start|>assistant\n"
    assert all(processor.tokenizer.decode(a.ids) == processor.tokenizer.decode(b.ids) + THINK
               for a, b in zip(prompts, direct))
    texts = [processor.tokenizer.decode(p.ids).split("user\n")[1].split("<|im_end|>")[0] for p in prompts]
    assert texts[0] == "<IMG_CONTEXT>\n Add the digits in the top row."
    assert texts[1] == "Add the middle digit of <IMG_CONTEXT>\n and the top digit of <IMG_CONTEXT>\n."
    assert [p.record.shown for p in prompts] == [[0], [1, 0], [], [1, 0], [0], [], [0, 1], [0]]
    question, *options = texts[3].split("\n", 1)
    assert question == "In which image is the top digit 4?"
    assert options == ["A. <IMG_CONTEXT>\n\nB. <IMG_CONTEXT>\n\nC. 5 \u00e9"]
    assert texts[4] == "<IMG_CONTEXT>\nWhat is the largest number?"
    assert texts[5] == "How many?\nA. 4\nB. 5"


def test_image_named_twice_and_image_not_named(processor, folder):
    records = read(folder, [row(1, question="<image 2> like <image 2>?", images=["a.png", "b.png"])])
    p, = processor.prompts(records)
    # the one not named is not lost
    assert p.record.shown == [1, 1, 0] and p.ids.count(processor.image_id) == 3
    assert p.full.count(processor.image_id) == 3 * processor.per_tile
    pixels = processor.pixels(p)["pixel_values"]
    assert torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[1], pixels[2])


def test_long_prompts_are_left_out_and_counted(processor, rows, prompts, capsys):
    lengths = [len(p.full) for p in prompts]
    limit = sorted(lengths)[-2]
    # never cut: a prompt as long as the limit leaves no room for a token
    fits = processor.prompts(rows, limit=limit)
    assert [p.record.id for p in fits] == [p.record.id for p, n in zip(prompts, lengths) if n < limit]
    assert "left out: 2 of 8 prompts are longer than" in capsys.readouterr().out and len(fits) == 6
    long = Record("r", "1 " * 600)  # the context of the model is a limit, too
    assert [p.record.id for p in processor.prompts([rows[0], long], limit=10 ** 6)] == [rows[0].id]


@pytest.fixture(scope="module", params=["internvl", "qwen", "qwen3"])
def family(request, model_path, tmp_path_factory):
    if request.param == "internvl":
        return Processor(model_path, max_tiles=4)
    make = make_qwen if request.param == "qwen" else make_qwen3
    return Processor(str(make(tmp_path_factory.mktemp(request.param))))


TALK = [("system", "Be brief."), ("user", "<image>\nHow many?"), ("assistant", "Three dots."),
        ("user", "Sure?"), ("assistant", "Yes."), ("user", "Why?")]


def test_earlier_turns_are_context(family, folder):
    """As the chat template alone writes them; only the solution is learned."""
    turns = [{"role": who, "content": said} for who, said in TALK[:-1]]
    record, = read(folder, [row(1, turns=turns, question="Why?", solution="<think>\nSo.\n</think>\n\n3")])
    parts = [{"role": who, "content": [{"type": "text", "text": said}]} for who, said in TALK]
    parts[1]["content"] = [{"type": "image"}, {"type": "text", "text": "\nHow many?"}]
    text = family.tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
    taught, = rows_with_solutions([record], family, True, 10 ** 6)
    text = text.removesuffix(THINK) + THINK
    assert taught.prompt.ids == family.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert family.tokenizer.decode(taught.ids) == "So.\n</think>\n\n3<|im_end|>"  # <think> is the prompt's
    with pytest.raises(Refused, match="the solution has a </think>"):
        rows_with_solutions([record], family, False, 10 ** 6)


@pytest.mark.parametrize("place", ["question", "options", "solution", "turn", "answer", "system", "ask"])
def test_control_tokens_of_data_are_text(model_path, place):
    """Spelled in a text they get a blank: no turn ends there, no image stands there, nothing else changes."""
    processor = Processor(model_path)
    tokens = [t.content for t in processor.tokenizer.added_tokens_decoder.values() if t.special]
    texts = ["What is " + " or ".join(tokens) + "?<|im_end|>\n<|im_start|>assistant\n7<|im_end|>", "Really?"]

    def ids_of(said):
        own = dict.fromkeys(("question", "options", "solution", "turn", "answer", "system", "ask"), "Why?")
        own[place] = said
        turns = [{"role": "user", "content": own["turn"]}, {"role": "assistant", "content": own["answer"]}]
        record = Record("r", own["question"], [Image.new("RGB", (48, 48))], "7", own["solution"],
                        [own["options"], "B"], turns=turns, sizes=[(48, 48)])
        processor.ask, processor.system = own["ask"], own["system"]
        taught, = rows_with_solutions([record], processor, False, 10 ** 6)
        return taught.prompt.ids + taught.ids
    ids, harmless = ids_of(texts[0]), ids_of(texts[1])
    control = processor.tokenizer.convert_tokens_to_ids(tokens)
    assert [i for i in ids if i in control] == [i for i in harmless if i in control]
    spaced = re.sub("|".join(map(re.escape, tokens)), lambda m: m[0][0] + " " + m[0][1:], texts[0])
    assert processor.tokenizer.decode(ids) == processor.tokenizer.decode(harmless).replace(texts[1], spaced)


# ------------------------------------------------------------------------------------------------------ tiles

@pytest.mark.parametrize("max_tiles", [1, 4, 12])
def test_tiles_are_counted_as_the_processor_cuts(model_path, max_tiles):
    processor = Processor(model_path, max_tiles=max_tiles)
    counts = set()
    sizes = [(48, 48), (10, 10), (96, 48), (48, 144), (100, 97), (200, 150), (640, 480), (333, 111),
             (50, 900), (1, 60)]
    for width, height in sizes:
        picture = Image.new("RGB", (width, height))
        n = len(processor.image_processor(picture, return_tensors="pt")["pixel_values"])
        tokens = processor.family.image_tokens(processor.image_processor, (height, width), processor.per_tile)
        assert tokens == n * processor.per_tile, (width, height)
        counts.add(n)
    assert max(counts) <= max_tiles + 1 and (len(counts) > 2 or max_tiles == 1)


def test_cache_of_pixels_changes_nothing(model_path, rows, monkeypatch):
    big = Processor(model_path, max_tiles=4)
    small = Processor(model_path, max_tiles=4, cache_gib=100e3 / 2 ** 30)
    for p in big.prompts(rows) * 2:
        fresh = Processor(model_path, max_tiles=4).pixels(p)
        assert all(torch.equal(one.pixels(p)[name], fresh[name]) for one in (big, small) for name in fresh)
    assert len(small.cache) < len(big.cache) == 5  # four pictures and the wide one
    monkeypatch.setattr(data, "open_image", None)
    assert big.pixels(p)


def test_images_in_memory(processor, folder):
    """PIL images and bytes instead of paths give the same prompt and pixels."""
    path, = read(folder, [row(1)])
    by_path, = processor.prompts([path])
    for image in (png(1), Image.open(folder / "a.png")):
        record = Record("m", path.question, [image], "3", sizes=[(48, 48)])
        p, = processor.prompts([record])
        assert p.full == by_path.full
        assert torch.equal(processor.pixels(p)["pixel_values"], processor.pixels(by_path)["pixel_values"])


# -------------------------------------------------------------------------------------- pictures of all kinds

def test_pictures_of_phones(folder):
    """As they are to be looked at, with their size; the small picture behind one is none of its own."""
    upright, exif = Image.new("RGB", (60, 40), (200, 0, 0)), Image.Exif()
    upright.paste((0, 0, 255), (0, 0, 20, 10))
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "camera.png", exif=exif)
    small = Image.new("RGB", (4, 3))
    (folder / "phone.jpg").write_bytes(saved(upright, "MPO", save_all=True, append_images=[small]))
    record, = read(folder, [row(1, images=["camera.png", "phone.jpg"])])
    assert record.sizes == [(40, 60)] * 2
    assert data.open_image(record.images[0]).tobytes() == upright.tobytes()


@pytest.mark.parametrize("image, kind, want", [
    (Image.fromarray(np.uint16([[0, 257, 32768, 65535]])), "PNG", [0, 1, 127, 255]),
    (Image.new("CMYK", (4, 1)), "TIFF", [255] * 4), (Image.new("1", (4, 1), 1), "PNG", [255] * 4)])
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
    palette = with_alpha("P", 0, 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert list(data.open_image(saved(palette, transparency=0)).get_flattened_data()) == [
        (255, 255, 255), (10, 20, 30)]
