"""MMMU's responses: which rows can be scored, what a reply gives as its answer, and the tables of scores.

`read_rows`, `mark` and `summary` are the three steps that eval_mmmu.py takes, with reward.py's comparison
between the first two.
"""
import re
import string
from pathlib import Path
from statistics import mean, stdev

from machinery.files import Refused, read_jsonl
from machinery.rows import accepted_answers, parse_options
from machinery.tables import percent, table_lines
from scoring.denial import denies_image
from scoring.numbers import number
from scoring.official import official_right
from scoring.responses import after_thought, last_box, stated_answer
from scoring.spelling import plain

DISCIPLINES = {name: tuple(subjects.split()) for name, subjects in {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine "
                           "Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics "
                            "Energy_and_Power Materials Mechanical_Engineering"}.items()}
DISCIPLINE_OF = {subject: name for name, subjects in DISCIPLINES.items() for subject in subjects}


# ------------------------------------------------------------------------------------------ rows of responses

def read_responses(path):
    """Rows of a responses file. A torn last line is left out, other broken lines are refused."""
    if not Path(path).is_file():
        raise Refused(f"--responses {path}: there is no such file. "
                      f"An evaluation writes it as responses.jsonl into its --out folder.")
    return read_jsonl(path)


def read_rows(rows, mode):
    """The rows with what was read in them. mode: of rows that do not carry their own."""
    if not rows:
        raise Refused("No responses to score.")
    rows, seen = [checked(row, f"row {i}") for i, row in enumerate(rows, 1)], {}
    for i, row in enumerate(rows, 1):
        row["run"] = row.get("run", 0)
        first = seen.setdefault((row["id"], row["run"]), i)
        if first != i:
            raise Refused(f"Row {row['id']} stands there twice (rows {first} and {i}). "
                          f"If these are several runs, number them in a 'run' field.")
        row["thinking"] = was_thinking(row, mode)
        row["parsed"], row["boxed"] = rule_answer(row)
    return rows


def checked(row, where):
    """A responses row with everything that scoring needs, or a sentence that names the row."""
    name = f"{row.get('id', '(without an id)')} ({where})"
    for field in ("id", "question_type", "answer", "response"):
        if row.get(field) is None or field == "answer" and str(row[field]).strip() in ("", "?"):
            raise Refused(f"Row {name} has no {field!r}. Needed: id, question_type, options, answer, "
                          f"response (MMMU's test split keeps its answers: send it to its server).")
    try:
        row = {**row, "options": parse_options(row.get("options") or [])}
    except ValueError as error:
        raise Refused(f"Row {name}: {error}") from error
    row["id"], row["answer"] = str(row["id"]), str(row["answer"]).strip()
    row["choice"] = row["question_type"] == "multiple-choice"  # anything else is open
    row["gold"] = accepted_answers(row["answer"])
    if row["choice"]:
        letters = string.ascii_uppercase[:len(row["options"])]
        row["gold"] = [answer.strip("().") for answer in row["gold"]]
        if not set(row["gold"]) <= set(letters):
            raise Refused(f"Row {name}: its answer {row['answer']!r} is none of the letters "
                          f"{', '.join(letters)} of its {len(letters)} options.")
    row["subject"] = row.get("subject") or subject_of(row["id"])
    return row


def subject_of(row_id):
    """ids are {split}_{Subject}_{n}, and subjects hold underscores."""
    match = re.fullmatch(r"[^_]+_(.+)_\d+", row_id)
    return match[1] if match else "unknown"


# --------------------------------------------------------------------------------------------------- our rule

def was_thinking(row, mode="auto"):
    """Did <think> end the prompt? The row's own mode says it; if it has none, --mode or the text does."""
    mode = row.get("mode") or mode
    if mode != "auto":
        return mode != "nothink"
    response = row["response"]
    return "</think>" in response or response.lstrip().startswith("<think>") or row.get("finish") == "length"


def rule_answer(row):
    """What our rule reads in a row: (answer or None, stands it in a box?). Without a box it is an answer that
    the reply plainly states, or a reply of at most three words."""
    reply = (after_thought(row["response"], row["thinking"]) or "").strip()
    boxed = last_box(reply)
    bare = reply.replace("**", "") if 0 < len(reply.split()) < 4 and "boxed" not in reply else None
    return (boxed, True) if boxed is not None else (stated_answer(reply) or bare, False)


def has_places(precision):
    """Is this a number of decimals? Other data may mean something else by their column `precision`."""
    return type(precision) in (int, float) and precision in range(1, 11)


def rounded(answer, gold, precision):
    """The answer as a text, rounded where the data say to how many decimals their gold is (MathVista's
    precision, to which its own scorer rounds an answer, too). As it is where they do not, where the gold has
    more decimals than that, or where it is no number."""
    found = number(plain(answer))
    if not has_places(precision) or not found or found.percent:
        return answer
    has_gold = re.fullmatch(rf"-?\d+(\.\d{{1,{int(precision)}}})?", gold.strip())
    return str(round(found.value, int(precision))) if has_gold else answer


