"""Files that are cut off, empty, binary, of another type, or lack what was written: named, and never lost."""
import errno
import json
import pickle
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import entropy_select
import eval_mmmu
import report
import sft
from conftest import ROOT
from data import Chat
from machinery import files, run
from machinery.run import disk_trouble, resume, save
from machinery.files import Refused, append_jsonl, read_jsonl, resolve, write_json, write_text
from machinery.metrics import Watch
from machinery.run import Run
from model import make_optimizer
from stages import ONE

# of a JSON file: everything that is no JSON object
FILES = {"empty": b"", "cut off": None, "binary": bytes(range(256)), "text": b"step_000004",
         "a list": b"[1, 2]", "a number": b"3", "null": b"null", "a text": b'"{}"', "no end": b"[" * 100_000,
         "half a letter": b'{"\xc3', "NUL bytes": bytes(40)}
LINES = [name for name in FILES if name != "empty"]  # of a JSON-lines file: in the middle


def damage(path, how, old=b'{"a": [1, 2, 3], "b": "c"}'):
    text = FILES[how] if FILES[how] is not None else old[:len(old) // 2]
    path.write_bytes(text)


def damage_line(path, how):
    """The second line of three."""
    lines = path.read_bytes().splitlines()
    lines[1] = FILES[how] if FILES[how] is not None else lines[1][:len(lines[1]) // 2]
    path.write_bytes(b"\n".join(lines) + b"\n")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ----------------------------------------------------------------------------------------------- JSON objects

def read_selected(folder):
    (folder / "step_000004").mkdir()
    return folder / "selected.json", lambda: resolve(str(folder))


def read_run_config(folder):
    write_lines(folder / "metrics.jsonl", [{"step": 1}])
    return folder / "config.json", lambda: Run(folder, sft.Config(out=str(folder)), ONE)


def read_scores(folder):
    (folder / "rl" / "eval").mkdir(parents=True)
    return folder / "rl" / "eval" / "scores.json", lambda: report.table(report.Table(str(folder)))


def read_results(folder):
    return folder / "results.json", lambda: report.seeds(report.Seeds((str(folder),)))


def read_eval_data(folder):
    return folder / "data.json", lambda: eval_mmmu.report({}, [], folder, folder / "scores.json", print)


OBJECTS = [read_selected, read_run_config, read_scores, read_results, read_eval_data]


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("reader", OBJECTS, ids=lambda reader: reader.__name__[5:])
def test_damaged_object_is_named(reader, how, tmp_path):
    path, read = reader(tmp_path)
    damage(path, how)
    before = path.read_bytes()
    with pytest.raises(Refused) as refused:
        read()
    assert str(path) in str(refused.value) and len(str(refused.value)) < 700
    assert path.read_bytes() == before


@pytest.mark.parametrize("reader, text, told", [
    (read_selected, {}, "'checkpoint' is missing"), (read_selected, {"checkpoint": 4}, "'checkpoint' is"),
    (read_selected, {"checkpoint": "x"}, "names .*x, which is not there. Select again"),
    (read_selected, {"checkpoint": "step_000008"}, "names .*step_000008, which is not there"),
    (read_run_config, {"architectures": ["X"]}, "'config' is missing. Use another --out"),
    (read_run_config, {"config": []}, "'config' is"), (read_scores, {}, "'subjects' is missing"),
    (read_scores, {"subjects": []}, "'subjects' is"),
    (read_scores, {"subjects": {"Math": 1}}, "Math holds no"),
    (read_scores, {"subjects": {"Math": {"n": 4}}}, "'rule' is missing"),
    (read_scores, {"subjects": {"Math": {"n": 4, "rule": "x"}}}, "'rule' is 'x' there"),
    (read_scores, {"subjects": {}, "length": "x"}, "'length' is 'x'"),
    (read_results, {"rl": 3}, "holds no JSON object"),
    (read_results, {"rl": {"maths": "x"}}, "'maths' is 'x'")])
def test_object_that_lacks_something(reader, text, told, tmp_path):
    path, read = reader(tmp_path)
    path.write_text(json.dumps(text))
    with pytest.raises(Refused, match=f"(?s){path}.*{told}|{told}.*{path}"):
        read()


@pytest.mark.parametrize("how", FILES)
def test_world_without_its_note(how, tmp_path):
    import make
    damage(tmp_path / "world.json", how)
    with pytest.raises(SystemExit, match="world.json tells how it was made.*Remove that folder"):
        make.make(make.Config(out=str(tmp_path)))
    assert (tmp_path / "world.json").exists()


def test_missing_run_config_does_not_cost_the_metrics(tmp_path):
    """Without config.json nobody knows whose metrics these are: today's run would begin at step 0."""
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1}])
    with pytest.raises(Refused, match="config.json is not there. Use another --out"):
        Run(tmp_path, sft.Config(), ONE)
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}]


