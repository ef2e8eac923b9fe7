"""Flags whose values make no sense: refused in a sentence that names the flag, before anything is loaded."""
import dataclasses
import importlib
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import tyro

import grpo
import sft
from conftest import ENV, ROOT
from machinery.files import Refused, check_flags, main
from machinery.flags import wrong_flags

CONFIGS = {
    "grpo": "grpo.Config", "sft": "sft.Config", "tune": "connector_tune.Config", "distill": "distill.Config",
    "select": "entropy_select.Config", "eval": "eval_mmmu.Config", "score": "eval_mmmu.Score",
    "plan": "plan.Config", "data": "plan.DataConfig", "connector": "connector.Config",
    "reward": "reward.Config", "curves": "report.Curves", "page": "report.Page", "table": "report.Table",
    "seeds": "report.Seeds"}
NEEDED = {"reward": "--responses r.jsonl --out o.jsonl", "curves": "run", "page": "run", "seeds": "a b"}


def config(name):
    module, cls = CONFIGS[name].split(".")
    return getattr(importlib.import_module(module), cls)


def parsed(name, flags):
    return tyro.cli(config(name), args=[*NEEDED.get(name, "").split(), *flags.split()])


def table(text):
    """A script and some of its flags in each line -> [(script, flags)]"""
    lines = [line.split(maxsplit=1) for line in text.strip().splitlines()]
    return [(name, flags.strip()) for name, row in lines for flags in row.split("|")]


BAD = """
grpo      --steps 0 | --steps -1 | --prompts 0 | --prompts -32 | --samples 1 | --samples 0 | --lr nan
grpo      --lr inf | --lr -1e-5 | --lr 0 | --lr 3 | --warmup -1 | --temperature 0 | --temperature -1
grpo      --temperature nan | --temperature inf | --temperature 1e-30 | --max_new_tokens 0
grpo      --max_new_tokens -5 | --max_prompt 0 | --max_tiles 0 | --pixels -1 0 | --pixels 500 100
grpo      --clip_low -0.1 | --clip_low 1.5 | --clip_low nan | --clip_high -0.2 | --clip_high inf
grpo      --minibatches 0 | --kl -1 | --kl nan | --kl inf | --is_clip -1 | --is_clip nan
grpo      --curriculum_at -1 | --curriculum_at 5 | --rollout other | --tensor_parallel 0
grpo      --tensor_parallel 2 | --vllm_memory 0 | --vllm_memory 2 | --vllm_memory nan | --rollout_batch 0
grpo      --max_tokens 0 | --max_gap 0 | --max_gap nan | --weight_decay -0.1 | --weight_decay nan | --clip 0
grpo      --clip -1 | --clip nan | --clip inf | --dtype fp8 | --dtype float16 | --words | --words wait wait
grpo      --high_entropy nan | --high_entropy -1 | --limit_bad -0.1 | --limit_bad 1.1 | --limit_bad nan
grpo      --save_every 0 | --save_every -50 | --seed -1 | --seed 99999999999999999999 | --train vision
grpo      --lora -1 | --lora 8 --train connector
grpo      --train | --train llm llm | --columns question | --columns =problem | --columns question=
grpo      --columns answer=a answer=b | --verifier localhost:8000 | --verifier http://
grpo      --verifier ftp://x/v1 | --verifier http://host:8000 | --verifier http://host:8000/
grpo      --verifier http://host:port/v1
grpo      --verifier http://host:99999/v1 | --verifier host | --verifier http://host/v1/chat/completions
grpo      --verifier http://host/v1?key=1 | --verifier http:///v1
sft       --lr nan | --lr 0 | --warmup 1.5 | --warmup -0.1 | --warmup nan | --batch 0 | --epochs 0
sft       --epochs -1 | --epochs nan | --epochs inf | --epochs 1e300 | --max_length 0 | --optimizer sgd
sft       --clip 0 | --seed -1 | --save_every 0 | --train projector | --dtype fp16 | --limit_bad 2
sft       --max_tiles -1 | --weight_decay inf | --logger no_such_logger | --logger wandb.sdk
tune      --val_every 0 | --patience 0 | --features_gib nan | --features_gib -1 | --epochs 0 | --lr inf
tune      --batch -64 | --warmup 2 | --train | --lora -8 | --lora 8
distill   --samples 0 | --keep 0 | --keep 9 | --max_new_tokens 0 | --max_length -1 | --max_repetition nan
distill   --max_repetition 1.5 | --temperature 0 | --temperature -0.5 | --limit -1 | --chunk 0
distill   --limit_bad nan | --verifier 127.0.0.1:8000/v1 | --rollout sglang | --dtype bfloat16 | --seed -3
select    --probe 1 | --samples 0 | --temperature 0 | --temperature nan | --min_count 0 | --words
select    --high_entropy inf | --tensor_parallel -1 | --seed -1 | --pixels 9 3
eval      --limit -1 | --temperature -1 | --temperature nan | --runs 0 | --max_new_tokens 0 | --budget -5
eval      --chunk 0 | --rollout_batch 0 | --ban | --seed -1 | --verifier http://a:b | --dtype int8
score     --verifier nowhere
plan      --gpus 0 | --gpu_gib 0 | --gpu_gib nan | --gpu_gib -80 | --tokens 0 | --visual -1 | --responses 0
plan      --max_new_tokens 0 | --rollout all | --train eyes | --lora -1 | --lora 4 --train encoder
data      --need problem | --max_tiles 0 | --columns x
connector --queries 0 | --layers 0 | --layers -2 | --seed -1
reward    --patience nan | --patience -1 | --workers -1 | --time_limit 0 | --time_limit nan | --verifier x
page      --most 0 | --image_size 0 | --image_size -5 | --words
"""
BAD = table(BAD)


