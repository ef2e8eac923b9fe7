"""Folders as the hub has them: keys that are missing, old, new, superfluous or contradict each other."""
import itertools
import json
import shutil

import pytest
import torch
from transformers import PreTrainedConfig

from recipes import plan
from conftest import plain
from connector import make_connectors
from data import Processor
from families import hub_shaped, make_qwen, make_qwen3, save_blank_model, tie_weights_of
from machinery.families import read_config
from machinery.files import Refused
from machinery.model_folder import is_tied, load_hf, stored_dtype
from model import load
from pack import make_packs

SAID = [dict(said) for places in ((), ("root",), ("text",), ("root", "text"))
        for said in (zip(places, words) for words in itertools.product((True, False), repeat=len(places)))]
MAKERS = {"internvl": save_blank_model, "qwen": make_qwen, "qwen3": make_qwen3}


@pytest.fixture(scope="session", params=MAKERS)
def published(request, tmp_path_factory):
    """The same family with two tensors, with one, and with one under both names: {how: folder}"""
    folders = {how: tmp_path_factory.mktemp("hub") / how for how in ("own", "before", "tied", "both")}
    for folder in folders.values():
        folder.mkdir()
        MAKERS[request.param](folder)
    for how in ("tied", "both"):
        tie_weights_of(folders[how], both=how == "both")
    for how in ("own", "tied", "both"):
        hub_shaped(folders[how], text=how != "own")
    return folders


def word_of(folder):
    return is_tied(str(folder), read_config(str(folder)).tie_word_embeddings)


@pytest.mark.parametrize("how", ["own", "tied", "both"])
def test_ties_are_decided_by_the_weights(published, how, tmp_path):
    """Whatever the two places of config.json say, or keep silent about, in the hub's shape and in today's."""
    shutil.copytree(published["before"], tmp_path, dirs_exist_ok=True)
    shutil.copy(published[how] / "model.safetensors", tmp_path)
    today = json.loads((tmp_path / "config.json").read_text())
    del today["tie_word_embeddings"]
    today["text_config"].pop("tie_word_embeddings", None)
    kind = today["model_type"]
    for said in SAID:
        config = today | {"text_config": dict(today["text_config"])}
        for place, part in (("root", config), ("text", config["text_config"])):
            part |= {"tie_word_embeddings": said[place]} if place in said else {}
        (tmp_path / "config.json").write_text(json.dumps(config))
        lost = how == "tied" and said and not any(said.values())
        silent = {"own": False, "tied": True, "both": kind == "internvl"}
        want = {"own": False, "tied": not lost, "both": any(said.values())} if said else silent
        assert word_of(tmp_path) == want[how], said
        if kind == "qwen2_5_vl" and len(said) == 2:
            continue  # its file has one place
        hub_shaped(tmp_path, **said)
        assert word_of(tmp_path) == want[how], said
        if lost:
            with pytest.raises(Refused, match="1 missing, e.g. lm_head.weight"):
                load(str(tmp_path))


@pytest.mark.parametrize("how", ["own", "tied", "both"])
def test_all_ranks_and_the_saved_folder_agree_on_ties(published, how, rows, tmp_path):
    """Rank 0 has weights, the others build from the configuration, the plan has neither."""
    path, tied = str(published[how]), how != "own"
    ranks = [load_hf(path, make_connectors, rank=rank, size=2)[0] for rank in (0, 1)]
    names = [[(n, p.shape) for n, p in hf.named_parameters()] for hf in ranks]
    assert names[0] == names[1] and len(names[0]) == len({n for n, _ in names[0]})
    assert [n for n, _ in names[0]].count("lm_head.weight") == (not tied)
    s = plan.shape(path)
    assert s["tied"] == tied and s["total"] == sum(shape.numel() for _, shape in names[0])
    vlm = load(path)
    vlm.save(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["tie_word_embeddings"] == raw["text_config"]["tie_word_embeddings"] == tied
    hf = plain(tmp_path)
    assert (hf.lm_head.weight is hf.model.language_model.embed_tokens.weight) == tied
    for (name, p), (other, q) in zip(vlm.hf.named_parameters(), hf.named_parameters()):
        assert name == other and torch.equal(p, q), name
    start = dict(plain(published["before"]).named_parameters())
    assert all(torch.equal(p, start[n]) for n, p in vlm.hf.named_parameters())
    if how == "own":  # old names of the rotary embedding, of the precision, of the encoder's sizes
        logp = []
        for folder in (path, str(published["before"])):
            processor = Processor(folder, max_tiles=4)
            pack, = make_packs(processor, [(p, [[5, 6, 7], [8]]) for p in processor.prompts(rows[:3])])
            logp.append(load(folder)(pack)[0])
        assert torch.equal(*logp)
        assert vlm.file_dtype == stored_dtype(path) == torch.float32


@pytest.mark.parametrize("how", ["own", "tied"])
def test_vllm_is_told_whether_weights_are_tied(published, how, engine):
    """It reads the folder itself, where the word may be missing or wrong."""
    path, one = str(published[how]), object.__new__(engine.Engine)
    one.vlm, one.processor, one.dtype = None, Processor(path), torch.float32
    one.tensor_parallel, one.sleeps = 1, False
    one._start(0.5, 1, False)
    engine.made["hf_overrides"](PreTrainedConfig())  # so it asks first
    config = engine.made["hf_overrides"](read_config(path))
    assert engine.made["path"] == path
    assert config.tie_word_embeddings == config.text_config.tie_word_embeddings == (how == "tied")
