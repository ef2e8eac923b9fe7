"""ask.py: what it writes is what was sampled, shaded as its entropies say; every flag arrives."""
import dataclasses
import re
from pathlib import Path

import pytest
import tyro
from PIL import Image

import ask
from conftest import write_jsonl
from data import Chat
from machinery.files import Refused, read_jsonl
from model import load
from rollout import TorchSampler
from stages import flags_of


@pytest.fixture
def cfg(tiny, model_path):
    picture = sorted((tiny / "images" / "val").glob("*.png"))[0]
    return ask.Config("Add the digits in the top row.", (str(picture),), model_path, max_new_tokens=12,
                      seed=3)


def said(capsys, cfg):
    ask.ask(cfg)
    return re.sub(r", \d+\.\d s", ", 0.0 s", capsys.readouterr().out)


def test_every_response_is_written_as_it_was_sampled(cfg, model_path, capsys):
    out = said(capsys, dataclasses.replace(cfg, runs=2))
    chat = Chat(model_path)
    prompts = chat.prompts([ask.asked(cfg.question, cfg.image)])
    sampler = TorchSampler(load(model_path, dtype=cfg.dtype), chat)  # bf16 where the processor has it
    for seed in (3, 4):
        (response,), = sampler.generate(prompts, 1, 12, 1.0, seed)
        assert f"\n{response.text}\n[{len(response.ids)} tokens, 0.0 s" in out
    assert out.startswith(f"{cfg.image[0]}\nAdd the digits in the top row.\n\n")
    assert re.search(r"^answers: .* \(\d\)", out, re.MULTILINE)


class Pieces:
    """A chat whose tokens are characters and words"""

    def pieces(self, ids):
        return list(ids)


def written(pieces, entropies, **more):
    writer, lines = ask.Writer(Pieces(), ask.Config(**more)), []
    for piece, entropy in zip(pieces, entropies):
        writer(piece, entropy)
        lines.append(writer.written)
    writer.write()
    return lines


def test_tokens_are_shaded_by_entropy_and_critical_words_underlined(capsys):
    entropies = [0.0, 1.0, 3.0, 0.0, 0.1, 0.0, 0.0]
    written(["So", " wait", ",", " wait", "ing", " Wa", "it"], entropies, entropy=True)
    assert capsys.readouterr().out == (
        "So\033[4;30;48;5;222m wait\033[0m\033[30;48;5;208m,\033[0m waiting\033[4m Wa\033[0m\033[4mit\033[0m")
    written(["So", " wait", ","], entropies)
    assert capsys.readouterr().out == "So wait,"


def test_a_character_in_two_tokens_waits_for_its_end(capsys):
    assert written(["a", "b", "\ufffd", "c", "d"], [0.0] * 5) == [0, 0, 0, 2, 3]
    assert capsys.readouterr().out == "ab\ufffdcd"


