"""The embedded world: pictures, questions and an untrained model of about 2M parameters, from nothing, in seconds.

The recipe needs a vision-language model that can see, calculate, and has two manners of answering: step by step and at
once. Real ones cost hours; this world has the same ingredients at a size that a laptop trains in minutes, in the same
files and formats as a real model and real data, so that no stage has a special case for it.

- Every picture is 48x48 with nine 16x16 cells, because the model sees one visual token a cell.
- Six subjects with MMMU's names, one for each of its disciplines. Math is a grid of real handwritten digits (scikit-learn's);
  the handwriting of the evaluation set appears in no training set. The others are drawn.
- Most questions need two to four steps. A four-layer model that writes them down gets them right far more often than one
  that answers at once: this is what reinforcement learning can discover.
- "Wait" stands where a reading is truly doubted (handwriting that a classifier finds close, a pointer between two marks),
  "Alternatively" where the same result is reached another way.

    python tiny/make.py --out data/tiny --seed 0      (same seed, same bytes)

Makes model/ (model.py's food, see blank_model.py), images/, captions.jsonl and base.jsonl (NoThink), cold_start.jsonl, connector.jsonl,
connector_val.jsonl, val.jsonl (thinking), rl.jsonl (Math only, no solutions) and mmmu/ (Parquet in MMMU's schema).
"""
import io
import json
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the scripts at the top of the repository
from blank_model import save_blank_model
from common import Refused, main

CELL, SIZE = 16, 48  # pixels


@dataclass
class Config:
    out: str = "data/tiny"  # folder to make
    seed: int = 0  # same seed and sizes, same bytes
    captions: int = 12_000  # rows that teach to see: a picture and everything in it, all subjects
    base: int = 40_000  # rows that teach to answer and to calculate, all subjects
    cold_start: int = 4_000  # rows that teach the thinking format, all subjects
    rl: int = 4_000  # rows for reinforcement learning: Math only, question and answer, no solution
    connector: int = 4_000  # rows for connector tuning, the same number of every subject
    connector_val: int = 400  # its validation rows
    val: int = 500  # validation rows, half of them Math, handwriting unseen in training
    math_test: int = 2_000  # evaluation questions in Math, handwriting unseen in training and validation
    other_test: int = 400  # evaluation questions in each other subject
    steps_share: float = 0.5  # share of step-by-step solutions in base and cold_start; the rest answers at once
    connector_steps_share: float = 1.0  # the same for connector
    think_empty: str = "I see it at once."  # the whole thought of a solution without steps


# ------------------------------------------------------------------------------------------------ pictures
# A Tile is one cell. Grid pictures are nine tiles, drawn beforehand: a pool maps a value to its many looks.

@dataclass
class Tile:
    pixels: np.ndarray  # (16, 16, 3) uint8
    value: int  # what the cell counts in a calculation
    other: int | None = None  # the value it could be mistaken for, where the reading is truly doubtful
    shape: str = ""  # Design: circle, ...
    colour: str = ""  # Design and Diagnostics: red, ...
    source: int = -1  # Math: which handwritten digit this is


COLOURS = {"red": (214, 64, 56), "green": (58, 160, 84), "blue": (56, 104, 208), "yellow": (236, 184, 40)}
SHAPES = {"circle": 0, "triangle": 3, "square": 4, "cross": 12}  # and their corners


def canvas(rng, paper=(250, 247, 240), scale=4):
    """A cell to draw in, 4 times larger than life: shrinking it smooths the edges."""
    image = Image.new("RGB", (CELL * scale, CELL * scale), tint(rng, paper, 3))
    return image, ImageDraw.Draw(image)


def tint(rng, colour, strength=14):
    return tuple(max(0, min(255, c + rng.randint(-strength, strength))) for c in colour)


def shrink(image):
    return np.asarray(image.resize((CELL, CELL), Image.BOX))


def doubtful_digits(images, labels, share=0.045):
    """{index: the digit it could be mistaken for}: those that a small classifier, cross-validated, finds closest."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.svm import SVC
    votes = cross_val_predict(SVC(gamma=0.001), images.reshape(len(images), -1), labels, cv=5, method="decision_function")
    rows = np.arange(len(labels))
    true = votes[rows, labels]
    votes[rows, labels] = -np.inf
    margin = true - votes.max(1)
    return {int(i): int(votes[i].argmax()) for i in np.argsort(margin, kind="stable")[:int(share * len(labels))]}


@lru_cache(1)
def handwriting():
    """Tiles of scikit-learn's 1,797 digits, by writer as the file goes: {"train": 0..1196, "val": 1197..1296, "test": 1297..}."""
    from sklearn.datasets import load_digits
    digits = load_digits()
    images, labels = digits.images, digits.target
    parts = {"train": range(1197), "val": range(1197, 1297), "test": range(1297, 1797)}
    doubts = doubtful_digits(images[:1297], labels[:1297])  # evaluation teaches no solutions, so it needs no doubts
    return images, labels, parts, doubts


