"""docs/walkthrough.md: its script runs, and what the page names and quotes is today's code."""
import ast
import re

import pytest

from conftest import ROOT
from docs import walkthrough
from machinery.files import Refused

PAGE = ROOT / "docs" / "walkthrough.md"


@pytest.fixture(scope="module")
def today(tiny, model_path, tmp_path_factory):
    """What the script writes now, of the tests' small model, which is paid by a checksum of its text"""
    import grpo
    from stages import reward_of
    out = tmp_path_factory.mktemp("docs") / "walkthrough.md"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(grpo, "score_batch", reward_of)
        m.setattr(walkthrough, "MAX_NEW", 9)
        walkthrough.write(walkthrough.Config(model=model_path, data=str(tiny / "rl.jsonl"), out=str(out)))
    assert out.with_suffix(".png").stat().st_size > 1000
    return out.read_text()


def skeleton(text):
    """What of a page does not depend on the model: headings, functions and their files, code, formulas"""
    found = re.findall(r"^#+ [^\n]*|`[\w.]+`\sin\s\[.*?\]|```(?:python|math).*?```", text, re.M | re.S)
    return [" ".join(x.split()) for x in found]  # a line may be broken elsewhere


def defined(file):
    """{name: its lines} of the functions and classes of a file, those of a class as Class.name"""
    text, found = (ROOT / file).read_text(), {}
    lines = [line.strip() for line in text.splitlines()]

    def visit(node, before):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                found[before + child.name] = lines[child.lineno - 1:child.end_lineno]
                visit(child, f"{before}{child.name}.")

    visit(ast.parse(text), "")
    return found


def wrong_names(text):
    """Functions that a page names and that are not where it says, lines that it quotes and that are not
    there"""
    named = re.findall(r"`([\w.]+)`\sin\s\[(.*?)\]", text)
    wrong = [f"{name} in {file}" for name, file in named if name not in defined(file)]
    for file, name, code in re.findall(r"```python\n# (\S+): (\S+)\n(.*?)\n```", text, re.S):
        wrong += [line for line in code.splitlines() if line not in defined(file).get(name, [])]
    return wrong


def test_the_script_refuses_a_line_that_changed(chat):
    with pytest.raises(Refused, match="advantages has 0 lines with 'centered ='"):
        walkthrough.quote(walkthrough.grpo.advantages, "centered =")


def test_what_the_page_names_is_there():
    text = PAGE.read_text()
    assert not wrong_names(text)
    assert wrong_names(text.replace("`advantages` in", "`advantage` in")) == ["advantage in grpo.py"]
    assert wrong_names(text.replace("centred = reward -", "centred = reward +"))


def test_the_page_is_what_the_script_writes(today):
    committed, now = skeleton(PAGE.read_text()), skeleton(today)
    assert len(now) > 60
    assert committed == now, "the code has changed since docs/walkthrough.md was made: `make walkthrough`"


def test_by_hand_must_be_what_the_code_computes():
    walkthrough.same(0.5, walkthrough.torch.tensor(0.5))
    with pytest.raises(AssertionError):
        walkthrough.same(0.5, 0.501)
