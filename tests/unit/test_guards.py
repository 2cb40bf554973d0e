"""Lexical guards: what they keep apart, and what they must not."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.guards import differences, overlap, read
from farthing.core.policy_cache import GUARDS


def apart(a: str, b: str) -> tuple[str, ...]:
    return differences(read(a), read(b))


@pytest.mark.parametrize(
    ("guard", "a", "b"),
    [
        ("number", "transfer 100 dollars", "transfer 1,000 dollars"),
        ("number", "wake me in two hours", "wake me in three hours"),
        ("number", "release 3.1 notes", "release 3.2 notes"),
        ("number", "how old must I be", "how old must I be at 17"),
        ("number", "how did World War II begin", "how did World War I begin"),
        ("number", "a life of Louis XIV", "a life of Louis XVI"),
        ("number", "store it at -5 degrees", "store it at 5 degrees"),
        ("unit", "is 20 kg too heavy", "is 20 lbs too heavy"),
        ("unit", "how many euros do I get", "how many rupees do I get"),
        ("date", "the weather today", "the weather tomorrow"),
        ("date", "what did I spend this month", "what did I spend last month"),
        ("name", "flights to Berlin in spring", "flights to Madrid in spring"),
        ("name", "can i use my visa card abroad", "can i use my mastercard card abroad"),
        ("negation", "why was my card accepted", "why was my card not accepted"),
        ("negation", "can I pay with points", "can't I pay with points"),
        ("antonym", "how do I enable 2FA", "how do I disable 2FA"),
        ("antonym", "please open the main window for me", "would you close that big window"),
        ("code", "what does get_user return", "what does get_order return"),
        ("code", "what does `--force` do", "what does `--dry-run` do"),
        ("negation", "a cake with sugar", "a sugar-free cake"),
        ("negation", "a burger w/ onions", "a burger w/o onions"),
        ("negation", "kann ich mit karte zahlen", "kann ich nicht mit karte zahlen"),
        ("negation", "je veux un remboursement", "je ne veux pas un remboursement"),
        ("antonym", "how do I turn on notifications", "how do I turn off notifications"),
        ("antonym", "list countries in the EU", "list countries outside the EU"),
        ("code", "explain parseDate", "explain parseTime"),
        ("code", "a tutorial for C", "a tutorial for C++"),
        ("code", "a tutorial for C#", "a tutorial for C"),
        ("code", "what does == mean", "what does === mean"),
        ("order", "convert dollars to euros", "convert euros to dollars"),
        ("order", "a flight from oslo to rome", "a flight from rome to oslo"),
    ],
)
def test_a_difference_is_named(guard: str, a: str, b: str) -> None:
    assert guard in apart(a, b)
    assert guard in apart(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is the capital of France?", "Tell me the capital city of France"),
        ("How do I reset my password?", "I forgot my password, what can I do?"),
        ("what is my balance", "What's my balance?"),
        ("WHERE IS MY CARD", "where is my card"),
        ("Hello! where is my card?", "where is my card, thanks in advance"),
        ("I can not log in", "I can't log in"),
        ("transfer 1000 dollars", "transfer 1,000 dollars"),
        ("check my health plan", "check my heatlh plan"),
        ("track my orders", "track my order"),
        ("the price of 2 apples", "the price of two apples"),
        ("causes of World War II", "causes of World War 2"),
        ("Can I vi", "can i vi"),
        ("a tutorial for C++", "a tutorial for c++"),
        ("I do not want it", "I don't want it"),
    ],
)
def test_harmless_variants_pass(a: str, b: str) -> None:
    assert apart(a, b) == ()


def test_a_guard_that_is_switched_off_is_silent() -> None:
    a, b = read("how do I enable 2FA for 2 users"), read("how do I disable 2FA for 3 users")
    assert differences(a, b) == ("number", "antonym")
    assert differences(a, b, ("antonym",)) == ("antonym",)
    assert differences(a, b, ()) == ()


@given(st.text(max_size=80), st.text(max_size=80))
def test_guards_are_symmetric_and_never_part_a_text_from_itself(a: str, b: str) -> None:
    assert apart(a, a) == ()
    assert apart(a, b) == apart(b, a)
    assert set(apart(a, b)) <= set(GUARDS)


@given(st.text(alphabet="abcdefghij klmnop", min_size=1, max_size=60), st.integers(0, 10**9), st.integers(0, 10**9))
def test_another_number_in_any_place_is_seen(text: str, one: int, other: int) -> None:
    assert ("number" in apart(f"{text} {one}", f"{text} {other}")) == (one != other)


def test_a_suffix_made_to_collide_shares_no_words() -> None:
    asked = read("what is the refund policy of the shop")
    noise = "zqx vlorp " + " ".join(f"wq{letter}x" for letter in "abcdefghijklmnopqrstuvwxyz")
    assert not overlap(asked, read(f"tell me a joke {noise}"))
    assert not overlap(
        asked, read(f"what is the refund {noise} {noise.replace('wq', 'pj')} {noise.replace('wq', 'vn')}")
    )
    assert overlap(asked, read("how does your refund policy work"))


def test_pairs_that_are_said_to_be_alike_but_share_no_word_are_left_to_the_provider() -> None:
    policy, back, returning = map(
        read, ("refund policy?", "How do I get my money back?", "return items for a refund?")
    )
    assert not overlap(policy, back)
    assert not overlap(returning, back)
    assert overlap(policy, returning)


def test_the_edit_suite_is_kept_apart_kind_by_kind() -> None:
    folder = os.environ.get("FARTHING_DATA")
    rows = json.loads((Path(folder) / "semantic_edit_suite.json").read_text()) if folder else EDITS
    served: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        served[row["same_answer"]].append(not apart(row["b"], row["a"]))
    assert sum(served[False]) <= 0.05 * len(served[False])
    assert sum(served[True]) >= 0.9 * len(served[True])


EDITS = [
    {"a": "set a timer for 5 minutes", "b": "set a timer for 6 minutes", "same_answer": False},
    {"a": "is my savings account open", "b": "is my checking account open", "same_answer": False},
    {"a": "please book a hotel in oslo", "b": "please book a hotel in lima", "same_answer": False},
    {"a": "please book a hotel in oslo", "b": "Quick question: please book a hotel in oslo", "same_answer": True},
]