def digit_tiles(rng, part, copies):
    """Each digit of the part, a few times: slightly turned, stretched, shifted, in other ink on other paper."""
    images, labels, parts, doubts = handwriting()
    tiles = []
    for i in parts[part]:
        ink = Image.fromarray((images[i] * 255 / 16).astype(np.uint8)).resize((32, 32), Image.BICUBIC)
        for _ in range(copies):
            turn, grow_x, grow_y = rng.uniform(-0.1, 0.1), rng.uniform(0.92, 1.06), rng.uniform(0.92, 1.06)
            a, b, d, e = 2.5 / grow_x, 2.5 * turn, -2.5 * turn, 2.5 / grow_y  # 13 pixels of the cell hold the digit's 32
            c = 16 - (a + b) * 8 + rng.uniform(-1.5, 1.5)
            f = 16 - (d + e) * 8 + rng.uniform(-1.5, 1.5)
            mask = ink.transform((CELL, CELL), Image.AFFINE, (a, b, c, d, e, f), Image.BICUBIC)
            mask = np.asarray(mask, np.float32)[..., None] / 255 * rng.uniform(0.75, 1)
            paper, pen = tint(rng, (250, 247, 240), 3), tint(rng, (38, 46, 92), 30)
            pixels = np.array(paper) * (1 - mask) + np.array(pen) * mask
            tiles.append(Tile(pixels.clip(0, 255).astype(np.uint8), int(labels[i]), doubts.get(i), source=i))
    return tiles


def dial_tile(rng, value):
    """A gauge: 0 at the lower left, 8 at the lower right, a mark for each. Doubtful: the pointer almost between two."""
    image, draw = canvas(rng)
    draw.ellipse((3, 3, 60, 60), fill=tint(rng, (226, 232, 240), 8), outline=(70, 78, 96), width=2)
    at = lambda mark, radius: (31.5 + radius * np.cos(np.radians(135 + 33.75 * mark)),  # noqa: E731
                               31.5 + radius * np.sin(np.radians(135 + 33.75 * mark)))
    for mark in range(9):
        draw.line((at(mark, 22), at(mark, 27)), fill=(70, 78, 96), width=2)
    doubted = rng.random() < 0.05
    side = -1 if value == 8 else 1 if value == 0 else rng.choice((-1, 1))
    off = side * rng.uniform(0.36, 0.42) if doubted else rng.uniform(-0.15, 0.15)
    draw.line((31.5, 31.5, *at(value + off, 24)), fill=tint(rng, (206, 52, 44)), width=7)
    draw.ellipse((26, 26, 37, 37), fill=(50, 56, 70))
    return Tile(shrink(image), value, value + side if doubted else None)


def well_tile(rng, value):
    """A well of a plate with 0 to 5 dots of one colour. Doubtful: two dots touch and could be one."""
    image, draw = canvas(rng, (232, 236, 240))
    draw.ellipse((1, 1, 62, 62), fill=(252, 252, 254), outline=(150, 158, 172), width=2)
    colour = rng.choice(("red", "blue"))
    fill, turn = tint(rng, COLOURS[colour]), rng.uniform(0, 60)
    slot = lambda k: (18.5 * np.cos(np.radians(turn + 60 * k)), 18.5 * np.sin(np.radians(turn + 60 * k)))  # noqa: E731
    doubted = value >= 2 and rng.random() < 0.06
    if doubted:  # the second dot leans on the first, away from all others
        dots = [slot(0), slot(0.48)] + rng.sample([(0, 0)] + [slot(k) for k in (2, 3, 4, 5)], value - 2)
    else:
        dots = rng.sample([(0, 0)] + [slot(k) for k in range(6)], value)
    for x, y in dots:
        x, y = 31.5 + x + rng.uniform(-1, 1), 31.5 + y + rng.uniform(-1, 1)
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=fill)
    return Tile(shrink(image), value, value - 1 if doubted else None, colour=colour)


