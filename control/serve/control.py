"""The operator's socket: every command of trader-ctl, answered by the watchdog between two turns of its loop.

Health is answered by a thread of its own (control/serve/attendant.py), from shared memory. What only a process knows is asked of it without
waiting: each question has its own DEALER socket and deadline, so that a dead process costs its asker a second and nobody else anything, and a command
that was answered `unavailable` cannot reach a respawned process later. Nothing here raises: a fault in an answer must not end the supervision.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import zmq

from control.serve import view as views
from control.serve.attendant import Attendant
from control.serve.health import health
from control.supervise.words import Words
from ipc import bus, messages

#: seconds that a process has for its answer; the operator hears `unavailable` within 1 s
PATIENCE_S = 0.9
#: questions under way at once; beyond, operators are told to come again
MOST_PENDING = 128
#: largest command; the longest true one has less than 200 bytes
MAX_COMMAND_BYTES = 64 * 1024
#: growth of the watchdog's memory after which the control connections are cut
MOST_GROWTH_BYTES = 64 << 20
#: conditions whose text why is asked for
MOST_WHYS = 1000

_log = logging.getLogger("control")

#: turns a process's reply into the operator's; None when another question has been asked instead
Then = Callable[[Any], Any]


class Facade(Protocol):
    """What the watchdog lets operators see and do."""

    @property
    def memory(self) -> Any:
        """The instance's segments."""

    @property
    def sockets(self) -> Path:
        """The instance's folder of sockets."""

    def look(self) -> dict[str, Any]:
        """What control/supervise/view.py sees."""

    def vitals(self) -> dict[str, Any]:
        """Of that what health is made of; from any thread, at once."""

    def stop(self, cause: str) -> None:
        """Begin the ordered stop."""

    def note(self, kind: str, text: str) -> None:
        """Log and journal what an operator did."""

    @property
    def words(self) -> Words:
        """What an operator says that lasts."""

    def noted(self) -> int:
        """Events of the watchdog so far."""

    def journaled(self, number: int) -> bool:
        """The journal has that one of them."""

    def stopping(self) -> bool:
        """The ordered end has begun."""


@dataclass
class _Question:
    """Asked of a process on behalf of `asker`."""

    asker: tuple[bytes, bytes]
    role: str
    socket: zmq.Socket[bytes]
    deadline: float
    then: Then


@dataclass
class _Word:
    """What an operator has said and is to outlive the run: he gets `reply` when the journal has event `number`."""

    asker: tuple[bytes, bytes]
    reply: messages.Done
    deadline: float
    number: int