# ----------------------------------------------------------------------------------------------------- scores

def mark(row, rule, judge, kept):
    """Write the verdicts into a row. rule, judge: who accepts its answer. kept: does it keep the format?"""
    row["rule"], row["judge"] = float(rule), float(judge)
    reply = after_thought(row["response"], row["thinking"])
    # of an open thought the official algorithm reads all there is
    reply = (row["response"] if reply is None else reply).strip()
    row["official"], row["official_random"] = map(float, official_right(reply, row))
    row["official_boxed"] = float(official_right(row["parsed"], row)[0]) if row["boxed"] else row["official"]
    row["unparsed"] = float(row["parsed"] is None)
    row["truncated"] = float(row.get("finish") == "length")
    row["format"] = float(kept)
    row["denial"] = float(denies_image(row["response"]))


def summary(rows):
    """The dictionary of scores.json from marked rows. All rates are fractions."""
    scores = {**group(rows), "questions": len({row["id"] for row in rows})}
    for name in ("official_boxed", "official_random", "unparsed", "truncated", "format", "denial"):
        scores[name] = mean(row[name] for row in rows)
    for name, claim in (("rule_with_denial", 1.0), ("rule_without_denial", 0.0)):
        part = [row["rule"] for row in rows if row["denial"] == claim]
        scores[name] = mean(part) if part else None
    runs, subjects, disciplines = {}, {}, {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row["rule"])
        subjects.setdefault(row["subject"], []).append(row)
        disciplines.setdefault(DISCIPLINE_OF.get(row["subject"], "Other"), []).append(row)
    scores["runs"] = [mean(runs[run]) for run in sorted(runs, key=str)]
    scores["runs_se"] = standard_error(scores["runs"])
    scores["subjects"] = {name: group(subjects[name]) for name in sorted(subjects)}
    names = [name for name in (*DISCIPLINES, "Other") if name in disciplines]
    scores["disciplines"] = {name: group(disciplines[name]) for name in names}
    scores["question_accuracy"] = {name: by_question(subjects[name]) for name in scores["subjects"]}
    return scores


def by_question(rows):
    """{question: its rule accuracy, the mean over its runs}"""
    questions = {}
    for row in rows:
        questions.setdefault(row["id"], []).append(row["rule"])
    return {i: round(mean(values), 6) for i, values in questions.items()}


def group(rows):
    """Of some rows: how many, both scores, the rule's standard error over questions, the mean length in
    tokens if known.

    Runs of one question are averaged first, because they are not independent."""
    lengths = [row["tokens"] for row in rows if isinstance(row.get("tokens"), (int, float))]
    means = {name: mean(row[name] for row in rows) for name in ("rule", "official", "official_boxed")}
    return {"n": len(rows), **means, "length": mean(lengths) if lengths else None,
            "rule_se": standard_error(list(by_question(rows).values()))}


def standard_error(values):
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def tables(scores):
    """The scores as a table: accuracies in % by our rule, by MMMU's algorithm, and by the same where it reads
    the last box; length in tokens. Below it shares of all responses, in %."""
    named = [*scores["disciplines"]] != ["Other"]  # otherwise it is another data set than MMMU
    rows = []
    for discipline, g in scores["disciplines"].items():
        rows += [_line(discipline, g)] if named else []
        rows += [_line("- " * named + subject, g) for subject, g in scores["subjects"].items()
                 if DISCIPLINE_OF.get(subject, "Other") == discipline and (named or subject != "unknown")]
    header = ("", "n", "rule, %", "MMMU's, %", "MMMU's on the box, %", "tokens")
    shares = {name.replace("_", " "): percent(scores[name]) for name in (
        "unparsed", "truncated", "format", "denial", "rule_with_denial", "rule_without_denial",
        "official_random")}
    text = [*table_lines(header, [*rows, _line("all", scores)]), f"in %: {shares}".replace("'", "")]
    if asked := scores.get("verifier"):
        text.append(f"rule or judge {percent(scores['judge'])}; of what was asked, no verdict on "
                    f"{percent(asked['no_verdict'])}")
    if len(scores["runs"]) > 1:
        text.append(f"{len(scores['runs'])} runs: {', '.join(map(percent, scores['runs']))}; mean "
                    f"{percent(scores['rule'], scores['runs_se'])} (standard error over runs)")
    return "\n".join(text)


def _line(name, g):
    return (name, g["n"], percent(g["rule"], g["rule_se"]), percent(g["official"]),
            percent(g["official_boxed"]), "-" if g["length"] is None else f"{g['length']:.0f}")
