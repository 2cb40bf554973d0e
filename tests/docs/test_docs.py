"""The documentation says what the code does: every setting, error code, command and dimension."""

import inspect
import re
import sqlite3
from pathlib import Path

import pytest

from farthing.adapters.sqlite_schema import connect, migrate
from farthing.cli import COMMANDS
from farthing.cli.reference import reference
from farthing.cli.sql import VIEWS
from farthing.config import grammar, parse
from farthing.config.presets import PRESETS
from farthing.core import errors
from farthing.core.budget_check import is_budget_dimension
from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS, SHORT_NAMES, TIME_DIMENSIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
ENV = {"HOME": "/home/ada"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {heading}"
    return found[1]


def first_cells(text: str) -> set[str]:
    """Every `code` word in the first cells of tables."""
    return {
        word for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for word in re.findall(r"`([^`]+)`", row)
    }


SECTIONS = (
    [("Top", grammar.TOP)]
    + [(f"`[{name}]`", fields) for name, fields in grammar.SECTIONS.items()]
    + [(f"`[[{name}]]`", fields) for name, fields in grammar.LISTS.items()]
)


@pytest.mark.parametrize(("heading", "fields"), SECTIONS, ids=[heading for heading, _ in SECTIONS])
def test_every_setting_is_documented_and_no_other(heading, fields):
    assert first_cells(section(page("reference/configuration.md"), heading)) == set(fields)


def test_every_environment_variable_is_documented_and_no_other():
    assert first_cells(section(page("reference/configuration.md"), "Environment")) == set(grammar.ENVIRONMENT)


def test_the_documented_defaults_are_the_defaults():
    (text,) = [block for block in blocks(page("reference/configuration.md"), "toml") if "# all defaults" in block]
    documented, real = parse(text, env=ENV, source=""), parse("", env=ENV, source="")
    assert documented == real


def test_the_documented_value_of_a_default_is_that_of_the_table():
    text = page("reference/configuration.md")
    (defaults,) = [block for block in blocks(text, "toml") if "# all defaults" in block]
    for heading, name in (("Top", ""), *((f"`[{name}]`", name) for name in grammar.SECTIONS)):
        part = re.search(rf"^\[{name}\]\n(.*?)(?=^\[|\Z)", defaults, re.MULTILINE | re.DOTALL) if name else None
        written = dict(re.findall(r"^(\w+) = (.+)$", part[1] if part else defaults.split("\n[")[0], re.MULTILINE))
        for key, value in re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section(text, heading), re.MULTILINE):
            assert written[key] == value, f"{heading} {key}"


def test_every_known_provider_is_documented():
    known = section(page("reference/configuration.md"), "`[[providers]]`")
    for name in PRESETS:
        assert f"`{name}`" in known


def test_every_dimension_of_a_budget_is_documented():
    text = section(page("reference/configuration.md"), "`[[budgets]]`")
    for name in (*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS):
        if is_budget_dimension(name):
            assert f"`{name}`" in text


TOML = [(path, block) for path in PAGES for block in blocks(path.read_text(encoding="utf-8"), "toml")]


@pytest.mark.parametrize(("path", "block"), TOML, ids=[f"{path.name}-{n}" for n, (path, _) in enumerate(TOML)])
def test_every_configuration_shown_anywhere_is_valid(path, block):
    parse(block, env=ENV, source=path.name)


def test_every_error_code_is_documented_with_its_status_and_no_other():
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.FarthingError)]
    real = {(one.code, str(one.http_status), "yes" if one.retryable else "no") for one in classes}
    documented = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \|", page("reference/errors.md"), re.MULTILINE)
    assert set(documented) == real
    assert len(documented) == len(real)


def test_error_codes_are_unique_but_for_the_root_of_bad_requests():
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.FarthingError)]
    codes = [one.code for one in classes if one is not errors.RequestError]
    assert len(codes) == len(set(codes))


def test_the_command_line_page_is_what_the_commands_say():
    assert page("reference/cli.md") == reference(), "run: python -m farthing.cli.reference > docs/reference/cli.md"


def test_every_command_named_in_the_documentation_exists():
    for path in PAGES:
        for name in re.findall(r"(?:`|^)farthing ([a-z]+)\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert name in COMMANDS, f"{path.name}: farthing {name}"


def test_every_dimension_is_documented_and_no_other():
    documented = first_cells(section(page("reference/sql.md"), "Dimensions"))
    assert documented == {*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS, *TIME_DIMENSIONS, *SHORT_NAMES, "tag:<name>"}


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.db"
    connection = connect(path)
    migrate(path, connection)
    yield connection
    connection.close()


def test_every_view_is_documented_and_every_statement_shown_runs(ledger: sqlite3.Connection):
    text = section(page("reference/sql.md"), "SQL")
    assert {name for name, _ in VIEWS} == {
        row[0] for row in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'view'")
    }
    for name, _ in VIEWS:
        assert f"| `{name}` |" in text
    for statement in blocks(text, "sql"):
        ledger.execute(statement).fetchall()


def test_the_readme_is_short():
    words = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL).split()
    assert len(words) <= 600


LINKS = [(path, link) for path in PAGES for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("path", "link"), LINKS, ids=[f"{path.name}-{link}" for path, link in LINKS])
def test_every_link_leads_somewhere(path, link):
    assert link.startswith("https://") or (path.parent / link).exists()
