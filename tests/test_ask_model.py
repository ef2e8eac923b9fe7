"""ask.py: what it writes is what was sampled, shaded as its entropies say."""
import dataclasses
import re

import pytest
from PIL import Image

import ask
from data import Processor
from machinery.files import Refused, read_jsonl
from model import load
from rollout import TorchSampler


@pytest.fixture
def cfg(tiny, model_path):
    picture = sorted((tiny / "images" / "val").glob("*.png"))[0]
    return ask.Config("Add the digits in the top row.", (str(picture),), model_path, max_new_tokens=12,
                      seed=3)


def said(capsys, cfg):
    ask.ask(cfg)
    return re.sub(r", \d+\.\d s", ", 0.0 s", capsys.readouterr().out)


def test_a_response_is_written_as_it_was_sampled(cfg, model_path, capsys):
    processor = Processor(model_path)
    prompts = processor.prompts([ask.asked(cfg.question, cfg.image)])
    sampler = TorchSampler(load(model_path, dtype=cfg.dtype), processor)  # bf16 where the processor has it
    (response,), = sampler.generate(prompts, 1, 12, 1.0, 3)
    assert said(capsys, cfg).startswith(f"{cfg.image[0]}\nAdd the digits in the top row.\n\n{response.text}"
                                        f"\n[{len(response.ids)} tokens, 0.0 s")


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
    assert written(["a", "b", "\ufffd", "c", "d"], [0.0] * 5) == [0, 0, 0, 2, 3]  # half a character waits


def typing(monkeypatch, *lines):
    lines = iter(lines)

    def typed(_):
        for line in lines:
            return line
        raise EOFError
    monkeypatch.setattr("builtins.input", typed)


def test_a_loop_of_questions(cfg, tiny, capsys, monkeypatch):
    """An empty line takes a row of the world and says whether the answer was right; a typed question is
    about the same picture; Ctrl-C stops a response, and what cannot be asked ends nothing."""
    answer = ask.answer

    def interrupted(record, *more):
        if record.question == "stop me":
            raise KeyboardInterrupt
        return answer(record, *more)
    typing(monkeypatch, "", "stop me", "<image 3>?", "How many?")
    monkeypatch.setattr(ask, "answer", interrupted)
    world = tiny / "val.jsonl"
    out = said(capsys, dataclasses.replace(cfg, question="", image=(), world=str(world)))
    shown = re.findall(r"^/.*\.png$", out, re.MULTILINE)
    assert shown[:len(shown) // 3] == shown[-len(shown) // 3:]
    rows = [row for row in read_jsonl(world) if str(tiny / row["images"][0]) in shown]
    row = next(row for row in rows if row["question"] in out)
    assert re.search(rf"\[.*(right|wrong, it is {re.escape(row['answer'])})\]", out)
    stopped, rest = out.split("stop me\n\n\n[stopped]\n")
    assert rest.startswith("the question names <image 3>, and the pictures are ") and "How many?" in rest
    assert out.count(" tokens") == 2


def test_pictures(cfg, tmp_path, monkeypatch, capsys):
    """One that is none is refused before a question is typed, and a photograph is one tile to a model that
    learned one, though InternVL's cut it into 12."""
    typing(monkeypatch, "never asked for")
    with pytest.raises(Refused, match="--image: image typo.png cannot be read"):
        ask.ask(dataclasses.replace(cfg, question="", image=(*cfg.image, "typo.png")))
    Image.new("RGB", (640, 480), "white").save(tmp_path / "photo.png")
    counts = []
    monkeypatch.setattr(ask, "answer", lambda record, sampler, processor, *_: counts.append(
        len(processor.prompts([record])[0].full)))
    for tiles in (0, 1, 12):
        ask.ask(dataclasses.replace(cfg, image=(str(tmp_path / "photo.png"),), max_tiles=tiles))
    assert counts[0] == counts[1] < counts[2]
