"""report.py card: the README.md of a checkpoint says what the run folders know, and nothing else."""
import json
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

import connector_tune
import eval_mmmu
import grpo
import report
import sft
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
        "base_model": "OpenGVLab/InternVL3-1B-hf", "library_name": "transformers",
        "pipeline_tag": "image-text-to-text", "datasets": ["FanqingM/MMK12"],
        "tags": ["nanoR1V", "connector-tuning", "grpo", "sft"]}


def test_what_a_reader_sees(chain, tmp_path):
    text = card_of(chain).text
    every, at = "encoder connector llm", str(tmp_path)
    assert cells(text, 4)[1:] == [
        ["supervised finetuning (sft.py)", f"`{at}/cold`", "`c.jsonl`, 60 rows", every],
        ["reinforcement finetuning, GRPO (grpo.py)", f"`{at}/rl`", "`FanqingM/MMK12`, 15,616 rows", every],
        ["connector tuning (connector_tune.py)", f"`{at}/tuned`", f"`{at}`, 60 rows", "connector"]]
    about = json.loads((chain.parent / "config.json").read_text())
    for known in (about["git"], about["torch"], about["transformers"], about["started"], "# tuned, step 25",
                  '"lr": 1e-05', "Its prompts ended with `<think>`"):
        assert known in text
    assert "Scores" not in text and "Box it." not in text and "selected" not in text


def test_what_is_unknown_is_left_out(tmp_path):
    """A local model without a history, a connector of our own, no git, no words of its own."""
    checkpoint = run_folder(tmp_path / "run", sft.Config(model=str(tmp_path / "model"), thinking=False), 2)
    (checkpoint / "config.json").write_text('{"model_type": "internvl", "qformer": {"queries": 4}}')
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "git": "", "data": {}}))
    card = card_of(checkpoint)
    assert card.data.to_dict() == {"pipeline_tag": "image-text-to-text", "tags": ["nanoR1V", "sft"]}
    assert "code, git" not in card.text and "rows" not in card.text and "<think>" not in card.text


def test_scores_are_of_these_weights(chain, tmp_path, capsys):
    run = chain.parent
    evaluate(chain, run / "eval")
    evaluate(run_folder(tmp_path / "x", sft.Config(), 1), run / "eval_steps" / "step_000001", "other/weights")
    evaluate(chain, tmp_path / "elsewhere", "data/mathvista")
    (run / "selected.json").write_text(json.dumps(
        {"checkpoint": chain.name, "step": 25, "rule": "lowest validation loss"}))
    text = card_of(run, scores=(str(tmp_path / "elsewhere" / "scores.json"),)).text
    assert "## Scores on MMMU/MMMU, split validation" in text and "## Scores on data/mathvista" in text
    assert "other/weights" not in text
    assert "step_000001/scores.json is of other weights" in capsys.readouterr().out
    assert cells(text, 3)[:4] == [["", "answers", "rule %"], ["Art Theory", "1", "0.0"],
                                  ["Math", "2", "50.0 ± 50.0"], ["all", "3", "33.3 ± 33.3"]]
    assert "eval_mmmu.py: temperature 0, max_new_tokens 160, 1 run(s) over 3 questions" in text
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
