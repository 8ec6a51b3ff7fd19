"""Seeded faults of the shipped Python: each is a line that a tired hand could write, and each must be found within 1,000 seeds.

`python -m tests.simulation.mutants [--seeds N] [NAME …]` prints how many seeds each of them took, and what found it.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from control.record import rearm, recorder, restore, snapshot
from control.supervise import words
from hotpath import dispatch, doubt, gateway, intake, rescue, takeover
from hotpath.venues import paper_ledger
from tests.simulation.running import run
from tests.simulation.script import draw
from tests.simulation.stage import Stage

#: seeds within which a mutant must be found
MOST_SEEDS = 1000


class Mutant(NamedTuple):
    """A function of a class or module, what stands in it, and what the mutant has."""

    owner: Any
    function: str
    right: str
    wrong: str


MUTANTS = {
    "an event that comes twice counts twice": Mutant(
        intake.Intake, "take", "ready = []", "events = list(events); ready = [event for event in events if event.venue_seq == self.last]"),
    "an event that comes early is given out early": Mutant(
        intake.Intake, "take", "self._early.pop(self.last + 1, None)", "self._early.pop(min(self._early, default=0), None)"),
    "what is not in the ledger is acknowledged": Mutant(
        paper_ledger.Ledger, "commit", "self._write(txn)", "self._write(txn); txn.abort() if self.commits % 3 else None"),
    "what the ledger could not take is acknowledged": Mutant(
        paper_ledger.Ledger, "commit", "self._reopen()\n                return None",
        "self._reopen()\n                return list(self._new_events)"),
    "an order in doubt is forgotten": Mutant(doubt.Doubts, "add", "self._asked[seq] = (0, FIRST_PAUSE_NS)", "pass"),
    "a successor does not ask about orders in doubt": Mutant(
        takeover, "_ask_for_unknown", "gateway.doubts.add(seq, told=order.state == l.ORD_UNKNOWN)", "pass"),
    "absence is believed at once": Mutant(
        doubt.Doubts, "resolve",
        'found is None and self._venue.absent_for_good(int(self._rows[row_of(seq)]["sent_ns"]))', "found is None"),
    "what may have been sent is sent again": Mutant(
        takeover, "_ask_for_unknown", "order.state == l.ORD_SENDING and gateway.lockstep and", "order.state == l.ORD_SENDING and"),
    "a symbol in doubt stays open": Mutant(dispatch.Dispatch, "_must_wait", " or self.doubts.closes(intent.instrument)", ""),
    "the cancel of an order in doubt is dropped": Mutant(
        dispatch.Dispatch, "_must_wait", "return intent.kind == l.CANCEL and intent.order_seq in self.doubts", "return False"),
    "an entry does not wait for the journal": Mutant(
        dispatch.Dispatch, "handle", "not stopping and self._waits_for_journal and", "intent.kind != l.NEW and"),
    "the order cursor passes what is parked": Mutant(
        gateway.Gateway, "settle", "min(unfinished) - 1 if unfinished else int(words[k.TAKEN])", "int(words[k.TAKEN])"),
    "the sniper's exits go out while the gateway closes": Mutant(
        dispatch.Dispatch, "_carry_out", "if stopping or rescue == l.RESCUE_FLATTEN or self._is_being_closed(intent):", "if stopping:"),
    "the gateway closes while an exit works": Mutant(rescue.Rescue, "_close", "for seq in self.reporting.orders}", "for seq in ()}"),
    "the gateway sends before it has announced": Mutant(
        rescue.Rescue, "turn", "done |= self._close()",
        "done |= self._close()\n                for seq in self._announced:\n                    self.reporting.orders[seq] = None\n"
        "                done |= self._send_announced()"),
    "the recorder's cursor comes before its records": Mutant(
        recorder.Recorder, "turn", "began, told = time.monotonic_ns(), list(self._told)",
        "began, told = time.monotonic_ns(), list(self._told); "
        "self.memory.board.cursors[0]['durable_orders'] = int(ring.head(self.memory.orders.ring))"),
    "a restore forgets what is behind the snapshot": Mutant(
        restore, "restore", "tail = tail or read_tail(journal, journal.last_snapshot())",
        "tail = tail or read_tail(journal, journal.last_snapshot())\n    "
        "tail = Tail(tail.snapshot, tail.orders[:0], tail.order_incarnations[:0], tail.reports[:0], "
        "tail.report_incarnations[:0])"),
    "what is armed again has never fired": Mutant(rearm, "_what_they_did", "if one.condition_id in done:", "if False:"),
    "restored orders keep the numbers of their run": Mutant(
        snapshot, "write_back", "return seq if seq == 0 or seq >= 1 << 40 else", "return seq if True else"),
    "what was told and not journaled is not told again": Mutant(
        takeover, "_first_of_incarnation", 'int(gateway.g.cursors[0]["journaled_venue_seq"])', "ledger.meta.venue_seq - 1"),
    "the account is stated and no open order is ended": Mutant(
        takeover, "_first_of_incarnation", "while not gateway.cancel_all():", "while False:"),
    "a start forgets what an operator has said": Mutant(words.Words, "recall", 'if paused is not None and paused.kind == "pause":', "if False:"),
    "a flatten is noted as a pause alone": Mutant(words.Words, "pause", "flatten=self._rescue.flattens", "flatten=False"),
    "a successor looks at its header and not at what is published": Mutant(
        takeover, "take_over", "if len(published):", "if False:"),
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Within this the fault is there."""
    owner, function, right, wrong = MUTANTS[name]
    original = getattr(owner, function)
    source = inspect.getsource(original)
    assert source.count(right) == 1, f"{function} has changed: {right!r} is there {source.count(right)} times"
    text = textwrap.dedent(source.replace(right, wrong))
    room: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + text, inspect.getfile(original), "exec"),
         original.__globals__, room)
    setattr(owner, function, room[function])
    others = [module for name, module in list(sys.modules.items())
              if name.partition(".")[0] in ("hotpath", "control") and module.__dict__.get(function) is original]
    for module in others:
        module.__dict__[function] = room[function]
    try:
        yield
    finally:
        setattr(owner, function, original)
        for module in others:
            module.__dict__[function] = original


def seeds_until_found(stage: Stage, name: str, most: int = MOST_SEEDS, first: int = 1) -> tuple[int, str]:
    """How many seeds it takes, and what is seen then; (0, "") where none of `most` finds it."""
    with mutated(name):
        for seed in range(first, first + most):
            result = run(stage, draw(seed))
            if result.violation is not None:
                return seed - first + 1, str(result.violation)
    return 0, ""


def main() -> int:
    """0: each is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all without")
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS)
    given = parser.parse_args()
    stage, missed = Stage(), 0
    try:
        for name in MUTANTS:
            if given.names and not any(part in name for part in given.names):
                continue
            began = time.monotonic()
            seeds, text = seeds_until_found(stage, name, given.seeds)
            missed += not seeds
            print(f"{seeds or 'never':>5}  {name:<55} {time.monotonic() - began:6.1f} s  {text[:130]}", flush=True)
    finally:
        stage.close()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
