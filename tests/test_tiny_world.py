"""The tiny world: same bytes of the same seed, right solutions, searches that end where they should, what
is really to be seen, unseen handwriting, an encoder that learns, files that load."""
import hashlib
import io
import json
import random
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import blank_model
import encoder
import make as world
import small
from blank_model import make_tokenizer
from conftest import few_looks
from data import Processor, read_records
from model import load
from pictures import COLOURS, make_pools
from questions import AT_ONCE, BARS, COLUMNS, LINES, NOUN, PAIRS, PLACES, ROWS, look
from stages import spied, tensors

SIZES = dict(captions=60, sums=12, base=900, cold_start=400, rl=60, rl_hard=30,
             connector=60, connector_val=24, val=40, math_test=150, other_test=40)
SETS = ("base", "cold_start", "connector", "connector_val", "val", "rl", "rl_hard", "captions")
LEARNED = ("base", "cold_start", "connector", "connector_val", "val")  # these have solutions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, the sets that were written into it; base's captions and sums stand for themselves)"""
    out, sets, make_sets = tmp_path_factory.mktemp("world") / "tiny", {}, world.make_sets

    def make_and_keep(*args):
        sets.update(make_sets(*args))
        return sets

    with pytest.MonkeyPatch.context() as m:
        few_looks(m, world)
        m.setattr(world, "make_sets", make_and_keep)
        world.make(world.Config(out=str(out), seed=3, **SIZES))
    parts = {"base": [], "captions": []}
    for row in sets["base"]:
        parts["captions" if row["kind"] in ("caption", "sums") else "base"].append(row)
    return out, sets | parts


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


@pytest.fixture(scope="module")
def sets(made):
    return made[1]


def test_same_seed_same_bytes_and_made_once(folder, tmp_path, monkeypatch, capsys):
    few_looks(monkeypatch, world)
    cfg = world.Config(out=str(tmp_path / "again"), seed=3, **SIZES)
    world.make(cfg)
    hashes = [{str(f.relative_to(at)): hashlib.sha256(f.read_bytes()).hexdigest()
               for f in at.rglob("*") if f.is_file()} for at in (folder, tmp_path / "again")]
    assert hashes[0] == hashes[1] and not list(tmp_path.glob("*.part"))
    before = (tmp_path / "again" / "base.jsonl").stat().st_mtime_ns
    world.make(cfg)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="made with another seed"):
        world.make(replace(cfg, seed=4))
    assert (tmp_path / "again" / "base.jsonl").stat().st_mtime_ns == before


def test_the_texts_of_this_seed_are_what_they_were(folder):
    """What docs/ and evidence/ say is said of these questions and solutions."""
    texts = hashlib.sha256()
    for name in (*SETS[:-1], "mmmu"):
        for line in open(folder / (f"{name}.jsonl" if name != "mmmu" else "truth.json")):
            texts.update(line.encode())
    assert texts.hexdigest() == "b86fa8969db59de4dbfa6c2f10e1b17c3bf37daf3fce36ebd72adefd04a49c50"


@pytest.mark.parametrize("name", SETS[:-1])
def test_files(name, folder, sets):
    rows = [json.loads(line) for line in open(folder / f"{name}.jsonl")]
    questions = [row for row in rows if row["kind"] not in ("caption", "sums")]
    assert [(r["question"], r["answer"], r["options"], r.get("solution"), len(r["images"])) for r in questions
            ] == [(r["question"], r["answer"], r["options"], r.get("solution"), len(r["scenes"]))
                  for r in sets[name]]
    assert len(questions) == SIZES[name] and len({r["id"] for r in rows}) == len(rows)
    for row, made in zip(questions, sets[name]):
        for path, scene in zip(row["images"], made["scenes"]):
            assert np.array_equal(np.asarray(Image.open(folder / path)), scene.pixels)
        text = " ".join([row["question"], *row["options"]])
        shown = {int(n) for n in re.findall(r"<image (\d)>", text)}
        assert shown == set(range(1, len(row["images"]) + 1)), row
        assert not row["options"] or len(set(row["options"])) == 4 and row["answer"] in "ABCD"
        assert "solution" not in row and row["subject"] == "Math" if "rl" in name else row["solution"]


