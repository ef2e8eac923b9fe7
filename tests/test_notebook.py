"""docs/one_step.ipynb: every cell runs, from the first to the last, and so what it works out by hand is what
the code computes; its kept outputs have the form of today's; and what it names is there."""
import ast
import contextlib
import io
import json
import re

import pytest

import reward
from conftest import ROOT
from stages import reward_of

CELLS = json.loads((ROOT / "docs" / "one_step.ipynb").read_text())["cells"]
CODE = [("".join(cell["source"]), cell) for cell in CELLS if cell["cell_type"] == "code"]


def execute(source, space):
    """As a notebook does. Returns the value of the expression that ends the cell, which is shown below it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space) if last else None


def form(source, printed, picture):
    """What of an output does not depend on the model: whether there is text and a picture, and the words that
    the cell itself gives to `print`"""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    given = [node.value for call in calls if getattr(call.func, "id", "") == "print"
             for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    words = {*re.findall("[a-z]{2,}", " ".join(given))} & {*re.findall("[a-z]{2,}", printed)}
    return sorted(words), bool(printed), picture


@pytest.fixture(scope="module")
def today(tiny, model_path):
    """[form] of the outputs of the tests' small model, which is paid by a checksum of its text"""
    space, forms = {"__name__": "notebook"}, []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(reward, "score", lambda text, answer: reward_of([text], [answer])[0])
        m.setenv("NANOR1V_MODEL", model_path)
        m.setenv("NANOR1V_DATA", str(tiny / "rl.jsonl"))
        m.chdir(ROOT / "docs")
        m.syspath_prepend(ROOT)  # and what the notebook adds is taken back, too
        for source, _ in CODE:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                value = execute(source, space)
            forms.append(form(source, printed.getvalue(), hasattr(value, "_repr_png_")))
    return forms


def test_every_cell_runs_and_the_kept_outputs_have_the_form_of_todays(today):
    kept = []
    for number, (source, cell) in enumerate(CODE, 1):
        assert cell["execution_count"] == number  # kept from one run, from the first cell to the last
        printed = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        data = [out["data"] for out in cell["outputs"] if out["output_type"] == "execute_result"]
        assert len(data) + bool(printed) == len(cell["outputs"])
        kept.append(form(source, printed, any("image/png" in found for found in data)))
    assert kept == today, "the notebook has changed since its outputs were made: run it and save it"
    assert len(json.dumps(CELLS)) < 150_000 and sum(picture for *_, picture in kept) == 2


def test_what_it_names_is_there():
    text = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    named = re.findall(r"`([\w.]+)`\s+in\s+\[.*?\]\(\.\./(.*?)\)", text)
    wrong = [f"{name} in {file}" for name, file in named
             if not re.search(rf"(def|class) {name.split('.')[-1]}\b", (ROOT / file).read_text())]
    assert len(named) > 10 and wrong == []


def test_cells_are_short():
    assert max(len(source.splitlines()) for source, _ in CODE) <= 12
