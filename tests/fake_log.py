"""What wandb, trackio and swanlab have in common, for the tests of --logger: it keeps what it is given."""
RUNS = []  # (what init was given, [(step, metrics)])


def init(project, name=None, id=None, resume=None, config=None):
    RUNS.append((dict(project=project, name=name, id=id, resume=resume, config=config), []))


def log(data, step=None):
    RUNS[-1][1].append((step, data))


def steps_of(out):
    """The steps that the runs with this --out have logged, in order."""
    logged = [logged for given, logged in RUNS if given["config"]["out"] == str(out)]
    return [step for rows in logged for step, _ in rows]
