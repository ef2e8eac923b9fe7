"""What a response of the tiny world did step by step, judged by the truth about its pictures.

A solution is a row of sentences: readings ("top row: 3, 1, 4."), "Largest 4, smallest 1.", operations
("3 + 1 = 4."), and last words ("B.", "top row."). "Wait," begins a second look, and in a search
"Alternatively," begins the next try. What is none of these counts as not understood.
truth.json of a world holds every reading that can be made: {question: {"kind", "dark", "looks", "goal"}}.
"""
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from machinery.files import Refused, read_json
from machinery.tables import percent, print_table

LOSSES = ("manner", "reading", "arithmetic", "other")  # a wrong answer is lost to the first that fits
SEVERAL = ("two_images", "image_options")  # kinds of questions on several pictures
CANDIDATES = 3  # of every search: three rows, three columns, or three pairs of bars
LOOK = r"(?:(?:red|green|blue|yellow) )?\d+"
PLACE = ("(?:top|middle|bottom) row|(?:left|middle|right) column|(?:top|bottom)(?: left| right)?|left|right"
         "|middle|centre|corner|bars|left and middle|left and right|middle and right")
SENTENCES = {kind: re.compile(pattern) for kind, pattern in {  # without "Wait, " and the full stop
    "operation": r"(\d{1,9}) ([-+x×*]) (\d{1,9}) = (-?\d{1,9})",
    "extremes": r"[Ll]argest (\d{1,9}), smallest (\d{1,9})",
    "place": rf"({PLACE}): (\w+(?: \w+)?(?:, \w+(?: \w+)?)*)",
    "values": rf"({LOOK}(?:, {LOOK})*)",
    "word": rf"[A-Z]|{PLACE}",
    "at once": "I see it at once"}.items()}


# ---------------------------------------------------------------------------------------------- one solution

@dataclass
class Try:
    """One try of a search."""
    readings: dict = field(default_factory=dict)  # name: values, the last reading of each
    calculated: bool = False     # has it an operation yet?
    distance: int | None = None  # from the goal; None: it never said


@dataclass
class Solution:
    """What the sentences of a solution did. A count named "... right" goes with the count of all of them."""
    truth: dict                                     # of its question, from truth.json
    asked: set                                      # the numbers that stand in the question
    last: dict = field(default_factory=dict)        # {name: values as they were read last}
    tries: list = field(default_factory=lambda: [Try()])
    counts: Counter = field(default_factory=Counter)
    unknown: list = field(default_factory=list)     # sentences that are not understood
    unused: dict = field(default_factory=dict)      # {name: its values that no operation has taken yet}
    results: list = field(default_factory=list)     # of operations, that no operation has taken yet
    name: str = ""                                  # of the last reading

    def sentence(self, text):
        mark, text = re.fullmatch(r"((?:(?:Wait|Alternatively),? *)*)(.*)", text, re.DOTALL).groups()
        self.counts["sentences"] += 1
        matches = ((kind, pattern.fullmatch(text)) for kind, pattern in SENTENCES.items())
        kind, match = next(((kind, match) for kind, match in matches if match), ("unknown", None))
        self.counts["at once"] += kind == "at once"
        if kind == "operation":
            self.operation(*match.groups())
        elif kind == "extremes":
            values, recent = [int(n) for n in match.groups()], self.last.get(self.name, ())
            self.count("copies", values == [f(map(number, recent), default=None) for f in (max, min)])
            self.unused = {"": values}
        elif kind in ("place", "values"):
            *name, values = match.groups()
            self.read(mark, "".join(name), values)
        elif kind == "unknown":
            self.unknown.append(text or mark)

    def count(self, what, right):
        self.counts[what] += 1
        self.counts[f"{what} right"] += bool(right)

    def operation(self, a, sign, b, result):
        a, b, result, now = int(a), int(b), int(result), self.tries[-1]
        now.calculated = True
        now.distance = abs(result) if sign == "-" and self.truth.get("goal") in (a, b) else None
        self.count("operations", {"+": a + b, "-": a - b}.get(sign, a * b) == result)
        asked = [*self.asked]
        for n in (a, b):  # each number is used once
            found = next((of for of in (self.results, *self.unused.values(), asked) if n in of), [])
            self.count("copies", found)
            if found:
                found.remove(n)
        self.results.append(result)

    def read(self, mark, name, text):
        """A reading. After a calculation it begins the next try of a search."""
        values, now = text.split(", "), self.tries[-1]
        if not name and mark and len(values) == len(self.last.get(self.name, ())):
            name = self.name  # "Wait, 3, 1, 4."
        elif not name and "" not in self.truth["looks"]:
            self.unknown.append(text)
            return
        if now.calculated or "Alternatively" in mark and now.readings:
            self.tries.append(Try())
            if self.truth["kind"] == "which":  # nothing of the last try belongs into this one
                self.results, self.unused = [], {}
        for readings in (self.tries[-1].readings, self.last):
            readings[name] = values
        self.unused[name] = [number(value) for value in values]
        self.name = name

    def cells_right(self, name, values):
        """How many of a reading's values are right; None: the truth does not tell (of several pictures it has
        only what the question names)."""
        if name not in self.truth["looks"]:
            return None if self.truth["kind"] in SEVERAL else 0
        return sum(value == true for value, true in zip(values, self.truth["looks"][name]))

    def misread(self, readings):
        """Does a reading differ from the truth?"""
        told = [(self.cells_right(name, values), len(values), len(self.truth["looks"].get(name, ())))
                for name, values in readings.items()]
        return any(right is not None and not right == read == whole for right, read, whole in told)

    def at_once(self):
        return self.counts["sentences"] == self.counts["at once"]


