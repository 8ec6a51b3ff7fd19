"""What a seed draws before anything happens: settings, a market, plans, faults, deaths, commands, and who runs when.

A script is a list of actions that stand for themselves: each may be left out, and the rest still means the same. That is what makes it shrink.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any, NamedTuple

from ipc import layout as l
from ipc.messages import Condition, Rung, Size
from tests.simulation.exchange import FAULTS

SYMBOLS = ("BTC/USDT", "BTC/USDT:USDT", "ETH/USDT")
STRATEGIES = ("one", "two")
#: tick, lot, first price in ticks, usual size in lots of each
_TICKS = (Decimal("0.01"), Decimal("0.1"), Decimal("0.01"))
_LOTS = (Decimal("0.00001"), Decimal("0.001"), Decimal("0.0001"))
_PRICES = (6_000_000, 600_000, 300_000)
_SIZES = (40, 8, 60)
#: points at which a gateway, a recorder and a sniper die
GATEWAY_POINTS = ("gateway.sending", "gateway.send", "gateway.sent", "gateway.report", "gateway.cursor", "gateway.rescue", "venue.submit",
                  "venue.submitted", "venue.find", "venue.cancel", "venue.history", "ledger.write", "ledger.committed", "gateway.taken_over")
RECORDER_POINTS = ("recorder.lmdb_commit", "recorder.committed", "recorder.cursor")
SNIPER_POINTS = ("undo", "commit", "committed", "copy", "copied", "recovery")

Action = tuple[Any, ...]


class Settings(NamedTuple):
    """What is fixed for a script."""

    window_ms: int
    remote: bool
    flatten: bool
    latency_ms: int
    max_open: int
    cooldown_s: int
    snapshot_ms: int


class Script(NamedTuple):
    """All that a run depends on."""

    seed: int
    settings: Settings
    actions: tuple[Action, ...]


class _Market:
    """A price path of each instrument: small steps, now and then a gap."""

    def __init__(self, rng: random.Random, wild: float) -> None:
        self.rng, self.wild = rng, wild
        self.mid = list(_PRICES)

    def tick(self) -> Action:
        rng = self.rng
        after_ms = rng.choice((1, 2, 5, 5, 10, 20, 40)) if rng.random() < 0.96 else rng.choice((200, 400, 1200))
        if rng.random() < 0.15:
            return ("tick", after_ms, l.TICK_CLOCK, l.NO_INSTRUMENT, 0, 0, 0, 0)
        if rng.random() < 0.004:
            return ("tick", rng.choice((100, 61_000)), l.TICK_SESSION, l.NO_INSTRUMENT, 0, 0, 0, 0)
        k = rng.randrange(len(SYMBOLS))
        step = rng.gauss(0, self.wild) if rng.random() < 0.97 else rng.choice((-1, 1)) * rng.uniform(20, 120)
        self.mid[k] = max(_PRICES[k] // 2, min(2 * _PRICES[k], round(self.mid[k] * (1 + step / 10_000))))
        half = max(1, self.mid[k] * rng.choice((1, 1, 2, 4)) // 40_000)
        shown = lambda: max(1, round(_SIZES[k] * rng.choice((0.1, 0.5, 1, 2, 5))))  # noqa: E731
        if rng.random() < 0.3:
            return ("tick", after_ms, l.TICK_TRADE, k, self.mid[k] + rng.choice((-half, half)), shown(), 0, 0)
        return ("tick", after_ms, l.TICK_QUOTE, k, self.mid[k] - half, shown(), self.mid[k] + half, shown())

    def price(self, k: int, bps: float) -> str:
        return str(round(self.mid[k] * (1 + bps / 10_000)) * _TICKS[k])

    def condition(self) -> Condition:
        """One of all kinds; most are near enough to fire."""
        rng = self.rng
        k = rng.randrange(len(SYMBOLS))
        side = rng.choice(("buy", "sell")) if k == 1 else "buy"
        sign = 1 if side == "buy" else -1
        more: dict[str, Any] = {}
        direction = rng.choice(("up", "down"))
        kind = rng.random()
        if kind < 0.7:
            more["level"] = self.price(k, rng.gauss(0, 4))
            more["price"] = rng.choice(("last", "bid", "ask", "mid"))
        elif kind < 0.85:
            more["anchor"], more["move_bps"] = self.price(k, 0), rng.randint(1, 8)
            more["price"] = rng.choice(("last", "bid", "ask"))
        else:
            more["rebound_bps"] = rng.randint(1, 10)
            more["price"] = rng.choice(("last", "bid"))
        if rng.random() < 0.35:
            more["order"], more["limit_price"] = "limit", self.price(k, -sign * rng.gauss(3, 4))
        if rng.random() < 0.8:
            more["stop_bps"] = rng.randint(2, 12) if rng.random() < 0.7 else rng.randint(12, 40)
        else:
            more["time_stop_s"] = 1
        if rng.random() < 0.5:
            more["target_bps"] = rng.randint(13, 25)
        if rng.random() < 0.25:
            more["trail_distance_bps"], more["trail_activation_bps"] = rng.randint(3, 15), rng.choice((0, 5, 10))
        if rng.random() < 0.3:
            more["time_stop_s"] = rng.randint(1, 5)
        if rng.random() < 0.2:
            more["break_even_bps"] = rng.randint(3, 20)
        if rng.random() < 0.25:
            shares = rng.choice(((0.5,), (0.25, 0.5), (0.5, 0.5)))
            more["ladder"] = [Rung(bps=6 * (n + 1), share=share) for n, share in enumerate(shares)]
        if rng.random() < 0.25:
            more["group"] = rng.choice("ab")
        size = Size(kind="base", value=str(rng.randint(_SIZES[k] // 2, 2 * _SIZES[k]) * _LOTS[k]))
        return Condition(symbol=SYMBOLS[k], side=side, direction=direction, size=size,  # type: ignore[arg-type]
                         confidence=0.9, why="seeded", valid_for_s=rng.choice((1, 5, 30, 60)), max_fires=rng.choice((1, 2, 2, 5)), **more)


def draw(seed: int) -> Script:
    """The script of a seed."""
    rng = random.Random(seed)
    settings = Settings(window_ms=rng.choice((20, 200, 2000)), remote=rng.random() < 0.5, flatten=rng.random() < 0.4,
                        latency_ms=rng.choice((0, 2, 20)), max_open=rng.choice((2, 3, 6)),
                        cooldown_s=rng.choice((0, 1, 5)), snapshot_ms=rng.choice((20, 200, 1000)))
    market = _Market(rng, rng.choice((2.0, 5.0, 10.0)))
    faulty, deadly, busy = rng.choice((0.0, 0.03, 0.08)), rng.choice((0.0, 0.015, 0.04)), rng.choice((0.005, 0.015))
    actions: list[Action] = [market.tick() for _ in range(12)]
    actions += [("plan", rng.randrange(2), False, tuple(market.condition() for _ in range(rng.randint(6, 12)))) for _ in range(2)]
    for _ in range(rng.choice((150, 300, 500))):
        chance = rng.random()
        if chance < faulty:
            actions.append(_fault(rng))
        elif chance < faulty + deadly:
            actions += _death(rng)
        elif chance < faulty + deadly + busy:
            actions.append(_command(rng, market))
        elif chance < faulty + deadly + 2 * busy:
            actions.append(("plan", rng.randrange(2), rng.random() < 0.5, tuple(market.condition() for _ in range(rng.randint(0, 8)))))
        else:
            actions += _work(rng, market)
    silent = random.Random(~seed)
    for _ in range(silent.choice((0, 1, 3))):
        at = silent.randrange(12, len(actions) + 1)
        actions[at:at] = _silence(silent)
    if seed % 5 == 0:
        actions += _doubt(random.Random(-seed), market)
    elif seed % 5 == 2:
        actions += _closing(random.Random(-seed), market)
    return Script(seed, settings, tuple(actions))


def _work(rng: random.Random, market: _Market) -> list[Action]:
    """Who runs next, and how far."""
    chance = rng.random()
    if chance < 0.30:
        return [market.tick() for _ in range(rng.choice((1, 2, 3, 6)))]
    if chance < 0.55:
        return [("sniper", rng.choice((1, 1, 2, 8)))]
    if chance < 0.78:
        return [("gateway",)]
    if chance < 0.90:
        return [("recorder",)]
    if chance < 0.97:
        return [("watchdog",)]
    return [("wait", rng.choice((5, 30, 100, 500, 1100)))]


def _silence(rng: random.Random) -> list[Action]:
    """A feed that is away, while the others go on; mostly it comes back with a gap."""
    turns = (("gateway",), ("gateway",), ("recorder",), ("watchdog",), ("operate", "close", rng.choice(SYMBOLS), "0", False))
    made: list[Action] = []
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.2:
            made.append(("cut", rng.choice(SNIPER_POINTS), rng.randrange(1000)))
        made += [("silence", rng.choice((60, 300, 1100, 6_000))), *(rng.choice(turns) for _ in range(rng.randint(0, 3)))]
    return made + [("gap", rng.choice((50, 2_000)))] * (rng.random() < 0.8)


def _doubt(rng: random.Random, market: _Market) -> list[Action]:
    """An entry that rests, arrives late, and is to be cancelled while nobody knows of it."""
    at = market.mid[0]
    price, lower = (str(round(at * (1 - bps / 10_000)) * _TICKS[0]) for bps in (5, rng.randint(15, 60)))
    entry = Condition(symbol=SYMBOLS[0], side="buy", direction="down", size=Size(kind="base", value="0.00050"), confidence=0.9, why="seeded",
                      price="bid", level=price, order="limit", limit_price=lower, stop_bps=50, valid_for_s=30)
    bids = [round(at * (1 - bps / 10_000)) for bps in (2, 8)]
    quotes: list[Action] = [("tick", 5, l.TICK_QUOTE, 0, bid, 80, bid + at // 10_000, 80) for bid in bids]
    clock: Action = ("tick", 2, l.TICK_CLOCK, l.NO_INSTRUMENT, 0, 0, 0, 0)
    turns: tuple[Action, ...] = (clock, ("sniper", 8), ("gateway",), ("recorder",), ("watchdog",))
    return [("operate", "resume", SYMBOLS[0], price, False), ("watchdog",), ("plan", rng.randrange(2), True, (entry,)), ("recorder",), ("sniper", 8),
            ("recorder",), ("gateway",), quotes[0], ("sniper", 8), quotes[1], ("sniper", 8), ("recorder",),
            ("fault", "submit", "late", 100, rng.choice((15, 150, 1900))), ("gateway",), *(rng.choice(turns) for _ in range(rng.randint(4, 16)))]


def _closing(rng: random.Random, market: _Market) -> list[Action]:
    """A position whose sniper is away until the gateway begins to close it, and comes back with an exit of its own in the same moment."""
    at, clock = market.mid[0], ("tick", 2, l.TICK_CLOCK, l.NO_INSTRUMENT, 0, 0, 0, 0)
    entry = Condition(symbol=SYMBOLS[0], side="buy", direction="down", size=Size(kind="base", value="0.00050"), confidence=0.9, why="seeded",
                      price="bid", level=str(round(at * (1 - 5 / 10_000)) * _TICKS[0]), stop_bps=20, valid_for_s=30)
    quotes: list[Action] = [("tick", 25, l.TICK_QUOTE, 0, bid, 80, bid + at // 10_000, 80)
                            for bid in (round(at * (1 - bps / 10_000)) for bps in (2, 8, 8, rng.choice((8, 100))))]
    turns: tuple[Action, ...] = (clock, ("sniper", 8), ("gateway",), ("gateway",), ("recorder",), ("watchdog",))
    away_ms = rng.choice((2_600, 6_000))
    return [("operate", "resume", SYMBOLS[0], "0", False), ("watchdog",), ("gateway",), ("plan", rng.randrange(2), True, (entry,)), ("recorder",),
            ("sniper", 8), ("recorder",), ("gateway",), quotes[0], ("sniper", 8), quotes[1], ("sniper", 8), ("recorder",), ("gateway",),
            quotes[2], ("gateway",), ("gateway",), ("sniper", 8), ("recorder",), ("away", "sniper", away_ms),
            ("operate", "safe", SYMBOLS[0], "0", False), *(("watchdog",),) * 16, ("wait", away_ms - 500), ("watchdog",), ("watchdog",), ("wait", 300),
            quotes[3], ("sniper", 1), ("sniper", rng.randint(1, 8)), ("gateway",), *(rng.choice(turns) for _ in range(rng.randint(4, 16)))]


def _fault(rng: random.Random) -> Action:
    call = rng.choice((*FAULTS, "submit", "submit", "submit", "submit", "news", "journal", "clock"))
    if call == "journal":
        return ("disk", rng.choice((1, 3)))
    if call == "clock":
        return ("clock", rng.choice((-60_000, -1_500, 1_500, 3_600_000)))
    fault = "late" if call == "submit" and rng.random() < 0.3 else rng.choice(FAULTS[call])
    return ("fault", call, fault, rng.choice((10, 60, 120, 300, 1500)), rng.choice((1, 15, 150, 1900)))


def _death(rng: random.Random) -> list[Action]:
    chance = rng.random()
    if chance < 0.38:
        return [("crash", rng.choice(GATEWAY_POINTS), rng.choice((1, 1, 1, 2, 3)))]
    if chance < 0.72:
        return [("cut", rng.choice(SNIPER_POINTS), rng.randrange(1000))]
    if chance < 0.80:
        return [("crash", rng.choice(RECORDER_POINTS), 1)]
    if chance < 0.92:  # away for so long that others have to act
        role, waits_ms = rng.choice(("sniper", "sniper", "sniper", "gateway", "recorder")), rng.choice((300, 2_500, 9_000))
        meanwhile = (("watchdog",), ("watchdog",), ("wait", 300), ("wait", 300), ("gateway",), ("gateway",), ("recorder",), ("sniper", 1))
        faults = [_fault(rng) for _ in range(rng.choice((0, 0, 1, 3)))] + [("fault", "cancel", "silent", 2000, 1)] * (rng.random() < 0.3)
        both = [("away", "gateway" if role == "sniper" else "sniper", waits_ms - 250)] * (rng.random() < 0.25)
        return [("away", role, waits_ms), *both, *(rng.choice(meanwhile) for _ in range(waits_ms // 150)), *faults,
                *(rng.choice(meanwhile) for _ in range(20))]
    if chance < 0.97:
        return [("loss", rng.random() < 0.4)]
    return [("kill", rng.choice(("sniper", "gateway", "recorder")))]


def _command(rng: random.Random, market: _Market) -> Action:
    kind = rng.choice(("pause", *["resume"] * 5, "safe", "flatten", "close", "close", "adjust", "adjust", "cancel_entries"))
    k = rng.randrange(len(SYMBOLS))
    return ("operate", kind, SYMBOLS[k], market.price(k, rng.choice((-20, -5, 5, 20))), rng.random() < 0.5)


def in_words(action: Action) -> str:
    """A line of a trace."""
    if action[0] == "plan":
        return f"plan of strategy {action[1]}{' (added)' if action[2] else ''}: " + "; ".join(
            f"{c.side} {c.size.value} {c.symbol} {c.price} {c.direction} {c.level or c.anchor or 'rebound'} {c.order}" for c in action[3])
    if action[0] == "tick":
        return f"tick {('', 'trade', 'quote', 'clock', 'session')[action[2]]} of {action[3]}: {action[4]} × {action[5]}, {action[6]} × {action[7]}"
    return " ".join(map(str, action))


def fold(trace: list[str], began: int, quiet: int) -> int:
    """A round of the end of which nothing is told but its turns: it and those before it become one line. Gives their number."""
    if any(line.startswith("    ") for line in trace[began:]):
        return 0
    trace[began - (quiet > 0):] = [f"{quiet + 1} rounds in which nothing happens"]
    return quiet + 1
