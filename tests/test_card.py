"""report.py card: the README.md of a checkpoint says what the run folders know, and nothing else."""
import ast
import json
import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file

import connector_tune
import eval_mmmu
import grpo
import report
import sft
from data import Chat, Record
from machinery.files import Refused, write_json
from machinery.run import Run
from stages import ONE

WORLD = SimpleNamespace(**vars(ONE), barrier=lambda: None)


def run_folder(out, cfg, step, rows=60):
    """A run folder with one checkpoint, as a stage leaves it."""
    cfg.out = str(out)
    run = Run(out, cfg, WORLD)
    run.about["data"] = {"data": {"rows": rows, "sha256": "5a"}}
    write_json(out / "config.json", run.about)
    checkpoint = out / f"step_{step:06d}"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(f"weights of {out}".encode())
    (checkpoint / "config.json").write_text('{"model_type": "internvl"}')
    return checkpoint


def evaluate(checkpoint, out, data="MMMU/MMMU"):
    """scores.json of three answers, one of them right."""
    rows = [{"id": f"validation_{name}", "question_type": "multiple-choice", "options": ["x", "y"],
             "answer": "A", "response": response}
            for name, response in (("Math_1", r"\boxed{A}"), ("Math_2", "Who knows?"), ("Art_Theory_1", ""))]
    scores, _ = eval_mmmu.score_rows(rows, mode="nothink")
    about = {"source": data, "split": "validation", "weights": eval_mmmu.fingerprint(checkpoint)}
    write_json(out / "scores.json", {**scores, "data": about})
    write_json(out / "config.json", {"config": {"max_new_tokens": 160, "temperature": 0, "budget": 0}})


@pytest.fixture
def chain(tmp_path):
    """Cold start from the hub -> GRPO -> connector tuning; the last two from a run folder or a checkpoint."""
    cold = run_folder(tmp_path / "cold", sft.Config(model="OpenGVLab/InternVL3-1B-hf", data="c.jsonl"), 9)
    cfg = grpo.Config(model=str(cold.parent), data="FanqingM/MMK12", ask="Box it.")
    rl = run_folder(tmp_path / "rl", cfg, 40, rows=15616)
    (tmp_path / "rl" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 60}\n')
    return run_folder(tmp_path / "tuned", connector_tune.Config(model=str(rl), data=str(tmp_path)), 25)


def card_of(run, **more):
    report.card(report.Card(str(run), **more))
    checkpoint = run if run.name.startswith("step_") else next(run.glob("step_*"))
    return ModelCard((checkpoint / "README.md").read_text())


def cells(text, columns):
    """The rows of the tables with so many columns"""
    lines = [line for line in text.splitlines() if line.startswith("|") and line.count("|") == columns + 1]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "--" not in line]


def test_what_the_hub_reads(chain):
    assert card_of(chain).data.to_dict() == {
        "license": "other",
        "base_model": "OpenGVLab/InternVL3-1B-hf", "library_name": "transformers",
        "pipeline_tag": "image-text-to-text", "datasets": ["FanqingM/MMK12"],
        "tags": ["nanoR1V", "connector-tuning", "grpo", "sft"]}


def test_what_a_reader_sees(chain, tmp_path):
    text = card_of(chain).text
    every, at = "encoder connector llm", str(tmp_path)
    assert cells(text, 7)[1:] == [
        ["supervised finetuning (sft.py)", f"`{at}/cold`", "`c.jsonl`, 60 rows", every, "1e-05, cosine", "9",
         "64 rows"],
        ["reinforcement finetuning, GRPO (grpo.py)", f"`{at}/rl`", "`FanqingM/MMK12`, 15,616 rows", every,
         "1e-05, constant", "40 of 60", "32 x 32 responses"],
        ["connector tuning (connector_tune.py)", f"`{at}/tuned`", f"`{at}`, 60 rows", "connector",
         "1e-05, cosine", "25", "64 rows"]]
    all_flags = [json.loads(block) for block in re.findall("^````json\n(.*?)^````", text, re.M | re.S)]
    assert [flags["out"] for flags in all_flags] == [f"{at}/cold", f"{at}/rl", f"{at}/tuned"]
    assert all_flags[1] == json.loads((tmp_path / "rl" / "config.json").read_text())["config"]
    about = json.loads((chain.parent / "config.json").read_text())
    for known in (about["git"], about["torch"], about["transformers"], about["started"], "# tuned, step 25",
                  "[Skywork-R1V3](https://arxiv.org/abs/2507.06167)", "A vision-language model (internvl)",
                  "- base model: [OpenGVLab/InternVL3-1B-hf](https://huggingface.co/OpenGVLab/",
                  "Its prompts ended with `<think>`", "the answer in a `\\boxed{}`", "max_new_tokens=8192",
                  "its quality has not been measured here"):
        assert known in text, known
    assert "Scores" not in text and "Below each question" not in text and "It was selected" not in text


def test_what_is_unknown_is_left_out(tmp_path):
    """A local model without a history, a connector of our own, no git, no words of its own."""
    checkpoint = run_folder(tmp_path / "run", sft.Config(model=str(tmp_path / "model"), thinking=False), 2)
    (checkpoint / "config.json").write_text('{"model_type": "internvl", "qformer": {"queries": 4}}')
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "git": "", "data": {}}))
    card = card_of(checkpoint)
    assert card.data.to_dict() == {"license": "other", "pipeline_tag": "image-text-to-text",
                                   "tags": ["nanoR1V", "sft"]}
    assert "code, git" not in card.text and ", 60 rows" not in card.text and "<think>" not in card.text
    assert "Plain transformers does not know its connector (qformer)" in card.text
    assert "python ask.py --model" in card.text and "AutoProcessor" not in card.text


