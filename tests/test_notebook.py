"""tiny.ipynb: every cell runs, from the first to the last (QUICK mode), and what it names is there."""
import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tyro

import grpo
import pictures
from conftest import ROOT, few_looks
from machinery.files import check_flags, read_jsonl

NOTEBOOK = json.loads((ROOT / "tiny.ipynb").read_text())
TEXT = {kind: ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == kind]
        for kind in ("code", "markdown")}


def execute(source, space):
    """As a notebook does. Returns the value of the expression that ends the cell, which is shown below it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space) if last else None


@pytest.fixture
def started(monkeypatch):
    """The commands of git and pip that are started; none of them runs."""
    commands, real = [], subprocess.run

    def watched(command, **more):
        if {"clone", "pip"} & {*command}:
            return commands.append(command)
        return real(command, **more)

    monkeypatch.setattr(subprocess, "run", watched)
    return commands


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The current folder is a copy of what the notebook starts."""
    for file in [*ROOT.glob("*.py"), *ROOT.glob("tiny/*.py"), ROOT / "requirements.txt"]:
        (tmp_path / file.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    few_looks(monkeypatch, pictures)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # and what the notebook adds is taken back, too
    for name, value in dict(NANOR1V_QUICK="1", OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="0").items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_every_cell_runs(tree, started, capsys):
    space, pages = {"__name__": "notebook"}, []
    for source in TEXT["code"]:
        value = execute(source, space)
        pages += [value._repr_html_()] if hasattr(value, "_repr_html_") else []
    assert all("clone" not in command for command in started)
    assert len(pages) == 12 and all("data:image/" in page for page in pages if "<img" in page)
    assert not any('src="None"' in page for page in pages)
    said = capsys.readouterr().out
    assert all(words in said for words in ("of unseen cells", "selected.json: step", "lost to manner"))
    out = tree / "out" / "notebook-quick"
    assert len(read_jsonl(out / "rl" / "metrics.jsonl")) == 2 and (out / "rl" / "rollouts.html").exists()

    # what is changed in the last part is the reward, there alone
    record = SimpleNamespace(answer="3", options=[], question="?")
    right, wrong = (SimpleNamespace(prompt=SimpleNamespace(record=record), ids=[5] * 20,
                                    text=f"a\n</think>\n\n\\boxed{{{n}}}") for n in (3, 4))
    space["shorter"]([right, wrong], grpo.Config(), None)
    assert (right.reward.total, wrong.reward.total) == (pytest.approx(0.8), pytest.approx(0.2))
    assert grpo.set_rewards is space["plain"] and grpo.set_rewards.__module__ == "grpo"


def test_it_clones_and_installs_what_is_missing(started, tmp_path, monkeypatch):
    clone, install = (source for source in TEXT["code"] if "subprocess.run" in source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="write the repository's address above"):
        execute(clone, {"os": SimpleNamespace()})
    named = clone.replace('REPOSITORY = ""', 'REPOSITORY = "x"')
    execute(named, {"os": SimpleNamespace(chdir=started.append)})
    assert started == [["git", "clone", "--depth", "1", "x", "nanoR1V"], "nanoR1V"]

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "requirements.txt").write_text("# one\ntorch==0.1\nno-such-library==2.0\n")
    execute(install, {"Path": Path, "subprocess": subprocess})
    cpu, everything = started[2:]
    assert "torch==0.1" in cpu and cpu[-1].endswith("/cpu")
    assert everything[-2:] == ["-r", "requirements.txt"]
    (tmp_path / "requirements.txt").write_text(f"pytest=={pytest.__version__}\n")
    execute(install, {"Path": Path, "subprocess": subprocess})
    assert len(started) == 4


def commands():
    """The commands of the notebook's run(...), as they are when it is not quick."""
    space = {"size": lambda full, quick: full, "WORLD": "W", "OUT": "O", "LENGTH": 160, "stage": "rl",
             "mode": "think"}
    nodes = [node for source in TEXT["code"] for node in ast.walk(ast.parse(source))]
    calls = [n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "run"]
    return [eval(compile(ast.Expression(call.args[0]), "cell", "eval"), space) for call in calls]


@pytest.mark.parametrize("command", commands())
def test_the_flags_of_the_full_run_are_known(command):
    script, *flags = shlex.split(command)
    module = importlib.import_module(Path(script).stem)
    config = flags.pop(0).capitalize() if script == "report.py" else "Config"
    cfg = tyro.cli(getattr(module, config), args=flags)
    if "/" not in script:
        check_flags(cfg)


def test_what_it_names_is_there():
    text = "\n".join(TEXT["markdown"])
    named = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"`([\w/]+\.(?:py|diff))`", text)
    assert len(named) > 15
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_it_is_stored_without_outputs_and_without_paths_of_a_machine():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    everything = json.dumps(NOTEBOOK)
    assert not re.search(r"[\s'\"(](/|~/|[A-Z]:\\)\w", everything)
    lines = [line for source in TEXT["code"] for line in source.split("\n")]
    assert max(map(len, lines)) <= 110
