"""What the gateway does by itself while the sniper cannot: end working entries, and close what is held.

The watchdog says so by a word (`PROCESS.rescue` of the gateway's row), and takes it back when the sniper lives again. Until then nothing that
opens goes out, and while everything is being closed the sniper's own exits do not either: they end unsent, and are decided anew.

A position is never exceeded: its close is sent only when no other order of its instrument works or is in doubt, for what the venue itself says that
this strategy holds, and may only reduce. Its sequence is of a range of its own, and it is announced by a report before it is sent, so that the
sniper's book has it as a working exit whenever it comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hotpath.dispatch import EXIT_PATIENCE_NS
from hotpath.orders import OWN_ORDERS, TERMINAL, row_of
from hotpath.venues.venue import VenueFault
from ipc import layout as l

if TYPE_CHECKING:
    from hotpath.gateway import Gateway

#: pauses between two tries to close the same position, and between two cancels of the same order (ns)
FIRST_PAUSE_NS: Final = 500_000_000
LONGEST_PAUSE_NS: Final = 8_000_000_000
#: bits of an own order's sequence below its strategy
_STRATEGY_SHIFT: Final = 32


class Rescue:
    """The gateway's own hand on the account; does nothing while the word is RESCUE_NONE."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.reporting, self.venue, self._clock = gateway, gateway.reporting, gateway.venue, gateway.clock
        memory = gateway.child.memory
        self._row = memory.board.processes[l.GATEWAY]
        self._strategies = {row["name"].decode(): number for number, row in enumerate(memory.instruments.strategies) if row["name"]}
        self._instruments = {symbol: number for number, symbol in enumerate(self.reporting.symbols)}
        #: announced, and to be sent when the report is out: sequence → (instrument, side, lots, strategy)
        self._announced: dict[int, tuple[int, int, int, int]] = {}
        #: of those, when the announcement is out: its report's sequence at most, and until when the journal is waited for
        self._told: dict[int, tuple[int, int]] = {}
        #: (instrument, strategy), or the sequence of an order that was cancelled → (not before, the pause after that)
        self._pauses: dict[object, tuple[int, int]] = {}

    @property
    def level(self) -> int:
        """RESCUE_NONE, RESCUE_CANCEL or RESCUE_FLATTEN."""
        return int(self._row["rescue"])

    def turn(self) -> bool:
        """Do what can be done now; True when there is something to be settled."""
        done = self._send_announced()
        if self.level == l.RESCUE_NONE:
            self._pauses.clear()
            return done
        try:
            done |= self._cancel()
            if self.level == l.RESCUE_FLATTEN:
                done |= self._close()
        except VenueFault as fault:
            self.gateway.venue_failed(fault)
        return done

    def closes(self, instrument: int, strategy: int) -> bool:
        """An order of the gateway itself is about to close what a strategy holds there, or does so; the sniper may not have heard of it yet."""
        rows = [self.gateway.g.rows[row_of(seq)] for seq in self.reporting.orders if seq >= OWN_ORDERS]
        return any((place, of) == (instrument, strategy) for place, _, _, of in self._announced.values()) or any(
            (int(row["instrument"]), int(row["strategy"])) == (instrument, strategy) for row in rows)

    def _cancel(self) -> bool:
        """End what opens; everything of the sniper's where all is being closed."""
        asked = False
        for seq in list(self.reporting.orders):
            purpose = int(self.gateway.g.rows[row_of(seq)]["purpose"])
            if seq < OWN_ORDERS and (purpose == l.ENTRY or self.level == l.RESCUE_FLATTEN) and seq not in self.gateway.doubts and self._is_time(seq):
                self.venue.cancel(self.reporting.client_id(seq), self.venue.now_ns)
                asked = True
        return asked

    def _close(self) -> bool:
        announced = False
        busy = {int(self.gateway.g.rows[row_of(seq)]["instrument"]) for seq in self.reporting.orders}
        busy |= {instrument for instrument, *_ in self._announced.values()}
        for (account, symbol), lots in self.venue.holdings().items():
            instrument, strategy = self._instruments.get(symbol, -1), self._strategies.get(account, -1)
            if not lots or instrument < 0 or strategy < 0 or instrument in busy or self.gateway.doubts.closes(instrument):
                continue
            if self._is_time((instrument, strategy)):
                self._announce(instrument, strategy, lots)
                busy.add(instrument)
                announced = True
        return announced

    def _announce(self, instrument: int, strategy: int, lots: int) -> None:
        header, rows = self.gateway.g.header[0], self.gateway.g.rows
        while True:
            header["own_orders"] += 1
            seq = OWN_ORDERS | strategy << _STRATEGY_SHIFT | int(header["own_orders"])
            if int(rows[row_of(seq)]["state"]) in (l.ORD_NONE, *TERMINAL):
                break
        side, size = (l.SELL if lots > 0 else l.BUY), abs(lots)
        self.reporting.claim_row(seq, size, instrument, side, self.venue.now_ns, l.EXIT, strategy, l.MARKET)
        self.reporting.own(l.ANNOUNCED, seq, instrument, side, size, self.venue.now_ns, strategy)
        self._announced[seq] = (instrument, side, size, strategy)
        self.gateway.child.log.warning("closing %d lots of %s for strategy %d without the sniper: order %d", size, self.reporting.symbols[instrument],
                                       strategy, seq)

    def _send_announced(self) -> bool:
        """What the others have been told of goes out, whatever the word says by now: their books have it. Like any order it waits for the doubts of
        its symbol, which may be younger: of an exit that the sniper has sent meanwhile."""
        ready = [seq for seq, (instrument, *_) in self._announced.items()
                 if seq in self.reporting.orders and self._is_durable(seq) and not self.gateway.doubts.closes(instrument)]
        for seq in ready:
            self._told.pop(seq, None)
            instrument, side, lots, strategy = self._announced.pop(seq)
            self.gateway.crash.reached("gateway.rescue")
            self.gateway.dispatch.submit(seq, instrument, side, l.MARKET, lots, 0, True, strategy, self.venue.now_ns)
        return bool(ready)

    def _is_durable(self, seq: int) -> bool:
        """As any exit, it waits until the journal has it, and no longer than 20 ms: a start knows by the announcement whose order filled."""
        report, deadline = self._told.setdefault(seq, (int(self.gateway.g.report_ring[0]["head"]), self._clock() + EXIT_PATIENCE_NS))
        return int(self.gateway.g.cursors[0]["durable_reports"]) >= report or self._clock() >= deadline

    def end(self) -> None:
        """At a stop: what was announced and not sent is asked about like any order in doubt, so that it ends."""
        for seq in [seq for seq in self._announced if seq in self.reporting.orders]:
            del self._announced[seq]
            self.gateway.doubts.add(seq, told=False)

    def _is_time(self, key: object) -> bool:
        at, pause = self._pauses.get(key, (0, FIRST_PAUSE_NS))
        if self._clock() < at:
            return False
        self._pauses[key] = (self._clock() + pause, min(2 * pause, LONGEST_PAUSE_NS))
        return True
