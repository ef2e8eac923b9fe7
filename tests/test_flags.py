"""Flags: each is read by somebody, explains itself in --help, and changes what it says it changes."""
import ast
import dataclasses
import importlib

import pytest

import connector_tune
import grpo
import sft
from conftest import ROOT
from machinery.files import Refused, check_flags
from stages import metrics, reward_of, run_grpo, run_sft, weights

COMMANDS = "grpo sft connector_tune entropy_select eval_mmmu distill ask recipes.plan reward".split()
CODE = [p for folder in (".", "machinery", "scoring", "recipes") for p in (ROOT / folder).glob("*.py")]

pytestmark = pytest.mark.usefixtures("a_reward", "no_trainer")


def test_every_flag_is_read():
    """A field of a Config that no code asks for would be a flag without effect."""
    read = {node.attr for p in CODE for node in ast.walk(ast.parse(p.read_text()))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("cfg", "self.cfg", "given")}
    read |= {f"lr_{part}" for part in ("encoder", "connector", "llm")} | {"optimizer"}  # by getattr
    for command in COMMANDS:
        Config = importlib.import_module(command).Config
        assert not {f.name for f in dataclasses.fields(Config)} - read, command


@pytest.mark.parametrize("flags", [
    dict(lr=0.0), dict(lr=float("nan")), dict(temperature=-1.0), dict(limit_bad=2.0), dict(max_tokens=-5)])
def test_numbers_that_make_no_sense_are_refused(flags):
    with pytest.raises(Refused, match=f"--{[*flags][0]} .*must be"):
        check_flags(grpo.Config(**flags))


def test_defaults_make_sense_and_the_input_is_not_the_output(tmp_path):
    for stage in (grpo, sft, connector_tune):
        check_flags(stage.Config())
    with pytest.raises(Refused, match="--warmup 100.0: it must be at least 0, at most 1"):
        check_flags(sft.Config(warmup=100.0))
    (tmp_path / "a").touch()
    with pytest.raises(Refused, match="this is the --data of the same command"):
        check_flags(sft.Config(data=str(tmp_path / "a"), out=str(tmp_path / "a")))


# other values of flags, with which the weights after two steps differ. Those that the golden run
# (test_golden.py) sets to other values than the defaults show there
GRPO = [dict(seed=1), dict(lr_llm=0.0), dict(train=("connector",)), dict(lora=2), dict(clip=0.01),
        dict(thinking=False), dict(samples=3), dict(max_new_tokens=4), dict(minibatches=2, clip_low=0.0),
        dict(dtype="bf16")]


@pytest.fixture(scope="module")
def plain_run(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(grpo, "score_batch", reward_of)
        run_grpo(tiny, out, 2)
    return weights(out, 2)


@pytest.mark.parametrize("changes", GRPO, ids=str)
def test_flag_of_grpo_arrives(changes, tiny, plain_run, tmp_path):
    run_grpo(tiny, tmp_path / "run", 2, **changes)
    assert weights(tmp_path / "run", 2) != plain_run


def test_flag_of_sft_arrives(tiny, tmp_path):
    lines = {}
    for n, changes in enumerate([
            {}, dict(seed=1), dict(batch=5), dict(schedule="linear"), dict(warmup=0.9), dict(lr_llm=1e-2),
            dict(thinking=False, data=str(tiny / "base.jsonl")), dict(optimizer="muon")]):
        run_sft(tiny, tmp_path / f"run{n}", 2, **changes)
        lines[n] = str(metrics(tmp_path / f"run{n}")[-1])
    assert len({*lines.values()}) == len(lines)
