-- POSTs the body of BENCH_BODY to BENCH_PATH with BENCH_KEY; prints the summary as one line of JSON.
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.body = file:read("*a")
file:close()
wrk.method = "POST"
wrk.path = os.getenv("BENCH_PATH") or "/v1/chat/completions"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer " .. os.getenv("BENCH_KEY")

function done(summary, latency, requests)
  local errors = summary.errors
  local fields = {
    requests = summary.requests,
    duration_us = summary.duration,
    bytes = summary.bytes,
    failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    mean_us = latency.mean,
    p50_us = latency:percentile(50),
    p90_us = latency:percentile(90),
    p99_us = latency:percentile(99),
    max_us = latency.max,
  }
  local parts = {}
  for name, value in pairs(fields) do
    parts[#parts + 1] = string.format('"%s":%.0f', name, value)
  end
  io.write("\nJSON{" .. table.concat(parts, ",") .. "}\n")
end