def test_solutions(sets):
    for name in LEARNED:
        for row in sets[name]:
            solution, answer = row["solution"], row["answer"]
            thought, _, last = solution.rpartition("\n" if name == "base" else "\n</think>\n\n")
            assert last == f"\\boxed{{{answer}}}", row
            assert ("</think>" in solution) == (name != "base")
            operations = re.findall(r"(\d+) ([-+]) (\d+) = (\d+)", thought)
            assert len(operations) == thought.count("=")
            assert all(int(a) + int(b) * (1 if sign == "+" else -1) == int(c) for a, sign, b, c in operations)
            if thought and thought != AT_ONCE:
                assert re.search(rf"(^|\W){answer}\.$", thought), row  # it ends on its answer


def test_pictures_told_in_words(folder):
    """No picture, every question asks about one, and the thought's last word on a place is what was told."""
    rows = [json.loads(line) for line in open(folder / "cold_start_words.jsonl")]
    assert len(rows) == SIZES["cold_start"] and {row["subject"] for row in rows} == set(world.SUBJECTS)
    for row in rows:
        assert not row["images"] and "<image" not in " ".join([row["question"], *row["options"]])
        told = dict(re.findall(r"([a-z][a-z ]*): ([^.]+)\.", row["question"]))
        lines, several, single = ROWS, {**LINES, "corner": (0, 2, 6, 8)}, PLACES
        if row["subject"] == "Economics":
            lines, several, single = BARS, {**PAIRS, "bars": (0, 1, 2)}, BARS
        cells = [cell for line in lines for cell in told[line].split(", ")]
        places = {**several, **{name: (i,) for i, name in enumerate(single)}}
        thought = row["solution"].partition("</think>")[0].strip()
        for place, values in dict(readings(thought) if thought != AT_ONCE else ()).items():
            assert values == [cells[i] for i in places[place]], row


# ------------------------------------------------------------------------- from the tiles, without the steps

def named_tiles(row):
    """{name of a reading: tiles} of all that can be read in the pictures of a question, by hand."""
    first, asked = row["scenes"][0].tiles, names_in(row)
    if row["kind"] == "image_options":
        return {"": [by_name(scene, asked[0]) for scene in row["scenes"]]}
    if row["kind"] == "two_images":
        return {name: [by_name(scene, name)] for name, scene in zip(asked, row["scenes"])}
    if row["subject"] == "Economics":
        left, middle, right = first
        return {"left": [left], "middle": [middle], "right": [right], "bars": first,
                "left and middle": [left, middle], "left and right": [left, right],
                "middle and right": [middle, right]}
    return {name: [first[i] for i in at] for name, at in LINES.items()} | {
        name: [tile] for name, tile in zip(PLACES, first)} | {"corner": [first[i] for i in (0, 2, 6, 8)]}


def by_name(scene, name):
    return scene.tiles[(BARS if scene.subject == "Economics" else PLACES).index(name)]


def names_in(row):
    """The lines, places and pairs of bars that a question names, in its order."""
    bars = row["subject"] == "Economics"
    words = sorted((*BARS, *PAIRS) if bars else (*LINES, *PLACES, "corner"), key=len, reverse=True)
    text = row["question"].replace(NOUN.get(row["subject"], "bar"), "")
    return re.findall(rf"\b({'|'.join(words)})\b", text)


def candidates_of(row):
    """What a search can try."""
    pairs = "left and middle", "left and right", "middle and right"
    lines = {"row": ROWS, "column": COLUMNS, "line": (*ROWS, *COLUMNS), "bars": pairs}
    return lines[re.search(r"Which (\w+) adds?", row["question"])[1]]


