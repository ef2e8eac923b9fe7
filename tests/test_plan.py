"""plan.py and the recipes: published configurations without weights, simulated ranks, what would fit."""
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
from urllib.error import HTTPError, URLError

import pytest
import torch
import tyro

import plan
from conftest import ROOT, write_jsonl
from machinery.files import Refused
from machinery.lora import add_adapters
from machinery.processes import half_will_do
from model import PARTS, load
from pack import make_packs

CONFIGS = ROOT / "recipes" / "configs"
PUBLISHED = {  # parameters, from the model cards
    "InternVL3-1B": 0.938e9, "InternVL3-2B": 2.09e9, "InternVL3-8B": 7.94e9, "InternVL3-38B": 38.4e9,
    "Qwen2.5-VL-3B": 3.75e9, "Qwen2.5-VL-7B": 8.29e9, "Qwen3-VL-4B": 4.44e9}


def test_every_configuration_is_known():
    assert {p.name for p in CONFIGS.iterdir() if p.is_dir()} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    s = plan.shape(CONFIGS / name)
    assert s["total"] == pytest.approx(PUBLISHED[name], rel=2e-3)
    if name == "InternVL3-38B":  # PAPER: encoder of 45 layers, connector of 91.8 M
        assert s["parts"]["connector"] == 91_786_240 and s["depth"] == 45 and s["layers"] == 64
    if name == "Qwen3-VL-4B":  # four mergers of 1024 * 4 -> 2560: two matrices, their biases, and norms
        norms = 2 * (1024 + 3 * 4096)  # of one patch, and three of four patches
        assert s["parts"]["connector"] == 4 * (4096 * 4096 + 4096 + 4096 * 2560 + 2560) + norms
        assert s["depth"] == 24


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_have_the_hubs_shape(name):
    """What is missing there is missing here: the InternVLs do not say at their root that they are untied."""
    raw, s = json.loads((CONFIGS / name / "config.json").read_text()), plan.shape(CONFIGS / name)
    text = raw.get("text_config", raw)
    assert s["tied"] == (name in ("Qwen2.5-VL-3B", "Qwen3-VL-4B")) == text["tie_word_embeddings"]
    assert ("tie_word_embeddings" in raw) == (not name.startswith("InternVL"))
    assert "rope_parameters" not in text and "rope_scaling" in text
    assert ("text_config" in raw) == (not name.startswith("Qwen2.5")) and s["file"] == 2
    assert ("torch_dtype" in raw) == (name != "Qwen3-VL-4B") and "dtype" not in raw
    if name.startswith("InternVL"):
        assert text["rope_scaling"] == {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}


def test_suggested_change_fits():
    s = plan.shape(CONFIGS / "InternVL3-38B")
    cfg = plan.Config(gpus=16, rollout="none", checkpointing=False)
    words = plan.smallest_change(s, cfg).split()
    assert words[0] == "--checkpointing" and not plan.need(s, cfg) <= plan.room(cfg)
    change = {w[2:]: int(n) for w, n in zip(words, words[1:])
              if w in ("--tokens", "--gpus", "--tensor_parallel")}
    assert plan.need(s, dataclasses.replace(cfg, checkpointing=True, **change)) <= plan.room(cfg)
    assert plan.smallest_change(s, plan.Config(gpus=1, gpu_gib=1, rollout="none")) is None


def test_one_card_is_told_what_fits_it(capsys):
    """No flag stands twice in an advice, and adapters are advised with the parts that fit beside them."""
    card = plan.Config(str(CONFIGS / "Qwen2.5-VL-3B"), gpus=1, gpu_gib=24, tokens=8192, max_new_tokens=2048)
    assert not plan.plan(card)
    told, adapters = capsys.readouterr().out.strip().splitlines()[-2:]
    flags = [word for word in told.split() if word.startswith("--")]
    assert flags and len(set(flags)) == len(flags)
    assert adapters.endswith(": --lora 8 --train connector llm")
    fits = dataclasses.replace(card, lora=8, train=("connector", "llm"))
    assert plan.plan(fits)
    # responses of 8,192 do not fit the sampler, and no smaller pack helps it
    assert not plan.plan(dataclasses.replace(fits, max_new_tokens=8192))
    assert capsys.readouterr().out.strip().endswith("The smallest change that would: --max_new_tokens 4096")
    # a pack holds at least a prompt and its response, so a smaller one is no advice
    small = plan.Config(str(CONFIGS / "InternVL3-1B"), gpus=1, gpu_gib=24, rollout="vllm")
    row = small.visual + small.max_new_tokens
    assert all(n >= row for flag, n in plan.changes(small) if flag == "tokens")
    plan.plan(dataclasses.replace(fits, tokens=2048))  # 3,328 visual tokens do not fit a pack of 2,048
    assert "packs of 2,048 tokens of which 2,048 are visual" in capsys.readouterr().out


