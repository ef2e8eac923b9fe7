"""The scores.json of evaluations: read, put into one line a stage, and compared question by question."""
import math

from machinery.files import Refused, checked, read_json
from machinery.intervals import mean_and_error, pooled, t_times
from machinery.tables import percent, span

NUMBER = (int, float)
GAINS_HEADER = ("points", "95%, questions", "95%, runs", "smallest", "largest", "could be seen")


def read_scores(path):
    """scores.json of an evaluation."""
    again = "Evaluate that stage again."
    scores = read_json(path, {"subjects": dict}, again)
    for name, s in scores["subjects"].items():
        checked(s, f"{path}, {name}", {"n": int, "rule": NUMBER, "rule_se": (*NUMBER, type(None))}, again)
    for name, accuracy in checked(scores.get("question_accuracy", {}), path, {}, again).items():
        checked(accuracy, f"{path}, question_accuracy, {name}", dict.fromkeys(accuracy, NUMBER)
                if isinstance(accuracy, dict) else {}, again)
    return checked(scores, path, {"length": (*NUMBER, type(None))}, again)


def stage_result(scores, maths="Math"):
    """One stage's line of results.json from its scores.json. `others` is the mean over the other subjects."""
    by_subject = dict(sorted(scores["subjects"].items()))
    accuracy, error = {name: s["rule"] for name, s in by_subject.items()}, {}
    for name, s in by_subject.items():  # as the evaluation measured it, otherwise that of a share
        error[name] = s.get("rule_se")
        if error[name] is None:
            error[name] = math.sqrt(max(0.0, s["rule"] * (1 - s["rule"])) / max(1, s["n"]))
    return {**in_short(accuracy, error, maths), "n": {name: s["n"] for name, s in by_subject.items()},
            "length": scores.get("length")}


def in_short(value, error, maths):
    """{subject: value} and {subject: error} as they stand in results.json, with maths, the mean of the others
    and the mean of all."""
    short = {"maths": value.get(maths), "maths_se": error.get(maths)}
    rest = [name for name in value if name != maths]
    for key, names in (("others", rest), ("all", list(value))):
        short[key], short[f"{key}_se"] = pooled([value[n] for n in names], [error[n] for n in names])
    return {**short, "subjects": value, "subjects_se": error}


def gain(before, after, names, maths="Math"):
    """What the second of two scores.json has more: {"paired", "trained", "maths", "maths_se", "others",
    "others_se", "subjects", ...}.

    Both answered the same questions, so the error is that of the differences question by question. Without
    question_accuracy (an older scores.json) it is that of two independent samples, which is larger.
    names: of both, for the refusal.
    """
    refuse_other_questions(before, after, names)
    if not ("question_accuracy" in before and "question_accuracy" in after):
        one, two = stage_result(before, maths), stage_result(after, maths)
        same = [name for name in one["subjects"] if name in two["subjects"]]
        value = {n: two["subjects"][n] - one["subjects"][n] for n in same}
        error = {n: math.hypot(two["subjects_se"][n], one["subjects_se"][n]) for n in same}
        return {"paired": False, "trained": maths, **in_short(value, error, maths)}
    value, error = {}, {}
    for name, then in sorted(before["question_accuracy"].items()):
        now = after["question_accuracy"][name]
        value[name], error[name] = mean_and_error(now[i] - then[i] for i in then)
    return {"paired": True, "trained": maths, **in_short(value, error, maths)}


def refuse_other_questions(before, after, names):
    """A difference of two scores means something only on the same questions."""
    one, two = ((s.get("data") or {}).get("questions") for s in (before, after))
    where = f"{names[0]} and {names[1]} did not answer the same questions"
    again = "Evaluate both on the same data, and with the same --subjects and --limit."
    if one and two and one != two:
        raise Refused(f"{where}: their data differ, as the 'data' of their scores.json tells. {again}")
    answered = [{(name, i) for name, of_subject in s.get("question_accuracy", {}).items() for i in of_subject}
                for s in (before, after)]
    if all("question_accuracy" in s for s in (before, after)) and (odd := answered[0] ^ answered[1]):
        raise Refused(f"{where}: {len(odd)} stand in one scores.json only, e.g. {min(odd)[1]}. {again}")


def gains_of_runs(gains):
    """Rows of a table, GAINS_HEADER: what the same stage gained in several runs, for maths, the others and
    every single one of them."""
    subjects = [n for n in gains[0]["subjects"] if all(n in g["subjects"] for g in gains)]
    subjects = [n for n in subjects if n != gains[0]["trained"]]
    pairs = {key: [(g[key], g[f"{key}_se"]) for g in gains] for key in ("maths", "others")}
    pairs |= {n: [(g["subjects"][n], g["subjects_se"][n]) for g in gains] for n in subjects}
    rows = []
    for name, of_runs in pairs.items():
        values, errors = zip(*of_runs)
        if None in values:  # there is no maths, or nothing else
            continue
        mean, error = pooled(values, errors)
        _, between = mean_and_error(values)
        times = t_times(len(values) - 1) if len(values) > 1 else None
        smallest, largest = (percent(end(values), sign="+") for end in (min, max))
        rows.append([name.replace("_", " "), percent(mean, sign="+"), span(mean, error),
                     span(mean, between, times), smallest, largest, percent(error and 2 * error)])
    return rows
