"""Experiments that prove a saving: which conversations do without caches, routes or levers, decided for good.

An experiment is a design that is fixed before its first call. Everything about a call follows from the design, the
conversation it belongs to and, in a switchback, its time: no state, so that every worker, restart and replay decides
alike. A conversation never changes its arm.
"""

import re
from typing import Final, Literal

import msgspec

from farthing.core.dimensions import SCOPE_DIMENSIONS, scope_value
from farthing.core.rollout import share_of
from farthing.core.types import Decision, Scope

Part = Literal["caches", "routes", "levers"]
"""What control does without: answers from caches, routes to other models, levers that edit calls."""
PARTS: Final[tuple[Part, ...]] = ("caches", "routes", "levers")
Arm = Literal["control", "treated"]
Kind = Literal["holdout", "switchback"]
UnitKind = Literal["session", "user", "request"]

STAGE: Final = "experiment"
"""``Decision.stage`` of the note that every call of an experiment carries."""
READING: Final = "experiment"
"""Under which a call's arm stands among the readings of the traffic log, for replay."""
WHOLE_BP: Final = 10_000
SHARE_MIN_BP: Final = 10
SHARE_MAX_BP: Final = 9_000
PERIOD_MIN_MS: Final = 60_000
PERIOD_MAX_MS: Final = 14 * 86_400_000
GROUP_MAX: Final = 20
MARGIN_MAX_BP: Final = 2_000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One experiment as it was registered before it began."""

    name: str
    kind: Kind = "holdout"
    """``holdout``: conversations are assigned by chance. ``switchback``: blocks of time are, for everybody at once,
    where conversations cannot be told apart or would share what is tested."""
    off: tuple[Part, ...]
    """What control does without."""
    share_bp: int
    """Control's share of conversations in hundredths of a percent; a switchback has the nearest 1/n of its blocks."""
    salt: str
    match: tuple[tuple[str, str], ...] = ()
    """Only calls with these scope values take part (``tag:<name>`` too)."""
    starts_ms: int
    ends_ms: int | None = None
    """The end that was fixed beforehand, when the plain interval may be read; None: until it is stopped."""
    stopped_ms: int | None = None
    period_ms: int = 0
    """Length of a switchback's block."""
    washout_ms: int = 0
    """The beginning of each block, which is served and not measured: what the block before left behind fades."""
    margin_bp: int = 200
    """Loss of quality that is tolerated, in hundredths of a percentage point."""
    by: str = ""
    """Who started it."""
    why: str = ""

    @property
    def over_ms(self) -> int | None:
        """The first instant that is no longer in it; None: open-ended and not stopped."""
        ends = [at for at in (self.ends_ms, self.stopped_ms) if at is not None]
        return min(ends) if ends else None

    @property
    def as_planned(self) -> bool:
        """Its end was fixed beforehand and it was not stopped earlier."""
        return self.ends_ms is not None and (self.stopped_ms is None or self.stopped_ms >= self.ends_ms)

    @property
    def group(self) -> int:
        """A switchback's blocks of which one is control."""
        return max(2, min(GROUP_MAX, round(WHOLE_BP / self.share_bp)))

    @property
    def control_share(self) -> float:
        """Control's share as it is planned, 0 to 1."""
        return 1 / self.group if self.kind == "switchback" else self.share_bp / WHOLE_BP

    def runs_at(self, at_ms: int) -> bool:
        """Calls of that instant take part."""
        over_ms = self.over_ms
        return at_ms >= self.starts_ms and (over_ms is None or at_ms < over_ms)


class Assigned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an experiment makes of one call."""

    experiment: str
    arm: Arm
    unit: UnitKind | Literal["block"]
    """What its conversation is known by."""
    off: tuple[Part, ...]
    """What this call does without; nothing in the treated arm."""
    block: int = -1
    """The switchback's block."""

    def note(self) -> Decision:
        """The decision that entries and the traffic log keep."""
        evidence: tuple[tuple[str, str], ...] = (("experiment", self.experiment), ("unit", self.unit))
        if self.block >= 0:
            evidence = (*evidence, ("block", str(self.block)))
        if self.off:
            evidence = (*evidence, ("off", ",".join(self.off)))
        return Decision(stage=STAGE, action="assign", reason=self.arm, evidence=evidence)


