"""--logger MODULE: a run's metrics also go to a module with wandb's `init` and `log`, or to TensorBoard.

metrics.jsonl has the same numbers, and it is what a run goes on from. No torch here but TensorBoard's. A
reader of the recipe may skip this file.
"""
import importlib
import inspect
from typing import Annotated

from tyro.conf import arg

from machinery.files import Refused, say

# the type of the flag. Its short name is for plain python: torchrun takes --log for its own --log_dir
Logger = Annotated[str, arg(aliases=["--log"])]


def open_logger(module, folder, run_id, config, step):
    """A function send(metrics, step). A run that goes on, behind `step`, writes where it wrote before: its
    run_id stays the same. What it throws stops no run."""
    if module == "tensorboard":
        return never_stopping(open_tensorboard(folder / "tensorboard", step), module)
    instead = f"Or leave --logger out: {folder}/metrics.jsonl has the same numbers."
    try:
        logger = importlib.import_module(module)
    except Exception as error:  # of any kind: what is found can be broken, or stop while it is set up
        raise Refused(f"--logger {module}: importing it failed ({in_short(error)}). pip install --upgrade "
                      f"{module}? {instead}") from error
    if not (callable(getattr(logger, "init", None)) and callable(getattr(logger, "log", None))):
        raise Refused(f"--logger {module}: this module has no init and log, as wandb, trackio and swanlab "
                      f"have. {instead}")
    # one knows a run again by its id (wandb, swanlab), another by its name (trackio)
    given = {"project": "nanoR1V", "name": f"{folder.name}-{run_id}", "id": run_id, "resume": "allow",
             "config": config}
    known = inspect.signature(logger.init).parameters
    try:
        logger.init(**{name: value for name, value in given.items() if name in known})
    except Exception as error:  # of its own kinds: not logged in, no network
        raise Refused(f"--logger {module}: its init failed ({in_short(error)}). Log in, or choose its "
                      f"offline mode. {instead}") from error
    return never_stopping(lambda metrics, step: logger.log(metrics, step=step), module)


def never_stopping(log, module):
    """log, but what it throws is said, at the first step and then ever more seldom, and the run goes on."""
    failed = 0

    def send(metrics, step):
        nonlocal failed
        try:
            log(metrics, step)
        except Exception as error:  # of any kind: a server's hiccup is no reason to end a night's run
            failed += 1
            if failed in (1, 10, 100, 1000, 10_000):
                say(f"step {step}: --logger {module} does not take its metrics ({in_short(error)}); {failed} "
                    f"of its steps so far are in metrics.jsonl alone. The run goes on.")
    return send


def open_tensorboard(folder, step):
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(folder, purge_step=step + 1)  # the steps behind it are computed again

    def send(metrics, step):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # or a run that is killed loses two minutes
    return send


def in_short(error):
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
