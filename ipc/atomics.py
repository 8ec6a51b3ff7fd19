"""Memory ordering, the clock and the futex, as numba intrinsics. The only place that knows memory ordering.

Arrays are one-dimensional and structured (or plain int64); a word is named by (array, row, byte offset in the row). The offset comes
from `layout.offset(DTYPE, field)`. All words are 8-byte aligned, except the doorbell (4 bytes, a futex must be 32 bits).
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
#: Linux system call numbers of futex by machine
_FUTEX = {"x86_64": 202, "aarch64": 98}


def _address(context: Any, builder: Any, array_type: Any, array: Any, row: Any, offset: Any) -> Any:
    struct = context.make_array(array_type)(context, builder, array)
    item = array_type.dtype.size if isinstance(array_type.dtype, types.Record) else array_type.dtype.bitwidth // 8
    base = builder.ptrtoint(struct.data, _I64)
    return builder.add(base, builder.add(builder.mul(row, ir.Constant(_I64, item)), offset))


def _word(context: Any, builder: Any, signature: Any, args: Any, width: Any = _I64) -> Any:
    return builder.inttoptr(_address(context, builder, signature.args[0], args[0], args[1], args[2]), ir.PointerType(width))


@intrinsic
def load_acquire(typingctx: Any, array: Any, row: Any, offset: Any) -> Any:
    """int64 at (array, row, offset); later reads are not moved before it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args), "acquire", 8)

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def load_relaxed(typingctx: Any, array: Any, row: Any, offset: Any) -> Any:
    """int64 at (array, row, offset), whole, without ordering."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args), "monotonic", 8)

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def store_release(typingctx: Any, array: Any, row: Any, offset: Any, value: Any) -> Any:
    """Store int64; earlier reads and writes are not moved behind it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[3], _word(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64), codegen


@intrinsic
def store_relaxed(typingctx: Any, array: Any, row: Any, offset: Any, value: Any) -> Any:
    """Store int64, whole, without ordering."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[3], _word(context, builder, signature, args), "monotonic", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64), codegen


@intrinsic
def exchange_bell(typingctx: Any, array: Any, row: Any, offset: Any, value: Any) -> Any:
    """Swap the 32-bit doorbell word and give what was there (sequentially consistent)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        old = builder.atomic_rmw("xchg", _word(context, builder, signature, args, _I32), args[3], "seq_cst")
        return old

    return types.int32(array, types.int64, types.int64, types.int32), codegen


@intrinsic
def load_bell(typingctx: Any, array: Any, row: Any, offset: Any) -> Any:
    """The 32-bit doorbell word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args, _I32), "monotonic", 4)

    return types.int32(array, types.int64, types.int64), codegen


def _fence(ordering: str) -> Any:
    def fence(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), codegen

    return fence


#: earlier reads stay before later reads and writes
fence_acquire = intrinsic(_fence("acquire"))
#: earlier reads and writes stay before later writes
fence_release = intrinsic(_fence("release"))
#: nothing passes; what "publish, then look for a sleeper" needs on both sides
fence_full = intrinsic(_fence("seq_cst"))


@intrinsic
def prefetch(typingctx: Any, array: Any, row: Any, offset: Any) -> Any:
    """Ask for the cache line of a word that will be needed soon. A hint: it changes nothing, and no address is wrong."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(_address(context, builder, signature.args[0], args[0], args[1], args[2]), ir.PointerType(ir.IntType(8)))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def copy_words(typingctx: Any, target: Any, target_row: Any, source: Any, source_row: Any) -> Any:
    """Copy one row word by word with relaxed atomics (rows of equal size, a multiple of 8 bytes)."""
    size = target.dtype.size
    if source.dtype.size != size or size % 8:
        raise TypeError(f"rows of {source.dtype.size} and {size} bytes cannot be copied word by word")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(_I64, 0)
        to = _address(context, builder, signature.args[0], args[0], args[1], zero)
        start = _address(context, builder, signature.args[2], args[2], args[3], zero)
        for word in range(0, size, 8):
            at = ir.Constant(_I64, word)
            value = builder.load_atomic(builder.inttoptr(builder.add(start, at), ir.PointerType(_I64)), "monotonic", 8)
            builder.store_atomic(value, builder.inttoptr(builder.add(to, at), ir.PointerType(_I64)), "monotonic", 8)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this is a spin loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _machine() == "x86_64":
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        else:
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [_I32]), "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(_I32, 1)])  # YIELD
        return context.get_dummy_value()

    return types.void(), codegen


def _machine() -> str:
    import platform

    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def _clock(clock_id: int) -> Any:
    def clock(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            spec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
            pointer = builder.bitcast(spec, ir.PointerType(_I64))
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_I32, [_I32, ir.PointerType(_I64)]), "clock_gettime")
            builder.call(function, [ir.Constant(_I32, clock_id), pointer])
            seconds = builder.load(pointer)
            nanos = builder.load(builder.gep(pointer, [ir.Constant(_I64, 1)]))
            return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), nanos)

        return types.int64(), codegen

    return clock


#: CLOCK_MONOTONIC in ns (about 30 ns a call): latency, heartbeats, waits
monotonic_ns = intrinsic(_clock(1 if sys.platform == "linux" else 6))

_syscall = types.ExternalFunction(
    "syscall", types.int64(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64))
_raise_signal = types.ExternalFunction("raise", types.int32(types.int32))
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


@intrinsic
def _address_of(typingctx: Any, array: Any, row: Any, offset: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _address(context, builder, signature.args[0], args[0], args[1], args[2])

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def _timespec(typingctx: Any, nanos: Any) -> Any:
    """Address of a timespec on the caller's stack, valid until it returns."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        spec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        pointer = builder.bitcast(spec, ir.PointerType(_I64))
        billion = ir.Constant(_I64, 1_000_000_000)
        builder.store(builder.sdiv(args[0], billion), pointer)
        builder.store(builder.srem(args[0], billion), builder.gep(pointer, [ir.Constant(_I64, 1)]))
        return builder.ptrtoint(pointer, _I64)

    return types.int64(types.int64), codegen


from ipc.jit import kernel  # noqa: E402  (jit sets the cache folder; numba's types above do not compile)

_FUTEX_NUMBER = _FUTEX.get(_machine(), 0) if sys.platform == "linux" else 0


@kernel
def futex_wait(array: Any, row: int, offset: int, expected: int, timeout_ns: int) -> None:
    """Sleep while the 32-bit word equals `expected`, at most `timeout_ns` (shared futex; without futexes: a short sleep)."""
    if _FUTEX_NUMBER:
        _syscall(_FUTEX_NUMBER, _address_of(array, row, offset), 0, expected, _timespec(timeout_ns), 0, 0)
    else:
        _usleep(200)


@kernel
def futex_wake(array: Any, row: int, offset: int) -> None:
    """Wake whoever sleeps on the 32-bit word."""
    if _FUTEX_NUMBER:
        _syscall(_FUTEX_NUMBER, _address_of(array, row, offset), 1, 1 << 30, 0, 0, 0)


@kernel
def raise_signal(number: int) -> None:
    """A signal for the own thread, for the crash points of the tests: it is there before the next instruction."""
    _raise_signal(number)
