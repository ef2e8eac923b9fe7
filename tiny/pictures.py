"""The pictures of the tiny world: 48x48 pixels, nine cells of 16x16 or three bars.

A Tile is one cell. Grid pictures are nine tiles that were drawn beforehand: a pool holds many looks of each
value. Where a reading is truly doubtful (handwriting that a classifier finds close, a pointer between two
marks), the tile knows the value that it could be mistaken for. There questions.py writes "Wait".
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

CELL, SIZE = 16, 48  # pixels
COLOURS = {"red": (214, 64, 56), "green": (58, 160, 84), "blue": (56, 104, 208), "yellow": (236, 184, 40)}
SHAPES = {"circle": 0, "triangle": 3, "square": 4, "angle": 6}  # and their corners


@dataclass
class Tile:
    pixels: np.ndarray  # (16, 16, 3) uint8
    value: int  # what the cell counts in a calculation
    other: int | None = None  # the value it could be mistaken for, where the reading is truly doubtful
    colour: str = ""  # of a bar, of what is in a well, of a shape
    source: int = -1  # Math: which handwritten digit this is


@dataclass
class Scene:
    subject: str
    tiles: list[Tile]  # nine cells from the top left, or Economics' three bars from the left
    pixels: np.ndarray  # (48, 48, 3) uint8
    dark: bool = False  # light ink on dark paper


def canvas(rng, paper=(250, 247, 240), scale=4):
    """A cell to draw in, 4 times larger than life: shrinking it smooths the edges."""
    image = Image.new("RGB", (CELL * scale, CELL * scale), tint(rng, paper, 3))
    return image, ImageDraw.Draw(image)


def tint(rng, colour, strength=14):
    """The colour, a little lighter or darker in each channel."""
    return tuple(max(0, min(255, c + rng.randint(-strength, strength))) for c in colour)


def shrink(image):
    return np.asarray(image.resize((CELL, CELL), Image.BOX))


def on_circle(radius, degrees):
    """(x, y) from the centre of a circle: 0 degrees is to the right, 90 is down."""
    return radius * np.cos(np.radians(degrees)), radius * np.sin(np.radians(degrees))


# -------------------------------------------------------------------------------------------------- tiles

def doubtful_digits(images, labels, share=0.045):
    """{index: the digit it could be mistaken for}: those that a cross-validated classifier finds closest."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.svm import SVC
    flat = images.reshape(len(images), -1)
    votes = cross_val_predict(SVC(gamma=0.001), flat, labels, cv=5, method="decision_function")
    rows = np.arange(len(labels))
    true = votes[rows, labels]
    votes[rows, labels] = -np.inf
    margin = true - votes.max(1)
    closest = np.argsort(margin, kind="stable")[:int(share * len(labels))]
    return {int(i): int(votes[i].argmax()) for i in closest}


@lru_cache(1)
def handwriting():
    """scikit-learn's 1,797 digits: images, labels, {part: indices}, doubtful ones.

    The file goes writer by writer, so the writers of one part wrote nothing in another."""
    from sklearn.datasets import load_digits
    digits = load_digits()
    images, labels = digits.images, digits.target
    parts = {"train": range(900), "rl": range(900, 1197), "val": range(1197, 1297), "test": range(1297, 1797)}
    # the evaluation set teaches no solutions, so it needs no doubts
    doubts = doubtful_digits(images[:1297], labels[:1297])
    return images, labels, parts, doubts


def digit_tiles(rng, part, copies):
    """Each digit of the part, a few times: slightly turned, slanted, stretched, shifted, other ink and paper.
    What is trained on is bent twice as much, because 900 digits are few."""
    images, labels, parts, doubts = handwriting()
    tiles, bend = [], 2 if part == "train" else 1
    for i in parts[part]:
        ink = Image.fromarray((images[i] * 255 / 16).astype(np.uint8)).resize((32, 32), Image.BICUBIC)
        for _ in range(copies):
            turn, slant, grow_x, grow_y = (rng.uniform(-r * bend, r * bend) for r in (0.1, 0.05, 0.07, 0.07))
            # 13 pixels of the cell hold the digit's 32
            a, b, d, e = 2.5 / (0.99 + grow_x), 2.5 * (turn + slant), -2.5 * turn, 2.5 / (0.99 + grow_y)
            c = 16 - (a + b) * 8 + rng.uniform(-1.5, 1.5) * bend
            f = 16 - (d + e) * 8 + rng.uniform(-1.5, 1.5) * bend
            mask = ink.transform((CELL, CELL), Image.AFFINE, (a, b, c, d, e, f), Image.BICUBIC)
            mask = np.asarray(mask, np.float32)[..., None] / 255 * rng.uniform(0.75, 1)
            paper, pen = tint(rng, (250, 247, 240), 3), tint(rng, (38, 46, 92), 30)
            pixels = np.array(paper) * (1 - mask) + np.array(pen) * mask
            pixels = pixels.clip(0, 255).astype(np.uint8)
            tiles.append(Tile(pixels, int(labels[i]), doubts.get(i), source=i))
    return tiles