BASE_CARD = "---\nlicense: {}\n{}tags: [x]\n---\n# A base model\n"


@pytest.mark.parametrize("front, told", [
    (BASE_CARD.format("apache-2.0", ""), {"license": "apache-2.0"}),
    (BASE_CARD.format("other", "license_name: 'a: b'\nlicense_link: LICENSE\n"),
     {"license": "other", "license_name": "a: b", "license_link": "LICENSE"}),
    ("# no front matter\nlicense: mit\n", {}), ("---\n: : [\n---\n", {}), ("---\ntags: [x]\n---\n", {})])
def test_the_license_is_the_base_models_or_is_left_to_fill_in(front, told, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text(front)
    checkpoint = run_folder(tmp_path / "run", sft.Config(model=str(tmp_path / "model")), 2)
    card_of(checkpoint)
    text = (checkpoint / "README.md").read_text()  # the hub's reader drops comments
    data = yaml.safe_load(text.split("---\n")[1])
    assert {k: v for k, v in data.items() if "license" in k} == (told or {"license": "other"})
    assert ("# FILL IN before uploading" in text.splitlines()[1]) == (not told)
    assert ("Fill it in, in line 2" in capsys.readouterr().out) == (not told)
    assert ("as the base model's card says" in text) == bool(told)


@pytest.mark.parametrize("words", [
    {}, {"ask": "Box \"it\" in \\boxed{}."}, {"system": "Be {kind}.", "ask": "ü"}, {"thinking": False}])
def test_the_snippet_asks_as_the_model_was_asked(words, tmp_path, model_path):
    """What it gives to the chat template makes the prompt that training had; it is plain python."""
    cfg = sft.Config(model="OpenGVLab/InternVL3-1B-hf", data="c.jsonl", **words)
    text = card_of(run_folder(tmp_path / "run", cfg, 2)).text
    snippet, = re.findall("```python\n(.*?)```", text, re.S)
    ast.parse(snippet)
    turns = re.search(r"^turns = .*?(?=\nimage = )", snippet, re.M | re.S)[0]
    chat = Chat(model_path, ask=cfg.ask, system=cfg.system)
    scope = {"processor": SimpleNamespace(
        apply_chat_template=partial(chat.tokenizer.apply_chat_template, tokenize=False))}
    exec(turns, scope)
    record = Record("r", "What is to be seen?", ["p.png"], sizes=[(48, 48)])
    prompt, = chat.prompts([record], thinking=cfg.thinking)
    assert chat.tokenizer(scope["prompt"], add_special_tokens=False)["input_ids"] == prompt.ids


def test_its_size_and_its_checkpoint_of_each_stage(chain, tmp_path):
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, chain / "model.safetensors")
    config, rl = tmp_path / "tuned" / "config.json", tmp_path / "rl"
    config.write_text(config.read_text().replace(f"{rl}/step_000040", str(rl)))  # the run, not a checkpoint
    (rl / "selected.json").write_text('{"checkpoint": "step_000020"}')
    text = card_of(chain).text
    assert "A vision-language model (22 parameters, internvl)" in text
    assert [row[5] for row in cells(text, 7)[1:]] == ["9", "20 of 60", "25"]


def test_scores_are_of_these_weights(chain, tmp_path, capsys):
    run = chain.parent
    evaluate(chain, run / "eval")
    for k in (1, 2):
        other = run_folder(tmp_path / f"x{k}", sft.Config(), k)
        evaluate(other, run / "eval_steps" / f"step_00000{k}", "other/weights")
    evaluate(chain, run / "eval_steps" / chain.name)
    evaluate(chain, tmp_path / "elsewhere", "data/mathvista")
    (run / "selected.json").write_text(json.dumps(
        {"checkpoint": chain.name, "step": 25, "rule": "lowest validation loss"}))
    text = card_of(run, scores=(str(tmp_path / "elsewhere" / "scores.json"),)).text
    assert re.findall("^## (Scores.*)", text, re.M) == [
        "Scores on MMMU/MMMU, split validation: 3 questions (`eval`)",
        "Scores on MMMU/MMMU, split validation: 3 questions (`eval_steps/step_000025`)",
        "Scores on data/mathvista, split validation: 3 questions"]
    assert "other/weights" not in text
    told, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert told.startswith("left out: 2 scores.json of other weights")
    assert told.endswith("step_000001/scores.json, ...)")
    assert cells(text, 3)[:4] == [["", "answers", "rule %"], ["Art Theory", "1", "0.0"],
                                  ["Math", "2", "50.0 ± 50.0"], ["all", "3", "33.3 ± 33.3"]]
    assert "eval_mmmu.py: temperature 0, max_new_tokens 160. Rule" in text
    assert "max_new_tokens=160, do_sample=False" in text and "but the scores below" in text
    assert "without an answer that can be read 66.7%" in text and "judge" not in text
    assert "It was selected among the checkpoints of its run: lowest validation loss." in text


def test_card_refuses(chain, tmp_path):
    card_of(chain)
    with pytest.raises(Refused, match="README.md is there already, and somebody may have written into it"):
        card_of(chain)
    report.card(report.Card(str(chain), out=str(tmp_path / "card.md")))
    assert (tmp_path / "card.md").read_text() == (chain / "README.md").read_text()
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"x")
    with pytest.raises(Refused, match="model is no checkpoint of a run folder"):
        card_of(model)
