"""All experiments in one table and one figure: `python -m experiments.table` writes README.md anew from
results/*.json, and draws story.png. What stands above its marker is written by hand.
"""
import ast
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from machinery.figures import COLOURS, plt, save_figure, smooth
from machinery.files import Refused, read_json, say, write_text
from machinery.intervals import mean_and_error, pooled, t_times

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
MARKER = "<!-- below: python -m experiments.table -->\n"
HEADER = ("arm", "against", "of", "paper", "the arm's own", "difference", "seeds", "could be seen", "verdict")
IN_POINTS = ("maths", "others", "all")
VERDICTS = {"same direction": COLOURS[2], "no difference seen": COLOURS[2], "not resolved": "0.55",
            "opposite": COLOURS[1], "no such effect": COLOURS[1]}


@dataclass
class Row:
    """One finding: how much more an arm has than another, seed by seed."""
    arm: str
    against: str
    measure: str                # "maths", "others", "all" (accuracy), or what a metric is called
    paper: str                  # the paper's figures
    expected: str               # "lower", "higher" or "equal", as the paper has it; "": it does not say
    values: list = field(default_factory=list)  # of each seed; accuracies are fractions
    errors: list = field(default_factory=list)  # standard errors over questions, or None
    levels: list = field(default_factory=list)  # the arm's own value, of each seed
    at_least: float = 0.0       # how large the paper's effect is at least, if it says so ("collapse")

    def interval(self):
        """(mean, half of the 95% interval). Without errors over questions: Student's t over the seeds."""
        if None in self.errors or not self.errors:
            middle, error = mean_and_error(self.values)
            return middle, error * t_times(len(self.values) - 1) if error is not None else None
        middle, error = pooled(self.values, self.errors)
        return middle, 1.96 * error

    def verdict(self):
        """Whether the difference has the sign that the paper's has, beyond its interval"""
        if not self.expected:
            return "the paper does not say"
        middle, half = self.interval()
        if self.expected == "equal":
            return "opposite" if half is not None and abs(middle) > half else "no difference seen"
        middle *= 1 if self.expected == "higher" else -1
        if half is not None and abs(middle) > half:
            return "same direction" if middle > 0 else "opposite"
        return "no such effect" if half is not None and middle + half < self.at_least else "not resolved"


def number(value, measure, sign="+"):
    """Accuracies in points, other numbers as they are"""
    return f"{100 * value:{sign}.1f}" if measure in IN_POINTS else f"{value:{sign}.3g}"


def cells(row):
    middle, half = row.interval()
    shown = number(middle, row.measure)
    if half is not None:
        shown += f" ({number(middle - half, row.measure)} to {number(middle + half, row.measure)})"
    span = f"{number(min(row.values), row.measure)} to {number(max(row.values), row.measure)}"
    seen = "-" if half is None else number(half, row.measure, "")  # a difference below it is not resolved
    levels = ", ".join(number(level, row.measure, "") for level in row.levels)
    return (row.arm, row.against, row.measure, row.paper or "-", levels, shown, span, seen, row.verdict())


def lines(rows):
    table = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    return [f"| {' | '.join(line)} |" for line in table]


def draw(rows, rewards, path):
    """Left: what each arm has more than the other, with its interval; right: rewards {arm: [of each seed]},
    mean of the seeds"""
    rows = [row for row in rows if row.measure in IN_POINTS]
    width = [1.4, 1] if rewards else [1]
    figure, axes = plt.subplots(1, len(width), figsize=(5 * len(width) + 2, 1.6 + 0.45 * len(rows)),
                                squeeze=False, width_ratios=width, layout="constrained")
    left, names = axes[0][0], [f"{row.arm}\nagainst {row.against}: {row.measure}" for row in rows]
    for i, row in enumerate(rows):
        middle, half = row.interval()
        colour = COLOURS[IN_POINTS.index(row.measure)]
        left.errorbar(100 * middle, i, xerr=100 * (half or 0), fmt="o", color=colour, capsize=2)
        left.plot([100 * v for v in row.values], [i] * len(row.values), "|", color=colour, alpha=0.6)
    left.axvline(0, color="0.5", lw=1)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_title("difference in points (with 95% interval; lines: seeds)")
    left.margins(y=0.5 / max(1, len(rows)))
    left.invert_yaxis()
    for k, (arm, runs) in enumerate(rewards.items()):
        steps = min(map(len, runs))
        values = np.mean([run[:steps] for run in runs], 0)
        axes[0][1].plot(range(1, steps + 1), smooth(values, 2), color=COLOURS[k % 6], label=arm)
    if rewards:
        axes[0][1].set(title="reward, mean of the seeds", xlabel="step")
        axes[0][1].legend(fontsize=9)
    save_figure(figure, path)


