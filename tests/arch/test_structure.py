"""The house rules that can be checked by reading the code: layers, sizes, docstrings, codes and banned calls."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from farthing.core import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "farthing"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES_MAX = 500
FUNCTION_LINES_MAX = 70
LONG_FUNCTIONS: dict[str, str] = {}
"""Function → why splitting it would hide something."""

PURE = ("core", "wire", "ports")
BANNED_CALLS = {
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns", "time.monotonic",
    "uuid.uuid1", "uuid.uuid4", "random.random", "random.randint", "random.choice", "os.urandom", "os.getenv",
    "open", "input", "print",
}  # fmt: skip
MONEY = ("core/money.py", "core/pricing.py", "core/budget.py", "core/price_book.py", "core/allocation.py")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@pytest.mark.parametrize("command", [("lint-imports", "--no-cache"), ("mypy",)], ids=["layers", "types"])
def test_every_layer_contract_and_every_type_holds(command):
    tool, *options = command
    done = subprocess.run(
        [str(Path(sys.executable).parent / tool), *options], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_too_long_to_read():
    assert [name(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > LINES_MAX] == []


def test_no_function_is_too_long_to_hold_in_mind():
    long = {
        f"{name(path)}::{node.name}"
        for path in FILES
        for node in functions(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long <= set(LONG_FUNCTIONS), long - set(LONG_FUNCTIONS)
    assert long == set(LONG_FUNCTIONS), "take out what is short by now"


def _undocumented(body: list[ast.stmt], where: str) -> Iterator[str]:
    """Public classes and functions of a module without a docstring; methods that implement a port need none."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{where}::{node.name}"


def test_every_public_module_class_and_function_says_what_it_is():
    silent: list[str] = []
    for path in FILES:
        module = tree(path)
        if module.body and not ast.get_docstring(module):
            silent.append(name(path))
        silent.extend(_undocumented(module.body, name(path)))
    assert silent == []


def test_error_codes_are_unique_and_say_whether_to_try_again():
    def every(kind: type[errors.FarthingError]) -> Iterator[type[errors.FarthingError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from every(child)

    own = [kind for kind in every(errors.FarthingError) if "code" in vars(kind)]
    codes = [kind.code for kind in own]
    assert len(codes) == len(set(codes))
    assert all(code.replace("_", "").isalnum() and code.islower() for code in codes)


def test_what_is_pure_reads_no_clock_no_chance_and_no_file():
    pure = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in PURE]
    assert len(pure) > 40
    assert [f"{name(path)}:{line}" for path in pure for called, line in calls(path) if called in BANNED_CALLS] == []


@pytest.mark.parametrize("module", MONEY)
def test_money_is_never_a_float(module):
    path = PACKAGE / module
    if not path.exists():
        assert module == "core/allocation.py", "renamed? then rename it here too"
        return
    found = [(called, line) for called, line in calls(path) if called == "float"]
    literals = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    ]
    divisions = [
        node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    ]
    assert (found, literals, divisions) == ([], [], [])


LAST_LINES_OF_DEFENCE = {
    "farthing/server/app.py": "a caller must get an answer, whatever is wrong in here",
    "farthing/engine/background.py": "work that no request awaits must not end for ever",
    "farthing/engine/semantic.py": "a lever's defect must not cost the caller an answer",
    "farthing/adapters/embed_onnx.py": "the runtime raises bare Exception for files and inputs it cannot read",
    "farthing/adapters/tokenizers_calibrated.py": "its thread must outlive a body that it cannot read",
    "farthing/adapters/http_reply.py": "what is raised while passing chunks on belongs to their consumer",
    "farthing/lab/replay_time.py": "what a thread's work raises belongs to whoever awaits it",
}
"""Where everything is caught → why nothing narrower will do."""


def test_everything_is_caught_only_where_it_is_said_why():
    found = {
        name(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type is not None and ast.unparse(node.type) == "Exception"
    }
    assert found == set(LAST_LINES_OF_DEFENCE)


def test_no_module_is_a_drawer_for_leftovers():
    leftovers = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}
    assert not [name(path) for path in FILES if path.stem in leftovers]


def test_a_gateway_can_be_built_twice_in_one_process(tmp_path):
    from farthing import bootstrap
    from farthing.config import parse

    def built(folder: str) -> object:
        home = tmp_path / folder
        return bootstrap.build(parse("", env={"HOME": str(home), "FARTHING_HOME": str(home)}, source="")).services

    assert built("one") is not built("two")


WITHOUT_EXTRAS = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
import farthing.bootstrap, farthing.demo.run
from farthing.cli import COMMANDS
for where, _ in COMMANDS.values():
    importlib.import_module(where.partition(":")[0])
"""


def test_the_gateway_and_every_command_start_without_any_extra():
    extras = {"psycopg", "valkey", "libvalkey", "duckdb", "pyarrow", "chdb", "apprise", "mcp", "langchain_core",
              "numpy", "onnxruntime", "tokenizers", "usearch", "hypothesis", "pytest"}  # fmt: skip
    code = WITHOUT_EXTRAS.replace("{extras}", repr(extras))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
