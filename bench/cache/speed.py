"""``python bench/cache/speed.py [--entries N]``: CPU and memory of embedding and of looking among many entries.

CPU time of one thread, medians. Absolute figures depend on the machine; run it on a quiet one.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import workloads

from farthing.adapters.vector_flat import FlatIndex
from farthing.adapters.vector_graph import GraphIndex

QUERIES = (
    "how do I reset my password",
    "what is your refund policy",
    "my card has not arrived yet",
    "can I change my delivery address",
)


def cpu_ms(work, times: int) -> float:
    """Median CPU of one call."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return float(np.median(taken)) * 1e3


_LOADED = """
import resource, sys
from pathlib import Path
from farthing.adapters.embed_onnx import OnnxEmbedder
OnnxEmbedder(Path(sys.argv[1])).embed_now(["how do I reset my password"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def rss_mb() -> float:
    """The highest of a process that does nothing but load the model and embed a question."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, str(workloads.CACHE / "minilm")], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--wheel", type=Path, default=None)
    args = parser.parse_args()
    model = workloads.embedder(args.wheel)
    for text in QUERIES:
        model.embed_now([text])
    each = [cpu_ms(lambda text=text: model.embed_now([text]), 100) for text in QUERIES]
    print(f"embedding a short question: {np.mean(each):.2f} ms CPU; a process with the model: {rss_mb():.0f} MB")
    size = model.dimensions
    rng = np.random.default_rng(1)
    real = np.concatenate([model.embed_now(list(QUERIES)), rng.normal(size=(4_000, size)).astype(np.float32)])
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    asked = near(real[:200], rng, 0.01)
    flat = FlatIndex(size)
    flat.add(
        (number, row.tobytes()) for number, row in enumerate(near(real[rng.integers(0, 4_000, 20_000)], rng, 0.03))
    )
    found = cpu_ms(lambda: flat.search(asked[0].tobytes(), 8), 200)
    print(f"flat index, {len(flat):,} entries: {found:.2f} ms CPU a lookup, {flat.bytes / len(flat):.0f} B an entry")
    graph = GraphIndex(size)
    start = time.process_time()
    for first in range(0, args.entries, 50_000):
        count = min(50_000, args.entries - first)
        rows = near(real[rng.integers(0, len(real), count)], rng, 0.03)
        graph.add((first + place, row.tobytes()) for place, row in enumerate(rows))
    built = (time.process_time() - start) / args.entries * 1e3
    turn = iter(range(10**9))
    found = cpu_ms(lambda: graph.search(asked[next(turn) % 200].tobytes(), 8), 1_000)
    print(
        f"graph index, {len(graph):,} entries: {found:.3f} ms CPU a lookup, {built:.3f} ms an addition, "
        f"{graph.bytes / len(graph):.0f} B an entry, of which {size} are the vector"
    )


def near(rows, rng, spread: float):
    """Unit vectors around given ones."""
    noisy = rows + rng.normal(scale=spread, size=rows.shape).astype(np.float32)
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype("<f4")


if __name__ == "__main__":
    main()
