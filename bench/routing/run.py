"""All measurements of routing, by one command: ``FARTHING_DATA=… python bench/routing/run.py``.

Seeds are fixed. Prints Markdown tables; ``--page FILE`` also puts those that were made into the page, between its
marks ``<!-- measured: NAME -->`` and ``<!-- end -->``; docs/concepts/routing.md is written so. ``--only`` names
parts: mmlu, clusters, speed, gate, cascade, sticky, demo. sticky and demo need no data; clusters needs
``--embedder FOLDER``.
"""

import argparse
import contextlib
import io
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import demo
import meaning
import mmlu
import sticky
import zeroeval

PARTS = ("mmlu", "clusters", "speed", "gate", "cascade", "sticky", "demo")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options.add_argument("--embedder", type=pathlib.Path, help="a folder that 'farthing embedder fetch' made")
    options.add_argument("--sample", type=int, default=3_500, help="prompts that clusters embeds; 0: all")
    options.add_argument("--page", type=pathlib.Path, help="a Markdown page whose tables are replaced")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--runs", type=int, default=400)
    chosen = options.parse_args()
    data = os.environ.get("FARTHING_DATA", "")
    if not data and set(chosen.only) - {"sticky", "demo"}:
        raise SystemExit("FARTHING_DATA must name the folder with routing_mmlu.parquet and cascade_answers.parquet")
    folder = pathlib.Path(data)
    records = mmlu.Records(folder) if set(chosen.only) & {"mmlu", "clusters", "speed", "gate"} else None
    for part in chosen.only:
        if part == "clusters" and chosen.embedder is None:
            print("clusters: left out, --embedder names no folder\n")
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            _part(part, folder, records, chosen.seeds, chosen.runs, chosen.embedder, chosen.sample)
        print(out.getvalue(), flush=True)
        if chosen.page is not None:
            _put(chosen.page, part, out.getvalue())


def _put(page: pathlib.Path, part: str, tables: str) -> None:
    """The page with this part's tables."""
    text = page.read_text(encoding="utf-8")
    begins, ends = f"<!-- measured: {part} -->\n", "<!-- end -->"
    before, mark, rest = text.partition(begins)
    _, end, after = rest.partition(ends)
    if not mark or not end:
        raise SystemExit(f"{page} has no place for '{part}': {begins.strip()} … {ends}")
    page.write_text(f"{before}{mark}\n{tables.strip()}\n\n{end}{after}", encoding="utf-8")


def _part(
    part: str,
    folder: pathlib.Path,
    records: mmlu.Records | None,
    seeds: int,
    runs: int,
    embedder: pathlib.Path | None,
    sample: int,
) -> None:
    if part == "clusters" and records is not None and embedder is not None:
        places = meaning.sampled(records, sample)
        made, identity = meaning.vectors(records, places, embedder)
        head = ("MMLU, routers on the same splits", "APGR", "CPT(50 %)", "CPT(80 %)", "cost at 98 %")
        _table(head, meaning.clusters(records, seeds, places, made, identity))
        times = meaning.decision_time(records, places, made, identity, embedder)
        _table(("decision, CPU-µs", "p50", "p95", "p99"), times)
    elif part == "mmlu" and records is not None:
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
