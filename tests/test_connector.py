"""recipes/new_connector.py and the Q-Former: from the command to the stages."""
import pytest
import torch

import connector
import connector_tune
from conftest import gradients
from data import Processor
from machinery.files import Refused
from model import load
from pack import make_packs
from patched import patched
from recipes.new_connector import Config, replace
from stages import run_grpo, tensors


@pytest.fixture(scope="session")
def qformer(tmp_path_factory, model_path):
    out = tmp_path_factory.mktemp("qformer") / "model"
    replace(Config(model=model_path, out=str(out), queries=5, seed=3))
    return str(out)


@pytest.fixture(scope="session")
def q_groups(qformer, groups):
    processor = Processor(qformer, max_tiles=4)
    prompts = processor.prompts([p.record for p, _ in groups])
    return processor, [(p, rs) for p, (_, rs) in zip(prompts, groups)]


def test_starts_sane(qformer, q_groups, model_path, processor, groups):
    """Queries are the visual tokens. Fresh ones are as large as word embeddings and different from each
    other; the loss is no worse than with the family's own fresh connector."""
    vlm, own = load(qformer), load(model_path)
    few, rows = q_groups
    pack, = make_packs(few, rows)
    visual = vlm.connect(vlm.encode(pack))
    assert few.per_tile == 5 and processor.per_tile == 9
    assert len(pack.visual_at) == 5 * len(pack.images["pixel_values"]) == len(visual)
    size = vlm.hf.get_input_embeddings().weight.square().mean().sqrt()
    assert 0.5 < visual.square().mean().sqrt() / size < 2
    a, b = visual[:5].unbind()[:2]
    assert torch.cosine_similarity(a, b, dim=0) < 0.9
    assert -vlm(pack)[0].mean() < 1.2 * -own(*make_packs(processor, groups))[0].mean()


def test_every_tensor_learns(qformer, q_groups):
    vlm = load(qformer)
    few, rows = q_groups
    logp, entropy = vlm(*make_packs(few, rows))
    (logp.sum() + entropy.square().sum()).backward()
    got = gradients(vlm.hf)
    assert got.keys() == dict(vlm.hf.named_parameters()).keys()
    # a bias of the keys shifts all scores of a query alike, so its gradient is 0 (a third of in_proj_bias)
    assert all(g.abs().max() > 0 for g in got.values())


def test_a_stage_trains_it(qformer, tiny, tmp_path):
    before = load(qformer).state_dict()
    connector_tune.train(connector_tune.Config(
        model=qformer, data=str(tiny / "connector.jsonl"), val=str(tiny / "connector_val.jsonl"),
        out=str(tmp_path), lr=1e-3, batch=8, epochs=0.2, save_every=5, dtype="fp32"))
    after = load(str(tmp_path)).state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("multi_modal_projector" not in name), name


def test_fresh_mlp(qformer, model_path, tmp_path):
    replace(Config(model=qformer, out=str(tmp_path / "mlp"), connector="mlp"))
    assert Processor(str(tmp_path / "mlp")).per_tile == 9
    mlp, own = (load(path).parts()["connector"] for path in (str(tmp_path / "mlp"), model_path))
    assert mlp.keys() == own.keys()


# ----------------------------------------------------------------------------------- a connector of one's own

def test_a_folder_of_a_fork_is_refused_by_its_connectors_name(model_path, tmp_path, monkeypatch):
    """Also when the shapes of its weights are those of the family's own connector: it computes otherwise."""
    given = {name: str(tmp_path / name) for name in ("two_layer", "quiet")}
    with monkeypatch.context() as m:
        m.setitem(connector.CONNECTORS, "two_layer", patched("two_layer", tmp_path / "fork").TwoLayer)
        m.setitem(connector.CONNECTORS, "quiet", type("Quiet", (connector.MLPConnector,), {}))
        for name, out in given.items():
            replace(Config(model=model_path, out=out, connector=name))
            load(out)
    for name, out in given.items():
        for opened in (load, Processor):
            with pytest.raises(Refused, match=f"{out}: its config.json names the connector '{name}', and"):
                opened(out)


@pytest.mark.usefixtures("a_reward")
def test_a_connector_of_ones_own_is_one_class(tiny, model_path, tmp_path, monkeypatch):
    """With forks/two_layer.diff the command makes a folder with it. A stage loads, trains and saves it."""
    kind = patched("two_layer", tmp_path).CONNECTORS["two_layer"]
    monkeypatch.setitem(connector.CONNECTORS, "two_layer", kind)
    given, out = str(tmp_path / "given"), tmp_path / "out"
    replace(Config(model=model_path, out=given, connector="two_layer"))
    fresh = load(given)
    assert isinstance(fresh.hf.model.multi_modal_projector, kind)
    assert len(fresh.parts()["connector"]) == 4 and Processor(given).per_tile == 9
    run_grpo(tiny, out, 2, model=given)
    assert load(str(out)).state_dict().keys() == fresh.state_dict().keys()
    before, after = tensors(given), tensors(out / "step_000002")
    assert before.keys() == after.keys()
    assert sum("projector" in n for n in before if not torch.equal(before[n], after[n])) == 4
