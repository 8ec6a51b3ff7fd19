"""The further clauses of a condition: feature op value, or feature op feature; all of them must hold at the tick that fires it."""

from __future__ import annotations

from typing import Any

from hotpath.kernel.features import value
from hotpath.kernel.windows import advance
from ipc import layout as l
from ipc.jit import kernel


@kernel
def clauses_hold(s: Any, condition: Any, event_ns: int) -> bool:
    """Whether all hold. A feature without a value makes its clause false. The caller has room for an instrument's features in the undo log."""
    if condition.clauses == 0:
        return True
    advance(s, condition.instrument, event_ns)
    for k in range(condition.clauses):
        left = value(s, condition.instrument, condition.clause_feature[k], event_ns)
        right = condition.clause_value[k]
        if condition.clause_other[k] != l.NO_FEATURE:
            right *= value(s, condition.instrument, condition.clause_other[k], event_ns)
        holds = left > right if condition.clause_op[k] == l.OP_ABOVE else left < right
        if not holds:
            return False
    return True
