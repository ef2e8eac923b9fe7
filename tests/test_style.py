"""What ruff has no rule for: short functions, plain expressions, imports that only go down, no torch below.

A rule is a function of source text that returns its findings, "line: what is wrong". It is tried twice: on a
made-up source that breaks it, so that it is seen to fail, and on the files of the repository.
"""
import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("grpo.py", "sft.py", "connector_tune.py")
parse = lru_cache(None)(ast.parse)
LONG = {**dict.fromkeys(STAGES, ("train", "supervise")), "eval_mmmu.py": ("evaluate",)}  # 110 lines
READ = ("grpo.py", "sft.py", "model.py", "connector.py", "data.py", "pack.py", "rollout.py", "reward.py")
NO_TORCH = ("reward", "signals", "report", "machinery.files", "machinery.run", "machinery.run")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)


def tracked():
    """{path: text} of the code that git knows. Without git: all but data, results and environments."""
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    paths = [Path(p) for p in git.stdout.splitlines()] or [p.relative_to(ROOT) for p in ROOT.rglob("*")]
    paths = [p for p in paths if p.parts[0] not in ("data", "out") and not p.parts[0].startswith(".venv")]
    code = [p for p in paths if p.suffix in (".py", ".sh", ".toml") or p.name == "Makefile"]
    return {str(p): (ROOT / p).read_text() for p in code if (ROOT / p).is_file()}


def nodes(source, *kinds):
    return [node for node in ast.walk(parse(source)) if isinstance(node, kinds)]


# ---------------------------------------------------------------------------------------- rules of one source

def long_functions(source, path):
    lines = {f: f.end_lineno - f.lineno + 1 for f in nodes(source, *FUNCTIONS)}
    long = [f for f, n in lines.items() if n > (110 if f.name in LONG.get(path, ()) else 60)]
    return [f"{f.lineno}: {f.name} has {lines[f]} lines" for f in long]


def deep_blocks(source, path):
    out = []

    def visit(node, depth):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FUNCTIONS):
                continue  # is counted from its own body
            is_elif = isinstance(node, ast.If) and child.col_offset == node.col_offset
            below = depth + (isinstance(child, BLOCKS) and not is_elif)
            if depth < below == 5:
                out.append(f"{child.lineno}: five levels deep")
            visit(child, below)

    for f in nodes(source, *FUNCTIONS):
        visit(f, 0)
    return out


def nested_conditionals(source, path):
    nested = [n for n in nodes(source, ast.IfExp) if sum(isinstance(m, ast.IfExp) for m in ast.walk(n)) > 1]
    return [f"{n.lineno}: a conditional expression inside another" for n in nested]


