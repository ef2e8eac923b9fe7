"""tiny.ipynb: every cell runs from top to bottom (QUICK mode), shows something, and is stored without outputs."""
import ast
import json
import os
import shutil
import subprocess
import sys
import types

import pytest

from conftest import ROOT, few_looks

CELLS = json.loads((ROOT / "tiny.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def execute(source, space):
    """As a notebook does: returns the value of an expression at the end of the cell, which is shown."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space) if last else None


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of what the notebook starts, with few looks of each digit, and a log of what it would install."""
    import pictures
    for file in [*ROOT.glob("*.py"), *ROOT.glob("tiny/*.py"), ROOT / "requirements.txt"]:
        (tmp_path / file.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    few_looks(monkeypatch, pictures)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOR1V_QUICK", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """The commands of git and pip that the notebook starts; none runs."""
    commands, real = [], subprocess.run

    def record(command, **more):
        if "clone" in command or "pip" in command:
            return commands.append(command)
        return real(command, **more)

    monkeypatch.setattr(subprocess, "run", record)
    return commands


def test_every_cell_runs(tree, started, monkeypatch, capsys):
    space = types.ModuleType("notebook").__dict__
    shown = []
    import time
    for i, source in enumerate(CODE):
        b = time.time()
        value = execute(source, space)
        with capsys.disabled():
            print(f"{time.time()-b:6.2f} {source[:60]!r}")
        shown.append(value)
