"""The gateway process: intents become orders at the venue, what happens there becomes reports.

A *turn*: take what waits on the order ring → orders[n] = SENDING → taken → submit → match the tick at hand → one ledger commit for all
of it → publish one report an event → move the cursors. Publication of a report is the gateway's commit towards the others; the ledger's
commit comes before it, so that whatever was acknowledged is durable. An order is submitted at most once: its row says SENDING before it
goes out, and a successor that finds that row asks the venue instead of sending (hotpath/takeover.py).

An entry waits until the journal has it, and is given up after a second; an exit or cancel waits 20 ms and then goes anyway. Meanwhile they
are *parked*: ticks and other orders go on. In lockstep the turn itself waits, as long as it takes.
"""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from hotpath import takeover
from hotpath.activities import Activities
from hotpath.config import Hotpath, Paper
from hotpath.errors import ErrorManager, Kind
from hotpath.kernel import turns as k
from hotpath.orders import SEND, TERMINAL, Order, advance
from hotpath.reporting import Own, Reporting
from hotpath.venues.paper import PaperVenue
from hotpath.venues.paper_ledger import Ledger, LedgerError, LedgerNotOpen
from hotpath.venues.venue import OrderRequest
from ipc import bus, messages, wait
from ipc import layout as l
from ipc.process import Child

#: longest stay in the kernel: heartbeat and bus are served so often
BUDGET_NS: Final = 20_000_000
#: how long an exit or cancel waits for the journal, and after how long an entry is given up
EXIT_PATIENCE_NS: Final = 20_000_000
ENTRY_PATIENCE_NS: Final = 1_000_000_000
#: how long the first order of a run waits for the sniper to know the account
COMPARE_S: Final = 0.5
#: how long a stop may take
DRAIN_S: Final = 2.0
#: exit codes: another life may do better; no restart mends it (EX_CONFIG)
EXIT_AGAIN, EXIT_CONFIG = 1, 78
_REPORT_READERS: Final = 1 << l.SNIPER | 1 << l.RECORDER


class Intent(NamedTuple):
    """What the gateway needs of an order-ring record, and until when it may wait for the journal (monotonic ns)."""

    seq: int
    kind: int
    event_ns: int
    purpose: int
    side: int
    order_type: int
    instrument: int
    strategy: int
    lots: int
    limit_price: int
    order_seq: int
    code: int
    flags: int
    deadline_ns: int


class Questions(Protocol):
    """Where questions come from: the gateway's socket; nobody in a backtest."""

    def poll(self, timeout_s: float, handle: Any) -> Any:
        """Answer what waits."""


