"""The paper's findings, a function each: seeds -> rows. README.md says what was expected, what came out."""
import random
import re
from statistics import mean, stdev

import torch

from experiments.controls import CONTROLS
from experiments.lab import (
    QUESTIONS, Row, arms, beyond, compared, logged, measured, once, rl_arms, series)
from experiments.qformer import imitate
from experiments.rules import INDICATORS, RULES, read_selection
from machinery.files import new_folder, read_json, read_jsonl
from machinery.tables import pooled
from model import load

NEW_CONNECTOR = "recipes/new_connector.py"


def stages(seeds):
    """j. Does RL on maths alone carry over to other subjects, and does connector-only tuning add to it? The
    runs of `make tiny` themselves."""
    def scores_of(stage):
        files = [seed.recipe(f"{stage}/eval/scores.json") / stage / "eval/scores.json" for seed in seeds]
        return list(map(read_json, files))

    scores = {"cold start": scores_of("cold_start"), "after RL": scores_of("rl"),
              "after connector tuning": scores_of("connector")}
    return [*compared(scores, "after RL", "cold start", "MMMU +6.4", "higher"),
            *compared(scores, "after connector tuning", "after RL", "MMMU +1.5", "higher")]


# ------------------------------------------------------------------------------------------ what trains in RL

FREEZE = {"nothing frozen": {}, "connector frozen": {"train": ("encoder", "llm")},
          "encoder frozen": {"train": ("connector", "llm")},
          "LLM frozen": {"train": ("encoder", "connector")}}


def collapse(runs, scores, frozen, whole):
    """Rows of the collapse that the paper saw with a frozen connector"""
    signs = (("reward", "falls sharply", "lower"), ("grad_norm", "unstable", "higher"),
             ("repetition", "rises", "higher"))
    return [*compared(scores, frozen, whole, "collapse", "lower"),
            *(logged(runs, frozen, whole, *sign) for sign in signs)]


def freezing(seeds):
    """a. What happens when a part is frozen during RL? The GRPO run of `make tiny`, from the same cold
    start."""
    runs, scores = rl_arms(seeds, FREEZE)
    whole, connector, encoder, llm = FREEZE
    return [*collapse(runs, scores, connector, whole),
            *compared(scores, encoder, whole, "a little less", "lower"), *compared(scores, llm, whole)]


def noisy(seed):
    """The cold start with noise on the matrices of its connector, as a model folder"""
    folder = seed.out / "disturbed"
    if not folder.exists():
        vlm, g = load(str(seed.recipe("cold_start.done") / "cold_start")), torch.Generator()
        with torch.no_grad():
            for p in vlm.parts()["connector"].values():
                if p.ndim == 2:
                    p += 0.5 * p.std() * torch.randn(p.shape, generator=g.manual_seed(seed.number))
        with new_folder(folder) as part:
            vlm.save(part)
    return folder


def disturbed(seeds):
    """a. once more: the connector frozen during RL, where it has something to learn: with noise of half their
    size on its matrices, or never aligned."""
    def models(seed):
        fresh = once(NEW_CONNECTOR, seed.out / "fresh", model=seed.recipe("cold_start.done") / "cold_start",
                     connector="mlp", seed=seed.number)
        return {f"{kind}, {arm}": seed.rl(f"{kind}, {arm}", model=start, **FREEZE[arm])
                for kind, start in (("disturbed", noisy(seed)), ("never aligned", fresh))
                for arm in ("nothing frozen", "connector frozen")}

    found = arms(seeds, models)
    return [row for kind in ("disturbed", "never aligned")
            for row in collapse(*found, f"{kind}, connector frozen", f"{kind}, nothing frozen")]


