"""``farthing price`` over real books: what it prints, writes and refuses, and its exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farthing.adapters.price_feeds import BookPrices, Loaded, load_book, price_files
from farthing.adapters.price_files import append_document, take_file
from farthing.cli.context import App
from farthing.cli.price import price
from farthing.config import Settings

NOW = 1_795_255_200_000  # 2026-11-21T10:00:00Z
GOLDEN = Path(__file__).parent.parent / "golden"


class Stores:
    """The parts of bootstrap that these commands use, over one home."""

    def load_settings(self, config_path: str | None, home: str | None) -> Settings:
        return Settings(home=str(home))

    def price_book(self, settings: Settings) -> BookPrices:
        return BookPrices(self.load_prices(settings).book)

    def load_prices(self, settings: Settings, files=None, *, corrections: bool = True) -> Loaded:
        return load_book(price_files(settings.home) if files is None else files, corrections=corrections)

    def append_prices(self, settings: Settings, file: str, document: str) -> Path:
        return append_document(settings.home, file, document)

    def take_prices(self, settings: Settings, source: str, file: str) -> Path:
        return take_file(settings.home, source, file)


@pytest.fixture
def run(tmp_path):
    def call(*words: str) -> Result:
        app = App(stores=Stores(), now_ms=lambda: NOW)
        app.home = str(tmp_path)
        return CliRunner().invoke(price, list(words), obj=app)

    return call


def rows(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.output)["rows"]


def test_show_gives_every_row_with_its_conditions_and_source(run):
    found = rows(run("show", "gpt-4o", "--format", "json"))
    batch = next(row for row in found if row["unit"] == "input" and "batch" in row["when"])
    assert batch["usd"] == "1.25"
    assert batch["source_url"].startswith("https://")


def test_show_at_a_date_shows_the_price_of_that_date(run):
    def cached(day: str) -> str:
        found = rows(run("show", "openai/o3", "--as-of", day, "--format", "json"))
        plain = [row for row in found if row["unit"] == "input_cache_read" and not row["when"]]
        return next(row["usd"] for row in plain if row["layer"] == "list")

    assert cached("2025-06-01") == "0.50"
    assert "2.50" in run("show", "openai/o3", "--as-of", "2025-06-01").output


def test_show_of_an_unknown_model_names_similar_ones_and_exits_1(run):
    result = run("show", "4o-min")
    assert result.exit_code == 1
    assert "openai/gpt-4o-mini" in result.output
    assert "anthropic/claude-sonnet-4-6" in run("show", "claude-sonet-4-6").output
    assert 'did you mean "openai"?' in run("ls", "--provider", "opnai").output


def test_ls_lists_a_providers_models_with_their_prices(run):
    found = rows(run("ls", "--provider", "deepseek", "--format", "json"))
    assert next(row for row in found if row["model"] == "deepseek-v4-pro")["input"] == "0.66"
    assert run("ls", "--provider", "nobody").exit_code == 1


def test_verify_prints_each_row_and_a_last_line_and_exits_0_when_all_agree(run):
    result = run("verify", str(GOLDEN / "pricing_vectors.json"))
    assert result.exit_code == 0, result.output
    assert result.output.strip().splitlines()[-1] == "65 of 65 exact, 0 different, 0 unpriced"


def test_verify_exits_1_on_any_difference(run, tmp_path):
    vectors = json.loads((GOLDEN / "pricing_vectors.json").read_text("utf-8"))[:2]
    vectors[1]["expected_usd"] = "0.017600001"
    path = tmp_path / "v.json"
    path.write_text(json.dumps(vectors))
    result = run("verify", str(path))
    assert result.exit_code == 1
    assert "1 of 2 exact, 1 different, 0 unpriced" in result.output
    path.write_text("{}")
    assert run("verify", str(path)).exit_code == 1


def test_set_appends_a_dated_row_that_the_next_command_uses(run, tmp_path):
    done = run("set", "openai/gpt-4o", "input=2", "output=8", "--from", "2026-11-22", "--note", "framework contract")
    assert done.exit_code == 0, done.output
    own = (tmp_path / "prices" / "own.yml").read_text()
    assert "framework contract" in own
    assert rows(run("ls", "--provider", "openai", "--format", "json", "--as-of", "2026-11-21"))
    after = rows(run("ls", "--provider", "openai", "--format", "json", "--as-of", "2026-11-22"))
    assert next(row for row in after if row["model"] == "gpt-4o")["output"] == "8.00"
    again = run("set", "openai/gpt-4o", "input=3", "--from", "2026-11-22")
    assert "same instant" in str(again.exception or again.output)
    assert (tmp_path / "prices" / "own.yml").read_text() == own


def test_set_refuses_the_past_and_what_is_no_unit(run):
    assert "backdate" in run("set", "acme/m", "input=1", "--from", "2026-01-01").output
    assert run("set", "acme/m", "input=1", "--from", "2026-01-01", "--backdate").exit_code == 0
    assert run("set", "acme/m", "tokens=1", "--from", "2026-12-01").exit_code == 2
    assert run("set", "m", "input=1", "--from", "2026-12-01").exit_code == 2


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("input=0.0000025", "is it dollars for one? Write dollars a million"),
        ("input=2500000", "is more than anybody asks ($10000): prices here are dollars a million"),
        ("web_search=10000000", "prices here are dollars a thousand"),
        ("input_audio_ms=360000", "prices here are dollars an hour"),
    ],
)
def test_a_price_for_another_number_of_units_is_refused_with_a_hint(run, tmp_path, price, said):
    refused = run("set", "openai/gpt-4o", price, "--from", "2026-12-01")
    assert refused.exit_code != 0
    assert said in str(refused.exception)
    assert not list(tmp_path.glob("prices/*"))


def test_a_price_far_from_the_list_is_taken_and_named(run):
    done = run("set", "openai/gpt-4o", "input=250", "output=9", "--from", "2026-12-01")
    assert (done.exit_code, done.stderr.count("Note:")) == (0, 1)
    assert "100 times the listed price" in done.stderr
    found = rows(run("check", "--format", "json"))
    (far,) = [row for row in found if row["kind"] == "far"]
    assert far["where"].startswith("openai/gpt-4o/input;from=2026-12-01")


def test_update_takes_a_file_only_when_asked(run, tmp_path):
    source = tmp_path / "deal.yml"
    source.write_text("provider: acme\nsource: contract\nmodels: [{id: m, prices: [{input: '1', output: '2'}]}]\n")
    assert run("update", "--from", str(source)).exit_code == 0
    assert rows(run("ls", "--provider", "acme", "--format", "json"))[0]["input"] == "1.00"


def test_diff_shows_prices_that_changed_between_two_dates_and_two_books(run):
    found = rows(run("diff", "2026-08-01", "2026-08-22", "--format", "json"))
    assert {"gpt-5.6-sol", "deepseek-v4-pro"} <= {row["model"] for row in found}
    layers = rows(run("diff", "base", "shipped", "--format", "json"))
    assert any(row["model"] == "ft:gpt-4o" and row["unit"] == "input_cache_read" for row in layers)


def test_check_reports_dust_and_rows_that_decide_nothing(run, tmp_path):
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "a.yml").write_text(
        "provider: openai\nsource_url: https://example.com/prices\nchecked_on: 2026-10-01\n"
        "models: [{id: gpt-4o, prices: [{input: '2.5'}]}]\n"
    )
    kinds = {row["kind"] for row in rows(run("check", "--format", "json"))}
    assert {"dust", "stale", "redundant"} <= kinds
