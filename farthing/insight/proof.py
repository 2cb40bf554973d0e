"""What an experiment proves: the saving with its intervals, whether a headline may be given, and what quality did.

The rules that keep a headline honest: enough control conversations and a narrow interval, a draw that fell as it
should, few conversations left out. Where the treatment changes the covariate, that is no yardstick: the saving is
then measured without it, which takes more conversations. A headline whose quality is not shown is struck through.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from farthing.core.arms import MISMATCH_P, Difference, Gate, Part, difference, gate, mismatch
from farthing.core.experiment import Experiment
from farthing.core.savings import CONTROL_MIN, Saving, measure
from farthing.insight.arms import ArmReader, ArmSums, Talk, bare_costs, costs, covariates, parts, sums

DAY_MS: Final = 86_400_000
LEFT_OUT_MAX: Final = 0.05
"""Share of conversations that may be left out before there is no headline."""
UNLIKE_MIN: Final = 0.02
"""A covariate that differs by less between the arms is taken for alike, however sure the difference is."""
UNLIKE_CONFIDENCE: Final = 0.99
CONTROL_MIN_BARE: Final = 250
"""Control conversations below which no headline is given without the covariate: heavy tails need so many."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment as the books show it."""

    experiment: Experiment
    since_ms: int
    until_ms: int
    over: bool
    """Its end is past."""
    control: ArmSums
    treated: ArmSums
    units: tuple[tuple[str, int], ...]
    """What conversations are known by, with how many."""
    planned: Saving | None
    """One look, at the date that was fixed beforehand."""
    always: Saving | None
    """Valid however often it is looked at."""
    bare: Saving | None
    """Without the covariate, at one look: wide, and free of it."""
    bare_always: Saving | None
    likeness: Saving | None
    """How much less the covariate of a call is in the treated arm: about zero when the arms are alike. None where
    the treatment cannot touch it: an equal question's answer is the one that would have been bought."""
    draw_p: float
    left_out: tuple[tuple[str, int], ...]
    """Conversations that are not measured, by reason."""
    unassigned: int
    policies: tuple[str, ...]
    removed: int
    objections: tuple[str, ...] = ()
    """Why there is no headline; empty: there is one."""
    missing: int = 0
    """Control conversations still needed, roughly."""
    days: int | None = None
    """About how many more days bring the missing conversations; None: none is missing, or nobody can say."""
    quality: Gate
    basis: str
    """What the verdict rests on."""
    outcome: Difference | None
    answered: Difference | None
    retries: Difference | None
    latency: Difference | None

    @property
    def alike(self) -> bool:
        """The covariate is the same in both arms, as far as can be told: it may serve as yardstick."""
        found = self.likeness
        return found is None or abs(found.estimate) <= UNLIKE_MIN or found.low <= 0 <= found.high

    @property
    def once(self) -> bool:
        """It has come to the end that was fixed beforehand: the plain interval may be read."""
        return self.over and self.experiment.as_planned

    @property
    def saving(self) -> Saving | None:
        """What may be read now: without the covariate where the treatment has changed that."""
        if self.alike:
            return self.planned if self.once else self.always
        return self.bare if self.once else self.bare_always

    @property
    def headline(self) -> bool:
        """The saving may be given as a result."""
        return self.saving is not None and not self.objections

    def nusd(self, share: float) -> int:
        """The treated arm's saving in nano-USD where it is this share of what its calls would have cost."""
        return round(self.treated.cost * share / max(1e-9, 1 - share))


