"""docs/: every metric that a run logs has its line, with the numbers of evidence/."""
import re

import pytest

from conftest import ROOT
from machinery.files import read_jsonl


def documented(part):
    """The names in the first column of the tables below a heading"""
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = next(s for s in text.split("\n## ")[1:] if s.startswith(part))
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def rows_of(part):
    """(name, the "tiny" cell) of each row that has one"""
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = next(s for s in text.split("\n## ")[1:] if s.startswith(part))
    cells = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", name), tiny) for name, _, tiny, *_ in cells if re.search(r"\d", tiny)]


def first_and_last(stage, name):
    """Means over the seeds: of the first five steps, of the last five, of all. val_loss is no metric of each
    step: its first and its last."""
    runs = [[row[name] for row in read_jsonl(folder / stage / "metrics.jsonl") if row.get(name) is not None]
            for folder in sorted((ROOT / "evidence").glob("tiny*"))]
    n = 1 if name == "val_loss" else 5
    return [sum(sum(part) / len(part) for part in parts) / len(parts)
            for parts in ([run[:n] for run in runs], [run[-n:] for run in runs], runs)]


OF_GRPO = "`grpo.py`", {"": "rl"}, 34
OF_SFT = "`sft.py`", {"cold start ": "cold_start", "connector ": "connector"}, 12


@pytest.mark.parametrize("part, stages, how_many", [OF_GRPO, OF_SFT])
def test_the_numbers_are_those_of_the_evidence(part, stages, how_many):
    compared = 0
    for names, cell in rows_of(part):
        if names[0].startswith("time") or len(names) > 1:
            continue
        for words, stage in stages.items():
            for said in re.findall(words + r"([\d.,]+(?: to [\d.,]+)?)(?:;|$)", cell):
                numbers = said.replace(",", "").split(" to ")
                first, last, mean = first_and_last(stage, names[0])
                for number, measured in zip(numbers, (first, last) if len(numbers) > 1 else (mean,)):
                    digits = len(number.partition(".")[2])
                    assert f"{round(measured, digits) + 0.0:.{digits}f}" == number, (names, stage)
                    compared += 1
    assert compared == how_many


def test_every_metric_has_its_line(straight):
    logged = {stage: {key for row in read_jsonl(folder / "metrics.jsonl") for key in row} - {"step"}
              for stage, folder in straight.items()}
    assert documented("`grpo.py`") == logged["grpo"] | {"kl"}
    assert documented("`sft.py`") == logged["sft"] | logged["connector"]
