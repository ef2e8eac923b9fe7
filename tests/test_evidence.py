"""The tables of docs/results.md are what evidence/ says, which is what the runs left."""
import json
import re

import pytest

import report
from conftest import ROOT
from experiments.tables import gains_of_runs, spread
from machinery.files import read_json
from machinery.scores import stage_result

PAGE = (ROOT / "docs" / "results.md").read_text()
FOLDERS = sorted((ROOT / "evidence").iterdir())
TINY = [folder for folder in FOLDERS if folder.name.startswith("tiny")]
RUNS = [read_json(folder / "results.json") for folder in TINY]


def rows_of(first):
    """{first cell: other cells} of the table whose header begins with this cell"""
    lines = PAGE.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: more for name, *more in cells}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_results_are_those_of_the_scores(folder):
    for stage, result in json.loads((folder / "results.json").read_text()).items():
        scores = read_json(folder / stage / "eval" / "scores.json")
        again = stage_result(scores)
        assert result["maths"] == again["maths"] and result["others"] == again["others"]
        config = json.loads((folder / stage / "config.json").read_text())
        assert config["config"]["seed"] == int((re.findall(r"\d+", folder.name) or [0])[-1])


def test_the_stages():
    table = rows_of("accuracy")
    for stage, name in {**report.STAGES, "rl": "after RL on maths"}.items():
        means = [spread([run[stage][key] for run in RUNS], scale).split(" (")[0]
                 for key, scale in (("maths", 100), ("others", 100), ("length", 1))]
        assert table[name] == means


def test_what_the_stages_gained():
    table = rows_of("points gained")
    for column, (one, two) in ((0, ("cold_start", "rl")), (2, ("rl", "connector"))):
        rows = gains_of_runs([run[two]["gains"][one] for run in RUNS])
        assert {row[0] for row in rows} == set(table)
        for name, points, interval, smallest, largest in rows:
            assert table[name][column:column + 2] == [f"{points} ({interval})", f"{smallest} to {largest}"]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_what_is_gained_on_a_real_language_model(page):
    small = read_json(ROOT / "evidence" / "small" / "results.json")
    text = " ".join((ROOT / page).read_text().split())
    for key in ("maths", "others"):
        assert f"{100 * small['cold_start'][key]:.0f} to {100 * small['rl'][key]:.0f}%" in text
        for before, after in (("cold_start", "rl"), ("rl", "connector")):
            row, = (row for row in gains_of_runs([small[after]["gains"][before]]) if row[0] == key)
            assert f"{row[1]} ({row[2]})" in text


def test_what_the_selection_took():
    steps = [json.loads((folder / "rl" / "selection.json").read_text())["chosen"] for folder in TINY]
    *others, last = map(str, steps)
    assert f"took steps {', '.join(others)} and {last} of 40" in PAGE