def answer_of(row):
    """The answer, from the words of the question and the tiles alone."""
    tiles, asked, kind = named_tiles(row), names_in(row), row["kind"]
    values = {name: [t.value for t in some] for name, some in tiles.items()}
    if kind in ("total", "range"):
        asked = ["bars"]
    sums = [sum(values[name]) for name in asked if name in values]
    if kind in ("range", "range_line"):
        seen = sum((values[name] for name in asked), [])
        return max(seen) - min(seen)
    if kind in ("diff_sums", "balance"):
        return abs(sums[0] - sums[1])
    if kind.startswith("which"):
        goal = int(re.search(r"(\d+)\?$", row["question"])[1])
        name, = (name for name in candidates_of(row) if sum(values[name]) == goal)  # exactly one
        return name
    if kind == "image_options":
        said = re.search(rf"((?:(?:{'|'.join(COLOURS)}) )?\d+)\?$", row["question"])[1]
        letter, = (k for k, t in enumerate(tiles[""]) if said in (look(t), str(t.value)))
        return "ABCD"[letter]
    assert kind in ("read", "sum_line", "corners", "sum_two", "sum_two_lines", "total", "two_images"), kind
    return sum(sums)


def readings(steps):
    """[(name, values)] of all readings, in their order."""
    out, name = [], ""
    for sentence in steps.removesuffix(".").split(". "):
        wait = sentence.startswith("Wait, ")
        text = sentence.removeprefix("Wait, ").removeprefix("Alternatively, ")
        if "=" in text or text.startswith("Largest") or text in (*LINES, *PAIRS, *"ABCD"):
            continue
        before, colon, values = text.rpartition(": ")
        name = before if colon or not wait else name
        out.append((name, values.split(", ")))
    return out


@pytest.mark.parametrize("name", (*LEARNED, "rl", "rl_hard", "mmmu"))
def test_answer_and_steps_are_what_the_picture_shows(name, sets):
    """The last reading of every name is true; an earlier one may take one doubtful tile for its other."""
    first_looks = 0
    for row in sets[name]:
        value = row["answer"]
        if row["options"] and row["kind"] != "image_options":
            value = row["options"]["ABCD".index(value)]
        assert value == str(answer_of(row)), row["question"]
        tiles, last = named_tiles(row), {}
        for place, values in readings(row["steps"]):
            shown = tiles[place]
            last[place] = values, shown
            wrong = [(v, t) for v, t in zip(values, shown, strict=True) if v != look(t)]
            assert len(wrong) <= 1 and all(v == look(replace(t, value=t.other)) for v, t in wrong)
            first_looks += len(wrong)
        assert all(values == list(map(look, shown)) for values, shown in last.values()), row["steps"]
        shown = [t for scene in row["scenes"] for t in scene.tiles]
        assert "Wait" not in row["steps"] or any(t.other is not None for t in shown), row["steps"]
    assert first_looks or name not in ("base", "cold_start")


@pytest.mark.parametrize("subject", world.SUBJECTS)
def test_evaluation_and_its_truth(subject, made):
    """truth.json has of every question what is really to be seen, and whether it is light or dark."""
    folder, sets = made
    true = json.loads((folder / "truth.json").read_text())
    rows = pq.read_table(folder / "mmmu" / subject / "validation-00000-of-00001.parquet").to_pylist()
    assert len(rows) == SIZES["math_test" if subject == "Math" else "other_test"]
    for row, from_ in zip(rows, [r for r in sets["mmmu"] if r["subject"] == subject], strict=True):
        told = true[row["id"]]
        assert (row["question"], row["options"], row["answer"]) == (
            from_["question"], str(from_["options"]), from_["answer"])
        looks = {name: list(map(look, tiles)) for name, tiles in named_tiles(from_).items()}
        assert told["looks"] == looks and told["kind"] == row["subfield"] == from_["kind"]
        assert told["dark"] == any(scene.dark for scene in from_["scenes"])
        goal = re.search(r"up to (\d+)\?", row["question"])
        assert told.get("goal") == (int(goal[1]) if told["kind"].startswith("which") else None)
        for k, scene in enumerate(from_["scenes"], 1):
            shown = Image.open(io.BytesIO(row[f"image_{k}"]["bytes"]))
            assert np.array_equal(np.asarray(shown), scene.pixels)


PARTS = {"rl": (900, 1197), "rl_hard": (900, 1197), "val": (1197, 1297), "connector_val": (1197, 1297),
         "mmmu": (1297, 1797)}  # the others: 0 to 899


