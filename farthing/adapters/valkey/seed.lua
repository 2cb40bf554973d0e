-- Load counters from the ledger while a rebuild runs. KEYS: counters. ARGV: per counter: amount, version, ends.
for n = 1, #KEYS do set_posted(KEYS[n], ARGV[3 * n - 2], ARGV[3 * n - 1], ARGV[3 * n]) end
return 1