def lora(seeds):
    """LoRA instead of a whole LLM in RL: rank 8 and three times the learning rate (of 1e-4, 3e-4 and 1e-3 the
    best on seed 0), encoder and connector whole."""
    runs, scores = arms(seeds, lambda seed: {
        "cold start": seed.recipe("rl.done") / "cold_start", "whole LLM": seed.rl(""),
        "LoRA, rank 8": seed.rl("LoRA, rank 8", lora=8, lr=3e-4)})
    return [*compared(scores, "LoRA, rank 8", "cold start"), *compared(scores, "whole LLM", "cold start"),
            *compared(scores, "LoRA, rank 8", "whole LLM"),
            logged(runs, "LoRA, rank 8", "whole LLM", "reward")]


# ---------------------------------------------------------------------------------------------- how RL is run

def learning_rate(seeds):
    """l. A high against a low learning rate in RL: ten times less and more than `make tiny`'s."""
    runs, scores = rl_arms(seeds, {"lr 1e-4": {}, "lr 1e-5": {"lr": 1e-5}, "lr 1e-3": {"lr": 1e-3}})
    return [*compared(scores, "lr 1e-5", "lr 1e-4", "slower", "lower"),
            *compared(scores, "lr 1e-3", "lr 1e-4", "unlearns", "lower"),
            *(logged(runs, arm, "lr 1e-4", "entropy") for arm in ("lr 1e-5", "lr 1e-3"))]


def dynamic_sampling(seeds):
    """n. Dynamic sampling: groups that are all right or all wrong are replaced by new ones. Steps are
    compared, not seconds."""
    runs, scores = rl_arms(seeds, {"plain": {}, "dynamic sampling": {"dynamic_sampling": True}})
    pair, swing = ("dynamic sampling", "plain"), {}
    for arm, of in runs.items():  # standard deviation over mean, after the first five steps
        norms = [series(run, "grad_norm")[5:] for run in of]
        swing[arm] = [stdev(values) / mean(values) for values in norms]
    return [*compared(scores, *pair, "no gain", "equal"),
            measured(*pair, "swing of grad_norm", swing["plain"], swing[pair[0]], "steadier", "lower"),
            logged(runs, *pair, "groups_mixed")]


def curriculum(seeds):
    """i. A curriculum: searches among six lines and sums of two lines (rl_hard.jsonl) from step 20 on, alone
    or mixed with normal ones; judged on normal problems and on 300 hard ones that no run trains on."""
    def models(seed):
        hard, made = seed.rows("rl_hard")[300:], {"normal": seed.rl("")}
        sets = {"hard": hard, "mixed": [row for pair in zip(hard, seed.rows("rl")) for row in pair]}
        for name, rows in sets.items():
            file = seed.rows_file(f"curriculum/{name}", rows)
            made[f"normal, then {name}"] = seed.rl(f"curriculum/{name}", curriculum=file["data"],
                                                   curriculum_at=20, image_root=file["image_root"])
        return made

    runs, normal = arms(seeds, models)
    held_out = [seed.rows_file("curriculum/held_out", seed.rows("rl_hard")[:300]) for seed in seeds]
    hard = {arm: [seed.evaluate(run, "eval-hard", **data) for seed, run, data in zip(seeds, of, held_out)]
            for arm, of in runs.items()}
    rows = []
    for arm, told in (("normal, then hard", ("normal problems fall", "lower")), ("normal, then mixed", ())):
        row, = compared(hard, arm, "normal", measures=("maths",))
        row.arm += ", on hard ones"
        rows += [*compared(normal, arm, "normal", *told), row]
    return rows


def manner(folder):
    """{"share by steps": of the answers, "tokens by steps": mean length of those that write anything before
    the answer}, from the responses of an evaluation"""
    rows = read_jsonl(folder / "responses.jsonl")
    steps = [row["tokens"] for row in rows if row["response"].partition("\\boxed")[0].strip()]
    return {"share by steps": len(steps) / len(rows), "tokens by steps": mean(steps)}


