"""What the tests share: one small world a session, a random model whose every tensor matters, and an oracle,
which is plain transformers."""
import importlib
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

# no network, one core: set before the libraries below read it
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch._dynamo
from PIL import Image
from transformers import AutoModelForImageTextToText

torch.set_num_threads(1)
pytest.register_assert_rewrite("stages")  # or its assertions say nothing
ROOT = Path(__file__).parent.parent
# for a script that is started from here: python itself puts no folder on the path but the script's own
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / d) for d in (".", "tests", "tiny"))}
SIZES = dict(captions=30, sums=2, base=48, cold_start=60, rl=60, rl_hard=12, connector=60,
             connector_val=24, val=24, math_test=24, other_test=6)


def few_looks(patch, module):
    """The module's pools get few looks of each value: most of a small world's time is drawing them."""
    make_pools = module.make_pools

    def few(rng, part, looks, copies=8):
        return make_pools(rng, part, looks=12, copies=2)

    patch.setattr(module, "make_pools", few)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny world in small, its model made lively. Norms and biases are random too, so that tests see
    when two are exchanged; predictions are sharper than those of a fresh model."""
    import make
    out = tmp_path_factory.mktemp("world") / "tiny"
    with pytest.MonkeyPatch.context() as m:
        few_looks(m, make)
        make.make(make.Config(out=str(out), seed=1, **SIZES))
    hf = plain(out / "model")
    torch.manual_seed(0)
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(0.1 * torch.randn_like(p)) if p.ndim == 1 else None
        hf.lm_head.weight.mul_(2)
    hf.save_pretrained(out / "model")
    return out


@pytest.fixture(scope="session")
def model_path(tiny):
    return str(tiny / "model")


@pytest.fixture(scope="session")
def processor(model_path):
    from data import Processor
    return Processor(model_path, max_tiles=4)


@pytest.fixture
def vlm(model_path):
    from model import load
    return load(model_path, dtype="fp32")


@pytest.fixture(scope="session")
def rows(tiny, tmp_path_factory):
    """Eight records: one image, two images, one of several tiles, no image, solutions of 8 to 60 tokens;
    from a file."""
    from data import read_records
    folder = tmp_path_factory.mktemp("rows")
    files = sorted((tiny / "images" / "rl").glob("*.png"))[:4]
    for i, file in enumerate(files):
        Image.open(file).save(folder / f"{i}.png")
    wide = torch.randint(0, 256, (60, 140, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(wide.numpy()).save(folder / "wide.png")
    two, shuffled = ["0.png", "1.png"], ["<image 2>", "<image 1>", "5 \u00e9"]
    table = [("a", "<image> Add the digits in the top row.", ["0.png"], []),
             ("b", "Add the middle digit of <image 2> and the top digit of <image 1>.", two, []),
             ("c", "What is 3 + 4?", [], []),
             ("d", "In which image is the top digit 4?", ["1.png", "2.png"], shuffled),
             ("e", "What is the largest number?", ["wide.png"], []),
             ("f", "How many?", [], ["4", "5"]),
             ("g", "<image 1> What is the middle digit? It is not in <image 2>.", ["2.png", "3.png"], []),
             ("h", "What is the top left digit?", ["3.png"], [])]
    steps = dict(zip("abcdefgh", (1, 4, 0, 7, 2, 0, 9, 3)))  # a mean over tokens is none over solutions
    write_jsonl(folder / "rows.jsonl",
                [{"id": i, "question": q, "images": im, "options": o, "subject": "Math",
                  "answer": "A" if o else "7",
                  "solution": f"{'3 + 4 = 7. ' * steps[i] or 'So'}\n</think>\n\n\\boxed{{{i}}}"}
                 for i, q, im, o in table])
    return read_records(folder / "rows.jsonl")


@pytest.fixture(scope="session")
def prompts(processor, rows):
    return processor.prompts(rows)


@pytest.fixture(scope="session")
def groups(processor, prompts):
    """[(prompt, [ids, ...])]: random responses of different lengths, 0 to 3 of them a prompt"""
    g = torch.Generator().manual_seed(1)
    lengths = [(5, 9, 1), (7, 3), (6, 2, 4), (8,), (3, 12), (), (4, 1), (10, 10, 2)]

    def draw(n):
        return torch.randint(0, processor.image_id - 10, (n,), generator=g).tolist()
    return [(p, [draw(n) for n in ns]) for p, ns in zip(prompts, lengths)]


@pytest.fixture
def mixed(rows, tmp_path):
    write_mixed(tmp_path / "mixed.jsonl", rows)
    return str(tmp_path / "mixed.jsonl")


@pytest.fixture
def sampler(monkeypatch, processor):
    import grpo
    from stages import Given
    given = Given(processor)
    monkeypatch.setattr(grpo, "make_sampler", lambda *_: given)
    return given


@pytest.fixture
def a_reward(monkeypatch):
    import grpo
    from stages import reward_of
    monkeypatch.setattr(grpo, "score_batch", reward_of)


@pytest.fixture
def no_trainer(monkeypatch):
    """Checkpoints that no run will go on from: what the trainer needs takes half of a small run's time."""
    monkeypatch.setattr("machinery.run.dcp.save", lambda *_, checkpoint_id, **__: Path(checkpoint_id).mkdir())