class ControlSocket:
    """Bind as "control" in the instance's folder; call `poll` in every turn. One per instance: its name's lock is held by then."""

    def __init__(self, facade: Facade, clock: Callable[[], float] = time.monotonic) -> None:
        self._facade, self._clock = facade, clock
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._server = self._bind()
        #: times that every connection was cut
        self.cut = 0
        self._pending: list[_Question] = []
        self._words: list[_Word] = []
        #: for whom and until when the next question is asked
        self._asker, self._deadline = (b"", b""), 0.0
        self._most_bytes = _resident_bytes() + MOST_GROWTH_BYTES

    def poll(self) -> None:
        """Answer what has come, pass on what processes have answered. Never waits, never raises."""
        try:
            self._confirm()
            self._server.poll(self._handle)
            self._collect()
            if _resident_bytes() > self._most_bytes:
                self._begin_anew()
        except Exception:
            _log.exception("control socket")

    def _begin_anew(self) -> None:
        """Cut every connection: ZeroMQ keeps the frames of an unfinished message without a limit, and does not say whose they are."""
        _log.error("a client sends a message without end, or memory has grown by %d MB otherwise: all control connections are cut",
                   MOST_GROWTH_BYTES >> 20)
        self.cut += 1
        for question in self._pending:
            question.socket.close(0)
        self._pending.clear()
        self._server.close()
        self._server = self._bind()
        with contextlib.suppress(AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)
        self._most_bytes = _resident_bytes() + MOST_GROWTH_BYTES

    def _bind(self) -> Attendant:
        return Attendant(self._facade.sockets, "control", messages.decode_control_request, MAX_COMMAND_BYTES, self._at_once)

    def _at_once(self, request: Any) -> Any:
        match request:
            case messages.Ping():
                return messages.Pong(role="watchdog", pid=os.getpid())
            case messages.Health():
                data, rows = health(self._facade.vitals(), self._facade.memory, time.monotonic_ns())
                return messages.Answer(data=data, rows=rows)
        return None

    def descriptors(self) -> list[int]:
        """What becomes readable when there may be something to do, for the caller's sleep."""
        return [self._server.fileno(), *(int(question.socket.getsockopt(zmq.FD)) for question in self._pending)]

    def close(self) -> None:
        """Drop open questions and unbind; what was answered is still sent."""
        for question in self._pending:
            question.socket.close(0)
            self._server.answer(question.asker, messages.Unavailable(role=question.role, text="the instance has stopped"))
        self._pending.clear()
        for word in self._words:  # whoever has ended the run has stored what the recorder had not, if that was possible
            self._server.answer(word.asker, self._told(word, "not in the journal: the next start does not know of it"))
        self._words.clear()
        self._server.close()
        self._context.term()

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _handle(self, request: Any) -> Any:
        self._asker, self._deadline = self._server.asker, self._clock() + PATIENCE_S
        try:
            return self._answer(request)
        except Exception as error:
            _log.exception("%s", type(request).__name__)
            return messages.Refused(code="internal", text=f"{type(error).__name__}: {error}"[:300], remedy="see the watchdog's log")

    def _answer(self, request: Any) -> Any:
        facade = self._facade
        match request:
            case messages.Status():
                seen = facade.look()
                return messages.Answer(data=views.status(seen), rows=views.process_rows(seen))
            case messages.Stats():
                return messages.Answer(data=views.stats(facade.look(), facade.memory))
            case messages.Positions():
                return self._ask("sniper", messages.Query(what="positions"))
            case messages.Conditions():
                return self._ask("sniper", messages.Query(what="conditions", limit=request.limit), self._ask_why)
            case messages.Orders():
                return self._ask("recorder", messages.Query(what="orders", limit=request.limit))
            case messages.Trades():
                return self._ask("recorder", messages.Query(what="trades", limit=request.limit))
            case messages.Errors():
                return self._ask("recorder", messages.Query(what="errors", limit=request.limit, argument=f"{request.hours:g}"))
            case messages.Knowledge():
                return self._ask("reflection", messages.Query(what="knowledge", limit=request.limit, argument=request.about))
            case messages.Adaptations():
                return self._ask("reflection", messages.Query(what="adaptations", limit=request.limit, argument=request.about))
            case messages.Why():
                return self._ask("reflection", messages.Query(what="why", argument=request.id))
            case messages.Reflect():
                facade.note("operator", "reflect")
                return self._ask("reflection", request)
            case messages.Replan():
                facade.note("operator", "replan")
                return self._ask("strategist", request)
            case messages.Pause():
                text = "paused: no new entries until resume; exits go on"
                facade.words.pause(text)
                return self._lasting(messages.Done(text=text))
            case messages.Resume():
                return self._ask("gateway", messages.Operate(action="compare"), self._resumed)
            case messages.Safe():
                if facade.stopping():
                    return messages.Refused(code="stopping", text="the instance is stopping, so nothing is opened any more",
                                            remedy="trader-ctl safe when it has started again; trader-ctl pause is kept over a stop")
                facade.note("operator", "safe mode")
                facade.words.safe("by the operator; trader-ctl resume ends it")
                return self._lasting(messages.Done(text="safe mode: no entries, working entries are cancelled; trader-ctl resume ends it"))
            case messages.Close():
                facade.note("operator", f"close {request.id}")
                return self._ask("sniper", messages.Operate(action="close", position=request.id), _closing)
            case messages.Adjust():
                facade.note("operator", f"adjust {request.id}" + (f" stop {request.stop}" if request.stop else "")
                            + (f" target {request.target}" if request.target else ""))
                return self._ask("sniper", messages.Operate(action="adjust", position=request.id, stop=request.stop, target=request.target))
            case messages.Release():
                facade.note("operator", f"release {request.strategy}")
                return self._ask("sniper", messages.Operate(action="release", strategy=request.strategy))
            case messages.Flatten():
                facade.words.pause("flatten: paused, working entries are cancelled, all positions closed")
                return self._ask("sniper", messages.Operate(action="flatten"), self._flattened)
            case messages.Stop():
                facade.note("operator", "stop")
                facade.stop("trader-ctl stop")
                return messages.Done(text="stopping in order: entries end, working orders are cancelled, everything is journaled")
        return messages.Refused(code="unknown", text=f"{type(request).__name__} is not for this socket", remedy="see ipc/messages.py")

    def _lasting(self, reply: messages.Done) -> None:
        """It holds now, and is noted; the operator hears so when it would outlive the instance, too."""
        self._words.append(_Word(self._asker, reply, self._deadline, self._facade.noted()))

    def _confirm(self) -> None:
        words, self._words = self._words, []
        for word in words:
            if self._facade.journaled(word.number) or self._clock() >= word.deadline:
                late = "not in the journal yet: until it is, this holds as long as this instance runs"
                self._server.answer(word.asker, self._told(word, late))
            else:
                self._words.append(word)

    def _told(self, word: _Word, unless: str) -> messages.Done:
        """What an operator hears; `unless` the journal has it."""
        if self._facade.journaled(word.number):
            return word.reply
        return messages.Done(text=f"{word.reply.text} ({unless})", data=word.reply.data)

    def _flattened(self, reply: Any) -> Any:
        told = _flattened(reply)
        if not isinstance(told, messages.Done):
            return told
        self._facade.words.flatten(f"flatten: {told.text}")
        return self._lasting(told)

    def _resumed(self, _: Any) -> None:
        """After the gateway was asked to compare anew; where it could not be asked, its own word stands."""
        trading, text = self._facade.words.resume()
        self._lasting(messages.Done(text=text, data={"trading": trading}))

    # ── questions to processes ───────────────────────────────────────────────────────────────────────────────────────
    def _ask(self, role: str, request: Any, then: Then = lambda reply: reply) -> Any:
        """Ask a process for the current asker; None: the answer comes later."""
        if len(self._pending) >= MOST_PENDING:
            return messages.Refused(code="busy", text=f"{MOST_PENDING} questions are under way", remedy="ask again in a second")
        socket = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.RECONNECT_IVL, 10), (zmq.RECONNECT_IVL_MAX, 50),
                              (zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES)):
            socket.setsockopt(option, value)
        socket.connect(bus.address(self._facade.sockets, role))
        socket.send_multipart([self._asker[1], messages.encode(request)], zmq.NOBLOCK)
        self._pending.append(_Question(self._asker, role, socket, self._deadline, then))
        return None

    def _collect(self) -> None:
        waiting, self._pending = self._pending, []
        now = self._clock()
        for question in waiting:
            reply = self._reply_to(question, now)
            if reply is None:
                self._pending.append(question)
                continue
            question.socket.close(0)
            self._asker, self._deadline = question.asker, question.deadline
            try:
                final = question.then(reply)
            except Exception as error:
                _log.exception("answer of %s", question.role)
                final = messages.Refused(code="internal", text=str(error)[:300], remedy="see the watchdog's log")
            if final is not None:
                self._server.answer(question.asker, final)

    @staticmethod
    def _reply_to(question: _Question, now: float) -> Any:
        with contextlib.suppress(zmq.Again):
            frames = question.socket.recv_multipart(zmq.NOBLOCK)
            try:
                return messages.decode_reply(frames[-1])
            except msgspec.DecodeError as error:
                return messages.Unavailable(role=question.role, text=f"its answer is not understood: {error}")
        if now >= question.deadline:
            return messages.Unavailable(role=question.role, text=f"{question.role} did not answer within {PATIENCE_S:g} s; see "
                                                                 "trader-ctl health")
        return None

    def _ask_why(self, reply: Any) -> Any:
        """The recorder knows the texts of conditions; without it they are shown without."""
        if not isinstance(reply, messages.Answer) or not reply.rows:
            return reply
        ids = ",".join(str(row["id"]) for row in reply.rows[:MOST_WHYS])

        def with_texts(whys: Any) -> Any:
            texts = {row["condition"]: row["why"] for row in whys.rows} if isinstance(whys, messages.Answer) else {}
            return messages.Answer(data=reply.data, rows=[{**row, "why": texts.get(str(row["id"]), "")} for row in reply.rows])

        later = self._ask("recorder", messages.Query(what="why", argument=ids), with_texts)
        return reply if isinstance(later, messages.Refused) else later


def _resident_bytes() -> int:
    """Memory of this process; 0 where /proc does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _closing(reply: Any) -> Any:
    if isinstance(reply, messages.Done):
        text = f"closing position {reply.data.get('position_id', '')} at the market; trader-ctl trades shows when it is closed"
        return messages.Done(text=text, data=reply.data)
    return reply


def _flattened(reply: Any) -> Any:
    match reply:
        case messages.Unavailable():
            return messages.Unavailable(role=reply.role, text=f"paused, but nothing is closed: {reply.text}")
        case messages.Done():
            count = int(reply.data.get("open_positions", 0))
            what = f"{count} position{'s are' if count != 1 else ' is'} being closed" if count else "no position is open"
            return messages.Done(text=f"paused, working entries are cancelled, {what}; resume allows entries again",
                                 data={"open_positions": count})
    return reply
