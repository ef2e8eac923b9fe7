"""Five updates of grpo.py on committed responses: their metrics, and sums of the weights they end with, are
committed, too. Any change of a number shows here, wherever it was made. If it is meant, the test says which
file to copy over tests/golden.json, and the commit says why.
"""
import json
from types import SimpleNamespace

import pytest
import torch

import grpo
from conftest import ROOT
from reward import Reward
from rollout import Rollout
from stages import metrics, run_grpo, tensors

GOLDEN = ROOT / "tests" / "golden.json"  # responses: {prompt: [[ids, log-probs, right, neat], ...]}
PARTS = {"encoder": "vision_tower", "connector": "multi_modal_projector", "llm": "l"}  # in a tensor's name


def sums(folder):
    """{part: sum of the absolute weights} of a checkpoint"""
    out = dict.fromkeys(PARTS, 0.0)
    for name, t in tensors(folder).items():
        out[next(part for part, words in PARTS.items() if words in name)] += float(t.double().abs().sum())
    return out


def test_five_updates(tiny, mixed, processor, tmp_path, monkeypatch):
    golden, flags = json.loads(GOLDEN.read_text()), dict(
        data=mixed, prompts=4, samples=4, max_tiles=4, minibatches=2, kl=0.05, is_clip=2.0, clip_high=0.3,
        lr=1e-4, lr_connector=3e-4, schedule="cosine", warmup=1, temperature=0.9, weight_decay=0.1,
        max_tokens=120, words=tuple("abcdefghijklm"), high_entropy=5.0, save_every=5)

    def generate(prompts, n, max_new_tokens, temperature, seed):
        out = []
        for prompt in prompts:
            out.append([])
            for ids, logp, right, neat in golden["responses"][prompt.record.id]:
                pieces = processor.pieces(ids)
                out[-1].append(Rollout(prompt, ids, torch.tensor(logp), torch.zeros(len(ids)),
                                       "".join(pieces), pieces, "stop"))
                out[-1][-1].given = Reward(right, neat, 0.8 * right + 0.2 * neat, None, "given")
        return out

    def set_rewards(rollouts, cfg, verifier):
        for r in rollouts:
            r.reward = r.given

    sampler = SimpleNamespace(generate=generate, sync=lambda vlm: None)
    monkeypatch.setattr(grpo, "make_sampler", lambda *_: sampler)
    monkeypatch.setattr(grpo, "set_rewards", set_rewards)
    run_grpo(tiny, tmp_path / "run", 5, **flags)
    found = {**golden, "metrics": metrics(tmp_path / "run"), "sums": sums(tmp_path / "run" / "step_000005")}
    (tmp_path / "golden.json").write_text(json.dumps(found))
    rel = 1e-5 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 1e-4
    told = f"if this is meant: cp {tmp_path / 'golden.json'} {GOLDEN}"
    assert len(found["metrics"]) == len(golden["metrics"]), told
    for ours, known in zip(found["metrics"], golden["metrics"]):
        assert ours == pytest.approx(known, rel=rel, abs=2e-6), told
    assert found["sums"] == pytest.approx(golden["sums"], rel=rel / 100), told
