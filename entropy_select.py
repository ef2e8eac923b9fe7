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

What the paper does not say, and what is done here: the word list (signals.py, ten of the NoWait study's), the
averaging (mean over all occurrences, not over responses), the log base (e), the probe set (random rows of
--data), how large a difference counts (a bootstrap interval over responses stands beside each mean), and
the rule: the highest mean among the checkpoints with at least --min_count occurrences. One guard is
added, because entropy also shoots up when a policy falls apart: a checkpoint whose probe accuracy is more
than 2 standard errors below the best one (paired by question) is set aside. When fewer than two
checkpoints are left there is nothing to compare, and validation accuracy chooses. Both are said.
"""
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data import Chat, read_records
from machinery.files import Refused, check_flags, checkpoints, main, read_jsonl, write_text
from machinery.intervals import pearson, spearman
from machinery.parallel import compute_dtype, gather, send_weights, shard, start, tensors
from machinery.rows import rows_fingerprint
from machinery.run import hold, permutation, seed_of
from model import load
from reward import score_batch
from rollout import add_entropy, make_sampler
from signals import CRITICAL_WORDS, critical_tokens

NAMES = {"critical_entropy": "critical-token entropy", "accuracy": "validation accuracy"}  # of the rules


@dataclass
class Config:
    folder: str = "out/tiny/rl"       # run folder whose step_* checkpoints are compared
    data: str = "data/tiny/val.jsonl"  # questions with answers; not the ones that RL trained on
    columns: tuple[str, ...] = ()     # OURS=THEIRS where the data names columns otherwise: question=problem
    image_root: str = ""              # folder that image paths start from; "": the data file's
    probe: int = 128                  # how many of them, drawn with --seed; the same for every checkpoint
    samples: int = 4                  # responses to each question
    max_new_tokens: int = 8192        # longest response
    temperature: float = 1.0          # of sampling, and of the distributions whose entropy is measured
    thinking: bool = True             # end the prompt with <think>
    ask: str = ""                     # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                  # system prompt; "": what the chat template has
    words: tuple[str, ...] = tuple(CRITICAL_WORDS)  # words that open a new line of thought
    high_entropy: float = 6.8         # count tokens above so many nats [6.5]; too high for tiny vocabularies
    min_count: int = 50               # with fewer critical tokens a mean is noise: the checkpoint has no rank
    plot: bool = True                 # draw selection.png
    rollout: str = "torch"            # the sampler: torch, or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1          # processes that share one vLLM engine
    max_tiles: int = 12               # tiles of an image, as in training (InternVL)
    pixels: tuple[int, int] = (0, 0)  # fewest and most pixels (Qwen-VL); 0 = what the model folder says
    dtype: str = "auto"               # bf16 (over fp32 weights), fp32, or auto: bf16 if the processor has it
    seed: int = 0                     # of the choice of probe questions, and of sampling


# ------------------------------------------------------------------------------ the indicator: pure functions

def critical_entropies(tokens, entropy, words=CRITICAL_WORDS):
    """[(word, entropy)] of the critical words in a response.

    tokens: their texts, joining to the response; entropy: nats of the distribution that produced each token.
    The token that counts holds the word's first letter: there the model decided to write it.
    """
    return [(word, float(entropy[first])) for first, _, word in critical_tokens(tokens, words)]


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
    """Everything that the table shows of a checkpoint. rows: its responses, as in probe/step_*.jsonl."""
    per_response = [critical_entropies(r["tokens"], r["entropy"], words) for r in rows]
    sums, counts = [sum(e for _, e in found) for found in per_response], list(map(len, per_response))
    low, high = bootstrap(sums, counts)
    tokens = np.concatenate([np.asarray(r["entropy"], float) for r in rows])
    by_word = {}
    for word, e in (hit for found in per_response for hit in found):
        by_word.setdefault(word, []).append(e)
    by_question = {}  # accuracy of each question: checkpoints are compared question by question
    for r in rows:
        by_question.setdefault(r["question"], []).append(r["accuracy"])
    accuracy = np.array([np.mean(by_question[q]) for q in sorted(by_question)])
    by_word = dict(sorted(by_word.items(), key=lambda item: -len(item[1])))
    return {
        "critical_entropy": sum(sums) / sum(counts) if sum(counts) else None, "count": sum(counts),
        "low": low, "high": high,
        "words": {word: {"count": len(e), "mean": float(np.mean(e))} for word, e in by_word.items()},
        "entropy": float(tokens.mean()) if len(tokens) else None,
        "entropy_high": float((tokens > high_entropy).mean()) if len(tokens) else None,
        "accuracy": float(accuracy.mean()),
        "accuracy_se": float(accuracy.std(ddof=1) / math.sqrt(len(accuracy))) if len(accuracy) > 1 else None,
        "format": float(np.mean([r["format"] for r in rows])), "length": len(tokens) / len(rows),
        "truncated": float(np.mean([r["finish"] == "length" for r in rows])), "responses": len(rows),
        "question_accuracy": accuracy.tolist()}


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
        if row["count"] < min_count:
            row["set_aside"] = f"only {row['count']} critical tokens"
        elif lost.mean() > 0 and lost.mean() > 2 * error:
            row["set_aside"] = f"accuracy {lost.mean():.3f} below the best, more than 2 x {error:.3f}"
    ranked = [row for row in table if not row["set_aside"]]
    enough = [row["step"] for row in table if row["count"] >= min_count]
    if not ranked and enough:
        return best, "accuracy", [
            f"the checkpoints with {min_count} critical tokens (steps {enough}) are all clearly less "
            f"accurate than step {best['step']}: validation accuracy chooses."]
    if not ranked:
        return best, "accuracy", [
            f"no checkpoint has {min_count} critical tokens in its responses: their entropy cannot choose, "
            f"validation accuracy does. More --probe or --samples, or other --words, may help."]
    if len(ranked) == 1 < len(table):
        return best, "accuracy", [
            f"of all checkpoints only step {ranked[0]['step']} has {min_count} critical tokens and nearly "
            f"the best accuracy: there is nothing to compare its entropy with, validation accuracy chooses."]
    chosen = max(ranked, key=lambda row: (row["critical_entropy"], row["step"]))
    others = [row for row in ranked if row is not chosen]
    alike = [row["step"] for row in others if (row["high"] or math.inf) >= (chosen["low"] or 0)]
    if not alike:
        return chosen, "critical_entropy", []
    return chosen, "critical_entropy", [
        f"not a sharp choice: the intervals of steps {alike} overlap that of step {chosen['step']}."]


# ------------------------------------------------------------------------------------- sampling the probe set

def sample_probe(cfg, prompts, sampler, world, name):
    """Rows for probe/step_*.jsonl: responses of the checkpoint in the sampler. A rank samples its share."""
    mine = range(world.rank, len(prompts), world.size)
    groups = sampler.generate([prompts[i] for i in mine], cfg.samples, cfg.max_new_tokens, cfg.temperature,
                              seed=seed_of(cfg.seed, 0, world.rank), progress=None if world.rank else name)
    if any(r.entropy is None for group in groups for r in group):  # vLLM gives none
        add_entropy(groups, sampler.vlm, sampler.chat, cfg.temperature, world=world)
    numbers = [i for i, group in zip(mine, groups) for _ in group]  # of each response's question
    responses, records = [r for group in groups for r in group], [prompts[i].record for i in numbers]
    rewards = score_batch([r.text for r in responses], [record.answer for record in records], cfg.thinking,
                          [record.options for record in records])
    rows = [{"question": i, "id": record.id, "tokens": r.pieces,
             "entropy": [round(float(e), 4) for e in r.entropy],
             "accuracy": reward.accuracy, "format": reward.format, "finish": r.finish}
            for i, record, r, reward in zip(numbers, records, responses, rewards)]
    return sorted((row for part in gather(rows, world) for row in part), key=lambda row: row["question"])


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
    if first != {**settings, "responses": len(rows)}:
        return None
    return rows


def select(cfg):
    check_flags(cfg)
    world = start(cfg.seed)
    run = Path(cfg.folder)
    steps = checkpoints(run)
    if not steps:
        raise Refused(f"--folder {cfg.folder}: no step_* folder there. "
                      f"Run grpo.py with --out {cfg.folder} first, "
                      f"or name the folder of a run that saved checkpoints.")
    records = read_records(cfg.data, cfg.columns, image_root=cfg.image_root)
    # rows of --data may stand sorted by subject
    records = [records[i] for i in permutation(len(records), cfg.seed, 0)[:cfg.probe]]
    if len(records) < max(2, world.size):
        raise Refused(f"--data {cfg.data}, --probe {cfg.probe}: {len(records)} question(s) are too few to "
                      f"compare checkpoints with {world.size} process(es)")
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
                chat = Chat(str(checkpoint), cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system, "--folder")
                prompts = chat.prompts(records, thinking=cfg.thinking)
                vlm = read(str(checkpoint)).requires_grad_(False)
                vlm.file_dtype = vlm.autocast_dtype  # nobody saves it: what bf16 rounds waits rounded
                # beside vLLM, which knows no entropies, shards compute them; the torch sampler needs it whole
                vlm = shard(vlm, world, whole=world.size == 1 or cfg.rollout == "torch")
                sampler = make_sampler(  # memory: of the GPU for vLLM, because vlm stands there, too
                    cfg.rollout, vlm, chat, dtype=cfg.dtype, tensor_parallel=cfg.tensor_parallel, memory=0.45)
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


def print_table(cfg, table, chosen):
    above = f"> {cfg.high_entropy:g} nats"
    print(f"{'step':>6}  {'critical entropy (95%)':<24} {'count':>5}  {'all tokens':>10}  {above:>11}  "
          f"{'accuracy':>15}  {'length':>6}")
    for row in table:
        interval = f"{shown(row['critical_entropy'])} ({shown(row['low'])} to {shown(row['high'])})"
        accuracy = f"{shown(row['accuracy'])} ± {shown(row['accuracy_se'])}"
        remark = f"set aside: {row['set_aside']}" if row["set_aside"] else ""
        print(f"{row['step']:>6}  {interval:<24} {row['count']:>5}  {shown(row['entropy']):>10}  "
              f"{shown(row['entropy_high'], 4):>11}  {accuracy:>15}  {row['length']:>6.1f}  "
              f"{'<- chosen' if row is chosen else remark}")


def report_choice(cfg, table):
    """Print the table, write selection.json, selected.json and selection.png."""
    run = Path(cfg.folder)
    chosen, rule, notes = choose(table, cfg.min_count)
    measured = [row for row in table if row["count"] >= cfg.min_count]
    x, y = [row["critical_entropy"] for row in measured], [row["accuracy"] for row in measured]
    r, rho = pearson(x, y), spearman(x, y)
    print_table(cfg, table, chosen)
    words = {w: sum(row["words"].get(w, {"count": 0})["count"] for row in table) for w in cfg.words}
    often = sorted(words, key=lambda w: -words[w])
    print("critical words found: " + ", ".join(f"{w} {words[w]}" for w in often))
    if r is None:
        notes.append(f"no correlation with accuracy can be given: it needs three checkpoints with "
                     f"{cfg.min_count} critical tokens, and values that differ.")
    else:
        print(f"critical entropy against accuracy, {len(measured)} checkpoints: "
              f"Pearson r = {r:.2f}, Spearman rho = {rho:.2f}")
    for note in notes:
        print("note: " + note)
    about = {"rule": rule, "min_count": cfg.min_count, "words": list(cfg.words),
             "high_entropy": cfg.high_entropy, "data": cfg.data, "notes": notes}
    selection = {**about, "chosen": chosen["step"], "pearson": r, "spearman": rho, "words_found": words,
                 "checkpoints": table}
    selected = {"step": chosen["step"], "checkpoint": chosen["checkpoint"],
                "critical_entropy": chosen["critical_entropy"], "interval": [chosen["low"], chosen["high"]],
                "count": chosen["count"], "accuracy": chosen["accuracy"], **about}
    write_text(run / "selection.json", json.dumps(selection, indent=1))
    if cfg.plot:
        plot(table, chosen, rule, r, rho, run / "selection.png")
    write_text(run / "selected.json", json.dumps(selected, indent=1))
    print(f"{run}/selected.json: step {chosen['step']}, by {NAMES[rule]}")


def plot(table, chosen, rule, r, rho, path):
    """Left: the indicator and the accuracy by step. Right: one against the other."""
    from machinery.figures import plt, save_figure
    figure, axes = plt.subplot_mosaic([["entropy", "scatter"], ["accuracy", "scatter"]], figsize=(10.5, 5),
                                      width_ratios=[1.1, 1], layout="constrained")
    measured = [row for row in table if row["critical_entropy"] is not None]
    for name, rows, key in (("entropy", measured, "critical_entropy"), ("accuracy", table, "accuracy")):
        steps, values = [row["step"] for row in rows], [row[key] for row in rows]
        axes[name].plot(steps, values, color="#0072b2", lw=1, alpha=0.5)
    for row in table:
        mark = {"marker": "o", "ms": 5, "color": "#0072b2", "mfc": "white" if row["set_aside"] else None,
                "elinewidth": 1, "capsize": 2, "zorder": 3}
        if row is chosen:
            mark |= {"ms": 9, "color": "#d55e00"}
        axes["accuracy"].errorbar(row["step"], row["accuracy"], yerr=row["accuracy_se"], **mark)
        if row["critical_entropy"] is None:
            continue
        entropy, low, high = row["critical_entropy"], row["low"], row["high"]
        error = None if low is None else [[entropy - low], [high - entropy]]
        axes["entropy"].errorbar(row["step"], entropy, yerr=error, **mark)
        axes["scatter"].errorbar(entropy, row["accuracy"], xerr=error, yerr=row["accuracy_se"], **mark)
        axes["scatter"].annotate(str(row["step"]), (entropy, row["accuracy"]), xytext=(6, 5),
                                 textcoords="offset points", fontsize=9, color="0.35")
    axes["entropy"].set_title("entropy of critical tokens (nats), 95% interval")
    axes["accuracy"].set_title("accuracy on the probe questions, standard error")
    axes["accuracy"].set_xlabel("checkpoint (step)")
    correlation = "no correlation: too few points"
    if r is not None:
        correlation = f"Pearson r = {r:.2f}, Spearman rho = {rho:.2f}"
    axes["scatter"].set_title(correlation)
    axes["scatter"].set_xlabel("entropy of critical tokens (nats)")
    axes["scatter"].set_ylabel("accuracy")
    title = f"orange: step {chosen['step']}, chosen by {NAMES[rule]}; hollow: set aside"
    figure.suptitle(f"{title}; number at a point: its step", x=0.01, ha="left", fontsize=9.5, color="0.35")
    save_figure(figure, path)


if __name__ == "__main__":
    main(select, Config)