def long_comprehensions(source, path):
    found = nodes(source, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    long = [n for n in found if sum(1 + len(g.ifs) for g in n.generators) > 2]
    return [f"{n.lineno}: a comprehension of more than two clauses" for n in long]


def assigned_lambdas(source, path):
    found = [n for n in nodes(source, ast.Assign) if isinstance(n.value, ast.Lambda)]
    return [f"{n.lineno}: a lambda gets a name: use def" for n in found if isinstance(n.targets[0], ast.Name)]


def wide_lines(source, path):
    return [f"{i}: {len(line)} columns" for i, line in enumerate(source.split("\n"), 1) if len(line) > 110]


def touched_paths(source, path):
    return [f"{i}: sys.path" for i, line in enumerate(source.split("\n"), 1) if "sys.path" in line]


def comment_share(source, path):
    """Lines with a comment or of a docstring: a fifth to a third of all lines that are not empty. Fields of
    dataclasses, whose comments are the --help, are left out."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    told = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    for n in nodes(source, ast.Module, ast.ClassDef, *FUNCTIONS):
        if ast.get_docstring(n) is not None:
            told |= {*range(n.body[0].lineno, n.body[0].end_lineno + 1)}
    fields = {n.lineno for n in nodes(source, ast.AnnAssign)}
    lines = {i for i, line in enumerate(source.split("\n"), 1) if line.strip()} - fields
    share = len(told & lines) / len(lines)
    return [] if 1 / 5 <= share <= 1 / 3 else [f"1: {share:.1%} of the lines are comments, not 20 to 33%"]


# ------------------------------------------------------------------------------ rules of {module: its source}

def imports(source, modules):
    names = [a.name for n in nodes(source, ast.Import) for a in n.names]
    for n in nodes(source, ast.ImportFrom):
        names += [n.module or "", *(f"{n.module}.{a.name}" for a in n.names)]
    return [name for name in dict.fromkeys(names) if name in modules]


def circles(modules):
    """The shortest way from each module back to itself, imports inside functions too; each circle once."""
    graph, found = {name: imports(source, modules) for name, source in modules.items()}, {}
    for start in modules:
        ways, seen = [[start]], set()
        for way in ways:  # grows while it is read: breadth first
            for name in [n for n in graph[way[-1]] if n not in seen]:
                seen.add(name)
                ways.append(way + [name])
                if name == start:
                    found.setdefault(frozenset(way), " -> ".join(way + [name]))
    return list(found.values())


def upward_imports(modules):
    """What lies in scoring/ and machinery/ knows nothing of the top, of tiny, bench and tests."""
    below = re.compile(r"(scoring|machinery)\.")
    graph = {name: imports(source, modules) for name, source in modules.items() if below.match(name)}
    pairs = [(name, other) for name in graph for other in graph[name]]
    return [f"{name} imports {other}" for name, other in pairs if not below.match(other)]


def crowded_top(modules):
    top = [name for name, path in modules.items() if "/" not in path]
    return [f"{len(top)} Python files in the top folder: {' '.join(top)}"] if len(top) > 16 else []


def loads_torch(modules, folder):
    """The first of the modules whose import loads torch, or fails, in a process of its own."""
    code = f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
    code += "    if 'torch' in sys.modules:\n        sys.exit(name + ' loads torch')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    return done.stderr.splitlines()[-1:] if done.returncode else []


# -------------------------------------------------------------------------------------------------- the tests

FILES = tracked()
PYTHON = [path for path in FILES if path.endswith(".py")]
# as they are imported: tests, tiny and bench lie on the path, scoring and machinery are packages
NAMES = {re.sub(r"^(tests|tiny|bench)/(.*/)?", "", path)[:-3].replace("/", "."): path for path in PYTHON}
MODULES = {name: FILES[path] for name, path in NAMES.items()}
DEEP = "def f():\n" + "".join(f"{' ' * i}if {i}:\n" for i in range(1, 6)) + " " * 6 + "pass"
RULES = {  # rule: its files, and a source that breaks it once
    long_functions: (PYTHON, "def f():\n" + "    pass\n" * 60),
    deep_blocks: (STAGES, DEEP),
    nested_conditionals: (PYTHON, "x = 1 if a else 2 if b else 3"),
    long_comprehensions: (PYTHON, "x = [c for a in b for c in a if c]"),
    assigned_lambdas: (PYTHON, "f = lambda x: x"),
    wide_lines: (FILES, "x = " + "1" * 107),
    touched_paths: ([path for path in PYTHON if path != "tests/test_style.py"], "sys.path.append(x)"),
    comment_share: (READ, "x = 1  # one\n" + "y = 2\n" * 6),
}
RULES_OF_MODULES = {
    circles: (MODULES, {"a": "import b", "b": "def f():\n from c.d import e", "c.d": "from a import x"}),
    upward_imports: (MODULES, {"scoring.x": "import data", "data": ""}),
    crowded_top: (NAMES, {f"m{i}": f"m{i}.py" for i in range(17)}),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    files, bad = RULES[rule]
    assert len(rule(bad, "x.py")) == 1, "it does not see what is wrong"
    files = [path for path in files if path in FILES]
    found = [f"{path}:{what}" for path in files for what in rule(FILES[path], path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", RULES_OF_MODULES, ids=lambda rule: rule.__name__)
def test_rule_of_modules(rule):
    modules, bad = RULES_OF_MODULES[rule]
    assert len(rule(bad)) == 1, "it does not see what is wrong"
    assert not rule(modules), "\n".join(rule(modules))


def test_no_torch_below(tmp_path):
    (tmp_path / "bad.py").write_text("import torch")
    assert loads_torch(["bad"], tmp_path) == ["bad loads torch"]
    assert loads_torch([name for name in NO_TORCH if name in MODULES], ROOT) == []


def test_what_the_rules_let_pass():
    """An elif is no level, a function inside a function has its own, a stage's train may be long."""
    assert not deep_blocks("def f():\n    if 1:\n        pass\n" + "    elif 2:\n        pass\n" * 9, "")
    inner = ["def f():", "if 1:", "if 2:", "if 3:", "def g():", "if 4:", "for x in y:", "pass"]
    assert not deep_blocks("".join(f"{' ' * i}{line}\n" for i, line in enumerate(inner)), "")
    assert not long_functions("def train():\n" + "    pass\n" * 100, "grpo.py")
    assert not circles({"a": "import b, c", "b": "import c", "c": ""})
