"""The path on a GPU, walked without one (fake_cuda/walk.py): no tensor on the wrong device or of a wrong
dtype, no needless waiting, gradients where they should be, and as much memory as recipes/plan.py says."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes import plan
from conftest import ROOT

# only the first was looked at for the plan's sums
CASES = [dict(model="InternVL3-8B"),
         dict(model="Qwen2.5-VL-7B", train=["llm"]),
         dict(model="InternVL3-2B", tokens=6000, checkpointing=False),
         dict(model="InternVL3-1B", tokens=8192, lora=8),
         dict(model="InternVL3-38B", gpus=16)]


def shortened(folder, model, **case):
    """The case with a model folder that has a configuration of four layers, for the sake of time."""
    config = json.loads((ROOT / "recipes/configs" / model / "config.json").read_text())
    for part in (config.get("text_config", config), config["vision_config"]):
        part["num_hidden_layers"] = 4
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return {**case, "model": str(folder)}


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("the GPU that is not there is compiled by g++ on Linux")
    folder, at = tmp_path_factory.mktemp("fake_cuda"), Path(torch.__file__).parent
    subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", ROOT / "tests/fake_cuda/guard.cpp", "-o",
                    folder / "guard.so", f"-I{at}/include", f"-L{at}/lib", "-ltorch_cpu", "-lc10",
                    f"-Wl,-rpath,{at}/lib"], check=True)
    cases = [shortened(folder / str(i), **case) for i, case in enumerate(CASES)]
    ran = subprocess.run([sys.executable, "-m", "tests.fake_cuda.walk", folder / "guard.so",
                          *map(json.dumps, cases)], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return list(zip(cases, map(json.loads, ran.stdout.splitlines())))


@pytest.mark.parametrize("i", range(len(CASES)))
def test_a_step_on_a_gpu_that_is_not_there(i, walked):
    case, found = walked[i]
    asked = {"gpus": 1, **case, "tokens": found["tokens"], "visual": found["visual"], "rollout": "none"}
    planned = sum(plan.memory(plan.shape(case["model"]), plan.Config(**asked))["training"].values())
    peak = found["peak"] / plan.GIB
    print(f"{CASES[i]}: waits at {found['syncs']}, peak {peak:.2f} GiB, planned {planned:.2f}")
    assert not found["wrong"] and len(found["syncs"]) <= 2
    assert peak == pytest.approx(planned, rel=0.05)  # of more layers, more of it is theirs
