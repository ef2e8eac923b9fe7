"""The model card of a checkpoint: what the run folders know. What they do not know is left out."""
import json
import re
import shlex
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from machinery.files import Refused, checkpoints, hub_name, read_json
from machinery.tables import table_lines

TEXT = """---
{front}
---

# {name}

A vision-language model, made with nanoR1V, a training code for the recipe of
[Skywork-R1V3](https://arxiv.org/abs/2507.06167). {think}{connector}With nanoR1V's code, asked as in training:

```sh
{command}
```

Meant for research on how such models are trained. It can misread a picture, calculate wrongly and sound sure
of it, and what it writes before an answer need not be what the answer rests on. None of nanoR1V's stages aims
at safety. Add the scores of your own evaluation.

## Stages

{stages}

The first of them started from `{start}`. Earlier stages are described as their folders stand today.

{details}"""
THINK = "Its prompts ended with `<think>`: it writes a thought, `</think>`, and its answer in a `\\boxed{}`. "


def history(checkpoint):
    """[(run folder, its config.json, name of the checkpoint that was used)]: the run, the one that it started
    from, ... A folder may be of another run today than it was then: only its name is sure."""
    runs, run, used = [], checkpoint.parent, checkpoint.name
    while (run / "config.json").is_file() and run not in [folder for folder, *_ in runs]:
        about = read_json(run / "config.json")
        if "config" not in about:  # of a model, not of a run
            break
        runs.append((run, about, used))
        run, used = Path(about["config"]["model"]), ""
        if re.fullmatch(r"step_\d+", run.name):
            run, used = run.parent, run.name
        elif (run / "selected.json").is_file():
            used = read_json(run / "selected.json")["checkpoint"]
        elif steps := checkpoints(run):
            used = steps[-1].name
    return runs


def script_of(about):
    """sft, grpo, ...: what made a run"""
    return Path(about["command"].split()[0]).stem


def data_of(about):
    """{data set: how many rows were read of it} of a run."""
    return {about["config"][flag]: about.get("data", {}).get(flag, {}).get("rows", "?")
            for flag in ("data", "curriculum") if about["config"].get(flag)}


def card_text(checkpoint):
    """The README.md of a checkpoint."""
    runs = history(checkpoint)
    if not runs or not re.fullmatch(r"step_\d+", checkpoint.name):
        raise Refused(f"{checkpoint} is no checkpoint of a run folder: nothing is known of how it was made")
    flags, start, stages, details = runs[0][1]["config"], runs[-1][1]["config"]["model"], [], ""
    own = "connector" in read_json(checkpoint / "config.json")
    front = ModelCardData(
        license="other", license_name="FILL-IN-the-license-of-the-base-model",
        base_model=start if hub_name(start) else None, pipeline_tag="image-text-to-text",
        library_name=None if own else "transformers",
        datasets=[name for _, about, _ in runs for name in data_of(about) if hub_name(name)] or None,
        tags=["nanoR1V", *dict.fromkeys(script_of(about) for _, about, _ in runs)])
    for run, about, used in reversed(runs):
        data = "; ".join(f"`{name}`, {rows} rows" for name, rows in data_of(about).items())
        stages.append([script_of(about), f"`{run}`", used, data, " ".join(about["config"].get("train", [])),
                       about["config"].get("lr", "-")])
        details += f"<details><summary>{run}: flags, versions</summary>\n\n````json\n" \
                   f"{json.dumps(about, indent=1, ensure_ascii=False)}\n````\n\n</details>\n\n"
    words = [word for flag in ("ask", "system") if flags.get(flag) for word in (f"--{flag}", flags[flag])]
    words += [] if flags.get("thinking") else ["--no-thinking"]
    header = ["stage", "run", "checkpoint", "data", "parts trained", "learning rate"]
    return str(ModelCard(TEXT.format(
        front=front.to_yaml(), name=f"{checkpoint.parent.name}, step {int(checkpoint.name[5:])}",
        think=THINK * flags.get("thinking", False), start=start,
        connector="Plain transformers does not know its connector. " * own,
        command=shlex.join(["python", "ask.py", "--model", "OWNER/NAME", "--image", "picture.png", *words,
                            "What is to be seen?"]),
        stages="\n".join(table_lines(header, stages)), details=details)))
