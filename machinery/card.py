"""The model card of a checkpoint, as the hub reads it: front matter, then what the run folders know. What
they do not know is left out. A reader of the recipe may skip this file."""
import json
import math
import re
from collections import Counter
from pathlib import Path

from machinery.files import Refused, checkpoints, hub_name, read_json, read_jsonl
from machinery.tables import percent, table_lines

PAPER = "https://arxiv.org/abs/2507.06167"
# {a flag that no other stage has: (what the stage is, its tag)}
STAGES = {"clip_low": ("reinforcement finetuning, GRPO (grpo.py)", "grpo"),
          "patience": ("connector tuning (connector_tune.py)", "connector-tuning"),
          "epochs": ("supervised finetuning (sft.py)", "sft")}
VERSIONS = {"git": "code, git", "torch": "torch", "transformers": "transformers", "python": "Python",
            "processes": "processes", "device": "device", "started": "last started"}
RULES = {"critical_entropy": "highest entropy of critical tokens (section 5.1 of the paper)",
         "accuracy": "highest accuracy on the probe questions"}
FILL_IN = "license: other  # FILL IN before uploading: the base model's license is not readable here"
USE = """```python
# pip install transformers torch torchvision accelerate pillow
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

path = "OWNER/NAME"  # this repository, or its folder
processor = AutoProcessor.from_pretrained(path)
model = AutoModelForImageTextToText.from_pretrained(path, dtype="auto", device_map="auto")

{turns}
prompt = processor.apply_chat_template(turns, add_generation_prompt=True){think}
image = Image.open("picture.png").convert("RGB")
inputs = processor(images=[image], text=[prompt], return_tensors="pt").to(model.device)
out = model.generate(**inputs, max_new_tokens={tokens}, {sampling})
print(processor.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```"""
LIMITS = """Meant for research on how such models are trained, and for trying it out. It can misread a
picture, calculate wrongly and sound sure of it, and what it writes before an answer need not be what the
answer rests on, so check what matters. None of nanoR1V's stages aims at safety, and {known}."""


# ------------------------------------------------------------------------------------- what run folders know

def about_of(run):
    """config.json of a run folder, None if there is no such run."""
    path = Path(run) / "config.json"
    about = read_json(path) if path.is_file() else {}
    return about if isinstance(about.get("config"), dict) and "model" in about["config"] else None


def history(checkpoint):
    """([(run folder, its config.json, name of the checkpoint that was used), ...], the model before all of
    them): the run, the one that it started from, ... A folder may be of another run today than it was then:
    only its name is sure."""
    runs, run, used = [], checkpoint.parent, checkpoint.name
    while (about := about_of(run)) and str(run) not in [str(r) for r, *_ in runs]:
        runs.append((run, about, used))
        run = Path(about["config"]["model"])
        if re.fullmatch(r"step_\d+", run.name):
            run, used = run.parent, run.name
        else:
            used = used_of(run)
    return runs, runs[-1][1]["config"]["model"]


def used_of(run):
    """Name of the checkpoint that a run folder stands for: its selected one, else its newest, else ""."""
    choice, steps = run / "selected.json", checkpoints(run)
    newest = steps[-1].name if steps else ""
    return str(read_json(choice).get("checkpoint", "")) if choice.is_file() else newest


def stage_of(about):
    return next((stage for flag, stage in STAGES.items() if flag in about["config"]), ("", ""))


def on_hub(name):
    """Nobody noted whether a name was one of the hub: a local path that is gone may look like one."""
    return hub_name(name) and not Path(name).exists()


def data_of(about):
    """{data set: what is known of its rows} of a run."""
    flags = [flag for flag in ("data", "curriculum") if about["config"].get(flag)]
    rows = {flag: about.get("data", {}).get(flag, {}) for flag in flags}
    return {about["config"][flag]: f"{rows[flag]['rows']:,} rows" if rows[flag].get("rows") else ""
            for flag in flags}


def steps_of(run, used):
    """ "15 of 40": where the checkpoint stands, and how many steps the run has made."""
    made = max((row["step"] for row in read_jsonl(run / "metrics.jsonl", {"step": int})), default=0)
    if not re.fullmatch(r"step_\d+", used):  # a tuning that only harmed points at its start
        return "-" if used or not made else str(made)
    step = int(used[5:])
    return f"{step} of {made}" if made > step else str(step)


def size_of(checkpoint):
    """ "1,987,654 parameters", from the headers of its weights; "" where they can not be read."""
    from safetensors import SafetensorError, safe_open
    total = 0
    try:
        for file in checkpoint.glob("model*.safetensors"):
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():
                    total += math.prod(tensors.get_slice(name).get_shape())
    except SafetensorError:
        return ""
    return f"{total:,} parameters" if total else ""


