"""The questions of the embedded world, and their solutions step by step.

A question function returns (question, answer, steps): steps is the solution, one reading or operation after
the other. A reading says where before it says what ("top row: 3, 1, 4."): so the next token is one look away.
"""
from pictures import COLOURS, SHAPES

OTHERS = ("Economics", "Diagnostics_and_Laboratory_Medicine", "Electronics", "Design", "Sociology")
SUBJECTS = ("Math", *OTHERS)
NOUN = {"Math": "digit", "Diagnostics_and_Laboratory_Medicine": "count", "Electronics": "dial",
        "Sociology": "number"}
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
LINES = {"top row": (0, 1, 2), "middle row": (3, 4, 5), "bottom row": (6, 7, 8),
         "left column": (0, 3, 6), "middle column": (1, 4, 7), "right column": (2, 5, 8)}
ROWS = ("top row", "middle row", "bottom row")

KINDS = {  # subject: {kind: weight}
    "Math": {"read": 6, "sum_line": 22, "range_line": 16, "sum_two": 7, "diff_sums": 7, "count_over": 10,
             "corners": 12, "product": 8, "two_images": 5, "image_options": 1.5},
    "Diagnostics_and_Laboratory_Medicine":
            {"read": 5, "sum_line": 16, "range_line": 12, "diff_sums": 12, "colour_line": 18,
             "colour_diff": 18, "count_over": 10, "two_images": 5, "image_options": 1.5},
    "Electronics": {"read": 6, "sum_line": 20, "range_line": 16, "sum_two": 14, "diff_sums": 14,
                    "count_over": 12, "product": 8, "two_images": 5, "image_options": 1.5},
    "Sociology": {"read": 6, "sum_line": 22, "range_line": 18, "diff_sums": 16, "count_over": 14,
                  "corners": 14, "two_images": 5, "image_options": 1.5},
    "Economics": {"read": 6, "sum_two": 16, "total": 18, "range": 16, "balance": 18, "cost": 14, "highest": 6,
                  "two_images": 5, "image_options": 1.5},
    "Design": {"read_shape": 5, "read_colour": 5, "count": 20, "colour_diff": 24, "corners_line": 26,
               "two_images": 5, "image_options": 1.5},
}
LINE_KINDS = ("sum_line", "range_line", "sum_two", "diff_sums", "colour_line", "colour_diff")


# ------------------------------------------------------------------------------------------------- steps

def listed(values):
    return ", ".join(map(str, values)) + "."


def read(rng, tiles, where):
    """Where the tiles stand, and their values one by one. Bars have no `where`: they say their colours.

    Where a value is doubtful, the values are read twice; the first reading may be mistaken.
    """
    def reading(values):
        return listed(values if where else [f"{t.colour} {v}" for t, v in zip(tiles, values)])

    place = where and where + ": "
    values = [t.value for t in tiles]
    doubted = [i for i, t in enumerate(tiles) if t.other is not None]
    if not doubted:
        return place + reading(values)
    first, at = list(values), rng.choice(doubted)
    if rng.random() < 0.5:
        first[at] = tiles[at].other
    return f"{place}{reading(first)} Wait, {reading(values)}"


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


def read_range(rng, tiles, where):
    """(answer, steps): how far apart the largest and the smallest are."""
    high, low = max(t.value for t in tiles), min(t.value for t in tiles)
    steps, answer = difference(rng, high, low)
    return answer, f"{read(rng, tiles, where)} Largest {high}, smallest {low}. {steps}"


def coloured(tiles, colour):
    """What each cell counts when only one colour counts."""
    return [t.value if t.colour == colour else 0 for t in tiles]


def count_rows(tiles, test):
    """(answer, steps): how many of nine cells pass the test, row by row."""
    counts = [sum(map(test, tiles[r:r + 3])) for r in (0, 3, 6)]
    steps, total = add(counts)
    return total, ", ".join(f"{row}: {count}" for row, count in zip(ROWS, counts)) + f". {steps}"


# ------------------------------------------------------------------------------------------------- questions

