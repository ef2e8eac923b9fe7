"""--logger: what a logger gets, where a run that goes on continues, and what is refused. test_wiring.py shows
that the stages use it."""
import shutil
import sys
from types import SimpleNamespace

import pytest
import tyro
from torch.distributed.run import parse_args

import connector_tune
import distill
import entropy_select
import eval_mmmu
import fake_log
import grpo
import sft
from machinery.files import Refused, check_flags, read_json, read_jsonl
from machinery.loggers import open_logger
from machinery.run import Run
from stages import ONE, STAGES, flags_of

pytestmark = pytest.mark.usefixtures("a_reward")


def begin(folder, rank=0, module="fake_log"):
    run = Run(folder, sft.Config(out=str(folder)), SimpleNamespace(**{**vars(ONE), "rank": rank},
                                                                   barrier=lambda: None))
    run.open_log(module)
    return run


def test_a_run_that_goes_on_logs_where_it_did(tmp_path):
    run = begin(tmp_path / "run")
    run.log(1, {"loss": 0.5, "val_loss": None, "zero": 0.0})
    (tmp_path / "run" / "step_000001" / "trainer").mkdir(parents=True)
    run.lock.close()
    begin(tmp_path / "run").log(2, {"loss": 0.25})
    begin(tmp_path / "other")
    (first, logged), (again, more), (other, _) = fake_log.RUNS[-3:]
    assert logged == [(1, {"loss": 0.5, "zero": 0.0})] and more == [(2, {"loss": 0.25})]  # None is left out
    assert again["id"] == first["id"] != other["id"] and again["name"] == first["name"] != other["name"]
    assert first["name"].startswith("run-") and (first["project"], first["resume"]) == ("nanoR1V", "allow")
    assert (first["config"]["lr"], first["config"]["device"]) == (1e-5, "cpu")
    assert read_json(tmp_path / "run" / "config.json")["id"] == first["id"]
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[0]["val_loss"] is None


def test_a_run_that_starts_afresh_is_another(tmp_path):
    """It was killed before its first checkpoint: a logger that refuses earlier steps would lose them."""
    begin(tmp_path).lock.close()
    begin(tmp_path)
    assert fake_log.RUNS[-1][0]["id"] != fake_log.RUNS[-2][0]["id"]


def test_rank_zero_alone_logs(tmp_path):
    known = len(fake_log.RUNS)
    begin(tmp_path, rank=1).log(1, {"loss": 0.5})
    assert len(fake_log.RUNS) == known


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_logger_may_change(name, tiny, straight, tmp_path):
    shutil.copytree(straight[name], tmp_path / name)
    config = tmp_path / name / "config.json"
    config.write_text(config.read_text().replace(str(straight[name]), str(tmp_path / name)))
    STAGES[name][1](tiny, tmp_path / name, logger="fake_log")
    assert fake_log.RUNS[-1][0]["id"] == read_json(straight[name] / "config.json")["id"]


def test_init_gets_what_it_knows(monkeypatch):
    given = []
    monkeypatch.setattr(fake_log, "init", lambda project, resume: given.append((project, resume)))
    open_logger("fake_log", SimpleNamespace(name="run"), "1a", {}, 0)
    assert given == [("nanoR1V", "allow")]


@pytest.mark.parametrize("module", ["fake_log", "tensorboard"])
def test_a_logger_that_throws_stops_nothing(module, tmp_path, monkeypatch, capsys):
    def fail(*args, **more):
        raise ConnectionError("no route\nto host")
    monkeypatch.setattr(fake_log, "log", fail)
    board = SimpleNamespace(SummaryWriter=lambda folder, purge_step: SimpleNamespace(add_scalar=fail))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    run = begin(tmp_path, module=module)
    for step in range(1, 100):
        run.log(step, {"loss": 0.5})
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 99
    assert capsys.readouterr().out.splitlines() == [
        f"step {n}: --logger {module} does not take its metrics (ConnectionError: no route); {n} of its "
        f"steps so far are in metrics.jsonl alone. The run goes on." for n in (1, 10)]


def test_both_names_of_the_flag():
    for flag in ("--logger", "--log"):
        assert tyro.cli(sft.Config, args=[flag, "wandb"]).logger == "wandb"


@pytest.mark.parametrize("stage", [grpo, sft, connector_tune, distill, entropy_select, eval_mmmu],
                         ids=lambda stage: stage.__name__)
def test_torchrun_takes_no_flag_for_its_own(stage):
    """It refuses what begins like two of its own flags, even behind the script's name."""
    for flag in flags_of(stage.Config):
        given = [f"--{flag}", "x"]
        assert parse_args(["--nproc_per_node", "2", "script.py", *given]).training_script_args == given


# --------------------------------------------------------------------------------------------------- refusals

@pytest.mark.parametrize("module, why", [
    ("no_such_logger", "--logger no_such_logger: there is no such module here: pip install no_such_logger"),
    ("a_folder", "pip install a_folder"), ("wandb.sdk", "it is the name of a module"),
    ("my log", "it is the name of a module")])
def test_missing_module(module, why, tmp_path, monkeypatch):
    (tmp_path / "a_folder").mkdir()  # wandb makes one, ./wandb, where it is run
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match=why):
        check_flags(sft.Config(logger=module, out=str(tmp_path / "out")))


@pytest.mark.parametrize("text, why", [
    ("", "--logger a_module: this module has no init and log"), ("init = log = 1", "has no init and log"),
    ("import no_such_thing", r"importing it failed \(ModuleNotFoundError: No module named 'no_such_thing'\)"),
    ("def log(): 1\ndef init(project): raise OSError('not logged in\\nmore')",
     r"its init failed \(OSError: not logged in\)")])
def test_module_that_does_not_fit(text, why, tmp_path, monkeypatch):
    (tmp_path / "a_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_module", raising=False)
    with pytest.raises(Refused, match=why) as refused:
        begin(tmp_path / "run", module="a_module")
    assert "metrics.jsonl has the same numbers" in str(refused.value)


# ------------------------------------------------------------------------------------------------ TensorBoard

def test_tensorboard_is_written_each_step(tmp_path, monkeypatch):
    """The package stands in for itself: what it is asked to write, and that no step is left in its memory."""
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            calls.append("flush")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    run = begin(tmp_path, module="tensorboard")
    run.log(1, {"loss": 0.5, "val_loss": None})
    assert calls == [(tmp_path / "tensorboard", 1), ("loss", 0.5, 1), "flush"]


def test_tensorboard_reads_it_back(tmp_path):
    """After a resume the steps that are computed again stand there once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for step, values in ((0, (0.9, 0.8, 0.7)), (1, (0.6, 0.5))):
        send = open_logger("tensorboard", tmp_path, "1a", {}, step)
        for k, value in enumerate(values, step + 1):
            send({"loss": value}, k)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(1, 0.9), (2, 0.6), (3, 0.5)]
