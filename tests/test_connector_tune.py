"""Stage 3: only the connector changes, features are kept, validation stops it."""
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import connector_tune
import model
import sft
from machinery.files import resolve
from machinery.run import Run
from machinery.supervised import keep_best
from stages import ONE, Stop, metrics, run_connector, same_run

pytestmark = pytest.mark.usefixtures("a_reward")


def test_features_are_computed_once_and_change_nothing(tiny, tmp_path, monkeypatch, no_trainer):
    calls = []
    encode = model.VLM.encode

    def count_and_encode(vlm, pack):
        calls.append(len(pack.images.get("pixel_values", ())))
        return encode(vlm, pack)

    monkeypatch.setattr(model.VLM, "encode", count_and_encode)
    run_connector(tiny, tmp_path / "kept", 12, save_every=6)
    rows = [json.loads(line) for name in ("connector", "connector_val")
            for line in open(tiny / f"{name}.jsonl")]
    images = sum(len(r["images"]) for r in rows)
    assert images <= sum(calls) <= images + 4  # once, and a row for its shape; 12 steps are over an epoch
    calls.clear()
    run_connector(tiny, tmp_path / "computed", 12, save_every=6, features_gib=0.0)
    assert sum(calls) > 1.2 * images
    for a, b in zip(metrics(tmp_path / "kept"), metrics(tmp_path / "computed"), strict=True):
        assert all(a[k] == pytest.approx(b[k], abs=1e-5) for k in a)
    assert not list(tmp_path.glob("*/features*"))


def test_early_stopping_keeps_the_best(tiny, tmp_path, monkeypatch):
    losses = iter([4.0, 3.0, 2.0, 2.5, 2.1, 2.2, 9.0, 9.0, 9.0])  # the first is of the start
    monkeypatch.setattr(sft, "validation_loss", lambda *_: next(losses))
    out = tmp_path / "run"
    run_connector(tiny, out, 8, save_every=1, patience=3)
    assert metrics(out)[0] == {"step": 0, "val_loss": 4.0}
    assert metrics(out)[-1]["step"] == 5  # 2.0 at step 2, then three without a new best
    assert sorted(p.name for p in out.glob("step_*")) == ["step_000002", "step_000005"]
    assert json.loads((out / "selected.json").read_text())["step"] == 2
    assert resolve(str(out)).endswith("step_000002")
    run_connector(tiny, out, 8, save_every=1, patience=3)  # the same command again: it stays stopped
    assert len(metrics(out)) == 6 and resolve(str(out)).endswith("step_000002")


def test_a_tuning_that_only_harms_keeps_its_start(tiny, tmp_path, monkeypatch, capsys, no_trainer):
    losses = iter([2.0, 3.0, 2.5])
    monkeypatch.setattr(sft, "validation_loss", lambda *_: next(losses))
    run_connector(tiny, tmp_path / "run", 2, save_every=1, patience=3)
    assert "no checkpoint has a lower validation loss than the start, 2.0000" in capsys.readouterr().out
    assert Path(resolve(str(tmp_path / "run"))).samefile(tiny / "model")
    run = Run(tmp_path / "hub", connector_tune.Config(), ONE)
    keep_best(run, [(1.0, 0), (2.0, 5)], "owner/model", 3)
    assert resolve(str(tmp_path / "hub")) == "owner/model"  # a start with a hub's name is named as it is
    assert keep_best(run, [(1.0, 1), (1.0, 2)], "owner/model", 1)  # equal is no new best


def save_and_stop(patch):
    real = Run.save

    def save(*args):
        real(*args)
        raise Stop
    patch.setattr(Run, "save", save)


def test_features_of_a_stopped_run_are_computed_again(tiny, tmp_path, monkeypatch):
    """Whatever stands in the file of an earlier start is not trained on, and does not stay. Without room for
    the file (which is memory: a full disk would kill the process) they are computed every time."""
    run_connector(tiny, tmp_path / "straight")
    for free in (10 ** 12, 1000):
        out = tmp_path / str(free)
        with monkeypatch.context() as m:
            save_and_stop(m)
            with pytest.raises(Stop):
                run_connector(tiny, out)
        file = out / "features.bin"
        file.write_bytes(bytes(file.stat().st_size))
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        run_connector(tiny, out)
        assert not list(out.glob("features*"))
        same_run(out, tmp_path / "straight")