class Gateway:
    """One life of the gateway. `turn` is called until it says STOP, then `drain`."""

    def __init__(self, child: Child, ledger: Ledger, server: Questions, instance: int, incarnation: int) -> None:
        boot, memory = child.boot, child.memory
        paper: Paper = boot.section("paper", Paper)
        hotpath: Hotpath = boot.section("hotpath", Hotpath)
        self.child, self.ledger = child, ledger
        self.lockstep = int(boot.lockstep)
        self.g = k.gate_arrays(memory, paper.slippage_bps_per_touch, paper.half_spread_bps)
        self.venue = PaperVenue(ledger, memory.instruments.instruments, self.g.quotes, paper, self.g.opened)
        self._spins = wait.spins_of(int(memory.board.run[0]["wait_strategy"]))
        self._waits_for_journal = hotpath.durable_before_entry
        self._server = server
        rows = memory.instruments.instruments[: int(memory.board.run[0]["instruments"])]
        self._symbols = [row["symbol"].decode() for row in rows]
        self._units = [(int(row["lot_mantissa"]), int(row["lot_exponent"]), int(row["tick_mantissa"]), int(row["tick_exponent"]))
                       for row in rows]
        self._accounts = [row["name"].decode() or f"strategy-{number}" for number, row in enumerate(memory.instruments.strategies)]
        self.reporting = Reporting(child, self.g, self._symbols, instance, incarnation)
        self.crash = self.reporting.crash
        #: taken, and waiting for the journal
        self.parked: list[Intent] = []
        #: at the start of a run: the report up to which the sniper's book must have come before it is compared with the venue's account
        self.compare_at = 0
        self.activities = Activities(child)
        self._ledger_errors = self.activities.adopt(ErrorManager("ledger"))
        self._positions = memory.sniper.positions
        self._sent = 0
        self._stopping = False

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def turn(self) -> int:
        """Until Python is needed, and what it is needed for; gives the kernel's reason, STOP too where a stop cut the turn short."""
        g = self.g
        budget = BUDGET_NS
        if self.parked:
            left = min(intent.deadline_ns for intent in self.parked) - time.monotonic_ns()
            if left <= 0 and not (self.handle() and self.settle()):
                return k.STOP
            budget = max(0, min(budget, left))
        return self.serve(int(k.turns(g, self.lockstep, self._spins, budget)))

    def serve(self, reason: int) -> int:
        """Do what the kernel came back for, and as much of the tick at hand as may be done; gives `reason`, or STOP where that cut it short."""
        g, words = self.g, self.g.words
        self.stand(max(self.venue.now_ns, int(words[k.NOW])), int(words[k.NEXT]) - 1)
        finish = reason == k.MATCHED
        if reason == k.STOP or (reason == k.TIME and not self.reporting.outgoing):
            return reason
        if reason == k.INTENTS:
            self.take()
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
        unfinished = [intent.seq for intent in self.parked] + [item.seq for item in reporting.outgoing if isinstance(item, Own)]
        words[k.AWAITED] = self.parked[0].seq if self.parked else 0
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

    # ── intents ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def take(self) -> None:
        """Everything that waits on the order ring."""
        now = time.monotonic_ns()
        while k.take(self.g):
            row = self.g.intent[0]
            seq = int(row["seq"])
            patience = ENTRY_PATIENCE_NS if row["kind"] == l.NEW and row["purpose"] == l.ENTRY else EXIT_PATIENCE_NS
            if seq not in self.reporting.ended:
                self.parked.append(Intent(
                    seq, int(row["kind"]), int(row["event_ns"]), int(row["purpose"]), int(row["side"]), int(row["order_type"]),
                    int(row["instrument"]), int(row["strategy"]), int(row["lots"]), int(row["limit_price"]), int(row["order_seq"]),
                    int(row["code"]), int(row["flags"]), now + patience))
            if seq > int(self.g.header[0]["taken"]):
                self.child.metric("intents")

    def handle(self) -> bool:
        """Carry out what the journal has, or what may not wait any longer. False: told to stop while waiting in lockstep."""
        if self.compare_at and self.parked:
            self._compare_book()
        waiting, self.parked = self.parked, []
        for at, intent in enumerate(waiting):
            if not self._stopping and self._waits_for_journal and int(self.g.cursors[0]["durable_orders"]) < intent.seq:
                if self.lockstep:
                    self.g.words[k.AWAITED] = intent.seq
                    while not k.await_durable(self.g, BUDGET_NS):
                        if self.breathe(0.0):
                            self.parked = waiting[at:]
                            return False
                elif time.monotonic_ns() < intent.deadline_ns:
                    self.parked.append(intent)
                    continue
                elif intent.kind == l.NEW and intent.purpose == l.ENTRY:
                    self.child.log.warning("entry %d: the journal did not take it within %d ms; dropped", intent.seq,
                                           ENTRY_PATIENCE_NS // 10**6)
                    self._never_sent(intent, l.LOST)
                    continue
            self._carry_out(intent)
        return True

    def _compare_book(self) -> None:
        """Once, before the first order of a run: what the venue holds against the book that came from the journal. A position that no report
        could explain is nobody's, so nothing new is opened until somebody has looked."""
        end, wanted = time.monotonic() + COMPARE_S, self.compare_at
        self.compare_at = 0
        while int(self.g.report_readers[l.SNIPER]["cursor"]) < wanted:
            if self.breathe(0.001):
                return
            if time.monotonic() > end:
                self.child.log.warning("the sniper has not taken the account's statement within %g s; book and account are not compared", COMPARE_S)
                return
        book: dict[str, int] = {}
        for row in self._positions[self._positions["state"] != l.POS_FLAT]:
            symbol = self._symbols[int(row["instrument"])]
            book[symbol] = book.get(symbol, 0) + int(row["side"]) * int(row["lots"])
        held = {position.symbol: position.lots for position in self.venue.positions()}
        differ = [f"{symbol}: the venue holds {held.get(symbol, 0)} lots, the book {book.get(symbol, 0)}"
                  for symbol in sorted(book.keys() | held.keys()) if book.get(symbol, 0) != held.get(symbol, 0)]
        if differ:
            self.child.log.error("%s; nothing is opened: compare trader-ctl positions with the account, then start with --fresh or restore the "
                                 "journal that belongs to it", "; ".join(differ))
            self.reporting.safe(differ[0])

    def _carry_out(self, intent: Intent) -> None:
        if intent.kind == l.NEW:
            if self._stopping:
                self._never_sent(intent, l.LOST)
            else:
                self._send(intent)
        elif intent.kind == l.CANCEL:
            self._cancel(intent.order_seq, intent.event_ns)
        elif intent.kind == l.CANCEL_ALL:  # code 0: working entries; 1: everything
            every = intent.code != 0
            for seq in [seq for seq in self.reporting.orders if seq < intent.seq and (every or self._purpose(seq) == l.ENTRY)]:
                self._cancel(seq, intent.event_ns)
            for parked in [parked for parked in self.parked if parked.kind == l.NEW and (every or parked.purpose == l.ENTRY)]:
                self._cancel(parked.seq, intent.event_ns)
        else:
            self.child.log.error("order-ring record %d: kind %d is not carried out by this gateway", intent.seq, intent.kind)

    def _send(self, intent: Intent) -> None:
        """orders[n] = SENDING → taken → submit. A row that names the order already proves that it was handled."""
        g, reporting, seq = self.g, self.reporting, intent.seq
        row = g.rows[seq % l.MAX_GATEWAY_ORDERS]
        if int(row["order_seq"]) == seq and int(row["state"]) != l.ORD_NONE:
            return
        if int(row["state"]) != l.ORD_NONE and int(row["state"]) not in TERMINAL:
            self.child.log.error("order %d: its row is taken by order %d, which still works; not sent", seq, int(row["order_seq"]))
            self._never_sent(intent, l.LOST)
            return
        reporting.claim_row(seq, intent.lots, intent.instrument, intent.side, intent.event_ns, intent.purpose, intent.strategy,
                            intent.order_type)
        reporting.orders[seq] = order = advance(Order(l.ORD_NONE, intent.lots), SEND)
        k.set_state(g, seq % l.MAX_GATEWAY_ORDERS, order.state)
        self.crash.reached("gateway.sending")
        g.header[0]["taken"] = max(seq, int(g.header[0]["taken"]))
        self.crash.reached("gateway.send")
        client_id, known = reporting.client_id(seq), intent.instrument < len(self._symbols)
        lot, lot_exponent, tick, tick_exponent = self._units[intent.instrument] if known else (1, 0, 1, 0)
        code = self.venue.submit(OrderRequest(
            client_id=client_id, symbol=self._symbols[intent.instrument] if known else f"instrument {intent.instrument}",
            side=intent.side, order_type=intent.order_type, quantity=f"{Decimal(intent.lots * lot).scaleb(lot_exponent):f}",
            price=f"{Decimal(intent.limit_price * tick).scaleb(tick_exponent):f}" if intent.order_type != l.MARKET else None,
            reduce_only=bool(intent.flags & l.INTENT_REDUCE_ONLY), account=self._accounts[intent.strategy], event_ns=intent.event_ns))
        self._sent += 1
        self.child.metric("orders_sent")
        if code == l.REJ_DUPLICATE:
            reporting.safe(f"order id {client_id} was used before")
            reporting.own(l.REJECTED, seq, intent.instrument, intent.side, intent.lots, intent.event_ns, code)

    def _cancel(self, seq: int, event_ns: int) -> None:
        for at, parked in enumerate(self.parked):
            if parked.seq == seq and parked.kind == l.NEW:
                del self.parked[at]
                self._never_sent(parked, l.CANCELLED)
                return
        self.venue.cancel(self.reporting.client_id(seq), event_ns)

    def _never_sent(self, intent: Intent, kind: int) -> None:
        """The one report of an order that the venue never sees."""
        self.reporting.own(kind, intent.seq, intent.instrument, intent.side, intent.lots, intent.event_ns)

    def _purpose(self, seq: int) -> int:
        return int(self.g.rows[seq % l.MAX_GATEWAY_ORDERS]["purpose"])

    # ── what came of them ─────────────────────────────────────────────────────────────────────────────────────────────
    def commit(self) -> bool:
        """The ledger's commit, tried until it works: before it nothing is acknowledged. False: told to stop, or out of time at a stop."""
        if not self.ledger.uncommitted:
            return True
        pause_s, tries, began, end = 0.02, 0, time.monotonic_ns(), time.monotonic() + DRAIN_S
        while (events := self.ledger.commit()) is None:
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
        self.child.set_metric("last_commit_us", (time.monotonic_ns() - began) // 1000)
        for _ in range(self._sent):
            self.crash.reached("gateway.sent")
        self._sent = 0
        self.reporting.outgoing.extend(events)
        return True

    # ── questions, and the end ────────────────────────────────────────────────────────────────────────────────────────
    def answer(self, request: messages.ChildRequest) -> messages.Reply:
        """One request on the gateway's socket."""
        match request:
            case messages.Ping():
                return messages.Pong(role="gateway", pid=int(self.child.processes[l.GATEWAY]["pid"]))
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
        self.take()
        self.handle()
        for order in self.venue.open_orders():
            self.venue.cancel(order.client_id, self.venue.now_ns)
        while time.monotonic() < end:
            if self.settle() and not self.reporting.outgoing:
                break
            self.breathe(0.005)
        if self.reporting.outgoing or self.ledger.uncommitted:
            self.child.log.error("%d reports were not published before the stop; the next start publishes them",
                                 len(self.reporting.outgoing))


def main(child: Child) -> int:
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
                              f"older and counts {incarnation} for run {boot.run_id}; they belong together: restore both from the same backup, "
                              "or start with --fresh")
        gateway = Gateway(child, ledger, server, int(memory.board.run[0]["instance_number"]), incarnation)
        takeover.take_over(gateway)
        child.ready()
        while gateway.turn() != k.STOP and not child.stopping():
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