FONT = {  # 5x7 pixels a digit, rows from the top, # is ink
    "0": ".###. #...# #...# #...# #...# #...# .###.", "1": "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####", "3": ".###. #...# ....# ..##. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.", "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": ".###. #.... ####. #...# #...# #...# .###.", "7": "##### ....# ...#. ..#.. ..#.. ..#.. ..#..",
    "8": ".###. #...# #...# .###. #...# #...# .###.", "9": ".###. #...# #...# .#### ....# ....# .###.",
}


def number_tile(rng, value):
    """A cell of a printed table with a number from 0 to 12."""
    pixels = np.empty((CELL, CELL, 3), np.uint8)
    pixels[:] = tint(rng, rng.choice(((250, 250, 250), (238, 244, 250), (250, 244, 234))), 4)
    rows = [[c == "#" for c in row] for row in FONT[str(value)[0]].split()]
    if value > 9:
        rows = [row + [False] + [c == "#" for c in more] for row, more in zip(rows, FONT[str(value)[1]].split())]
    ink = np.array(rows)
    y, x = rng.randint(3, 6), (CELL - ink.shape[1]) // 2 + rng.randint(-1, 1)
    pixels[y:y + 7, x:x + ink.shape[1]][ink] = tint(rng, (40, 40, 44))
    return Tile(pixels, value)


def shape_tile(rng, shape, colour):
    image, draw = canvas(rng)
    fill, r = tint(rng, COLOURS[colour], 18), rng.uniform(21, 26)
    x, y = 31.5 + rng.uniform(-4, 4), 31.5 + rng.uniform(-4, 4)
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        draw.rectangle((x - r * 0.88, y - r * 0.88, x + r * 0.88, y + r * 0.88), fill=fill)
    elif shape == "triangle":
        draw.polygon((x, y - r, x - r, y + r * 0.85, x + r, y + r * 0.85), fill=fill)
    else:  # cross
        draw.rectangle((x - r, y - r * 0.36, x + r, y + r * 0.36), fill=fill)
        draw.rectangle((x - r * 0.36, y - r, x + r * 0.36, y + r), fill=fill)
    return Tile(shrink(image), SHAPES[shape], shape=shape, colour=colour)


