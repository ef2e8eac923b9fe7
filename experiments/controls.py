"""Controls that a claim about visual reasoning needs, a function each: seeds -> rows, as in findings.py."""
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import torch

from experiments.lab import arms, compared, logged, measured, once, series
from machinery.files import new_folder, read_json
from machinery.rows import blank, open_image
from machinery.tables import mean_and_error
from model import load

ROOT = Path(__file__).parent.parent


# --------------------------------------------------------------------------------------------- does it see?

def unseen(seed, how):
    """RL's rows as a stage's flags: with blank pictures, or with another row's (two rows share a picture)"""
    rows, grey = seed.rows("rl"), (seed.out / "blind/blank.png").absolute()
    grey.parent.mkdir(parents=True, exist_ok=True)
    blank(seed.world / rows[0]["images"][0]).save(grey)
    for row, other in zip(rows, [row["images"] for row in rows[2:] + rows[:2]]):
        n = len(row["images"])
        row["images"] = [str(grey)] * n if how == "blank" else (other * n)[:n]
    return seed.rows_file(f"blind/{how}", rows)


def blind(seeds):
    """q. How much of RL's gain needs eyes? RL on the same maths with blank pictures, and with another row's;
    and every model asked the evaluation's questions with blank pictures."""
    start, whole, ways = "cold start", "RL", {"RL, blank pictures": "blank", "RL, another row's": "other"}
    runs, scores = arms(seeds, lambda seed: {
        start: seed.recipe("rl.done") / "cold_start", whole: seed.rl(""),
        **{arm: seed.rl(f"blind/rl_{how}", **unseen(seed, how)) for arm, how in ways.items()}})
    asked = {f"{arm}, asked blank": [seed.evaluate(run, "eval-blank", blank=True)
                                     for seed, run in zip(seeds, of)] for arm, of in runs.items()}
    rows = compared(scores, whole, start)
    for arm in ways:
        rows += [*compared(scores, arm, start),
                 *(logged(runs, arm, whole, metric) for metric in ("accuracy", "groups_mixed", "entropy"))]
    for arm in runs:
        rows += compared({**scores, **asked}, f"{arm}, asked blank", arm)
    return rows


# ------------------------------------------------------------------- a look that the connector hardly knows

def of_look(seed, dark):
    """Rows of connector.jsonl but for maths, all of whose pictures are dark, or none"""
    def is_dark(name):
        return bool(np.asarray(open_image(seed.world / name)).mean() < 128)

    return [row for row in seed.rows("connector") if row["subject"] != "Math"
            and {is_dark(name) for name in row["images"]} == {dark}]


def by_look(seed, scores):
    """{"dark" | "light": scores of these questions alone}, maths left out"""
    truth, made = read_json(seed.world / "truth.json"), {}
    for look in ("dark", "light"):
        asked = {subject: {i: value for i, value in of.items() if truth[i]["dark"] == (look == "dark")}
                 for subject, of in scores["question_accuracy"].items() if subject != "Math"}
        subjects = {name: dict(zip(("rule", "rule_se", "n"), (*mean_and_error(of.values()), len(of))))
                    for name, of in asked.items()}
        made[look] = {"question_accuracy": asked, "subjects": subjects, "length": scores["length"]}
    return made


def connector(seeds):
    """r. May the connector be frozen in RL where it has something to learn? RL on questions of which 10, 30
    and 60% have dark pictures, which the encoder names and the connector has hardly met."""
    free, frozen, fast = "free", "frozen", "ten times the rate"
    changes = {free: {}, frozen: {"train": ("encoder", "llm")}, fast: {"lr_connector": 1e-3}}
    data = {}
    for seed in seeds:
        dark, light = of_look(seed, True), of_look(seed, False)
        for percent in (10, 30, 60):
            n = 640 * percent // 100
            rows = [{k: v for k, v in row.items() if k != "solution"} for row in dark[:n] + light[:640 - n]]
            data[seed, percent] = seed.rows_file(f"connector/{percent}", rows)
    found, others = [], sorted({row["subject"] for row in rows})
    for percent in (10, 30, 60):
        runs, scores = arms(seeds, lambda seed: {
            "cold start": seed.recipe("rl.done") / "cold_start",
            **{arm: seed.rl(f"connector/{percent}_{arm}", **data[seed, percent], **flags)
               for arm, flags in changes.items() if percent > 10 or arm != fast}},
            name="eval-others", subjects=others)  # no dark picture is of maths
        looks = {arm: [by_look(seed, s) for seed, s in zip(seeds, of)] for arm, of in scores.items()}
        for arm, against in ((free, "cold start"), (frozen, free), (fast, free)):
            if arm not in runs:
                continue
            rows = []
            for look in ("dark", "light"):
                of = {name: [s[look] for s in looks[name]] for name in (arm, against)}
                told = ("collapse", "lower") if arm == frozen else ()
                row, = compared(of, arm, against, *told, measures=("others",))
                row.arm += f", {look}"
                rows.append(row)
            if against == free:
                rows += [logged(runs, arm, free, metric) for metric in ("reward", "grad_norm", "repetition")]
            for row in rows:
                row.arm, row.against = f"{percent}% dark, {row.arm}", f"{percent}% dark, {row.against}"
            found += rows
    return found


# ---------------------------------------------------------------------------- a teacher in the reward's place

