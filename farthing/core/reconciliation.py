"""Comparing a provider's bill with the ledger: quantities first, then money, and a cause for every difference.

The order of causes is that of their evidence. Calls past the gateway are known by their API key. What the bill has
on a neighbouring day is put back where it was booked. What is left beside estimated calls belongs to them, within
what they can have cost. Equal quantities at different money are a price. The rest is unknown and is said to be.
"""

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

from farthing.core.bill import (
    TOKEN_CLASSES,
    Bill,
    Booked,
    BookedDay,
    Cause,
    Correctable,
    Finding,
    Line,
    Place,
    Reconciliation,
)
from farthing.core.gap_evidence import as_discount, dollars, streams
from farthing.core.money import round_half_even

WHOLE_DAY_PERCENT: Final = 90
"""A day that lacks this much of what was booked, while its neighbour has as much too many, was shifted."""

_NOTHING: Final = BookedDay()


class _Series(NamedTuple):
    """One model in one variant."""

    model: str
    variant: str


class _Side:
    """What the bill says of the gateway's own calls; re-bucketed while causes are found."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Place, str], int] = defaultdict(int)
        self.amounts: dict[tuple[Place, str], int] = defaultdict(int)
        self.requests: dict[Place, int | None] = {}

    def price(self, place: Place, token_class: str) -> Fraction | None:
        """What the bill charges per unit here; None: it does not say."""
        count = self.counts[place, token_class]
        amount = self.amounts[place, token_class]
        return Fraction(amount, count) if count > 0 else None


def compare(bill: Bill, booked: Booked, *, gateway_keys: frozenset[str] = frozenset()) -> Reconciliation:
    """Bill against ledger. ``gateway_keys``: the provider's ids of the gateway's API keys; empty: not known.

    The findings of each line sum exactly to its gap, in quantities and in nano-USD.
    """
    return _Comparison(bill, booked, gateway_keys).run()


class _Comparison:
    def __init__(self, bill: Bill, booked: Booked, gateway_keys: frozenset[str]) -> None:
        self.bill = bill
        self.booked = booked
        self.gateway_keys = gateway_keys
        self.findings: list[Finding] = []
        self.correctable: list[Correctable] = []
        self.has_money = bool(bill.costs)
        self.has_usage = bool(bill.usage)
        self.side = _Side()
        self.seen = {_Series(place.model, place.variant) for place, day in booked.items() if day.calls}
        self.shifted: set[Place] = set()

    def run(self) -> Reconciliation:
        lines = self._read()
        self._timing()
        places = {place for place, _ in (*self.side.counts, *self.side.amounts)} | set(self.booked)
        for place in sorted(places):
            self._place(place)
        self.findings = as_discount(self.findings, self.booked)
        ordered = sorted(self.findings, key=lambda one: (one.place, one.token_class, one.cause))
        return Reconciliation(
            lines=lines,
            findings=tuple(one for one in ordered if one.tokens or one.amount),
            correctable=tuple(self.correctable),
            has_money=self.has_money,
            has_usage=self.has_usage,
            notes=self._notes(),
        )

    # -- reading the bill ----------------------------------------------------------------------------------------

    def _read(self) -> tuple[Line, ...]:
        counts: dict[tuple[Place, str], int] = defaultdict(int)
        passed: dict[tuple[Place, str], int] = defaultdict(int)
        for row in self.bill.usage:
            elsewhere = self._past(row.place, row.key)
            for name, count in row.counts:
                counts[row.place, name] += count
                (passed if elsewhere else self.side.counts)[row.place, name] += count
            if not elsewhere:
                held = self.side.requests.get(row.place, 0)
                known = None if held is None or row.requests is None else held + row.requests
                self.side.requests[row.place] = known
        amounts = self._read_costs(counts, passed)
        for (place, name), count in passed.items():
            if (place, name) not in self._bypass_amounts and count:
                self._found("bypass", place, name, count, 0, self._why_past(place))
        for (place, name), amount in self._bypass_amounts.items():
            self._found("bypass", place, name, passed[place, name], amount, self._why_past(place))
        keys = {*counts, *amounts, *((place, name) for place, day in self.booked.items() for name in day.classes())}
        return tuple(self._line(place, name, counts, amounts) for place, name in sorted(keys))

    def _line(
        self, place: Place, name: str, counts: dict[tuple[Place, str], int], amounts: dict[tuple[Place, str], int]
    ) -> Line:
        day = self.booked.get(place, _NOTHING)
        return Line(
            place=place,
            token_class=name,
            billed=counts[place, name],
            booked=day.quantity(name),
            billed_amount=amounts[place, name],
            booked_amount=day.amount(name),
        )

    def _read_costs(
        self, counts: dict[tuple[Place, str], int], passed: dict[tuple[Place, str], int]
    ) -> dict[tuple[Place, str], int]:
        """Amounts per place and class; fills the gateway's side and what passed it by."""
        self._bypass_amounts: dict[tuple[Place, str], int] = defaultdict(int)
        amounts: dict[tuple[Place, str], int] = defaultdict(int)
        unkeyed: dict[tuple[Place, str], int] = defaultdict(int)
        for row in self.bill.costs:
            amounts[row.place, row.token_class] += row.amount
            if row.amount < 0 or row.token_class == "credit":
                self._found("credit", row.place, row.token_class, 0, row.amount, row.label)
            elif row.key and self.gateway_keys:
                elsewhere = row.key not in self.gateway_keys
                (self._bypass_amounts if elsewhere else self.side.amounts)[row.place, row.token_class] += row.amount
            else:
                unkeyed[row.place, row.token_class] += row.amount
        for key, amount in unkeyed.items():
            count, past = counts[key], passed[key]
            gone = amount if self._unseen(key[0]) else round_half_even(amount * past, count) if count > 0 else 0
            if gone:
                self._bypass_amounts[key] += gone
            self.side.amounts[key] += amount - gone
        return amounts

    def _past(self, place: Place, key: str) -> bool:
        return (key not in self.gateway_keys) if key and self.gateway_keys else self._unseen(place)

    def _unseen(self, place: Place) -> bool:
        """No call of this model went through the gateway in the whole period."""
        return not self.gateway_keys and bool(self.seen) and _Series(place.model, place.variant) not in self.seen

    def _why_past(self, place: Place) -> str:
        if self.gateway_keys:
            return "billed on API keys that are not the gateway's"
        return f"the gateway never called {place.model} {place.variant}".rstrip() + " in this period"

    # -- timing --------------------------------------------------------------------------------------------------

    def _timing(self) -> None:
        days = self.bill.days
        series = {_Series(place.model, place.variant) for place, _ in self.side.counts} | self.seen
        for one in sorted(series):
            for first, second in pairwise(days):
                before, after = Place(first, *one), Place(second, *one)
                self._shift(before, after, "late")
                self._shift(after, before, "early")

    def _shift(self, home: Place, away: Place, way: str) -> None:
        """Puts back what was booked at ``home`` and billed at ``away``."""
        day = self.booked.get(home)
        if day is None:
            return
        other = self.booked.get(away, _NOTHING)
        common: dict[str, int] = {}
        hidden: dict[str, int] = {}
        for name in day.classes() & TOKEN_CLASSES:
            lack = day.quantity(name) - self.side.counts[home, name]
            surplus = self.side.counts[away, name] - other.quantity(name)
            if lack > 0 and surplus > 0:
                # What neither day can owe to its own estimates was moved as well.
                owed = max(0, lack - surplus - day.estimated(name))
                common[name] = min(lack, surplus)
                hidden[name] = min(owed, other.estimated(name))
        whole = self._whole_day(day, common)
        asked = self._requests_moved(home, away)
        edge = day.late if way == "late" else day.early
        moved = {name: count + hidden[name] for name, count in common.items()}
        if not whole and not asked:
            moved = {} if asked == 0 else {name: min(count, edge.get(name, 0)) for name, count in common.items()}
            moved = {name: count for name, count in moved.items() if count}
        if not moved:
            return
        why = "the whole day" if whole else f"{asked} requests" if asked else "calls close to midnight"
        for name, count in moved.items():
            self._move(home, away, name, count, f"{why}: booked on {home.day}, billed on {away.day}")
        if asked:
            self.side.requests[home] = (self.side.requests.get(home) or 0) + asked
            self.side.requests[away] = (self.side.requests.get(away) or 0) - asked
        self.shifted |= {home, away}

    def _whole_day(self, day: BookedDay, common: dict[str, int]) -> bool:
        whole = sum(day.quantity(name) for name in day.classes() & TOKEN_CLASSES)
        return whole > 0 and sum(common.values()) * 100 >= whole * WHOLE_DAY_PERCENT

    def _requests_moved(self, home: Place, away: Place) -> int | None:
        """How many requests the bill has away instead of home; None: it does not count requests."""
        counted = self.side.requests.get(home, 0), self.side.requests.get(away, 0)
        if counted[0] is None or counted[1] is None or not any(self.side.requests.values()):
            return None
        lacks = self.booked.get(home, _NOTHING).calls - counted[0]
        surplus = counted[1] - self.booked.get(away, _NOTHING).calls
        return max(0, min(lacks, surplus))

    def _move(self, home: Place, away: Place, name: str, count: int, why: str) -> None:
        price = self.side.price(away, name)
        amount = _times(count, price)
        for place, sign in ((home, 1), (away, -1)):
            self.side.counts[place, name] += sign * count
            self.side.amounts[place, name] += sign * amount
            self._found("timing", place, name, -sign * count, -sign * amount, why)

    # -- one place -----------------------------------------------------------------------------------------------

    def _place(self, place: Place) -> None:
        """Everything that is left of one day of one model."""
        day = self.booked.get(place, _NOTHING)
        names = {name for where, name in (*self.side.counts, *self.side.amounts) if where == place} | day.classes()
        extra = self._extra_requests(place, day)
        share = self._estimates_share(place, day, names)
        clear = bool(day.estimates) and share == 1 and not extra and place not in self.shifted
        billed: dict[str, int] = {}
        for name in sorted(names):
            gap = self.side.counts[place, name] - day.quantity(name)
            if not self.has_usage:
                gap = 0
            estimated = self._estimated_part(day, name, gap, share, extra)
            rest = gap - estimated
            past = 0
            if extra and rest > 0 and name in TOKEN_CLASSES:
                past = _times(rest, self.side.price(place, name))
                why = f"the bill has {extra} requests more than the ledger"
                self._found("bypass", place, name, rest, past, why)
                rest = 0
            clear = clear and not rest
            billed[name] = self._money(place, day, name, estimated, rest, past)
        if clear and self.has_money and self.has_usage:
            self.correctable.append(
                Correctable(place=place, billed=tuple(billed.items()), calls=tuple(day.estimates))
            )

    def _extra_requests(self, place: Place, day: BookedDay) -> int:
        counted = self.side.requests.get(place)
        return 0 if counted is None else max(0, counted - day.calls)

    def _estimates_share(self, place: Place, day: BookedDay, names: set[str]) -> Fraction:
        """The part of the gap that estimated calls can account for: all, within what they can have cost."""
        ceilings = [one.ceiling for one in day.estimates]
        if not ceilings or any(ceiling is None for ceiling in ceilings):
            return Fraction(1 if ceilings else 0)
        more = Fraction(0)
        for name in names:
            price = self.side.price(place, name)
            gap = self.side.counts[place, name] - day.quantity(name)
            more += max(0, gap) * price if price is not None else 0
        room = sum(ceiling or 0 for ceiling in ceilings) - sum(one.total or 0 for one in day.estimates)
        return Fraction(1) if more <= max(0, room) else max(Fraction(0), Fraction(room) / more)

    def _estimated_part(self, day: BookedDay, name: str, gap: int, share: Fraction, extra: int) -> int:
        if not day.estimates or name not in TOKEN_CLASSES or not gap:
            return 0
        if gap < 0:  # at the most, nothing was billed of what was estimated
            return max(gap, -day.estimated(name))
        return 0 if extra else int(gap * share)

    def _money(self, place: Place, day: BookedDay, name: str, estimated: int, rest: int, past: int) -> int:
        """Names the money of one class but ``past``; returns what the bill charges for its estimated calls."""
        if not self.has_money:
            if estimated:
                self._found("estimated", place, name, estimated, 0, streams(day))
            if rest:
                self._found("unknown", place, name, rest, 0)
            return 0
        price = self.side.price(place, name)
        gap = self.side.amounts[place, name] - day.amount(name) - past
        held = day.exact.get(name)
        billed = 0
        if day.estimates and (price is not None or estimated or day.estimated_amount(name)):
            billed = _times(day.estimated(name) + estimated, price)
            amount = billed - day.estimated_amount(name)
            gap -= amount
            self._found("estimated", place, name, estimated, amount, streams(day))
        if held is not None and held.unpriced and price is not None:
            amount = min(gap, _times(held.unpriced, price)) if gap > 0 else 0
            gap -= amount
            self._found("unpriced", place, name, 0, amount, f"{held.unpriced:,} booked without a known price")
        if rest:
            own = Fraction(held.amount, held.quantity) if held is not None and held.quantity else None
            amount = _times(rest, price if price is not None else own)
            gap -= amount
            self._found("unknown", place, name, rest, amount)
        if gap:
            self._price_gap(place, day, name, gap, price)
        return billed

    def _price_gap(self, place: Place, day: BookedDay, name: str, gap: int, price: Fraction | None) -> None:
        """Money that differs although the quantities agree."""
        held = day.exact.get(name)
        counted = self.side.requests.get(place) or 0
        lines = 2 + day.calls + max(counted, day.calls)
        if place in self.shifted:
            lines *= 4
        if abs(gap) <= lines:
            self._found("rounding", place, name, 0, gap, f"within one nano-dollar a line of {lines:,} lines")
        elif held is not None and held.rows and price is not None:
            rows = sorted(held.rows.items(), key=lambda item: (-item[1], item[0]))
            said = "; ".join(
                f"{row or 'no row'} at {dollars(Fraction(pico, 1000), name)}" for (row, pico), _ in rows[:2]
            )
            self._found("price", place, name, 0, gap, f"billed {dollars(price, name)}, booked with {said}")
        else:
            self._found("unknown", place, name, 0, gap, "billed, not metered" if gap > 0 else "metered, not billed")

    def _found(self, cause: Cause, place: Place, name: str, tokens: int, amount: int, evidence: str = "") -> None:
        tokens = tokens if name in TOKEN_CLASSES else 0
        self.findings.append(
            Finding(cause=cause, place=place, token_class=name, tokens=tokens, amount=amount, evidence=evidence)
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if not self.gateway_keys and len(self.bill.keys) > 1:
            notes.append(
                f"The bill has {len(self.bill.keys)} API keys ({', '.join(self.bill.keys[:4])}…). Say which are the "
                "gateway's with --gateway-key: then traffic past the gateway is named exactly."
            )
        if not self.has_money:
            notes.append("The bill has no cost report: quantities are compared, money is not.")
        if not self.has_usage:
            notes.append("The bill has no usage report: money is compared, quantities are not.")
        return tuple(notes)


def _times(count: int, price: Fraction | None) -> int:
    if price is None:
        return 0
    return round_half_even(count * price.numerator, price.denominator)
