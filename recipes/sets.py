"""The public sets of the recipes: where each is, and a function that makes rows of ours of one of its rows.

A set of your own in the place of one of these has its columns (data.py --source SET=FILE), or gets a line in
SETS and a function. Subjects come in many languages and spellings, and become one English name each.
"""
import re
from collections import namedtuple

from machinery import mmmu_rows
from machinery.rows import BadRow

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CYRILLIC = "АБВГД"  # the first letters of the Cyrillic alphabet: options of Bulgarian and Serbian exams

# The paper's twenty domains [5.6] and a few more that public sets have. Of several stems in a name the first
# one decides. Those of other languages are for EXAMS-V, whose list was not seen whole.
STEMS = {
    "Mathematics": "math algebra geometr matemat математи 数学 mathém رياضيات",
    "Physics": "physic fizik физик 物理 fisica física physik motion velocity forces fizyka فيزياء",
    "Chemistry": "chem kemij kémi hemij хими хеми 化学 chimi kimya كيمياء",
    "Biology": "biolog биолог 生物 anatomy genes cells ecosystem أحياء",
    "Engineering": "engineering mechanical electronics energy_and_power materials mérnök",
    "Agriculture": "agricult poljopriv селско",
    "Environmental Science": "environment ecolog okoliš",
    "Computer Science": "computer artific informati информати programming",
    "Medicine": "medic clinical diagnost health_care patholog radiolog public_health",
    "Pharmacy": "pharma",
    "Music": "music glazb музик",
    "Literature": "literature književ литература figurative reading-comprehension writing",
    "Philosophy": "philosoph filozof философ ethic",
    "History": "history histori istorij povijest история историја 历史 storia geschichte تاريخ",
    "Economics": "econom ekonom икономик",
    "Psychology": "psycholog psiholog психолог",
    "Political Science": "politic civic politik global-studies 政治",
    "Sociology": "sociolog socijal социолог social",
    "Education": "education pedagog",
    "Law": "law jurisprud pravo",
    "Finance": "financ",
    "Accounting": "account",
    "Business": "business manage marketing tourism biznis",
    "Geography": "geograph geograf географ 地理 földrajz جغرافيا maps",
    "Earth Science": "geolog earth astronomy weather",
    "Art": "art design fine umjetnost",
    "Architecture": "architect",
    "Religion": "religio islam vjeronauk",
    "Language": "language grammar vocabulary punctuation capitalization spelling literacy",
}
SCIENCES = ("Mathematics", "Physics", "Chemistry", "Biology")  # of the cold start [2]


def subject_of(name):
    """The English name of a subject, "Other" for one that is not in the table. A stem counts at the beginning
    of a word: "art" is in "fine_art" and not in "earth". Some scripts have no spaces between words, and
    articles that are part of them."""
    text, places = name.casefold().replace(" ", "_"), []
    for subject, stems in STEMS.items():
        for stem in stems.split():
            begins = "" if ord(stem[0]) > 0x590 else r"(?<![^\W\d_])"
            if found := re.search(begins + re.escape(stem), text):
                places.append((found.start(), -len(stem), subject))
    return min(places, default=(0, 0, "Other"))[2]


# --------------------------------- the public sets: a row of each -> rows of our schema (docs/your_data.md)

def of_mmk12(row):
    if (subject := subject_of(row["subject"])) in SCIENCES and subject != "Mathematics":
        raise BadRow(f"its subject is {subject}, and this set is for mathematics [3.3]")
    yield {"question": row["question"], "image": row["image"], "answer": row["answer"],
           "subject": "Mathematics"}


def of_geometry3k(row):
    yield {"question": row["problem"], "images": row["images"], "answer": row["answer"],
           "subject": "Mathematics"}


def of_science_qa(row):
    options, index = row["choices"], row["answer"]
    if type(index) is not int or not 0 <= index < len(options):
        raise BadRow(f"its answer is {index!r}, an index of its {len(options)} options was expected")
    question = "\n".join(filter(None, (row["hint"], row["question"])))
    yield {"question": question, "image": row["image"], "answer": LETTERS[index], "subject": row["topic"],
           "options": options}


def of_exams_v(row):
    """Question and options stand in the picture, marked by letters of two alphabets or by numbers."""
    key = row["answer_key"].strip().upper()
    places = [marks.index(key) for marks in (LETTERS[:5], CYRILLIC, "12345") if key in list(marks)]
    if not places:
        raise BadRow(f"its answer_key {key!r} names no option")
    yield {"question": "The picture shows an exam question with its options. Which option is right? Answer "
                       "with A for the first option, B for the second, and so on.",
           "image": row["image"], "answer": LETTERS[places[0]], "subject": row["subject"]}


def of_medicine(row):
    yield {"question": row["question"], "image": row["image"], "answer": row["answer"], "subject": "Medicine"}


def of_cauldron(row):
    """Several questions to the same pictures, each {"user", "assistant", "source"}."""
    for turn in row["texts"]:
        answer = re.sub(r"^answer:\s*", "", turn["assistant"].strip(), flags=re.I).rstrip(".")
        yield {"question": turn["user"].strip().removeprefix("Question:"), "images": row["images"],
               "answer": answer, "subject": "Finance"}


def of_mmmu(row):
    yield {**mmmu_rows.of_mmmu(row), "subject": mmmu_rows.subject_of(row["id"])}


# hub: its name there. rows: of its train split, as published. licence: what its card says, or where that was
# read. use: maths, cold_start, breadth. subset: configuration on the hub
Set = namedtuple("Set", "hub rows licence convert use subset split", defaults=("", "train"))
SETS = {
    "mmk12": Set("FanqingM/MMK12", 15_616, "apache-2.0 (read elsewhere, not on its card)", of_mmk12,
                 ("maths",)),
    "geometry3k": Set("hiyouga/geometry3k", 2_101, "mit", of_geometry3k, ("cold_start",)),
    "science_qa": Set("derek-thomas/ScienceQA", 12_726, "cc-by-sa-4.0", of_science_qa,  # half have a picture
                      ("cold_start", "breadth")),
    "exams_v": Set("MBZUAI/EXAMS-V", 16_281, "none on its card; accept its terms on the hub (HF_TOKEN)",
                   of_exams_v, ("cold_start", "breadth")),
    "vqa_rad": Set("flaviagiammarino/vqa-rad", 1_793, "cc0-1.0", of_medicine, ("breadth",)),
    "path_vqa": Set("flaviagiammarino/path-vqa", 19_654, "its card's licence was not read; its pictures are "
                    "of two textbooks and a library", of_medicine, ("breadth",)),
    "finqa": Set("HuggingFaceM4/the_cauldron", 5_276, "mit (FinQA's own; not on the card, nor the count)",
                 of_cauldron, ("breadth",), subset="finqa"),
    # few-shot rows, 5 of each of 30 subjects; no evaluation asks them. --source mmmu_dev= leaves them out
    "mmmu_dev": Set("MMMU/MMMU", 150, "apache-2.0", of_mmmu, ("breadth",), split="dev"),
}
