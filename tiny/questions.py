"""The questions of the tiny world, and their solutions step by step.

A question function returns (question, answer, steps): steps is the solution, one reading or operation after
the other. A reading says where before it says what ("top row: 3, 1, 4."): so the next token is one look away.
Reading, adding, taking away, comparing and searching are the same in all subjects, so that a manner learned
in one can carry over to the others. What differs is what has to be read.

A search ("Which row adds up to 8?") tries one line after the other and says how far each is from the goal:

    top row: 3, 1, 5. 3 + 1 = 4. 4 + 5 = 9. 9 - 8 = 1.       not it: either the line is wrong ...
    Alternatively, middle row: 2, 4, 2. ... 8 - 8 = 0.       ... so the next one is tried, and this is it
    Wait, top row: 3, 1, 4. ... 8 - 8 = 0.                   ... or a digit was misread: look again

No solution says what to do when every line was tried in vain.
"""
import math
import re
from dataclasses import replace

OTHERS = ("Economics", "Diagnostics_and_Laboratory_Medicine", "Electronics", "Design", "Sociology")
SUBJECTS = ("Math", *OTHERS)
NOUN = {"Math": "digit", "Diagnostics_and_Laboratory_Medicine": "count", "Electronics": "dial",
        "Design": "corner count", "Sociology": "number"}
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
LINES = {"top row": (0, 1, 2), "middle row": (3, 4, 5), "bottom row": (6, 7, 8),
         "left column": (0, 3, 6), "middle column": (1, 4, 7), "right column": (2, 5, 8)}
ROWS, COLUMNS = tuple(LINES)[:3], tuple(LINES)[3:]
BARS = ("left", "middle", "right")
PAIRS = {"left and middle": (0, 1), "left and right": (0, 2), "middle and right": (1, 2)}  # of three bars

KINDS = {  # subject: {kind: weight}
    "Math": {"read": 4, "sum_line": 18, "range_line": 14, "diff_sums": 10, "corners": 8, "which": 38,
             "two_images": 6, "image_options": 2},
    "Diagnostics_and_Laboratory_Medicine":
            {"read": 6, "sum_line": 24, "range_line": 22, "diff_sums": 15, "which": 25, "two_images": 6,
             "image_options": 2},
    "Electronics": {"read": 6, "sum_line": 27, "range_line": 22, "diff_sums": 12, "which": 25,
                    "two_images": 6, "image_options": 2},
    "Sociology": {"read": 6, "sum_line": 23, "range_line": 21, "diff_sums": 7, "corners": 10, "which": 25,
                  "two_images": 6, "image_options": 2},
    "Design": {"read": 6, "sum_line": 26, "range_line": 22, "diff_sums": 13, "which": 25, "two_images": 6,
               "image_options": 2},
    "Economics": {"read": 6, "sum_two": 18, "total": 18, "range": 16, "balance": 14, "which": 20,
                  "two_images": 6, "image_options": 2},
}
HARD = {"Math": {"diff_sums": 25, "sum_two_lines": 25, "which_of_six": 50}}  # of rl_hard: longer searches
AT_ONCE = "I see it at once."  # the whole thought of a solution without steps
GUESS = 12  # how a glance guides the order of tries: a line off by so much more is e times less often next


# ------------------------------------------------------------------------------------------------- readings

def named_tiles(scene):
    """{name of a reading: its tiles} of all that can be read in a picture."""
    if scene.subject == "Economics":
        several, single = {"bars": (0, 1, 2), **PAIRS}, BARS
    else:
        several, single = {**LINES, "corner": (0, 2, 6, 8)}, PLACES
    return {name: [scene.tiles[i] for i in at] for name, at in several.items()} | {
        name: [tile] for name, tile in zip(single, scene.tiles)}


def look(tile):
    """What is read of a cell or a bar."""
    return f"{tile.colour} {tile.value}" if tile.colour else str(tile.value)


