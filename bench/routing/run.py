"""All measurements of routing, by one command: ``FARTHING_DATA=… python bench/routing/run.py``.

Seeds are fixed. Prints Markdown tables; docs/concepts/routing.md quotes them. ``--only`` names parts:
mmlu, speed, gate, cascade, sticky, demo. sticky and demo need no data.
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import demo
import mmlu
import sticky
import zeroeval

PARTS = ("mmlu", "speed", "gate", "cascade", "sticky", "demo")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--runs", type=int, default=400)
    chosen = options.parse_args()
    data = os.environ.get("FARTHING_DATA", "")
    if not data and set(chosen.only) - {"sticky", "demo"}:
        raise SystemExit("FARTHING_DATA must name the folder with routing_mmlu.parquet and cascade_answers.parquet")
    folder = pathlib.Path(data)
    records = mmlu.Records(folder) if set(chosen.only) & {"mmlu", "speed", "gate"} else None
    for part in chosen.only:
        _part(part, folder, records, chosen.seeds, chosen.runs)


def _part(part: str, folder: pathlib.Path, records: mmlu.Records | None, seeds: int, runs: int) -> None:
    if part == "mmlu" and records is not None:
        head = ("MMLU, learned router", "APGR", "CPT(50 %)", "CPT(80 %)", "cost at 98 %")
        _table(head, mmlu.learned(records, seeds))
    elif part == "speed" and records is not None:
        _table(("decision, CPU-µs", "p50", "p95", "p99"), mmlu.decision_time(records))
    elif part == "gate" and records is not None:
        head = ("gate at 3 points", "method", "downgraded", "true drop, points", "broken promises")
        _table(head, mmlu.gate(records, runs))
    elif part == "cascade":
        head = ("ZeroEval cascade", "quality of Sonnet", "cost of Sonnet", "plans chosen")
        _table(head, zeroeval.measure(folder, max(5, seeds)))
    elif part == "sticky":
        _table(("conversations, Opus and Haiku 4.5", "cost", "formula", "apart"), sticky.measure())
    elif part == "demo":
        _table(("demo traffic through HTTP", ""), demo.measure())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    print("|" + "|".join(f" {cell} " for cell in head) + "|")
    print("|" + "|".join(" --- " for _ in head) + "|")
    for row in rows:
        print("|" + "|".join(f" {cell} " for cell in row) + "|")
    print(flush=True)


if __name__ == "__main__":
    main()