@pytest.fixture(scope="session")
def straight(tiny, tmp_path_factory):
    """Each stage run through without a stop: {stage: its run folder}"""
    import grpo
    from stages import STAGES, reward_of
    out = {name: tmp_path_factory.mktemp("straight") / name for name in STAGES}
    with pytest.MonkeyPatch.context() as m:
        m.setattr(grpo, "score_batch", reward_of)
        for name, (_, run) in STAGES.items():
            run(tiny, out[name])
    return out


@pytest.fixture
def engine(monkeypatch):
    """machinery/vllm_engine.py, for which vLLM need not be installed, and what its LLM was made with."""
    made = {}

    class LLM:
        def __init__(self, path, **options):
            made.update(options, path=path)
            self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(
                _finalizer=SimpleNamespace(detach=lambda: None)))

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=None))
    monkeypatch.setitem(sys.modules, "vllm.device_allocator.alloc_conf", SimpleNamespace(
        current_alloc_conf=str, set_alloc_conf=str, with_conf_flag=lambda *_: ""))
    monkeypatch.setattr(torch._dynamo, "config", SimpleNamespace())  # the module sets an option there
    monkeypatch.delitem(sys.modules, "machinery.vllm_engine", raising=False)
    module = importlib.import_module("machinery.vllm_engine")
    module.made = made
    yield module
    monkeypatch.delitem(sys.modules, "machinery.vllm_engine")


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(r) + "\n" for r in rows))


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def png(colour=0, size=(48, 48)):
    """A picture as bytes of a file"""
    out = io.BytesIO()
    Image.new("RGB", size, (colour, 20, 30)).save(out, "PNG")
    return out.getvalue()


def write_mixed(path, rows):
    """The eight rows of all sorts as a data file for every stage."""
    write_jsonl(path, [{"id": r.id, "question": r.question, "images": r.images, "options": r.options,
                        "answer": r.answer, "solution": r.solution} for r in rows])


def plain(path):
    """The model as plain transformers loads it."""
    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")


def plain_inputs(processor, prompt, response):
    """What plain transformers wants of one sequence, without padding or packing."""
    ids = torch.tensor([prompt.full + response])
    places = {"mm_token_type_ids": (ids == processor.image_id).int()}
    extra = places if hasattr(processor.family, "grid") else {}
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids), **processor.pixels(prompt), **extra)


def plain_forward(hf, processor, groups, temperature=1.0, never=()):
    """logp (R,) and entropy (R,) of all responses of all groups, one at a time. never: ids besides the
    image's that are not sampled"""
    logps, entropies, never = [], [], torch.tensor([processor.image_id, *never])
    for prompt, responses in groups:
        for ids in responses:
            logits = hf(**plain_inputs(processor, prompt, ids)).logits[0, len(prompt.full) - 1:-1]
            logp = (logits / temperature).index_fill(-1, never, -1e9).log_softmax(-1)
            logps.append(logp[range(len(ids)), ids])
            entropies.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(logps), torch.cat(entropies)


def close(a, b, tolerance=1e-5):
    """Equal to `tolerance`, relative to the largest entry (gradients of one tensor share a scale)."""
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())), float((a - b).abs().max())


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