def no_cold_start(seeds):
    """o. RL without a cold start: from the base model, with prompts as it knows them (--no-thinking). Where
    the growth of its responses comes from: the share that write steps, and the length of these alone."""
    arm, against = "from the base model", "from the cold start"
    runs, scores, before, after = {arm: [], against: []}, {arm: [], against: []}, [], []
    for seed in seeds:
        base = seed.recipe("base/eval/scores.json") / "base"
        runs[against].append(seed.rl(against))
        runs[arm].append(seed.rl(arm, model=base, thinking=False))
        scores[against].append(seed.evaluate(runs[against][-1]))
        scores[arm].append(seed.evaluate(runs[arm][-1], mode="nothink"))
        before.append(manner(base / "eval"))
        after.append(manner(seed.evaluated(runs[arm][-1])))
    lengths = {name: [series(run, "length") for run in of] for name, of in runs.items()}
    growth = {name: [sum(x[-10:]) / 10 - sum(x[:5]) / 5 for x in of] for name, of in lengths.items()}
    return [*compared(scores, arm, against, "collapses late", "lower"),
            measured(arm, against, "growth of length", growth[against], growth[arm], "none", "lower"),
            logged(runs, arm, against, "format"),
            *(measured(arm, "the base model itself", measure, [of[measure] for of in before],
                       [of[measure] for of in after]) for measure in ("share by steps", "tokens by steps"))]


def denial(seeds):
    """h. "I cannot see the image", planted in front of three of ten traces of the cold start: RL from there,
    and from a cold start whose planted traces were filtered out, as distill.py does."""
    def cold_start(seed, name):
        rows = [{**row, "solution": "I cannot see the image. " * (i % 10 < 3) + row["solution"]}
                for i, row in enumerate(seed.rows("cold_start")) if i % 10 >= 3 or name == "planted"]
        return seed.again("cold_start", f"denial/{name}", **seed.rows_file(f"denial/{name}", rows))

    def models(seed):
        planted, filtered = cold_start(seed, "planted"), cold_start(seed, "filtered")
        return {"planted, cold start": planted, "planted, RL": seed.rl("denial/rl", model=planted),
                "filtered, RL": seed.rl("denial/filtered_rl", model=filtered)}

    _, scores = arms(seeds, models)
    before, after = ([of["denial"] for of in scores[name]] for name in ("planted, cold start", "planted, RL"))
    return [measured("planted, RL", "planted, cold start", "claims", before, after),
            *compared(scores, "planted, RL", "filtered, RL")]


def distilled(seeds):
    """k. RL against supervised finetuning on the same maths: the model after RL writes a trace for each
    question of RL's data (distill.py keeps those that are right), and the cold start is finetuned on them."""
    def models(seed):
        folder = seed.recipe("select.done")
        traces = once("distill.py", seed.out / "distilled/traces.jsonl", model=folder / "rl", chunk=512,
                      seed=seed.number, data=seed.world / "rl.jsonl", max_new_tokens=160)
        tuned = seed.again("cold_start", "distilled/sft", model=folder / "cold_start", data=traces)
        return {"cold start": folder / "cold_start", "RL": folder / "rl", "finetuned on its traces": tuned}

    _, scores = arms(seeds, models)
    of = "finetuned on its traces"
    return [*compared(scores, "RL", "cold start", "MathVista +5.9, MMMU +6.4", "higher"),
            *compared(scores, of, "cold start", "MathVista +4.6", "higher", ("maths",)),
            *compared(scores, of, "cold start", "MMMU -2.7", "lower", ("others",)),
            *compared(scores, of, "RL", "MathVista -1.3, MMMU -9.1", "lower")]


# ---------------------------------------------------------------------------------------- behind RL: c and p

