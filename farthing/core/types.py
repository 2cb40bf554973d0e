"""The nouns of Farthing: frozen records that every layer shares.

All records are ``msgspec`` structs, immutable and keyword-only, so that they can be hashed, logged, replayed and
compared. Quantities and money are integers; times are UTC milliseconds since the epoch (``*_ms``). None can be part
of a cycle, so those that every call makes are none of the garbage collector's business (``gc=False``).
"""

from typing import Final, Literal

import msgspec

from farthing.core.money import Nusd, Pusd

Dialect = Literal["openai", "anthropic"]
"""The public API whose shapes a caller speaks: requests, answers, streams and errors."""

ProviderDialect = Literal["openai", "anthropic", "gemini", "bedrock"]
"""The API that a provider speaks. Calls of another dialect are translated on their way."""

Endpoint = Literal[
    "chat", "completions", "embeddings", "responses", "messages", "count_tokens", "generate", "converse"
]
"""What is asked for. ``generate`` (Gemini) and ``converse`` (Bedrock) exist at providers only, never at callers."""

UsageSource = Literal["reported", "partial", "estimated", "missing"]
"""Where quantities come from.

``reported``: the provider's own final usage. ``partial``: a stream that ended early, from what it had said.
``estimated``: counted by Farthing. ``missing``: a complete answer that carried no usage at all.
"""

PriceState = Literal["priced", "free", "unpriced"]
"""``free`` is an explicit zero in the book or nothing billed at all; ``unpriced`` is an unknown price, never zero."""

EntryKind = Literal["charge", "adjustment", "reversal"]

LimitUnit = Literal["usd", "tokens", "input_tokens", "output_tokens", "requests", "tool_calls", "turns_without_human"]
"""What a budget counts: nano-USD, tokens of every class, billed input or output tokens, requests, tool calls whose
results a request brings, or a model's turns since a human last spoke (which binds each call by itself)."""


NOT_SAID: Final = msgspec.Raw(b"null")
"""A value that a body does not have; told by identity."""


class Scope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Whose call it is. Empty strings mean "not said"; reports show them as their own row."""

    org: str = ""
    team: str = ""
    project: str = ""
    user: str = ""
    feature: str = ""
    customer: str = ""
    session: str = ""
    key: str = ""
    """The id of the virtual key (never the secret)."""
    tags: tuple[tuple[str, str], ...] = ()
    """Free labels, sorted by name, each name once."""


class PromptView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What Farthing reads from a request body; the body itself is kept as bytes and never re-modelled."""

    endpoint: Endpoint
    model: str
    stream: bool = False
    include_usage: bool = False
    """The caller itself asked for usage in the stream (OpenAI ``stream_options.include_usage``)."""
    output_tokens_max: int | None = None
    """The caller's own cap on output tokens per choice, if any."""
    choices: int = 1
    """Answers asked for (``n`` × ``best_of``); each is billed."""
    body_bytes: int = 0
    """Size of the body; no byte-level tokenizer makes more tokens of the prompt than this."""
    images: int = 0
    unbounded: bool = False
    """The prompt refers to content outside the body (URLs, file ids, earlier responses, hosted tools)."""
    tools: int = 0
    hosted_tools: tuple[tuple[str, int], ...] = ()
    """Provider-run tools and their caller-given maximum of uses (0: no maximum given)."""
    cache_marks: int = 0
    """Prompt-cache breakpoints the caller set itself."""
    cache_ttl_long: bool = False
    """A one-hour prompt-cache write is asked for somewhere in the body."""
    service_tier: str = ""
    facets: tuple[tuple[str, str], ...] = ()
    """Other billing choices the caller made, sorted: ``speed``, ``region``."""
    temperature: float | None = None
    user: str = ""
    """The caller's own end-user id (OpenAI ``user``/``safety_identifier``, Anthropic ``metadata.user_id``)."""
    metadata: tuple[tuple[str, str], ...] = ()


