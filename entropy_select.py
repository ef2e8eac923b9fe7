"""Choose the checkpoint of an RL run by the entropy of its critical tokens (paper section 5.1).

Reward keeps rising for a policy that only imitates the look of reasoning, so it cannot tell which
checkpoint to keep. The paper's indicator: how uncertain was the model where it opens a new line of
thought, that is, where it writes "Wait" or "Alternatively"? A genuine reasoner is uncertain (high entropy
of the next-token distribution). An imitator writes the word as a fixed phrase (low entropy). Across
checkpoints the indicator tracks validation accuracy.

    laptop:  python entropy_select.py --folder out/tiny/rl --data data/tiny/val.jsonl --high_entropy 1
    8 GPUs:  torchrun --nproc_per_node 8 entropy_select.py --folder out/grpo --data val.jsonl --dtype bf16

For every step_* folder of the run: sample the same probe questions with the same seed and find the
critical words in the *text*. Take for each word the full-vocabulary entropy (nats) of the distribution
that produced the token with the word's first letter. So it does not matter whether a tokenizer writes "
Wait" or "W" + "ait". In the run folder:

    probe/step_000123.jsonl   the responses with their entropies. Other --words, --high_entropy or --min_count
                              are measured on them without sampling again; an interrupted selection goes on
    selection.json, .png      the table, and the indicator drawn against validation accuracy
    selected.json             the choice; a stage whose --model is this run folder starts from it

What the paper does not say, and what is done here: the word list (signals.py), the mean is one over all
occurrences, in nats; the probe set is random rows of --data; and the rule is the highest mean among the
checkpoints with at least --min_count occurrences. One guard is added, because entropy also shoots up when a
policy falls apart: a checkpoint whose probe accuracy is more than 2 standard errors below the best one
(paired by question) is set aside. When fewer than two are left, validation accuracy chooses.
"""
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data import Processor, read_records
from machinery.asking import Asking
from machinery.files import Refused, checkpoints, main, read_json, read_jsonl, write_json, write_text
from machinery.parallel import (
    World, compute_dtype, gather, send_weights, shard, start_processes, tensors)
from machinery.rows import rows_fingerprint
from machinery.run import hold, permutation, seed_of
from machinery.tables import mean_and_error, pearson, percent, print_table, spearman
from model import load
from reward import score_batch
from rollout import Group, computed, make_sampler
from signals import CRITICAL_WORDS, critical_tokens


@dataclass
class Config(Asking):
    folder: str = "out/tiny/rl"       # run folder whose step_* checkpoints are compared
    data: str = "data/tiny/val.jsonl"  # questions with answers; not the ones that RL trained on
    probe: int = 128                  # how many of them, drawn with --seed; the same for every checkpoint
    samples: int = 4                  # responses to each question
    thinking: bool = True             # end the prompt with <think>
    words: tuple[str, ...] = tuple(CRITICAL_WORDS)  # words that open a new line of thought
    high_entropy: float = 6.8         # count tokens above so many nats [6.5]; too high for tiny vocabularies
    min_count: int = 50               # with fewer critical tokens a mean is noise: the checkpoint has no rank


# ------------------------------------------------------------------------------ the indicator: pure functions