@pytest.mark.parametrize("name, train, lora", [
    ("InternVL3-2B", PARTS, 0), ("Qwen2.5-VL-7B", PARTS[1:2], 0), ("Qwen3-VL-4B", PARTS[1:], 8)])
def test_state_is_that_of_the_model(name, train, lora):
    """Weights (frozen matrices in bf16), optimizer and gradients: of one GPU, of shards, of a copy a node."""
    s = plan.shape(CONFIGS / name)
    s["vlm"].autocast_dtype = s["vlm"].file_dtype = torch.bfloat16
    if lora:
        add_adapters(s["vlm"], lora)
    weights = list(s["vlm"].train_only(train).parameters())
    learns = sum(p.numel() for p in weights if p.requires_grad)
    half = sum(w.numel() for w in half_will_do(s["vlm"]))
    whole = sum(p.numel() for p in weights) - half
    for gpus, hybrid, share in ((1, False, 1), (16, False, 16), (16, True, 8)):
        cfg = plan.Config(gpus=gpus, hybrid=hybrid, train=train, lora=lora, rollout="none")
        rows = {what: n * plan.GIB * share for what, n in plan.memory(s, cfg)["training"].items()}
        expected = {"weights, fp32": 4 * whole, "frozen matrices, bf16": 2 * half,
                    "optimizer (AdamW, fp32)": 8 * learns, "gradients, fp32": 4 * learns}
        assert {what: rows[what] for what in expected} == pytest.approx(expected)
    rows = plan.memory(s, plan.Config(offload=True, train=train, lora=lora, rollout="none"))["training"]
    assert not any(rows[what] for what in expected)


def test_a_card_that_is_too_small_is_told_of_adapters(capsys):
    cfg = plan.Config(model=str(CONFIGS / "InternVL3-2B"), gpus=1, gpu_gib=24, tokens=8192, rollout="none")
    assert not plan.plan(cfg) and "in place of the whole LLM: --lora 8\n" in capsys.readouterr().out
    assert plan.plan(dataclasses.replace(cfg, lora=8))
    assert " of them train: adapters of rank 8\n" in capsys.readouterr().out
    assert not plan.plan(dataclasses.replace(cfg, lora=8, gpu_gib=4))
    assert "in place of" not in capsys.readouterr().out