def parts(seeds):
    """c. Which parts to tune after RL? Stage 3 as `make tiny` calls it, on the same rows, with more parts;
    and once more with rows that answer at once. Of two learning rates the one with the lower validation loss
    counts, so evaluation questions choose nothing."""
    def at_once(seed):
        files = {}
        for flag, name in (("data", "connector"), ("val", "connector_val")):
            rows = seed.rows(name)
            for row in rows:
                row["solution"] = f"I see it at once.\n</think>{row['solution'].partition('</think>')[2]}"
            files[flag] = seed.rows_file(f"parts/{name}", rows)["data"]
        return {**files, "image_root": seed.world}

    def tuned(seed, arm):
        found, names = [], arm.lower().split(", ")
        flags = {"train": [name for name in names if name != "at once"],
                 **(at_once(seed) if names[-1] == "at once" else {})}
        for lr in (1e-3, 3e-4):
            out = seed.again("connector", f"parts/{'+'.join(names)}-{lr}", lr=lr, **flags)
            found.append((read_json(out / "selected.json")["val_loss"], out))
        return min(found)[1]

    rl = [seed.recipe("select.done") / "rl" for seed in seeds]
    scores, rows = {"after RL": [seed.evaluate(run, chosen=True) for seed, run in zip(seeds, rl)]}, []
    for arm, told in {"connector": ("+1.5", "higher"), "connector, LLM": ("-1.3", "lower"),
                      "encoder, connector, LLM": ("-4.8", "lower"), "connector, at once": (),
                      "connector, LLM, at once": ()}.items():
        scores[arm] = [seed.evaluate(tuned(seed, arm), chosen=True) for seed in seeds]
        rows += compared(scores, arm, "after RL", *told)
    return rows


def budget(seeds):
    """p. Thinking budget (generated tokens), no thought, and banned words: the model behind the whole recipe,
    evaluated with a limit that cuts most, some and no responses."""
    full, scores, rows = "160 tokens", {}, []
    for arm, flags, paper in ((full, {}, ""), ("60 tokens", {"max_new_tokens": 60}, "8K: -0.8"),
                              ("45 tokens", {"max_new_tokens": 45}, "4K: -3.7"),
                              ("30 tokens", {"max_new_tokens": 30}, "1K: -14.4"),
                              ("no <think>", {"mode": "nothink"}, "-7.1"),
                              ("Wait, Alternatively, Hmm banned",
                               {"mode": "nowait", "ban": ("wait", "alternatively", "hmm")}, "-1.9")):
        name = "eval-" + "-".join(str(v) for v in flags.values() if isinstance(v, (int, str)))
        scores[arm] = [seed.evaluate(seed.recipe("connector.done") / "connector", name, **flags)
                       for seed in seeds]
        if flags:
            before, after = ([s["length"] for s in scores[name]] for name in (full, arm))
            rows += [*compared(scores, arm, full, paper, "lower"),
                     measured(arm, full, "length", before, after, "shorter", "lower")]
    return rows


# ---------------------------------------------------------------------------------------------- other models

def learned_qwen(seed):
    """(cold start, run of RL) of the tiny Qwen2.5-VL"""
    start = seed.taught("qwen", family="qwen2_5_vl")
    return start, seed.rl("qwen/nothing frozen", model=start, save_every=5)  # checkpoints for `rules`


def qwen(seeds):
    """d. The recipe with a tiny Qwen2.5-VL (tiny/blank_model.py), whose connector is the merger; RL once more
    with the merger frozen; and the merger alone tuned after RL, as stage 3 does it."""
    free, frozen = "nothing frozen", "connector frozen"

    def models(seed):
        start, run = learned_qwen(seed)
        return {"cold start": start, free: run,
                frozen: seed.rl("qwen/connector frozen", model=start, **FREEZE[frozen])}

    runs, scores = arms(seeds, models)
    scores |= {"chosen": [], "merger tuned": []}
    for seed, run in zip(seeds, runs[free]):
        tuned = seed.again("connector", "qwen/connector", model=seed.selected(run))
        for name, model in (("chosen", run), ("merger tuned", tuned)):
            scores[name].append(seed.evaluate(model, chosen=True))
    return [*compared(scores, free, "cold start", "MMMU +6.4", "higher"),
            *collapse(runs, scores, frozen, free),
            *compared(scores, "merger tuned", "chosen", "MMMU +1.5", "higher")]