def number(value):
    digits = re.search(r"\d{1,9}", value)
    return int(digits[0]) if digits else 0


def solve(row, truth):
    """The Solution that stands in a row of responses.jsonl: all in front of its last box."""
    question = re.sub(r"<image \d+>", "", row.get("question", ""))
    solution = Solution(truth, asked={int(n) for n in re.findall(r"\d{1,9}", question)})
    before, box, after = row["response"].rpartition("\\boxed")
    text = re.sub(r"</?think>", "\n", before if box else after)
    for sentence in re.split(r"(?<=\.)\s+|\n+", text):
        sentence = sentence.strip().removesuffix(".")
        if re.search(r"\w", sentence):
            solution.sentence(sentence)
    for name, values in solution.last.items():
        if (right := solution.cells_right(name, values)) is not None:
            solution.counts.update({"cells": len(values), "cells right": right})
    return solution


def lost_to(solution, row):
    """What a wrong answer is lost to."""
    counts = solution.counts
    if solution.at_once() or not row["boxed"] or row.get("finish") == "length":
        return "manner"
    if solution.misread(solution.last):
        return "reading"
    wrong = any(counts[what] > counts[f"{what} right"] for what in ("operations", "copies"))
    return "arithmetic" if wrong else "other"


# --------------------------------------------------------------------------------------------- all responses

def count(rows, truth):
    """({subject: counts}, counts of the sentences that are not understood). rows: as eval_mmmu.score_rows
    returns them, with "rule" and "boxed"; truth: truth.json."""
    groups, unknown = {}, Counter()
    for row in rows:
        about = truth[row["id"]]
        solution = solve(row, about)
        unknown.update(solution.unknown)
        counts = Counter(solution.counts, responses=1, right=row["rule"], unknown=len(solution.unknown),
                         steps=int(not solution.at_once()))
        if not row["rule"]:
            counts.update({lost_to(solution, row): 1, "wrong": 1})
        light = "dark" if about.get("dark") else "light"
        for what in ("responses", "right", "cells", "cells right"):
            counts[f"{light} {what}"] = counts[what]
        if about["kind"] == "which":
            counts.update(count_search(solution, row["rule"]))
        for name in (row["subject"], "all"):
            groups.setdefault(name, Counter()).update(counts)
    return {name: groups[name] for name in sorted(groups, key=lambda name: (name == "all", name))}, unknown


