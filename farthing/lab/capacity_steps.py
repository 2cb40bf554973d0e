"""The formulas of the capacity planner, in the order in which they are worked out."""

from typing import Final, NamedTuple


class Step(NamedTuple):
    """One figure."""

    name: str
    formula: str
    unit: str
    meaning: str


MEMORY: Final = (
    Step("kv_bytes_per_token", "2*layers*kv_heads*head_size*kv_bytes", "B", "KV cache of one token"),
    Step("weights_gb", "parameters*weight_bytes/10**9", "GB", "weights"),
    Step("kv_gb", "gpus*(memory_share*memory_gb - overhead_gb) - weights_gb", "GB", "memory left for the KV cache"),
    Step("kv_tokens", "kv_gb*10**9/kv_bytes_per_token", "tokens", "tokens that the KV cache holds"),
)

ROOFLINE: Final = (
    Step(
        "running",
        "max(1, min(concurrency, kv_tokens/(input + 0.55*output)))",
        "requests",
        "requests that run at once",
    ),
    Step("read_s", "weights_gb/(gpus*tb_per_s*1000)", "s", "reading all weights once"),
    Step("multiply_s", "2*active*running/(gpus*tflops*10**12)", "s", "the arithmetic of one token of each"),
    Step("linear_s", "sqrt(read_s**2 + multiply_s**2)", "s", "whichever of both is longer, smoothed"),
    Step(
        "attention_s",
        "running*(input + output/2)*kv_bytes_per_token/(gpus*tb_per_s*10**12)",
        "s",
        "reading the KV cache",
    ),
    Step(
        "link_s",
        "min(1, gpus - 1)*2*layers*(0.00002 + 4*width*running*(gpus - 1)/gpus/(link_tb_per_s*10**12))",
        "s",
        "adding up between GPUs; 20 µs a time, fitted",
    ),
    Step(
        "engine_s",
        "0.000017*layers + 61*2*layers*width*running/(tb_per_s*10**12)",
        "s",
        "the engine: 17 µs a layer and 61 passes over activations, fitted",
    ),
    Step("step_s", "linear_s + attention_s + link_s + engine_s", "s", "one token for every running request"),
    Step(
        "prefill_s",
        "2*active/(gpus*tflops*10**12) + 4*layers*heads*head_size*(input/2)/(gpus*tflops_bf16*10**12/2)"
        " + 8*layers*width*(gpus - 1)/gpus/(link_tb_per_s*10**12)",
        "s",
        "taking in one token of a prompt",
    ),
    Step(
        "token_s",
        "step_s + running*(input/output)*(1 - prefix_hit)*prefill_s",
        "s",
        "between two tokens of an answer (TPOT), with others' prompts taken in between",
    ),
    Step("requests_per_second", "running/token_s/output", "1/s", "requests that one replica completes (estimated)"),
)

MEASURED: Final = (Step("requests_per_second", "measured", "1/s", "requests that one replica completes (measured)"),)

FLOOR: Final = (
    Step("tokens_per_second", "requests_per_second*(input + output)", "tok/s", "tokens in and out of one replica"),
    Step("output_per_second", "requests_per_second*output", "tok/s", "tokens out of one replica"),
    Step("bound_per_second", "gpus*tflops*10**12/(2*active)", "tok/s", "what the arithmetic alone would allow"),
    Step(
        "of_bound",
        "requests_per_second*(input*(1 - prefix_hit) + output)/bound_per_second",
        "",
        "share of that bound; above 1 is impossible",
    ),
)

DEMAND: Final = (
    Step(
        "replica_requests_per_day",
        "requests_per_second*3600*hours_per_day",
        "requests/day",
        "what one replica can serve",
    ),
    Step(
        "replicas",
        "max(replicas_min, ceil(requests_per_day*peak/(replica_requests_per_day*utilisation_max)))",
        "",
        "replicas for the peak",
    ),
    Step(
        "utilisation",
        "requests_per_day/(replica_requests_per_day*replicas)",
        "",
        "share of what is paid for that is used, on average",
    ),
)

SPEND: Final = (
    Step(
        "usd_per_hour", "usd_per_gpu_hour/(1 - rework)*gpus*replicas", "USD/h", "all GPUs, work done again included"
    ),
    Step("self_usd_per_day", "usd_per_hour*hours_per_day + operations*24/730", "USD/day", "a day, with operations"),
    Step("self_usd_per_month", "self_usd_per_day*730/24", "USD/month", "a month of 730 hours"),
)

COST: Final = (
    Step("tokens_per_day", "requests_per_day*(input + output)", "tokens/day", "tokens asked for"),
    Step("self_usd_per_mtok", "self_usd_per_day/tokens_per_day*10**6", "USD/Mtok", "a million tokens at this demand"),
    Step(
        "self_usd_per_mtok_full",
        "usd_per_gpu_hour/(1 - rework)*gpus/(tokens_per_second*3600)*10**6",
        "USD/Mtok",
        "a million tokens if replicas were always busy",
    ),
    Step("self_usd_per_request", "self_usd_per_day/requests_per_day", "USD", "one request"),
)

BATCH: Final = (
    Step(
        "api_now_usd",
        "(input*((1 - api_cached)*api_input + api_cached*api_read) + output*api_output)/10**6",
        "USD",
        "one request that is answered at once",
    ),
    Step(
        "api_batch_usd",
        "(input*((1 - api_cached)*batch_input + api_cached*batch_read) + output*batch_output)/10**6",
        "USD",
        "one request in a batch",
    ),
    Step(
        "api_usd_per_request",
        "(1 - api_batch)*api_now_usd + api_batch*api_batch_usd",
        "USD",
        "one request at the API",
    ),
)
"""Takes the place of the first step of ``API`` where a share could wait for a batch."""

API: Final = (
    Step(
        "api_usd_per_request",
        "(input*((1 - api_cached)*api_input + api_cached*api_read) + output*api_output)/10**6",
        "USD",
        "one request at the API",
    ),
    Step("api_usd_per_mtok", "api_usd_per_request/(input + output)*10**6", "USD/Mtok", "a million tokens at the API"),
    Step("api_usd_per_month", "api_usd_per_request*requests_per_day*730/24", "USD/month", "a month at the API"),
    Step(
        "breakeven_requests_per_day",
        "self_usd_per_day/api_usd_per_request",
        "requests/day",
        "volume from which these GPUs are cheaper",
    ),
    Step(
        "breakeven_tokens_per_day",
        "breakeven_requests_per_day*(input + output)",
        "tokens/day",
        "the same in tokens",
    ),
    Step(
        "breakeven_utilisation",
        "breakeven_requests_per_day/(replica_requests_per_day*replicas)",
        "",
        "the utilisation that this takes; above 1 cannot be",
    ),
    Step(
        "breakeven_tokens_per_second",
        "breakeven_tokens_per_day/(replicas*hours_per_day*3600)",
        "tok/s",
        "the rate, all day, that each replica would need",
    ),
)
