"""The pull-request check over real repositories, price book and tokenizer: sums, breaks and exit codes."""

import json
import subprocess
from pathlib import Path

import pytest

from farthing.core.types import Scope
from farthing.insight.ci_prompts import read
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry

HOUR = 3_600_000
LONG = "Answer every question of our customers from the handbook, in two sentences at most. " * 100


class Repository:
    """A git repository with prompts, a baseline, and an installation that prices it."""

    def __init__(self, folder: Path, monkey: "Chdir") -> None:
        self.folder = folder
        self.home = Home(folder)
        self.prompt("triage", {"model": "gpt-4o", "max_tokens": 400, "system": LONG})
        self.prompt("rank", {"model": "claude-sonnet-4-5", "system": LONG, "max_tokens": 100})
        self.home.book(self.traffic())
        monkey.to(folder)
        self.home.ok("baseline", "export")
        for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
            subprocess.run(
                ["git", "-c", "user.name=ci", "-c", "user.email=ci@example.com", *command], cwd=folder, check=True
            )

    def prompt(self, name: str, body: dict) -> None:
        path = self.folder / "prompts" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(body), encoding="utf-8")

    def traffic(self):
        for n in range(100):
            scope = Scope(feature="support", tags=(("prompt", "triage"),))
            tokens = (("input", 1200), ("output", 100 + n))
            yield an_entry(f"t{n}", 4_500_000, scope=scope, tokens=tokens, received_at_ms=NOW_MS - (n + 1) * HOUR)
            tokens = (("input", 100), ("input_cache_read", 1500), ("output", 50))
            yield an_entry(f"r{n}", 1_500_000, scope=Scope(feature="rank"), tokens=tokens, model="claude-sonnet-4-5",
                           received_at_ms=NOW_MS - (n + 1) * HOUR)  # fmt: skip

    def check(self, *more: str):
        return self.home.run("ci", "check", "--base", "main", *more)

    def diff(self) -> dict:
        return self.home.json("diff", "--base", "main")


class Chdir:
    """Changes the current directory, and back."""

    def __init__(self) -> None:
        self.before = Path.cwd()

    def to(self, folder: Path) -> None:
        import os

        os.chdir(folder)


@pytest.fixture
def repository(tmp_path):
    monkey = Chdir()
    yield Repository(tmp_path, monkey)
    monkey.to(monkey.before)


def test_nothing_changed_costs_nothing(repository):
    assert repository.diff()["rows"] == []
    assert repository.check().exit_code == 0


def test_a_cheaper_model_is_priced_with_the_traffic_of_the_baseline(repository):
    repository.prompt("triage", {"model": "gpt-4o-mini", "max_tokens": 400, "system": LONG})
    (row,) = repository.diff()["rows"]
    calls = round(100 * 2_629_800_000 / (30 * 86_400_000))
    assert row["calls"] == calls
    assert row["before_nusd"] == pytest.approx(calls * (1200 * 2_500 + 150 * 10_000), rel=0.01)
    assert row["after_nusd"] == pytest.approx(calls * (1200 * 150 + 150 * 600), rel=0.01)
    assert repository.check().exit_code == 0


def test_a_longer_prompt_fails_beyond_the_limit_and_passes_within_it(repository):
    repository.prompt("triage", {"model": "gpt-4o", "max_tokens": 400, "system": LONG * 2})
    result = repository.check("--max-increase", "10%")
    assert result.exit_code == 1
    assert "the increase is above 10.00 %" in result.stdout
    assert repository.check("--max-increase", "900%").exit_code == 0
    assert repository.home.run("check", "--max-increase", "10%", "--base", "main").exit_code == 1
    assert repository.home.run("check", "--max-increase", "900%", "--base", "main").exit_code == 0


def test_a_date_in_the_prefix_breaks_the_cache_and_says_where(repository):
    repository.prompt(
        "rank", {"model": "claude-sonnet-4-5", "system": "Today is {{date}}.\n" + LONG, "max_tokens": 100}
    )
    table = repository.diff()
    (row,) = table["rows"]
    assert row["cache"].startswith("break")
    lost = 1500 * (3_000 - 300)
    assert row["change_nusd"] == pytest.approx(row["calls"] * lost, rel=0.05)
    assert "{{date}}" in " ".join(table["notes"])
    assert repository.check("--max-increase", "9999%").exit_code == 0
    assert repository.check("--max-increase", "9999%", "--strict").exit_code == 1


def test_a_model_whose_cache_wants_longer_prefixes_loses_what_was_read(repository):
    repository.prompt("rank", {"model": "claude-haiku-4-5", "system": LONG, "max_tokens": 100})
    (row,) = repository.diff()["rows"]
    assert row["cache"].startswith("break: prefix has ")
    assert "below 4,096" in row["cache"]
    assert row["after_nusd"] == pytest.approx(row["calls"] * (1_600 * 1_000 + 50 * 5_000), rel=0.01)


def test_a_cap_cuts_the_answers_that_are_longer(repository):
    repository.prompt("triage", {"model": "gpt-4o", "max_tokens": 120, "system": LONG})
    (row,) = repository.diff()["rows"]
    before, after = (sum(min(100 + n, cap) for n in range(100)) / 100 for cap in (400, 120))
    assert row["change_nusd"] == pytest.approx(-row["calls"] * (before - after) * 10_000, rel=0.03)


def test_a_model_without_a_price_is_an_error(repository):
    repository.prompt("triage", {"model": "gpt-99-mystery", "max_tokens": 400, "system": LONG})
    result = repository.check("--format", "md")
    assert result.exit_code == 1
    assert "❌" in result.stdout
    assert result.stdout.startswith("<!-- farthing-ci -->")
    assert "no known price" in result.stdout