def make_pools(rng, part, looks):
    """{subject: [tiles of one value, ...]} for the grid subjects: pick a value, then one of its looks."""
    digits = digit_tiles(rng, part, copies=8)
    return {
        "Math": [[t for t in digits if t.value == v] for v in range(10)],
        "Diagnostics_and_Laboratory_Medicine": [[well_tile(rng, v) for _ in range(looks * 2)] for v in range(6)],
        "Electronics": [[dial_tile(rng, v) for _ in range(looks)] for v in range(9)],
        "Sociology": [[number_tile(rng, v) for _ in range(looks)] for v in range(13)],
        "Design": [[shape_tile(rng, s, c) for _ in range(looks // 3)] for s in SHAPES for c in COLOURS],
    }


@dataclass
class Scene:
    subject: str
    tiles: list[Tile]  # nine cells from the top left, or Economics' three bars from the left
    pixels: np.ndarray  # (48, 48, 3) uint8


def make_scene(rng, pools, subject):
    if subject == "Economics":
        return bars_scene(rng)
    tiles = [rng.choice(rng.choice(pools[subject])) for _ in range(9)]
    rows = [np.concatenate([t.pixels for t in tiles[r:r + 3]], axis=1) for r in (0, 3, 6)]
    pixels = np.concatenate(rows)
    if subject in ("Math", "Sociology"):  # thin rules between the cells
        for k in (CELL, 2 * CELL):
            pixels[k, :], pixels[:, k] = (196, 200, 210), (196, 200, 210)
    return Scene(subject, tiles, pixels)


def bars_scene(rng):
    """Three bars of three colours, 1 to 9 units of 5 pixels. Doubtful: a top that is almost halfway to another unit."""
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    pixels[:] = tint(rng, (250, 247, 240), 5)
    floor = SIZE - 2
    pixels[[floor - 5 * k for k in range(1, 10)], :] = (224, 224, 228)
    tiles = []
    for k, colour in enumerate(rng.sample(list(COLOURS), 3)):
        value, doubted = rng.randint(1, 9), rng.random() < 0.07
        off = rng.choice((-2, 2)) if doubted else rng.choice((-1, 0, 0, 0, 1))
        off = -2 if off == 2 and value == 9 else off
        left, right = k * CELL + rng.randint(2, 4), (k + 1) * CELL - rng.randint(2, 4)
        pixels[floor - 5 * value - off:floor, left:right] = tint(rng, COLOURS[colour])
        tiles.append(Tile(pixels, value, value + off // 2 if doubted and value + off // 2 > 0 else None, colour=colour))
    pixels[floor, :] = (90, 90, 96)
    return Scene("Economics", tiles, pixels)


# ------------------------------------------------------------------------------------------------ questions
# A question function returns (question, answer, steps): steps is the solution, one reading or operation after another.

OTHERS = ("Economics", "Diagnostics_and_Laboratory_Medicine", "Electronics", "Design", "Sociology")
SUBJECTS = ("Math", *OTHERS)
NOUN = {"Math": "digit", "Diagnostics_and_Laboratory_Medicine": "count", "Electronics": "dial", "Sociology": "number"}
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
LINES = {"top row": (0, 1, 2), "middle row": (3, 4, 5), "bottom row": (6, 7, 8),
         "left column": (0, 3, 6), "middle column": (1, 4, 7), "right column": (2, 5, 8)}
ROWS = ("top row", "middle row", "bottom row")

KINDS = {  # subject: {kind: weight}
    "Math": {"read": 6, "sum_line": 22, "range_line": 16, "sum_two": 7, "diff_sums": 7, "count_over": 10, "corners": 12,
             "product": 8, "two_images": 5, "image_options": 1.5},
    "Diagnostics_and_Laboratory_Medicine": {"read": 5, "sum_line": 16, "range_line": 12, "diff_sums": 12, "colour_line": 18,
                                            "colour_diff": 18, "count_over": 10, "two_images": 5, "image_options": 1.5},
    "Electronics": {"read": 6, "sum_line": 20, "range_line": 16, "sum_two": 14, "diff_sums": 14, "count_over": 12, "product": 8,
                    "two_images": 5, "image_options": 1.5},
    "Sociology": {"read": 6, "sum_line": 22, "range_line": 18, "diff_sums": 16, "count_over": 14, "corners": 14,
                  "two_images": 5, "image_options": 1.5},
    "Economics": {"read": 6, "sum_two": 16, "total": 18, "range": 16, "balance": 18, "cost": 14, "highest": 6,
                  "two_images": 5, "image_options": 1.5},
    "Design": {"read_shape": 5, "read_colour": 5, "count": 20, "colour_diff": 24, "corners_line": 26, "two_images": 5,
               "image_options": 1.5},
}


def read(rng, tiles, where):
    """Where they stand, and the values one by one: what is looked at is said before it is read, so that the next token is
    one look away. Where a value is doubtful they are read twice; the first time it may be mistaken. Bars say their colours."""
    listing = lambda values: ", ".join(map(str, values)) + "."  # noqa: E731
    if not where:
        listing = lambda values: ", ".join(f"{t.colour} {v}" for t, v in zip(tiles, values)) + "."  # noqa: E731
    values, doubted = [t.value for t in tiles], [i for i, t in enumerate(tiles) if t.other is not None]
    where = where and where + ": "
    if not doubted:
        return where + listing(values)
    first, at = list(values), rng.choice(doubted)
    if rng.random() < 0.5:
        first[at] = tiles[at].other
    return f"{where}{listing(first)} Wait, {listing(values)}"


def add(values):
    """One addition at a time, and the total."""
    total, steps = values[0], []
    for value in values[1:]:
        steps.append(f"{total} + {value} = {total + value}.")
        total += value
    return " ".join(steps), total


def read_and_add(rng, tiles, where, other_way=0.25):
    """Read, add; now and then add again from the other end."""
    values = [t.value for t in tiles]
    steps, total = add(values)
    if len(values) > 2 and rng.random() < other_way:
        steps += f" Alternatively, {add(values[::-1])[0]}"
    return f"{read(rng, tiles, where)} {steps}", total


def difference(rng, a, b):
    steps = f"{max(a, b)} - {min(a, b)} = {abs(a - b)}."
    if rng.random() < 0.14:
        steps += f" Alternatively, {min(a, b)} + {abs(a - b)} = {max(a, b)}."
    return steps, abs(a - b)


def ask_grid(rng, scenes, kind):
    """Questions on a grid of numbers: the same for digits, cell counts, dials and tables, so that a manner carries over."""
    noun, tiles = NOUN[scenes[0].subject], scenes[0].tiles
    line, other_line = rng.sample(sorted(LINES), 2)
    if set(LINES[line]) & set(LINES[other_line]):  # two lines without a common cell
        line, other_line = rng.sample(ROWS, 2)
    place, other_place = rng.sample(PLACES, 2)
    cells, other_cells = [tiles[i] for i in LINES[line]], [tiles[i] for i in LINES[other_line]]
    if kind == "read":
        tile = tiles[PLACES.index(place)]
        return f"What is the {place} {noun}?", tile.value, read(rng, [tile], place)
    if kind == "sum_line":
        steps, total = read_and_add(rng, cells, line)
        return f"Add the {noun}s in the {line}.", total, steps
    if kind == "range_line":
        high, low = max(t.value for t in cells), min(t.value for t in cells)
        steps, answer = difference(rng, high, low)
        question = f"How far apart are the largest and the smallest {noun} in the {line}?"
        return question, answer, f"{read(rng, cells, line)} Largest {high}, smallest {low}. {steps}"
    if kind in ("sum_two", "diff_sums"):
        (one, a), (two, b) = read_and_add(rng, cells, line, 0), read_and_add(rng, other_cells, other_line, 0)
        if kind == "sum_two":
            return f"Add all {noun}s in the {line} and the {other_line}.", a + b, f"{one} {two} {a} + {b} = {a + b}."
        last, answer = difference(rng, a, b)
        return f"How far apart are the sums of the {noun}s in the {line} and the {other_line}?", answer, f"{one} {two} {last}"
    if kind == "count_over":
        k = rng.randint(1, 2) if noun == "count" else rng.randint(3, 6)
        return f"How many {noun}s are over {k}?", *count_rows(rng, tiles, lambda t: t.value > k)
    if kind == "corners":
        steps, total = read_and_add(rng, [tiles[i] for i in (0, 2, 6, 8)], "corner")
        return f"Add the four corner {noun}s.", total, steps
    if kind == "product":
        one, two = tiles[PLACES.index(place)], tiles[PLACES.index(other_place)]
        a, b = one.value, two.value
        steps = f"{read(rng, [one], place)} {read(rng, [two], other_place)} {a} x {b} = {a * b}."
        return f"Multiply the {place} {noun} by the {other_place} {noun}.", a * b, steps
    if kind == "colour_line":
        colour = rng.choice(("red", "blue"))
        values = coloured(cells, colour)
        return f"Add the {colour} {noun}s in the {line}.", sum(values), f"{line} {colour}: {read_values(values)} {add(values)[0]}"
    if kind == "colour_diff":
        red, blue = coloured(cells, "red"), coloured(cells, "blue")
        (one, a), (two, b) = add(red), add(blue)
        last, answer = difference(rng, a, b)
        question = f"How far apart are the sums of the red and the blue {noun}s in the {line}?"
        return question, answer, f"{line} red: {read_values(red)} {one} {line} blue: {read_values(blue)} {two} {last}"
    if kind == "two_images":
        one, two = tiles[PLACES.index(place)], scenes[1].tiles[PLACES.index(other_place)]
        steps, total = add([one.value, two.value])
        steps = f"{read(rng, [one], place)} {read(rng, [two], other_place)} {steps}"
        return f"Add the {place} {noun} of <image 1> and the {other_place} {noun} of <image 2>.", total, steps
    row = [s.tiles[PLACES.index(place)] for s in scenes]  # image_options
    return f"In which image is the {place} {noun} {row[0].value}?", row[0].value, read_values([t.value for t in row])


def read_values(values):
    return ", ".join(map(str, values)) + "."


def coloured(tiles, colour):
    """What each cell counts when only one colour counts."""
    return [t.value if t.colour == colour else 0 for t in tiles]


def count_rows(rng, tiles, test):
    """(answer, steps): how many of nine cells pass, row by row."""
    counts = [sum(map(test, tiles[r:r + 3])) for r in (0, 3, 6)]
    steps, total = add(counts)
    return total, ", ".join(f"{row}: {count}" for row, count in zip(ROWS, counts)) + f". {steps}"


def ask_bars(rng, scenes, kind):
    bars = scenes[0].tiles
    one, two, three = rng.sample(bars, 3)
    if kind == "read":
        return f"How high is the {one.colour} bar?", one.value, read(rng, [one], "")
    if kind == "sum_two":
        steps, total = read_and_add(rng, [one, two], "")
        return f"Add the {one.colour} and the {two.colour} bar.", total, steps
    if kind == "total":
        steps, total = read_and_add(rng, bars, "")
        return "Add all bars.", total, steps
    if kind == "range":
        high, low = max(t.value for t in bars), min(t.value for t in bars)
        steps, answer = difference(rng, high, low)
        return "How far apart are the largest and the smallest bar?", answer, (
            f"{read(rng, bars, '')} Largest {high}, smallest {low}. {steps}")
    if kind == "balance":
        if one.value + two.value < three.value:  # nothing is ever negative here
            one, three = three, one
        total = one.value + two.value
        steps = f"{read(rng, [one, two, three], '')} {one.value} + {two.value} = {total}."
        question = f"Add the {one.colour} and the {two.colour} bar, then take away the {three.colour} bar."
        return question, total - three.value, f"{steps} {total} - {three.value} = {total - three.value}."
    if kind == "cost":
        price = rng.randint(2, 9)
        steps = f"{read(rng, [one], '')} {one.value} x {price} = {one.value * price}."
        return f"One unit costs {price}. What does the {one.colour} bar cost?", one.value * price, steps
    if kind == "highest":
        high = max(bars, key=lambda t: t.value)
        if sum(t.value == high.value for t in bars) > 1:
            return None
        return "Which bar is the largest?", high.colour, f"{read(rng, bars, '')} Largest {high.value}. {high.colour}."
    if kind == "two_images":
        other = rng.choice(scenes[1].tiles)
        steps, total = read_and_add(rng, [one, other], "")
        return f"Add the {one.colour} bar of <image 1> and the {other.colour} bar of <image 2>.", total, steps
    row = [next((t for t in s.tiles if t.colour == one.colour), None) for s in scenes]
    if None in row:  # image_options need the colour in all four
        return None
    return f"In which image is the {one.colour} bar {one.value}?", one.value, read_values([t.value for t in row])


def ask_shapes(rng, scenes, kind):
    tiles, place = scenes[0].tiles, rng.choice(PLACES)
    tile = tiles[PLACES.index(place)]
    if kind == "read_shape":
        return f"What is the {place} shape?", tile.shape, f"{place}: {tile.shape}."
    if kind == "read_colour":
        return f"Which colour has the {place} shape?", tile.colour, f"{place}: {tile.colour}."
    looks = [*COLOURS, *SHAPES]
    name = lambda look: look + (" shapes" if look in COLOURS else "es" if look == "cross" else "s")  # noqa: E731
    has = lambda look: lambda t: look in (t.colour, t.shape)  # noqa: E731
    one, two = rng.sample(looks, 2)
    if kind == "count":
        return f"How many {name(one)} are there?", *count_rows(rng, tiles, has(one))
    if kind == "colour_diff":
        (a, steps_a), (b, steps_b) = count_rows(rng, tiles, has(one)), count_rows(rng, tiles, has(two))
        last, answer = difference(rng, a, b)
        return f"How far apart are the numbers of {name(one)} and of {name(two)}?", answer, f"{steps_a} {steps_b} {last}"
    if kind == "corners_line":
        line = rng.choice(sorted(LINES))
        steps, total = read_and_add(rng, [tiles[i] for i in LINES[line]], line)
        return f"How many corners do the shapes in the {line} have?", total, steps
    if kind == "two_images":
        (a, steps_a), (b, steps_b) = count_rows(rng, tiles, has(one)), count_rows(rng, scenes[1].tiles, has(one))
        question = f"How many {name(one)} are in <image 1> and <image 2> together?"
        return question, a + b, f"{steps_a} {steps_b} {a} + {b} = {a + b}."
    row = [s.tiles[PLACES.index(place)].shape for s in scenes]
    return f"In which image is the {place} shape a {row[0]}?", row[0], ", ".join(row) + "."


WORDS = {"colour": list(COLOURS), "shape": list(SHAPES)}


def ask(rng, scenes, kind):
    """A row with one question on these scenes (one, two or four), and steps instead of a solution. None: the kind does not fit."""
    subject = scenes[0].subject
    asker = ask_bars if subject == "Economics" else ask_shapes if subject == "Design" else ask_grid
    asked = asker(rng, scenes, kind)
    if asked is None:
        return None
    question, answer, steps = asked
    answer, options = str(answer), []
    if kind == "image_options":
        seen = steps.rstrip(".").split(", ")
        if seen.count(answer) > 1:  # only the first image may have it
            return None
        order = rng.sample(range(4), 4)
        options = [f"<image {k + 1}>" for k in range(4)]
        scenes = [scenes[i] for i in order]
        steps = ", ".join(seen[i] for i in order) + "."
        answer = "ABCD"[order.index(0)]
        steps += f" {answer}."
    elif kind != "two_images":
        question = f"<image 1> {question}"
    if not options and rng.random() < 0.25:
        options = choices(rng, answer)
        answer = "ABCD"[options.index(answer)]
        steps += f" {answer}."
    return {"scenes": scenes, "question": question, "options": options, "answer": answer, "subject": subject,
            "kind": kind, "steps": steps}


def choices(rng, answer):
    """Four options with the answer at a random letter: words of its family, or numbers near it."""
    if answer.isdigit():
        near = [int(answer) + d for d in (-10, -4, -3, -2, -1, 1, 2, 3, 4, 10)]
        wrong = [str(n) for n in rng.sample([n for n in near if 0 <= n <= 99], 3)]
    else:
        family = next(words for words in (list(COLOURS), list(SHAPES)) if answer in words)
        wrong = rng.sample([w for w in family if w != answer], 3)
    wrong.insert(rng.randrange(4), answer)
    return wrong


def caption(rng, scene):
    """A row that only reads: the whole picture, or two lines of it. A model that starts from nothing learns to look from
    these, and which cell is meant by which word: six to nine readings a row, where a question needs two or three. Without
    them it guesses from the text alone for thousands of steps."""
    name = lambda t: f"{t.colour} {t.shape}" if t.shape else f"{t.colour} {t.value}" if len(scene.tiles) == 3 else str(t.value)  # noqa: E731
    listing = lambda tiles: ", ".join(map(name, tiles)) + "."  # noqa: E731
    if len(scene.tiles) == 3:
        question, text = "Read all.", listing(scene.tiles)
    else:
        lines = list(ROWS) if rng.random() < 0.5 else rng.sample(sorted(LINES), 2)
        question = "Read all." if len(lines) == 3 else f"Read the {lines[0]} and the {lines[1]}."
        text = " ".join(f"{line}: {listing([scene.tiles[i] for i in LINES[line]])}" for line in lines)
    return {"scenes": [scene], "question": f"<image 1> {question}", "options": [], "answer": text.rstrip("."), "subject": scene.subject,
            "kind": "caption", "steps": text}


def solution(rng, row, steps_share, thinking, empty):
    """What the model must write after the prompt: with steps or at once, with or without a thought."""
    if row["kind"] == "caption":
        return row["steps"]
    with_steps, boxed = rng.random() < steps_share, f"\\boxed{{{row['answer']}}}"
    if thinking:
        return f"{row['steps'] if with_steps else empty}\n</think>\n\n{boxed}"
    return f"{row['steps']}\n{boxed}" if with_steps else boxed


# ------------------------------------------------------------------------------------------------ sets

def make_rows(rng, pools, subjects, per_image, bar):
    """A row for each of the subjects listed, several questions a picture. Rows that share a picture share its Scene."""
    rows = []
    for subject in SUBJECTS:
        kinds, weights = list(KINDS[subject]), list(KINDS[subject].values())
        drawn, asked, todo = [], per_image, subjects.count(subject)
        while todo:
            if asked == per_image:
                drawn.append(make_scene(rng, pools, subject))
                asked = 0
            kind = rng.choices(kinds, weights)[0]
            more = {"two_images": 1, "image_options": 3}.get(kind, 0)  # pictures beside this one: some that were drawn before
            if len(drawn) <= more:
                continue
            row = ask(rng, [drawn[-1], *rng.sample(drawn[:-1], more)], kind)
            if row is not None:
                rows.append(row)
                asked, todo = asked + 1, todo - 1
                bar.update(1)
    rng.shuffle(rows)
    return rows


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_jsonl(folder, name, rows, keep_steps, rng=None, thinking=True, steps_share=1.0, empty=""):
    """name.jsonl and its pictures in images/name/."""
    (folder / "images" / name).mkdir(parents=True)
    paths = {}  # id of a Scene -> its file
    with open(folder / f"{name}.jsonl", "w") as file:
        for i, row in enumerate(rows):
            for scene in row["scenes"]:
                if id(scene) not in paths:
                    paths[id(scene)] = f"images/{name}/{len(paths):05d}.png"
                    (folder / paths[id(scene)]).write_bytes(png(scene.pixels))
            out = {"id": f"{name}_{i}", "images": [paths[id(s)] for s in row["scenes"]], "question": row["question"],
                   "options": row["options"], "answer": row["answer"], "subject": row["subject"], "kind": row["kind"]}
            if keep_steps:
                out["solution"] = solution(rng, row, steps_share, thinking, empty)
            file.write(json.dumps(out) + "\n")


def write_mmmu(folder, rows):
    """Parquet in MMMU's schema: everything is a string but the pictures; options are the printed form of a Python list."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    texts = ("id", "question", "options", "explanation")
    tail = ("img_type", "answer", "topic_difficulty", "question_type", "subfield")
    pictures = tuple(f"image_{k}" for k in range(1, 8))
    picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {n: {"dtype": "string", "_type": "Value"} for n in texts} | {n: {"_type": "Image"} for n in pictures}
    features |= {n: {"dtype": "string", "_type": "Value"} for n in tail}
    schema = pa.schema([(n, picture if n in pictures else pa.string()) for n in features],
                       metadata={"huggingface": json.dumps({"info": {"features": features}})})  # what `datasets` reads
    for subject in SUBJECTS:
        table = []
        for i, row in enumerate(r for r in rows if r["subject"] == subject):
            operations = row["steps"].count("=")
            out = {"id": f"validation_{subject}_{i + 1}", "question": row["question"], "options": str(row["options"]),
                   "explanation": row["steps"], "img_type": "['Tables']", "answer": row["answer"],
                   "topic_difficulty": "Easy" if operations == 0 else "Medium" if operations < 3 else "Hard",
                   "question_type": "multiple-choice" if row["options"] else "open", "subfield": row["kind"]}
            out |= {name: None for name in pictures}
            for name, scene in zip(pictures, row["scenes"]):
                out[name] = {"bytes": png(scene.pixels), "path": f"{out['id']}_{name[-1]}.png"}
            table.append(out)
        (folder / subject).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(table, schema=schema), folder / subject / "validation-00000-of-00001.parquet")


def make_sets(cfg, bar):
    """{name: rows} of every set. Sets differ in their random numbers; evaluation and validation also in their handwriting."""
    def mix(n, math_share):  # the subject of each row
        math = round(n * math_share)
        return ["Math"] * math + [OTHERS[i % len(OTHERS)] for i in range(n - math)]

    sets, pools = {}, {}
    for part in ("train", "val", "test"):
        pools[part] = make_pools(random.Random(f"{cfg.seed} {part}"), part, looks=120)
    rng = random.Random(f"{cfg.seed} captions")
    sets["captions"] = [caption(rng, make_scene(rng, pools["train"], subject)) for subject in mix(cfg.captions, 0.4)]
    rng.shuffle(sets["captions"])
    bar.update(cfg.captions)
    for name, part, per_image, subjects in (
            ("base", "train", 4, mix(cfg.base, 0.4)),
            ("cold_start", "train", 2, mix(cfg.cold_start, 0.4)),
            ("rl", "train", 2, mix(cfg.rl, 1.0)),
            ("connector", "train", 2, mix(cfg.connector, 1 / 6)),
            ("connector_val", "val", 2, mix(cfg.connector_val, 1 / 6)),
            ("val", "val", 1, mix(cfg.val, 0.5)),
            ("mmmu", "test", 1, ["Math"] * cfg.math_test + list(OTHERS) * cfg.other_test)):
        sets[name] = make_rows(random.Random(f"{cfg.seed} {name}"), pools[part], subjects, per_image, bar)
    return sets


def make(cfg):
    out, wanted = Path(cfg.out), {k: v for k, v in asdict(cfg).items() if k != "out"}
    if out.exists():
        note = out / "world.json"
        made = json.loads(note.read_text()) if note.exists() else {}
        changed = [f"{k}={made.get(k)!r} instead of {v!r}" for k, v in wanted.items() if made.get(k) != v]
        if changed:
            raise Refused(f"{out} exists, made with {', '.join(changed)}. Remove that folder, or give another one with --out.")
        print(f"{out} exists, made with the same seed and sizes: nothing to do.")
        return
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    began = time.time()
    total = cfg.captions + cfg.base + cfg.cold_start + cfg.rl + cfg.connector + cfg.connector_val + cfg.val + cfg.math_test + 5 * cfg.other_test
    with tqdm(total=2 * total, desc="making the world", unit=" rows") as bar:
        sets = make_sets(cfg, bar)
        for name, rows in sets.items():
            rng = random.Random(f"{cfg.seed} {name} solutions")
            share = cfg.steps_share if name in ("base", "cold_start") else cfg.connector_steps_share
            if name == "mmmu":
                write_mmmu(part / "mmmu", rows)
            else:
                write_jsonl(part, name, rows, name != "rl", rng, name not in ("captions", "base"), share, cfg.think_empty)
            bar.update(len(rows))
    parameters = save_blank_model(part / "model", cfg.seed)
    (part / "world.json").write_text(json.dumps(wanted, indent=1))
    part.rename(out)
    print(f"{out}: {total:,} questions, a model of {parameters:,} parameters, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main(make, Config)
