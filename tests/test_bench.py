"""bench/: the figures that it prints are those that were measured. The measurements are no test."""
import json
import multiprocessing
from types import SimpleNamespace

import pytest
import torch
import tyro

import grpo
import pack
from bench import compare, gpu_check, workload
from data import Processor
from grpo import load_prompts
from machinery.files import Refused
from model import VLM
from pack import make_packs
from recipes import plan
from test_families import reference_varlen


def rows(*steps, **more):
    return [{"step": s, "peak_gib": s / 10, **more} for s in steps]


def test_the_median_counts_and_the_larger_spread():
    row = compare.judged(rows(1.0, 2.0, 9.0, sample=0.5), rows(8.0, 6.0, 7.0, sample=3.0))
    assert row == {"ours_s": 2.0, "ours_sample_s": 0.5, "ours_peak_gib": 0.9,
                   "peer_s": 7.0, "peer_sample_s": 3.0, "peer_peak_gib": 0.8, "ratio": 3.5, "spread": 4.0}


def test_results_become_tables(tmp_path, capsys):
    results = {
        "machine": {"cpu": "a processor", "threads": 2, "command": "python -m bench.compare"},
        "GRPO long fp32": compare.judged(rows(2.0, update=1.5), rows(8.0, update=7.0)),
        "SFT short fp32": compare.judged(rows(0.25, 0.5, 0.25), rows(0.5))}
    compare.write_table(results, tmp_path / "results.json")
    text = (tmp_path / "results.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip() and "a processor" in text
    lines = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
             for line in text.splitlines() if line.startswith("|")}
    assert lines["GRPO long fp32"] == [
        "2.00 / 8.00", "4.00", "0%", "", "1.50 / 7.00", "0.20 / 0.80"]
    assert lines["SFT short fp32"] == ["0.25 / 0.50", "2.00", "100%", "", "", "0.05 / 0.05"]


def test_flops_of_packs(tmp_path):
    """Two packs of a group cost their prompt twice; the pairs are counted one by one."""
    visual = 4
    size = workload.make_model(tmp_path / "model", visual)
    file = workload.make_rows(tmp_path, size, 1)
    processor = Processor(str(tmp_path / "model"), 1)
    prompt, = load_prompts(grpo.Config(), str(file), processor)
    P, shape, patches = len(prompt.full), plan.shape(str(tmp_path / "model")), visual * 4
    one = make_packs(processor, [(prompt, [[5, 6, 7], [5, 6]])])
    two = make_packs(processor, [(prompt, [[5, 6, 7], [5, 6]])], max_tokens=P + 3)
    assert (len(one), len(two)) == (1, 2)
    pairs = sum(range(P + 1)) + (P + 1) + (P + 2) + (P + 3) + (P + 1) + (P + 2)
    assert gpu_check.flops(shape, one, patches) == plan.flops(shape, P + 5, pairs, 5, patches, patches)
    prompt_again = plan.flops(shape, P, P * (P + 1) // 2, 0, patches, patches)
    assert gpu_check.flops(shape, two, patches) == gpu_check.flops(shape, one, patches) + prompt_again


def forked(command):
    """grpo.py with these flags, without the seconds that a new process spends on imports"""
    cfg = tyro.cli(grpo.Config, args=command[2:])
    process = multiprocessing.get_context("fork").Process(target=grpo.train, args=(cfg,))
    process.start()
    return SimpleNamespace(kill=process.kill, poll=lambda: process.exitcode,
                           wait=lambda: process.join() or process.exitcode)


def test_gpu_check_runs_without_a_gpu(tiny, model_path, tmp_path, monkeypatch, capsys):
    """The script for the first hour on a GPU, on a CPU: so that what fails there is the GPU. Another function
    takes the place of the fused kernels, and a spy that of torch.compile."""
    compiled, more = [], dict(device="cpu", shapes=("small",), out=str(tmp_path))
    monkeypatch.setitem(gpu_check.KERNELS, "fused", lambda x: x.dtype == torch.bfloat16)
    monkeypatch.setattr(pack, "varlen", reference_varlen)
    monkeypatch.setattr(VLM, "compile_blocks", lambda vlm: compiled.append(vlm))
    monkeypatch.setattr(gpu_check, "subprocess", SimpleNamespace(Popen=forked))
    gpu_check.check(gpu_check.Config(tuple("bcdg"), model=model_path, data=str(tiny / "rl.jsonl"), **more))
    b, c, d, g = ([*json.loads((tmp_path / f"{part}.json").read_text())["rows"].values()] for part in "bcdg")
    assert len(b) == 3 and all(row["fp32 SDPA: log-probs"] < 1e-5 < row["bf16 fused: log-probs"] for row in b)
    assert len(c) == 4 and all(row["fused: error"] != row["SDPA: error"] for row in c)
    assert all(x["good"] for x in b + c + g) and len(d) == 2 and len(compiled) == 1
    assert 5 <= g[0]["killed after"] < 8 and g[0]["resumed from"] >= 3 and any(g[0]["grad_norm"])
    assert g[0]["length: drift"] == [0] * 8 and not any(g[0]["length: again"])

    bad = {"small": {"seconds": 12.3456, "good": False}}  # is not measured again; the other row is
    (tmp_path / "d.json").write_text(json.dumps({"device": False, "rows": bad}))
    with pytest.raises(Refused, match=r"not as it should be: \(d\) small$"):
        gpu_check.check(gpu_check.Config(("d",), **more))
    assert len(compiled) == 2 and "| d | small | seconds 12.35; good False |" in capsys.readouterr().out
