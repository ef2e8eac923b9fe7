"""docs/: every metric that a run logs has its line."""
import re

from conftest import ROOT
from machinery.files import read_jsonl


def documented(part):
    """The names in the first column of the tables below a heading"""
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = next(s for s in text.split("\n## ")[1:] if s.startswith(part))
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_metric_has_its_line(straight):
    logged = {stage: {key for row in read_jsonl(folder / "metrics.jsonl") for key in row} - {"step"}
              for stage, folder in straight.items()}
    assert documented("`grpo.py`") == logged["grpo"] | {"kl"}
    assert documented("`sft.py`") == logged["sft"] | logged["connector"]