class PromptParts(msgspec.Struct, kw_only=True):
    """A body's values that make its prompt, over all dialects, as JSON; in the order of providers' prefixes."""

    tools: msgspec.Raw = NOT_SAID
    functions: msgspec.Raw = NOT_SAID
    system: msgspec.Raw = NOT_SAID
    instructions: msgspec.Raw = NOT_SAID
    messages: msgspec.Raw = NOT_SAID
    input: msgspec.Raw = NOT_SAID
    prompt: msgspec.Raw = NOT_SAID


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call as it came in."""

    id: str
    received_at_ms: int
    dialect: Dialect
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """The caller's headers that may travel on (lower-case names); never the caller's Farthing key."""
    view: PromptView
    scope: Scope
    readings: dict[str, int | str] = {}
    """What was read from the body to decide, by name, noted when it was first read. A request that is replayed
    without its text brings those of the log, and is decided by them."""
    parts: tuple[bytes, PromptParts] | None = None
    """(a body, its prompt's values), where reading the view has found them: they need not be found again."""


NO_TEXT: Final = b'{"model":"","messages":[]}'
"""The body of a replayed request whose text was not kept; told by identity."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream that can serve a request."""

    provider: str
    """The configured provider's name."""
    price_as: str
    """The provider id under which the price book lists its models."""
    model: str
    """The model name as it is sent upstream."""
    price_model: str = ""
    """The model name for pricing when it differs from what is sent (Azure deployments); empty: same."""
    region: str = ""
    deployment: str = ""


class UsagePart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Disjoint quantities that are rated together: one model, one context-tier test."""

    lines: tuple[tuple[str, int], ...]
    """(unit, quantity) pairs; units of ``farthing.core.units``, each once, quantities ≥ 0, zeros left out."""
    tier_basis: int = 0
    """Prompt tokens that decide the context tier (all input, cached or not, of this one model run)."""
    model: str = ""
    """The model of this part when it is not the answer's own (fallback, advisor); empty: the same."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one attempt consumed, normalised to disjoint lines whose sums equal what the provider reported."""

    parts: tuple[UsagePart, ...] = ()
    source: UsageSource = "missing"
    model: str = ""
    """The model the provider says it served; empty when it did not say."""
    service_tier: str = ""
    """The tier the provider says it served: ``default``, ``flex``, ``priority``, ``batch``…; empty: not said."""
    facets: tuple[tuple[str, str], ...] = ()
    """Other billing facts the provider stated, sorted: ``speed``, ``region``, ``traffic``, ``search_context``…"""
    stated_pusd: int | None = None
    """What the provider itself says the call cost, in pico-USD; None when it does not say."""
    finish_reason: str = ""
    upstream_id: str = ""
    anomalies: tuple[str, ...] = ()
    """Identities the provider's numbers violate, as slugs with figures; never corrected in silence."""
    raw: bytes = b""
    """The provider's usage object, verbatim JSON."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The most that one attempt can consume; what a ceiling is computed from."""

    input_tokens: int
    output_tokens: int
    """Per choice."""
    choices: int = 1
    images: int = 0
    unbounded: bool = False
    """Input may grow to the model's whole context window."""
    cache_write: bool = True
    """Input may be billed as a prompt-cache write."""
    cache_ttl_long: bool = False
    service_tier: str = ""
    """The tier asked for; "auto" and unknown tiers cost their dearest possibility."""
    hosted_tools: tuple[tuple[str, int], ...] = ()
    facets: tuple[tuple[str, str], ...] = ()


class ChargeLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line of a charge: ``quantity × price × multipliers``, rounded once, half-even."""

    unit: str
    quantity: int
    price: Pusd | None
    """None: this line's price is unknown."""
    amount: Nusd | None
    multipliers: tuple[tuple[str, int], ...] = ()
    """(why, basis points), applied before rounding."""
    row: str = ""
    """The price row used: id in the book, with its tier or window."""
    model: str = ""
    """The model whose price this is when it is not the answer's own."""


class Charge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an attempt costs. ``total`` is the sum of the lines, or None when any billed line is unpriced."""

    lines: tuple[ChargeLine, ...] = ()
    total: Nusd | None = None
    state: PriceState = "unpriced"
    reason: str = ""
    """Why it is unpriced, as a slug: ``unknown_model``, ``unknown_unit:<unit>``, ``no_price_at``…"""
    price_ref: str = ""
    """Content hash of the price book used."""
    computed: Nusd | None = None
    """The amount computed from the book when ``total`` is the provider's own stated cost."""


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An amount set aside on one counter in one window, under that counter's limit at that moment."""

    counter: str
    window: str
    unit: LimitUnit
    limit: int
    amount: int
    budget: str = ""
    """The budget's name, for messages."""
    resets_at_ms: int | None = None
    hard: bool = True
    also: tuple[str, ...] = ()
    """Other windows of the same counter and unit whose use counts against the limit too, each named once: a rolling
    limit is one short window of now and its neighbours within reach. Only ``window`` is held and posted to."""


class Reservation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All holds of one attempt: pending → posted | voided | expired, exactly once, all holds or none."""

    id: str
    request_id: str
    holds: tuple[Hold, ...]
    ceiling: Nusd | None
    expires_at_ms: int


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The reservation stands."""

    id: str
    over: "tuple[Denied, ...]" = ()
    """Soft holds that a hard limit would have refused, with what was left for them; told the first time only."""


class Denied(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """No hold was made: ``hold`` would have crossed its limit."""

    id: str
    hold: Hold
    left: int
    """What was left on that counter, in its unit, after open holds."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a stage of the pipeline did and why; ``reason`` is a stable, documented slug."""

    stage: str
    action: str
    reason: str
    saved: Nusd = Nusd(0)
    evidence: tuple[tuple[str, str], ...] = ()


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One billed attempt, or a later correction of one. Append-only; never holds prompt or answer text."""

    id: str
    request_id: str
    attempt: int
    kind: EntryKind = "charge"
    corrects: str = ""
    """The entry that an adjustment or reversal corrects."""
    received_at_ms: int
    """Decides window and price."""
    booked_at_ms: int
    """Audit only."""
    scope: Scope
    dialect: str
    endpoint: str
    provider: str
    price_as: str
    model_requested: str
    model: str
    """The model served, as the provider named it; the model sent when it did not say."""
    usage: Usage
    charge: Charge
    baseline: Nusd | None = None
    """What the asked-for model on the unoptimised prompt would have cost; savings are baseline − charge."""
    fidelity: Literal["exact", "repriced", "estimated", "unknown"] = "exact"
    ceiling: Nusd | None = None
    policy_ref: str = ""
    decisions: tuple[Decision, ...] = ()
    stream: bool = False
    status: int = 200
    error: str = ""
    """The error code when the attempt failed but was billed."""
    client_gone: bool = False
    ttft_ms: int | None = None
    latency_ms: int = 0


class AttemptFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One upstream try as the exchange log keeps it, billed or not."""

    attempt: int
    provider: str
    model: str
    status: int
    error: str = ""
    started_at_ms: int
    latency_ms: int
    ttft_ms: int | None = None
    entry_id: str = ""
    """Empty when nothing was billed."""
    retry_after_ms: int | None = None
    """How long the provider asked to be left alone, when it did."""
    lever: str = ""
    """The lever that asked for its own sake, and whose account paid; empty: the request's own try."""
    usage: Usage | None = None
    """What a lever's try consumed; that of the request's own is the exchange's."""


class PromptSection(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One piece of the prompt in prefix order: tools, system, each message."""

    role: str
    size: int
    """Bytes."""
    digest: str
    """Salted hash; equal digests mean equal content within one installation."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The traffic log: what replay reads. One per request, refused ones included."""

    request_id: str
    received_at_ms: int
    scope: Scope
    dialect: str
    view: PromptView
    outcome: Literal["answered", "refused", "failed", "aborted"]
    status: int
    error: str = ""
    received_digest: str = ""
    """Salted hash of the body as it came."""
    sent_digest: str = ""
    """Salted hash of the body as it left; equal to ``received_digest`` where no lever touched it."""
    blocks: tuple[str, ...] = ()
    """Chained salted hashes of the prompt's prefix, one per block of ``block_bytes``."""
    block_bytes: int = 1024
    sections: tuple[PromptSection, ...] = ()
    attempts: tuple[AttemptFact, ...] = ()
    usage: Usage | None = None
    amount: Nusd | None = None
    """Sum of the request's entries; None when any is unpriced."""
    decisions: tuple[Decision, ...] = ()
    policy_ref: str = ""
    latency_ms: int = 0
    ttft_ms: int | None = None
    prompt: bytes | None = None
    """The request body, redacted as the policy says; None when the policy keeps no text."""
    answer: bytes | None = None
    readings: dict[str, int | str] = {}
    """What was read from the body to decide (see ``Request.readings``)."""
    acts: tuple[tuple[int, int], ...] = ()
    """Every question to the books and every settlement, in order: (milliseconds since arrival, number of the act in
    its process, negative for a settlement). Near a limit, what came first decides."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual key. The secret is shown once at creation and kept only as a hash."""

    id: str
    name: str
    hash: str
    """SHA-256 of the secret, hex; secrets carry 256 random bits, so no slow hash is needed."""
    hint: str
    """The last four characters, to recognise a key by."""
    scope: Scope
    refine: tuple[str, ...] = ("user", "feature", "customer", "session", "tags")
    """Dimensions that headers and the caller's own ``user``/``metadata`` may set for this key."""
    created_at_ms: int
    revoked_at_ms: int | None = None
    expires_at_ms: int | None = None
    models: tuple[str, ...] = ()
    """Model name patterns this key may use; empty: all."""


class LedgerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the ledger that every store answers alike; reports are made of these, never of SQL."""

    group_by: tuple[str, ...] = ()
    """Dimensions of ``farthing.core.dimensions``; ``tag:<name>`` for a tag, ``hour|day|week|month`` for time."""
    since_ms: int | None = None
    until_ms: int | None = None
    where: tuple[tuple[str, str], ...] = ()
    """Equal-to filters, joined by "and"."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an answer to a :class:`LedgerQuery`."""

    group: tuple[str, ...] = ()
    requests: int = 0
    """Distinct requests with at least one entry."""
    entries: int = 0
    amount: int = 0
    """Nano-USD over priced entries."""
    baseline: int = 0
    """Nano-USD over priced entries that have a baseline."""
    unpriced: int = 0
    """Entries whose price is unknown; their cost is in no total."""
    estimated: int = 0
    """Entries whose quantities are not the provider's final report."""
    estimated_amount: int = 0
    """The part of ``amount`` that rests on those entries."""
    input_tokens: int = 0
    """All billed input tokens: uncached, read from and written to the prompt cache."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """All billed output tokens, reasoning included."""
    reasoning_tokens: int = 0
    errors: int = 0
    latency_ms: int = 0
    """Sum; divide by entries for the mean."""
