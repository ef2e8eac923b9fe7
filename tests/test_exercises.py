"""docs/exercises.md: a section has what a reader needs, its solution works, its check knows undone work."""
import json
import re
from pathlib import Path

import pytest
from PIL import Image

import connector
import entropy_select
import grpo
import rollout
from conftest import ROOT
from exercises import check
from machinery.files import Refused, write_json
from model import load
from patched import FORKS, patched
from recipes import new_connector

PAGE = re.split(r"^## (\d+)\. ", (ROOT / "docs" / "exercises.md").read_text(), flags=re.M)
SECTIONS = dict(zip(map(int, PAGE[1::2]), PAGE[2::2]))
HEALTHY = {"reward": (0.5, 0.7), "accuracy": (0.4, 0.6), "length": (30, 40), "entropy": (0.13, 0.1),
           "grad_norm": (0.3, 0.2), "groups_mixed": (0.9, 0.8), "tokens": (9, 9),
           **dict.fromkeys(("entropy_high", "repetition", "truncated", "denial", "gap"), (0, 0))}


@pytest.fixture(autouse=True)
def here(tiny, tmp_path, monkeypatch):
    """An empty checkout behind make tiny"""
    monkeypatch.chdir(tmp_path)
    for name, target in (("data/tiny", tiny), ("out/tiny/cold_start", tiny / "model")):
        Path(name).parent.mkdir(parents=True)
        Path(name).symlink_to(target)


@pytest.fixture
def solve(tmp_path, monkeypatch):
    """The page's solution takes a function's place"""
    def apply(number, module, name):
        diff = tmp_path / f"exercise{number}.diff"
        diff.write_text(re.search(r"```diff\n(.*?)```", SECTIONS[number], re.S)[1])
        monkeypatch.setitem(FORKS, diff.stem, diff)
        monkeypatch.setattr(module, name, getattr(patched(diff.stem, tmp_path), name))
    return apply


def ran(number, flags=(), **metrics):
    """A run of 40 steps whose metrics go evenly from one value to another"""
    run, ends = Path(f"out/exercise{number}"), {**HEALTHY, **metrics}
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "config.json", {"config": {"lr": 1e-4, "image_root": "", **dict(flags)}})
    with open(run / "metrics.jsonl", "w") as out:
        for k in range(40):
            row = {name: a + (b - a) * k / 39 for name, (a, b) in ends.items()}
            out.write(json.dumps({"step": k + 1, **row}) + "\n")


def done(number):
    return check.CHECKS[number - 1]()


def undone(number, why):
    with pytest.raises(Refused, match=f"not yet: .*{why}"):
        done(number)


def test_every_section_has_what_a_reader_needs():
    assert list(SECTIONS) == [*range(1, len(check.CHECKS) + 1)]
    for number, text in SECTIONS.items():
        assert re.search(r"^\*(\d+ minutes|An evening)", text, re.M), number
        assert f"`python -m exercises.check {number}`" in text and "<summary>Solution</summary>" in text
        assert "\nSeen" in text or number in (1, 12)
    with pytest.raises(Refused, match="1 to 12"):
        check.check(check.Config(13))


@pytest.mark.parametrize("siblings", [False, True])
def test_pack(siblings, capsys, monkeypatch):
    """A reader who knows the rules, and one who believes that siblings see each other"""
    names = []

    def answer(question):
        names.extend(re.findall(" ([PabQc])(?= )", capsys.readouterr().out.partition("part of")[2]))
        place, after = int(re.findall(r"\d+", question)[-1]), names.index("a")
        if " see " in question:
            return ", ".join(str(k) for k in range(place + 1) if siblings or names[k] in "Pb")
        return str(after + 1 if "rotary" in question else after - 1 if names[place] == "b" else place - 1)

    monkeypatch.setattr("builtins.input", answer)
    undone(1, "it is 0 1 ") if siblings else done(1)


def test_mask(solve):
    undone(2, "0.0000.* nats a token: the mask is whole")
    solve(2, rollout, "make_packs")
    assert "nats a token" in done(2)


