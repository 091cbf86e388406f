"""What our code never does, whatever it is given: unpickle, run code out of files, hand words to a shell, trust a hub's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("run.py", "parallax", "lightning_modules", "datamodules", "augment")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
ONLY_AN_ERROR = {"UnpicklingError"}
BARE = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "pandas.read_pickle",
    "pd.read_pickle",
}  # fmt: skip


def files() -> list[Path]:
    return [
        path for top in CODE for path in ([ROOT / top] if top.endswith(".py") else sorted((ROOT / top).rglob("*.py")))
    ]


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What stands in a file and must not, in words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name.split(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            yield from (f"imports {alias.name}" for alias in node.names if alias.name not in ONLY_AN_ERROR)
        elif isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(call: ast.Call) -> Iterator[str]:
    name, named = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in CALLS or (isinstance(call.func, ast.Name) and name in BARE):
        yield f"calls {name}"
    if name == "torch.load" and named.get("weights_only") != "True":
        yield "calls torch.load without weights_only=True"
    if name.endswith(("np.load", "numpy.load")) and named.get("allow_pickle", "False") != "False":
        yield "loads numpy files with pickles"
    if named.get("shell", "False") != "False":
        yield f"hands {name} to a shell"
    if named.get("trust_remote_code", "False") != "False":
        yield f"trusts remote code in {name}"


def test_nothing_of_ours_unpickles_evaluates_or_trusts() -> None:
    found = {
        f"{path.relative_to(ROOT)} {words}" for path in files() for words in unsafe(ast.parse(path.read_text("utf-8")))
    }
    assert len(files()) > 200 and not found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "torch.load('x')", "torch.load('x', weights_only=False)", "eval('1')",
        "yaml.load(x)", "subprocess.run('ls', shell=True)", "A.from_pretrained('x', trust_remote_code=True)",
        "np.load('x', allow_pickle=True)", "os.system('ls')",
    ],
)  # fmt: skip
def test_the_search_finds(line: str) -> None:
    assert list(unsafe(ast.parse(line)))
