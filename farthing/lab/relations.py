"""The calculator's catalogue: relations between prices, tokens and savings, and claims of the field recomputed.

Both are data beside this file: ``relations.toml`` and ``claims.toml``. An answer carries its formula, the formula
with its numbers, and every intermediate line, so that it explains itself.
"""

import tomllib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec

from farthing.lab.formula import Formula, FormulaError, exact, plain

_SHARES: Final = ("fraction", "input's part", "share of input", "share of the work")
"""How the meanings of inputs begin that are parts of one whole."""


_LEAST: Final = Fraction(1, 10**30)
_MOST: Final = 10**30
"""What can still be worked out and printed."""


class Relation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question that the calculator can answer."""

    asks: str
    unit: str
    inputs: dict[str, str]
    """Name -> what it is, with its unit."""
    formula: str
    where: dict[str, str] = {}
    """Intermediate lines, in order."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A number that explains itself."""

    relation: str
    value: float
    unit: str
    lines: tuple[str, ...]
    """``name = formula = formula with numbers = value``, the intermediate lines first."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure as a source prints it, and how the calculator reaches the right one."""

    id: str
    source: str
    relation: str
    inputs: dict[str, Any]
    """Name -> a number, or ``"=id"`` for the right value of another claim."""
    printed: float | None = None
    """None: the source does not say; the figure is what it should have said."""
    why: str = ""
    """What is wrong with the printed figure; empty where it holds."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A claim recomputed."""

    claim: Claim
    answer: Answer
    holds: bool | None
    """The printed figure is right to its own last digit; None when the source prints none."""


@cache
def relations() -> Mapping[str, Relation]:
    """Every relation by name."""
    return msgspec.convert(tomllib.loads(_text("relations.toml")), type=dict[str, Relation])


@cache
def claims() -> Mapping[str, Claim]:
    """Every claim by its id, in the order of the file."""
    found = msgspec.convert(tomllib.loads(_text("claims.toml"))["claims"], type=list[Claim])
    return {claim.id: claim for claim in found}


def ask(name: str, inputs: Mapping[str, object]) -> Answer:
    """The answer to one relation. Raises :class:`FormulaError` with every problem of the inputs at once."""
    known = relations()
    if name not in known:
        raise FormulaError(f"no relation is called {name!r}; there are {', '.join(sorted(known))}")
    relation = known[name]
    numbers = _numbers(name, relation, inputs)
    lines = []
    for step, text in (*relation.where.items(), (name, relation.formula)):
        formula = Formula(text)
        numbers[step] = formula.value(numbers)
        lines.append(f"{step} = {text} = {formula.shown(numbers)} = {plain(numbers[step])}")
    return Answer(relation=name, value=float(numbers[name]), unit=relation.unit, lines=tuple(lines))


def recompute(claim_id: str) -> Verdict:
    """A claim with its right value. Raises :class:`FormulaError` for an unknown id."""
    known = claims()
    if claim_id not in known:
        raise FormulaError(f"no claim is called {claim_id!r}; there are {', '.join(known)}")
    claim = known[claim_id]
    inputs = {name: _given(value) for name, value in claim.inputs.items()}
    answer = ask(claim.relation, inputs)
    holds = None if claim.printed is None else _same(claim.printed, answer.value)
    return Verdict(claim=claim, answer=answer, holds=holds)


def _given(value: object) -> object:
    if isinstance(value, str) and value.startswith("="):
        return Fraction(recompute(value[1:]).answer.value)
    return value


def _same(printed: float, right: float) -> bool:
    """Equal within half a unit of the last printed digit, or half a percent."""
    text = f"{printed:.10g}"
    decimals = len(text.partition(".")[2])
    return abs(printed - right) <= max(0.5 * 10.0**-decimals, 0.006 * abs(right))


def _numbers(name: str, relation: Relation, inputs: Mapping[str, object]) -> dict[str, Fraction]:
    problems = [f"{name} has no input {given!r}" for given in inputs if given not in relation.inputs]
    needed = [f"{wanted} ({what})" for wanted, what in relation.inputs.items() if wanted not in inputs]
    if needed:
        problems.append(f"{name} also needs {', '.join(needed)}")
    numbers: dict[str, Fraction] = {}
    for wanted, what in relation.inputs.items():
        if wanted in inputs:
            try:
                numbers[wanted] = exact(inputs[wanted])
            except FormulaError as error:
                problems.append(f"{wanted}: {error}")
            else:
                problems += _out_of_range(wanted, what, numbers[wanted])
    if problems:
        raise FormulaError("; ".join(problems))
    return numbers


def _out_of_range(name: str, what: str, value: Fraction) -> list[str]:
    """Amounts, counts and shares are never below nothing, and a share is of one whole."""
    if value and not _LEAST <= abs(value) <= _MOST:
        return [f"{name} is beyond 10**-30 to 10**30; is that number meant?"]
    if value < 0:
        return [f"{name} = {plain(value)} must not be negative"]
    if value > 1 and what.startswith(_SHARES):
        return [f"{name} = {plain(value)} is a fraction; write 0.3 for 30 %"]
    return []


def _text(file: str) -> str:
    return resources.files("farthing.lab").joinpath(file).read_text(encoding="utf-8")
