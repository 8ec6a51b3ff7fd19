"""Random numbers without a state: bits that belong to (seed, stream, index), by the counter hash splitmix64; and noise made of them.

The mixing constants are those of Vigna's splitmix64 (public domain, https://prng.di.unimi.it/splitmix64.c).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ipc.jit import kernel

#: steps of the two counters: index and stream
GOLDEN, _STREAMS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U30, _U27, _U31, _U11, _U16 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), np.uint64(16)
_LOW_16 = np.uint64(0xFFFF)
_ROOT_3 = math.sqrt(3.0)


@kernel
def mix(x: Any) -> Any:
    """64 bits well mixed, one to one."""
    x = (x ^ (x >> _U30)) * _MIX_1
    x = (x ^ (x >> _U27)) * _MIX_2
    return x ^ (x >> _U31)


@kernel
def draw(seed: int, kind: int, member: int, index: int) -> Any:
    """64 random bits that belong to (seed, stream, index)."""
    return mix(mix(np.uint64(seed) * GOLDEN + np.uint64(kind << 16 | member) * _STREAMS) + np.uint64(index) * GOLDEN)


@kernel
def unit(bits: Any) -> float:
    """Uniform in [0, 1) from the upper 53 bits."""
    return float(bits >> _U11) * (1.0 / 9007199254740992.0)


@kernel
def part(bits: Any, which: int) -> float:
    """Uniform in [0, 1) from one of four 16-bit parts."""
    return float((bits >> (_U16 * np.uint64(which))) & _LOW_16) * (1.0 / 65536.0)


@kernel
def gauss(bits: Any) -> float:
    """Nearly normal with variance 1, within ±3.5: the sum of four uniforms."""
    return (part(bits, 0) + part(bits, 1) + part(bits, 2) + part(bits, 3) - 2.0) * _ROOT_3


@kernel
def noise(seed: int, kind: int, member: int, octave: int, bucket: int) -> float:
    """Value noise with a period of 2^octave buckets: normal nodes, straight lines between them (variance 2/3 on average)."""
    node = bucket >> octave
    left = gauss(draw(seed, kind, member, node))
    right = gauss(draw(seed, kind, member, node + 1))
    return left + (right - left) * (float(bucket - (node << octave)) / float(1 << octave))