def bootstrap(sums, counts, draws=2000, seed=0, level=0.95):
    """Interval (low, high) of sum(sums) / sum(counts); (None, None) with fewer than two responses that count.

    Whole responses are drawn again with replacement: the words of one response depend on each other.
    """
    sums, counts = np.asarray(sums, float), np.asarray(counts, float)
    sums, counts = sums[counts > 0], counts[counts > 0]  # others say nothing about the mean
    if len(counts) < 2:
        return None, None
    drawn = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def measure(rows, words=CRITICAL_WORDS, high_entropy=6.8):
    """Everything that the table shows of a checkpoint. rows: its responses, as in probe/step_*.jsonl.

    Of a critical word the token counts that holds its first letter: there the model decided to write it.
    """
    per_response = [[(word, float(r["entropy"][first]))
                     for first, _, word in critical_tokens(r["tokens"], words)] for r in rows]
    sums, counts = [sum(e for _, e in found) for found in per_response], list(map(len, per_response))
    low, high = bootstrap(sums, counts)
    tokens = np.concatenate([np.asarray(r["entropy"], float) for r in rows])
    by_word, by_question = {}, {}  # accuracy of each question: checkpoints are compared question by question
    for word, e in (hit for found in per_response for hit in found):
        by_word.setdefault(word, []).append(e)
    for r in rows:
        by_question.setdefault(r["question"], []).append(r["accuracy"])
    accuracy = [float(np.mean(by_question[q])) for q in sorted(by_question)]
    mean, error = mean_and_error(accuracy)
    by_word = dict(sorted(by_word.items(), key=lambda item: -len(item[1])))
    return {
        "critical_entropy": sum(sums) / sum(counts) if sum(counts) else None, "count": sum(counts),
        "low": low, "high": high,
        "words": {word: {"count": len(e), "mean": float(np.mean(e))} for word, e in by_word.items()},
        "entropy": float(tokens.mean()) if len(tokens) else None,
        "entropy_high": float((tokens > high_entropy).mean()) if len(tokens) else None,
        "accuracy": mean, "accuracy_se": error,
        "format": float(np.mean([r["format"] for r in rows])), "length": len(tokens) / len(rows),
        "truncated": float(np.mean([r["finish"] == "length" for r in rows])), "responses": len(rows),
        "question_accuracy": accuracy}


def choose(table, min_count=50):
    """(chosen row, rule, notes) from the measured checkpoints. CHANGE THE RULE HERE.

    Marks every row with "set_aside": the reason why it is not ranked, or "".
    """
    best = max(table, key=lambda row: (row["accuracy"], row["step"]))
    for row in table:
        # question by question, so that their difficulty cancels
        lost = np.array(best["question_accuracy"]) - np.array(row["question_accuracy"])
        error = lost.std(ddof=1) / math.sqrt(len(lost)) if len(lost) > 1 else math.inf
        row["set_aside"] = ""
        if row["count"] < max(1, min_count):
            row["set_aside"] = f"only {row['count']} critical tokens"
        elif lost.mean() > 0 and lost.mean() > 2 * error:
            row["set_aside"] = f"accuracy {lost.mean():.3f} below the best, more than 2 x {error:.3f}"
    ranked = [row for row in table if not row["set_aside"]]
    if not ranked or len(ranked) == 1 < len(table):
        return best, "accuracy", [
            f"{len(ranked)} of {len(table)} checkpoints have {min_count} critical tokens and nearly the best "
            f"accuracy: there is nothing to compare, so validation accuracy chooses. More --probe or "
            f"--samples, or other --words, may help."]
    chosen = max(ranked, key=lambda row: (row["critical_entropy"], row["step"]))
    alike = [row["step"] for row in ranked
             if row is not chosen and (row["high"] or math.inf) >= (chosen["low"] or 0)]
    return chosen, "critical_entropy", bool(alike) * [
        f"not a sharp choice: the intervals of steps {alike} overlap that of step {chosen['step']}."]


# ------------------------------------------------------------------------------------- sampling the probe set

def sample_probe(cfg, prompts, sampler, world, name):
    """Rows for probe/step_*.jsonl: responses of the checkpoint in the sampler. A rank samples its share."""
    mine = range(world.rank, len(prompts), world.size)
    groups = sampler.generate([prompts[i] for i in mine], cfg.samples, cfg.max_new_tokens, cfg.temperature,
                              seed=seed_of(cfg.seed, 0, world.rank), progress=None if world.rank else name)
    if any(r.entropy is None for group in groups for r in group):  # vLLM gives none
        add_entropy(groups, sampler.vlm, sampler.processor, cfg.temperature, world=world)
    numbers = [i for i, group in zip(mine, groups) for _ in group]  # of each response's question
    responses, records = [r for group in groups for r in group], [prompts[i].record for i in numbers]
    rewards = score_batch([r.text for r in responses], [record.answer for record in records], cfg.thinking,
                          [record.options for record in records])
    rows = [{"question": i, "id": record.id, "tokens": r.pieces,
             "entropy": [round(float(e), 4) for e in r.entropy],
             "accuracy": reward.accuracy, "format": reward.format, "finish": r.finish}
            for i, record, r, reward in zip(numbers, records, responses, rewards)]
    return sorted((row for part in gather(rows, world) for row in part), key=lambda row: row["question"])


