"""What happens on machines that are not here: older GPUs, a Mac, plain Windows."""
import importlib
import runpy
import sys
from types import SimpleNamespace

import datasets  # noqa: F401 (while this is not yet Windows)
import matplotlib.pyplot  # noqa: F401 (likewise)
import pytest
import torch

from conftest import ROOT
from machinery import processes
from machinery.files import Refused

SCRIPTS = sorted(p.name for p in ROOT.glob("*.py") if "__main__" in p.read_text())
OWN = {p.stem for p in ROOT.glob("*.py")} | {"machinery", "scoring"}


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of any age: gpu(major, minor)."""
    def pretend(*capability, built=("sm_75", "sm_80", "sm_90a", "sm_120", "compute_120")):
        cuda = dict(is_available=lambda: True, get_device_capability=lambda *_: capability,
                    get_device_name=lambda *_: "Tesla X", get_arch_list=lambda: list(built),
                    set_device=lambda *_: None)
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)
    processes.capability.cache_clear()
    yield pretend
    processes.capability.cache_clear()


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_bf16_begins_with_8_0(gpu, capability, capsys):
    gpu(*capability, built=("sm_70", "sm_80"))
    new = capability >= (8, 0)
    assert processes.start(0).device.type == "cuda"
    assert processes.compute_dtype("auto", "cuda") == (torch.bfloat16 if new else None)
    assert processes.compute_dtype("fp32", "cuda") is None
    said = capsys.readouterr().out
    assert ("Tesla X has no bf16" in said and "--dtype auto is fp32 here" in said) == (not new)
    if new:
        assert processes.compute_dtype("bf16", "cuda") == torch.bfloat16
    else:
        with pytest.raises(Refused, match="--dtype bf16: Tesla X has no bf16; use --dtype fp32"):
            processes.compute_dtype("bf16", "cuda")


@pytest.mark.parametrize("capability", [(3, 7), (6, 1), (7, 0)])
def test_gpu_older_than_torch_is_refused(gpu, capability):
    gpu(*capability)
    major, minor = capability
    with pytest.raises(Refused, match=f"capability {major}.{minor}; this torch begins at 7.5"):
        processes.start(0)
    gpu(8, 0, built=())  # a build that does not say


@pytest.mark.parametrize("where", ["old", "new", "mac", "linux"])
def test_vllm_is_refused_where_it_can_not_run(gpu, where, monkeypatch):
    """Before it is imported, which is where it would end without a sentence."""
    monkeypatch.setitem(sys.modules, "vllm", None)  # not installed
    monkeypatch.setattr(torch._dynamo, "config", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "machinery.vllm_engine", raising=False)
    if where in ("old", "new"):
        gpu(*{"old": (7, 5), "new": (8, 0)}[where])
    monkeypatch.setattr(sys, "platform", "darwin" if where == "mac" else "linux")
    words = {"old": "Tesla X is older than compute capability 8.0; use --rollout torch",
             "mac": "not on a Mac; use --rollout torch"}.get(where, "vLLM can not be imported")
    with pytest.raises(Refused, match=f"--rollout vllm: {words}"):
        importlib.import_module("machinery.vllm_engine")


def test_mac_computes_on_its_processor(monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert processes.start(0).device.type == "cpu"
    assert "Apple's GPU (mps) is not used" in capsys.readouterr().out
    with pytest.raises(Refused, match="--device mps: the devices are cuda and cpu"):
        processes.start(0, "mps")


@pytest.mark.parametrize("script", SCRIPTS)
def test_plain_windows_is_refused_by_every_script(script, monkeypatch):
    """In a sentence, before a module that Windows lacks is asked for."""
    for name in [n for n in sys.modules if n.partition(".")[0] in OWN]:
        monkeypatch.delitem(sys.modules, name)
    for lacking in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, lacking, None)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit, match="Plain Windows is not supported.*WSL2"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
