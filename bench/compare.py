"""Ours beside TRL in one go: `make bench` (about half an hour on 2 cores).

    GRPO short, long    a step: few short responses to small pictures, more and longer ones to large pictures
    SFT short, mixed    supervised steps: short solutions of one length, solutions of mixed lengths

Both sides are processes with the same model folder, rows, pictures, reward, threads and lengths. They work in
turn, one measurement each, so that both meet the same machine; the first measurement of each warms up. The
median counts, and the spread is (largest - smallest) / median. On a CPU TRL computes in fp32 (on a GPU in
bf16); ours does so, too, and once more as by default (--dtype auto), where that is not fp32.

Leaves bench/results.json, {setting: {"ours_s", "peer_s", "ratio", "spread", ...}}, and results.md, its table.
"""
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from bench.workload import LENGTHS, SETTINGS, make_model, make_rows
from machinery.files import main, read_json, say, write_json, write_text
from machinery.parallel import compute_dtype
from machinery.tables import table_lines

PARTS = ("sample", "reward", "update")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Config:
    only: tuple[str, ...] = ()  # with one of these words in their names; none: all
    repeats: int = 5            # measurements of each side
    threads: int = 2            # of each side
    out: str = "bench/results.json"


def alternate(folder, sides, cfg):
    """sides {name: words of bench.side} -> {name: measurements}, which the sides make in turn"""
    running, found = {}, {name: [] for name in sides}
    try:
        for name, words in sides.items():
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "bench.side", *words, str(folder), "--steps", str(cfg.repeats + 2)],
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": str(cfg.threads), "TQDM_DISABLE": "1"})
        for _ in range(cfg.repeats + 1):
            for name, side in running.items():
                side.stdin.write("go\n")
                side.stdin.flush()
                found[name].append(json.loads(side.stdout.readline()))  # nothing: it said why on the terminal
    finally:
        for side in running.values():
            side.kill()
    return {name: rows[1:] for name, rows in found.items()}


def judged(ours, peer):
    """Of both sides the median of the seconds of a step and of its parts, and peak memory"""
    found = {}
    for name, rows in (("ours", ours), ("peer", peer)):
        found |= {f"{name}_s": median(row["step"] for row in rows),
                  **{f"{name}_{part}_s": median(row[part] for row in rows) for part in PARTS
                     if part in rows[0]},
                  f"{name}_peak_gib": max(row["peak_gib"] for row in rows)}
    steps = [[row["step"] for row in rows] for rows in (ours, peer)]
    return {**found, "ratio": found["peer_s"] / found["ours_s"],
            "spread": max((max(values) - min(values)) / median(values) for values in steps)}


def measure(task, name, cfg, folder):
    """{setting: numbers} of a task, grpo or sft, in the empty folder"""
    setting = name if task == "grpo" else "short"
    size = make_model(folder / "model", SETTINGS[setting].visual)
    if task == "grpo":
        make_rows(folder, size, 64)
    else:
        make_rows(folder, size, 512, LENGTHS[name], text_only=0.25 * (name == "mixed"))
    dtypes = {"fp32": "fp32"} | ({"bf16": "auto"} if compute_dtype("auto", DEVICE) else {})
    sides = {d: ("ours", task, setting, dtype) for d, dtype in dtypes.items()}
    peer = ("trl", task, setting, "fp32" if DEVICE == "cpu" else "bf16")
    found = alternate(folder, {**sides, "trl": peer}, cfg)
    return {f"{task.upper()} {name} {d}": judged(found[d], found["trl"]) for d in dtypes}


def machine(cfg):
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if "model name" in line), "")
    return {"cpu": cpu, "instructions": torch.backends.cpu.get_cpu_capability(), "threads": cfg.threads,
            "command": f"python -m bench.compare {' '.join(sys.argv[1:])}".strip(),
            **{name: version(name) for name in ("torch", "transformers", "trl")}}


def write_table(results, path):
    """results.md beside results.json"""
    def both(row, what):
        return " / ".join(f"{row[key]:.2f}" for key in (f"ours_{what}", f"peer_{what}") if key in row)

    said = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if name != "command")
    lines = table_lines(
        ["a step: ours / TRL", "seconds", "times as fast", "spread", "sampling", "update", "peak GiB"],
        [[name, both(row, "s"), f"{row['ratio']:.2f}", f"{row['spread']:.0%}", both(row, "sample_s"),
          both(row, "update_s"), both(row, "peak_gib")]
         for name, row in results.items() if name != "machine"])
    text = f"{said}. Command: `{results['machine']['command']}`.\n\n" + "\n".join(lines) + "\n"
    write_text(path.with_suffix(".md"), text)
    print(text)


def compare(cfg):
    work = [("grpo", name) for name in SETTINGS] + [("sft", name) for name in LENGTHS]
    torch.set_num_threads(cfg.threads)
    out = Path(cfg.out)
    results = read_json(out) if cfg.only and out.exists() else {}
    results["machine"] = machine(cfg)
    for task, name in work:
        if not cfg.only or any(word in f"{task.upper()} {name}" for word in cfg.only):
            with tempfile.TemporaryDirectory() as where:
                rows = measure(task, name, cfg, Path(where))
            for setting, row in rows.items():
                say(f"{setting}: {row['ours_s']:.3f} s, TRL {row['peer_s']:.2f} s: {row['ratio']:.2f} times "
                    f"(spread {row['spread']:.0%})")
            results |= rows
            write_json(out, results)
    write_table(results, out)


if __name__ == "__main__":
    main(compare, Config)
