"""Many arrays as one kernel argument that costs one pointer to pass.

numba passes a tuple of arrays by value, seven words an array, through every call: with forty arrays the sniper's loop took 80 s to compile. A
`Bundle` keeps the arrays' addresses and lengths in a small table; in a kernel `bundle.name` builds the array header from it (two loads).
The arrays are borrowed: the Python object keeps them alive while a kernel runs.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.extending import lower_builtin  # noqa: F401  (numba registers its lowering on import)
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate
from numba.extending import NativeValue, infer_getattr, register_model, typeof_impl, unbox
from numba.np.arrayobj import populate_array

#: words of a table entry: address, length of the first and of the second dimension
_WORDS = 3


class Bundle:
    """Arrays by name, of one or two dimensions, contiguous; for kernels, and as attributes in Python."""

    def __init__(self, **arrays: np.ndarray[Any, Any]) -> None:
        for name, array in arrays.items():
            if not array.flags.c_contiguous or array.ndim not in (1, 2):
                raise TypeError(f"{name}: a bundle takes contiguous arrays of one or two dimensions")
        self.arrays = arrays
        self.table = np.array([[a.ctypes.data, a.shape[0], a.shape[1] if a.ndim == 2 else 0] for a in arrays.values()], np.int64)
        self.address = int(self.table.ctypes.data)
        self.numba_type: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["arrays"][name]
        except KeyError:
            raise AttributeError(name) from None


class BundleType(types.Type):
    """A bundle's type: names and array types in their order."""

    def __init__(self, fields: tuple[tuple[str, Any], ...]) -> None:
        self.fields = fields
        super().__init__(name=f"Bundle({', '.join(f'{name}: {array}' for name, array in fields)})")
        self._hash = zlib.crc32(self.name.encode())  # the same in every process: numba's cache pickles types

    def __hash__(self) -> int:
        """Asked for at each call from Python; hashing the types of all arrays takes some 50 µs."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, BundleType) and self.fields == other.fields)

    @property
    def key(self) -> Any:
        """What tells two bundle types apart."""
        return self.fields


#: types by what the arrays are. The dtypes are compared as objects, and kept here so that none of their ids is used again: a child that was forked
#: behind a warm-up finds its type here, where typing fifty record dtypes anew would take 15 ms of every recovery
_types: dict[tuple[Any, ...], tuple[BundleType, list[Any]]] = {}


@typeof_impl.register(Bundle)
def _typeof(value: Bundle, context: Any) -> BundleType:
    if value.numba_type is None:  # every call from Python asks
        key = tuple((name, id(array.dtype), array.ndim, array.flags.writeable, array.flags.aligned) for name, array in value.arrays.items())
        if key not in _types:
            made = BundleType(tuple((name, typeof_impl(array, context)) for name, array in value.arrays.items()))
            _types[key] = (made, [array.dtype for array in value.arrays.values()])
        value.numba_type = _types[key][0]
    known: BundleType = value.numba_type
    return known


@register_model(BundleType)
class _BundleModel(models.PrimitiveModel):
    def __init__(self, manager: Any, bundle_type: Any) -> None:
        super().__init__(manager, bundle_type, ir.IntType(64))


@unbox(BundleType)
def _unbox(bundle_type: Any, value: Any, context: Any) -> NativeValue:
    address = context.pyapi.object_getattr_string(value, "address")
    native = context.pyapi.long_as_longlong(address)
    context.pyapi.decref(address)
    return NativeValue(native, is_error=cgutils.is_not_null(context.builder, context.pyapi.err_occurred()))


@infer_getattr
class _BundleAttributes(AttributeTemplate):
    key = BundleType

    def generic_resolve(self, bundle_type: Any, name: str) -> Any:
        """Type of `bundle.name`."""
        return dict(bundle_type.fields).get(name)


@lower_getattr_generic(BundleType)
def _getattr(context: Any, builder: Any, bundle_type: Any, value: Any, name: str) -> Any:
    index, array_type = next((i, array) for i, (field, array) in enumerate(bundle_type.fields) if field == name)
    word = ir.IntType(64)
    table = builder.inttoptr(value, ir.PointerType(word))

    def load(k: int) -> Any:
        loaded = builder.load(builder.gep(table, [ir.Constant(word, index * _WORDS + k)]))
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))  # the table never changes: loads may be hoisted and merged
        return loaded

    array = context.make_array(array_type)(context, builder)
    item = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    shape = [load(1)] if array_type.ndim == 1 else [load(1), load(2)]
    size = ir.Constant(word, item)
    strides = [size] if array_type.ndim == 1 else [builder.mul(shape[1], size), size]
    data = builder.inttoptr(load(0), array.data.type)
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None, parent=None)
    return array._getvalue()