def add_entropy(groups, vlm, processor, temperature=1.0, max_tokens=16384, world=World(0, 1, None)):
    """Fill in Rollout.entropy where the sampler left it None, by one forward of the model over all responses.
    world: of a sharded model; every rank must call it, and have such responses."""
    missing = [g for g in groups if g and any(r.entropy is None for r in g)]
    groups = [Group(g[0].prompt, g) for g in missing]
    _, entropies = computed(groups, vlm, processor, max_tokens, temperature or 1.0, world)
    rollouts = [r for g in missing for r in g]
    for r, entropy in zip(rollouts, entropies.split([len(r.ids) for r in rollouts])):
        r.entropy = entropy


def settings_of(cfg, checkpoint, records, world):
    """What the responses depend on. Responses made with other settings are sampled again."""
    files = sorted(checkpoint.glob("model*.safetensors"))
    flags = ("data", "columns", "samples", "max_new_tokens", "temperature", "thinking", "ask", "system",
             "rollout", "max_tiles", "pixels", "dtype", "seed")
    return json.loads(json.dumps({
        **{flag: getattr(cfg, flag) for flag in flags}, "processes": world.size,
        "weights": {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files},
        "questions": rows_fingerprint(records)}))  # as it is read back: tuples are lists


def read_probe(path, settings):
    """Saved responses; None when there are none, not all of them, or they were made with other settings."""
    first, *rows = read_jsonl(path) or [None]
    return rows if first == {**settings, "responses": len(rows)} else None


def select(cfg):
    world, run = start_processes(cfg.seed), Path(cfg.folder)
    steps = checkpoints(run)
    if not steps:
        raise Refused(f"--folder {cfg.folder}: no step_* folder there. Run grpo.py with this --out first.")
    if (run / "selected.json").exists() and "val_loss" in read_json(run / "selected.json"):
        raise Refused(f"--folder {cfg.folder}: supervised; validation loss has chosen its checkpoint already")
    records = read_records(cfg.data, cfg.columns, image_root=cfg.image_root)
    # rows of --data may stand sorted by subject
    records = [records[i] for i in permutation(len(records), cfg.seed, 0)[:cfg.probe]]
    (run / "probe").mkdir(exist_ok=True)
    lock = hold(run / "probe" / ".lock", run / "probe") if world.rank == 0 else None  # noqa: F841
    table, vlm, sampler, prompts = [], None, None, None
    read = partial(load, dtype="bf16" if compute_dtype(cfg.dtype, world.device) else "fp32", flag="--folder",
                   world=world)  # into host memory, under torchrun of rank 0 alone
    for k, checkpoint in enumerate(steps, 1):
        path = run / "probe" / f"{checkpoint.name}.jsonl"
        settings = settings_of(cfg, checkpoint, records, world)
        rows = gather(read_probe(path, settings), world)[0]  # rank 0 decides for all
        if rows is None:
            if sampler is None:  # one model and one sampler (vLLM: one engine) take all checkpoints' weights
                processor = Processor(
                    str(checkpoint), cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system, "--folder")
                prompts = processor.prompts(records, thinking=cfg.thinking)
                vlm = read(str(checkpoint)).requires_grad_(False)
                vlm.file_dtype = vlm.autocast_dtype  # nobody saves it: what bf16 rounds waits rounded
                # beside vLLM, which knows no entropies, shards compute them; the torch sampler needs it whole
                vlm = shard(vlm, world, whole=world.size == 1 or cfg.rollout == "torch")
                sampler = make_sampler(  # memory: of the GPU for vLLM, because vlm stands there, too
                    cfg.rollout, vlm, processor, dtype=cfg.dtype,
                    tensor_parallel=cfg.tensor_parallel, memory=0.45)
            else:
                send_weights(vlm, tensors(read(str(checkpoint))), world)
            sampler.sync(vlm)
            name = f"{checkpoint.name} ({k} of {len(steps)})"
            rows = sample_probe(cfg, prompts, sampler, world, name)
            if world.rank == 0:
                first = {**settings, "responses": len(rows)}
                write_text(path, "\n".join(json.dumps(row) for row in [first, *rows]) + "\n")
        table.append({"step": int(checkpoint.name[5:]), "checkpoint": checkpoint.name,
                      **measure(rows, cfg.words, cfg.high_entropy)})
    if world.rank == 0:
        report_choice(cfg, table)


