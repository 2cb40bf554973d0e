"""A provider's own figure beside the price book's: it wins, and a difference is an anomaly that somebody sees."""

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.price_feeds import BookPrices, load_book
from farthing.core.money import Nusd
from farthing.core.types import Charge, Target, Usage, UsagePart
from farthing.engine.record import with_stated_difference
from farthing.wire.usage import reader_for

PRICES = BookPrices(load_book().book)
AT_MS = 1_795_000_000_000


def stated(total: int, computed: int | None) -> tuple[str, ...]:
    charge = Charge(total=Nusd(total), computed=None if computed is None else Nusd(computed), state="priced")
    return with_stated_difference(Usage(source="reported"), charge).anomalies


def test_a_difference_of_more_than_a_percent_is_named_with_both_figures():
    assert stated(1_000_000, 980_000) == ("stated_cost_differs:1000000!=980000",)
    assert stated(980_000, 1_000_000) == ("stated_cost_differs:980000!=1000000",)


def test_a_rounding_difference_is_none():
    assert stated(1_000_000, 995_000) == ()
    assert stated(0, 0) == ()


def test_nothing_is_said_where_nothing_can_be_compared():
    assert stated(1_000_000, None) == ()


def test_a_stated_cost_is_the_charge_and_the_books_figure_stands_beside_it():
    target = Target(provider="openrouter", price_as="openrouter", model="anthropic/claude-sonnet-4.5")
    usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000, "cost": 0.5}
    read = reader_for("openrouter", "chat").from_usage(usage, context={})
    charge = PRICES.charge(read, target, at_ms=AT_MS)
    assert charge.total == 500_000_000
    assert charge.computed is not None
    assert charge.computed < charge.total
    assert with_stated_difference(read, charge).anomalies[-1].startswith("stated_cost_differs:500000000!=")


MODELS = [
    entry for entry in load_book().book.models() if entry.provider in ("openai", "anthropic", "google", "mistral")
]


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    taken=st.integers(min_value=0, max_value=200_000),
    given_back=st.integers(min_value=0, max_value=20_000),
)
def test_no_tokens_cost_nothing_unless_the_book_says_free(model, taken, given_back):
    lines = tuple(line for line in (("input", taken), ("output", given_back)) if line[1])
    usage = Usage(source="reported", parts=(UsagePart(lines=lines, tier_basis=taken),))
    target = Target(provider=model.provider, price_as=model.provider, model=model.id)
    charge = PRICES.charge(usage, target, at_ms=AT_MS)
    if charge.state == "unpriced":
        assert charge.total is None
        assert charge.reason
    elif charge.state == "free":
        assert charge.total == 0
        assert all(line.price == 0 for line in charge.lines)
    else:
        assert charge.total