def scenes_of(rows):
    """Each picture once."""
    return {id(scene): scene for row in rows for scene in row["scenes"]}.values()


@pytest.mark.parametrize("name", (*SETS, "mmmu"))
def test_whose_handwriting_what_is_doubtful_and_what_is_dark(name, sets):
    """No digit of the evaluation is doubtful: no stage learns there."""
    scenes = scenes_of(sets[name])
    low, high = PARTS.get(name, (0, 900))
    maths = [scene for scene in scenes if scene.subject == "Math"]
    assert all(low <= tile.source < high for scene in maths for tile in scene.tiles)
    doubtful = [(scene.subject, t) for scene in scenes for t in scene.tiles if t.other is not None]
    assert all(t.other != t.value and t.other >= 0 for _, t in doubtful)
    never = {"Design", "Sociology", *["Math"] * (name == "mmmu")}
    assert not never & {subject for subject, _ in doubtful}
    for scene in scenes:  # the corner shows the paper
        assert scene.dark == bool(scene.pixels[0, 0].max() < 60) == bool(scene.pixels[0, 0].min() < 200)
        assert not scene.dark or scene.subject != "Math"
    others = [scene.dark for scene in scenes if scene.subject != "Math"]
    least, most = {"base": (0.05, 0.15), "cold_start": (0.04, 0.17), "captions": (0, 0.2), "mmmu": (0.1, 0.3),
                   "connector": (0.25, 0.75), "connector_val": (0.2, 0.8)}.get(name, (0, 0))
    assert least <= sum(others) / max(1, len(others)) <= most


