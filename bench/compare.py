"""Ours beside TRL, in one go: `make bench`.

Each setting starts both sides as processes with the same model folder, rows, pictures, reward, threads and
lengths, and lets them work in turn, one measurement each, so that both meet the same machine. The first
measurement of each warms up. The median counts, and the spread is (largest - smallest) / median.

Leaves bench/results.json: {setting: {"ours_s", "peer_s", "ratio", "spread", ...}}, and prints it as a table.
"""
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from bench.side import BATCH, BLOCK
from bench.workload import LENGTHS, SETTINGS, make_model, make_rows
from machinery.files import Refused, main, say, write_json
from machinery.tables import print_table

ROOT = Path(__file__).parent.parent
PARTS = ("sample", "reward", "update")


@dataclass
class Config:
    only: tuple[str, ...] = ()  # settings, e.g. "GRPO short fp32"; none: all
    repeats: int = 5            # measurements of each side
    threads: int = 2            # of each side
    out: str = "bench/results.json"


class Side:
    """A process that works when it is asked."""

    def __init__(self, *words, threads):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill up and block
        self.words, self.process = words, subprocess.Popen(
            [sys.executable, "-m", "bench.side", *words], cwd=ROOT, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def measure(self):
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            raise Refused(f"{' '.join(self.words)} stopped:\n{self.errors.read()[-2000:]}")
        return json.loads(line)

    def end(self):
        self.process.kill()
        self.process.communicate()


def alternate(task, folder, setting, dtypes, cfg):
    """{side: [measurements]}; dtypes: {side: dtype}"""
    sides = {side: Side(side.split()[0], task, str(folder), "--setting", setting, "--dtype", dtype, "--steps",
                        str(cfg.repeats + 2), threads=cfg.threads) for side, dtype in dtypes.items()}
    found = {side: [] for side in sides}
    try:
        for _ in range(cfg.repeats + 1):
            for side, process in sides.items():
                found[side].append(process.measure())
    finally:
        for process in sides.values():
            process.end()
    return {side: rows[1:] for side, rows in found.items()}


def spread(values):
    return (max(values) - min(values)) / median(values)


def judged(ours, peer, **more):
    """What stands in results.json of a setting."""
    a, b = ([row["step"] for row in rows] for rows in (ours, peer))
    parts = {}
    for name, rows in (("ours", ours), ("peer", peer)):
        parts |= {f"{name}_{part}_s": median(row[part] for row in rows) for part in PARTS if part in rows[0]}
    return {"ours_s": median(a), "peer_s": median(b), "ratio": median(b) / median(a),
            "spread": max(spread(a), spread(b)), "ours_peak_gib": max(r["peak_gib"] for r in ours),
            "peer_peak_gib": max(r["peak_gib"] for r in peer), **parts, **more}


def grpo(setting, dtype, cfg, where):
    s, folder = SETTINGS[setting], where / f"grpo_{setting}_{dtype}"
    make_rows(folder, make_model(folder / "model", s.visual), 64)
    found = alternate("grpo", folder, setting, {"ours": dtype, "trl": "fp32"}, cfg)
    return judged(found["ours"], found["trl"], tokens=s.prompts * s.samples * s.tokens)


def sft(lengths, dtype, cfg, where):
    folder = where / f"sft_{lengths}_{dtype}"
    size = make_model(folder / "model", SETTINGS["short"].visual)
    make_rows(folder, size, BATCH * BLOCK * 4, LENGTHS[lengths], text_only=0.25 * (lengths == "mixed"))
    found = alternate("sft", folder, "short", {"ours": dtype, "trl": "fp32"}, cfg)
    return judged(found["ours"], found["trl"], rows=BATCH * BLOCK)


def settings():
    """{name: function of cfg and a folder}"""
    todo = {}
    for dtype in ("fp32", "bf16"):
        for setting in SETTINGS:
            todo[f"GRPO {setting} {dtype}"] = lambda *a, s=setting, d=dtype: grpo(s, d, *a)
        for lengths in LENGTHS:
            todo[f"SFT {lengths} {dtype}"] = lambda *a, s=lengths, d=dtype: sft(s, d, *a)
    return todo


def peak_gflops(n=2048, repeats=7):
    """What the matrix product reaches here in fp32."""
    a, b, best = torch.randn(n, n), torch.randn(n, n), 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ b
        best = max(best, 2 * n ** 3 / (time.perf_counter() - begin))
    return best / 1e9


def compare(cfg):
    todo = settings()
    if unknown := set(cfg.only) - set(todo):
        raise Refused(f"--only {' '.join(unknown)}: the settings are {', '.join(todo)}")
    torch.set_num_threads(cfg.threads)
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    results = {"machine": {"processor": platform.machine(), "threads": cfg.threads, **versions,
                           "instructions": torch.backends.cpu.get_cpu_capability(),
                           "peak_gflops": peak_gflops()}}
    with tempfile.TemporaryDirectory() as where:
        for name in cfg.only or todo:
            results[name] = row = todo[name](cfg, Path(where))
            say(f"{name}: {row['ours_s']:.2f} s, TRL {row['peer_s']:.2f} s, {row['ratio']:.2f} times")
            write_json(Path(cfg.out), results)
    print_table(["", "ours, s", "TRL, s", "times as fast", "spread", "ours, GiB", "TRL, GiB"],
                [[name, f"{r['ours_s']:.2f}", f"{r['peer_s']:.2f}", f"{r['ratio']:.2f}", f"{r['spread']:.0%}",
                  f"{r['ours_peak_gib']:.2f}", f"{r['peer_peak_gib']:.2f}"]
                 for name, r in results.items() if name != "machine"])


if __name__ == "__main__":
    main(compare, Config)