def measured(reader: ArmReader, *, until_ms: int) -> Measured:
    """The experiment's result as it is known at ``until_ms``."""
    found = _estimated(reader, until_ms)
    saving, wanted = found.saving, CONTROL_MIN if found.alike else CONTROL_MIN_BARE
    count = found.control.conversations
    missing = max(saving.missing if saving is not None else 1, wanted - count)
    spent_ms = max(1, reader.until_ms - reader.since_ms)
    return msgspec.structs.replace(
        found,
        missing=missing,
        days=-(-missing * spent_ms // (count * DAY_MS)) if missing and count else None,
        objections=tuple(_objections(found, saving, missing, len(reader.talks))),
    )


def _estimated(reader: ArmReader, until_ms: int) -> Measured:
    """Everything but the verdict."""
    experiment = reader.experiment
    talks = reader.talks
    control, treated = reader.arm("control"), reader.arm("treated")
    planned, always = (measure(costs(control), costs(treated), always_valid=safe) for safe in (False, True))
    bare, bare_always = (
        measure(bare_costs(control), bare_costs(treated), always_valid=safe) for safe in (False, True)
    )
    over_ms = experiment.over_ms
    all_control, all_treated = reader.everyone("control"), reader.everyone("treated")
    quality, basis, outcome = _quality(experiment, all_control, all_treated)
    return Measured(
        experiment=experiment,
        since_ms=reader.since_ms,
        until_ms=reader.until_ms,
        over=over_ms is not None and until_ms >= over_ms,
        control=_sums(control, all_control),
        treated=_sums(treated, all_treated),
        units=_units((*control, *treated)),
        planned=planned,
        always=always,
        bare=bare,
        bare_always=bare_always,
        likeness=None if _same_answers(experiment, treated) else _likeness(control, treated),
        draw_p=_draw(experiment, talks),
        left_out=_left_out(talks),
        unassigned=reader.unassigned,
        policies=tuple(sorted(reader.policies)),
        removed=reader.removed,
        quality=quality,
        basis=basis,
        outcome=outcome,
        answered=difference(parts(all_control, "answered", "logged"), parts(all_treated, "answered", "logged")),
        retries=difference(parts(all_control, "retries", "logged"), parts(all_treated, "retries", "logged")),
        latency=difference(
            parts(all_control, "latency_ms", "answered"), parts(all_treated, "latency_ms", "answered")
        ),
    )


_ENDINGS: Final = (
    "logged", "answered", "failed", "refused", "aborted", "retries", "latency_ms", "reported", "good",
)  # fmt: skip


def _sums(kept: Sequence[Talk], everyone: Sequence[Talk]) -> ArmSums:
    """Costs of those that can be measured; how calls ended of everyone."""
    endings = sums(everyone)
    return msgspec.structs.replace(sums(kept), **{name: getattr(endings, name) for name in _ENDINGS})


def _objections(found: Measured, saving: Saving | None, missing: int, talks: int) -> list[str]:
    said = []
    if saving is None:
        said.append("an arm has fewer than two conversations that cost anything")
    elif missing:
        said.append(f"not enough evidence yet: about {missing:,} more control conversations are needed")
    if found.draw_p < MISMATCH_P:
        said.append(f"the arms' sizes do not fit the draw (p = {found.draw_p:.2g}): assignment or logging is broken")
    gone = sum(count for _, count in found.left_out)
    if talks and gone > LEFT_OUT_MAX * talks:
        said.append(f"{gone:,} of {talks:,} conversations are left out, more than {100 * LEFT_OUT_MAX:g} %")
    return said


def _left_out(talks: Sequence[Talk]) -> tuple[tuple[str, int], ...]:
    reasons = {"began before it": 0, "changed arms": 0, "a price is not known": 0, "nothing to compare with": 0}
    for talk in talks:
        if talk.kept:
            continue
        if talk.before:
            reasons["began before it"] += 1
        elif talk.crossed:
            reasons["changed arms"] += 1
        elif talk.unknown:
            reasons["a price is not known"] += 1
        elif talk.calls:
            reasons["nothing to compare with"] += 1
    return tuple((why, count) for why, count in reasons.items() if count)


def _draw(experiment: Experiment, talks: Sequence[Talk]) -> float:
    """How likely the arms' sizes are under the draw; blocks without a call say nothing about it."""
    if experiment.kind == "switchback":
        return 1.0
    control = sum(talk.arm == "control" for talk in talks if not talk.crossed)
    treated = sum(talk.arm == "treated" for talk in talks if not talk.crossed)
    return mismatch(control, treated, experiment.control_share)


def _units(talks: Sequence[Talk]) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for talk in talks:
        found[talk.unit] = found.get(talk.unit, 0) + 1
    return tuple(sorted(found.items()))


def _quality(
    experiment: Experiment, control: Sequence[Talk], treated: Sequence[Talk]
) -> tuple[Gate, str, Difference | None]:
    margin = experiment.margin_bp / 10_000
    good = parts(control, "good", "reported"), parts(treated, "good", "reported")
    if any(part.of for arm in good for part in arm):
        known: tuple[tuple[Part, ...], ...] = tuple(tuple(part for part in arm if part.of) for arm in good)
        verdict, found = gate(known[0], known[1], margin)
        return verdict, "outcomes that were reported", found
    if not any(talk.calls for talk in treated):
        return "not measured", "nothing was treated yet", None
    if _same_answers(experiment, treated):
        return "holds", "every cached answer was the provider's own to the same question", None
    return "not measured", "no outcomes were reported", None


def _same_answers(experiment: Experiment, treated: Sequence[Talk]) -> bool:
    """All that the treatment did was to give the provider's own answers again, to equal questions."""
    return experiment.off == ("caches",) and not any(talk.similar for talk in treated)


def _likeness(control: Sequence[Talk], treated: Sequence[Talk]) -> Saving | None:
    return measure(covariates(control), covariates(treated), confidence=UNLIKE_CONFIDENCE, always_valid=True)
