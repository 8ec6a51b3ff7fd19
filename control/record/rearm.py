"""The start of a paper run: what earlier runs had armed is armed again, from the journal alone, before the sniper begins.

Every condition keeps its id, its expiry and what it has done: how often it has fired and when it may again is told by the NEW orders that name it,
and of a group of which one has fired none fires any more. An order is in the journal before it goes to the venue, so no fire is forgotten. What does
not fit this run any more is dropped, for good, and told. Nobody waits for the strategist: it goes on with its schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from control.record.in_force import InForce
from control.record.journal import Journal
from control.record.records import decode, glance
from ipc import layout as l
from ipc import messages
from ipc.segment import Memory

_SECOND_NS: Final = 1_000_000_000
#: dropped conditions of one reason that an event names
_NAMED: Final = 5


class Standing(NamedTuple):
    """A condition of a plan in force: in words, with its id, the id of its group (0: none), its strategy and the event time of its plan."""

    condition_id: int
    group_id: int
    strategy: str
    due_ns: int
    condition: messages.Condition

    @property
    def valid_until_ns(self) -> int:
        """When it expires, whatever happens meanwhile."""
        return self.due_ns + (self.condition.valid_after_s + self.condition.valid_for_s) * _SECOND_NS


@dataclass
class Found:
    """What the journal says: `standing` conditions by id, the group of every one that ever was in these plans (some may be withdrawn or dropped)."""

    standing: dict[int, Standing] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    oldest_due_ns: int = 0


class Fires(NamedTuple):
    """What a condition has done: how often it has fired, and when last (event ns)."""

    times: int
    last_ns: int


@dataclass
class Rearmed:
    """What a start has armed, and what it has not: texts for people, and what is in force from now on where that has changed."""

    armed: int = 0
    told: list[tuple[str, list[int]]] = field(default_factory=list)
    changed: dict[str, InForce] = field(default_factory=dict)

    def events(self, wall_ns: int) -> list[messages.Event]:
        """What the journal is told of it."""
        events = [messages.Event(source="recorder", kind="dropped", text=text, wall_ns=wall_ns, data={"ids": ids}) for text, ids in self.told]
        if self.armed:
            text = f"{self.armed} condition{'' if self.armed == 1 else 's'} of the last run armed again, with the time and the fires that are left"
            events.insert(0, messages.Event(source="recorder", kind="rearmed", text=text, wall_ns=wall_ns, data={"armed": self.armed}))
        return events


# ── what the journal says ────────────────────────────────────────────────────────────────────────────────────────────
def parts_of(journal: Journal, last: int) -> list[tuple[int, messages.Plan]]:
    """All parts of a plan, each with its number, by the number of its last one; empty where one is missing."""
    found: list[tuple[int, messages.Plan]] = []
    number = last
    while number > 0:
        plan = journal.plan(number)
        if plan is None:
            return []
        if not found or (plan.strategy, plan.due_ns, plan.part) == (found[-1][1].strategy, found[-1][1].due_ns, found[-1][1].part - 1):
            found.append((number, plan))
            if plan.part == 0:
                return found[::-1]
        number -= 1  # of another strategy, or a part that this plan has anew under a later number
    return []


def standing(journal: Journal, in_force: Mapping[str, InForce]) -> Found:
    """Every condition that the plans in force have and that was neither withdrawn nor dropped."""
    found = Found()
    dues = []
    for strategy, plans in in_force.items():
        mine: dict[int, Standing] = {}
        for armed in plans.plans:
            parts = parts_of(journal, armed.number)
            if not parts:
                found.missing.append(armed.number)
                continue
            dues.append(armed.due_ns)
            for gone in (one for _, part in parts for one in part.withdraw):
                mine.pop(gone, None)
            groups: dict[str, int] = {}
            for number, part in parts:
                for place, condition in enumerate(part.conditions):
                    own = number << l.PLAN_SHIFT | place
                    group = 0 if condition.group is None else groups.setdefault(condition.group, own)
                    found.groups[own] = group
                    mine[own] = Standing(own, group, strategy, armed.due_ns, condition)
        for gone in plans.dropped:
            mine.pop(gone, None)
        found.standing.update(mine)
    found.oldest_due_ns = min(dues, default=0)
    return found


def fires(journal: Journal, ids: Iterable[int], since_ns: int) -> dict[int, Fires]:
    """What the journal's NEW entry orders since an event time say of these conditions; those that never fired are left out."""
    wanted, found = set(ids), dict[int, Fires]()
    if not wanted:
        return {}
    with journal.reading() as transaction, transaction.cursor(journal.databases["sent"]) as cursor:
        for key in cursor.iterprev(values=False) if cursor.last() else ():
            value = transaction.get(bytes(key), db=journal.databases["orders"])
            event_ns, own = glance(value)  # an order's cause is its condition: most need no decoding
            if event_ns < since_ns:
                break
            if own not in wanted:
                continue
            record = decode(value)
            if record.row["purpose"] == l.ENTRY:
                known = found.get(own, Fires(0, 0))
                found[own] = Fires(max(known.times, int(record.row["fire_index"]) + 1), max(known.last_ns, record.event_ns))
    return found