def test_a_dominated_model_is_named_only_with_measured_quality(repository):
    scores = repository.folder / "scores.csv"
    scores.write_text("model,score\ngpt-4o,0.90\ngpt-4.1-mini,0.91\n", encoding="utf-8")
    assert "dominated" not in repository.check().stdout
    assert "gpt-4o is dominated by gpt-4.1-mini" in repository.check("--quality", str(scores)).stdout


def test_policy_changes_are_listed(repository):
    repository.home.config.write_text('[[budgets]]\nname = "all"\nper = "day"\nusd = "5"\n', encoding="utf-8")
    notes = " ".join(repository.diff()["notes"])
    assert "budget all: new" in notes
    assert "policy" in notes


def test_a_folder_serves_as_base_and_annotations_name_the_line(repository, tmp_path):
    base = repository.folder / "old"
    (base / "prompts").mkdir(parents=True)
    for path in (repository.folder / "prompts").iterdir():
        (base / "prompts" / path.name).write_bytes(path.read_bytes())
    repository.prompt("rank", {"model": "claude-sonnet-4-5", "system": "Line one\n{{now}}" + LONG, "max_tokens": 100})
    said = repository.home.ok("ci", "check", "--base", str(base), "--max-increase", "9999%", "--format", "github")
    assert said.startswith("::warning file=prompts/rank.json,line=2::")


@pytest.mark.parametrize(
    "arguments", [["--base", "no-such-ref"], ["--baseline", "nowhere.json"], ["--max-increase", "much"]]
)
def test_what_cannot_be_read_ends_with_two(repository, arguments):
    assert repository.check(*arguments).exit_code == 2


def test_a_broken_prompt_ends_with_two_and_names_the_file(repository):
    (repository.folder / "prompts" / "bad.json").write_text("{", encoding="utf-8")
    result = repository.check()
    assert result.exit_code == 2
    assert "bad.json" in result.stderr


@pytest.mark.parametrize(
    ("file", "text", "model", "prefix"),
    [
        ("p/a.md", "---\nmodel: gpt-4o\nid: x\n---\nYou help {user} now", "gpt-4o", "You help "),
        ("p/a.toml", 'model = "m"\nsystem = "Be brief. ${name}"', "m", "Be brief. "),
        ("p/a.yaml", "model: m\nmessages:\n- {role: system, content: 'A {{ b }}'}", "m", "system: A "),
        ("p/a.json", '{"model": "m", "system": "a", "tools": [{"name": "t"}]}', "m", '{"name":"t"}\na'),
        ("p/a.txt", "no model at all", "", "no model at all"),
    ],
)
def test_prompts_are_read_in_every_form_and_end_at_the_first_value(file, text, model, prefix):
    found = read(file, text)
    assert (found.model, found.prefix) == (model, prefix)


def test_two_hundred_prompts_are_counted_and_read_once_each(repository):
    """Work, not time: one git process for the tree and one for all files, each text counted once a side."""
    for n in range(200):
        repository.prompt(f"p{n}", {"model": "gpt-4o", "system": f"{n} {LONG}"})
    assert len(repository.diff()["rows"]) == 200


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("deep.yaml", "[" * 100_000, "deep.yaml: is nested too deep"),
        ("deep.json", '{"messages":' + "[" * 100_000, "deep.json: is nested too deep"),
        ("head.md", "---\nmodel: [a\n---\ntext", "head.md: while parsing"),
        ("odd.yaml", "model: m\nmessages:\n  - {? [a, b] : c}\n", "odd.yaml: "),
    ],
)
def test_what_is_no_prompt_is_a_message_with_its_file(file, text, said):
    with pytest.raises(ValueError, match=said):
        read(file, text)


def test_line_ends_and_marks_of_editors_are_no_change():
    plain = read("a.md", "---\nmodel: m\n---\nYou help.\nToday is {date}.\n")
    assert read("a.md", "\ufeff---\r\nmodel: m\r\n---\r\nYou help.\r\nToday is {date}.\r\n") == plain
    assert plain.model == "m"


def test_files_in_another_encoding_are_named(repository):
    (repository.folder / "prompts" / "latin.txt").write_bytes("Grüße".encode("cp1252"))
    found = repository.check()
    assert found.exit_code == 2
    assert "latin.txt is no UTF-8 text (byte 2)" in found.output
    (repository.folder / "rules.toml").write_bytes("ü".encode("cp1252"))
    found = repository.home.run("allocate", "preview", str(repository.folder / "rules.toml"))
    assert (found.exit_code, "rules.toml is no UTF-8 text (byte 0)" in found.output) == (2, True)
    for name in ("labels.csv", "labels.jsonl"):
        (repository.folder / name).write_bytes(b"prompt,correct:a\n\xff,1\n" if name[-3:] == "csv" else b"{\n")
        found = repository.home.run("route", "train", name, "--strong", "a", "--out", "x")
        assert found.exit_code != 0
        assert name in found.output


def test_cells_beyond_the_header_of_labels_are_no_crash(repository):
    (repository.folder / "labels.csv").write_text("prompt\na,1,2\n", encoding="utf-8")
    found = repository.home.run("route", "train", "labels.csv", "--strong", "a", "--out", "x")
    assert "names 0 models" in found.output


def test_untagged_cost_has_one_row_when_it_is_not_split(repository):
    found = repository.home.json("allocate", "untagged", "--by", "")
    assert len(found["rows"]) == 1