def ask_grid(rng, scenes, kind):
    """Questions on a grid of numbers: the same in all subjects that have one, so a manner carries over."""
    lines = rng.sample(sorted(LINES), 2)
    if set(LINES[lines[0]]) & set(LINES[lines[1]]):  # take two lines without a common cell
        lines = rng.sample(ROWS, 2)
    places = rng.sample(PLACES, 2)
    if kind in LINE_KINDS:
        return ask_lines(rng, scenes[0], lines, kind)
    return ask_cells(rng, scenes, places, kind)


def ask_lines(rng, scene, lines, kind):
    """Questions on one or two of the rows and columns."""
    noun, (line, other_line) = NOUN[scene.subject], lines
    cells, other_cells = ([scene.tiles[i] for i in LINES[name]] for name in lines)
    if kind == "sum_line":
        steps, total = read_and_add(rng, cells, line)
        return f"Add the {noun}s in the {line}.", total, steps
    if kind == "range_line":
        question = f"How far apart are the largest and the smallest {noun} in the {line}?"
        return question, *read_range(rng, cells, line)
    if kind in ("sum_two", "diff_sums"):
        one, a = read_and_add(rng, cells, line, 0)
        two, b = read_and_add(rng, other_cells, other_line, 0)
        if kind == "sum_two":
            question = f"Add all {noun}s in the {line} and the {other_line}."
            return question, a + b, f"{one} {two} {a} + {b} = {a + b}."
        last, answer = difference(rng, a, b)
        question = f"How far apart are the sums of the {noun}s in the {line} and the {other_line}?"
        return question, answer, f"{one} {two} {last}"
    if kind == "colour_line":
        colour = rng.choice(("red", "blue"))
        values = coloured(cells, colour)
        steps, total = add(values)
        return f"Add the {colour} {noun}s in the {line}.", total, f"{line} {colour}: {listed(values)} {steps}"
    red, blue = coloured(cells, "red"), coloured(cells, "blue")  # colour_diff
    (one, a), (two, b) = add(red), add(blue)
    last, answer = difference(rng, a, b)
    question = f"How far apart are the sums of the red and the blue {noun}s in the {line}?"
    return question, answer, f"{line} red: {listed(red)} {one} {line} blue: {listed(blue)} {two} {last}"


def ask_cells(rng, scenes, places, kind):
    """Questions on single cells, and on all of them."""
    noun, tiles, (place, other_place) = NOUN[scenes[0].subject], scenes[0].tiles, places
    one = tiles[PLACES.index(place)]
    if kind == "read":
        return f"What is the {place} {noun}?", one.value, read(rng, [one], place)
    if kind == "count_over":
        k = rng.randint(1, 2) if noun == "count" else rng.randint(3, 6)
        return f"How many {noun}s are over {k}?", *count_rows(tiles, lambda t: t.value > k)
    if kind == "corners":
        steps, total = read_and_add(rng, [tiles[i] for i in (0, 2, 6, 8)], "corner")
        return f"Add the four corner {noun}s.", total, steps
    if kind == "product":
        two = tiles[PLACES.index(other_place)]
        a, b = one.value, two.value
        steps = f"{read(rng, [one], place)} {read(rng, [two], other_place)} {a} x {b} = {a * b}."
        return f"Multiply the {place} {noun} by the {other_place} {noun}.", a * b, steps
    if kind == "two_images":
        two = scenes[1].tiles[PLACES.index(other_place)]
        steps, total = add([one.value, two.value])
        steps = f"{read(rng, [one], place)} {read(rng, [two], other_place)} {steps}"
        return f"Add the {place} {noun} of <image 1> and the {other_place} {noun} of <image 2>.", total, steps
    values = [s.tiles[PLACES.index(place)].value for s in scenes]  # image_options
    return f"In which image is the {place} {noun} {one.value}?", one.value, listed(values)


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
        return "How far apart are the largest and the smallest bar?", *read_range(rng, bars, "")
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
        steps = f"{read(rng, bars, '')} Largest {high.value}. {high.colour}."
        return "Which bar is the largest?", high.colour, steps
    if kind == "two_images":
        other = rng.choice(scenes[1].tiles)
        steps, total = read_and_add(rng, [one, other], "")
        return f"Add the {one.colour} bar of <image 1> and the {other.colour} bar of <image 2>.", total, steps
    heights = [{bar.colour: bar.value for bar in scene.tiles} for scene in scenes]
    if any(one.colour not in each for each in heights):  # image_options need the colour in all four
        return None
    values = listed(each[one.colour] for each in heights)
    return f"In which image is the {one.colour} bar {one.value}?", one.value, values