@pytest.mark.parametrize("name, flags", BAD)
def test_refused_by_name(name, flags):
    flag = "--keep" if flags == "--keep 9" else flags.split()[0]
    why = wrong_flags(parsed(name, flags))
    assert why.startswith(flag + " ") and len(why.split()) >= 6 and "\n" not in why


def test_what_has_no_dashes_is_named_without():
    why = wrong_flags(tyro.cli(config("seeds"), args=["a", "a"]))
    assert why == "folders a a: a stands there twice"
    assert wrong_flags(tyro.cli(importlib.import_module("ask").Config, args=["--world", ""])) == ""


def test_at_least_ninety():
    assert len(BAD) >= 90 and len(set(BAD)) == len(BAD)


GOOD = """
grpo      --steps 1 | --samples 2 | --lr 1 | --temperature 0.001 | --pixels 100 100 | --pixels 100 0
grpo      --kl 0.01 | --clip_low 0 | --clip_low 1 | --clip_high 10 | --is_clip 0 | --max_tokens 1
grpo      --limit_bad 0 | --limit_bad 1 | --save_every 1000000 | --seed 0 | --train llm
grpo      --rollout vllm --tensor_parallel 8 | --verifier http://host:8000/v1
grpo      --verifier https://api.example.org/v1beta/openai/ | --high_entropy 0
grpo      --verifier http://[::1]:8000/v1 | --curriculum hard.jsonl --curriculum_at 100 | --vllm_memory 1
grpo      --columns question=problem answer=gold=text | --weight_decay 0 | --warmup 10000
sft       --warmup 0 | --warmup 1 | --epochs 0.01 | --batch 1 | --optimizer muon
tune      --features_gib 0 | --patience 1 | --lora 8 --train connector llm
distill   --samples 1 --temperature 0 | --max_length 0 | --max_repetition 1 | --keep 4
select    --min_count 1 | --probe 2
eval      --temperature 0 | --limit 0 | --subjects
plan      --rollout none | --visual 0
reward    --patience 0 | --workers 0
data      --need question solution | --need
"""
GOOD = table(GOOD)


@pytest.mark.parametrize("name, flags", GOOD + [(name, "") for name in CONFIGS])
def test_edges_and_defaults_are_accepted(name, flags):
    assert wrong_flags(parsed(name, flags)) == ""


@pytest.mark.parametrize("name, changes, told", [
    ("grpo", dict(schedule="cosin"), "--schedule cosin: it is one of constant, linear, cosine"),
    ("eval", dict(mode="nope"), "--mode nope"),
    ("grpo", dict(model=" "), "--model  : it is empty"),
    ("sft", dict(data=""), "--data : it is empty"),
    ("distill", dict(verifier="http://my host/v1"), "--verifier http://my host/v1: .*a space"),
    ("distill", dict(verifier_model=""), "--verifier_model : it is empty"),
    ("grpo", dict(words=("wait", " ")), "--words wait  : one of them is empty")])