def shown(value, digits=3):
    return "-" if value is None else f"{value:.{digits}f}"


def report_choice(cfg, table):
    """Print the table, write selection.json, selected.json and selection.png."""
    run = Path(cfg.folder)
    chosen, rule, notes = choose(table, cfg.min_count)
    measured = [row for row in table if row["count"] >= cfg.min_count]
    x, y = [row["critical_entropy"] for row in measured], [row["accuracy"] for row in measured]
    r, rho = pearson(x, y), spearman(x, y)
    print_table(["step", "critical entropy", "95%", "count", "all tokens", f"> {cfg.high_entropy:g} nats",
                 "accuracy, %", "length", ""],
                [[row["step"], shown(row["critical_entropy"]), f"{shown(row['low'])} to {shown(row['high'])}",
                  row["count"], shown(row["entropy"]), shown(row["entropy_high"], 4),
                  percent(row["accuracy"], row["accuracy_se"]), f"{row['length']:.1f}",
                  "<- chosen" if row is chosen else row["set_aside"]] for row in table])
    words = {w: sum(row["words"].get(w, {"count": 0})["count"] for row in table) for w in cfg.words}
    often = sorted(words, key=lambda w: -words[w])
    correlation = "no correlation with accuracy: too few checkpoints, or equal values"
    if r is not None:
        correlation = f"correlation with accuracy: Pearson r = {r:.2f}, Spearman rho = {rho:.2f}"
    print("critical words found: " + ", ".join(f"{w} {words[w]}" for w in often), correlation,
          *(f"note: {note}" for note in notes), sep="\n")
    about = {"rule": rule, "min_count": cfg.min_count, "words": list(cfg.words),
             "high_entropy": cfg.high_entropy, "data": cfg.data, "notes": notes}
    write_json(run / "selection.json", {**about, "chosen": chosen["step"], "pearson": r, "spearman": rho,
                                        "words_found": words, "checkpoints": table})
    by = {"critical_entropy": "critical-token entropy", "accuracy": "validation accuracy"}[rule]
    plot(table, chosen, f"orange: step {chosen['step']}, chosen by {by}; hollow: set aside; {correlation}",
         run / "selection.png")
    write_json(run / "selected.json", {
        "step": chosen["step"], "checkpoint": chosen["checkpoint"],
        "critical_entropy": chosen["critical_entropy"], "interval": [chosen["low"], chosen["high"]],
        "count": chosen["count"], "accuracy": chosen["accuracy"], **about})
    print(f"{run}/selected.json: step {chosen['step']}, by {by}")


def plot(table, chosen, title, path):
    """The indicator and the accuracy by step, and one against the other, with 95% intervals (entropy) and
    standard errors (accuracy)."""
    from machinery.figures import plt, save_figure
    names = {"step": "checkpoint (step)", "critical_entropy": "entropy of critical tokens (nats)",
             "accuracy": "accuracy on the probe questions"}
    pairs = ("step", "critical_entropy"), ("step", "accuracy"), ("critical_entropy", "accuracy")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for ax, (x, y) in zip(axes, pairs):
        for row in (row for row in table if None not in (row[x], row[y])):
            errors = {"step": None, "accuracy": row["accuracy_se"], "critical_entropy": None}
            if row["low"] is not None:
                middle = row["critical_entropy"]
                errors["critical_entropy"] = [[middle - row["low"]], [row["high"] - middle]]
            ax.errorbar(row[x], row[y], errors[y], errors[x], "o", elinewidth=1, capsize=2,
                        color="#d55e00" if row is chosen else "#0072b2",
                        mfc="white" if row["set_aside"] else None)
            ax.annotate(str(row["step"]), (row[x], row[y]), xytext=(6, 5), textcoords="offset points")
        ax.set(xlabel=names[x], ylabel=names[y])
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, color="0.35")
    save_figure(figure, path)


if __name__ == "__main__":
    main(select, Config)
