"""The gateway process: intents become orders at the venue, what happens there becomes reports.

A *turn*: take what waits on the order ring → orders[n] = SENDING → taken → submit → match the tick at hand → one ledger commit for all
of it → publish one report an event → move the cursors. Publication of a report is the gateway's commit towards the others; the ledger's
commit comes before it, so that whatever was acknowledged is durable. What may go out, and when, is hotpath/dispatch.py; what may have
gone out is hotpath/doubt.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from hotpath import takeover
from hotpath.activities import Activities
from hotpath.breaker import Breaker
from hotpath.config import Hotpath, Paper, Recovery
from hotpath.dispatch import Dispatch
from hotpath.doubt import Doubts
from hotpath.errors import ErrorManager, Kind
from hotpath.intake import Intake
from hotpath.kernel import turns as k
from hotpath.orders import OWN_ORDERS
from hotpath.reporting import Own, Reporting
from hotpath.rescue import Rescue
from hotpath.venues.paper import PaperVenue
from hotpath.venues.paper_ledger import Ledger, LedgerError, LedgerNotOpen
from hotpath.venues.venue import NotTaken, VenueFault
from ipc import bus, messages, wait
from ipc import layout as l
from ipc.process import Child

#: how long a stop may take
DRAIN_S: Final = 2.0
#: exit codes: another life may do better; no restart mends it (EX_CONFIG)
EXIT_AGAIN, EXIT_CONFIG = 1, 78
#: events that are fetched from the venue at once
_EVENTS: Final = 1000
#: least pause between two looks for an event that is missing before one that has come
_HOLE_NS: Final = 100_000_000
_REPORT_READERS: Final = 1 << l.SNIPER | 1 << l.RECORDER


class Questions(Protocol):
    """Where questions come from: the gateway's socket; nobody in a backtest."""

    def poll(self, timeout_s: float, handle: Any) -> Any:
        """Answer what waits."""