@pytest.mark.parametrize("gpus, batch, rows", [(8, 512, 128), (1, 512, 512), (8, 64, 64), (8, 8, 32)])
def test_rows_of_a_sampler(gpus, batch, rows):
    """torch: as many as TorchSampler.generate takes at a time, of a rank's prompts or of --rollout_batch."""
    s, name = plan.shape(CONFIGS / "InternVL3-1B"), "sampler: keys and values of {} responses"
    cfg = plan.Config(gpus=gpus, rollout_batch=batch, rollout="torch")
    torch_, vllm = (plan.sampling(s, dataclasses.replace(cfg, rollout=kind)) for kind in ("torch", "vllm"))
    token = s["kv"] * s["layers"]
    assert torch_[name.format(rows)] == 6 * token * (rows * 8192 + 2 * rows // 32 * cfg.visual)
    assert vllm[name.format(16)] == 4 * token * 16 * (8192 + cfg.visual)


def test_selection_trains_nothing():
    """vLLM is awake beside the shards; the torch sampler needs all of the model, once."""
    s = plan.shape(CONFIGS / "InternVL3-38B")
    vllm, torch_ = (plan.memory(s, plan.Config(select=True, rollout=kind)) for kind in ("vllm", "torch"))
    assert vllm.keys() == torch_.keys() == {"sampling"}
    assert {"sampler: weights, bf16", "gathered weights, bf16"} < vllm["sampling"].keys()
    for what in ("weights, fp32", "frozen matrices, bf16", "optimizer (AdamW, fp32)"):
        assert torch_["sampling"][what] == 8 * vllm["sampling"][what]
    assert torch_["sampling"]["frozen matrices, bf16"] * plan.GIB == 2 * sum(s["linear"].values())
    assert not torch_["sampling"]["optimizer (AdamW, fp32)"]


@pytest.mark.parametrize("name, cut, blocks", [  # MiB of the LLM's matrices (fused), and of all others
    ("InternVL3-8B", 1, 28 * [32, 32, 512, 256] + [2048] * 2 + 24 * [2, 2, 2, 2, 8, 8] + [32, 32]),
    ("InternVL3-38B", 4, 64 * [32, 16, 256, 128] + [512] * 2 + 45 * [32, 32, 32, 32, 32, 32] + [128, 64])])
def test_host_memory_of_a_sleeping_engine(name, cut, blocks, capsys):
    cfg = plan.Config(str(CONFIGS / name), gpus=16, tensor_parallel=cut)
    assert plan.sleeping(plan.shape(cfg.model), cfg) == pytest.approx(sum(blocks) / 1024, rel=1e-3)
    plan.plan(cfg)
    assert f"an engine, {sum(blocks) / 128:.0f} a node" in capsys.readouterr().out


def test_flops_against_torch(model_path, chat, groups):
    """The formula's matrices against torch's own count of a forward and backward of the tiny world's model
    (attention apart, which computes whole squares: SDPA, or bmm for short rows)."""
    from torch.utils.flop_counter import FlopCounterMode
    vlm, s = load(model_path), plan.shape(model_path)
    pack, = make_packs(chat, groups)
    with FlopCounterMode(display=False) as counter:
        logp, entropy = vlm(pack)
        (logp.sum() + entropy.sum()).backward()
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    matrices = sum(n for op, n in counted.items() if "attention" not in op and "bmm" not in op)
    tiles = len(pack.images["pixel_values"])
    ours = plan.flops({**s, "hq": 0, "v": 0}, len(pack.ids), 0, len(pack.source), tiles * 36, 0)
    assert ours == pytest.approx(matrices, rel=0.05)


# ------------------------------------------------------------------------------------------------ the dry run

RECIPES = ["r1v3_38b", "internvl3_1b", "qwen2_5_vl_3b", "lora_24gb", "multi_node"]
ONE = ("1", "80", "recipes/configs/InternVL3-1B")
HUB = "OpenGVLab/InternVL3-1B-hf"


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(plan, "plan", lambda cfg: True)
    plan.on_hub.cache_clear()


def commands(recipe, tmp_path, flag, **env):
    """The command lines that a recipe would start: lists of words."""
    recorder = tmp_path / "recorder"
    recorder.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" $'\\n' >> {tmp_path}/log\n")
    recorder.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PY": str(recorder), **env}
    subprocess.run(["bash", f"recipes/{recipe}.sh", flag], env=env, cwd=ROOT, check=True, capture_output=True)
    lines = (tmp_path / "log").read_text().split("\n")
    return [line.strip("\0").split("\0") for line in lines if line.strip("\0")]


