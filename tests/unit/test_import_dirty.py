"""Files as people export them: separators, encodings, cases, decimals; a header that cannot do is said once."""

import gzip
import json
from pathlib import Path

import click
import msgspec
import pytest

from farthing.cli.importing import _encoding, _read
from farthing.lab.importer import gather
from farthing.lab.traces import SOURCES, TraceRow, read_rows

ROW = "2026-11-01T10:00:00Z"
CSV = SOURCES["csv"]


def rows_of(text: str, columns: tuple[tuple[str, str], ...] = CSV.columns) -> tuple[list[TraceRow], list[str]]:
    source = msgspec.structs.replace(CSV, columns=columns)
    rows, bad = gather(read_rows(text.splitlines(keepends=True), source))
    return rows, [f"{row.line}: {row.reason}" for row in bad]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_usual_separator_is_read(separator):
    text = f'time,input,output,team\r\n{ROW},1234,56,"söök"\r\n'.replace(",", separator)
    rows, bad = rows_of("\ufeff\r\n" + text)
    assert not bad
    assert [(row.input_tokens, row.output_tokens, row.labels) for row in rows] == [(1234, 56, (("team", "söök"),))]


def test_columns_are_known_in_any_case_unless_that_is_ambiguous():
    assert len(rows_of(f"Time,INPUT,output\n{ROW},1,2\n")[0]) == 1
    (said,) = rows_of(f"Time,Input,INPUT,output\n{ROW},1,1,2\n")[1]
    assert "no column for input" in said


def test_a_header_that_cannot_do_is_said_once_with_all_that_is_wrong():
    columns = (*CSV.columns, ("teem", "team"))
    rows, bad = rows_of(f"timestamp,input,output,output\n{ROW},1,2,2\n{ROW},1,2,2\n", columns)
    assert not rows
    (said,) = bad
    assert said.startswith("1: the header has no column for time (time)")
    assert "the mapped 'teem'" in said
    assert "'output' more than once" in said
    assert "timestamp, input, output" in said


@pytest.mark.parametrize(("written", "tokens"), [("374.0", 374), ("374.00", 374), ("0.0", 0)])
def test_counts_that_were_once_floating_point_are_counts(written, tokens):
    (row,), bad = rows_of(f"time,input,output\n{ROW},{written},1\n")
    assert (row.input_tokens, bad) == (tokens, [])
    (row,) = read_rows([f'{{"time": "{ROW}", "input": {written}, "output": 1}}'], SOURCES["jsonl"])
    assert isinstance(row, TraceRow)
    assert row.input_tokens == tokens


@pytest.mark.parametrize("written", ["1.000", "1.5", "1,5", "1 000", "-0.0", "1e3"])
def test_counts_that_may_mean_two_things_are_refused(written):
    rows, (said,) = rows_of(f'time,input,output\n{ROW},"{written}",1\n')
    assert not rows
    assert f"input is '{written}'; a whole number" in said


def test_texts_may_hold_what_unicode_calls_a_line_end():
    cell = f'"startTime": "{ROW}", "model": "gpt-4o-mini", "prompt_tokens": 5, "note": "x\u2028y\x85z"'
    lines = [f'{{"id": "{name}", {cell}}}\n' for name in ("a", "b")]
    rows, bad = gather(read_rows(lines, SOURCES["litellm"]))
    assert (len(rows), bad) == (2, [])


@pytest.mark.parametrize("latency", ["inf", "nan", "soon"])
def test_a_latency_that_is_none_is_a_bad_row(latency):
    header = "request_created_at,prompt_tokens,completion_tokens,model,request_id,latency\n"
    _, (bad,) = gather(read_rows([header, f"{ROW},1,1,gpt-4o-mini,a,{latency}\n"], SOURCES["helicone"]))
    assert f"latency is '{latency}'" in bad.reason


@pytest.mark.parametrize("cost", ["1e12", "-1e12", "NaN", "Infinity", "0,0012", "free"])
def test_a_cost_that_is_none_is_a_bad_row(cost):
    row = f'{{"request_id": "a", "startTime": "{ROW}", "model": "gpt-4o", "prompt_tokens": 5, "spend": "{cost}"}}'
    _, (bad,) = gather(read_rows([row], SOURCES["litellm"]))
    assert f"cost is '{cost}'; dollars are expected" in bad.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_how_a_file_is_written(tmp_path, encoding):
    file = tmp_path / "calls.csv"
    file.write_bytes(f"time,input,output,team\n{ROW},7,1,béton\n".encode(encoding))
    (row,), _ = _read(file, CSV, None, _encoding(file))
    assert row.labels == (("team", "béton"),)


