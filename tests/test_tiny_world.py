"""The embedded world: same bytes of the same seed, right solutions, unseen handwriting, files that load."""
import ast
import hashlib
import json
import random
import re

import pytest

import make as world

SIZES = dict(captions=40, base=900, cold_start=400, rl=60, connector=60, connector_val=24, val=40,
             math_test=150, other_test=40)
SETS = ("base", "cold_start", "connector", "connector_val", "val", "rl", "captions")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, the sets that were written into it)"""
    out, sets, make_sets = tmp_path_factory.mktemp("world") / "tiny", {}, world.make_sets

    def make_and_keep(*args):
        sets.update(make_sets(*args))
        return sets

    with pytest.MonkeyPatch.context() as m:
        m.setattr(world, "make_sets", make_and_keep)
        world.make(world.Config(out=str(out), seed=3, **SIZES))
    return out, sets


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


@pytest.fixture(scope="module")
def sets(folder):
    return {name: [json.loads(line) for line in open(folder / f"{name}.jsonl")] for name in SETS}


@pytest.fixture(scope="module")
def mmmu(folder):
    import pyarrow.parquet as pq
    name = "validation-00000-of-00001.parquet"
    return {s: pq.read_table(folder / "mmmu" / s / name).to_pylist() for s in world.SUBJECTS}


def hashes(folder):
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_same_seed_same_bytes(folder, tmp_path):
    world.make(world.Config(out=str(tmp_path / "again"), seed=3, **SIZES))
    assert hashes(folder) == hashes(tmp_path / "again")
    assert not list(tmp_path.glob("*.part"))


def test_made_once(folder, capsys):
    before = (folder / "base.jsonl").stat().st_mtime_ns
    world.make(world.Config(out=str(folder), seed=3, **SIZES))
    assert "nothing to do" in capsys.readouterr().out
    assert (folder / "base.jsonl").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="seed=3 instead of 4"):
        world.make(world.Config(out=str(folder), seed=4, **SIZES))


def test_rows(folder, sets):
    for name, rows in ((name, sets[name]) for name in SETS[:-1]):
        assert len(rows) == SIZES[name] and len({r["id"] for r in rows}) == len(rows)
        for row in rows:
            assert all((folder / path).exists() for path in row["images"]), row["id"]
            text, answer = " ".join([row["question"], *row["options"]]), row["answer"]
            shown = {int(n) for n in re.findall(r"<image (\d)>", text)}
            assert shown == set(range(1, len(row["images"]) + 1)), row
            assert answer in "ABCD" if row["options"] else answer.isdigit() or answer.islower(), row
            assert not row["options"] or len(set(row["options"])) == 4
    assert all("solution" not in r and r["subject"] == "Math" for r in sets["rl"])
    for name in ("base", "cold_start"):
        rows = sets[name]
        assert 0.2 < sum(bool(r["options"]) for r in rows) / len(rows) < 0.33
        assert {len(r["images"]) for r in rows} == {1, 2, 4}
        assert {r["subject"] for r in rows} == set(world.SUBJECTS)
    assert all(len(kinds) >= 5 for kinds in world.KINDS.values())


def right_steps(text):
    """Every operation written down is true; returns how many."""
    operations = re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)", text)
    assert len(operations) == text.count("=")
    for a, sign, b, c in operations:
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign] == int(c) >= 0, text
    return len(operations)


def test_solutions(sets):
    for name in ("base", "cold_start", "connector", "connector_val", "val"):
        for row in sets[name]:
            solution, answer = row["solution"], row["answer"]
            thought, _, last = solution.rpartition("\n" if name == "base" else "\n</think>\n\n")
            assert last == f"\\boxed{{{answer}}}", row
            assert ("</think>" in solution) == (name != "base")
            right_steps(thought)
            if thought and thought != world.Config.think_empty:
                end = thought.rstrip(".").split()[-1]
                # what follows "Alternatively" may end on another number
                assert end == answer or "Alternatively" in thought, row
                value = answer if not row["options"] else row["options"]["ABCD".index(answer)]
                assert value.startswith("<image") or re.search(rf"\b{value}\b", thought), row


def test_the_letter_of_an_image_is_its_place(sets):
    """The steps say what stands in image A, B, C, D; the question asks for one of these values."""
    letters = []
    for row in sets["base"] + sets["cold_start"]:
        if row["options"][:1] != ["<image 1>"]:
            continue
        seen = row["solution"].split(". ")[0].split(", ")
        value = row["question"].rstrip("?").split()[-1]
        if len(seen) == 4:  # others answer at once
            assert row["answer"] == "ABCD"[seen.index(value)], row["question"]
            letters.append(row["answer"])
        assert row["options"] == [f"<image {k}>" for k in (1, 2, 3, 4)]
    assert len(letters) >= 4 and len(set(letters)) > 1


def test_captions_read_all_that_they_ask(sets):
    """Every value of the picture, or of the two lines asked for, in words of the question."""
    rows = sets["captions"]
    assert {r["subject"] for r in rows} == set(world.SUBJECTS) and all(len(r["images"]) == 1 for r in rows)
    for row in rows:
        asked, text = row["question"].removeprefix("<image 1> Read "), row["solution"]
        assert row["answer"] == text.rstrip(".") and "</think>" not in text
        lines = re.findall(r"(\w+ \w+): ((?:[\w ]+, ){2}[\w ]+)\.", text)
        if row["subject"] == "Economics":
            assert asked == "all." and len(text.split(", ")) == 3
        elif asked == "all.":
            assert [name for name, _ in lines] == ["top row", "middle row", "bottom row"]
        else:
            assert asked == " and ".join(f"the {name}" for name, _ in lines) + "." and len(lines) == 2


def test_manners_and_critical_words(sets):
    for name in ("base", "cold_start"):
        first = {r["id"]: r["solution"][0] for r in sets[name]}  # character of each solution
        with_steps = [r for r in sets[name] if first[r["id"]].islower() or first[r["id"]] in "0123456789"]
        assert 0.42 < len(with_steps) / len(sets[name]) < 0.58
        for word, low, high in (("Wait", 0.04, 0.2), ("Alternatively", 0.04, 0.25)):
            assert low < sum(word in r["solution"] for r in with_steps) / len(with_steps) < high, (name, word)
        assert not any("Wait" in r["solution"] for r in sets[name] if r not in with_steps)
    assert all("once" not in r["solution"] for r in sets["connector"])


def test_evaluation_handwriting_is_unseen(made):
    sources = {}
    for name, rows in made[1].items():
        maths = [row for row in rows if row["subject"] == "Math"]
        scenes = [scene for row in maths for scene in row["scenes"]]
        sources[name] = {tile.source for scene in scenes for tile in scene.tiles}
    train = sources["base"] | sources["cold_start"] | sources["rl"] | sources["connector"]
    assert max(train) < 1197
    assert min(sources["val"] | sources["connector_val"]) >= 1197 and max(sources["val"]) < 1297
    assert min(sources["mmmu"]) >= 1297 and len(sources["mmmu"]) > 300 and len(train) > 900


def test_mmmu_schema(mmmu):
    columns = ["id", "question", "options", "explanation", *(f"image_{k}" for k in range(1, 8)), "img_type",
               "answer", "topic_difficulty", "question_type", "subfield"]
    for subject, rows in mmmu.items():
        assert len(rows) == (SIZES["math_test"] if subject == "Math" else SIZES["other_test"])
        for i, row in enumerate(rows):
            assert list(row) == columns and row["id"] == f"validation_{subject}_{i + 1}"
            options = ast.literal_eval(row["options"])
            assert row["question_type"] == ("multiple-choice" if options else "open")
            assert row["answer"] in tuple("ABCD")[:len(options)] if options else row["answer"]
            shown = {int(n) for n in re.findall(r"<image (\d)>", row["question"] + row["options"])}
            assert shown == {k for k in range(1, 8) if row[f"image_{k}"]}
            assert row["image_1"]["bytes"].startswith(b"\x89PNG")
            right_steps(row["explanation"])
    rows = sum(mmmu.values(), [])
    assert any("<image 2>" in r["question"] for r in rows) and any("<image 2>" in r["options"] for r in rows)


def test_mmmu_loads_with_datasets(folder):
    import datasets
    rows = datasets.load_dataset("parquet", data_files=str(folder / "mmmu/Math/*.parquet"), split="train",
                                 cache_dir=str(folder / "cache"))
    assert rows[0]["image_1"].size == (48, 48) and rows[0]["image_7"] is None


def test_tokenizer_knows_the_world_and_loses_nothing(folder, sets, mmmu):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert len(tokenizer) < 640
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    words = set("ABCDIax0123456789.,?:}") | {"Ċ", "Ġ"}  # single characters that are words
    rows = sum(sets.values(), [])
    texts = {text for r in rows for text in (r["question"], r.get("solution", ""), *r["options"])}
    texts |= {re.sub(r"<image \d>", "", text) for text in texts}
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text == tokenizer.decode(ids, skip_special_tokens=True)
        spelled = [t for t in tokenizer.convert_ids_to_tokens(ids) if t in letters - words]
        assert "<image" in text or not spelled, (text, spelled)
    rng = random.Random(0)
    odd = ["", " ", "  two  spaces ", "don't .", "naïve café 中文 🙂\t\r\n\n\n", "12345 007 1.5",
           "\\boxed{\\frac{1}{2}}", "</think", "\x00\x7f"]

    def letter():
        return chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x250), rng.randrange(0x4e00, 0x9000))))

    odd += ["".join(letter() for _ in range(40)) for _ in range(50)]
    for text in odd:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    for token in ("\\boxed{", "}", "18", "Wait", "Alternatively", "</think>", "\n\n", "\n"):
        assert len(tokenizer(token, add_special_tokens=False).input_ids) == 1
    ids = tokenizer("7 + 18 = 25.").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["7", "Ġ+Ġ", "18", "Ġ=Ġ", "25", "."]


def test_chat_template(folder):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    asked = "<|im_start|>user\n<IMG_CONTEXT>\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    kwargs = dict(tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(chat, **kwargs) == asked
    assert tokenizer.apply_chat_template(chat, **kwargs, enable_thinking=True) == asked + "<think>\n"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "6"}]
    plain = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n6<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == plain
    assert (tokenizer.start_image_token, tokenizer.end_image_token) == ("<img>", "</img>")
    assert tokenizer.context_image_token == "<IMG_CONTEXT>" and tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(tokenizer.context_image_token_id) == "<IMG_CONTEXT>"


def test_model_loads_and_answers(folder, sets):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
    model, told = AutoModelForImageTextToText.from_pretrained(folder / "model", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert type(model).__name__ == "InternVLForConditionalGeneration"
    assert 1.8e6 < sum(p.numel() for p in model.parameters()) < 2.2e6
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    processor = AutoImageProcessor.from_pretrained(folder / "model")
    picture = Image.open(folder / sets["val"][0]["images"][0])
    # the real processor insists on crop_to_patches
    pixels = processor(picture, crop_to_patches=True, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 48, 48)
    text = "<img>" + "<IMG_CONTEXT>" * model.config.image_seq_length + "</img>\nHow many?"
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        logits = model(**inputs, pixel_values=pixels).logits
        other = model(**inputs, pixel_values=pixels.flip(-1)).logits
    assert logits.shape[-1] == len(tokenizer) and logits.isfinite().all()
    assert (logits[0, -1] - other[0, -1]).abs().max() > 1e-3  # the picture matters
    head = model.config.text_config
    assert head.hidden_size // head.num_attention_heads == 32
    assert model.config.image_token_id == tokenizer.context_image_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