def test_dry_run_of_a_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    thought = "So.\n</think>\n\nS"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Q", "solution": thought}) + "\n")
    found = plan.dry_run("8", "80", "recipes/configs/InternVL3-1B", "sft.py", "--model", HUB, "--data",
                         str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"))
    assert found == [] and "1 rows can be used" in capsys.readouterr().out
    found = plan.dry_run("1", "8", "recipes/configs/InternVL3-8B", "grpo.py", "--model", "/no/such", "--data",
                         "none.jsonl")
    names = [p.split(":")[0] for p in found]
    assert names == ["grpo.py --model /no/such", "grpo.py --data none.jsonl", "grpo.py"]


def test_dry_run_finds_rows_that_a_stage_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    row = {"question": "Q", "answer": "0", "options": ["x", "y"], "solution": "S"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    refused = {"sft.py": "the solution has no </think>", "grpo.py": "names none of its 2 options"}
    for script, why in refused.items():
        found, = plan.dry_run("8", "80", "recipes/configs/InternVL3-1B", script, "--model", HUB, "--data",
                              str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"))
        assert why in found


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_dry_run(recipe, tmp_path, monkeypatch, capsys):
    """A recipe makes all that its steps need, from data to evaluation, and says what it could not check."""
    monkeypatch.chdir(ROOT)
    (_, _, *words), = commands(recipe, tmp_path, "--dry_run", DATA="data/none", OUT="out/none")
    order = ["recipes/data.py", "distill.py", "sft.py", "grpo.py", "entropy_select.py"]
    order += ["connector_tune.py", "eval_mmmu.py"] * (recipe != "multi_node")
    assert list(dict.fromkeys(step[0] for step in plan.steps(words[3:]))) == order
    assert plan.dry_run(*words) == []
    out = capsys.readouterr().out
    assert "NOT CHECKED, because the hub could not be asked: FanqingM/MMK12, HuggingFaceM4/" in out
    assert "nothing is missing of what could be checked" in out and "are not the same in all steps" not in out
    assert "dataset of the hub, configuration finqa, split train" in out


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_without_one_of_its_steps(recipe, tmp_path, no_memory):
    """The steps behind a lost one miss what it makes, by name."""
    (_, _, *words), = commands(recipe, tmp_path, "--dry_run", DATA="data/none", OUT="out/none")
    steps = plan.steps(words[3:])
    for lost in {step[0] for step in steps} - {"entropy_select.py", "eval_mmmu.py"}:
        left = [["--", *step] for step in steps if step[0] != lost]
        found = plan.dry_run(*words[:3], *sum(left, []))
        assert found and all("no such" in p and " makes it" in p for p in found), (lost, found)
        if lost == "grpo.py":
            assert found[0].startswith("entropy_select.py --folder out/none/grpo: no such folder"), found


BAD_STEPS = [
    ("sft.py --model HUB --data data/none.jsonl", "--data data/none.jsonl: no such file"),
    ("sft.py --model HUB --data data/none", "--data data/none: no such file"),
    ("sft.py --model HUB --data out/none/c.jsonl", "their solutions by distill.py --out out/none/c.jsonl"),
    ("sft.py --model HUB --data ./none/x", "--data ./none/x: no such file"),
    ("sft.py --model HUB --data /none/x", "--data /none/x: no such file"),
    ("sft.py --model HUB --data none/x.jsonl", "--data none/x.jsonl: no such file"),
    ("sft.py --model HUB --data none/x.parquet", "--data none/x.parquet: no such file"),
    ("sft.py --model HUB --data none/x.csv", "--data none/x.csv: no such file"),
    ("sft.py --model HUB --data none/x.json", "--data none/x.json: no such file"),
    ("sft.py --model HUB --data none", "--data none: no such file"),
    ("sft.py --model HUB --data a/b/c", "--data a/b/c: no such file"),
    ("sft.py --model HUB --data a/b --val data/none.jsonl", "--val data/none.jsonl: no such file"),
    ("sft.py --model out/none --data a/b", "sft.py --model out/none: no such folder"),
    ("sft.py --model /none --data a/b", "--model /none: no such folder"),
    ("sft.py --model none --data a/b", "--model none: no such folder"),
    ("sft.py --model tests --data a/b", "--model tests: --model tests: no checkpoint there"),
    ("grpo.py --model HUB --data data/none/maths.jsonl", "python -m recipes.data --out data/none"),
    ("grpo.py --model HUB --data a/b --curriculum data/none.jsonl", "--curriculum data/none.jsonl: no"),
    ("grpo.py --model HUB --data README.md", "--data README.md"),
    ("distill.py --model HUB --data data/none/cold_start_questions.jsonl", "recipes.data --out data/none"),
    ("entropy_select.py --folder out/none --data a/b", "--folder out/none: no such folder"),
    ("entropy_select.py --folder tests --data a/b", "--folder tests: --folder tests: no checkpoint there"),
    ("connector_tune.py --model HUB --data a/b --val out/none.jsonl", "--val out/none.jsonl: no such file"),
    ("eval_mmmu.py --model HUB --data data/none/mmmu", "--data data/none/mmmu: no such file"),
    ("eval_mmmu.py --model HUB --data tests", "no Parquet files in it"),
    ("recipes/data.py --out README.md", "--out README.md: it is there and is no folder"),
    ("recipes/data.py --out recipes", "recipes is there and was not made"),
    ("recipes/data.py --out data/none --source mmk12=none.parquet", "--source mmk12 none.parquet: no such"),
    ("recipes/data.py --out data/none --source mmk12=README.md", "--source mmk12=README.md"),
    ("recipes/data.py --out data/none --mmmu data/none", "--mmmu data/none: no such file"),
    ("recipes/data.py --out data/none --mmmu tests", "no Parquet files in it"),
    ("recipes/data.py --out data/none --breadth 0", "--breadth 0"),
    ("sft.py --model HUB --data a/b --lr nan", "sft.py --lr nan"),
    # what a step makes is not there before it, nor under another name
    ("sft.py --model HUB --data a/b --out out/none/a -- grpo.py --model out/none/b --data a/b", "none/b: no"),
    ("grpo.py --model out/none/a --data a/b -- sft.py --model HUB --data a/b --out out/none/a", "none/a: no"),
    ("recipes/data.py --out data/none -- grpo.py --model HUB --data data/none/b.jsonl", "data/none/b.jsonl"),
    ("distill.py --model HUB --data a/b --out out/none/x.jsonl -- sft.py --model HUB --data out/none/y.jsonl",
     "out/none/y.jsonl: no such file"),
]


@pytest.mark.parametrize("line, why", BAD_STEPS)
def test_steps_that_miss_something(line, why, no_memory):
    found = plan.dry_run(*ONE, *line.replace("HUB", HUB).split())
    assert len(found) == 1 and why in found[0], found


@pytest.mark.parametrize("line", [
    "sft.py --model HUB --data a/b --out out/none/a -- grpo.py --model out/none/a/ --data a/b",
    "distill.py --model HUB --data a/b --out out/x.jsonl -- sft.py --model HUB --data ./out/x.jsonl",
    "recipes/data.py --out data/none -- grpo.py --model HUB --data data/none/maths.jsonl",
    "recipes/data.py --out data/none/ -- distill.py --model HUB --data data/none/breadth_questions.jsonl"])
def test_steps_that_feed_each_other(line, no_memory):
    assert plan.dry_run(*ONE, *line.replace("HUB", HUB).split()) == []


def test_other_words_in_one_step_are_said(no_memory, capsys):
    words = ["distill.py", "--model", HUB, "--data", "a/b", "--ask", "In a box.", "--out", "out/none/x.jsonl"]
    assert plan.dry_run(*ONE, *words, "--", "sft.py", "--model", HUB, "--data", "out/none/x.jsonl") == []
    said = capsys.readouterr().out
    assert "--ask and --system are not the same in all steps: distill.py ('In a box.', '')" in said


def test_no_such_script(no_memory):
    with pytest.raises(Refused, match="nope.py: no such script"):
        plan.dry_run(*ONE, "nope.py", "--model", HUB)
    with pytest.raises(Refused, match="model.py is no step of a recipe"):
        plan.dry_run(*ONE, "model.py")
    for words in (["--help"], ["8", "80"], ["0", "80", "c", "sft.py"], ["8", "inf", "c", "sft.py"], ONE):
        with pytest.raises(Refused, match="usage: python plan.py dry_run GPUS GIB CONFIG SCRIPT"):
            plan.dry_run(*words)


@pytest.mark.parametrize("answer, said", [
    (None, "dataset of the hub, configuration c, split train: is there"),
    (HTTPError("", 404, "", {}, None), "WRONG: the hub has no such dataset"),
    (HTTPError("", 401, "", {}, None), "WRONG: the hub has no such dataset"),
    (HTTPError("", 503, "", {}, None), "NOT CHECKED (the hub could not be asked): dataset of the hub"),
    (URLError("no network"), "NOT CHECKED"), (TimeoutError(), "NOT CHECKED"),
    (ValueError("BuilderConfig 'c' not found"), "WRONG: BuilderConfig 'c' not found"),
    (["test"], "WRONG: it has no split train but ['test']")])
def test_what_the_hub_says(answer, said, monkeypatch):
    def urlopen(request, timeout):
        assert request.full_url.endswith("/api/datasets/a/b") and timeout <= 10
        if isinstance(answer, OSError):
            raise answer
        return io.BytesIO()

    def names(name, subset):
        assert (name, subset) == ("a/b", "c")
        if isinstance(answer, ValueError):
            raise answer
        return answer or ["train", "test"]

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(plan.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(plan.datasets, "get_dataset_split_names", names)
    plan.on_hub.cache_clear()
    assert plan.on_hub("a/b", "dataset", "c", "train").startswith(said)
    plan.on_hub.cache_clear()


def test_a_name_that_the_hub_does_not_have_is_a_problem(no_memory, monkeypatch):
    monkeypatch.setattr(plan, "on_hub", lambda path, kind, *_: f"{plan.WRONG}: the hub has no such {kind}")
    found = plan.dry_run(*ONE, "sft.py", "--model", "a/b", "--data", "c/d")
    assert found == ["sft.py --model a/b: WRONG: the hub has no such model",
                     "sft.py --data c/d: WRONG: the hub has no such dataset"]


def test_recipe_stops_when_something_is_missing():
    ran = subprocess.run(["bash", "recipes/multi_node.sh", "--dry_run"], cwd=ROOT, capture_output=True,
                         text=True, env={**os.environ, "PY": sys.executable, "COLD": "no_such.jsonl"})
    assert ran.returncode == 1 and "sft.py --data no_such.jsonl: no such file" in ran.stderr
    assert "something above would stop" in ran.stdout and "nothing is missing" not in ran.stdout
    assert "it fits" in ran.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_rehearsal_of_a_recipe(recipe, tmp_path, monkeypatch):
    """Its steps are those of the recipe, every flag is known, and all that they read is local and small."""
    monkeypatch.chdir(ROOT)
    ran = commands(recipe, tmp_path, "--rehearse")
    assert [words[0] for words in ran[:3]] == ["tiny/make.py", "-m", "sft.py"]
    steps = [words[words.index("1") + 1:] for words in ran[3:]]  # behind --nproc_per_node 1
    for words in steps:
        script = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        module = importlib.import_module(script[:-3].replace("/", "."))
        cfg = tyro.cli(module.Config, args=words[2 if words[0] == "-m" else 1:])
        read = [path for _, path, *_ in plan.inputs(cfg, script, module)]
        assert read and all(path.startswith(("data/rehearsal/", "out/rehearsal/")) for path in read), words
        assert all(path.startswith(("data/rehearsal/", f"out/rehearsal/{recipe}/"))
                   for path in plan.outputs(cfg, script, module))
        assert getattr(cfg, "rollout", "torch") == "torch" and getattr(cfg, "verifier", "") == ""
        assert getattr(cfg, "max_new_tokens", 1) <= 64 and getattr(cfg, "steps", 1) <= 2
    (tmp_path / "log").unlink()
    (_, _, *words), = commands(recipe, tmp_path, "--dry_run")
    names = [step[0] for step in plan.steps(words[3:])]
    assert [w[0] if w[0] != "-m" else "recipes/data.py" for w in steps] == names


def test_a_recipe_takes_no_other_flag():
    ran = subprocess.run(["bash", "recipes/internvl3_1b.sh", "--dryrun"], cwd=ROOT, capture_output=True,
                         text=True)
    assert ran.returncode == 2 and "a recipe takes --dry_run, --rehearse, or nothing" in ran.stdout


# ------------------------------------------------------------------------------------------------------ data

def data_of(tmp_path, model_path, rows, **more):
    write_jsonl(tmp_path / "d.jsonl", [{"id": f"r{i}", "question": "?", **row} for i, row in enumerate(rows)])
    plan.report(plan.DataConfig(data=str(tmp_path / "d.jsonl"), model=model_path, **more))


def test_data_counts_what_grpo_could_use(tmp_path, model_path, capsys):
    rows = [{"answer": "5"}, {"answer": "0", "options": ["x", "y"]}, {"answer": "12,5"}]
    data_of(tmp_path, model_path, rows)
    out = capsys.readouterr().out
    assert "d.jsonl: 2 rows can be used, 2 fit" in out and "answers are read as two numbers" in out
    assert "cannot read 1 gold answers" in out and "d.jsonl row 2 (id r1): the answer '0' names none" in out
    with pytest.raises(Refused, match="no row has an answer that the rule can read"):
        data_of(tmp_path, model_path, rows[1:2])
    data_of(tmp_path, model_path, rows[1:2], need=("question",))


def test_data_counts_what_a_supervised_stage_could_use(tmp_path, model_path, capsys):
    thinks, direct = {"solution": "So.\n</think>\n\n5"}, {"solution": "5"}
    data_of(tmp_path, model_path, [direct, thinks, thinks], need=("question", "solution"))
    out = capsys.readouterr().out
    assert "d.jsonl: 2 rows can be used" in out and "row 1 (id r0): the solution has no </think>" in out
    assert out.endswith("solution: 'So.\\n</think>\\n\\n5'\n")
    with pytest.raises(Refused, match="the solution has no </think>"):
        data_of(tmp_path, model_path, [direct], need=("question", "solution"))


def test_long_rows_are_told_once(tmp_path, model_path, capsys, caplog):
    """By us, and not also by the tokenizer, whose advice is another."""
    data_of(tmp_path, model_path, [{"answer": "5"}, {"answer": "5", "question": "why " * 600}])
    assert "left out: 1 of 2 prompts are longer than 512 tokens" in capsys.readouterr().out
    assert "Token indices" not in caplog.text
