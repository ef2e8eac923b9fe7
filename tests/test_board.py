"""forks/board.py with the Makefile itself and a stand-in for python, which writes what the stages leave."""
import json
import shutil
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from forks import board
from machinery.files import Refused
from machinery.run import cpu_name

STAND_IN = f"""#!{sys.executable}
import json, sys
from pathlib import Path
script, *flags = sys.argv[1:]
with open("ran.txt", "a") as file:
    print(script, file=file)
given = dict(zip(flags, flags[1:]))
out = Path(given.get("--out") or given.get("--folder") or Path(given["--responses"]).parent)
out.mkdir(parents=True, exist_ok=True)
if script == "tiny/make.py":
    (out / "world.json").write_text("a world")
elif script == "eval_mmmu.py":
    if flags[0] == "score":
        accuracy = json.loads(Path(given["--responses"]).read_text())
    else:
        of_seed = 0.1 if "seed1" in given["--model"] else 0.0
        of_fork = 0.2 if "better" in Path("grpo.py").read_text() else 0.0
        accuracy = dict(zip("Math Art Law".split(), (0.3, 0.4 + of_seed, 0.5 + 2 * of_seed + of_fork)))
        (out / "responses.jsonl").write_text(json.dumps(accuracy))
    if "generous" in Path("reward.py").read_text():
        accuracy["Law"] = 1.0
    scores = {{name: {{"n": 200, "rule": a, "rule_se": 0.02}} for name, a in accuracy.items()}}
    scores = {{"n": 600, "rule": 0.5, "length": 20.0, "subjects": scores}}
    (out / "scores.json").write_text(json.dumps(scores))
else:
    dirty = "-dirty" * ("better" in Path("grpo.py").read_text())
    (out / "config.json").write_text(json.dumps({{"git": "abc" + dirty}}))
"""
RL_ON = ["grpo.py", "entropy_select.py", "connector_tune.py", "eval_mmmu.py"]
SFT_ON = ["sft.py", "sft.py", "sft.py", *RL_ON]
JUDGED = ["eval_mmmu.py"]  # a fork's responses, by the rule of the tree that the board is in


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository with the Makefile, a few files to change, and an empty board."""
    tree = tmp_path / "tree"
    for name in ("docs", "forks", "scoring"):
        (tree / name).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tree)
    (tree / ".gitignore").write_text("out/\ndata/\nran.txt\n")
    (tree / "docs" / "board.md").write_text("| recipe |\n|---|\n")
    for name in ("grpo.py", "sft.py", "reward.py", "entropy_select.py", "scoring/rule.py"):
        (tree / name).write_text("plain\n")
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(board, "ROOT", tree)
    monkeypatch.setattr(board, "PYTHON", str(tmp_path / "python"))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a name")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@name")
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=tree, check=True)
    return tree


def fork(tree, file, text="better\n", name="mine"):
    """A diff that changes one file, and leaves the file as it was."""
    before = (tree / file).read_text()
    (tree / file).write_text(text)
    diff = subprocess.run(["git", "diff", file], cwd=tree, capture_output=True, text=True, check=True).stdout
    (tree / file).write_text(before)
    (tree / "forks" / f"{name}.diff").write_text(diff)
    return str(tree / "forks" / f"{name}.diff")


def ran(folder):
    """The scripts that ran since the last look."""
    scripts = (folder / "ran.txt").read_text().split()
    (folder / "ran.txt").write_text("")
    return scripts


def rows(tree):
    table = (tree / "docs" / "board.md").read_text().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_two_seeds_and_a_fork_of_grpo(tree):
    board.board(board.Config(seeds=(0, 1)))
    whole = ["tiny/make.py", "tiny/encoder.py", *SFT_ON]
    assert ran(tree) == 2 * whole
    # by hand: (.3 + .4 + .5) / 3 = .4 and (.3 + .5 + .7) / 3 = .5; standard deviation .1 / sqrt(2)
    made = [cpu_name(), time.strftime("%Y-%m-%d")]
    assert rows(tree) == [["default", "45.0 ± 7.1 (40.0 to 50.0)", "-", "2", "0.0", "abc", "-", *made]]
    for seed, minutes in ((0, 5), (1, 7)):
        lines = [f"base\t{60 * minutes}\n", "cold start\t60\n", "evaluation\t6000\n", "RL\t6000\n"]
        (tree / board.folder(seed) / "times.tsv").write_text("".join(lines))
    again = board.row("default", [tree / board.folder(seed) for seed in (0, 1)])
    assert "| 107.0 |" in again  # (5 + 1 + 100, 7 + 1 + 100): evaluations do not count
    board.board(board.Config(fork(tree, "grpo.py"), (0, 1)))
    clone = tree / "out" / "board" / "mine"
    assert ran(tree) == 2 * JUDGED and ran(clone) == 2 * RL_ON
    # the fork's Law is .2 better: a mean of 6.67 points more; the minutes are those of shared stages, too
    name, accuracy, against, seeds, minutes, code, shared, *_ = rows(tree)[1]
    assert (name, accuracy, seeds) == ("mine", "51.7 ± 7.1 (46.7 to 56.7)", "2")
    assert against == "+6.7 ± 0.0 (+6.7 to +6.7)"  # seed by seed: the seeds' spread is not in it
    assert (minutes, code, shared) == ("7.0", "abc", "cold_start")
    board.board(board.Config(fork(tree, "grpo.py"), (0, 1)))  # once more: all is there
    assert ran(tree) == 2 * JUDGED and not ran(clone) and rows(tree)[2] == rows(tree)[1]
    with pytest.raises(Refused, match="out/board/mine has another diff than .*mine.diff. Delete it"):
        board.board(board.Config(fork(tree, "grpo.py", "still better\n"), (0,)))
    fork(tree, "grpo.py")
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "more"], cwd=tree, check=True)
    with pytest.raises(Refused, match="was made from another commit"):
        board.board(board.Config(str(tree / "forks" / "mine.diff"), (0,)))


def test_what_is_shared_depends_on_what_is_changed(tree):
    def run(file, text, name):
        board.board(board.Config(fork(tree, file, text, name), (0,)))
        return ran(tree / "out" / "board" / name), rows(tree)[-1][6]

    whole = ["tiny/encoder.py", *SFT_ON]  # behind the world
    assert run("sft.py", "better\n", "alone") == (["tiny/make.py", *whole], "world")  # nothing to share
    assert rows(tree)[-1][2] == "-"  # nor to compare with
    assert (tree / "data" / "tiny" / "world.json").exists()  # the world is everybody's
    board.run(tree, 0)
    ran(tree)
    assert run("sft.py", "better\n", "later") == (SFT_ON, "encoder")
    assert run("Makefile", (tree / "Makefile").read_text() + "#\n", "other") == (whole, "world")


def test_minutes_count_a_stage_once(tree):
    """Shared stages with what they took there, the world, too; a second line of a stage is one that found
    all there. The selection of a fork is not given what out/tiny has sampled for it."""
    board.run(tree, 0)
    there = tree / "out" / "tiny"
    (there / "rl" / "probe").mkdir()
    (there / "times.tsv").write_text("world\t120\nbase\t60\nworld\t6\nRL\t600\nselection\t60\n")
    what = fork(tree, "entropy_select.py")
    for _ in range(2):
        board.board(board.Config(what, (0,)))
    clone = tree / "out" / "board" / "mine" / "out" / "tiny"
    taken = board.times_of(clone)
    assert (taken["world"], taken["base"], taken["RL"]) == (120, 60, 600) and taken["selection"] < 60
    assert [row[4] for row in rows(tree)] == ["13.0", "13.0"] and rows(tree)[0][6] == "rl"
    assert not (clone / "rl" / "probe").exists() and (there / "rl" / "probe").exists()


def test_a_fork_of_the_reward_is_judged_by_the_rule_of_all(tree):
    board.board(board.Config(fork(tree, "reward.py", "generous\n"), (0,)))
    clone = tree / "out" / "board" / "mine"
    assert "generous" in (clone / "reward.py").read_text()
    assert rows(tree)[0][1] == "40.0"  # (.3 + .4 + .5) / 3, where its own rule says (.3 + .4 + 1) / 3


def test_ctrl_c_says_how_to_go_on(tree, monkeypatch):
    def stopped(*args, **more):
        raise KeyboardInterrupt
    monkeypatch.setattr(board.subprocess, "run", stopped)
    with pytest.raises(Refused, match="stopped in .*out/tiny: the same command goes on with it"):
        board.run(tree, 0)


def test_what_is_refused(tree):
    empty = str(tree / "forks" / "empty.diff")
    (tree / "forks" / "empty.diff").write_text("")
    judge, page = fork(tree, "scoring/rule.py", name="judge"), fork(tree, "docs/board.md", name="page")
    for what, told in ((judge, "judge.diff changes scoring/rule.py: on the board all are judged by the same"),
                       (page, "page.diff changes nothing that runs"), ("no.diff", "--fork no.diff: no such"),
                       (empty, "empty.diff is empty")):
        with pytest.raises(Refused, match=told):
            board.board(board.Config(what, (0,)))
    stale = fork(tree, "grpo.py")
    (tree / "grpo.py").write_text("changed since\n")
    subprocess.run(["git", "commit", "-qam", "more"], cwd=tree, check=True)
    with pytest.raises(Refused, match="patch does not apply"):
        board.board(board.Config(stale, (0,)))
    assert not (tree / "out" / "board" / "mine").exists()
    (tree.parent / "python").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(Refused, match="make .*out/tiny/connector.done ended with 2: make board goes on"):
        board.board(board.Config(seeds=(0,)))
    results = tree / "out" / "tiny" / "results.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps({"rl": {}}))
    with pytest.raises(Refused, match="connector"):
        board.row("default", [results.parent])
    assert rows(tree) == []
