"""Ours beside TRL, and what our own parts cost, in one go: `make bench` (about half an hour on 2 cores).

    against TRL    a GRPO step (short and long setting), supervised steps (short rows, mixed lengths)
    of our own     a step of `make tiny`, stage 3 with kept features beside one of all parts

Sides that are compared are processes with the same model folder, rows, pictures, reward, threads and lengths.
They work in turn, one measurement each, so that both meet the same machine; the first measurement of each
warms up. The median counts, and the spread is (largest - smallest) / median. On a CPU TRL computes in fp32
(on a GPU in bf16); ours does so, too, and once more as by default (--dtype auto), where that is not fp32.

Leaves bench/results.json, {setting: {"ours_s", "spread", and of a comparison "peer_s", "ratio", ...}}, and
its tables in results.md (bench/table.py). --only WORDS measures the settings whose names have one of them,
and keeps the other results.
"""
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from bench.table import write_table
from bench.workload import LENGTHS, SETTINGS, make_model, make_rows
from machinery.files import main, read_json, say, write_json
from machinery.parallel import compute_dtype

ROOT = Path(__file__).parent.parent
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
        for name, (side, task, *more) in sides.items():
            words = [side, task, str(folder), "--steps", str(cfg.repeats + 2), *more]
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "bench.side", *words], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
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


def spread(values):
    return (max(values) - min(values)) / median(values)


def one(rows, name="ours"):
    """Numbers of one side: median of the seconds of a step and of its parts, peak memory"""
    parts = {f"{name}_{part}_s": median(row[part] for row in rows) for part in PARTS if part in rows[0]}
    return {f"{name}_s": median(row["step"] for row in rows), **parts,
            f"{name}_peak_gib": max(row["peak_gib"] for row in rows)}


def alone(rows):
    return {**one(rows), "spread": spread([row["step"] for row in rows])}


def judged(ours, peer):
    both = [[row["step"] for row in rows] for rows in (ours, peer)]
    a, b = one(ours), one(peer, "peer")
    return {**a, **b, "ratio": b["peer_s"] / a["ours_s"], "spread": max(map(spread, both))}


def against_trl(name, task, folder, setting, cfg):
    dtypes = {"fp32": "fp32"} | ({"bf16": "auto"} if compute_dtype("auto", DEVICE) else {})
    sides = {d: ("ours", task, "--setting", setting, "--dtype", dtype) for d, dtype in dtypes.items()}
    trl = ("trl", task, "--setting", setting, "--dtype", "fp32" if DEVICE == "cpu" else "bf16")
    found = alternate(folder, {**sides, "trl": trl}, cfg)
    return {f"{name} {d}": judged(found[d], found["trl"]) for d in sides}


def grpo(setting, cfg, folder):
    s = SETTINGS[setting]
    make_rows(folder, make_model(folder / "model", s.visual), 64)
    return against_trl(f"GRPO {setting}", "grpo", folder, setting, cfg)


def sft(lengths, cfg, folder):
    size = make_model(folder / "model", SETTINGS["short"].visual)
    make_rows(folder, size, 512, LENGTHS[lengths], text_only=0.25 * (lengths == "mixed"))
    return against_trl(f"SFT {lengths}", "sft", folder, "short", cfg)


def tiny(cfg, folder):
    sides = {f"step of make tiny, {n} x 16": ("ours", "tiny", "--prompts", str(n)) for n in (16, 32)}
    return {name: alone(rows) for name, rows in alternate(folder, sides, cfg).items()}


def parts(cfg, folder):
    """Stage 3: the connector alone, with kept features, beside a step of all parts"""
    make_rows(folder, make_model(folder / "model", SETTINGS["long"].visual), 512, LENGTHS["short"])
    sides = {"connector": ("ours", "parts", "--train", "connector"),
             "all parts": ("ours", "parts")}
    return {f"supervised step, {name}": alone(rows) for name, rows in alternate(folder, sides, cfg).items()}


WORK = {  # functions of cfg and an empty folder that return {setting: numbers}
    **{f"GRPO {setting}": partial(grpo, setting) for setting in SETTINGS},
    **{f"SFT {lengths}": partial(sft, lengths) for lengths in LENGTHS},
    "step of make tiny": tiny, "supervised step of parts": parts}


def machine(cfg):
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if "model name" in line), "")
    return {"cpu": cpu, "instructions": torch.backends.cpu.get_cpu_capability(), "threads": cfg.threads,
            "command": f"python -m bench.compare {' '.join(sys.argv[1:])}".strip(),
            **{name: version(name) for name in ("torch", "transformers", "trl")}}


def compare(cfg):
    todo = [name for name in WORK if not cfg.only or any(word in name for word in cfg.only)]
    torch.set_num_threads(cfg.threads)
    out = Path(cfg.out)
    results = read_json(out) if cfg.only and out.exists() else {}
    results["machine"] = machine(cfg)
    for name in todo:
        with tempfile.TemporaryDirectory() as where:
            rows = WORK[name](cfg, Path(where))
        for setting, row in rows.items():
            results[setting] = row
            peer = f", TRL {row['peer_s']:.2f} s: {row['ratio']:.2f} times" if "ratio" in row else ""
            say(f"{setting}: {row['ours_s']:.3f} s{peer} (spread {row['spread']:.0%})")
        write_json(out, results)
    write_table(results, out)


if __name__ == "__main__":
    main(compare, Config)