class Gateway:
    """One life of the gateway. `turn` is called until it says STOP, then `drain`."""

    #: longest stay in the kernel: heartbeat and bus are served so often
    BUDGET_NS: Final = 20_000_000

    def __init__(self, child: Child, ledger: Ledger, server: Questions, instance: int, incarnation: int, venue: Callable[..., Any] = PaperVenue,
                 clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`venue` is made of ledger, instruments, quotes, [paper] and the rows of open orders; `clock` gives monotonic ns."""
        boot, memory = child.boot, child.memory
        paper: Paper = boot.section("paper", Paper)
        hotpath: Hotpath = boot.section("hotpath", Hotpath)
        self.child, self.ledger, self.clock = child, ledger, clock
        self.lockstep = int(boot.lockstep)
        self.g = k.gate_arrays(memory, paper.slippage_bps_per_touch, paper.half_spread_bps)
        self.venue = venue(ledger, memory.instruments.instruments, self.g.quotes, paper, self.g.opened)
        self._spins = wait.spins_of(int(memory.board.run[0]["wait_strategy"]))
        self._server = server
        rows = memory.instruments.instruments[: int(memory.board.run[0]["instruments"])]
        self.reporting = Reporting(child, self.g, [row["symbol"].decode() for row in rows], instance, incarnation, clock)
        self.crash = self.reporting.crash
        self.activities = Activities(child)
        self._ledger_errors = self.activities.adopt(ErrorManager("ledger"))
        recovery: Recovery = boot.section("recovery", Recovery)
        #: what the venue does not answer; while its breaker is open nothing new is opened, and only what reduces risk tries
        self.venue_errors = self.activities.adopt(ErrorManager("venue", Breaker(recovery.breaker_failures, recovery.breaker_cooldown_s * 10**9)))
        self.intake = Intake(0)
        self.doubts = Doubts(self)
        self.dispatch = Dispatch(self, hotpath.durable_before_entry)
        self.rescue = Rescue(self)
        #: at the start of a run with an account that has a past: the sniper's book is still to be compared with it
        self.comparing = False
        self._sniper = memory.sniper
        self._pulled_at = 0
        self._stopping = False

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def turn(self) -> int:
        """Until Python is needed, and what it is needed for; gives the kernel's reason, STOP too where a stop cut the turn short."""
        budget = self.BUDGET_NS
        if self.dispatch.parked:
            left = self.dispatch.left_ns()
            if left <= 0 and not (self.handle() and self.settle()):
                return k.STOP
            budget = max(0, min(budget, left))
        if 0 <= self.doubts.next_ns <= self.clock():
            self.doubts.resolve()
        if self.rescue.turn() and not self.settle():
            return k.STOP
        return self.serve(int(k.turns(self.g, self.lockstep, self._spins, budget)))

    def serve(self, reason: int) -> int:
        """Do what the kernel came back for, and as much of the tick at hand as may be done; gives `reason`, or STOP where that cut it short."""
        g, words = self.g, self.g.words
        self.stand(max(self.venue.now_ns, int(words[k.NOW])), int(words[k.NEXT]) - 1)
        finish = reason == k.MATCHED
        if reason == k.STOP or (reason == k.TIME and not self.reporting.outgoing and not self.venue.pull_every_ns):
            return reason
        if reason == k.INTENTS:
            self.dispatch.take()
        if reason in (k.INTENTS, k.DURABLE):  # never after MATCHED: the actions name rows of the open orders as they were
            if not self.handle():
                return k.STOP
            if k.my_turn(g, self.lockstep):
                words[k.OPEN] = self.venue.count
                k.match_tick(g)
                finish = True
        if finish and words[k.ACTIONS]:
            self.venue.book_actions(g.actions[: int(words[k.ACTIONS])], int(words[k.NEXT]), int(g.tick[0]["event_ns"]))
        return reason if self.settle(finish) else k.STOP

    def stand(self, now_ns: int, tick_seq: int) -> None:
        """Event time and sequence of the last tick that was finished, for whoever stamps something."""
        self.venue.now_ns = self.reporting.now_ns = now_ns
        self.venue.tick_seq = self.reporting.tick_seq = tick_seq

    def settle(self, finish: bool = False) -> bool:
        """Commit what has changed, publish what came of it, move the cursors. False: told to stop before it could be done."""
        g, words, reporting = self.g, self.g.words, self.reporting
        words[k.OPEN] = self.venue.count
        if not self.commit():
            return False
        busy = bool(reporting.outgoing)
        while not reporting.publish() and self.lockstep and not self._stopping:  # else the rest goes with a later turn
            wait.ring_bells(g.processes, _REPORT_READERS)
            if self.breathe(0.001):
                return False
        if busy:
            wait.ring_bells(g.processes, _REPORT_READERS)
            self.crash.reached("gateway.cursor")
        parked = self.dispatch.parked
        unfinished = [intent.seq for intent in parked] + [item.seq for item in reporting.outgoing
                                                              if isinstance(item, Own) and item.seq < OWN_ORDERS]
        words[k.AWAITED] = self._awaited()
        words[k.HELD] = int(bool(unfinished))
        k.advance_orders(g, min(unfinished) - 1 if unfinished else int(words[k.TAKEN]))
        if finish:
            k.finish_tick(g)
            wait.ring_bells(g.processes, 1 << l.SNIPER | 1 << l.FEED)
        return True

    def breathe(self, pause_s: float) -> bool:
        """Beat, answer, wait a little; True when told to stop."""
        self.child.beat(int(self.g.words[k.NEXT]), int(self.g.words[k.NOW]))
        self._server.poll(0.0, self.answer)
        self.activities.pump()
        self.g.words[k.TOLD] = self.child.stopping()
        if pause_s:
            time.sleep(pause_s)
        return bool(self.child.stopping()) and not self._stopping

    def _awaited(self) -> int:
        """The first that waits for the journal; who waits for the venue is looked at when its time comes."""
        durable = int(self.g.cursors[0]["durable_orders"])
        return next((intent.seq for intent in self.dispatch.parked if intent.seq > durable), 0)

    def handle(self) -> bool:
        """Carry out what may go. False: told to stop while waiting in lockstep."""
        if self.comparing:
            self.compare_book()
        return self.dispatch.handle(self._stopping)

    def compare_book(self) -> None:
        """Once, as soon as the venue has told everything and the sniper has applied it: what the venue holds against the book that came from the
        journal. Until then, and where they differ until somebody has looked, nothing new is opened; exits go on."""
        if self.venue.pull_every_ns and not self.pull():
            return
        if self.reporting.outgoing or self.ledger.uncommitted or int(self.g.report_readers[l.SNIPER]["cursor"]) < int(self.g.report_ring[0]["head"]):
            return
        try:
            positions = self.venue.positions()
        except VenueFault as fault:
            self.venue_failed(fault)
            return
        self.comparing = False
        book: dict[str, int] = {}
        # what perpetuals were opened at is taken out of the cash: the venue nets strategies that are opposed and the book does not, and of
        # cash − side × cost both make the same, always
        cash = int(self._sniper.account[0]["cash"])
        for row in self._sniper.positions[self._sniper.positions["state"] != l.POS_FLAT]:
            symbol = self.reporting.symbols[int(row["instrument"])]
            book[symbol] = book.get(symbol, 0) + int(row["side"]) * int(row["lots"])
            if int(self.g.instruments[int(row["instrument"])]["kind"]) == l.KIND_LINEAR_PERPETUAL:
                cash -= int(row["side"]) * int(row["cost"])
        held = {position.symbol: position.lots for position in positions}
        owned = self.ledger.meta.cash - sum((1 if position.lots > 0 else -1) * position.cost for position in positions)
        differ = [f"{symbol}: the venue holds {held.get(symbol, 0)} lots, the book {book.get(symbol, 0)}"
                  for symbol in sorted(book.keys() | held.keys()) if book.get(symbol, 0) != held.get(symbol, 0)]
        if not differ and cash != owned:
            differ = [f"cash: venue and book differ by {owned - cash} quanta"]
        if differ:
            self.child.log.error("%s; nothing is opened: compare trader-ctl positions with the account, then trader-ctl resume; or start with "
                                 "--fresh, or restore the journal that belongs to it", "; ".join(differ))
            self.reporting.safe(differ[0])
        else:
            self.child.log.info("the book agrees with the venue's account: %d positions", len(held))
            self.reporting.account_agrees()
            if self.venue_errors.failing:
                self.reporting.venue_fails("it did not answer")

    # ── what came of them ─────────────────────────────────────────────────────────────────────────────────────────────
    def commit(self) -> bool:
        """What the venue tells, durable, tried until it works: before it nothing is acknowledged. False: told to stop, or out of time at a stop."""
        pause_s, tries, began, end = 0.02, 0, time.monotonic_ns(), time.monotonic() + DRAIN_S
        commits = self.ledger.commits
        while (events := self.venue.news()) is None:
            if not tries:
                self.child.log.error("the paper ledger cannot be written: %s; nothing is acknowledged until it can", self.ledger.fault)
                self.reporting.ledger_fails(self.ledger.fault)
            self.activities.failed(self._ledger_errors, "ledger_error", Kind.GENERAL, self.ledger.fault, time.monotonic_ns())
            tries += 1
            pause_s = min(1.0, 2 * pause_s)
            for _ in range(int(pause_s / 0.02)):
                if self.breathe(0.02) or (self._stopping and time.monotonic() > end):
                    return False
        if tries:
            self.reporting.relieved()
            self.activities.succeeded(self._ledger_errors, time.monotonic_ns())
            self.child.log.info("the paper ledger can be written again")
        if self.ledger.commits != commits:
            self.child.set_metric("last_commit_us", (time.monotonic_ns() - began) // 1000)
        for _ in range(self.dispatch.sent):
            self.crash.reached("gateway.sent")
        self.dispatch.sent = 0
        self.reporting.outgoing.extend(self.intake.take(events))
        if self.venue.pull_every_ns:
            pause_ns = min(_HOLE_NS, self.venue.pull_every_ns) if self.intake.hole else self.venue.pull_every_ns
            if self.clock() - self._pulled_at >= pause_ns and self.venue_errors.permits(self.clock()):
                self.pull()
        return True

    def pull(self) -> bool:
        """Ask for every event behind the last one that is known, where some may not have been told. False: the venue does not say."""
        self._pulled_at = self.clock()
        try:
            while ready := self.intake.take(self.venue.events_since(self.intake.last, _EVENTS)):
                self.reporting.outgoing.extend(ready)
        except VenueFault as fault:
            self.venue_failed(fault)
            return False
        self.venue_answered()
        return True

    def venue_failed(self, fault: VenueFault) -> None:
        """A call to the venue failed: no new positions until one succeeds, and none is tried while the breaker is open."""
        kind = Kind.NETWORK
        if isinstance(fault, NotTaken):
            kind = Kind.RATE_LIMIT if fault.code == l.REJ_RATE_LIMIT else Kind.API
        self.activities.failed(self.venue_errors, "venue_error", kind, str(fault), self.clock(), pause_s=getattr(fault, "pause_ns", 0) / 1e9)
        self.reporting.venue_fails(str(fault))

    def venue_answered(self) -> None:
        """A call to the venue succeeded."""
        if self.venue_errors.failing:
            self.activities.succeeded(self.venue_errors, self.clock())
        self.reporting.venue_works()

    # ── questions, and the end ────────────────────────────────────────────────────────────────────────────────────────
    def answer(self, request: messages.ChildRequest) -> messages.Reply:
        """One request on the gateway's socket."""
        try:
            return self._answer(request)
        except VenueFault as fault:
            return messages.Unavailable(role="gateway", text=f"the venue does not answer: {fault}")

    def _answer(self, request: messages.ChildRequest) -> messages.Reply:
        match request:
            case messages.Ping():
                return messages.Pong(role="gateway", pid=int(self.child.processes[l.GATEWAY]["pid"]))
            case messages.Operate(action="compare"):
                self.reporting.cleared()
                self.reporting.account_in_doubt()
                self.comparing = self.reporting.is_account_in_doubt()
                if self.comparing:
                    self.compare_book()
                return messages.Done(text="book and account are compared before anything is opened" if self.comparing else "")
            case messages.Query(what="orders"):
                return messages.Answer(rows=[{
                    "id": order.client_id, "symbol": order.symbol, "side": "buy" if order.side > 0 else "sell", "lots": order.lots,
                    "filled_lots": order.cum_lots, "type": l.ORDER_TYPES[order.order_type], "state": l.ORDER_STATES[order.state]}
                    for order in self.venue.open_orders()[: request.limit]])
            case messages.Query(what="balances"):
                return messages.Answer(data={**self.venue.balances(), "free": self.venue.free_cash()})
            case messages.Query(what="positions"):
                return messages.Answer(rows=[{"symbol": held.symbol, "lots": held.lots, "cost": held.cost}
                                             for held in self.venue.positions()])
            case _:
                return messages.Refused(code="unknown_query", text="the gateway answers orders, balances and positions of the venue",
                                        remedy="ask the recorder for past orders, the sniper for positions with their protection")

    def drain(self) -> None:
        """At an ordered stop: what was never sent is told so, what works is cancelled, everything is published and committed."""
        self._stopping = True
        end = time.monotonic() + DRAIN_S
        self.dispatch.take()
        self.handle()
        self.rescue.end()
        cancelled = False
        while time.monotonic() < end:
            cancelled = cancelled or self.cancel_all()
            self.doubts.resolve()
            if self.settle() and cancelled and not self.reporting.outgoing:
                break
            self.breathe(0.005)
        if not cancelled or self.doubts.next_ns >= 0:
            self.child.log.error("the venue does not answer: orders may still work there; the next start asks what became of them")
        if self.reporting.outgoing or self.ledger.uncommitted:
            self.child.log.error("%d reports were not published before the stop; the next start publishes them",
                                 len(self.reporting.outgoing))

    def cancel_all(self) -> bool:
        """Ask for the end of every open order; False: the venue does not answer."""
        try:
            for order in self.venue.open_orders():
                self.venue.cancel(order.client_id, self.venue.now_ns)
        except VenueFault as fault:
            self.venue_failed(fault)
            return False
        return True


def main(child: Child, venue: Callable[..., Any] = PaperVenue) -> int:
    """Recover, take turns, drain."""
    boot, memory = child.boot, child.memory
    server = bus.Server(boot.socket_dir, "gateway", messages.decode_child_request)
    try:
        while not (incarnation := int(memory.board.cursors[0]["incarnation"])):  # the recorder counts it up before anything may be sent
            if child.stopping():
                return 0
            child.beat(0)
            time.sleep(0.005)
        ledger = Ledger(Path(boot.state_dir) / "paper", sync=boot.mode != "replay")
        meta = ledger.meta
        if meta.incarnation > incarnation or (meta.incarnation == incarnation and meta.run_id not in ("", boot.run_id)):
            raise LedgerError(f"{boot.state_dir}/paper has seen incarnation {meta.incarnation} (run {meta.run_id or 'unknown'}), the journal is "
                              f"older and counts {incarnation} for run {boot.run_id}; restore journal, paper and knowledge from the same backup, "
                              "or start with --fresh")
        known = int(memory.board.cursors[0]["journaled_venue_seq"])
        if meta.incarnation != incarnation and meta.venue_seq < known:
            raise LedgerError(f"{boot.state_dir}/paper knows {meta.venue_seq} events of the venue, the journal beside it {known}; restore "
                              "journal, paper and knowledge from the same backup, or start with --fresh")
        gateway = Gateway(child, ledger, server, int(memory.board.run[0]["instance_number"]), incarnation, venue)
        if not takeover.take_over(gateway):  # told to stop in the middle of it: the next start takes over again
            ledger.close()
            return 0
        child.ready()
        while gateway.turn() != k.STOP and not child.stopping():
            if gateway.comparing:
                gateway.compare_book()
            gateway.breathe(0.0)
        if child.stopping() == l.STOP_DRAIN:
            gateway.drain()
        gateway.activities.close()
        ledger.close()
        return 0
    except LedgerError as error:
        child.log.error("%s", error)
        return EXIT_AGAIN if isinstance(error, LedgerNotOpen) else EXIT_CONFIG
    finally:
        server.close()
