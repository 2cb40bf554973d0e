"""How often the interval of a measured saving covers the truth, for heavy-tailed conversations.

True saving 20 %, log-normal conversation costs, a repriced covariate with noise; beside it what happens when requests
are taken for independent. Usage: python bench/savings.py [--runs 2000]
"""

import argparse
import math
import random

from farthing.core.savings import Conversation, measure

TRUE = 0.2


def conversation(rng: random.Random, saves: float, tail: float, noise: float) -> list[tuple[float, float]]:
    """(booked, repriced baseline) of each request."""
    heft, off = rng.lognormvariate(0, tail), math.exp(rng.gauss(0, noise))
    kept = 1 - saves * rng.uniform(0.2, 1.8)
    costs = [heft * rng.lognormvariate(0, 0.5) for _ in range(max(1, int(rng.lognormvariate(1, 1))))]
    return [(cost * kept, cost * off) for cost in costs]


def whole(conversations) -> list[Conversation]:
    return [Conversation(sum(c for c, _ in one), sum(b for _, b in one)) for one in conversations]


def single(conversations) -> list[Conversation]:
    return [Conversation(cost, base) for one in conversations for cost, base in one]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    print(f"{'tail':>5}{'noise':>7}{'control':>9}{'treated':>9}{'covers':>9}{'half-width':>12}{'by request':>12}")
    for tail, noise in ((1.0, 0.1), (1.0, 0.3), (1.5, 0.1), (1.5, 0.3)):
        for control, times in ((50, 4), (50, 19), (250, 4), (1000, 1)):
            hits = wrong = 0
            width = 0.0
            turns = runs if control < 1000 else runs // 4
            for seed in range(turns):
                rng = random.Random(seed)
                a = [conversation(rng, 0.0, tail, noise) for _ in range(control)]
                b = [conversation(rng, TRUE, tail, noise) for _ in range(control * times)]
                found, plain = measure(whole(a), whole(b)), measure(single(a), single(b))
                assert found is not None
                assert plain is not None
                hits += found.low <= TRUE <= found.high
                wrong += plain.low <= TRUE <= plain.high
                width += found.half_width / turns
            print(
                f"{tail:>5}{noise:>7}{control:>9}{control * times:>9}{hits / turns:>9.1%}"
                f"{width:>12.1%}{wrong / turns:>12.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
