"""A row of docs/board.md: the whole recipe on the embedded world with several seeds, as it is or with a fork.

    make board                                  as it is: goes on with out/tiny, out/tiny-seed1, ...
    make board FORK=forks/gspo.diff             with the diff, in a clone of the last commit: out/board/gspo
    make board FORK=forks/gspo.diff SEEDS="0 1" two seeds of it

What a diff does not reach need not be run again: a fork of grpo.py alone takes the world, the encoder and the
stages up to the cold start from out/tiny of that seed, if they are there. The row says so. An interrupted
`make board` goes on where it stopped.
"""
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import report
from machinery.files import Refused, checked, main, read_json, say, write_text
from machinery.run import cpu_name
from machinery.tables import spread

ROOT, PYTHON, BOARD = Path(__file__).parent.parent, sys.executable, "docs/board.md"
# the stages that count, in order: their stamps in out/tiny, and how times.tsv calls them
STAGES = {"world": "world", "encoder": "encoder", "captions": "captions", "base": "base",
          "cold_start": "cold start", "rl": "RL", "select": "selection", "connector": "connector"}
# where a fork begins to differ that changes these files alone; others differ from the encoder on
BEGINS = {"sft.py": "captions", "grpo.py": "rl", "reward.py": "rl", "entropy_select.py": "select",
          "connector_tune.py": "connector"}
JUDGE = ("tiny/", "scoring/", "eval_mmmu.py", "report.py", "machinery/scores.py", "forks/")


@dataclass
class Config:
    fork: str = ""                              # a diff against the last commit; "": the recipe as it is
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)    # of world, untrained model and every stage


def folder(seed):
    return f"out/tiny-seed{seed}" if seed else "out/tiny"