def learned_weak(seed, base):
    """(cold start, run of RL) from a weaker base"""
    where = base.replace(" ", "_")
    if base == "half the width":
        start = seed.taught(where, width=64)
    else:
        half = seed.again("base", f"{where}/base", epochs=0.5)  # of one
        start = seed.schooled(where, half, ("cold_start",))
    return start, seed.rl(f"{base}/rl", model=start, save_every=5)  # checkpoints for `rules`


def weak_base(seeds):
    """e. Does RL activate reasoning that is there, or create it? The recipe from a base trained on half of
    the rows, and from one whose LLM is half as wide."""
    bases = "half the training", "half the width"

    def models(seed):
        folder = seed.recipe("rl.done")
        pairs = {**{base: learned_weak(seed, base) for base in bases},
                 "whole": (folder / "cold_start", folder / "rl")}
        return {f"{base}, {stage}": model for base, pair in pairs.items()
                for stage, model in zip(("cold start", "RL"), pair)}

    rows, (_, scores) = [], arms(seeds, models)
    for start, end in ((f"{base}, cold start", f"{base}, RL") for base in bases):
        rows += compared(scores, start, "whole, cold start")
        rows += compared(scores, end, start)
        rows += beyond(scores, (start, end), ("whole, cold start", "whole, RL"))
    return rows


def learned_qformer(seed):
    """(cold start, run of RL) of a model with a Q-Former"""
    base, folder = seed.recipe("base.done") / "base", seed.out / "qformer" / "imitator"
    if not folder.exists():
        fresh = once(NEW_CONNECTOR, seed.out / "qformer/blank", model=base, connector="qformer", queries=9,
                     seed=seed.number)
        imitate(base, fresh, seed, folder)
    start = seed.schooled("qformer", folder, ("cold_start",))
    return start, seed.rl("qformer/rl", model=start, save_every=5)  # checkpoints for `rules`


def qformer(seeds):
    """g. A Q-Former of nine queries in the MLP's place, after it has learned to say what the MLP says of the
    same pictures; then the same cold start and RL, and RL once more with the Q-Former frozen."""
    def models(seed):
        frozen, (start, free) = FREEZE["connector frozen"], learned_qformer(seed)
        return {"MLP, cold start": seed.recipe("cold_start.done") / "cold_start", "MLP, RL": seed.rl(""),
                "MLP, RL, frozen": seed.rl("connector frozen", **frozen),
                "Q-Former, cold start": start, "Q-Former, RL": free,
                "Q-Former, RL, frozen": seed.rl("qformer/frozen", model=start, **frozen)}

    _, scores = arms(seeds, models)
    return [*compared(scores, "Q-Former, cold start", "MLP, cold start"),
            *compared(scores, "Q-Former, RL", "Q-Former, cold start"),
            *compared(scores, "Q-Former, RL, frozen", "Q-Former, RL"),
            *beyond(scores, ("Q-Former, RL", "Q-Former, RL, frozen"), ("MLP, RL", "MLP, RL, frozen"))]


# ------------------------------------------------------------------------------------ entropy: f and b

WORDS = re.compile(r"(Wait|Alternatively), ")


def decorated(rows, seed):
    """The cold start's rows with their critical words taken out and put in front of other sentences"""
    g, words = random.Random(seed), [m for row in rows for m in WORDS.findall(row["solution"])]
    g.shuffle(words)
    thoughts = [WORDS.sub("", row["solution"]).split(". ") for row in rows]
    places = [(i, k) for i, thought in enumerate(thoughts) for k in range(1, len(thought) - 1)]
    for (i, k), word in zip(g.sample(places, len(words)), words):
        thoughts[i][k] = f"{word}, {thoughts[i][k]}"
    return [{**row, "solution": ". ".join(thought)} for row, thought in zip(rows, thoughts)]


