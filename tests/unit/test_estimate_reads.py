"""An estimated call reads from the provider's cache what calls like it did, and pays for it what they did."""

from farthing.core.types import AttemptFact, Exchange, PromptSection, PromptView, Scope, Target, Usage, UsagePart
from farthing.lab.estimate import Estimator
from farthing.lab.estimate_reads import KEPT_MS, LEAST, beginnings
from farthing.lab.replay_log import logged

TURN = 2_000
"""Bytes; a token has four."""
MINUTE = 60_000


def turn(talk: str, number: int, at_ms: int, *, read: int | None, model: str = "a") -> Exchange:
    """A call of a conversation, whose prompt holds the turns before; ``read``: None where it was refused."""
    sections = tuple(PromptSection(role="user", size=TURN, digest=f"{talk} {one}") for one in range(number + 1))
    taken = TURN * (number + 1) // 4
    fact = AttemptFact(
        attempt=1,
        provider="p",
        model=model,
        status=200,
        started_at_ms=at_ms,
        latency_ms=5,
        entry_id=f"{talk}{number}",
    )
    usage = None
    if read is not None:
        lines = (("input", taken - read), ("input_cache_read", read), ("output", 100))
        usage = Usage(parts=(UsagePart(lines=lines),), source="reported", finish_reason="stop")
    return Exchange(
        request_id=f"{talk} {number}",
        received_at_ms=at_ms,
        scope=Scope(session=talk),
        dialect="openai",
        view=PromptView(endpoint="chat", model=model, body_bytes=TURN * (number + 1)),
        outcome="refused" if usage is None else "answered",
        status=429 if usage is None else 200,
        attempts=() if usage is None else (fact,),
        received_digest=f"{talk} {number}",
        usage=usage,
        sections=sections,
    )


def talked(name: str, at_ms: int, *, share: float = 0.8) -> list[Exchange]:
    """Four turns that were answered; of all beginnings so much was read."""
    return [
        turn(name, number, at_ms + number * MINUTE, read=int(share * TURN * number / 4) if number else 0)
        for number in range(4)
    ]


def estimated(log: list[Exchange], wanted: Exchange, model: str = "a") -> dict[str, int]:
    estimator = Estimator()
    estimator.learn(log)
    target = Target(provider="p", price_as="p", model=model)
    return dict(estimator.usage(logged(wanted), target).parts[0].lines)


def test_a_refused_turn_reads_of_its_beginning_as_much_as_answered_turns_did() -> None:
    log = [one for at in range(4) for one in talked(f"t{at}", at * MINUTE)]
    first = turn("new", 2, 100 * MINUTE, read=None)
    wanted = turn("new", 3, 101 * MINUTE, read=None)
    lines = estimated([*log, first, wanted], wanted)
    assert lines["input_cache_read"] == round(0.8 * 3 * TURN / 4)
    assert lines["input"] + lines["input_cache_read"] == 4 * TURN // 4
    assert "input_cache_read" not in estimated([*log, first, wanted], first)  # nothing began like it


def test_a_beginning_is_forgotten_by_the_provider_and_the_same_call_is_not_its_own_beginning() -> None:
    log = [one for at in range(4) for one in talked(f"t{at}", at * MINUTE)]
    wanted = turn("new", 3, 200 * MINUTE, read=None)
    for before, reads in ((200 * MINUTE - KEPT_MS - 1, False), (200 * MINUTE - KEPT_MS + 1, True)):
        lines = estimated([*log, turn("new", 2, before, read=None), wanted], wanted)
        assert ("input_cache_read" in lines) is reads
    assert "input_cache_read" not in estimated([*log, wanted, turn("new", 2, 201 * MINUTE, read=None)], wanted)


def test_a_provider_that_reads_nothing_or_of_which_too_little_is_known_reads_nothing() -> None:
    wanted = [turn("new", number, (100 + number) * MINUTE, read=None) for number in (2, 3)]
    few = talked("t", 0)
    none = [one for at in range(4) for one in talked(f"t{at}", at * MINUTE, share=0.0)]
    for log in (few, none):
        assert "input_cache_read" not in estimated([*log, *wanted], wanted[1])


def test_what_an_answer_in_the_log_had_read_stays_read() -> None:
    log = [one for at in range(4) for one in talked(f"t{at}", at * MINUTE)]
    assert estimated(log, log[3])["input_cache_read"] == int(0.8 * TURN * 3 / 4)


def test_only_beginnings_that_a_provider_may_keep_are_told_apart() -> None:
    sections = [PromptSection(role="user", size=size, digest=str(size)) for size in (LEAST - 1, 1, 50)]
    sizes = [size for _, size in beginnings(sections)]
    assert sizes == [LEAST, LEAST + 50]
    turned = [key for key, _ in beginnings([sections[1], sections[0], sections[2]])]
    assert set(turned).isdisjoint(key for key, _ in beginnings(sections))
