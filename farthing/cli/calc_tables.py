"""Tables of the calculator: figures beside the formulas that gave them."""

from collections.abc import Mapping, Sequence

from farthing.core.money import format_usd
from farthing.insight.table import Column, Table, share
from farthing.lab.formula import exact, plain
from farthing.lab.relations import Answer, Relation, Verdict
from farthing.lab.scenario import Outcome

__all__ = ["Table", "answer", "outcome", "questions", "verdict", "verdicts"]


def questions(known: Mapping[str, Relation]) -> Table:
    """What can be asked."""
    return Table(
        title="Questions of the calculator",
        columns=tuple(Column(name=name, title=name) for name in ("question", "asks", "numbers", "unit")),
        rows=tuple(
            (name, one.asks, "; ".join(f"{key}: {what}" for key, what in one.inputs.items()), one.unit)
            for name, one in known.items()
        ),
        notes=("farthing calc --ask QUESTION --with NAME=NUMBER …",),
    )


def answer(asks: str, found: Answer) -> Table:
    """One answer with its lines."""
    return Table(
        title=asks,
        columns=(
            Column(name="question", title="question"),
            Column(name="value", title="value"),
            Column(name="unit", title="unit"),
        ),
        rows=((found.relation, _plain(found.value), found.unit),),
        notes=found.lines,
    )


def verdicts(found: Sequence[Verdict]) -> Table:
    """Claims of the field beside the right figures."""
    wrong = sum(one.holds is False for one in found)
    return Table(
        title=f"{len(found)} figures recomputed; of those that are printed, {wrong} are wrong",
        columns=tuple(
            Column(name=name, title=name)
            for name in ("claim", "source", "printed", "right", "unit", "verdict", "why")
        ),
        rows=tuple(
            (
                one.claim.id,
                one.claim.source,
                None if one.claim.printed is None else _plain(one.claim.printed),
                _plain(one.answer.value),
                one.answer.unit,
                _word(one),
                one.claim.why,
            )
            for one in found
        ),
        notes=("farthing calc --claim ID shows the formula with its numbers.",),
    )


def verdict(found: Verdict) -> Table:
    """One claim, line by line."""
    table = verdicts([found])
    return Table(title=f"{found.claim.id}: {_word(found)}", columns=table.columns, rows=table.rows,
                 notes=found.answer.lines)  # fmt: skip


def outcome(name: str, days: float, found: Outcome) -> Table:
    """A scenario worked out: the bill before and after, each lever's share, the formulas."""
    base = found.baseline.nusd
    rows: list[tuple[str, int | None, int | None, int | None]] = [("without levers", base, None, None)]
    for lever, saved in found.ordered.items():
        rows.append((lever, None, saved, found.averaged[lever]))
    saved = base - found.final.nusd
    part = share(saved, base)
    notes = []
    if _ranged(found):
        notes.append(f"Over the ranges given, the bill after all levers is {_usd(found.low)} to {_usd(found.high)}.")
        notes.append(f"The saving is {_usd(found.saved_low)} to {_usd(found.saved_high)}.")
    notes += [f"Saved: {_usd(saved)}" + ("" if part is None else f", {part / 100:.1f} % of the bill") + "."]
    notes += found.notes
    notes += ["Modelled from the numbers given, not measured. The formulas:", *found.final.lines]
    return Table(
        title=f"{name}: {plain(exact(days))} days",
        columns=(
            Column(name="lever", title="lever"),
            Column(name="bill", title="bill", kind="usd", unknown=""),
            Column(name="saves_in_order", title="saves, in this order", kind="usd", unknown=""),
            Column(name="saves_averaged", title="saves, averaged over orders", kind="usd", unknown=""),
        ),
        rows=tuple(rows),
        total=("with all levers", found.final.nusd, saved, saved),
        notes=tuple(notes),
    )


def _ranged(found: Outcome) -> bool:
    return found.low != found.high or found.saved_low != found.saved_high


def _word(one: Verdict) -> str:
    if one.holds is None:
        return "not said"
    return "holds" if one.holds else "wrong"


def _plain(value: float) -> str:
    return plain(exact(value))


def _usd(nusd: int) -> str:
    return f"${format_usd(nusd)}"
