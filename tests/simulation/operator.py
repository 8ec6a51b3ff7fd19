"""Who says words to a running instance, as trader-ctl does, and holds it to those that were answered: they stand over every start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from control.record.writer import JournalWriter
from control.supervise.chronicle import Chronicle
from control.supervise.words import Words
from ipc import layout as l
from ipc import messages
from tests.simulation.deaths import Died, Violation

if TYPE_CHECKING:
    from tests.simulation.world import World


class Standing(NamedTuple):
    """What an operator has said and not taken back."""

    paused: bool = False
    flatten: bool = False
    safe: bool = False


class Operator:
    """Of one script, over all of its starts."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: what stood behind each word, and the number of the watchdog's event that says so; the first is known to be in the journal
        self._said: list[tuple[int, Standing]] = [(0, Standing())]

    def recall(self, chronicle: Chronicle) -> None:
        """A start: it takes up what stands. `chronicle`: the new watchdog's."""
        world = self._world
        possible = self._possible()
        self._chronicle, dog = chronicle, world.watchdog
        self._words = Words(world.memory.board.modes, dog.safe_mode, world.dangers, world.rescue,
                            lambda: dog.set_mode(world.clock.monotonic()), chronicle.note)
        if (world.folder / "journal").exists():
            journal = JournalWriter(world.folder / "journal", sync=False)
            try:
                self._words.recall(journal)
            finally:
                journal.close()
        stands = Standing(int(world.memory.board.modes[l.MODE_OF_OPERATOR]["mode"]) != l.MODE_RUNNING, world.rescue.flattens,
                          "operator" in dog.safe_mode.causes)
        for name, has, had in zip(Standing._fields, stands, zip(*possible, strict=True), strict=True):
            if has not in had:
                raise Violation("word", f"the start begins with {name} {has}, and the operator was answered that it is {had[0]}")
        self._said = [(0, stands)]
        world.crash.passed["words over a start"] += any(stands)

    def _possible(self) -> list[Standing]:
        """By the last word that the journal was known to have, and by those after it, of which it may have any."""
        answered = max((k for k, (number, _) in enumerate(self._said) if number and self._chronicle.brought(number)), default=0)
        return [standing for _, standing in self._said[answered:]]

    def say(self, action: str, symbol: str, price: str) -> None:
        """A command."""
        sniper, standing = self._world.lives.get("sniper"), self._said[-1][1]
        match action:
            case "pause":
                self._words.pause("paused")
                self._noted(standing._replace(paused=True))
            case "safe":
                self._words.safe("asked for")
                self._noted(standing._replace(safe=True))
            case "resume":
                self._compare()
                self._words.resume()
                self._noted(Standing())
            case "flatten":
                self._words.pause("flatten")
                self._noted(standing._replace(paused=True))
                if sniper is not None and isinstance(sniper.control.handle(messages.Operate(action="flatten")), messages.Done):
                    self._words.flatten("flatten: positions are being closed")
                    self._noted(standing._replace(paused=True, flatten=True))
            case _ if sniper is not None:
                what: Any = action
                sniper.control.handle(messages.Operate(action=what, position=symbol if action in ("close", "adjust") else "",
                                                       stop=price if action == "adjust" else None))

    def _noted(self, standing: Standing) -> None:
        self._said.append((self._chronicle.taken, standing))

    def _compare(self) -> None:
        """The gateway is asked to compare book and account anew, and may die of it."""
        gateway = self._world.lives.get("gateway")
        if gateway is None:
            return
        try:
            gateway.gateway.answer(messages.Operate(action="compare"))
        except Died as death:
            self._world.tell(f"    gateway dies at {death}")
            self._world.ended("gateway", -9)