# ------------------------------------------------------------------------------------------------- JSON lines

METRICS = {"reward": 0.5, "grad_norm": 1.0, "entropy": 1.0, "entropy_high": 0.1}
ROLLOUT = {"id": "q", "question": "?", "text": "a", "images": [], "gold": "1", "tokens": ["a"],
           "entropy": [0.1]}


def metrics_of_a_run(folder):
    write_text(folder / "config.json", json.dumps({"config": {}}))
    return folder / "metrics.jsonl", METRICS, lambda: Run(folder, sft.Config(), ONE)


def rollouts_of_a_run(folder):
    write_text(folder / "config.json", json.dumps({"config": {}}))
    return folder / "rollouts.jsonl", ROLLOUT, lambda: Run(folder, sft.Config(), ONE)


def metrics_of_watch(folder):
    return folder / "metrics.jsonl", METRICS, lambda: Watch(SimpleNamespace(dir=folder))


def metrics_of_curves(folder):
    return folder / "metrics.jsonl", METRICS, lambda: report.curves(report.Curves((str(folder),)))


def rollouts_of_the_page(folder):
    return folder / "rollouts.jsonl", ROLLOUT, lambda: report.page(report.Page(str(folder)))


def probe(folder):
    path = folder / "step_000004.jsonl"
    return path, {}, lambda: entropy_select.read_probe(path, {})


LOGS = [metrics_of_a_run, rollouts_of_a_run, metrics_of_watch, metrics_of_curves, rollouts_of_the_page, probe]


@pytest.mark.parametrize("how", LINES)
@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.__name__)
def test_damaged_line_is_named(log, how, tmp_path):
    path, row, read = log(tmp_path)
    write_lines(path, [{**row, "step": k} for k in (1, 2, 3)])
    damage_line(path, how)
    before = path.read_bytes()
    with pytest.raises(Refused) as refused:
        read()
    assert f"{path} line 2" in str(refused.value) and len(str(refused.value)) < 700
    assert path.read_bytes() == before


@pytest.mark.parametrize("log, changes", [
    (metrics_of_a_run, {"step": "one"}), (rollouts_of_a_run, {"step": None}),
    (metrics_of_watch, {"reward": "x"}), (metrics_of_watch, {"entropy_high": None}),
    (metrics_of_curves, {"step": [1]}), (rollouts_of_the_page, {"text": 4}),
    (rollouts_of_the_page, {"images": "a.png"}),
    (rollouts_of_the_page, {"tokens": [4]}), (rollouts_of_the_page, {"entropy": ["x"]})])
def test_line_that_lacks_something(log, changes, tmp_path):
    path, row, read = log(tmp_path)
    write_lines(path, [{**row, "step": 1}, {**row, "step": 2, **changes}])
    with pytest.raises(Refused, match=str(path)):
        read()
    write_lines(path, [{**row, "step": 1}, {k: v for k, v in row.items() if k not in changes}])
    if path.name == "rollouts.jsonl" and "step" not in changes or "tokens" in changes:
        return  # the page can do without them
    with pytest.raises(Refused, match=str(path)):
        read()


def test_probe_that_is_cut_off_is_sampled_again(tmp_path):
    row = {"question": 0, "tokens": ["a"], "entropy": [0.1], "accuracy": 1.0, "format": 1.0, "finish": "stop"}
    path, settings = tmp_path / "probe.jsonl", {"seed": 0}
    write_lines(path, [{**settings, "responses": 2}, row, row])
    assert entropy_select.read_probe(path, settings) == [row, row]
    assert entropy_select.read_probe(path, {"seed": 1}) is None
    path.write_text(path.read_text()[:-30])
    assert entropy_select.read_probe(path, settings) is None
    write_lines(path, [{**settings, "responses": 1}, {**row, "tokens": "a"}])
    with pytest.raises(Refused, match="probe.jsonl .*'tokens'.*Delete the file to sample again"):
        entropy_select.read_probe(path, settings)


