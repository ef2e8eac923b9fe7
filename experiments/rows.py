"""A finding is a row: how much more an arm has than another, its interval, and whether the paper has the same
sign. results/story.png and controls.png show the rows in results/*.json.
"""
from dataclasses import dataclass, field
from pathlib import Path

from machinery.figures import COLOURS, plt, save_figure
from machinery.files import read_json
from machinery.tables import mean_and_error, pooled, table_lines

RESULTS = Path(__file__).parent / "results"
HEADER = ("arm", "against", "of", "paper", "the arm's own", "difference", "seeds", "could be seen", "verdict")
IN_POINTS = ("maths", "others", "all")
VERDICTS = {"same direction": COLOURS[2], "no difference seen": COLOURS[2], "not resolved": "0.55",
            "opposite": COLOURS[1], "no such effect": COLOURS[1]}


def t_times(freedom):
    """Standard errors to either side of an interval of 95% over freedom + 1 values, as in printed tables."""
    from scipy import stats  # takes seconds
    return round(float(stats.t.ppf(0.975, freedom)), 3)


@dataclass
class Row:
    """One finding: how much more an arm has than another, seed by seed."""
    arm: str
    against: str
    measure: str                # "maths", "others", "all" (accuracy), or what a metric is called
    paper: str = ""             # the paper's figures
    expected: str = ""          # "lower", "higher" or "equal", as the paper has it; "": it does not say
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


def lines(rows):
    """The rows as a table."""
    return table_lines(HEADER, map(cells, rows))


def cells(row):
    def number(value, sign="+"):  # accuracies in points, other numbers as they are
        return f"{100 * value:{sign}.1f}" if row.measure in IN_POINTS else f"{value:{sign}.3g}"

    middle, half = row.interval()
    shown, seen = number(middle), "-"
    if half is not None:
        shown += f" ({number(middle - half)} to {number(middle + half)})"
        seen = number(half, "")  # a difference below it is not resolved
    levels = ", ".join(number(level, "") for level in row.levels)
    return (row.arm, row.against, row.measure, row.paper or "-", levels, shown,
            f"{number(min(row.values))} to {number(max(row.values))}", seen, row.verdict())


def draw_story(controls):
    """story.png: wherever the paper says something of an arm's accuracy, our difference with its interval, in
    the colour of its verdict. controls.png: the same of the findings with these names."""
    found = [(file.stem, Row(**row)) for file in sorted(RESULTS.glob("*.json"))
             for row in read_json(file)["rows"]]
    found = [(f"{name}: {row.arm} vs {row.against}", row) for name, row in found if row.measure in IN_POINTS]
    draw([(name, row) for name, row in found if row.expected], "story",
         "where the paper says something: difference in points, 95% interval",
         {"as in the paper": COLOURS[2], "not resolved": "0.55", "opposite, or no such effect": COLOURS[1]})
    draw([(name, row) for name, row in found if name.startswith(controls)], "controls",
         "controls: difference in points, 95% interval",
         {"maths": COLOURS[0], "not the paper's effect": COLOURS[1]})


def draw(told, name, title, marks):
    """told: [(label, Row)]. One picture."""
    names = list(dict.fromkeys(label for label, _ in told))
    figure, ax = plt.subplots(figsize=(9, 1.4 + 0.22 * len(names)), layout="constrained")
    for label, row in told:
        (middle, half), i = row.interval(), names.index(label)
        i, fill = (i + 0.17, "white") if row.measure == "others" else (i - 0.17, None)
        ax.errorbar(100 * middle, i, xerr=100 * half, fmt="o", ms=5, capsize=2, mfc=fill,
                    color=VERDICTS.get(row.verdict(), COLOURS[0]))
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.axvline(0, color="0.5", lw=1)
    ax.margins(y=0.02)
    ax.invert_yaxis()
    ax.set_title(title, loc="right")
    points = [plt.Line2D([], [], color=colour, marker="o", ls="") for colour in marks.values()]
    points.append(plt.Line2D([], [], color="0.2", mfc="white", marker="o", ls=""))
    figure.legend(points, [*marks, "hollow: other subjects than maths"], loc="outside lower right", ncols=4)
    save_figure(figure, RESULTS / f"{name}.png")