def ask_shapes(rng, scenes, kind):
    tiles, place = scenes[0].tiles, rng.choice(PLACES)
    at = PLACES.index(place)
    if kind == "read_shape":
        return f"What is the {place} shape?", tiles[at].shape, f"{place}: {tiles[at].shape}."
    if kind == "read_colour":
        return f"Which colour has the {place} shape?", tiles[at].colour, f"{place}: {tiles[at].colour}."

    def count(tiles, look):
        return count_rows(tiles, lambda t: look in (t.colour, t.shape))

    one, two = rng.sample([*COLOURS, *SHAPES], 2)
    if kind == "count":
        return f"How many {plural(one)} are there?", *count(tiles, one)
    if kind == "colour_diff":
        (a, steps_a), (b, steps_b) = count(tiles, one), count(tiles, two)
        last, answer = difference(rng, a, b)
        question = f"How far apart are the numbers of {plural(one)} and of {plural(two)}?"
        return question, answer, f"{steps_a} {steps_b} {last}"
    if kind == "corners_line":
        line = rng.choice(sorted(LINES))
        steps, total = read_and_add(rng, [tiles[i] for i in LINES[line]], line)
        return f"How many corners do the shapes in the {line} have?", total, steps
    if kind == "two_images":
        (a, steps_a), (b, steps_b) = count(tiles, one), count(scenes[1].tiles, one)
        question = f"How many {plural(one)} are in <image 1> and <image 2> together?"
        return question, a + b, f"{steps_a} {steps_b} {a} + {b} = {a + b}."
    row = [s.tiles[at].shape for s in scenes]  # image_options
    return f"In which image is the {place} shape a {row[0]}?", row[0], listed(row)


def plural(look):
    if look in COLOURS:
        return look + " shapes"
    return look + ("es" if look == "cross" else "s")


# ------------------------------------------------------------------------------------------------- rows

def ask(rng, scenes, kind):
    """A row with one question on these scenes (one, two or four), and steps instead of a solution.

    None: the kind does not fit these scenes.
    """
    subject = scenes[0].subject
    asker = {"Economics": ask_bars, "Design": ask_shapes}.get(subject, ask_grid)
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
        steps = listed(seen[i] for i in order)
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
        family = COLOURS if answer in COLOURS else SHAPES
        wrong = rng.sample([w for w in family if w != answer], 3)
    wrong.insert(rng.randrange(4), answer)
    return wrong


def caption(rng, scene):
    """A row that only reads: the whole picture, or two lines of it.

    From these a model that starts from nothing learns to look, and which cell is meant by which word: they
    hold six to nine readings, a question two or three. Without them it guesses from the text alone for
    thousands of steps.
    """
    bars = scene.subject == "Economics"

    def look(tile):
        if tile.shape:
            return f"{tile.colour} {tile.shape}"
        return f"{tile.colour} {tile.value}" if bars else str(tile.value)

    looks = [look(tile) for tile in scene.tiles]
    if bars:
        question, text = "Read all.", listed(looks)
    else:
        lines = list(ROWS) if rng.random() < 0.5 else rng.sample(sorted(LINES), 2)
        question = "Read all." if len(lines) == 3 else f"Read the {lines[0]} and the {lines[1]}."
        text = " ".join(f"{line}: {listed(looks[i] for i in LINES[line])}" for line in lines)
    return {"scenes": [scene], "question": f"<image 1> {question}", "options": [], "answer": text.rstrip("."),
            "subject": scene.subject, "kind": "caption", "steps": text}


def solution(rng, row, steps_share, thinking, empty):
    """What the model must write after the prompt: with steps or at once, with or without a thought."""
    if row["kind"] == "caption":
        return row["steps"]
    with_steps, boxed = rng.random() < steps_share, f"\\boxed{{{row['answer']}}}"
    if thinking:
        return f"{row['steps'] if with_steps else empty}\n</think>\n\n{boxed}"
    return f"{row['steps']}\n{boxed}" if with_steps else boxed