def test_advantage(solve, monkeypatch):
    ran(3)
    undone(3, "rewards of 1, 0.2, 0, 0 have")
    monkeypatch.setattr(grpo, "advantages", lambda reward: reward - reward.mean(1, keepdim=True))
    undone(3, "rounding")
    solve(3, grpo, "advantages")
    undone(3, "as with the division")
    ran(3, grad_norm=(0.14, 0.07))
    assert "grad_norm 0.14 to 0.07" in done(3)


def test_hack(solve):
    undone(4, "is paid 0.2, and 0.2 with a Wait")
    solve(4, grpo, "set_rewards")
    undone(4, "0 of 40 steps")
    ran(4)
    undone(4, "together")
    ran(4, reward=(0.5, 2.0), critical_count=(9, 99))
    assert "accuracy 0.41 to 0.59" in done(4)


def test_freezing(model_path):
    vlm = load(model_path)
    ran(5, {"model": model_path})
    Path("out/exercise5/step_000040").mkdir()
    for parts in (("llm",), ("encoder", "connector")):
        for part in parts:
            next(iter(vlm.parts()[part].values())).data.add_(1)
        vlm.save("out/exercise5/step_000040")
        if parts == ("llm",):
            assert "connector 0.0e+00, llm 1.0e+00" in done(5)
        else:
            undone(5, "largest change")


def test_what_a_run_shows():
    for number, flags, metrics, why in (
            (6, {}, {}, "nothing is wrong"), (6, {}, {"reward": (0.6, 0.1)}, None),
            (11, {}, {}, "no --teacher"), (11, {"teacher": "out/tiny/rl"}, {}, None),
            (11, {"teacher": "out/tiny/rl"}, {"accuracy": (0.4, 0.4)}, "accuracy 0.40 to 0.40")):
        ran(number, flags, **metrics)
        undone(number, why) if why else done(number)


def test_blind(tiny):
    picture = Image.open(next((tiny / "images" / "rl").glob("*.png")))
    for image, blank in ((picture, False), (Image.new("RGB", (48, 48), "grey"), True)):
        image.save("a.png")
        Path("rows.jsonl").write_text('{"question": "How many?", "images": ["a.png"], "answer": "3"}')
        ran(7, {"data": "rows.jsonl"})
        done(7) if blank else undone(7, "1 of the pictures")


def test_selection(solve):
    undone(8, "step 5 is chosen")
    solve(8, entropy_select, "choose")
    assert done(8)


def test_connector(solve, monkeypatch, model_path):
    undone(9, "no new line")
    solve(9, connector, "CONNECTORS")
    monkeypatch.setattr(new_connector, "CONNECTORS", connector.CONNECTORS)
    for kind in ("linear", "qformer"):  # of two checkpoints the last counts
        new_connector.replace(new_connector.Config(model_path, f"out/{kind}", kind, queries=4))
        ran(9, loss=(2.0, 1.0))
        Path(f"out/{kind}").rename(f"out/exercise9/step_00000{len(kind)}")
        done(9) if kind == "linear" else undone(9, "has the connector qformer")


def test_entropy(solve):
    ran(10)
    undone(10, "are learned")
    solve(10, grpo, "grpo_loss")
    assert "entropy" in done(10)


def test_own_data():
    undone(12, "is not there")
    rows = [{"id": f"mine_{k}", "question": "How many?", "images": ["a.png"], "answer": 3} for k in range(3)]
    Image.new("RGB", (60, 40), "red").save("data/a.png")
    Path("out/exercise12").mkdir()
    for some, asked in ((rows[:2], "mine_0"), (rows, "other"), (rows, "mine_2")):
        Path("data/mine.jsonl").write_text("\n".join(map(json.dumps, some)))
        Path("out/exercise12/rollouts.jsonl").write_text(json.dumps({"id": asked}))
        done(12) if asked == "mine_2" else undone(12, "three rows|has no response")