def test_letters_that_cannot_be_read_are_told(tmp_path, capsys):
    file = tmp_path / "calls.csv"
    file.write_bytes(f"time,input,output,team\n{ROW},7,1,béton\n".encode("cp1252"))
    _read(file, CSV, None, _encoding(file))
    assert "1 lines have letters that could not be read" in capsys.readouterr().err
    (row,), _ = _read(file, CSV, None, "cp1252")
    assert row.labels == (("team", "béton"),)
    assert not capsys.readouterr().err


AT = 1_793_527_200_000
"""2026-11-01T10:00:00Z."""


@pytest.mark.parametrize(
    ("written", "at_ms"),
    [
        ("2026-11-01 10:00:00+00", AT),  # PostgreSQL
        ("2026-11-01 15:30:00.25+05:30", AT + 250),
        ("2026-11-01 12:00:00.123456+0200", AT + 123),
        ("2026-11-01 05:00:00 -05", AT),
        ("2026-11-01 10:00:00 UTC", AT),  # BigQuery
        ("2026-11-01T10:00:00,5z", AT + 500),
        ("2026-11-01T10:00Z", AT),
        ("20261101T100000Z", AT),
        ("2026-11-01", AT - 36_000_000),
        ("1793527200", AT),
        ("1793527200.25", AT + 250),
        ("1793527200250", AT + 250),
        ("1793527200250999", AT + 250),
        ("1793527200250999000", AT + 250),
    ],
)
def test_times_as_databases_and_tools_write_them(written, at_ms):
    (row,), bad = rows_of(f'time,input,output\n"{written}",1,2\n')
    assert (row.at_ms, bad) == (at_ms, [])


def test_a_number_of_json_is_a_time_too_with_its_fraction():
    text = [
        f'{{"time": {said}, "input": 1, "output": 2}}' for said in ("1793527200.5", "1793527200", "1793527200123")
    ]
    assert [row.at_ms - AT for row in read_rows(text, SOURCES["jsonl"])] == [500, 0, 123]


@pytest.mark.parametrize("written", ["11/01/2026 10:00:00", "20261101", "5", "2026-02-30T10:00:00Z", "-1", "1e9"])
def test_times_that_mean_nothing_certain_are_refused(written):
    rows, (said,) = rows_of(f"time,input,output\n{written},1,2\n")
    assert not rows
    assert f"time is '{written}'" in said


def test_a_packed_file_is_read_whatever_it_is_called(tmp_path):
    text = f"time,input,output\n{ROW},3,2\n".encode("utf-16")
    for name, content in (("a.csv.gz", gzip.compress(text)), ("a.csv", gzip.compress(text)), ("b.csv", text)):
        path = tmp_path / name
        path.write_bytes(content)
        (row,), bad = _read(path, CSV, None, _encoding(path))
        assert (row.input_tokens, bad) == (3, [])
    cut: Path = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(click.ClickException, match="cannot be unpacked"):
        _read(cut, CSV, None, "utf-16")


def test_a_span_that_cannot_be_read_takes_no_other_with_it():
    def told(name: str, value: object) -> dict[str, object]:
        return {"key": f"gen_ai.usage.{name}", "value": {"intValue": value}}

    every = []
    for number, tokens in enumerate(("7", "many", "9")):
        said = [told("input_tokens", tokens), told("output_tokens", "1")]
        every.append({"traceId": "ab", "spanId": f"{number}", "startTimeUnixNano": f"{AT}000000", "attributes": said,
                      "status": {"code": "STATUS_CODE_ERROR" if number else 0}})  # fmt: skip
    document = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": every}]}]})
    rows, bad = gather(read_rows([document], SOURCES["otel"]))
    assert [(row.input_tokens, row.failed) for row in rows] == [(7, False), (9, True)]
    (one,) = bad
    assert one.reason.startswith("span 1: ")