def dial_tile(rng, value):
    """A gauge with marks from 0 (lower left) to 8 (lower right). Doubtful: a pointer almost between two."""
    image, draw = canvas(rng)
    draw.ellipse((3, 3, 60, 60), fill=tint(rng, (226, 232, 240), 8), outline=(70, 78, 96), width=2)

    def at(mark, radius):
        x, y = on_circle(radius, 135 + 33.75 * mark)
        return 31.5 + x, 31.5 + y

    for mark in range(9):
        draw.line((at(mark, 22), at(mark, 27)), fill=(70, 78, 96), width=2)
    doubted = rng.random() < 0.05
    if value in (0, 8):  # the first and the last mark have one neighbour
        side = 1 if value == 0 else -1
    else:
        side = rng.choice((-1, 1))
    off = side * rng.uniform(0.36, 0.42) if doubted else rng.uniform(-0.15, 0.15)
    draw.line((31.5, 31.5, *at(value + off, 24)), fill=tint(rng, (206, 52, 44)), width=7)
    draw.ellipse((26, 26, 37, 37), fill=(50, 56, 70))
    return Tile(shrink(image), value, value + side if doubted else None)


def well_tile(rng, value):
    """A well of a plate with 1 to 5 dots of one colour in a ring. Doubtful: two touch and could be one."""
    image, draw = canvas(rng, (232, 236, 240))
    draw.ellipse((1, 1, 62, 62), fill=(252, 252, 254), outline=(150, 158, 172), width=2)
    colour = rng.choice(("red", "blue"))
    fill, turn, doubted = tint(rng, COLOURS[colour]), rng.uniform(0, 360), value >= 2 and rng.random() < 0.06
    dots = [on_circle(18.5 if value > 1 else 0, turn + 360 * k / value) for k in range(value)]
    if doubted:  # the second dot leans on the first
        dots[1] = on_circle(18.5, turn + 29)
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
    """A cell of a printed table with a number from 0 to 9."""
    pixels = np.empty((CELL, CELL, 3), np.uint8)
    pixels[:] = tint(rng, rng.choice(((250, 250, 250), (238, 244, 250), (250, 244, 234))), 4)
    ink = np.array([[c == "#" for c in row] for row in FONT[str(value)].split()])
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
    else:  # angle: an L
        draw.rectangle((x - r, y - r, x - r * 0.3, y + r), fill=fill)
        draw.rectangle((x - r, y + r * 0.3, x + r, y + r), fill=fill)
    return Tile(shrink(image), SHAPES[shape], colour=colour)


def make_pools(rng, part, looks, copies=8):
    """{subject: [tiles of one value, ...]} for the grid subjects: pick a value, then one of its looks."""
    digits = digit_tiles(rng, part, copies)
    return {
        "Math": [[t for t in digits if t.value == v] for v in range(10)],
        "Diagnostics_and_Laboratory_Medicine":
            [[well_tile(rng, v) for _ in range(2 * looks)] for v in range(1, 6)],
        "Electronics": [[dial_tile(rng, v) for _ in range(looks)] for v in range(9)],
        "Sociology": [[number_tile(rng, v) for _ in range(looks)] for v in range(10)],
        "Design": [[shape_tile(rng, s, c) for _ in range(looks // 3)] for s in SHAPES for c in COLOURS],
    }


# ------------------------------------------------------------------------------------------------- scenes

def make_scene(rng, pools, subject, dark=False):
    tiles, pixels = bars(rng) if subject == "Economics" else grid(rng, pools, subject)
    return Scene(subject, tiles, darkened(pixels) if dark else pixels, dark)


def darkened(pixels):
    """Lightness turned round, hue kept, as screens do at night: white paper is black, red ink stays red."""
    wide = pixels.astype(np.int16)
    return (wide + 255 - wide.max(-1, keepdims=True) - wide.min(-1, keepdims=True)).astype(np.uint8)


def grid(rng, pools, subject):
    tiles = [rng.choice(rng.choice(pools[subject])) for _ in range(9)]
    rows = [np.concatenate([t.pixels for t in tiles[r:r + 3]], axis=1) for r in (0, 3, 6)]
    pixels = np.concatenate(rows)
    if subject in ("Math", "Sociology"):  # thin rules between the cells
        for k in (CELL, 2 * CELL):
            pixels[k, :], pixels[:, k] = (196, 200, 210), (196, 200, 210)
    return tiles, pixels


def bars(rng):
    """Three bars of 1 to 9 units of 5 pixels. Doubtful: a top that is almost halfway to another unit."""
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    pixels[:] = tint(rng, (250, 247, 240), 5)
    floor = SIZE - 2
    pixels[[floor - 5 * k for k in range(1, 10)], :] = (224, 224, 228)
    tiles = []
    for k, colour in enumerate(rng.sample(list(COLOURS), 3)):
        value, doubted = rng.randint(1, 9), rng.random() < 0.07
        off = rng.choice((-2, 2)) if doubted else rng.choice((-1, 0, 0, 0, 1))
        off = -2 if off == 2 and value == 9 else off  # there is no tenth unit
        left, right = k * CELL + rng.randint(2, 4), (k + 1) * CELL - rng.randint(2, 4)
        pixels[floor - 5 * value - off:floor, left:right] = tint(rng, COLOURS[colour])
        other = value + off // 2
        tiles.append(Tile(pixels, value, other if doubted and other > 0 else None, colour=colour))
    pixels[floor, :] = (90, 90, 96)
    return tiles, pixels
