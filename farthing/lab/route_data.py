"""Labelled prompts from files: what each model made of each prompt, and what it cost.

CSV, JSON Lines or Parquet with the columns ``prompt``, ``correct:<model>`` (0 to 1, or true and false) for at least
two models, and if known ``cost:<model>`` (USD), ``tag`` and ``id``. ``farthing eval --out`` writes this form.
"""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from farthing.core.errors import BadRequest
from farthing.core.money import parse_usd
from farthing.lab.route_train import Labelled, LabelledSet

_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_PROBLEMS_MAX = 10


def read_labels(path: Path) -> LabelledSet:
    """The labelled prompts of a file. Raises :class:`BadRequest` with every problem and its row."""
    try:
        rows = list(_rows(path))
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is no UTF-8 text (byte {error.start:,}).", hint="Save it as UTF-8.") from None
    except (csv.Error, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadRequest(
            f"{path} cannot be read: {error}.", hint="CSV, JSON Lines or Parquet, by its suffix."
        ) from None
    names = [name for name in (rows[0] if rows else {}) if isinstance(name, str)]  # None: cells beyond the header
    models = tuple(name.partition(":")[2] for name in names if name.startswith("correct:"))
    if len(models) < 2:
        raise BadRequest(
            f"{path}: names {len(models)} models.", hint="Columns prompt and correct:<model> for two models or more."
        )
    found: list[Labelled] = []
    problems: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_labelled(row, models, number))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        more = f"; and {len(problems) - _PROBLEMS_MAX} more" if len(problems) > _PROBLEMS_MAX else ""
        raise BadRequest(f"{path}: {'; '.join(problems[:_PROBLEMS_MAX])}{more}.")
    return LabelledSet(models=models, rows=tuple(found))


def write_labels(labelled: LabelledSet, path: Path) -> None:
    """The set as JSON Lines that :func:`read_labels` reads."""
    with path.open("wb") as out:
        for row in labelled.rows:
            fields: dict[str, object] = {"id": row.id, "prompt": row.prompt, "tag": row.tag}
            fields |= {f"correct:{m}": q for m, q in zip(labelled.models, row.quality, strict=True)}
            fields |= {f"cost:{m}": f"{c / 1e9:.9f}" for m, c in zip(labelled.models, row.cost, strict=False)}
            out.write(msgspec.json.encode(fields) + b"\n")


def _rows(path: Path) -> Iterable[Mapping[str, object]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(path).to_pylist())
    if path.suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as lines:
            return [msgspec.json.decode(line, type=dict[str, object]) for line in lines if line.strip()]
    with path.open(newline="", encoding="utf-8-sig") as text:
        return list(csv.DictReader(text))


def _labelled(row: Mapping[str, object], models: tuple[str, ...], number: int) -> Labelled:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("has no prompt")
    costs = tuple(row.get(f"cost:{model}") for model in models)
    known = all(cost not in (None, "") for cost in costs)
    return Labelled(
        prompt=prompt,
        quality=tuple(_share(row.get(f"correct:{model}"), model) for model in models),
        cost=tuple(int(parse_usd(str(cost))) for cost in costs) if known else (),
        tag=str(row.get("tag") or ""),
        id=str(row.get("id") or number),
    )


def _share(value: object, model: str) -> float:
    text = str(value).strip().lower()
    try:
        found = _WORDS[text] if text in _WORDS else float(text)
    except ValueError:
        raise ValueError(f"correct:{model} is '{value}'; 0 to 1, true or false is expected") from None
    if not 0 <= found <= 1:
        raise ValueError(f"correct:{model} is {found}; 0 to 1 is expected")
    return found