def test_tokenizer_knows_the_world_and_loses_nothing(folder, sets):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    letters = set(pre_tokenizers.ByteLevel.alphabet()) - set("ABCDIax0123456789.,?:}ĊĠ")  # these are words
    texts = {text for r in sum(sets.values(), []) for text in (r["question"], r.get("solution", ""))}
    for text in {re.sub(r"<image \d>", "", text) for text in texts}:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text == tokenizer.decode(ids, skip_special_tokens=True)
        assert not letters & {*tokenizer.convert_ids_to_tokens(ids)}, text
    for text in ("", " ", "  two  spaces ", "don't .", "naïve café 中文 🙂\t\r\n\n\n", "12345 007 1.5",
                 "\\boxed{\\frac{1}{2}}", "</think", "\x00\x7f"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    ids = tokenizer("7 + 18 = 25\n\n\\boxed{").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["7", "Ġ+Ġ", "18", "Ġ=Ġ", "25", "ĊĊ", "\\boxed{"]


# ------------------------------------------------------------------------------------------------ the encoder

def test_encoder_learns_and_nothing_else_changes(folder, tmp_path, monkeypatch):
    out = tmp_path / "a" / "encoder"
    few_looks(monkeypatch, encoder)
    pools = spied(monkeypatch, encoder, "make_pools")
    losses_of = spied(monkeypatch, encoder.F, "cross_entropy")
    cfg = encoder.Config(model=str(folder / "model"), out=str(out), steps=12, pictures=16, lr=1e-2)
    encoder.main(cfg)
    terms = [call.out.item() for call in losses_of]  # of place, of colour, of value
    losses = [sum(terms[k:k + 3]) for k in range(0, len(terms), 3)]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.3
    assert [call.part for call in pools] == ["train"]
    before, after = tensors(folder / "model"), tensors(out)
    assert set(before) == set(after) and {f.name for f in out.iterdir()} == {
        f.name for f in (folder / "model").iterdir()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) > 20 and all("vision_tower" in name for name in changed)
    for seed in (0, 1):
        encoder.teach(replace(cfg, seed=seed, steps=1))
        assert (sum(call.out.item() for call in losses_of[-3:]) == losses[0]) == (seed == 0)


def test_encoder_is_told_what_each_cell_shows(monkeypatch):
    """Of bars the three cells above each other are one."""
    made, rng = spied(monkeypatch, encoder, "make_scene"), random.Random(0)
    pixels, dark, colour, value = encoder.batch(rng, make_pools(rng, "train", 3, copies=1), 90)
    scenes = [call.out for call in made]
    assert dark.tolist() == [s.dark for s in scenes]
    for scene, colours, values in zip(scenes, colour.tolist(), value.tolist(), strict=True):
        tiles = scene.tiles * (3 if scene.subject == "Economics" else 1)
        assert [(encoder.COLOURS[c], v) for c, v in zip(colours, values)] == [
            (tile.colour, tile.value) for tile in tiles]
    others = [s.dark for s in scenes if s.subject != "Math"]
    assert 0.2 < sum(others) / len(others) < 0.45 and not any(s.dark for s in scenes if s.subject == "Math")
    light = torch.from_numpy(np.stack([s.pixels for s in scenes])).permute(0, 3, 1, 2) / 255
    assert torch.allclose(pixels * 0.25 + 0.85, light, atol=1e-6)  # as the image processor has it


def test_encoder_looks_where_the_connector_looks(folder):
    """The four patches of a cell are those that InternVL's pixel shuffle joins to one token."""
    from transformers import AutoModelForImageTextToText
    patches = torch.arange(36.0).view(1, 6, 6, 1)
    model = AutoModelForImageTextToText.from_pretrained(folder / "model").model
    joined = model.pixel_shuffle(patches, scale_factor=0.5).flatten(1, 2)
    ours = encoder.by_cell(patches)
    assert ours.shape == joined.shape == (1, 9, 4)
    assert torch.equal(ours.sort(-1).values, joined.sort(-1).values)


def test_encoder_hands_a_qwen_the_patches_that_its_processor_makes(tmp_path):
    from transformers import AutoImageProcessor

    from model import load
    assert blank_model.save_blank_model(tmp_path, 0, "qwen2_5_vl") > 2_000_000
    pools = make_pools(random.Random(0), "val", looks=2)
    pixels, *_ = encoder.batch(random.Random(1), pools, 3)
    bytes_of = (((pixels * 0.25 + 0.85) * 255).round().byte().permute(0, 2, 3, 1)).numpy()
    pictures = [Image.fromarray(picture) for picture in bytes_of]
    made = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=pictures, return_tensors="pt")
    vlm = load(tmp_path)
    with torch.no_grad():
        theirs, ours = vlm.family.encode(vlm.hf, dict(made)), encoder.cells(vlm.hf, pixels)
    assert ours.shape == (3, 9, 512) and ours.std() > 0.1
    assert torch.allclose(ours.flatten(0, 1), theirs, atol=1e-4)
    assert {id(p) for p in encoder.encoder_of(vlm.hf)} == {id(p) for p in vlm.parts()["encoder"].values()}


def test_a_language_model_from_outside_gets_eyes(tiny, tmp_path, monkeypatch):
    """`make small` with a Llama of two layers in SmolLM2's place. Its text comes out as before."""
    torch.manual_seed(0)
    words = make_tokenizer(specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), roles={})
    llm = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True))
    text = torch.tensor([words("Add 3, 5.")["input_ids"]])
    before = llm(text).logits.detach()
    (tmp_path / "LICENSE").write_text("A")
    monkeypatch.setattr(small, "download", lambda folder: None)
    monkeypatch.setattr(small.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: llm)
    monkeypatch.setattr(small.AutoTokenizer, "from_pretrained", lambda *_, **__: words)
    small.join(small.Config(str(tiny / "model"), str(tmp_path / "made"), str(tmp_path)))
    vlm, processor = load(str(tmp_path / "made")), Processor(str(tmp_path / "made"))
    with torch.no_grad():
        vlm.hf.set_attn_implementation("eager")
        after = vlm.hf(text).logits
    assert torch.allclose(after[..., :before.shape[-1]], before, atol=1e-5)
    prompt, = processor.prompts(read_records(str(tiny / "rl.jsonl"))[:1], thinking=True)
    assert prompt.full.count(vlm.image_id) == 9 and (tmp_path / "made" / "LICENSE").read_text() == "A"
    encoder = load(str(tiny / "model")).parts()["encoder"]
    assert all(torch.equal(p, encoder[name]) for name, p in vlm.parts()["encoder"].items())
