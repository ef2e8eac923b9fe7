"""docs/metrics.md: every metric that a run logs has its line, with the numbers of evidence/."""
import re

import pytest

from conftest import ROOT
from machinery.files import read_jsonl
from stages import STAGES

TABLES = ("grpo.py", "", "rl"), ("sft.py", "cold start ", "cold_start"), ("sft.py", "connector ", "connector")

def rows_of(part):
    """[(names, what stands below "tiny")] of the tables below a heading"""
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = next(s for s in text.split("\n## ")[1:] if s.startswith(f"`{part}`"))
    cells = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", names), tiny) for names, _, tiny, *_ in cells]


def measured(stage, name, numbers):
    """Means over the seeds: of the first and the last five steps, or of all. val_loss is no metric of each
    step: its first and its last."""
    n = 1 if name == "val_loss" else 5
    runs = [[row[name] for row in read_jsonl(folder / stage / "metrics.jsonl") if row.get(name) is not None]
            for folder in sorted((ROOT / "evidence").glob("tiny*"))]
    spans = (slice(n), slice(-n, None)) if numbers > 1 else (slice(None),)
    return [sum(sum(run[span]) / len(run[span]) for run in runs) / len(runs) for span in spans]


def test_the_numbers_are_those_of_the_evidence():
    compared = 0
    for file, words, stage in TABLES:
        for (name, *more), cell in rows_of(file):
            pattern = words + r"([\d.,]+(?: to [\d.,]+)?)(?:;|$)"
            for said in [] if more or name.startswith("time") else re.findall(pattern, cell):
                numbers = said.replace(",", "").split(" to ")
                for number, mean in zip(numbers, measured(stage, name, len(numbers)), strict=True):
                    digits = len(number.partition(".")[2])
                    assert f"{round(mean, digits) + 0.0:.{digits}f}" == number, (name, stage)
                    compared += 1
    assert compared == 46


@pytest.mark.usefixtures("a_reward", "no_trainer")
def test_every_metric_has_its_line(tiny, tmp_path):
    for name, (_, run) in STAGES.items():
        run(tiny, tmp_path / name, 1)
    logged = {name: {key for row in read_jsonl(tmp_path / name / "metrics.jsonl") for key in row} - {"step"}
              for name in STAGES}
    assert {name for names, _ in rows_of("grpo.py") for name in names} == logged["grpo"] | {"kl"}
    assert {name for names, _ in rows_of("sft.py") for name in names} == logged["sft"] | logged["connector"]
