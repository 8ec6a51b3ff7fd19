"""Bundles: arrays that travel to kernels under one pointer, as themselves and not as copies."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numba import typeof
from numba.core.errors import TypingError

from ipc import layout as l
from ipc import segment
from ipc.bundle import Bundle
from ipc.jit import kernel


@kernel
def totals(b: Any) -> int:
    """A word of each array, and their lengths."""
    return b.ticks[1].price + b.cash[2] + b.grid[1, 2] + 1000 * b.ticks.shape[0] + 10_000 * b.grid.shape[0] + 100_000 * b.grid.shape[1]


@kernel
def add(b: Any, row: int, amount: int) -> None:
    """Into each array."""
    b.ticks[row].price += amount
    b.cash[row] += amount
    b.grid[row, row] += amount


@kernel
def add_twice(b: Any, row: int, amount: int) -> None:
    """Through another kernel, which is handed the whole bundle."""
    add(b, row, amount)
    add(b, row, amount)


@kernel
def between(a: Any, b: Any) -> int:
    """Two bundles of one type in one kernel."""
    a.cash[0] = 1
    b.cash[0] = 2
    return a.cash[0] * 10 + b.cash[0]


@kernel
def misspelt(b: Any) -> int:
    """Asks for what is not there."""
    return b.cahs[0]


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    ticks = np.zeros(4, l.TICK)
    ticks["price"] = (1, 2, 3, 4)
    return {"ticks": ticks, "cash": np.arange(10, 20), "grid": np.arange(12).reshape(3, 4)}


def test_a_kernel_reads_every_array_by_its_name() -> None:
    assert totals(Bundle(**arrays())) == 2 + 12 + 6 + 4000 + 30_000 + 400_000


def test_a_kernel_writes_into_the_arrays_themselves() -> None:
    of = arrays()
    bundle = Bundle(**of)
    add(bundle, 2, 5)
    assert (of["ticks"]["price"][2], of["cash"][2], of["grid"][2, 2]) == (8, 17, 15)
    of["cash"][2] = 100
    of["ticks"]["price"][1] = 50
    assert totals(bundle) == 50 + 100 + 6 + 434_000
    assert bundle.cash is of["cash"]


def test_a_bundle_goes_on_to_other_kernels() -> None:
    of = arrays()
    add_twice(Bundle(**of), 1, 3)
    assert (of["ticks"]["price"][1], of["cash"][1], of["grid"][1, 1]) == (8, 17, 11)


def test_bundles_of_one_type_share_one_compiled_kernel_and_no_memory() -> None:
    first, second = Bundle(**arrays()), Bundle(**arrays())
    assert between(first, second) == 12
    assert (first.cash[0], second.cash[0]) == (1, 2)
    assert between(first, first) == 22, "one bundle twice is one memory"
    assert len(between.signatures) == 1  # type: ignore[attr-defined]


def test_lengths_are_each_bundles_own() -> None:
    of = arrays()
    assert totals(Bundle(**{**of, "ticks": np.zeros(7, l.TICK), "grid": np.zeros((2, 3), np.int64)})) == 12 + 7000 + 20_000 + 300_000


def test_a_missing_name_is_told_when_the_kernel_is_compiled_and_in_python() -> None:
    bundle = Bundle(**arrays())
    with pytest.raises(TypingError, match="cahs"):
        misspelt(bundle)
    with pytest.raises(AttributeError, match="cahs"):
        _ = bundle.cahs


@pytest.mark.parametrize("array", [np.arange(10)[::2], np.zeros((3, 4)).T, np.zeros((2, 2, 2)), np.zeros(())],
                         ids=["strided", "transposed", "three-dimensional", "scalar"])
def test_what_a_kernel_could_not_address_is_refused_by_name(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"prices: .* contiguous arrays of one or two dimensions"):
        Bundle(prices=array)


def test_a_bundle_keeps_its_arrays_alive_and_lets_them_go_with_itself() -> None:
    of = arrays()
    bundle = Bundle(**of)
    watched = weakref.ref(of["cash"])
    of.clear()
    gc.collect()
    churn = [np.full(10, -1) for _ in range(100)]  # would land where freed arrays were
    assert totals(bundle) == 2 + 12 + 6 + 434_000
    assert len(churn) == 100
    del bundle
    gc.collect()
    assert watched() is None


def test_a_bundle_over_shared_memory_writes_what_another_mapping_reads(memory: Any) -> None:
    other = segment.Memory(memory.instance)
    add(Bundle(ticks=memory.ticks.slots, cash=memory.sniper.refusals, grid=np.zeros((4, 4), np.int64)), 3, 9)
    assert other.ticks.slots[3]["price"] == 9
    assert other.sniper.refusals[3] == 9


def test_bundles_of_the_same_arrays_share_a_type_and_others_do_not() -> None:
    first, again = Bundle(**arrays()), Bundle(**arrays())
    other, locked = Bundle(**{**arrays(), "cash": np.zeros(10)}), arrays()
    locked["cash"].flags.writeable = False
    kinds = [typeof(one) for one in (first, again, other, Bundle(**locked))]
    assert kinds[0] is kinds[1]
    assert len({kinds[0], kinds[2], kinds[3]}) == 3


def test_a_dtype_that_is_gone_never_lends_its_type_to_another() -> None:
    for number in range(8):
        made = Bundle(ticks=np.zeros(1, np.dtype([("price", "<i8"), (f"other{number}", "<i8")])))
        gc.collect()
        assert f"other{number}" in str(typeof(made)), "an id that is used again would find the type of before"


def test_memory_attached_read_only_can_be_read_and_a_kernel_that_writes_is_not_compiled_for_it(memory: Any) -> None:
    looker = segment.Memory(memory.instance, writable=False)
    bundle = Bundle(ticks=looker.ticks.slots, cash=looker.sniper.refusals, grid=np.zeros((4, 4), np.int64))
    memory.ticks.slots[1]["price"] = 8
    assert totals(bundle) == 8 + 1000 * 1024 + 440_000
    with pytest.raises(TypingError):
        add(bundle, 0, 1)