def test_what_a_command_line_does_not_let_through(name, changes, told):
    with pytest.raises(Refused, match=told):
        check_flags(dataclasses.replace(parsed(name, ""), **changes))


def test_every_number_has_limits():
    """A new number, too: NaN and negative values are refused without a line for it."""
    for name in CONFIGS:
        for field in dataclasses.fields(config(name)):
            if type(field.default) in (int, float):
                kind = float if type(field.default) is float else int
                for wrong in (math.nan, -1.0) if kind is float else (-1,):
                    cfg = dataclasses.replace(parsed(name, ""), **{field.name: wrong})
                    assert wrong_flags(cfg).startswith(f"--{field.name} "), (name, field.name)


@pytest.mark.parametrize("flags, told", [
    (["--captions", "-1"], "--captions -1"), (["--seed", "-1"], "--seed -1"), (["--out", ""], "--out"),
    (["--steps_share", "nan"], "--steps_share nan: a share"), (["--steps_share", "2"], "--steps_share 2"),
    (["--think_empty", " "], "--think_empty"), (["--math_test", "-5"], "--math_test -5"),
    (["--rl_hard", "-1"], "--rl_hard -1"),
    (["--sums", "-1"], "--sums -1"), (["--dark_before", "1.1"], "--dark_before 1.1: a share"),
    (["--dark_breadth", "-0.1"], "--dark_breadth -0.1"), (["--dark_test", "nan"], "--dark_test nan")])
def test_flags_of_the_tiny_world(flags, told):
    import make
    with pytest.raises(SystemExit, match=told):
        make.make(tyro.cli(make.Config, args=flags))


@pytest.mark.parametrize("flags, told", [
    ("--steps 0", "--steps 0: .*at least 1"), ("--pictures -1", "--pictures -1"), ("--lr nan", "--lr nan"),
    ("--lr 0", "--lr 0.0: .*above 0"), ("--seed -1", "--seed -1"),
    ("--model none", "--model none: no model is there.*tiny/make.py"),
    ("--out m", "--out m: this is the --model"), ("--out ./m/", "this is the --model"),
    ("--out file", "--out file: .*a file"), ("--out file/below", "--out file/below: .*a file")])
def test_flags_of_the_tiny_worlds_encoder(flags, told, tmp_path, monkeypatch):
    import encoder
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "file").touch()
    monkeypatch.setattr(encoder, "teach", None)  # nothing has begun when it is refused
    with pytest.raises(SystemExit, match=told):
        encoder.main(tyro.cli(encoder.Config, args=["--model", "m", *flags.split()]))


@pytest.mark.parametrize("folders, rollout, told", [
    ([], "torch", "--checkpoints --model .*no step_"),
    (["step_none", "eval"], "torch", "no step_"),
    (["step_000010"], "vllm", "--rollout vllm: .*one checkpoint a command")])
def test_checkpoints_of_what_is_no_run(folders, rollout, told, tmp_path):
    import eval_mmmu
    for name in folders:
        (tmp_path / name).mkdir()
    cfg = eval_mmmu.Config(model=str(tmp_path), checkpoints=True, rollout=rollout, out=str(tmp_path / "out"))
    with pytest.raises(Refused, match=told):
        eval_mmmu.evaluate(cfg)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------- --out

@pytest.mark.parametrize("name, out, told", [
    ("grpo", "file", "it is there and is no folder"), ("grpo", "file/below", "file is a file, so nothing"),
    ("eval", "file", "is no folder"), ("connector", "file", "is no folder"), ("sft", "file/a/b", "inside it"),
    ("tune", "/proc/here", "nothing can be written there"), ("sft", "x" * 300, "nothing can be written"),
    ("distill", "folder", "it is there and is no file"), ("distill", "file/x.jsonl", "nothing can be inside"),
    ("reward", "folder", "is no file"), ("score", "folder", "is no file"), ("page", "folder", "is no file"),
    ("curves", "/dev/null", "is no file"), ("distill", "/proc/x.jsonl", "nothing can be written there"),
    ("grpo", " ", "it is empty")])
