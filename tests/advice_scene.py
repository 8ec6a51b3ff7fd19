"""A strategy that a model advises, without processes: a model that a test scripts, and a portfolio that knows what was armed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from control.think.advised import Advised
from control.think.analysis.config import Analysis as Settings
from control.think.llm.advisor import Advisor
from control.think.llm.client import Asked
from control.think.llm.config import Llm
from control.think.llm.exchange import Asking, Attempt, Exchange
from control.think.strategy import CoinStatus, Condition, Held, Market, Portfolio
from hotpath.config import Limits
from ipc.messages import Event
from tests.analysis_market import BEGIN, DAY, MINUTE, checked, market, walk
from tests.llm_server import proposal, reply

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
NOON = BEGIN + DAY + 12 * 60 * MINUTE
#: neither a wild market nor a change of regime calls for a plan
CALM: dict[str, Any] = {"calm_bps": 9_000, "wild_bps": 9_999, "regime_share": 1.0}
GOOD = proposal(symbol=BTC, level_bps=20, stop_bps=50, target_bps=150, size_bps=50)


class Learned:
    """What is known: records of coins, nothing else."""

    def __init__(self, **records: CoinStatus) -> None:
        self.records = {f"{coin}/USDT:USDT": record for coin, record in records.items()}
        self.active: list[Any] = []

    def coin(self, symbol: str) -> CoinStatus:
        return self.records.get(symbol, CoinStatus())

    def results(self, most: int) -> list[Any]:
        return []


class Model:
    """In the place of a Client: answers with the next reply (the last one again and again), fails where that is empty, and says what it was told.

    `closed` is why nobody may be asked now. While `holds` is not set, an answer takes its time.
    """

    def __init__(self, *replies: str) -> None:
        self.replies, self.told, self.closed, self.wait_s = list(replies), list[dict[str, Any]](), "", 0.0
        self.holds = threading.Event()
        self.holds.set()

    def asking(self, prompt: Any, form: Any, briefing_ns: int) -> Asking | Asked:
        if self.closed:
            return Asked(Exchange(prompt_sha256=prompt.sha256, messages=(), briefing_ns=briefing_ns, failure=self.closed, wait_s=self.wait_s), [])
        return Asking(prompt_sha256=prompt.sha256, briefing_ns=briefing_ns, asked_wall_ns=time.time_ns(), tokens=100, cost=0.1)

    def ask(self, prompt: Any, form: Any, briefing_ns: int, asked_wall_ns: int) -> Asked:
        self.holds.wait(20)
        self.told.append(json.loads(prompt.messages[1].content.partition("<<<DATA\n")[2].partition("\nDATA>>>")[0]))
        said = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        attempt = Attempt(model="scripted", host="h", error="" if said else "HTTP 500", kind="" if said else "api", reply=said)
        return Asked(Exchange(prompt_sha256=prompt.sha256, messages=prompt.messages, briefing_ns=briefing_ns, asked_wall_ns=asked_wall_ns, reply=said,
                              failure="" if said else "scripted: HTTP 500", model="scripted", wait_s=self.wait_s, attempts=(attempt,)), [])

    def cut(self) -> None:
        self.holds.set()


class Scene:
    """One strategy over candles of some coins; time goes on with `plan`. What it gives is armed, unless a test says otherwise."""

    def __init__(self, *replies: str, llm: Llm | None = None, settings: dict[str, Any] | None = None, seeds: tuple[int, ...] = (10, 11),
                 learned: Learned | None = None, tell: Callable[[Event], bool] | None = None, **advise: Any) -> None:
        self.model, self.llm = Model(*(replies or (reply(GOOD),))), llm or Llm()
        self.settings = Settings(**(CALM | {"least_reward_risk": 0.5} | (settings or {})))
        self.history = {symbol: walk(seed) for symbol, seed in zip((BTC, ETH), seeds, strict=False)}
        self.learned, self.held, self.events = learned or Learned(), dict[str, Held](), list[Event]()
        #: instants of questions of which the journal was told
        self.asked: list[int] = []
        self.armed: list[tuple[int, Condition]] = []
        self.planned_ns, self.lists = 0, list[tuple[int, list[Condition]]]()
        self.strategy = self.successor(tell, **advise)

    def successor(self, tell: Callable[[Event], bool] | None = None, **advise: Any) -> Advised:
        """Another life of the strategy; what was armed stays so."""
        def told(event: Event) -> bool:
            self.asked.append(event.data["asking"]["briefing_ns"])
            return True

        made = Advised(None, self.settings)
        past = advise.get("past", ())
        made.advise(Advisor(self.llm, self.model, tell or told, recalled=past[0] if past else None),  # type: ignore[arg-type]
                    self.llm, advise.pop("limits", Limits()), **advise)
        self.strategy = made
        return made

    def market(self, now_ns: int, **more: Any) -> Market:
        return market(self.history, now_ns, **more)

    def portfolio(self) -> Portfolio:
        return Portfolio(cash=10_000.0, equity=10_000.0, positions=dict(self.held), planned_ns=self.planned_ns, armed=lambda: list(self.armed))

    def plan(self, now_ns: int, waits: bool = True, arms: bool = True, **more: Any) -> list[Condition] | None:
        """As Planning asks in a lockstep; `waits` false: as it asks else. `arms` false: its list is refused."""
        seen = self.market(now_ns, **more)
        given = self.strategy.plan(seen, self.portfolio(), self.learned)
        until = time.monotonic() + 20
        while waits and self.strategy.waiting:
            assert time.monotonic() < until
            time.sleep(0.002)
            later = self.strategy.plan(seen, self.portfolio(), self.learned)
            given = given if later is None else later
        self.events += self.strategy.take_events()
        if given is not None:
            given = checked(given, seen)
            self.lists.append((now_ns, given))
            self.armed, self.planned_ns = ([(now_ns, one) for one in given], now_ns) if arms else (self.armed, 0)
            if not arms:
                self.strategy.refused()
        return given

    def minutes(self, begin_ns: int, count: int, **more: Any) -> None:
        """Plans every minute."""
        for minute in range(count):
            self.plan(begin_ns + minute * MINUTE, **more)

    def kinds(self, *beginning: str) -> list[str]:
        return [event.kind for event in self.events if event.kind.startswith(beginning or ("llm",))]

    def exchanges(self) -> list[Exchange]:
        """As the journal has them, newest first."""
        from control.think.llm.exchange import decode

        return [decode(event.data["exchange"]) for event in self.events if event.kind == "llm_exchange"][::-1]
