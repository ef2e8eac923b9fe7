"""The model card of a checkpoint, as the hub reads it: front matter, then what the run folders know. What
they do not know is left out. A reader of the recipe may skip this file."""
import json
import re
from pathlib import Path

from machinery.files import Refused, hub_name, read_json
from machinery.tables import percent, table_lines

# {a flag that no other stage has: (what the stage is, its tag)}
STAGES = {"clip_low": ("reinforcement finetuning, GRPO (grpo.py)", "grpo"),
          "patience": ("connector tuning (connector_tune.py)", "connector-tuning"),
          "epochs": ("supervised finetuning (sft.py)", "sft")}
VERSIONS = {"git": "code, git", "torch": "torch", "transformers": "transformers", "python": "Python",
            "processes": "processes", "device": "device", "started": "last started"}


def about_of(run):
    """config.json of a run folder, None if there is no such run."""
    path = Path(run) / "config.json"
    about = read_json(path) if path.is_file() else {}
    return about if isinstance(about.get("config"), dict) and "model" in about["config"] else None


def history(run):
    """([(run folder, its config.json), ...], the model before all of them): the run, the one that it started
    from, ... A folder may be of another run today than it was then: only its name is sure."""
    runs = []
    while (about := about_of(run)) and str(run) not in [str(r) for r, _ in runs]:
        runs.append((run, about))
        run = Path(about["config"]["model"])
        run = run.parent if re.fullmatch(r"step_\d+", run.name) else run
    return runs, runs[-1][1]["config"]["model"]


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


def front_matter(checkpoint, runs, start):
    """What the hub sorts models by. Only names of the hub can be linked there."""
    lines = [f"base_model: {start}"] if on_hub(start) else []
    if "qformer" not in read_json(checkpoint / "config.json"):  # a connector that they do not know
        lines.append("library_name: transformers")
    lines.append("pipeline_tag: image-text-to-text")
    names = {name: on_hub(name) for _, about in runs for name in data_of(about)}
    linked = [f"- {name}" for name in names if names[name]]
    lines += ["datasets:", *linked] if linked else []
    tags = dict.fromkeys(["nanoR1V", *(stage_of(about)[1] for _, about in runs)])
    return ["---", *lines, "tags:", *(f"- {tag}" for tag in tags if tag), "---"]


def refuse_without_run(checkpoint):
    if not re.fullmatch(r"step_\d+", checkpoint.name) or not about_of(checkpoint.parent):
        raise Refused(f"{checkpoint} is no checkpoint of a run folder (out/rl/step_000040 beside "
                      f"out/rl/config.json): nothing is known about how it was made.")


def card_text(checkpoint, scores):
    """scores: [(what a scores.json holds, the evaluation's flags, {} if unknown)]."""
    run, step = checkpoint.parent, checkpoint.name[5:]
    runs, start = history(run)
    about, flags = runs[0][1], runs[0][1]["config"]
    stage, _ = stage_of(about)
    lines = [*front_matter(checkpoint, runs, start), "", f"# {run.name}, step {int(step)}", "",
             f"A checkpoint of nanoR1V{stage and f': {stage}'}, which started from `{flags['model']}`."]
    choice = run / "selected.json"
    chosen = read_json(choice) if choice.is_file() else {}
    if chosen.get("checkpoint") == checkpoint.name and chosen.get("rule"):
        lines += [f"It was selected among the checkpoints of its run: {chosen['rule']}."]
    lines += asked_lines(flags)
    lines += ["", "## Stages", "", *stage_lines(runs), "", f"The first of them started from `{start}`."]
    if len(runs) > 1:
        lines += ["Earlier stages are described as their folders stand today."]
    for one, of_evaluation in scores:
        lines += ["", *score_lines(one, of_evaluation)]
    known = {label: about[name] for name, label in VERSIONS.items() if about.get(name)}
    lines += ["", "## Versions", "", *table_lines(["", "of the last stage"], known.items())]
    lines += ["", "## Flags", "", "````json", json.dumps(flags, indent=1, ensure_ascii=False), "````"]
    return "\n".join(lines) + "\n"


def asked_lines(flags):
    """How the model was asked when it learned: an application should do the same."""
    lines = ["Its prompts ended with `<think>`."] if flags.get("thinking") else []
    for flag, text in (("ask", "Below each question stood"), ("system", "The system prompt was")):
        if flags.get(flag):
            lines.append(f"{text}: `{flags[flag]}`")
    return lines


def stage_lines(runs):
    """A table of the stages, the first one first."""
    rows = []
    for run, about in reversed(runs):
        data = "; ".join(f"`{name}`{rows and f', {rows}'}" for name, rows in data_of(about).items())
        rows.append([stage_of(about)[0] or "-", f"`{run}`", data, " ".join(about["config"].get("train", []))])
    return table_lines(["stage", "run", "data", "parts trained"], rows)


def score_lines(scores, flags):
    """An evaluation: all together, then by subject."""
    data = scores["data"]
    lines = [f"## Scores on {data['source']}, split {data['split']}", ""]
    names = ("mode", "temperature", "max_new_tokens", *(["budget"] if flags.get("budget") else []))
    how = "".join(f"{name} {flags[name]}, " for name in names if name in flags)
    lines += [f"Measured with eval_mmmu.py: {how}{len(scores['runs'])} run(s) over {scores['questions']} "
              f"questions. Rule: right by nanoR1V's deterministic rule; ± is one standard error.", ""]
    rows = [[name.replace("_", " "), s["n"], percent(s["rule"], s["rule_se"])]
            for name, s in scores["subjects"].items()]
    rows = [] if len(rows) == 1 else rows
    rows.append(["all", scores["n"], percent(scores["rule"], scores["rule_se"])])
    lines += table_lines(["", "answers", "rule %"], rows)
    more = {"rule or judge": "judge", "without an answer that can be read": "unparsed",
            "cut off at the length limit": "truncated"}
    told = [f"{label} {percent(scores[name])}%" for label, name in more.items() if name in scores]
    return [*lines, "", "; ".join(told) + "."]
