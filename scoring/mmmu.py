"""MMMU's responses: which rows can be scored, what a reply gives as its answer, and the tables of scores.
eval_mmmu.py takes the steps read_rows and summary, with reward.py's comparison between them."""
from collections import Counter

from machinery.files import Refused
from machinery.mmmu_rows import DISCIPLINE_OF, subject_of
from machinery.rows import LETTERS, BadRow, accepted_answers, answer_of, parse_options
from machinery.tables import mean_and_error
from scoring.denial import denies_image
from scoring.official import official_right
from scoring.responses import after_thought, last_box, stated_answer

SHARES = ("unparsed", "truncated", "format", "denial", "official_random")


def read_rows(rows, mode):
    """The rows with what was read in them. mode: of rows that do not carry their own."""
    given, rows = rows, []
    for i, row in enumerate(given, 1):
        try:
            rows.append(read_row(row, mode))
        except (KeyError, BadRow) as error:
            raise Refused(f"Row {i} ({row.get('id')}) cannot be scored: {error!r}") from error
    if not rows:
        raise Refused("There are no responses to score.")
    (who, times), = Counter((row["id"], row["run"]) for row in rows).most_common(1)
    if times > 1:
        raise Refused(f"Row {who[0]} stands there {times} times. Number runs in a field 'run'.")
    return rows


def read_row(row, mode):
    """A row with the answer that our rule reads in it, and with everything that needs no comparison."""
    row = {"run": 0, **row, "id": str(row["id"]), "options": parse_options(row.get("options")),
           "answer": answer_of(row).strip(), "choice": row["question_type"] == "multiple-choice"}
    letters = LETTERS[:len(row["options"])]
    row["gold"] = [gold.strip("().") if row["choice"] else gold for gold in accepted_answers(row["answer"])]
    if not set(row["gold"]) <= set(letters) if row["choice"] else row["answer"] in ("", "?"):
        raise Refused(f"Row {row['id']} cannot be scored: its answer is {row['answer']!r}, its options are "
                      f"{letters!r}. (MMMU's test split keeps its answers: send it to its server.)")
    row["subject"] = row.get("subject") or subject_of(row["id"])
    row["discipline"] = DISCIPLINE_OF.get(row["subject"], "Other")
    # did <think> end the prompt? The row's own mode says it; if it has none, --mode or the text does
    response, mode, cut = row["response"], row.get("mode") or mode, row.get("finish") == "length"
    row["thinking"] = "</think>" in response or cut if mode == "auto" else mode != "nothink"
    reply = after_thought(response, row["thinking"])
    row["parsed"], row["boxed"] = rule_answer((reply or "").strip())
    # of an open thought the official algorithm reads all there is
    official, random = official_right((response if reply is None else reply).strip(), row)
    return row | {"official": official, "official_random": random,
                  "official_boxed": official_right(row["parsed"], row)[0] if row["boxed"] else official,
                  "unparsed": row["parsed"] is None, "truncated": cut, "denial": denies_image(response)}


def rule_answer(reply):
    """(answer or None, stands it in a box?). Without a box it is what the reply plainly states, or a reply of
    at most three words."""
    boxed = last_box(reply)
    bare = reply.replace("**", "") if 0 < len(reply.split()) < 4 and "boxed" not in reply else None
    return (boxed, True) if boxed is not None else (stated_answer(reply) or bare, False)


def summary(rows):
    """The dictionary of scores.json from marked rows. All rates are fractions."""
    subjects, runs = split(rows, "subject"), [rate(part, "rule") for part in split(rows, "run").values()]
    return {**group(rows), "questions": len(split(rows, "id")), **{name: rate(rows, name) for name in SHARES},
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
    return mean_and_error(row[name] for row in rows)[0] if rows else None


def by_question(rows):
    """{question: its rule accuracy, the mean over its runs}"""
    return {i: round(rate(part, "rule"), 6) for i, part in split(rows, "id").items()}


def group(rows):
    """Of some rows: how many, both scores, the rule's standard error over questions, the mean length in
    tokens if known. Runs of one question are averaged first, because they are not independent."""
    return {"n": len(rows), **{name: rate(rows, name) for name in ("rule", "official", "official_boxed")},
            "length": rate([row for row in rows if row.get("tokens") is not None], "tokens"),
            "rule_se": mean_and_error(by_question(rows).values())[1]}
