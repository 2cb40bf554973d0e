"""Token counts: exact for OpenAI, learned from bills for others, and a bound that never narrows."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from farthing.adapters.tokenizers import BpeTokenizer, exact_encoding
from farthing.adapters.tokenizers_calibrated import CalibratedTokenizer
from farthing.core.token_calibration import fresh, observed, predicted, sizes_of, upper
from farthing.engine.plan import strings_of

ROOT = Path(__file__).parents[2]
HAN = "缓存是从未发出的调用。预算在请求之前预留,账本只追加不覆盖。每次调用都有价格、用量和来源。"
VECTORS = json.loads((ROOT / "tests/golden/token_counts.json").read_text())


def kinds() -> dict[str, str]:
    """Text of four kinds and one more, long enough to cut pieces from."""
    return {
        "prose": "".join(path.read_text() for path in sorted((ROOT / "docs/concepts").glob("*.md"))),
        "code": "".join(path.read_text() for path in sorted((ROOT / "farthing/core").glob("*.py"))),
        "json": (ROOT / "tests/golden/pricing_vectors.json").read_text(),
        "decisions": "".join(path.read_text() for path in sorted((ROOT / "docs/decisions").glob("*.md"))),
        "han": HAN * 100,
    }


def pieces(rng: random.Random, count: int) -> list[str]:
    texts = list(kinds().values())
    found = []
    for _ in range(count):
        text, length = rng.choice(texts), rng.randint(200, 3_000)
        start = rng.randrange(max(1, len(text) - length))
        found.append(text[start : start + length])
    return found


def hidden() -> Tokenizer:
    """A tokenizer that the counter knows nothing of: small, trained on other text than it will count."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=24_000, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([path.read_text() for path in (ROOT / "farthing").rglob("*.py")], trainer)
    return tokenizer


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_openais_counts_are_exact(encoding: str) -> None:
    counter = BpeTokenizer()
    model = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4-turbo"}[encoding]
    for row in VECTORS:
        counted = counter.count(row["text"].encode(), model=model)
        assert (counted.tokens, counted.bound, counted.error) == (row[encoding], row[encoding], 0.0)


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("openai/gpt-5", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("claude-sonnet-4-6", ""),
        ("some-new-model", ""),
        ("mistral-large", ""),
    ],
)
def test_only_models_whose_encoding_is_known_are_called_exact(model: str, encoding: str) -> None:
    assert exact_encoding(model) == encoding
    counted = BpeTokenizer().count(b"a few words to count", model=model)
    assert (counted.error == 0.0) == bool(encoding)


def test_a_hidden_tokenizer_is_learned_within_fifty_answers() -> None:
    secret, counter, rng = hidden(), CalibratedTokenizer(None, strings_of), random.Random(2)
    errors = []
    for number, text in enumerate(pieces(rng, 160)):
        body = json.dumps({"model": "x", "messages": [{"role": "user", "content": text}]}).encode()
        strings = strings_of(body)
        billed = len(secret.encode("\n".join(strings)).ids) + 9
        if number >= 50:
            sizes = sizes_of("\n".join(strings), known=BpeTokenizer().known("\n".join(strings)), strings=len(strings))
            errors.append(abs(predicted(counter.states["hidden-1"], sizes) - billed) / billed)
        counter.learn(body, model="hidden-1", billed=billed)
    assert sum(errors) / len(errors) <= 0.03
    counted = counter.count(b"some words", model="hidden-1")
    assert counted.method == "calibrated on 160 answers"
    assert counted.error is not None
    assert 0 < counted.error <= 0.04


def test_the_bound_covers_what_was_billed_and_never_narrows() -> None:
    secret, rng, state = hidden(), random.Random(3), fresh(1.1)
    base = BpeTokenizer()
    low, seen = 0, Counter[bool]()
    texts = pieces(rng, 150)
    for number, text in enumerate(texts):
        sizes = sizes_of(text, known=base.known(text), strings=1)
        billed = len(secret.encode(text).ids)
        family = base.count(text.encode(), model="some-new-model").bound
        assert upper(state, sizes, family) >= family
        script = max(text) > "\u2e80"  # what it pays for one script says nothing of another
        low += number >= 20 and seen[script] >= 3 and upper(state, sizes, family) < billed
        seen[script] += 1
        state = observed(state, sizes, billed)
    assert low == 0


def test_what_was_learned_is_kept_and_an_unreadable_file_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    counter = CalibratedTokenizer(path, strings_of)
    for _ in range(12):
        counter.heard(b'{"messages": [{"content": "a few words for the model"}]}', model="x", billed=40)
    counter.heard(b"not json", model="x", billed=40)
    counter.heard(b'{"a": "b"}', model="gpt-4o", billed=40)
    counter.close()
    again = CalibratedTokenizer(path, strings_of)
    assert again.states == counter.states
    assert set(again.states) == {"x"}
    assert again.states["x"].answers == 12
    path.write_text("{")
    assert CalibratedTokenizer(path, strings_of).states == {}


@given(st.lists(st.tuples(st.text(max_size=60), st.integers(-5, 10**7)), max_size=40))
def test_no_answer_makes_the_counter_useless(answers: list[tuple[str, int]]) -> None:
    state = fresh(1.0)
    for text, billed in answers:
        state = observed(state, sizes_of(text, known=len(text), strings=1), billed)
    sizes = sizes_of("a text of ten words to see what it says", known=10, strings=1)
    assert 1 <= predicted(state, sizes) < 10**12
    assert upper(state, sizes, 20) >= 20
