"""The armoury: everything that is armed, in shared memory, changed by generation while the hot loop runs.

A condition has a slot of its own for its row and its state. What becomes armed is first one of the few `added` thresholds, which are sorted anew with
each change; when they are too many they are merged into the main array. What is removed is only marked so, with the generation from which on that
holds. A generation's line names the half of the main array, and has its own half of `added`; so the half that is written is one that nobody reads:
the next change waits until the loop has committed this one. A slot is given away only when nothing in use names it; so what a condition has done
(fired, next allowed, its group) is kept over any change of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hotpath.arming import PLAN_SHIFT, Facts, NotArmed, armed_slots, facts_by_symbol, row_of
from hotpath.kernel import merge
from hotpath.kernel.rows import FAULTS, first_fault
from ipc import layout as l
from ipc.bundle import Bundle
from ipc.messages import Condition, Plan
from ipc.segment import Memory

#: how long the hot loop may take to commit a generation
_PATIENCE_S = 2.0
#: so many conditions, and an eighth of all, may be added before they are merged into the main thresholds, which are found by their key
_FEW = 64


class Armoury:
    """The only writer of the condition table."""

    def __init__(self, memory: Memory, while_waiting: Callable[[], None], most_added: int = l.MAX_ADDED) -> None:
        """`most_added`: conditions that are added before they are merged into the main thresholds, MAX_ADDED at most."""
        self._memory, self._while_waiting, self._most_added = memory, while_waiting, most_added
        c, run = memory.conditions, memory.board.run[0]
        self._c = c
        self._kernel = Bundle(table=c.table, rows=c.rows, thresholds=c.thresholds, index=c.index)
        self._known = facts_by_symbol(memory.instruments.instruments[: int(run["instruments"])])
        self.strategies = [row["name"].decode() for row in memory.instruments.strategies[: int(run["strategies"])]]
        self._capacity = len(c.thresholds) // 2
        self._last_plans: dict[int, int] = {}
        self._reload()

    def facts(self, symbol: str) -> Facts:
        """What is known of a symbol."""
        return self._known[symbol]

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────
    def _reload(self) -> None:
        """A successor takes over what its predecessor had published; what it had only begun to write is no one's."""
        generation = int(self._c.table[0]["generation"])
        rows = self._c.rows[: int(self._c.table[0]["slots_used"])]  # what lies behind was never touched, and takes no memory
        rows["since"][rows["since"] > generation] = 0
        rows["removed"][rows["removed"] > generation] = 0
        self._armed = armed_slots(self._c)
        mine = rows[self._armed]
        self._arming = int(mine["arming"].max(initial=0))
        for strategy in range(len(self.strategies)):
            self._last_plans[strategy] = int(mine["plan_seq"][mine["strategy"] == strategy].max(initial=0))
        self._counts = np.zeros((len(self._memory.instruments.instruments), l.TRIGGERS), np.int64)
        np.add.at(self._counts, (mine["instrument"], mine["trigger"]), 1)
        used = np.zeros(len(self._c.rows), bool)
        used[self._armed] = True
        used[self._added()["slot"]] = True
        leaders = mine["group_slot"][mine["group_id"] != 0]
        used[leaders] = True
        line = self._c.generations[generation & 1]
        first = int(line["half"]) * self._capacity
        main = self._c.thresholds["slot"][first: first + int(self._c.index[(int(line["half"]) + 1) * (len(self._c.index) // 2) - 1])]
        used[main] = True
        self._free = np.flatnonzero(~used)[::-1]
        #: removed, but still in the main array; free when the hot loop has committed the generation that is published; leaders of a group that lives
        self._dead = main[rows["removed"][main] != 0].astype(np.int64)
        self._leaving = np.zeros(0, np.int64)
        self._leaders = np.setdiff1d(leaders, np.concatenate([self._armed, self._added()["slot"], main])).astype(np.int64)

    def _added(self) -> Any:
        """The added thresholds of the published generation."""
        half = int(self._c.table[0]["generation"]) & 1
        return self._c.added[half * l.MAX_ADDED: half * l.MAX_ADDED + int(self._c.generations[half]["added"])]

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def arm(self, plan: Plan) -> tuple[int, int]:
        """What a plan says of its strategy's conditions; gives (generation, conditions armed in all). Raises NotArmed; then nothing has changed."""
        strategy = self._strategy(plan.strategy)
        if not self._is_new(strategy, plan.plan_seq):
            return int(self._c.table[0]["generation"]), len(self._armed)
        made = b"".join([row_of(condition, f"conditions[{index}]", plan, index, strategy, self._known)
                         for index, condition in enumerate(plan.conditions)])
        rows = np.frombuffer(bytearray(made), l.CONDITION)
        mine = self._armed[self._c.rows["strategy"][self._armed] == strategy]
        if plan.add:
            removed = mine[np.isin(self._c.rows["condition_id"][mine], plan.withdraw)]
            if len(removed) < len(set(plan.withdraw)):
                lost = sorted(set(plan.withdraw) - set(self._c.rows["condition_id"][removed].tolist()))
                raise NotArmed(f"withdraw: {lost[0]} is no armed condition of {plan.strategy}; withdraw what trader-ctl conditions lists")
        else:
            removed = mine
        changed = self._change(rows, plan.conditions, removed, plan.plan_seq)
        self._last_plans[strategy] = plan.plan_seq
        return changed

    def arm_rows(self, strategy_name: str, plan_seq: int, rows: Any) -> tuple[int, int]:
        """As `arm`, for a plan that was compiled into CONDITION rows by its maker: all of the strategy's conditions are replaced by these.

        The rows are written to: they get the strategy, the plan and their ids. Raises NotArmed with the first row that may not be armed.
        """
        strategy = self._strategy(strategy_name)
        if not self._is_new(strategy, plan_seq):
            return int(self._c.table[0]["generation"]), len(self._armed)
        if len(rows) > 1 << PLAN_SHIFT:
            raise NotArmed(f"rows: {len(rows)} are more than the {1 << PLAN_SHIFT} of a plan; plan fewer")
        row, code = first_fault(rows, self._memory.instruments.instruments, int(self._memory.board.run[0]["instruments"]))
        if code:
            raise NotArmed(f"rows[{row}].{FAULTS[code]}; nothing of the plan is armed, compile it anew")
        rows["strategy"], rows["plan_seq"], rows["removed"] = strategy, plan_seq, 0
        rows["condition_id"] = (plan_seq << PLAN_SHIFT) + np.arange(len(rows))
        changed = self._change(rows, (), self._armed[self._c.rows["strategy"][self._armed] == strategy], plan_seq)
        self._last_plans[strategy] = plan_seq
        return changed

    def _strategy(self, name: str) -> int:
        if name not in self.strategies:
            raise NotArmed(f"strategy: {name!r} does not run here; running are {', '.join(self.strategies)}")
        return self.strategies.index(name)

    def _is_new(self, strategy: int, plan_seq: int) -> bool:
        """False: it is armed; asked twice, its conditions would have forgotten what they fired. Raises NotArmed for an older one."""
        last = self._last_plans.get(strategy, 0)
        if plan_seq < last:
            raise NotArmed(f"plan_seq: {plan_seq} is older than {last}, which is armed; send the newest plan")
        return plan_seq != last

    def _change(self, rows: Any, conditions: Sequence[Condition], removed: Any, plan_seq: int) -> tuple[int, int]:
        """Add `rows` (in words: `conditions`), remove the slots `removed`, publish. Raises NotArmed before anything is written."""
        count = len(self._armed) - len(removed) + len(rows)
        if count > self._capacity:
            raise NotArmed(f"conditions: {count} are more than hotpath.condition_capacity = {self._capacity}; raise it or plan fewer")
        counts = self._counts.copy()
        np.subtract.at(counts, (self._c.rows["instrument"][removed], self._c.rows["trigger"][removed]), 1)
        np.add.at(counts, (rows["instrument"], rows["trigger"]), 1)
        if (counts[:, l.TRIGGER_TRAILING] > l.MAX_TRAILING).any():
            symbol = self._memory.instruments.instruments[int(counts[:, l.TRIGGER_TRAILING].argmax())]["symbol"].decode()
            raise NotArmed(f"conditions: more than {l.MAX_TRAILING} with rebound_bps in {symbol}; each is looked at with every tick, plan fewer")
        self._wait_committed()
        if len(self._free) < len(rows):
            self._compact()
        if len(self._free) < len(rows):
            raise NotArmed(f"conditions: only {len(self._free)} slots are free for {len(rows)} more; withdraw some first, or raise "
                           "hotpath.condition_capacity")
        generation = int(self._c.table[0]["generation"]) + 1
        slots = self._free[len(self._free) - len(rows):]
        rows["since"] = generation
        rows["arming"] = np.arange(self._arming + 1, self._arming + 1 + len(rows))
        _join_groups(rows, slots, conditions)
        self._c.table[0]["slots_used"] = max(int(self._c.table[0]["slots_used"]), int(slots.max(initial=-1)) + 1)
        self._c.rows[slots] = rows
        self._c.rows["removed"][removed] = generation
        added = self._sorted_with(rows, slots)
        self._write_generation(generation, added, count, plan_seq, counts)
        self._free = self._free[: len(self._free) - len(rows)]
        self._arming += len(rows)
        self._armed = np.concatenate([np.setdiff1d(self._armed, removed, assume_unique=True), slots])
        return generation, count

    def _compact(self) -> None:
        """A generation of what is armed already, merged, so that the slots of what was removed are free."""
        added = self._sorted_with(np.zeros(0, l.CONDITION), np.zeros(0, np.int64))
        line = self._c.generations[int(self._c.table[0]["generation"]) & 1]
        self._write_generation(int(self._c.table[0]["generation"]) + 1, added, len(self._armed), int(line["plan_seq"]), self._counts, merged=True)
        self._wait_committed()

    def _sorted_with(self, rows: Any, slots: Any) -> Any:
        """The added thresholds of the published generation that are not removed, and those of `rows`."""
        before = self._added()
        gone = self._c.rows["removed"][before["slot"]] != 0
        new = np.zeros(len(rows), l.ADDED)
        new["key"] = (rows["instrument"].astype(np.int64) * l.TRIGGERS + rows["trigger"]) * len(l.DIRECTIONS) + rows["direction"]
        new["signed"] = np.where(rows["direction"] == l.CROSS_UP, rows["level"], -rows["level"])
        trailing = rows["trigger"] == l.TRIGGER_TRAILING  # all under one key, in the order of their arming
        new["key"][trailing] -= rows["direction"][trailing]
        new["signed"][trailing] = 0
        new["slot"], new["arming"] = slots, rows["arming"]
        self._gone_from_added = before["slot"][gone].astype(np.int64)
        both = np.concatenate([before[~gone], new])
        return both[np.lexsort((both["arming"], both["signed"], both["key"]))]

    def _write_generation(self, generation: int, added: Any, count: int, plan_seq: int, counts: Any, merged: bool = False) -> None:
        c, at = self._c, generation & 1
        half = int(c.generations[1 - at]["half"])
        removed_now = np.flatnonzero(c.rows["removed"][self._armed] == generation)
        self._leaving = self._gone_from_added
        self._dead = np.concatenate([self._dead, np.setdiff1d(self._armed[removed_now], self._gone_from_added, assume_unique=True)])
        if merged or len(added) > min(self._most_added, _FEW + count // 8) or 4 * len(self._dead) > self._capacity:
            merge.merge(self._kernel, half, added, len(added))
            half, added = 1 - half, added[:0]
            self._leaving, self._dead = np.concatenate([self._leaving, self._dead]), self._dead[:0]
        c.added[at * l.MAX_ADDED: at * l.MAX_ADDED + len(added)] = added
        watched = ((counts[:, len(l.PRICE_KINDS):] > 0) << np.arange(len(l.PRICE_KINDS), l.TRIGGERS, dtype=np.int64)).sum(axis=1)
        c.watched[at * len(counts): (at + 1) * len(counts)] = watched
        line = c.generations[at]
        line["half"], line["added"], line["armed"], line["plan_seq"] = half, len(added), count, plan_seq
        self._counts = counts
        merge.publish(self._kernel, generation)

    def _wait_committed(self) -> None:
        """Until the hot loop has taken what is published, so that what the one before it used is free. It does so between two ticks."""
        sniper, generation = self._memory.sniper, int(self._c.table[0]["generation"])
        end = time.monotonic() + _PATIENCE_S
        while int(sniper.commit_lines[int(sniper.commit[0]["number"]) & 1]["generation"]) != generation:
            if time.monotonic() > end:
                raise NotArmed(f"the hot loop did not take the last plan within {_PATIENCE_S:g} s; try again")
            self._while_waiting()
            time.sleep(0.0002)
        free = np.concatenate([self._leaving, self._leaders])
        # a group's first member keeps the group's state for the others, even when it is withdrawn itself
        needed = self._c.rows["group_slot"][self._armed[self._c.rows["group_id"][self._armed] != 0]] if len(free) else free
        self._leaders = free[np.isin(free, needed)]
        free = free[~np.isin(free, needed)]
        self._c.rows["since"][free] = 0
        self._free, self._leaving = np.concatenate([self._free, free]), self._leaving[:0]


def _join_groups(rows: Any, slots: Any, conditions: Sequence[Condition]) -> None:
    """Name in each member of a group the group's first member, in whose state it stands whether one of them has fired."""
    first: dict[str, int] = {}
    for index, condition in enumerate(conditions):
        if condition.group is not None:
            leader = first.setdefault(condition.group, index)
            rows["group_id"][index], rows["group_slot"][index] = rows["condition_id"][leader], slots[leader]


def warm_up(memory: Memory) -> None:
    """Compile the merge and the look at rows."""
    c = memory.conditions
    kernel = Bundle(table=c.table, rows=c.rows, thresholds=c.thresholds, index=c.index)
    merge.merge(kernel, 0, np.zeros(1, l.ADDED), 0)
    first_fault(np.zeros(1, l.CONDITION), memory.instruments.instruments, 1)
    merge.publish(kernel, int(c.table[0]["generation"]))