def git(*words, where=None):
    done = subprocess.run(["git", *map(str, words)], cwd=where or ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"git {' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def begin_of(fork):
    """The first stage that a diff changes."""
    if not fork.read_text().strip():
        raise Refused(f"{fork} is empty")
    files = [line.split("\t")[2] for line in git("apply", "--numstat", fork).splitlines()]
    files = [file for file in files if not file.startswith(("docs/", "tests/"))]
    if judge := [file for file in files if file.startswith(JUDGE)]:
        raise Refused(f"{fork} changes {judge[0]}: on the board all are judged by the same world and rule")
    if not files:
        raise Refused(f"{fork} changes nothing that runs")
    return min((BEGINS.get(file, "encoder") for file in files), key=[*STAGES].index)


def clone(fork):
    """A clone of the last commit with the diff, made or found as it was left."""
    tree, head = ROOT / "out" / "board" / fork.stem, git("rev-parse", "HEAD")
    if not tree.exists():
        git("clone", "-q", ROOT, tree)
        try:
            git("apply", fork, where=tree)
        except Refused:
            shutil.rmtree(tree)
            raise
        (ROOT / "data").mkdir(exist_ok=True)
        (tree / "data").symlink_to(ROOT / "data")
        (tree / ".venv").mkdir()
        (tree / ".venv" / "ready").touch()  # PYTHON is ready; without it make would make the world again
    try:
        git("apply", "-R", "--check", fork, where=tree)
    except Refused as error:
        raise Refused(f"{tree} has another diff than {fork}. Delete it to start afresh.") from error
    if git("rev-parse", "HEAD", where=tree) != head:
        raise Refused(f"{tree} was made from another commit. Delete it to start afresh.")
    return tree


def share(tree, seed, begin):
    """Copy into the clone the stages before `begin` that are complete in out/tiny, with what they took.
    Returns the last one."""
    there, here, shared = ROOT / folder(seed), tree / folder(seed), ["world"]  # the world is everybody's
    here.mkdir(parents=True, exist_ok=True)
    for stage in [*STAGES][1:[*STAGES].index(begin)]:
        if not (there / f"{stage}.done").exists():
            break
        if not (here / f"{stage}.done").exists():
            lies_in = "rl" if stage == "select" else stage
            # what the selection of a fork samples itself is not to lie there
            leave = shutil.ignore_patterns("probe", "select*") if stage == "rl" else None
            shutil.copytree(there / lies_in, here / lies_in, symlinks=True, dirs_exist_ok=True, ignore=leave)
            shutil.copy2(there / f"{stage}.done", here)  # with its time, or make would run it again
        same = [(at / f"{stage}.done").stat().st_mtime_ns for at in (there, here)]
        if same[0] != same[1]:  # the clone has run it itself
            break
        shared.append(stage)
    names = [STAGES[stage] for stage in shared if STAGES[stage] in times_of(there)]
    taken = [(name, times_of(there)[name]) for name in names]
    taken += [(name, seconds) for name, seconds in times_of(here).items() if name not in names]
    write_text(here / "times.tsv", "".join(f"{name}\t{seconds:g}\n" for name, seconds in taken))
    return shared[-1]


def times_of(path):
    """{stage: seconds} of a folder of `make tiny`. A stage that was called again when all was there has a
    second, short line."""
    file, taken = path / "times.tsv", {}
    for line in file.read_text().splitlines() if file.exists() else ():
        name, seconds = line.split("\t")
        taken[name] = max(float(seconds), taken.get(name, 0))
    return taken


def run(tree, seed):
    """The recipe of one seed up to the evaluation of its last stage, then its results.json."""
    eval = f"{folder(seed)}/connector/eval"
    make = ["make", "-C", tree, f"SEED={seed}", f"PY={PYTHON}", "-o", ".venv/ready"]
    commands = [[*make, f"{folder(seed)}/connector.done"],
                [*make, "-f", ROOT / "Makefile", f"{eval}/scores.json"]]  # asked as all are asked
    if tree != ROOT:  # and judged by the rule of this tree, which the diff may have changed in that one
        commands += [[PYTHON, "eval_mmmu.py", "score", "--responses", tree / eval / "responses.jsonl"]]
    for command in commands:
        try:
            code = subprocess.run(command, cwd=ROOT).returncode
        except KeyboardInterrupt:
            raise Refused(f"stopped in {tree / folder(seed)}: the same command goes on with it") from None
        if code:
            raise Refused(f"{' '.join(map(str, command))} ended with {code}: make board goes on with it")
    report.table(report.Table(str(tree / folder(seed))))


AGAIN = "Run make board again."


def accuracy_of(path):
    """The figure of the board for one folder of `make tiny`: the mean over the subjects, 0 to 1."""
    results = read_json(path / "results.json", {"connector": dict}, AGAIN)["connector"]
    subjects = checked(results, path / "results.json", {"subjects": dict}, AGAIN)["subjects"]
    return sum(subjects.values()) / len(subjects)


def row(name, folders, shared=()):
    """The line of the board for these folders of `make tiny`, one a seed."""
    accuracy, minutes, code = [], [], {}
    for path in map(Path, folders):
        accuracy.append(accuracy_of(path))
        minutes.append(sum(s for stage, s in times_of(path).items() if stage in STAGES.values()) / 60)
        for stage in ("cold_start", "rl", "connector"):
            made = read_json(path / stage / "config.json", {"git": str}, AGAIN)["git"]
            code[made if name == "default" else made.removesuffix("-dirty")] = None  # the diff is its dirt
    plain = [ROOT / "out" / Path(path).name for path in folders]  # the same seeds of the recipe as it is
    against = "-"
    if name != "default" and all((path / "results.json").exists() for path in plain):
        against = spread([a - accuracy_of(path) for a, path in zip(accuracy, plain)], sign="+")
    cells = [name, spread(accuracy), against, len(folders), f"{sum(minutes) / len(minutes):.1f}",
             " ".join(code), " ".join(dict.fromkeys(shared)) or "-", cpu_name(), time.strftime("%Y-%m-%d")]
    return f"| {' | '.join(map(str, cells))} |"


def board(cfg):
    if not cfg.seeds:
        raise Refused('name the seeds: make board SEEDS="0 1 2 3 4"')
    tree, shared, fork = ROOT, [], Path(cfg.fork).absolute()
    if cfg.fork:
        if not fork.is_file():
            raise Refused(f"--fork {cfg.fork}: no such file")
        begin = begin_of(fork)
        tree = clone(fork)
        shared = [share(tree, seed, begin) for seed in cfg.seeds]
    for seed in cfg.seeds:
        run(tree, seed)
    line = row(fork.stem if cfg.fork else "default", [tree / folder(seed) for seed in cfg.seeds], shared)
    write_text(ROOT / BOARD, (ROOT / BOARD).read_text().rstrip("\n") + f"\n{line}\n")
    say(f"{BOARD}: {line}")


if __name__ == "__main__":
    main(board, Config)