def distil(seed, where, start, teacher):
    """grpo.py with forks/distillation.diff, as a copy beside the runs"""
    script = seed.out / "distillation" / "grpo.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    words = ["patch", "-s", "-o", script, ROOT / "grpo.py", ROOT / "forks/distillation.diff"]
    subprocess.run(words, check=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    flags = read_json(seed.recipe("rl.done") / "rl" / "config.json")["config"]
    flags |= {"model": start, "teacher": teacher, "save_every": 10}
    return once(str(script), seed.out / where, **{k: v for k, v in flags.items() if k != "out"})


def distillation(seeds):
    """s. Would a teacher's distribution have done it cheaper? On-policy distillation (reverse KL a token as
    the advantage) from the final model, on RL's questions, against RL and against finetuning on the
    teacher's traces; and once into a student of half the width."""
    from experiments.findings import learned_weak

    def models(seed):
        folder, half = seed.recipe("connector.done"), learned_weak(seed, "half the width")
        start, teacher = folder / "cold_start", folder / "connector"
        traces = once("distill.py", seed.out / "distillation/traces.jsonl", model=teacher, chunk=512,
                      seed=seed.number, data=seed.world / "rl.jsonl", max_new_tokens=160)
        return {"cold start": start, "RL": seed.rl(""), "teacher": teacher, "finetuned": seed.again(
                    "cold_start", "distillation/sft", model=start, data=traces),
                "distilled": distil(seed, "distillation/opd", start, teacher),
                "half, cold start": half[0], "half, RL": half[1],
                "half, distilled": distil(seed, "distillation/half", half[0], teacher)}

    runs, scores = arms(seeds, models)
    early = {f"{arm}, 10 steps": [run / "step_000010" for run in runs[arm]] for arm in ("RL", "distilled")}
    scores |= {arm: [seed.evaluate(run) for seed, run in zip(seeds, of)] for arm, of in early.items()}
    pairs = (("distilled", "cold start"), ("distilled", "RL"), ("distilled", "teacher"),
             ("distilled", "finetuned"), ("finetuned", "RL"), ("teacher", "RL"),
             ("distilled, 10 steps", "RL, 10 steps"),
             ("half, distilled", "half, cold start"), ("half, distilled", "half, RL"))
    rows = [row for pair in pairs for row in compared(scores, *pair)]
    for metric, unit, scale in (("tokens", "tokens learned from", 1), ("time_step", "minutes", 1 / 60)):
        spent = {arm: [scale * sum(series(run, metric)) for run in runs[arm]]
                 for arm in ("RL", "distilled", "finetuned")}
        rows += [measured(arm, "RL", unit, spent["RL"], spent[arm]) for arm in ("distilled", "finetuned")]
    return rows


# -------------------------------------------------------------- does thought on words carry over to pictures?

def carried(seeds):
    """u. Does thought that was taught on text carry over to pictures, the paper's first claim? The cold start
    on as many rows whose pictures are told in words, then RL on pictures, against pictures in both."""
    def models(seed):
        told = seed.again("cold_start", "carried/cold_start", data=seed.world / "cold_start_words.jsonl")
        return {"cold start": seed.recipe("rl.done") / "cold_start", "cold start in words": told,
                "RL": seed.rl(""), "RL after words": seed.rl("carried/rl", model=told)}

    runs, scores = arms(seeds, models)
    pairs = (("cold start in words", "cold start"), ("RL after words", "cold start in words"),
             ("RL after words", "RL"))
    return [row for pair in pairs for row in compared(scores, *pair)] + [
        logged(runs, "RL after words", "RL", metric) for metric in ("format", "length", "critical_count")]


# ------------------------------------------------------------------------------- where does the gain live?

def places(vlm):
    """{place: function of a parameter's name} that cut a model into seven"""
    depth, part = len(vlm.hf.model.language_model.layers), vlm.family.part_of

    def quarter(name):
        found = re.search(r"language_model\.layers\.(\d+)\.", name)
        return int(found[1]) * 4 // depth if found else None

    return {**{name: lambda key, name=name: part(key) == name for name in ("encoder", "connector")},
            **{f"LLM, {which} quarter": lambda key, k=k: quarter(key) == k
               for k, which in enumerate(("first", "second", "third", "last"))},
            "embeddings and head": lambda key: part(key) == "llm" and quarter(key) is None}


@torch.no_grad()
def grafted(seed, place, start, run):
    """The cold start's folder with RL's weights in one place"""
    folder = seed.out / "layers" / place.replace(" ", "_")
    if not folder.exists():
        vlm, trained = load(str(start)), dict(load(str(run)).hf.named_parameters())
        takes = places(vlm)[place]
        for key, p in vlm.hf.named_parameters():
            if takes(key):
                p.copy_(trained[key])
        with new_folder(folder) as part:
            vlm.save(part)
    return folder


def layers(seeds):
    """t. Where does RL's gain live? RL's weights taken over into the cold start, one place at a time."""
    def models(seed):
        start, run = seed.recipe("rl.done") / "cold_start", seed.rl("")
        last = sorted(Path(run).glob("step_*"))[-1]
        return {"cold start": start, "RL": run,
                **{f"RL's {place}": grafted(seed, place, start, last) for place in places(load(str(start)))}}

    _, scores = arms(seeds, models)
    return [row for arm in scores if arm != "cold start" for row in compared(scores, arm, "cold start")]


CONTROLS = (blind, connector, distillation, layers, carried)
