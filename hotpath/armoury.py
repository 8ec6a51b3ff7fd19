"""The armoury: everything that is armed, in shared memory, changed by generation while the hot loop runs.

A condition has a slot of its own for its row and its state. What becomes armed is first one of the few `added` thresholds, which are sorted anew with
each change; when they are too many they are merged into the main array. What is removed is only marked so, with the generation from which on that
holds. A generation's line names the half of the main array, and has its own half of `added`; so the half that is written is one that nobody reads:
the next change waits until the loop has committed this one. A slot is given away only when nothing in use names it; so what a condition has done
(fired, next allowed, its group) is kept over any change of the others.

A plan comes as rows that the strategist has compiled, a large one in parts. Each part is looked through when it comes and kept aside; the last one
changes the table, once for the whole plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hotpath.arming import Facts, NotArmed, NotContinued, armed_slots, facts_by_symbol
from hotpath.kernel import merge
from hotpath.kernel import rows as looked_at
from ipc import layout as l
from ipc.bundle import Bundle
from ipc.messages import Arm
from ipc.segment import Memory

#: how long the hot loop may take to commit a generation
_PATIENCE_S = 2.0
#: so many conditions, and an eighth of all, may be added before they are merged into the main thresholds, which are found by their key
_FEW = 64
_NO_SLOTS = np.zeros(0, np.int64)


class Parts:
    """What has come of one plan: its rows (CONDITION) with the number of each part, and how many of each instrument and trigger."""

    def __init__(self, strategy: int, plan: Arm, counts: Any) -> None:
        self.strategy, self.due_ns, self.add, self.counts = strategy, plan.due_ns, plan.add, counts
        self.withdraw: list[int] = []
        self.rows: list[tuple[int, Any]] = []
        self.count = 0

    @property
    def plan_seq(self) -> int:
        """Number of the newest part; 0 before the first."""
        return self.rows[-1][0] if self.rows else 0

    def goes_on_with(self, strategy: int, part: Arm) -> bool:
        """Whether a part is the next one of this plan."""
        return (self.strategy, self.due_ns, len(self.rows)) == (strategy, part.due_ns, part.part) and part.plan_seq > self.plan_seq


class Armoury:
    """The only writer of the condition table."""

    def __init__(self, memory: Memory, while_waiting: Callable[[], None], most_added: int = l.MAX_ADDED) -> None:
        """`most_added`: conditions that are added before they are merged into the main thresholds, MAX_ADDED at most."""
        self._memory, self._while_waiting, self._most_added = memory, while_waiting, most_added
        c, run = memory.conditions, memory.board.run[0]
        self._c = c
        self._kernel = Bundle(table=c.table, rows=c.rows, thresholds=c.thresholds, index=c.index)
        self._instruments = int(run["instruments"])
        self._known = facts_by_symbol(memory.instruments.instruments[: self._instruments])
        self.strategies = [row["name"].decode() for row in memory.instruments.strategies[: int(run["strategies"])]]
        #: conditions that may be armed at once
        self.capacity = len(c.thresholds) // 2
        self._parts: Parts | None = None
        #: by place in the plan that is coming: the group, as its rows name it
        self._groups = np.zeros(self.capacity, np.int64)
        self._marks = np.zeros(len(c.rows), bool)
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
        armed = armed_slots(self._c)
        mine = rows[armed]
        self._arming = int(mine["arming"].max(initial=0))
        self._counts = np.zeros((len(self._memory.instruments.instruments), l.TRIGGERS), np.int64)
        np.add.at(self._counts, (mine["instrument"], mine["trigger"]), 1)
        #: by strategy: slots of what it has armed, numbers of the first and last part of its plan, slots that keep the state of its groups
        self._armed = [armed[mine["strategy"] == strategy] for strategy in range(l.MAX_STRATEGIES)]
        numbers = [rows["plan_seq"][slots] for slots in self._armed]
        self._last_plans = [(int(of.min()), int(of.max())) if len(of) else (0, 0) for of in numbers]
        self._leading = [self._leaders_of(slots) for slots in self._armed]
        line = self._c.generations[generation & 1]
        first = int(line["half"]) * self.capacity
        main = self._c.thresholds["slot"][first: first + int(self._c.index[(int(line["half"]) + 1) * (len(self._c.index) // 2) - 1])].astype(np.int64)
        added = self._added()["slot"].astype(np.int64)
        used = np.concatenate([armed, added, main, *self._leading])
        self._free = self._without(np.arange(len(self._c.rows))[::-1], used)
        #: removed, but still in the main array; free when the hot loop has committed the generation that is published; kept for a group that lives
        self._dead = main[rows["removed"][main] != 0]
        self._leaving = _NO_SLOTS
        self._leaders = self._without(np.unique(np.concatenate(self._leading)), np.concatenate([armed, added, main]))

    def _leaders_of(self, slots: Any) -> Any:
        """Slots that keep the state of the groups of these."""
        return np.unique(self._c.rows["group_slot"][slots[self._c.rows["group_id"][slots] != 0]]).astype(np.int64)

    def _added(self) -> Any:
        """The added thresholds of the published generation."""
        half = int(self._c.table[0]["generation"]) & 1
        return self._c.added[half * l.MAX_ADDED: half * l.MAX_ADDED + int(self._c.generations[half]["added"])]

    def _without(self, slots: Any, others: Any) -> Any:
        """Those of `slots` that are none of `others`, in their order. By marks, since numpy's set functions sort."""
        self._marks[others] = True
        left = slots[~self._marks[slots]]
        self._marks[others] = False
        return left

    # ── a run begins ─────────────────────────────────────────────────────────────────────────────────────────────────
    def fault_of(self, row: bytes) -> str:
        """What is wrong with a compiled row of no group, "" where it may be armed."""
        _, code = looked_at.first_fault(np.frombuffer(row, l.CONDITION), 0, self._groups, self._memory.instruments.instruments, self._instruments)
        return looked_at.FAULTS[code] if code else ""

    def begin_with(self, rows: Any, plan_seq: int) -> Any:
        """Arm what earlier runs had armed, before the hot loop starts, over a table that was never used; gives each row's slot.

        `rows` (CONDITION, none faulty, no more than `capacity`) stand in the order of their arming. Each has its id, plan and strategy, and the id of
        its group, whose first one here keeps the group's state. `plan_seq`: what the SWAPPED record says.
        """
        first: dict[int, int] = {}
        places = rows.copy()
        places["group_id"] = [1 + first.setdefault(group, place) if group else 0 for place, group in enumerate(rows["group_id"].tolist())]
        places.flags.writeable = False  # as rows that travelled are: the kernels are compiled for those
        made, slots = np.zeros(len(rows), l.ADDED), self._free[len(self._free) - len(rows):]
        self._c.table[0]["slots_used"] = max(int(self._c.table[0]["slots_used"]), int(slots.max(initial=-1)) + 1)
        looked_at.place(self._kernel, places, 0, slots, made, 0, plan_seq, 1, 1)
        for name in ("condition_id", "group_id", "plan_seq", "strategy"):
            self._c.rows[name][slots] = rows[name]
        looked_at.tally(places, self._counts)
        self._write_generation(1, made, _NO_SLOTS, len(rows), plan_seq, self._counts)
        return slots

    # ── a plan comes ─────────────────────────────────────────────────────────────────────────────────────────────────
    def arm(self, plan: Arm) -> tuple[int, int]:
        """A plan, or a part of it; gives (generation, conditions armed in all), which only the last part changes.

        Raises NotArmed, or NotContinued for a part whose earlier ones are not there; then nothing has changed, what came of the plan is forgotten.
        """
        try:
            self._take(plan)
        except NotArmed:
            self._parts = None
            raise
        return int(self._c.table[0]["generation"]), sum(map(len, self._armed))

    def _take(self, plan: Arm) -> None:
        if plan.strategy not in self.strategies:
            raise NotArmed(f"strategy: {plan.strategy!r} does not run here; running are {', '.join(self.strategies)}")
        strategy = self.strategies.index(plan.strategy)
        first, last = self._last_plans[strategy]
        if plan.plan_seq < first:
            raise NotArmed(f"plan_seq: {plan.plan_seq} is older than {last}, which is armed; send the newest plan")
        parts = self._parts
        published = int(self._c.generations[int(self._c.table[0]["generation"]) & 1]["plan_seq"])  # a plan of no conditions is known by it alone
        collected = parts and plan.part and (parts.strategy, parts.plan_seq) == (strategy, plan.plan_seq)
        if first <= plan.plan_seq <= last or plan.plan_seq == published or collected:
            return  # asked twice; armed twice, its conditions would have forgotten what they fired
        if plan.part == 0:
            parts = self._parts = Parts(strategy, plan, np.zeros_like(self._counts))
        elif parts is None or not parts.goes_on_with(strategy, plan):
            raise NotContinued(f"part: {plan.part} of plan {plan.plan_seq} does not go on with what is here; send its parts again from the first on")
        parts.rows.append((plan.plan_seq, self._looked_through(plan, parts)))
        parts.withdraw += plan.withdraw
        if not plan.more:
            self._change(parts)
            self._parts, self._last_plans[strategy] = None, (parts.rows[0][0], plan.plan_seq)

    def _looked_through(self, plan: Arm, parts: Parts) -> Any:
        """The rows of a part, counted. Raises NotArmed with the first that may not be armed."""
        if len(plan.rows) % l.CONDITION.itemsize:
            raise NotArmed(f"rows: {len(plan.rows)} bytes are no whole rows of {l.CONDITION.itemsize}; compile the plan with this version")
        rows = np.frombuffer(plan.rows, l.CONDITION)
        first, parts.count = parts.count, parts.count + len(rows)
        self._check_count(parts.count)
        row, code = looked_at.first_fault(rows, first, self._groups, self._memory.instruments.instruments, self._instruments)
        if code:
            raise NotArmed(f"rows[{row}].{looked_at.FAULTS[code]}; nothing of the plan is armed, compile it anew")
        looked_at.tally(rows, parts.counts)
        return rows

    def _check_count(self, count: int) -> None:
        if count > self.capacity:
            raise NotArmed(f"conditions: {count} are more than hotpath.condition_capacity = {self.capacity}; raise it or plan fewer")

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _change(self, plan: Parts) -> None:
        """Add a plan's rows, remove what it replaces or withdraws, publish. Raises NotArmed before anything is written."""
        mine = self._armed[plan.strategy]
        removed = self._withdrawn(plan) if plan.add else mine
        count = sum(map(len, self._armed)) - len(removed) + plan.count
        self._check_count(count)
        counts = self._counts + plan.counts
        looked_at.tally_removed(self._kernel, removed, counts)
        if (counts[:, l.TRIGGER_TRAILING] > l.MAX_TRAILING).any():
            symbol = self._memory.instruments.instruments[int(counts[:, l.TRIGGER_TRAILING].argmax())]["symbol"].decode()
            raise NotArmed(f"conditions: more than {l.MAX_TRAILING} with rebound_bps in {symbol}; each is looked at with every tick, plan fewer")
        self._wait_committed()
        if len(self._free) < plan.count:
            self._compact()
        if len(self._free) < plan.count:
            raise NotArmed(f"conditions: only {len(self._free)} slots are free for {plan.count} more; withdraw some first, or raise "
                           "hotpath.condition_capacity")
        generation = int(self._c.table[0]["generation"]) + 1
        slots = self._free[len(self._free) - plan.count:]
        made = self._write_rows(plan, slots, generation)
        self._c.rows["removed"][removed] = generation
        self._write_generation(generation, made, removed, count, plan.plan_seq, counts)
        self._free = self._free[: len(self._free) - plan.count]
        self._arming += plan.count
        self._armed[plan.strategy] = np.concatenate([self._without(mine, removed), slots])
        if plan.add or self._groups[: plan.count].any():
            self._leading[plan.strategy] = self._leaders_of(self._armed[plan.strategy])
        else:
            self._leading[plan.strategy] = _NO_SLOTS

    def _withdrawn(self, plan: Parts) -> Any:
        """Slots of what an addition withdraws."""
        mine = self._armed[plan.strategy]
        ids = self._c.rows["condition_id"][mine]
        removed = mine[np.isin(ids, plan.withdraw)]
        if len(removed) < len(set(plan.withdraw)):
            lost = sorted(set(plan.withdraw) - set(ids.tolist()))
            name = self.strategies[plan.strategy]
            raise NotArmed(f"withdraw: {lost[0]} is no armed condition of {name}; withdraw what trader-ctl conditions lists")
        return removed

    def _write_rows(self, plan: Parts, slots: Any, generation: int) -> Any:
        """The rows into their slots, and what they wait for (ADDED), not sorted yet."""
        self._c.table[0]["slots_used"] = max(int(self._c.table[0]["slots_used"]), int(slots.max(initial=-1)) + 1)
        self._c.rows["since"][slots] = generation  # before anything else of them: who dies here leaves nothing that looks armed
        made = np.zeros(plan.count, l.ADDED)
        first = 0
        for plan_seq, rows in plan.rows:
            looked_at.place(self._kernel, rows, first, slots, made, plan.strategy, plan_seq, generation, self._arming + 1)
            first += len(rows)
        return made

    def _compact(self) -> None:
        """A generation of what is armed already, merged, so that the slots of what was removed are free."""
        line = self._c.generations[int(self._c.table[0]["generation"]) & 1]
        self._write_generation(int(self._c.table[0]["generation"]) + 1, np.zeros(0, l.ADDED), _NO_SLOTS, int(line["armed"]), int(line["plan_seq"]),
                               self._counts, merged=True)
        self._wait_committed()

    def _write_generation(self, generation: int, made: Any, removed: Any, count: int, plan_seq: int, counts: Any, merged: bool = False) -> None:
        """The thresholds with those of new rows and without those of removed ones, watched triggers and the line; then it is published."""
        c, at = self._c, generation & 1
        half = int(c.generations[1 - at]["half"])
        before = self._added()
        gone = c.rows["removed"][before["slot"]] != 0
        self._leaving = before["slot"][gone].astype(np.int64)
        self._dead = np.concatenate([self._dead, self._without(removed, self._leaving)])
        added = np.concatenate([before[~gone], made])
        added = merge.in_order(added, np.empty_like(added))  # equal ones stay in the order of their arming
        if merged or len(added) > min(self._most_added, _FEW + count // 8) or 4 * len(self._dead) > self.capacity:
            merge.merge(self._kernel, half, added, len(added))
            half, added = 1 - half, added[:0]
            self._leaving, self._dead = np.concatenate([self._leaving, self._dead]), _NO_SLOTS
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
        if len(self._leaving) or len(self._leaders):
            free = np.concatenate([self._leaving, self._leaders])
            # a group's first member keeps the group's state for the others, even when it is withdrawn itself
            given = self._without(free, np.concatenate(self._leading))
            self._leaders, self._leaving = self._without(free, given), _NO_SLOTS
            self._free = np.concatenate([self._free, given])


def warm_up(memory: Memory) -> None:
    """Compile the merge and the look at rows."""
    c = memory.conditions
    kernel = Bundle(table=c.table, rows=c.rows, thresholds=c.thresholds, index=c.index)
    merge.merge(kernel, 0, merge.in_order(np.zeros(1, l.ADDED), np.zeros(1, l.ADDED)), 0)
    rows, slots, counts = np.frombuffer(bytes(l.CONDITION.itemsize), l.CONDITION), np.zeros(1, np.int64), np.zeros((1, l.TRIGGERS), np.int64)
    looked_at.first_fault(rows, 0, np.zeros(1, np.int64), memory.instruments.instruments, 1)
    looked_at.tally(rows, counts)
    looked_at.place(kernel, rows[:0], 0, slots, np.zeros(1, l.ADDED), 0, 0, 0, 0)
    looked_at.tally_removed(kernel, slots[:0], counts)
    merge.publish(kernel, int(c.table[0]["generation"]))
