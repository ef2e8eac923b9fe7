"""Files that are cut off, empty or lack what was written: named, and never lost."""
import errno
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import distill
import entropy_select
import sft
from conftest import ROOT
from data import Chat
from machinery import files, run
from machinery.run import disk_trouble, resume, save
from machinery.files import Refused, read_jsonl, resolve
from machinery.run import Run
from model import make_optimizer
from stages import ONE

# of a JSON file: everything that is no JSON object
FILES = {"empty": b"", "cut off": b'{"a": [1, 2', "a list": b"[1, 2]", "NUL bytes": bytes(40)}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ------------------------------------------------------------------------------------------------- our files

def test_selected_checkpoint(tmp_path):
    """selected.json that is damaged, or names what is not there"""
    (tmp_path / "step_000004").mkdir()
    for text in (b'{"checkpoint": "step_', b'{"checkpoint": "step_000008"}', b"{}"):
        (tmp_path / "selected.json").write_bytes(text)
        with pytest.raises(Refused, match="selected.json"):
            resolve(str(tmp_path))


def test_missing_run_config_does_not_cost_the_metrics(tmp_path):
    """Without config.json nobody knows whose metrics these are: today's run would begin at step 0."""
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1}])
    for damaged in (None, *FILES.values()):
        if damaged is not None:
            (tmp_path / "config.json").write_bytes(damaged)
        with pytest.raises(Refused, match="config.json"):
            Run(tmp_path, sft.Config(), ONE)
        assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_a_damaged_line_is_named_and_a_torn_one_left_out(tmp_path):
    """In the middle somebody has lost something; at the end a writer was killed."""
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": k} for k in (1, 2, 3)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert [row["step"] for row in read_jsonl(path)] == [1, 2]
    path.write_bytes(whole.replace(b'"step": 2}', b'"step'))
    with pytest.raises(Refused, match=f"{path} line 2"):
        read_jsonl(path)


def test_responses_that_nobody_knows_are_not_thrown_away(tmp_path):
    """OUT holds responses to several questions, and their pass rates are gone."""
    out, rates = tmp_path / "out.jsonl", tmp_path / "out.jsonl.pass_rates.jsonl"
    write_lines(out, [{"id": f"{k}#0"} for k in (1, 2)])
    with pytest.raises(Refused, match="out.jsonl has responses to 2 questions"):
        distill.finished(out, rates)
    assert len(read_jsonl(out)) == 2


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

@pytest.fixture
def copied(model_path, tmp_path):
    return Path(shutil.copytree(model_path, tmp_path / "model"))


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_damaged_model_file_is_named(name, how, copied):
    (copied / name).write_bytes(FILES[how])
    with pytest.raises(Refused, match=f"{copied}.*{name}"):
        Chat(str(copied))


@pytest.mark.parametrize("name", ["config.json", "tokenizer*", "preprocessor_config.json"])
def test_missing_model_file_is_named(name, copied):
    for file in copied.glob(name):
        file.unlink()
    with pytest.raises(Refused, match=f"{copied}.*{name.rstrip('*')}"):
        Chat(str(copied))


@pytest.mark.parametrize("old", [False, True])
def test_a_model_folder_without_a_chat_template(copied, old):
    """Where it is only in chat_template.json, as older folders have it, that is said."""
    template = Chat(str(copied)).tokenizer.chat_template
    (copied / "chat_template.jinja").unlink(missing_ok=True)
    about = json.loads((copied / "tokenizer_config.json").read_text())
    about.pop("chat_template", None)
    (copied / "tokenizer_config.json").write_text(json.dumps(about))
    if old:
        (copied / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(Refused, match="has no chat template.*chat_template.jinja") as refused:
        Chat(str(copied))
    assert ("chat_template.json is not read" in str(refused.value)) == old


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


# ------------------------------------------------------------------------------------------------- trainer/

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


@pytest.mark.parametrize("name", [".metadata", "*.distcp"])
@pytest.mark.parametrize("how", ["empty", "cut off", "gone"])
def test_damaged_trainer_is_named(name, how, saved):
    run, load_again = saved
    file, = (run.last / "trainer").glob(name)
    whole = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(whole[:len(whole) // 2] if how == "cut off" else b"")
    with pytest.raises(Refused, match="step_000001/trainer"):
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