def own_connector(checkpoint):
    """Name of a connector that connector.py has put there and plain transformers does not know, or None.
    Older folders name the Q-Former by its options alone."""
    config = read_json(checkpoint / "config.json")
    return config.get("connector") or ("qformer" if config.get("qformer") else None)


def license_of(start):
    """What the base model's own card says of its license, {} where there is none to read on this machine."""
    import yaml
    from huggingface_hub import try_to_load_from_cache
    path = try_to_load_from_cache(start, "README.md") if on_hub(start) else Path(start) / "README.md"
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return {}
    front = re.match(r"---\s*\n(.*?)\n---\s*$", Path(path).read_text(errors="replace"), re.M | re.S)
    try:
        told = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError:
        return {}
    told = told if isinstance(told, dict) else {}
    found = {name: told[name] for name in ("license", "license_name", "license_link") if told.get(name)}
    link = found.get("license_link", "")
    if link and "://" not in link and on_hub(start):  # a file of the base model's repository
        found["license_link"] = f"https://huggingface.co/{start}/blob/main/{link}"
    return found if "license" in found else {}


# -------------------------------------------------------------------------------------------------- the card

def front_matter(checkpoint, runs, start):
    """What the hub sorts models by. Only names of the hub can be linked there."""
    given = license_of(start)  # JSON is YAML: it quotes what has to be
    lines = [f"{name}: {json.dumps(what)}" for name, what in given.items()] or [FILL_IN]
    lines += [f"base_model: {start}"] if on_hub(start) else []
    if not own_connector(checkpoint):
        lines.append("library_name: transformers")
    lines.append("pipeline_tag: image-text-to-text")
    names = {name: on_hub(name) for _, about, _ in runs for name in data_of(about)}
    linked = [f"- {name}" for name in names if names[name]]
    lines += ["datasets:", *linked] if linked else []
    tags = dict.fromkeys(["nanoR1V", *(stage_of(about)[1] for _, about, _ in runs)])
    return ["---", *lines, "tags:", *(f"- {tag}" for tag in tags if tag), "---"]


def refuse_without_run(checkpoint):
    if not re.fullmatch(r"step_\d+", checkpoint.name) or not about_of(checkpoint.parent):
        raise Refused(f"{checkpoint} is no checkpoint of a run folder (out/rl/step_000040 beside "
                      f"out/rl/config.json): nothing is known about how it was made.")


def card_text(checkpoint, scores):
    """scores: [(its folder, what a scores.json holds, the evaluation's flags, {} if unknown)]."""
    runs, start = history(checkpoint)
    about = runs[0][1]
    lines = [*front_matter(checkpoint, runs, start), "", f"# {checkpoint.parent.name}, "
             f"step {int(checkpoint.name[5:])}", "", *intro_lines(checkpoint, about, start)]
    lines += ["", "## How to use it", "", *use_lines(checkpoint, runs, scores)]
    known = ("of its quality nothing is known but the scores below" if scores
             else "its quality has not been measured here")
    lines += ["", "## Intended use and limits", "", LIMITS.replace("\n", " ").format(known=known)]
    lines += ["", "## Stages", "", *stage_lines(runs), "", f"The first of them started from `{start}`."]
    if len(runs) > 1:
        lines += ["Earlier stages are described as their folders stand today."]
    headings = [heading_of(one) for _, one, _ in scores]
    for (where, one, of_evaluation), heading in zip(scores, headings):
        heading += f" (`{where}`)" if Counter(headings)[heading] > 1 else ""
        lines += ["", f"## {heading}", "", *score_lines(one, of_evaluation)]
    versions = {label: about[name] for name, label in VERSIONS.items() if about.get(name)}
    lines += ["", "## Versions", "", *table_lines(["", "of the last stage"], versions.items())]
    lines += ["", "## Flags", "", *flag_lines(runs)]
    return "\n".join(lines) + "\n"


def intro_lines(checkpoint, about, start):
    config, (stage, _) = read_json(checkpoint / "config.json"), stage_of(about)
    what = [size_of(checkpoint), config.get("model_type", ""), config.get("dtype") or ""]
    lines = [f"A vision-language model ({', '.join(filter(None, what))}), made with nanoR1V, a training code "
             f"for the recipe of [Skywork-R1V3]({PAPER}). Its last stage{stage and f', {stage},'} started "
             f"from `{about['config']['model']}`."]
    choice = checkpoint.parent / "selected.json"
    chosen = read_json(choice) if choice.is_file() else {}
    if chosen.get("checkpoint") == checkpoint.name and chosen.get("rule"):
        rule = RULES.get(chosen["rule"], chosen["rule"])
        lines += [f"It was selected among the checkpoints of its run: {rule}."]
    link = f"[{start}](https://huggingface.co/{start})" if on_hub(start) else f"`{start}`, not of the hub"
    given = license_of(start).get("license")
    lines += ["", f"- base model: {link}"]
    return lines + ["- license: " + (f"{given}, as the base model's card says" if given else
                                     "not known here; the base model's holds, and has to be filled in above")]