def test_out_that_can_not_be_written(name, out, told, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    out = out if out[0] in " /" else str(tmp_path / out)
    with pytest.raises(Refused, match=f"--out .*{told}"):
        check_flags(dataclasses.replace(parsed(name, ""), out=out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("name, field", [
    ("distill", "data"), ("reward", "responses"), ("score", "responses"), ("sft", "model"),
    ("connector", "model"), ("eval", "model")])
def test_out_that_is_an_input(name, field, tmp_path):
    """By another name, too: the file counts."""
    (tmp_path / "there").mkdir() if field == "model" else (tmp_path / "there").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    paths = {"out": str(tmp_path / "link"), field: str(tmp_path / "there")}
    cfg = dataclasses.replace(parsed(name, ""), **paths)
    with pytest.raises(Refused, match=f"--out .*this is the --{field} of the same command"):
        check_flags(cfg)


# ---------------------------------------------------------------------- before anything is loaded, everywhere

@pytest.mark.parametrize("script, entry, flags", [
    ("grpo", "train", "--lr nan"), ("sft", "train", "--seed -1"), ("connector_tune", "train", "--epochs 0"),
    ("distill", "distill", "--chunk 0"), ("entropy_select", "select", "--min_count 0"),
    ("eval_mmmu", "evaluate", "--runs 0"), ("plan", "plan", "--gpus 0"),
    ("connector", "replace", "--queries 0"), ("reward", "main", "--responses a --out b --time_limit 0"),
    ("report", "report", "page run --most 0")])
def test_every_script_refuses_before_it_starts(script, entry, flags, monkeypatch, capsys):
    """On its command line, whatever its function would do; and the stages' functions do it themselves."""
    module, called = importlib.import_module(script), []
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags.split()])
    run = getattr(module, entry)

    def stub(cfg):
        called.append(cfg)
    stub.__module__ = script
    with pytest.raises(SystemExit) as stopped:
        if script == "reward":
            from scoring.reward_rows import command
            command(stub, module.Config, module.__doc__)
        elif script == "report":
            main(stub, module.Curves | module.Page | module.Table | module.Seeds)
        else:
            main(stub, module.Config)
    flag = flags.split()[-2]
    assert f"{flag} " in str(stopped.value.code) and not called
    if script in ("grpo", "sft", "connector_tune", "distill", "entropy_select", "eval_mmmu"):
        monkeypatch.setattr(module, "start", None, raising=False)  # nothing has begun when it is refused
        with pytest.raises(Refused, match=f"^{flag} "):
            run(tyro.cli(module.Config, args=flags.split()))


def test_nothing_is_written_by_a_refused_run(tmp_path):
    for cfg, run in ((grpo.Config(out=str(tmp_path / "run"), lr=math.nan), grpo.train),
                     (sft.Config(out=str(tmp_path / "run"), save_every=0), sft.train)):
        with pytest.raises(Refused):
            run(cfg)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- torchrun

REFUSES = """
from dataclasses import dataclass
from machinery.files import Refused, main
@dataclass
class Config:
    lr: float = 1e-5
def run(cfg):
    raise Refused("row seven of rows.jsonl has no answer.\\nMend it.")
main(run, Config)
"""


def test_a_refusal_is_the_last_that_torchrun_says(tmp_path):
    """Once, behind torchrun's own report, and the exit code says that it failed."""
    (tmp_path / "refuses.py").write_text(REFUSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, str(tmp_path / "refuses.py")], env=ENV, cwd=ROOT, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.endswith("=====\n\nrow seven of rows.jsonl has no answer.\nMend it.\n")
    assert done.stderr.count("Mend it.") == 2  # torchrun's report tells it, too


FOLLOWS = """
import os, sys, time
from machinery.torchrun import follow_parent
if sys.argv[1:] == ["child"]:
    follow_parent(every=0.05)
    print(os.getpid(), flush=True)
    time.sleep(60)
else:
    import subprocess
    subprocess.run([sys.executable, __file__, "child"])
"""


def test_a_killed_torchrun_leaves_no_processes(tmp_path):
    (tmp_path / "follows.py").write_text(FOLLOWS)
    agent = subprocess.Popen([sys.executable, str(tmp_path / "follows.py")], env=ENV, stdout=subprocess.PIPE)
    child = int(agent.stdout.readline())
    os.kill(child, 0)  # it runs
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    end = time.time() + 30
    while time.time() < end and runs(child):
        time.sleep(0.02)
    assert not runs(child)
    agent.stdout.close()


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
