"""MMMU's rows in our schema, and its subjects: for its evaluation, and for what must be kept out of
training."""
import re
from pathlib import Path

from machinery.files import hub_name
from machinery.rows import IMAGE_MARK, BadRow, parse_options, text

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


def subject_of(row_id):
    """ids are {split}_{Subject}_{n}, and subjects hold underscores."""
    match = re.fullmatch(r"[^_]+_(.+)_\d+", row_id)
    return match[1] if match else "unknown"


def of_mmmu(row):
    """MMMU's columns in our schema: image_1, image_2, ... are its images, and <image N> names the column.
    Where texts name some, the others are not shown: they belong to the explanation. Options are printed, and
    an open question has none. Other rows stay as they are."""
    if not any(row.get(f"image_{n}") for n in range(1, 10)) or row.get("image") or row.get("images"):
        return row
    choice = row.get("question_type") in (None, "", "multiple-choice")  # MMMU-Pro says nothing
    texts = [text(row, "question"), *(parse_options(row.get("options")) if choice else [])]
    named = {int(number) for each in texts for number in IMAGE_MARK.findall(each) if number}
    columns = [n for n in range(1, 10) if row.get(f"image_{n}") and (n in named or not named)]
    if lost := sorted(named.difference(columns)):
        raise BadRow(f"its text names <image {lost[0]}>, and the column image_{lost[0]} is empty")
    question, *options = [IMAGE_MARK.sub(lambda mark: mark[1] and f"<image {columns.index(int(mark[1])) + 1}>"
                                         or mark[0], each) for each in texts]
    return {**row, "images": [row[f"image_{n}"] for n in columns], "question": question, "options": options}


def subsets_of(source, revision=None):
    """The configurations of a hub data set (MMMU has one for each subject), [None] of local files"""
    if Path(source).exists() or not hub_name(source):
        return [None]
    import datasets
    return datasets.get_dataset_config_names(source, revision)
