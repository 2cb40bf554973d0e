"""``make bench``: what a request costs in CPU time, here, now, against nginx and LiteLLM in the same run.

The gateway is pinned to core 0, the load (wrk) and the fake provider to core 1. The main figure is CPU-µs per
request: user and system time of the gateway's processes over a run, divided by the requests served; it holds on a
busy machine, requests per second do not. Every figure is the median of three runs. See bench/README.md.
"""

import argparse
import json
import pathlib
import platform
import shutil
import subprocess
import tempfile
import time

import contenders as who
import measure
from report import memory_table, table

HERE = pathlib.Path(__file__).parent
PACE_MS = 5
CONNECTIONS = (1, 16, 64)
WORKLOADS = {"whole": (False, 0), "stream": (True, 0), "paced": (True, PACE_MS)}
"""Name -> (streamed, pause between chunks in ms)."""


def main() -> None:
    options = _options()
    _check_tools()
    upstream = measure.build_upstream()
    chosen = _chosen(options)
    with tempfile.TemporaryDirectory(prefix="farthing-bench-") as folder:
        folder_path = pathlib.Path(folder)
        bodies = _bodies(folder_path)
        if options.memory:
            results = [_memory(one, options, upstream, folder_path, bodies) for one in chosen]
            text = memory_table(results)
        else:
            results = _measured(chosen, options, upstream, folder_path, bodies)
            text = table(results)
    print(text)
    _write(options, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one short run each, at 16 and 64 connections, without LiteLLM"
    )
    parser.add_argument("--stacks", action="store_true", help="the HTTP stack prototypes instead of whole gateways")
    parser.add_argument("--memory", action="store_true", help="memory over many requests instead of CPU time")
    parser.add_argument("--requests", type=int, default=200_000, help="for --memory (default 200000)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this contender; repeatable")
    parser.add_argument("--workload", action="append", default=[], choices=list(WORKLOADS), help="repeatable")
    parser.add_argument("--connections", type=int, action="append", default=[], help="repeatable (1, 16, 64)")
    parser.add_argument("--seconds", type=int, help="length of one run (5; quick 2)")
    parser.add_argument("--runs", type=int, help="runs per figure (3; quick 1)")
    options = parser.parse_args()
    options.seconds = options.seconds or (2 if options.quick else 5)
    options.runs = options.runs or (1 if options.quick else 3)
    options.connections = options.connections or list(CONNECTIONS[1:] if options.quick else CONNECTIONS)
    options.workload = options.workload or list(WORKLOADS)
    return options


def _check_tools() -> None:
    wanted = {"wrk": "wrk", "taskset": "util-linux"}
    missing = [package for tool, package in wanted.items() if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"The benchmark needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")


def _chosen(options: argparse.Namespace) -> list[who.Contender]:
    if options.only:
        every = {one.name: one for one in (*who.GATEWAYS, *who.STACKS)}
        unknown = [name for name in options.only if name not in every]
        if unknown:
            raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(every)}")
        return [every[name] for name in options.only]
    if options.stacks:
        return [who.GATEWAYS[0], *who.STACKS]
    if options.memory:
        return [one for one in who.GATEWAYS if one.name == "farthing"]
    return [one for one in who.GATEWAYS if not (options.quick and one.slow)]


def _bodies(folder: pathlib.Path) -> dict[bool, pathlib.Path]:
    """The request's body, whole and streamed."""
    body = json.loads((HERE / "body.json").read_text(encoding="utf-8"))
    streamed = folder / "stream.json"
    streamed.write_text(json.dumps({**body, "stream": True}, separators=(",", ":")), encoding="utf-8")
    return {False: HERE / "body.json", True: streamed}


def _measured(chosen, options, upstream, folder, bodies) -> list[dict]:
    """Paced and unpaced answers come from two providers, so each contender is started once for each."""
    results = []
    for pace in sorted({WORKLOADS[name][1] for name in options.workload}):
        names = [name for name in options.workload if WORKLOADS[name][1] == pace]
        upstream_port = measure.free_port()
        command = [upstream, str(upstream_port), str(pace)]
        with measure.Running("upstream", command, core=measure.LOAD_CORE, port=upstream_port):
            for contender in chosen:
                port = measure.free_port()
                home = folder / f"{contender.name}-{pace}"
                home.mkdir()
                started = contender.prepare(home, port, upstream_port)
                running = measure.Running(
                    contender.name, started.command, core=measure.GATEWAY_CORE, port=port, env=dict(started.env)
                )
                with running as pid:
                    for name in names:
                        results += _workload(contender, name, pid, port, started.key, options, bodies)
    return results


def _workload(contender, name, pid, port, key, options, bodies) -> list[dict]:
    streamed, pace = WORKLOADS[name]
    results = []
    for connections in options.connections:
        if pace and connections == 1:
            continue  # four requests a second: too few for a clock of 10 ms
        seconds = options.seconds * (3 if contender.slow else 1)  # enough requests, few of them unfinished
        load = measure.Load(name, connections, seconds, bodies[streamed], key)
        measure.wrk(port, measure.Load(name, connections, 1, bodies[streamed], key))  # warm
        figures = measure.median([measure.sample(pid, port, load) for _ in range(options.runs)])
        results.append({"contender": contender.name, "says": contender.says, "workload": name,
                        "connections": connections, **figures})  # fmt: skip
        print(
            f"{contender.name:>10} {name:>6} {connections:>3} connections  {figures['cpu_us']:>9.1f} CPU-µs/request  "
            f"{figures['per_second']:>8.0f}/s  p50 {figures['p50_us'] / 1000:.2f} ms  "
            f"p99 {figures['p99_us'] / 1000:.2f} ms  {figures['rss_mib']:.0f} MiB"
            + (f"  {figures['failed']:.0f} FAILED" if figures["failed"] else ""),
            flush=True,
        )
    return results


def _memory(contender, options, upstream, folder, bodies) -> dict:
    """Resident memory before, half-way through and after many whole answers at 64 connections."""
    upstream_port, port = measure.free_port(), measure.free_port()
    home = folder / f"{contender.name}-memory"
    home.mkdir()
    with measure.Running("upstream", [upstream, str(upstream_port)], core=measure.LOAD_CORE, port=upstream_port):
        started = contender.prepare(home, port, upstream_port)
        running = measure.Running(
            contender.name, started.command, core=measure.GATEWAY_CORE, port=port, env=dict(started.env)
        )
        with running as pid:
            load = measure.Load("whole", 64, 2, bodies[False], started.key)
            measure.wrk(port, load)
            points = [(0, measure.rss_bytes(pid))]
            served = 0
            while served < options.requests:
                served += measure.wrk(port, load)["requests"]
                points.append((served, measure.rss_bytes(pid)))
    return {"contender": contender.name, "points": points}


def _write(options: argparse.Namespace, results: list[dict]) -> None:
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    kind = "memory" if options.memory else "stacks" if options.stacks else "gateways"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    record = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "seconds": options.seconds,
        "runs": options.runs,
        "results": results,
    }
    path = out / f"{kind}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"written to {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
