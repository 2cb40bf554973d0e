"""The tables that the benchmark prints."""

from collections.abc import Iterable


def table(results: list[dict]) -> str:
    """CPU-µs per request of every contender and workload, and how it stands to nginx and LiteLLM."""
    cells = {(one["contender"], one["workload"], one["connections"]): one for one in results}
    columns = list(dict.fromkeys((one["workload"], one["connections"]) for one in results))
    names = {one["contender"]: one["says"] for one in results}
    blocks = [_block("CPU-µs per request (median)", names, columns, lambda key: _figure(cells.get(key), "cpu_us"))]
    blocks.append(_block("requests per second", names, columns, lambda key: _figure(cells.get(key), "per_second")))
    blocks.append(_block("p50 latency, µs", names, columns, lambda key: _figure(cells.get(key), "p50_us")))
    if "nginx" in names and len(names) > 1:
        blocks.append(_block("× nginx's CPU", names, columns, lambda key: _ratio(cells, key, "nginx")))
    if "litellm" in names:
        blocks.append(_block("× less CPU than LiteLLM", names, columns, lambda key: _ratio(cells, key, "litellm")))
    failed = [f"{key}: {one['failed']:.0f} failed" for key, one in cells.items() if one["failed"]]
    if failed:
        blocks.append("FAILED REQUESTS: the figures above do not count.\n" + "\n".join(failed))
    return "\n\n".join(["", *blocks, ""])


def memory_table(results: Iterable[dict]) -> str:
    """Resident memory at the start, half-way and at the end."""
    lines = ["", f"{'resident memory, MiB':<22}{'start':>10}{'half':>10}{'end':>10}{'requests':>12}{'growth':>10}"]
    for one in results:
        points = one["points"]
        total = points[-1][0]
        half = min(points, key=lambda point: abs(point[0] - total / 2))
        sizes = [points[0][1], half[1], points[-1][1]]
        # The first half fills pools and caches; what matters is that the second half stays flat.
        growth = (sizes[2] - sizes[1]) / sizes[1]
        shown = "".join(f"{size / 2**20:>10.1f}" for size in sizes)
        lines.append(f"{one['contender']:<22}{shown}{total:>12}{growth:>+10.1%}")
    return "\n".join([*lines, "growth: second half.", ""])


def _block(title: str, names: dict[str, str], columns, cell) -> str:
    head = f"{title:<46}" + "".join(f"{f'{workload} {count}':>12}" for workload, count in columns)
    rows = [
        f"{name:<11}{says:<35}" + "".join(f"{cell((name, *column)):>12}" for column in columns)
        for name, says in names.items()
    ]
    return "\n".join([head, *rows])


def _figure(one: dict | None, name: str) -> str:
    if one is None:
        return "-"
    return f"{one[name]:,.0f}" if one[name] >= 100 else f"{one[name]:.1f}"


def _ratio(cells: dict, key: tuple[str, str, int], base: str) -> str:
    mine, other = cells.get(key), cells.get((base, *key[1:]))
    if mine is None or other is None or not mine["cpu_us"]:
        return "-"
    ratio = mine["cpu_us"] / other["cpu_us"] if base == "nginx" else other["cpu_us"] / mine["cpu_us"]
    return f"{ratio:,.1f}"
