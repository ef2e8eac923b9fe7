"""The scores.json of evaluations: put into one line a stage, and compared question by question."""
from machinery.files import Refused
from machinery.tables import mean_and_error, pooled


def stage_result(scores, maths="Math"):
    """One stage's line of results.json from its scores.json. `others` is the mean over the other subjects."""
    by_subject = dict(sorted(scores["subjects"].items()))
    value, error, n = ({name: s[key] for name, s in by_subject.items()} for key in ("rule", "rule_se", "n"))
    return {**in_short(value, error, maths), "n": n, "length": scores["length"]}


def in_short(value, error, maths):
    """{subject: value}, {subject: error} -> these with maths, the mean of the others and of all."""
    short = {"maths": value.get(maths), "maths_se": error.get(maths)}
    rest = [name for name in value if name != maths]
    for key, names in (("others", rest), ("all", list(value))):
        short[key], short[f"{key}_se"] = pooled([value[n] for n in names], [error[n] for n in names])
    return {**short, "subjects": value, "subjects_se": error}


def gain(before, after, names, maths="Math"):
    """What the second of two scores.json has more: {"trained", "maths", "maths_se", "others", ...}. Both
    answered the same questions, so errors are of differences question by question. names: of both."""
    one, two = before["question_accuracy"], after["question_accuracy"]
    asked, again = ((s.get("data") or {}).get("questions") for s in (before, after))
    odd = {i for of in one.values() for i in of} ^ {i for of in two.values() for i in of}
    if odd or asked and again and asked != again:
        raise Refused(f"{names[0]} and {names[1]} did not answer the same questions: evaluate both on the "
                      f"same data, with the same --subjects and --limit.")
    value, error = {}, {}
    for name, then in sorted(one.items()):
        value[name], error[name] = mean_and_error(two[name][i] - then[i] for i in then)
    return {"trained": maths, **in_short(value, error, maths)}