# ---------------------------------------------------------------------------------------------- model folders

@pytest.fixture(scope="module")
def copied(model_path, tmp_path_factory):
    return Path(shutil.copytree(model_path, tmp_path_factory.mktemp("model") / "model"))


MODEL_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
               "preprocessor_config.json"]


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("name", MODEL_FILES)
def test_damaged_model_file_is_named(name, how, copied):
    old = (copied / name).read_bytes()
    try:
        damage(copied / name, how, old)
        with pytest.raises(Refused, match=f"{copied / name} .*It belongs to --teacher: copy it again"):
            resolve(str(copied), "--teacher")
    finally:
        (copied / name).write_bytes(old)


@pytest.mark.parametrize("name, text", [
    ("config.json", "{}"), ("config.json", '{"model_type": 5}'), ("config.json", '{"model_type": "bert"}'),
    ("tokenizer.json", "{}"), ("tokenizer.json", '{"model": {"type": "BPE"}}'),
    ("preprocessor_config.json", "{}"), ("generation_config.json", '{"eos_token_id": "x"}')])
def test_model_file_with_other_content_is_named(name, text, copied):
    old = (copied / name).read_bytes()
    try:
        (copied / name).write_text(text)
        with pytest.raises(Refused, match=f"{copied}.*({name}|bert).*(--model|model came|families)"):
            Chat(str(copied))
    finally:
        (copied / name).write_bytes(old)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_missing_model_file_is_named(name, copied):
    (copied / name).rename(copied / "away")
    try:
        with pytest.raises(Refused, match=f"--model {copied}.*can not be read"):
            Chat(str(copied))
    finally:
        (copied / "away").rename(copied / name)


def test_hub_name_without_a_network(monkeypatch):
    """At once and by its flag; a copy in the cache is as good."""
    import huggingface_hub
    files.look_at_hub.cache_clear()
    with pytest.raises(Refused, match="--teacher Some/Model: there is no such folder here, and the hub does"):
        resolve("Some/Model", "--teacher")
    with pytest.raises(Refused, match="--teacher bad..name/x: .*HFValidationError"):
        resolve("bad..name/x", "--teacher")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    assert resolve("Some/Model", "--teacher") == "Some/Model"
    files.look_at_hub.cache_clear()


# ---------------------------------------------------------------------------------------- optimizer, trainer/

class Evil:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def saved(vlm, tmp_path):
    """A run with a checkpoint of one step, and what loads it."""
    vlm.train_only(["connector"])
    optimizer = make_optimizer(vlm, 0.0)
    for p in vlm.parameters():
        if p.requires_grad:
            p.grad = torch.ones_like(p)
    optimizer.step()
    fake = SimpleNamespace(dir=tmp_path, last=None, step=1)
    save(fake, 1, vlm, optimizer, ONE)
    return fake, lambda: resume(fake, vlm, optimizer, ONE)


def test_resume_reads_what_was_saved(saved):
    run, load_again = saved
    assert load_again() == 1