def listed(words):
    return ", ".join(map(str, words)) + "."


def mistaken(rng, tiles):
    """The tiles as a first look may take them, one for another; None where nothing is doubtful."""
    if doubted := [i for i, t in enumerate(tiles) if t.other is not None]:
        at = rng.choice(doubted)
        return [*tiles[:at], replace(tiles[at], value=tiles[at].other), *tiles[at + 1:]]


def read(rng, tiles, name):
    """The tiles of a name one by one. Where one is doubtful they are read twice; the first reading may be
    mistaken. tiles: named_tiles"""
    text, doubtful = listed(map(look, tiles[name])), mistaken(rng, tiles[name])
    if doubtful is None:
        return f"{name}: {text}"
    first = listed(map(look, doubtful)) if rng.random() < 0.5 else text
    return f"{name}: {first} Wait, {text}"


# ------------------------------------------------------------------------------------------------ operations

def add(values):
    """One addition at a time, and the total."""
    total, steps = values[0], []
    for value in values[1:]:
        steps.append(f"{total} + {value} = {total + value}.")
        total += value
    return " ".join(steps), total


def difference(a, b):
    return f"{max(a, b)} - {min(a, b)} = {abs(a - b)}.", abs(a - b)


def values_of(tiles):
    return [t.value for t in tiles]


def sum_of(rng, tiles, name):
    """(answer, steps)"""
    steps, total = add(values_of(tiles[name]))
    return total, f"{read(rng, tiles, name)} {steps}"


def range_of(rng, tiles, name):
    """(answer, steps): how far apart the largest and the smallest are."""
    high, low = max(values_of(tiles[name])), min(values_of(tiles[name]))
    steps, answer = difference(high, low)
    return answer, f"{read(rng, tiles, name)} Largest {high}, smallest {low}. {steps}"


# ----------------------------------------------------------------------------------------------------- search

def search(rng, candidates, goal):
    """Steps that try one candidate after the other. candidates: {name: its tiles}, of which one has the sum
    `goal`; its name ends the search.

    The order is drawn, guided by a glance (GUESS). A line that fails although it was read with a doubt is
    looked at again ("Wait,"); otherwise the next one is tried ("Alternatively,")."""
    order, left = [], list(candidates)
    while left:
        off = [abs(sum(values_of(candidates[name])) - goal) for name in left]
        order.append(rng.choices(left, [math.exp(-d / GUESS) for d in off])[0])
        left.remove(order[-1])
    steps = []
    for name in order:
        tiles = candidates[name]
        right, doubtful = sum(values_of(tiles)) == goal, mistaken(rng, tiles)
        mistook = doubtful and rng.random() < 0.5 and sum(values_of(doubtful)) != goal
        link = "Alternatively, " if steps else ""
        steps.append(link + attempt(doubtful if mistook else tiles, name, goal))
        if mistook or doubtful and not right and rng.random() < 0.3:
            steps.append("Wait, " + attempt(tiles, name, goal))
        if right:
            return f"{' '.join(steps)} {name}."


def attempt(tiles, name, goal):
    steps, total = add(values_of(tiles))
    return f"{name}: {listed(map(look, tiles))} {steps} {difference(total, goal)[0]}"


# ------------------------------------------------------------------------------------------------- questions