def unit_of(scope: Scope, request_id: str) -> tuple[UnitKind, str]:
    """What a call's conversation is known by: its session, else its user, else the call stands for itself."""
    if scope.session:
        return "session", scope.session
    if scope.user:
        return "user", scope.user
    return "request", request_id


def matches(experiment: Experiment, scope: Scope) -> bool:
    """Calls of this scope take part."""
    return all(scope_value(scope, name) == value for name, value in experiment.match)


def assign(experiment: Experiment, scope: Scope, request_id: str, at_ms: int) -> Assigned | None:
    """The arm of a call; None: it takes no part."""
    if not experiment.runs_at(at_ms) or not matches(experiment, scope):
        return None
    if experiment.kind == "switchback":
        block = block_of(experiment, at_ms)
        return _assigned(experiment, "control" if is_control_block(experiment, block) else "treated", "block", block)
    kind, key = unit_of(scope, request_id)
    place = share_of(f"{kind}:{key}", experiment.salt)
    return _assigned(experiment, "control" if place * WHOLE_BP < experiment.share_bp else "treated", kind, -1)


def block_of(experiment: Experiment, at_ms: int) -> int:
    """The number of a switchback's block."""
    return (at_ms - experiment.starts_ms) // experiment.period_ms


def is_control_block(experiment: Experiment, block: int) -> bool:
    """Of each ``group`` blocks in a row one is control, drawn by chance: arms stay balanced over any longer time."""
    row, place = divmod(block, experiment.group)
    drawn = int(share_of(f"block:{row}", experiment.salt) * experiment.group)
    return place == min(drawn, experiment.group - 1)


def in_washout(experiment: Experiment, at_ms: int) -> bool:
    """Served, and not measured: a switchback's block has just begun."""
    return experiment.kind == "switchback" and (at_ms - experiment.starts_ms) % experiment.period_ms < (
        experiment.washout_ms
    )


def problems(experiment: Experiment) -> list[str]:
    """Everything that is wrong with a design, in words with the way out."""
    found = []
    if not _NAME.fullmatch(experiment.name):
        found.append(f'name: "{experiment.name[:80]}" must be small letters, digits and ".-_", at most 64')
    if not experiment.off:
        found.append(f"off: names nothing to test; choose of {', '.join(PARTS)}")
    if len(set(experiment.off)) != len(experiment.off):
        found.append("off: names a part twice")
    if not SHARE_MIN_BP <= experiment.share_bp <= SHARE_MAX_BP:
        found.append(f"holdout: {experiment.share_bp / 100:g} % is not between 0.1 % and 90 %")
    if experiment.ends_ms is not None and experiment.ends_ms <= experiment.starts_ms:
        found.append("until: it would end before it begins")
    if not 0 < experiment.margin_bp <= MARGIN_MAX_BP:
        found.append("margin: must be above 0 and at most 20 points")
    names = [name for name, _ in experiment.match]
    found += [
        f'match: "{name[:40]}" is none of {", ".join(SCOPE_DIMENSIONS)}, tag:<name>'
        for name in names
        if name not in SCOPE_DIMENSIONS and not (name.startswith("tag:") and len(name) > 4)
    ]
    if len(set(names)) != len(names):
        found.append("match: names a dimension twice, which no call can match")
    return found + _switchback_problems(experiment)


def _switchback_problems(experiment: Experiment) -> list[str]:
    if experiment.kind == "holdout":
        return ["period: only a switchback has one"] if experiment.period_ms or experiment.washout_ms else []
    found = []
    if not PERIOD_MIN_MS <= experiment.period_ms <= PERIOD_MAX_MS:
        found.append("switchback: a block must be one minute to 14 days long")
    elif not 0 <= experiment.washout_ms < experiment.period_ms:
        found.append("washout: must be shorter than a block")
    if experiment.share_bp > 5_000:
        found.append("holdout: at most half of a switchback's blocks can be control")
    return found


def _assigned(experiment: Experiment, arm: Arm, unit: UnitKind | Literal["block"], block: int) -> Assigned:
    off = experiment.off if arm == "control" else ()
    return Assigned(experiment=experiment.name, arm=arm, unit=unit, off=off, block=block)