def test_a_loop_of_questions(cfg, tiny, capsys, monkeypatch):
    """An empty line takes a row of the world and says whether the answer was right; a typed question is
    about the same picture."""
    lines = iter(["", "How many?"])

    def typed(_):
        for line in lines:
            return line
        raise EOFError
    monkeypatch.setattr("builtins.input", typed)
    world = tiny / "val.jsonl"
    out = said(capsys, dataclasses.replace(cfg, question="", image=(), world=str(world)))
    shown = re.findall(r"^/.*\.png$", out, re.MULTILINE)
    assert shown[:len(shown) // 2] == shown[len(shown) // 2:]
    rows = [row for row in read_jsonl(world) if str(tiny / row["images"][0]) in shown]
    row = next(row for row in rows if row["question"] in out)
    assert re.search(rf"\[.*(right|wrong, it is {re.escape(row['answer'])})\]", out)
    assert "How many?" in out


def test_a_picture_of_the_world_may_be_bytes(cfg):
    content = Path(cfg.image[0]).read_bytes()  # as Parquet holds it
    assert ask.asked("How many?", [content]).sizes == ask.asked("How many?", cfg.image).sizes


def test_a_picture_that_is_not_there(cfg):
    for image, why in (("no.png", "--image: image no.png cannot be read"),
                       ("https://host/a.png", "--image: image https://host/a.png cannot be read")):
        with pytest.raises(Refused, match=why):
            ask.ask(dataclasses.replace(cfg, image=(image,)))


@pytest.mark.parametrize("line, images, question", [
    (["--image", "{a}", "Add the digits."], 1, "Add the digits."),
    (["--image", "{a}", "{a}", "Add?"], 2, "Add?"), (["Add?", "--image", "{a}", "{a}"], 2, "Add?"),
    (["--image", "{a}", "--runs", "2", "Add?"], 1, "Add?"),
    (["--image", "{a}", "Sum"], 1, "Sum"), (["--image", "{a}"], 1, ""), (["--image", "{a}", "b.png"], 2, ""),
    (["--image", "{a}", "Is it a.png or b.png?"], 1, "Is it a.png or b.png?"), (["--image", "typo"], 1, ""),
    (["--image", "{a}", *"Add the digits in the top row.".split()], 1, "Add the digits in the top row."),
    (["--image", "{a}", "b.png", *"Is it in b.png?".split()], 2, "Is it in b.png?")])
def test_a_question_may_stand_behind_the_pictures(line, images, question, cfg):
    words = [word.format(a=cfg.image[0]) for word in line]
    found = ask.question_apart(tyro.cli(ask.Config, args=words))
    assert (len(found.image), found.question) == (images, question)


def test_two_image_flags_are_refused(cfg, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ask.py", "--image", "a.png", "--image", "b.png"])
    with pytest.raises(Refused, match="--image stands there twice: name all pictures behind one"):
        ask.question_apart(cfg)


def test_ctrl_c_stops_a_response_and_the_loop_goes_on(cfg, capsys, monkeypatch):
    """A question that cannot be asked ends nothing either; at the end of input the line ends."""
    lines, answer = iter(["stop me", "<image 2>?", "", "go on"]), ask.answer

    def typed(_):
        for line in lines:
            return line
        raise EOFError

    def interrupted(record, *more):
        if record.question == "stop me":
            raise KeyboardInterrupt
        return answer(record, *more)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(ask, "answer", interrupted)
    out = said(capsys, dataclasses.replace(cfg, question="", runs=2))
    stopped, rest = out.split("stop me\n\n\n[stopped]\n")
    assert rest.startswith("the question names <image 2>, and the pictures are 1\n") and "go on" in rest
    assert "answers" not in stopped and rest.count(" tokens") == 2 and rest.endswith("\n\n")


def test_a_small_world_model_gets_its_own_number_of_tiles(cfg, tmp_path, capsys, monkeypatch):
    """A photograph is one tile to a model that learned one, though InternVL's cut it into 12."""
    Image.new("RGB", (640, 480), "white").save(tmp_path / "photo.png")
    counts = []
    monkeypatch.setattr(ask, "answer", lambda record, sampler, chat, *_: counts.append(
        len(chat.prompts([record])[0].full)))
    for tiles in (0, 1, 12):
        ask.ask(dataclasses.replace(cfg, image=(str(tmp_path / "photo.png"),), max_tiles=tiles))
    assert counts[0] == counts[1] < counts[2]


def test_a_picture_that_is_none_is_refused_before_a_question_is_typed(cfg, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked for a question"))
    with pytest.raises(Refused, match="--image: image typo.png cannot be read"):
        ask.ask(dataclasses.replace(cfg, question="", image=(*cfg.image, "typo.png")))


def test_without_a_picture(cfg, capsys):
    """No world is needed to ask about nothing; without being told so, a missing world says what to do."""
    with pytest.raises(Refused, match="--world none.jsonl is not there.*--image.*--world ''"):
        ask.ask(dataclasses.replace(cfg, image=(), world="none.jsonl"))
    assert said(capsys, dataclasses.replace(cfg, image=(), world="")).startswith("Add the digits")


OTHER = {"question": "Which column adds up to 9?", "image": (), "runs": 2, "entropy": True,
         "temperature": 0.0, "max_new_tokens": 3, "thinking": False, "ask": "Box it.", "system": "Be brief.",
         "max_tiles": 2, "pixels": (4, 9), "words": ("zebra",), "dtype": "bf16", "seed": 4}


@pytest.mark.parametrize("flag", flags_of(ask.Config))
def test_every_flag_arrives(flag, cfg, tiny, model_path, tmp_path, monkeypatch, capsys):
    seen = []
    if flag in ("max_tiles", "pixels", "ask", "system", "model"):
        monkeypatch.setattr(ask, "Chat", lambda *args: seen.append(args) or Chat(model_path))
    if flag == "dtype":
        monkeypatch.setattr(ask, "load", lambda *args: seen.append(args) or load(model_path))
    if flag == "words":
        monkeypatch.setattr(ask, "critical_tokens", lambda pieces, words: seen.append(words) or [])
        cfg = dataclasses.replace(cfg, entropy=True)
    if flag in ("image", "world"):
        first, second = read_jsonl(tiny / "val.jsonl")[:2]
        for name, row in (("one", first), ("other", second)):
            images = [str(tiny / image) for image in row["images"]]
            write_jsonl(tmp_path / f"{name}.jsonl", [{**row, "images": images}])
        world = tmp_path / ("one.jsonl" if flag == "world" else "other.jsonl")
        cfg = dataclasses.replace(cfg, world=str(world))
    if flag == "world":
        cfg = dataclasses.replace(cfg, image=())
    other = {**OTHER, "world": str(tmp_path / "other.jsonl"), "model": f"{tiny}/./model"}[flag]
    before = said(capsys, cfg)
    calls = list(seen)
    seen.clear()
    after = said(capsys, dataclasses.replace(cfg, **{flag: other}))
    assert (before, calls) != (after, seen)
