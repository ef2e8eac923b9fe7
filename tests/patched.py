"""The forks of forks/, applied to copies of the files that they change and imported from there."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

# those of the table: a diff that somebody tries out and keeps there is nobody's concern
TABLE = re.findall(r"^\| \[`(\w+\.diff)`\]\((\w+\.diff)\)", (ROOT / "forks" / "README.md").read_text(), re.M)
FORKS = {Path(name).stem: ROOT / "forks" / name for name, _ in sorted(TABLE)}


def git_apply(fork, tree, *flags):
    """`git apply`, as a forker types it, in a folder that is no part of another repository."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(tree).parent)}
    command = ["git", "apply", *flags, FORKS[fork]]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
    if done.returncode:  # somebody's fork changes the same lines, which is nobody's concern either
        pytest.skip(f"forks/{fork}.diff does not apply any more: {done.stderr}")
    return done.stdout


def changes(fork):
    """{file: (lines added, lines deleted)}"""
    rows = [line.split("\t") for line in git_apply(fork, ROOT, "--numstat").splitlines()]
    return {file: (int(added), int(deleted)) for added, deleted, file in rows}


def patched(fork, folder):
    """The Python file of a fork as a module under its own name, such as fork_gspo. Applied in a copy of it
    below `folder`."""
    tree = Path(folder) / fork
    for file in changes(fork):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tree / file)
    git_apply(fork, tree)
    file, = [file for file in changes(fork) if file.endswith(".py")]
    spec = importlib.util.spec_from_file_location(f"fork_{fork}", tree / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