def ask_grid(rng, scenes, kind):
    """Questions on a grid of cells."""
    noun, tiles = NOUN[scenes[0].subject], named_tiles(scenes[0])
    line, other = rng.sample(sorted(LINES), 2)
    if set(LINES[line]) & set(LINES[other]):  # take two lines without a common cell
        line, other = rng.sample(ROWS, 2)
    one, two = rng.sample(PLACES, 2)
    if kind == "read":
        return f"What is the {one} {noun}?", tiles[one][0].value, read(rng, tiles, one)
    if kind == "sum_line":
        return f"Add the {noun}s in the {line}.", *sum_of(rng, tiles, line)
    if kind == "range_line":
        question = f"How far apart are the largest and the smallest {noun} in the {line}?"
        return question, *range_of(rng, tiles, line)
    if kind == "corners":
        return f"Add the four corner {noun}s.", *sum_of(rng, tiles, "corner")
    if kind in ("diff_sums", "sum_two_lines"):
        (a, first), (b, second) = sum_of(rng, tiles, line), sum_of(rng, tiles, other)
        if kind == "sum_two_lines":
            question = f"Add all {noun}s in the {line} and the {other}."
            return question, a + b, f"{first} {second} {a} + {b} = {a + b}."
        last, answer = difference(a, b)
        question = f"How far apart are the sums of the {noun}s in the {line} and the {other}?"
        return question, answer, f"{first} {second} {last}"
    if kind == "which_of_six":
        return ask_which(rng, tiles, (*ROWS, *COLUMNS), "line adds")
    if kind == "which":
        names = rng.choice((ROWS, COLUMNS))
        return ask_which(rng, tiles, names, f"{names[0].split()[1]} adds")
    return ask_images(rng, scenes, one, two, noun)


def ask_bars(rng, scenes, kind):
    """Questions on three bars."""
    tiles, (one, two), pair = named_tiles(scenes[0]), rng.sample(BARS, 2), rng.choice(list(PAIRS))
    if kind == "read":
        return f"How high is the {one} bar?", tiles[one][0].value, read(rng, tiles, one)
    if kind == "sum_two":
        return f"Add the {pair} bar.", *sum_of(rng, tiles, pair)
    if kind == "total":
        return "Add all bars.", *sum_of(rng, tiles, "bars")
    if kind == "range":
        return "How far apart are the largest and the smallest bar?", *range_of(rng, tiles, "bars")
    if kind == "balance":
        (total, steps), (third,) = sum_of(rng, tiles, pair), {*BARS} - {*pair.split(" and ")}
        last, answer = difference(total, tiles[third][0].value)
        question = f"How far apart are the sum of the {pair} bar and the {third} bar?"
        return question, answer, f"{steps} {read(rng, tiles, third)} {last}"
    if kind == "which":
        return ask_which(rng, tiles, [*PAIRS], "bars add")
    return ask_images(rng, scenes, one, two, "bar")


def ask_which(rng, tiles, names, what):
    """A search; None where the line that is asked for is not the only one with its sum."""
    name, sums = rng.choice(names), [sum(values_of(tiles[n])) for n in names]
    goal = sums[names.index(name)]
    if sums.count(goal) > 1:
        return None
    return f"Which {what} up to {goal}?", name, search(rng, {n: tiles[n] for n in names}, goal)


def ask_images(rng, scenes, one, two, noun):
    """Questions on two images, and with images as options."""
    tiles = list(map(named_tiles, scenes))
    if len(scenes) == 2:
        last, total = add([tiles[0][one][0].value, tiles[1][two][0].value])
        steps = f"{read(rng, tiles[0], one)} {read(rng, tiles[1], two)} {last}"
        return f"Add the {one} {noun} of <image 1> and the {two} {noun} of <image 2>.", total, steps
    looks = [look(of[one][0]) for of in tiles]
    return f"In which image is the {one} {noun} {looks[0]}?", looks[0], listed(looks)


# ------------------------------------------------------------------------------------------------------ rows

def ask(rng, scenes, kind):
    """A row with one question on these scenes (one, two or four), and steps instead of a solution.

    None: the kind does not fit these scenes."""
    subject = scenes[0].subject
    asked = (ask_bars if subject == "Economics" else ask_grid)(rng, scenes, kind)
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
    if answer.isdigit() and rng.random() < 0.25:
        options = choices(rng, answer)
        answer = "ABCD"[options.index(answer)]
        steps += f" {answer}."
    return {"scenes": scenes, "question": question, "options": options, "answer": answer, "subject": subject,
            "kind": kind, "steps": steps}