def use_lines(checkpoint, runs, scores):
    """A snippet for plain transformers that asks as the model was asked when it learned."""
    flags, own = runs[0][1]["config"], own_connector(checkpoint)
    if own:
        lines = [f"Plain transformers does not know its connector ({own}). With nanoR1V's code:", "",
                 "```sh", 'python ask.py --model FOLDER --image picture.png "What is to be seen?"', "```"]
    else:
        lines = [USE.format(**filled(flags, runs, scores))]
    lines.append("")
    if flags.get("thinking"):
        lines.append("Its prompts ended with `<think>`. So it writes its thought first, then `</think>`, and "
                     "behind that the answer in a `\\boxed{}`.")
    elif any("clip_low" in about["config"] for _, about, _ in runs):  # only a box is paid for
        lines.append("The answer stands in a `\\boxed{}`.")
    for flag, text in (("ask", "Below each question stood"), ("system", "The system prompt was")):
        if flags.get(flag):
            lines.append(f"{text}: `{flags[flag]}`")
    return lines


def filled(flags, runs, scores):
    """What goes into the snippet: turns, the end of the prompt, length and temperature."""
    text = "What is to be seen?" + (f"\n{flags['ask']}" if flags.get("ask") else "")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    if flags.get("system"):
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": flags["system"]}]})
    turns = ",\n         ".join(json.dumps(turn, ensure_ascii=False) for turn in turns)
    asked = [flags_of_one for _, _, flags_of_one in scores] + [about["config"] for _, about, _ in runs]
    tokens = next((one["max_new_tokens"] for one in asked if one.get("max_new_tokens")), 4096)
    temperature = next((one["temperature"] for one in asked if "temperature" in one), 1.0)
    think = '\nprompt = prompt.removesuffix("<think>\\n") + "<think>\\n"' if flags.get("thinking") else ""
    sampling = f"do_sample=True, temperature={temperature}" if temperature else "do_sample=False"
    return dict(turns=f"turns = [{turns}]", think=think, tokens=tokens, sampling=sampling)


def stage_lines(runs):
    """A table of the stages, the first one first."""
    rows = []
    for run, about, used in reversed(runs):
        flags = about["config"]
        data = "; ".join(f"`{name}`{rows and f', {rows}'}" for name, rows in data_of(about).items())
        each = f"{flags['batch']} rows" if "batch" in flags else ""
        if "samples" in flags:
            each = f"{flags.get('prompts')} x {flags['samples']} responses"
        rate = f"{flags['lr']:g}, {flags.get('schedule', '')}".removesuffix(", ") if "lr" in flags else "-"
        rows.append([stage_of(about)[0] or "-", f"`{run}`", data, " ".join(flags.get("train", [])), rate,
                     steps_of(Path(run), used), each or "-"])
    return table_lines(["stage", "run", "data", "parts trained", "learning rate", "steps", "a step"], rows)


def flag_lines(runs):
    """All flags of every stage, folded away: the page stays one page."""
    lines = []
    for run, about, _ in reversed(runs):
        packed = [""]
        for name, value in about["config"].items():
            item = f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},"
            if len(packed[-1]) + len(item) > 110:
                packed.append("")
            packed[-1] += item
        text = "\n".join(packed).strip(" ,")
        lines += [f"<details><summary>{stage_of(about)[0] or 'a stage'}: {run}</summary>", "", "````json",
                  f"{{{text}}}", "````", "", "</details>", ""]
    return lines[:-1]


def heading_of(scores):
    data, runs, n = scores["data"], len(scores["runs"]), scores["questions"]
    return (f"Scores on {data['source']}, split {data['split']}: {n:,} questions"
            f"{f', each asked {runs} times' if runs > 1 else ''}")


def score_lines(scores, flags):
    """An evaluation: all together, then by subject."""
    names = ("mode", "temperature", "max_new_tokens", *(["budget"] if flags.get("budget") else []))
    how = ", ".join(f"{name} {flags[name]}" for name in names if name in flags)
    lines = [f"Measured with eval_mmmu.py{how and f': {how}'}. Rule: right by nanoR1V's deterministic rule; "
             f"± is one standard error.", ""]
    rows = [[name.replace("_", " "), s["n"], percent(s["rule"], s["rule_se"])]
            for name, s in scores["subjects"].items()]
    rows = [] if len(rows) == 1 else rows
    rows.append(["all", scores["n"], percent(scores["rule"], scores["rule_se"])])
    lines += table_lines(["", "answers", "rule %"], rows)
    more = {"rule or judge": "judge", "without an answer that can be read": "unparsed",
            "cut off at the length limit": "truncated"}
    told = [f"{label} {percent(scores[name])}%" for label, name in more.items() if name in scores]
    return [*lines, "", "; ".join(told) + "."]
