"""Questions of an evaluation as their authors store them: MMMU's and MMMU-Pro's columns, and, with --columns,
anybody's (MathVista's, MathVision's, ...). Nothing is skipped: a row that is left out would change the
score.

No torch here, and nothing of our own Records: rows come out as dictionaries (see mmmu_rows.question_of).
"""
import string
from pathlib import Path

from machinery.fields import BadRow, value
from machinery.files import Refused
from machinery.mmmu_rows import accepted_answers, question_of
from machinery.readers import rows_of_file
from machinery.rows import answer_of, id_of, our_fields, renamed, unread_choices


def read_questions_of(file, columns, image_root=""):
    """The questions of one file, as dictionaries."""
    folder, questions = Path(image_root) if image_root else file.parent, []
    for i, row in enumerate(rows_of_file(file), 1):
        name, own_id = f"{file.name} row {i}", id_of(row, columns)
        try:
            row = {**renamed(row, columns), "id": own_id or f"{file.stem}-{i}"}
            name = f"{own_id} ({name})" if own_id else name
            questions.append({**question_of_row(row, name, folder, file.parent.name), **of_scoring(row)})
        except BadRow as error:
            raise Refused(f"Row {name}: {error}") from error
    return questions


def of_scoring(row):
    """What a row says beyond our fields: whether it has options that nobody reads (rows.py), and the decimals
    that its answer is rounded to (MathVista's precision)."""
    return {"unread_choices": unread_choices(row), "precision": row.get("precision")}


def question_of_row(row, name, folder, parent):
    """A row in our columns or MMMU's. parent: the folder of its file, which is MMMU's subject."""
    if "answer" not in row:
        raise BadRow(f"no column 'answer'; its columns are {', '.join(row)} (--columns)"[:400])
    row["answer"] = answer_of(row)
    if "image_1" in row:
        return question_of(row, name, folder, value(row, "subject") or parent)
    fields = our_fields(row, {}, folder)
    if fields["answer"].strip() in ("", "[]"):
        raise BadRow("no answer")
    if not fields["question"].strip() and not fields["images"]:
        raise BadRow(f"no question; its columns are {', '.join(row)} (--columns)"[:400])
    # without a question the picture holds it, and the options as well
    shown = fields["options"] if fields["question"].strip() else []
    return {**fields, "shown": shown, "subject": fields["subject"] or "unknown",
            "question_type": "multiple-choice" if fields["options"] else "open"}


def answers_as_letters(questions):
    """Put a letter where the data state the right option by its text, as MathVista does.

    "4" or "B" can be both. If the data name an option anywhere by a text that is no letter, they do so
    everywhere.
    """
    asked = [q for q in questions if q["options"] and q["answer"] != "?"]  # "?": of a hidden test split
    letters = {q["id"]: string.ascii_uppercase[:len(q["options"])] for q in asked}
    by_text = any(answer.strip("(). ") not in letters[q["id"]] and answer in q["options"]
                  for q in asked for answer in accepted_answers(q["answer"]))
    for q in asked:
        found = [letter_of(answer, q["options"], by_text) for answer in accepted_answers(q["answer"])]
        if None in found:
            raise Refused(f"Row {q['id']}: its answer {q['answer']!r} is neither a letter nor the text of "
                          f"one of its {len(q['options'])} options.")
        q["answer"] = found[0] if len(found) == 1 else str(found)


def letter_of(answer, options, by_text):
    """The letter of the option that an answer names, or None."""
    texts, letters = [option.strip() for option in options], string.ascii_uppercase[:len(options)]
    if by_text and answer.strip() in texts:
        return letters[texts.index(answer.strip())]
    bare = answer.strip().strip("(). ")
    return bare if len(bare) == 1 and bare in letters else None
