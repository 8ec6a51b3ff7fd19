"""`python -m benchmarks.workload TICKS`: a fixed piece of kernel work whose instructions are counted; see instructions.py.

The whole `step` over ticks of a fixed market, 1,000 conditions on 100 symbols, one tick of a thousand fires. WARM ticks come first, so that all is
loaded; the next TICKS are put between two of valgrind's client requests, start and stop counting, which do nothing where there is no valgrind.
It checks itself like the benchmark `kernel`, and prints the orders made.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable

from benchmarks.bench_kernel import World
from benchmarks.frame import check, instance
from benchmarks.market import walk

WARM, MOST, CONDITIONS, SYMBOLS = 10_000, 800_000, 1_000, 100
#: CALLGRIND_START_INSTRUMENTATION and CALLGRIND_STOP_INSTRUMENTATION of valgrind's callgrind.h: ('C', 'T') + 4 and + 5
START, STOP = (ord("C") << 24 | ord("T") << 16) + 4, (ord("C") << 24 | ord("T") << 16) + 5
#: VALGRIND_DO_CLIENT_REQUEST of valgrind.h for x86-64: rax = the argument, rdx = 0; rdi rotated by 3 + 13 + 61 + 51 = 128 bits; xchg rbx, rbx; ret
_REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db c3")


def client_request() -> Callable[[int], None]:
    """Asks the valgrind that this process runs under for something; does nothing under none."""
    check(platform.machine() == "x86_64", "the request is in x86-64 machine code")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_REQUEST)
    code = ctypes.c_char.from_buffer(page)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(code))

    def ask(what: int, _alive: object = code) -> None:
        words = (ctypes.c_uint64 * 6)(what)
        call(ctypes.addressof(words))

    return ask


def main() -> int:
    """Do it."""
    count = int(sys.argv[1])
    check(0 < count <= MOST, f"{count} is not in 1 to {MOST}")
    ask = client_request()
    with instance(ticks=1024, instruments=SYMBOLS, conditions=CONDITIONS) as memory:
        world = World(memory, CONDITIONS, SYMBOLS, walk(SYMBOLS, WARM + MOST))
        world.round(WARM, timed=False)
        ask(START)
        world.round(count, timed=False)
        ask(STOP)
        world.check()
        print(f"{count} ticks, {world.orders} orders")
    return 0


if __name__ == "__main__":
    sys.exit(main())