# ── into shared memory ───────────────────────────────────────────────────────────────────────────────────────────────
def rearm(journal: Journal, memory: Memory, now_ns: int) -> Rearmed:
    """Arm what is in force and not expired at event time `now_ns`, in one generation. May be repeated until the sniper starts."""
    from hotpath.arming import NotArmed, facts_by_symbol, row_of
    from hotpath.armoury import Armoury

    made = Rearmed()
    memory.conditions.table[0]["generation"], memory.conditions.generations["plan_seq"] = 0, 0
    armoury = Armoury(memory, lambda: None)
    in_force = {name: plans for name, plans in journal.in_force().items() if plans.plans}
    here = {name: plans for name, plans in in_force.items() if name in armoury.strategies}
    found = standing(journal, in_force)
    done = fires(journal, found.groups, found.oldest_due_ns)
    spent = {found.groups[own] for own in done if found.groups[own]}
    closed = memory.sniper.instrument_states["closed_to_entries"]
    known = {symbol: facts for symbol, facts in facts_by_symbol(memory.instruments.instruments).items() if not closed[facts.number]}
    kept: list[Standing] = []
    rows: list[bytes] = []
    dropped: dict[str, list[Standing]] = {}
    for own in sorted(found.standing):  # as they were planned, which is the order of their arming
        one = found.standing[own]
        if one.valid_until_ns <= now_ns:
            continue
        try:
            if one.strategy not in here:
                raise NotArmed(f"strategy {one.strategy} does not run any more")
            if len(rows) >= armoury.capacity:
                raise NotArmed(f"hotpath.condition_capacity = {armoury.capacity} has no room for more")
            compiled = row_of(one.condition, "", one.due_ns, known)
            if fault := armoury.fault_of(compiled):
                raise NotArmed(fault)
        except NotArmed as error:
            why = str(error).partition("; ")[0].lstrip(".")
            dropped.setdefault(f"{one.condition.symbol} of {one.strategy}: {why}", []).append(one)
            continue
        kept.append(one)
        rows.append(compiled)
    if rows:
        table = np.frombuffer(b"".join(rows), l.CONDITION).copy()
        table["condition_id"] = [one.condition_id for one in kept]
        table["plan_seq"], table["group_id"] = table["condition_id"] >> l.PLAN_SHIFT, [one.group_id for one in kept]
        table["strategy"] = [armoury.strategies.index(one.strategy) for one in kept]
        slots = armoury.begin_with(table, max(plan.number for plans in here.values() for plan in plans.plans))
        _what_they_did(memory, slots, kept, done, spent)
    made.armed = len(rows)
    made.changed = {name: InForce() for name in in_force.keys() - here.keys()}
    for text, ones in dropped.items():
        ids = [one.condition_id for one in ones]
        made.told.append((f"{len(ids)} condition{'' if len(ids) == 1 else 's'} of the last run dropped: {text}; "
                          + ", ".join(f"{one.condition_id} ({one.condition.why})" for one in ones[:_NAMED])
                          + (", …" if len(ids) > _NAMED else ""), ids))
        if (name := ones[0].strategy) in here:
            made.changed[name] = made.changed.get(name, here[name]).without(ids)
    made.told += [(f"plan {number} of the last run is missing in the journal: nothing of it is armed again", []) for number in found.missing]
    return made


def _what_they_did(memory: Memory, slots: Any, kept: list[Standing], done: Mapping[int, Fires], spent: set[int]) -> None:
    """Fires, pauses and spent groups into the states of the slots; the sniper does not run yet."""
    rows, states = memory.conditions.rows, memory.sniper.condition_states
    for slot, one in zip(slots.tolist(), kept, strict=True):
        state = states[slot]
        if one.condition_id in done:
            times, last_ns = done[one.condition_id]
            state["condition_id"], state["fired"] = one.condition_id, times
            state["next_allowed_ns"] = last_ns + one.condition.cooldown_s * _SECOND_NS
        if one.group_id in spent:
            states[int(rows["group_slot"][slot])]["group_done"] = one.group_id