def habitual(rows, seed=0):
    """The same rows with the words where the beginning of the thought tells: no draw, and no reason"""
    thoughts = [WORDS.sub("", row["solution"]).split(". ") for row in rows]
    for thought in thoughts:
        word = {"top": "Wait", "left": "Alternatively"}.get(thought[0].split()[0])
        if len(thought) > 2 and word:
            thought[1] = f"{word}, {thought[1]}"
    return [{**row, "solution": ". ".join(thought)} for row, thought in zip(rows, thoughts)]


def reflection(seeds):
    """f. Does the entropy of critical tokens tell genuine reflection from imitated one? Three cold starts:
    "Wait," and "Alternatively," follow a doubt or a failed try, as in `make tiny`; as many of them stand
    in front of sentences that are drawn by chance; or they follow from how a thought begins, a habit."""
    def models(seed):
        genuine = seed.recipe("cold_start.done") / "cold_start"
        made = {"genuine": genuine}
        for name, change in (("decorated", decorated), ("habit", habitual)):
            file = seed.rows_file(f"reflection/{name}", change(seed.rows("cold_start"), seed.number))
            made[name] = seed.again("cold_start", f"reflection/{name}", **file)
        return made

    def probe(seed, run, name):
        """What entropy_select.py measures of a run's last checkpoint"""
        folder, step = seed.out / "reflection" / f"{name}-probe", sorted(run.glob("step_*"))[-1]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / step.name).exists():
            (folder / step.name).symlink_to(step.resolve())
        return read_json(seed.selected(folder, seed=0) / "selection.json")["checkpoints"][-1]

    rows, (runs, scores) = [], arms(seeds, models)
    found = {name: [probe(seed, run, name) for seed, run in zip(seeds, of)] for name, of in runs.items()}
    for against in ("decorated", "habit"):
        rows += compared(scores, "genuine", against)
        for measure, told in (("critical_entropy", ("higher", "higher")), ("count", ()), ("entropy", ())):
            before, after = ([of[measure] for of in found[name]] for name in (against, "genuine"))
            rows.append(measured("genuine", against, measure, before, after, *told))
    return rows


def rules(seeds):
    """b. Which rule picks the best checkpoint of an RL run? Eight checkpoints each of the run of `make tiny`,
    of one with ten times its learning rate, from a weaker base, with a Q-Former and with a Qwen2.5-VL; the
    evaluation's held-out questions judge what each rule takes."""
    found = []
    for seed in seeds:
        runs = [seed.recipe("select.done") / "rl", seed.rl("rules/lr_1e-3", lr=1e-3, save_every=5),
                learned_weak(seed, "half the training")[1], learned_qformer(seed)[1], learned_qwen(seed)[1]]
        for run in runs:
            once("eval_mmmu.py", run / "eval_steps", model=seed.selected(run), checkpoints=True, limit=700,
                 **{**QUESTIONS, "data": seed.world / "mmmu", "runs": 1})
        found.append(list(map(read_selection, runs)))

    rows = []
    for rule, name in [*RULES.items()][1:]:  # the first is what was chosen
        row = Row("critical entropy", name, "all", *("cannot choose", "higher") * (rule == "reward"))
        for runs in found:
            value, error = pooled(*zip(*(run.beyond_chosen(rule) for run in runs)))
            row.values.append(-value)
            row.errors.append(error)
            row.levels.append(mean(run.checkpoints[run.chosen]["all"] for run in runs))
        rows.append(row)
    for key, name in INDICATORS.items():  # Spearman's correlation, mean of the runs that have one
        known = [[rho for run in runs if (rho := run.correlation(key)) is not None] for runs in found]
        values = [mean(of_seed) if of_seed else 0.0 for of_seed in known]  # what never changes tracks nothing
        told = ("tracks it", "higher") if key == "critical_entropy" else ()
        rows.append(measured(name, "accuracy", "rho", [0.0] * len(values), values, *told))
    return rows


FINDINGS = {finding.__name__: finding for finding in (
    budget, curriculum, denial, distilled, disturbed, dynamic_sampling, freezing, learning_rate, lora,
    no_cold_start, parts, qformer, qwen, reflection, rules, stages, weak_base, *CONTROLS)}