@pytest.mark.parametrize("what", ["metadata", "value", "tensor"])
def test_checkpoint_that_holds_code(what, saved, tmp_path):
    """Whatever is unpickled of it, nothing runs."""
    run, load_again = saved
    trainer = run.last / "trainer"
    data, = trainer.glob("*.distcp")
    if what == "metadata":
        (trainer / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    else:
        with open(trainer / ".metadata", "rb") as file:
            metadata = pickle.load(file)
        place = next(info for index, info in metadata.storage_data.items()
                     if (".lr" in index.fqn) == (what == "value"))
        torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pt")
        evil = (tmp_path / "evil.pt").read_bytes()
        place.offset, place.length = data.stat().st_size, len(evil)
        data.write_bytes(data.read_bytes() + evil)
        (trainer / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(Refused, match="trainer does not fit this model and optimizer"):
        load_again()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [".metadata", "*.distcp"])
@pytest.mark.parametrize("how", ["empty", "cut off", "binary", "gone"])
def test_damaged_trainer_is_named(name, how, saved):
    run, load_again = saved
    file, = (run.last / "trainer").glob(name)
    if how == "gone":
        file.unlink()
    else:
        damage(file, how, file.read_bytes())
    with pytest.raises(Refused, match="step_000001/trainer does not fit .*is a file of it cut off"):
        load_again()


def test_full_disk_inside_of_a_writer_thread(vlm, tmp_path, monkeypatch):
    """The disk is full below torch's zip file: dcp's CheckpointException says "unexpected pos", no more."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.stream, name)

    create = FileSystem.create_stream

    @contextmanager
    def full(self, path, mode):
        with create(self, path, mode) as stream:
            yield Full(stream) if "distcp" in str(path) else stream

    monkeypatch.setattr(FileSystem, "create_stream", full)
    fake = SimpleNamespace(dir=tmp_path, last=None, step=0)
    with pytest.raises(Refused, match="The disk is full: .*step_000001 could not be saved and nothing half"):
        save(fake, 1, vlm, make_optimizer(vlm, 0.0), ONE)
    assert not list(tmp_path.iterdir())


def test_disk_trouble():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert disk_trouble(full) == disk_trouble(wrapped) == "The disk is full"
    try:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        except OSError:
            raise ValueError("while it was handled")  # noqa: B904
    except ValueError as error:
        assert disk_trouble(error) == "The disk is full"
    assert disk_trouble(RuntimeError("a bug")) == ""
    assert "Read-only" in disk_trouble(OSError(errno.EROFS, "Read-only file system"))


# --------------------------------------------------------------------------------------------- full elsewhere

def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["metrics", "rollouts", "text", "json", "rows", "page", "figure", "probe"])
def test_full_disk_while_writing(what, tmp_path, monkeypatch):
    path = tmp_path / "file"
    a_run = Run(tmp_path / "run", sft.Config(), ONE)
    monkeypatch.setattr("builtins.open", full_disk)
    monkeypatch.setattr(Path, "write_text", full_disk)
    figure = SimpleNamespace(savefig=full_disk)
    write = {"metrics": lambda: a_run.log(1, {}), "rollouts": lambda: a_run.rollout({}),
             "text": lambda: write_text(path, "x"), "json": lambda: write_json(path, {}),
             "rows": lambda: eval_mmmu.write_rows(path, [{}], "a"),
             "figure": lambda: report.save_figure(figure, path),
             "page": lambda: report.write_page(path, "run", [], 0, 9),
             "probe": lambda: append_jsonl(path, [{}])}
    with pytest.raises(Refused, match=r"(file|outs.jsonl|ics.jsonl) can not be written \(No space.*free"):
        write[what]()


def test_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(Refused, match="new can not be written .Permission denied"):
        Run(tmp_path / "new", sft.Config(), ONE)


# ----------------------------------------------------------------------------------------------- changed code

def test_changed_code_is_said(tmp_path, monkeypatch, capsys):
    cfg = sft.Config()
    monkeypatch.setattr(run, "versions", lambda: {"git": "abc", "torch": "2.0", "transformers": "5.0"})
    Run(tmp_path, cfg, ONE)
    (tmp_path / "step_000007" / "trainer").mkdir(parents=True)
    Run(tmp_path, cfg, ONE)
    assert "changed" not in capsys.readouterr().out
    monkeypatch.setattr(run, "versions", lambda: {"git": "def-dirty", "torch": "2.1", "transformers": "5.0"})
    assert Run(tmp_path, cfg, ONE).step == 7  # it goes on
    said = capsys.readouterr().out
    assert "the code changed since step 7: abc -> def-dirty" in said
    assert "the version of torch changed since step 7: 2.0 -> 2.1" in said and "transformers" not in said
    Run(tmp_path, cfg, ONE)
    assert "changed" not in capsys.readouterr().out


def test_versions_without_git(monkeypatch):
    run.versions.cache_clear()
    monkeypatch.setenv("PATH", str(ROOT / "nowhere"))
    assert run.versions()["git"] == ""
    run.versions.cache_clear()


def test_steps_are_counted_not_spelled(tmp_path):
    """step_1000000 is newer than step_999999; what is no step of a run is none."""
    for name in ("step_999999", "step_1000000", "step_last", "step_"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_2000000").touch()
    assert [p.name for p in files.checkpoints(tmp_path)] == ["step_999999", "step_1000000"]
    assert files.newest_checkpoint(tmp_path).name == "step_1000000"


def test_new_folder_does_not_take_the_place_of_another(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(Refused, match="out is there already, and its files would be lost"):
        with files.new_folder(tmp_path / "out"):
            raise AssertionError("nothing is made")
    assert (tmp_path / "out" / "precious").exists()
