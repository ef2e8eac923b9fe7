"""MMMU's responses: which rows can be scored, what a reply gives as its answer, and the tables of scores.

`read_rows`, `mark` and `summary` are the three steps that eval_mmmu.py takes, with reward.py's comparison
between the first two.
"""
import re
from collections import Counter
from statistics import mean

from machinery.files import Refused
from machinery.rows import LETTERS, accepted_answers, answer_of, parse_options
from machinery.tables import mean_and_error, percent, table_lines
from scoring.denial import denies_image
from scoring.numbers import number
from scoring.official import official_right
from scoring.responses import after_thought, last_box, stated_answer
from scoring.spelling import plain

DISCIPLINE_OF = {subject: name for name, subjects in {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine "
                           "Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics "
                            "Energy_and_Power Materials Mechanical_Engineering"
}.items() for subject in subjects.split()}
SHARES = ("unparsed", "truncated", "format", "denial", "official_random")


# ------------------------------------------------------------------------------------------ rows of responses

def read_rows(rows, mode):
    """The rows with what was read in them. mode: of rows that do not carry their own."""
    rows = [read_row(row, mode) for row in rows]
    if not rows:
        raise Refused("There are no responses to score.")
    (who, times), = Counter((row["id"], row["run"]) for row in rows).most_common(1)
    if times > 1:
        raise Refused(f"Row {who[0]} stands there {times} times. Number runs in a field 'run'.")
    return rows


def read_row(row, mode):
    row = {"run": 0, **row, "id": str(row["id"]), "options": parse_options(row.get("options")),
           "answer": answer_of(row).strip(), "choice": row["question_type"] == "multiple-choice"}
    letters = LETTERS[:len(row["options"])]
    row["gold"] = [gold.strip("().") if row["choice"] else gold for gold in accepted_answers(row["answer"])]
    if not set(row["gold"]) <= set(letters) if row["choice"] else row["answer"] in ("", "?"):
        raise Refused(f"Row {row['id']} cannot be scored: its answer is {row['answer']!r}, its options are "
                      f"{letters!r}. (MMMU's test split keeps its answers: send it to its server.)")
    row["subject"] = row.get("subject") or subject_of(row["id"])
    row["discipline"] = DISCIPLINE_OF.get(row["subject"], "Other")
    row["thinking"] = was_thinking(row, mode)
    row["parsed"], row["boxed"] = rule_answer(row)
    return row


def subject_of(row_id):
    """ids are {split}_{Subject}_{n}, and subjects hold underscores."""
    match = re.fullmatch(r"[^_]+_(.+)_\d+", row_id)
    return match[1] if match else "unknown"


def was_thinking(row, mode="auto"):
    """Did <think> end the prompt? The row's own mode says it; if it has none, --mode or the text does."""
    mode = row.get("mode") or mode
    if mode != "auto":
        return mode != "nothink"
    return "</think>" in row["response"] or row.get("finish") == "length"


def rule_answer(row):
    """What our rule reads in a row: (answer or None, stands it in a box?). Without a box it is an answer that
    the reply plainly states, or a reply of at most three words."""
    reply = (after_thought(row["response"], row["thinking"]) or "").strip()
    boxed = last_box(reply)
    bare = reply.replace("**", "") if 0 < len(reply.split()) < 4 and "boxed" not in reply else None
    return (boxed, True) if boxed is not None else (stated_answer(reply) or bare, False)


def rounded(answer, places):
    """The answer as a text; a number rounded where the data say to how many decimals (MathVista's column
    precision, to which its own scorer rounds an answer, too). Others may mean something else by it."""
    found = number(plain(answer)) if places in range(1, 11) else None
    return str(round(found.value, int(places))) if found and not found.percent else answer

# ----------------------------------------------------------------------------------------------------- scores

def mark(row, rule, judge, kept):
    """Write the verdicts into a row. rule, judge: who accepts its answer. kept: does it keep the format?"""
    reply = after_thought(row["response"], row["thinking"])
    # of an open thought the official algorithm reads all there is
    official, random = official_right((row["response"] if reply is None else reply).strip(), row)
    row |= {"rule": rule, "judge": judge, "official": official, "official_random": random, "format": kept,
            "official_boxed": official_right(row["parsed"], row)[0] if row["boxed"] else official,
            "unparsed": row["parsed"] is None, "truncated": row.get("finish") == "length",
            "denial": denies_image(row["response"])}


def summary(rows):
    """The dictionary of scores.json from marked rows. All rates are fractions."""
    subjects, runs, denials = split(rows, "subject"), split(rows, "run"), split(rows, "denial")
    runs = [rate(part, "rule") for part in runs.values()]
    return {**group(rows), "questions": len(split(rows, "id")), **{name: rate(rows, name) for name in SHARES},
            "rule_with_denial": rate(denials.get(True), "rule"),
            "rule_without_denial": rate(denials.get(False), "rule"),
            "runs": runs, "runs_se": mean_and_error(runs)[1],
            "subjects": {name: group(part) for name, part in subjects.items()},
            "disciplines": {name: group(part) for name, part in split(rows, "discipline").items()},
            "question_accuracy": {name: by_question(part) for name, part in subjects.items()}}


def split(rows, name):
    """{value: the rows that have it}, in order"""
    parts = {value: [] for value in sorted({row[name] for row in rows})}
    for row in rows:
        parts[row[name]].append(row)
    return parts


def rate(rows, name):
    return mean(float(row[name]) for row in rows) if rows else None


def by_question(rows):
    """{question: its rule accuracy, the mean over its runs}"""
    return {i: round(rate(part, "rule"), 6) for i, part in split(rows, "id").items()}


def group(rows):
    """Of some rows: how many, both scores, the rule's standard error over questions, the mean length in
    tokens if known. Runs of one question are averaged first, because they are not independent."""
    return {"n": len(rows), **{name: rate(rows, name) for name in ("rule", "official", "official_boxed")},
            "length": rate([row for row in rows if row.get("tokens") is not None], "tokens"),
            "rule_se": mean_and_error(by_question(rows).values())[1]}


def tables(scores):
    """The scores as a table: accuracies in % by our rule, by MMMU's algorithm, and by the same where it reads
    the last box; length in tokens. Below it shares of all responses, in %."""
    rows = []
    for discipline, g in scores["disciplines"].items():
        rows += [(discipline, g)] + [("- " + subject, g) for subject, g in scores["subjects"].items()
                                     if DISCIPLINE_OF.get(subject, "Other") == discipline]
    header = ("", "n", "rule, %", "MMMU's, %", "MMMU's on the box, %", "tokens")
    cells = [(name, g["n"], percent(g["rule"], g["rule_se"]), percent(g["official"]),
              percent(g["official_boxed"]), "-" if g["length"] is None else f"{g['length']:.0f}")
             for name, g in [*rows, ("all", scores)]]
    shares = [f"{name.replace('_', ' ')} {percent(scores[name])}"
              for name in (*SHARES, "rule_with_denial", "rule_without_denial")]
    text = [*table_lines(header, cells), f"in %: {', '.join(shares)}"]
    if asked := scores.get("verifier"):
        text.append(f"rule or judge {percent(scores['judge'])}; of what was asked, no verdict on "
                    f"{percent(asked['no_verdict'])}")
    if len(scores["runs"]) > 1:
        text.append(f"{len(scores['runs'])} runs: {', '.join(map(percent, scores['runs']))}; mean "
                    f"{percent(scores['rule'], scores['runs_se'])} (standard error over runs)")
    return "\n".join(text)