def count_search(solution, right):
    """What a search did: after failed tries, after a successful one, and after all candidates had failed."""
    if solution.at_once():
        return Counter(searches=1)
    counts = Counter({"searches": 1, "searches by steps": 1, "searches right": right})
    failed = set()  # the candidates that did not fit
    for k, attempt in enumerate(solution.tries, 1):
        if attempt.distance is None:  # it never said, so nothing follows from it
            continue
        more = k < len(solution.tries)
        if attempt.readings and not solution.misread(attempt.readings):
            what, as_it_should = ("failed", more) if attempt.distance else ("found", not more)
            counts.update({what: 1, f"{what} right": int(as_it_should)})
        if not attempt.distance:
            break
        before, failed = len(failed), failed | {frozenset(attempt.readings)}
        if before < len(failed) == CANDIDATES:
            counts.update({"all failed": 1, "all failed again": int(more),
                           "all failed again right": int(more and right)})
    return counts


TABLES = {  # title: [(column, how many, of how many)]; the first column's "of" must be there for a row
    "right, %": [
        ("responses", "responses", ""), ("answer", "right", "responses"), ("by steps", "steps", "responses"),
        ("cells", "cells right", "cells"), ("operations", "operations right", "operations"),
        ("copied", "copies right", "copies"), ("not understood", "unknown", "sentences")],
    "points lost to": [*((loss, loss, "responses") for loss in LOSSES), ("together", "wrong", "responses")],
    "pictures": [
        (f"{look} {what}", f"{look} {how_many}", of and f"{look} {of}") for look in ("dark", "light")
        for what, how_many, of in (("ones", "responses", ""), ("answer", "right", "responses"),
                                   ("cells", "cells right", "cells"))],
    "searches": [
        ("by steps", "searches by steps", "searches"), ("then right", "searches right", "searches by steps"),
        ("failed: tries on", "failed right", "failed"), ("found: ends", "found right", "found"),
        ("all failed: reads again", "all failed again", "all failed"),
        ("then right", "all failed again right", "all failed again")]}


def tables(groups):
    """[(header, rows)]: what was done right, what the answers are lost to, dark pictures, searches."""
    for title, columns in TABLES.items():
        rows = [[name.replace("_", " "), *(cell(counts, what, of, title) for _, what, of in columns)]
                for name, counts in groups.items() if counts[columns[0][2] or columns[0][1]]]
        if rows:
            yield [title, *(column for column, _, _ in columns)], rows


def cell(counts, what, of, title):
    if not of:
        return counts[what]
    part = percent(counts[what] / counts[of] if counts[of] else None)
    return f"{part}% of {counts[of]}" if title == "searches" else part


def read_truth(folder, world):
    """truth.json of the world that asked the questions of an evaluation. world: "" if it still lies there."""
    about = read_json(folder / "data.json")
    world = Path(world or Path(about["source"]).parent)
    for name, digest in about["files"].items():
        path = world / "mmmu" / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Refused(f"{path} is not the file whose questions {folder} answers: name the right --world")
    return read_json(world / "truth.json")


def print_losses(runs, world="", together=False):
    """Tables of each run folder, or one set of tables of all of them together."""
    from eval_mmmu import score_rows
    from scoring.mmmu import read_responses
    for some in [runs] if together else [[run] for run in runs]:
        groups, unknown = {}, Counter()
        for run in map(Path, some):
            folder = run / "eval" if (run / "eval").is_dir() else run
            _, rows = score_rows(read_responses(folder / "responses.jsonl"))
            of_run, odd = count(rows, read_truth(folder, world))
            unknown.update(odd)
            for name, counts in of_run.items():
                groups.setdefault(name, Counter()).update(counts)
        print(" ".join(some) + "\n")
        for header, lines in tables(groups):
            print_table(header, lines)
        print(f"sentences not understood: {unknown.total()}, most often {unknown.most_common(5)}\n")
