"""docs/one_step.ipynb: every cell runs, so what it works out by hand is what the code computes; its kept
outputs have the form of today's; and what it names is there."""
import ast
import contextlib
import io
import json
import re

from conftest import ROOT
from rollout import TorchSampler

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


def generate(sampler, prompts, n, generate=TorchSampler.generate, **more):
    """What the tests' random model draws, cut to four lengths, and texts of which the second is right"""
    for group in (groups := generate(sampler, prompts, n, **more)):
        for i, r in enumerate(group):
            r.ids, r.logp, r.entropy = (x[:5 + 7 * i] for x in (r.ids, r.logp, r.entropy))
            r.text = f"So\n</think>\n\n\\boxed{{{r.prompt.record.answer if i == 1 else 1000 + i}}}"
    return groups


def test_every_cell_runs_and_the_kept_outputs_have_the_form_of_todays(tiny, model_path, monkeypatch):
    monkeypatch.setattr(TorchSampler, "generate", generate)
    monkeypatch.setenv("NANOR1V_MODEL", model_path)
    monkeypatch.setenv("NANOR1V_DATA", str(tiny / "rl.jsonl"))
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.syspath_prepend(ROOT)  # and what the notebook adds is taken back, too
    space, pictures = {"__name__": "notebook"}, 0
    for number, (source, cell) in enumerate(CODE, 1):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = execute(source, space)
        today = form(source, printed.getvalue(), hasattr(value, "_repr_png_"))
        text = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        picture = any("image/png" in out.get("data", ()) for out in cell["outputs"])
        assert form(source, text, picture) == today, "its outputs are older than the cell: run all and save"
        assert cell["execution_count"] == number  # kept from one run, from the first cell to the last
        pictures += picture
    assert pictures == 3 and len(json.dumps(CELLS)) < 150_000


def test_what_it_names_is_there():
    text = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    named = re.findall(r"`([\w.]+)`\s+in\s+\[.*?\]\(\.\./(.*?)\)", text)
    wrong = [f"{name} in {file}" for name, file in named
             if not re.search(rf"(def|class) {name.split('.')[-1]}\b", (ROOT / file).read_text())]
    assert len(named) > 10 and wrong == []