def draw_stages(ax, rows):
    """Accuracy of cold start, RL and connector tuning: a thin line a seed, a thick one their mean"""
    for colour, measure in zip(COLOURS, IN_POINTS[:2]):
        rl, connector = (row for row in rows if row.measure == measure)
        start = [level - value for level, value in zip(rl.levels, rl.values)]
        levels = 100 * np.array([start, rl.levels, connector.levels])                    # (stages, seeds)
        ax.plot(levels, color=colour, lw=0.8, alpha=0.5)
        ax.plot(levels.mean(1), "o-", color=colour, lw=2.5, label=measure)
    ax.set_xticks(range(3), ["cold start", "RL on maths", "connector\ntuning"])
    ax.set(title="accuracy in % (thin: a seed)", xlim=(-0.2, 2.2))
    ax.legend(loc="upper left")


def draw_story(results, path):
    """The whole table in one picture. Left: the three stages; right: wherever the paper says something of an
    arm's accuracy, our difference with its interval, in the colour of its verdict."""
    rows = [(told["name"], Row(**row)) for told in results for row in told["rows"]]
    told = [(f"{name}: {row.arm} vs {row.against}", row) for name, row in rows
            if row.expected and row.measure in IN_POINTS and name != "stages"]
    names = list(dict.fromkeys(name for name, _ in told))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 1.4 + 0.22 * len(names)), width_ratios=[1, 1.5],
                                         layout="constrained")
    draw_stages(left, [row for name, row in rows if name == "stages"])
    for name, row in told:
        (middle, half), i = row.interval(), names.index(name)
        i, fill = (i + 0.17, "white") if row.measure == "others" else (i - 0.17, None)
        right.errorbar(100 * middle, i, xerr=100 * half, fmt="o", ms=5, capsize=2, mfc=fill,
                       color=VERDICTS[row.verdict()])
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.axvline(0, color="0.5", lw=1)
    right.margins(y=0.02)
    right.invert_yaxis()
    right.set_title("where the paper says something: difference in points, 95% interval", loc="right")
    marks = {"as in the paper": COLOURS[2], "not resolved": "0.55", "opposite, or no such effect": COLOURS[1]}
    points = [plt.Line2D([], [], color=colour, marker="o", ls="") for colour in marks.values()]
    points.append(plt.Line2D([], [], color="0.2", mfc="white", marker="o", ls=""))
    figure.legend(points, [*marks, "hollow: other subjects than maths"], loc="outside lower right", ncols=4)
    save_figure(figure, path)


def verdicts(rows):
    """ "3 same direction, 1 not resolved" """
    return ", ".join(f"{n} {verdict}" for verdict, n in Counter(row.verdict() for row in rows).items())


def overview(results):
    """One line for each row about which the paper says something"""
    lines = ["| experiment | arm | of | paper | difference | verdict | seeds | minutes |",
             "|---|---|---|---|---|---|---:|---:|"]
    for told in results:
        for row in (Row(**row) for row in told["rows"]):
            if row.expected:
                arm, against, measure, paper, _, shown, *_, verdict = cells(row)
                name = f"[{told['name']}](#{told['name']})"
                line = (name, f"{arm}, against {against}", measure, paper, shown, verdict,
                        str(len(told["seeds"])), f"{told['minutes']:.0f}")
                lines.append(f"| {' | '.join(line)} |")
    runs = {run: minutes for told in results for run, minutes in told.get("runs", {}).items()}
    total = (f"{len(runs)} runs and evaluations, {sum(runs.values()) / 60:.1f} hours beside those of `make "
             f"tiny`; what two experiments share is counted once.")
    return "\n".join([*lines, "", total, ""])


def section(told):
    """The script's own question and setting, its rows, what was expected, what came out, why it may differ"""
    rows, name = [Row(**row) for row in told["rows"]], told["name"]
    question = ast.get_docstring(ast.parse((Path(__file__).parent / f"{name}.py").read_text()))
    came = f"Expected: {told['expected']} Came out: {verdicts(rows)}. Why it may differ: {told['why']}"
    made = (f"Seeds {', '.join(map(str, told['seeds']))}, {told['minutes']:.0f} minutes beside those of "
            f"`make tiny`, commit {told['git']}. Again: `python -m experiments.{name}`.")
    picture = f"![{name}](results/{name}.png)"
    return "\n".join([f"## {name}", "", question, "", *lines(rows), "", came, "", made, "", picture, ""])


def write_readme():
    results = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    by_hand, marker, _ = README.read_text().partition(MARKER)
    if not marker or not results:
        raise Refused(f"{README} has no line {MARKER.strip()!r}, or {RESULTS} holds no result yet")
    draw_story(results, RESULTS / "story.png")
    write_text(README, "\n".join([by_hand + MARKER, overview(results), *map(section, results)]))
    say(f"{README}: {len(results)} experiments")


if __name__ == "__main__":
    write_readme()
