-- Like wrk.lua, with BENCH_FRESH=1 for a new question in every request: the cache never has it.
dofile(os.getenv("BENCH_LUA"))
local count = 0
local head, tail = string.match(wrk.body, '^(.*"user":"[^"]*)(".*)$')
if os.getenv("BENCH_FRESH") == "1" then
  function request()
    count = count + 1
    return wrk.format(nil, nil, nil, head .. "-" .. count .. "-" .. os.time() .. tail)
  end
end
