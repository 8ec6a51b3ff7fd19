"""`python -m benchmarks.workload TICKS`: a fixed piece of kernel work whose instructions are counted; see instructions.py.

The whole `step` over the first TICKS of 810,000 ticks, 1,000 conditions on 100 symbols, one tick of a thousand fires. Everything but the length of
the run is the same whatever TICKS is. It checks itself like the benchmark `kernel`, and prints the orders made.
"""

from __future__ import annotations

import sys

from benchmarks.bench_kernel import World
from benchmarks.frame import check, instance
from benchmarks.market import walk

MOST, CONDITIONS, SYMBOLS = 810_000, 1_000, 100


def main() -> int:
    """Do it."""
    count = int(sys.argv[1])
    check(0 < count <= MOST, f"{count} is not in 1 to {MOST}")
    with instance(ticks=1024, instruments=SYMBOLS, conditions=CONDITIONS) as memory:
        world = World(memory, CONDITIONS, SYMBOLS, walk(SYMBOLS, MOST))
        world.round(count, timed=False)
        world.check()
        print(f"{count} ticks, {world.orders} orders")
    return 0


if __name__ == "__main__":
    sys.exit(main())