def choices(rng, answer):
    """Four numbers near the answer, which has a random letter."""
    near = [int(answer) + d for d in (-10, -4, -3, -2, -1, 1, 2, 3, 4, 10)]
    wrong = [str(n) for n in rng.sample([n for n in near if 0 <= n <= 99], 3)]
    wrong.insert(rng.randrange(4), answer)
    return wrong


def told(scene, names):
    """What stands in these places of a picture"""
    tiles = named_tiles(scene)
    return " ".join(f"{name}: {listed(map(look, tiles[name]))}" for name in names)


def in_words(row):
    """A row on one picture without it: what stands in it is told before the question."""
    scene, = row["scenes"]
    words = told(scene, BARS if scene.subject == "Economics" else ROWS)
    return {**row, "scenes": [], "question": row["question"].replace("<image 1>", words)}


def caption(rng, scene):
    """A row that only reads: the whole picture, or two lines or four places of it. From these the connector
    learns to say in the LLM's language what the encoder sees, and the LLM where to look."""
    if scene.subject == "Economics":
        ways = ["bars"], rng.sample(sorted(PAIRS), 2), rng.sample(BARS, 3)
    else:
        ways = ROWS, rng.sample([*sorted(LINES), "corner"], 2), rng.sample(PLACES, 4)
    names = rng.choices(ways, (2, 1, 1))[0]
    question = "all" if names is ways[0] else " and ".join(f"the {name}" for name in names)
    text = told(scene, names)
    return {"scenes": [scene], "question": f"<image 1> Read {question}.", "options": [],
            "answer": text.rstrip("."), "subject": scene.subject, "kind": "caption", "steps": text}


def sums(rng):
    """A row without a picture, from which the LLM learns to calculate: three sums, and how far each is from a
    number, which is a third of the time one of them."""
    lists = [[rng.randint(0, 9) for _ in range(3)] for _ in range(3)]
    totals = list(map(sum, lists))
    goal = rng.choice((*totals, *(rng.randint(0, 27) for _ in range(6))))
    steps = " ".join(f"{add(values)[0]} {difference(total, goal)[0]}" for values, total in zip(lists, totals))
    question = " ".join(f"Add {listed(values)}" for values in lists)
    return {"scenes": [], "question": f"{question} How far apart are the sums and {goal}?", "options": [],
            "answer": listed(abs(total - goal) for total in totals).rstrip("."), "subject": "Math",
            "kind": "sums", "steps": steps}


def solution(rng, row, steps_share, thinking):
    """What the model must write after the prompt: with steps or at once, with or without a thought."""
    if row["kind"] in ("caption", "sums"):
        return row["steps"]
    with_steps, boxed = rng.random() < steps_share, f"\\boxed{{{row['answer']}}}"
    if thinking:
        return f"{row['steps'] if with_steps else AT_ONCE}\n</think>\n\n{boxed}"
    return f"{row['steps']}\n{boxed}" if with_steps else boxed


def truth(row):
    """What is really to be seen, to judge what a model says that it sees: {"looks": {name of a reading:
    values}} of every reading that a solution of this row can make, and the goal of a search."""
    scenes = row["scenes"]
    tiles, goal = named_tiles(scenes[0]), re.search(r"up to (\d+)\?", row["question"])
    if row["kind"] == "two_images":
        asked = re.findall(r"the ([a-z ]+?)(?: corner)? \w+ of <image (\d)>", row["question"])
        tiles = {name: named_tiles(scenes[int(k) - 1])[name] for name, k in asked}
    looks = {name: list(map(look, some)) for name, some in tiles.items()}
    if row["kind"] == "image_options":
        looks = {"": row["steps"].rsplit(". ", 1)[0].split(", ")}
    return {"kind": row["kind"], "dark": any(scene.dark for scene in scenes), "looks": looks} | (
        {"goal": int(goal[1])} if goal else {})
