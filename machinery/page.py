"""The page that `report.py page` writes: a run's curves and its responses, group by group, tokens coloured by
entropy; one file, no network. It is page.html beside this file, with the data in the place of __DATA__.
"""
import base64
import io
import json
from itertools import groupby
from pathlib import Path

import numpy as np

from machinery.files import read_jsonl, write_text
from machinery.rows import open_image
from scoring.denial import denies_image

CURVES = {"reward": "", "accuracy": "", "length": "tokens", "entropy": "nats"}  # metrics drawn: their units
MORE = ("format", "truncated", "denial", "groups_mixed", "grad_norm")  # told with them at the pointer
FILTERS = ("right", "wrong", "malformed", "cut off", "denial", "groups without spread")
CHARACTERS = 8_000_000  # of all texts at most: about 2 million tokens, 25 MB of page


def read_groups(path):
    """The rows of rollouts.jsonl, a list for each group: rows in sequence of the same step and id."""
    for _, rows in groupby(read_jsonl(path), key=lambda row: (row["step"], row["id"])):
        yield list(rows)


def evenly(sizes, most):
    """Numbers of the groups that the page shows, evenly over the run: about `most` responses, and CHARACTERS.
    sizes: (responses, characters) of each group."""
    responses, characters = np.sum(sizes, 0)
    count = min(len(sizes), len(sizes) * most // responses, len(sizes) * CHARACTERS // max(characters, 1))
    return set(np.linspace(0, len(sizes) - 1, max(1, count)).round().astype(int).tolist())


def marks_of(row, spread):
    """Which of FILTERS a row passes. spread: whether rewards differ in its group; None: unknown."""
    right = row.get("accuracy")
    passed = (right, right is not None and not right, row.get("format") == 0, row.get("finish") == "length",
              denies_image(row["text"]), spread is False)
    return [name for name, yes in zip(FILTERS, passed) if yes]


def has_spread(rows):
    """Whether rewards differ in the group: exactly then an advantage is not 0. None: no advantages there."""
    known = [row["advantage"] for row in rows if row.get("advantage") is not None]
    return any(known) if known else None


def inline_image(path, size):
    """An image file as a data: address; None when it cannot be read."""
    try:
        image = open_image(path)
    except Exception:  # Pillow raises anything
        return None
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_page(path, run, groups, all_responses, image_size, curves=()):
    """Write the page of these groups. Returns {image path: data: address, or None}.

    groups: dicts of step, id, question, images, gold, size and right (of the whole group; None: unknown) and
    responses: dicts of reward, accuracy, format, advantage, finish, marks (see FILTERS), tokens, entropy
    (nats; None: unknown) and critical (numbers of the tokens to underline).
    all_responses: so many are in the file. curves: {metric: (steps, values)}."""
    images = {image: None for group in groups for image in group["images"]}
    images = {image: inline_image(image, image_size) for image in images}
    responses = [r for group in groups for r in group["responses"]]
    entropies = np.array([e for r in responses for e in r["entropy"]], float)  # None becomes NaN
    known = entropies[np.isfinite(entropies)]
    # the darkest colour; the one token in a hundred above it shares it
    top = max(0.01, float(np.quantile(known, 0.99))) if len(known) else 1.0
    drawn = {name: [curves[name][0].tolist(), [float(f"{v:.4g}") for v in curves[name][1]]]  # four digits
             for name in (*CURVES, *MORE) if name in curves}
    data = {"run": run, "top": round(top, 2), "all": all_responses, "filters": count_marks(groups),
            "units": CURVES, "curves": drawn, "groups": groups, "images": images}
    # inside <script> only "</" could end the data early; texts are full of it, and to JSON <\/ is the same
    code = json.dumps(data, allow_nan=False, separators=(",", ":"))
    code = code.replace("</", "<\\/").replace("<!--", "<\\u0021--")
    write_text(path, Path(__file__).with_name("page.html").read_text().replace("__DATA__", code))
    return images


def count_marks(groups):
    """{filter: responses that pass it}; for the last one, groups"""
    counts = {name: [sum(name in r["marks"] for r in group["responses"]) for group in groups]
              for name in FILTERS}
    return {name: sum(map(bool, n) if name == FILTERS[-1] else n) for name, n in counts.items()}
