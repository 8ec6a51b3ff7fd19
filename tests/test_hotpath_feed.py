"""The feed publishes a stream that is a function of its source, in time, gated by its slowest reader, whatever happens to it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hotpath import feed
from hotpath.venues.catalogue import SIMULATED, resolve
from ipc import bus, messages, ring, segment
from ipc import layout as l
from ipc.process import Boot, Child, Source
from ipc.segment import Memory

FIXTURES = Path(__file__).parent / "fixtures"
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "binance_ws_raw"
SAMPLES = (Source(str(FIXTURES / "spot_btcusdt_sample.raw"), "BTC/USDT"),
           Source(str(FIXTURES / "usdm_ethusdt_sample.raw"), "ETH/USDT:USDT"))
START = 1_750_000_020_000_000_000
#: all of a tick but its wall stamp
CONTENT = [name for name in l.TICK.names or () if name != "publish_ns"]
FORK = multiprocessing.get_context("fork")


class Bench:
    """An instance with one tick reader, the sniper's, which is the test itself."""

    def __init__(self, folder: Path, symbols: tuple[str, ...], slots: int = 1024, **boot: Any) -> None:
        segment.create_all("bench", slots, 8, 64)
        self.memory = Memory("bench")
        t = self.memory.ticks
        t.ring[0]["capacity"], t.ring[0]["gated"] = slots, 1
        t.readers[l.SNIPER]["active"] = 1
        rows = resolve(symbols)
        self.memory.instruments.instruments[: len(rows)] = rows
        self.memory.board.run[0]["instruments"] = len(rows)
        self.sockets = tempfile.mkdtemp(prefix="fd")  # tmp_path may be too long for a socket
        self.boot = Boot(role="feed", instance="bench", mode="replay", run_id="r", run_dir=str(folder), state_dir=str(folder),
                         socket_dir=self.sockets, **boot)
        self.log = folder / "feed.log"
        #: what a recorder was told
        self.events: list[messages.Event] = []
        self._end = threading.Event()
        self._recorder = threading.Thread(target=self._record, daemon=True)
        self._recorder.start()
        self.process: Any = None
        self.next = 1
        self.taken: list[np.ndarray[Any, Any]] = []

    @property
    def row(self) -> Any:
        return self.memory.board.processes[l.FEED]

    def _record(self) -> None:
        """A recorder, as far as a feed talks to it."""
        def take(event: Any) -> messages.Reply:
            self.events.append(event)
            return messages.Done()

        server = bus.Server(self.sockets, "recorder", messages.decode_child_request)
        while not self._end.is_set():
            server.poll(0.05, take)
        server.close()

    def metrics(self) -> dict[str, int]:
        return {name: int(value) for name, value in zip(l.METRICS[l.FEED], self.row["metrics"], strict=False)}

    def start(self) -> None:
        self.row["stop"] = l.STOP_NONE
        self.process = FORK.Process(target=self._run)
        self.process.start()

    def _run(self) -> None:
        logging.basicConfig(filename=self.log, force=True, level=logging.INFO)
        raise SystemExit(feed.main(Child(self.boot, l.FEED, Memory("bench"), logging.getLogger("feed"))))

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(10)

    def stop(self) -> int:
        self.row["stop"] = l.STOP_DRAIN
        self.process.join(10)
        return int(self.process.exitcode)

    def read(self, most: int = 1 << 30) -> int:
        """Take what is published, advance the cursor, ring the feed; gives how many."""
        from ipc import wait

        t, target, count = self.memory.ticks, np.zeros(1, l.TICK), 0
        while count < most and (result := ring.poll(t.ring, t.slots, self.next, target, 0)) == ring.OK:
            self.taken.append(target.copy())
            self.next += 1
            count += 1
        assert count == most or result == ring.EMPTY, "a gated ring never laps its reader"
        if count:
            ring.advance(t.readers, l.SNIPER, self.next - 1)
            wait.ring_bells(self.memory.board.processes, 1 << l.FEED)
        return count

    def read_until(self, ticks: int = 1 << 30, timeout_s: float = 60) -> None:
        """Until the feed has finished and all is read, or there are so many ticks."""
        end = time.monotonic() + timeout_s
        while self.next <= ticks:
            finished = self.row["state"] == l.PROC_FINISHED
            if not self.read(ticks - self.next + 1) and finished:
                return
            assert self.process is None or self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()

    def ticks(self) -> np.ndarray[Any, Any]:
        return np.concatenate(self.taken) if self.taken else np.zeros(0, l.TICK)

    def close(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.kill()
        self._end.set()
        self._recorder.join(5)
        segment.remove("bench")
        shutil.rmtree(self.sockets, ignore_errors=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    made: list[Bench] = []

    def make(symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT:USDT"), **boot: Any) -> Bench:
        if made:
            made.pop().close()
        folder = tmp_path / f"run{time.monotonic_ns()}"
        folder.mkdir()
        made.append(Bench(folder, symbols, **boot))
        return made[-1]

    yield make
    for one in made:
        one.close()


def replay(bench: Any, *sources: Source, **more: Any) -> Bench:
    return bench(tuple(dict.fromkeys(source.symbol for source in sources)), market="replay", sources=sources, **({"speed": 0.0} | more))


def simulate(bench: Any, **more: Any) -> Bench:
    return bench(SIMULATED, market="simulated", seed=7, start_event_ns=START, **({"speed": 0.0} | more))


def big_recording(folder: Path, frames: int = 30_000) -> Source:
    """Frames of our own making with a gap, passed-over and bad ones in between."""
    rng, at, lines = np.random.default_rng(5), 1704067200_000_000_000, []
    draws = zip(rng.exponential(3e6, frames), rng.integers(0, 10, frames), rng.integers(0, 500, frames), strict=True)
    for number, (wait, kind, step) in enumerate(draws):
        at += int(wait) + (90_000_000_000 if number == frames // 2 else 0)
        price = f"{40_000 + step // 100}.{step % 100:02d}"
        if kind < 5:
            lines.append(f'{at} {{"stream":"x@bookTicker","data":{{"s":"BTCUSDT","b":"{price}","B":"1.5","a":"45000.00","A":"2"}}}}')
        elif kind < 8:
            lines.append(f'{at} {{"stream":"x@trade","data":{{"s":"BTCUSDT","p":"{price}","q":"0.5","T":{at // 10**6},"m":true}}}}')
        elif kind == 8:
            lines.append(f'{at} {{"stream":"x@depth","data":{{}}}}')
        else:
            lines.append(f'{at} {{"stream":"x@trade","data":{{"s":"BTCUSDT","p":"{price}7","q":"0.5"}}}}')
    (folder / "big.raw").write_text("\n".join(lines))
    return Source(str(folder / "big.raw"), "BTC/USDT")


def test_replay_publishes_every_record_with_clocks_and_ends(bench: Any) -> None:
    one = replay(bench, *SAMPLES, flatten_at_end=True)
    one.start()
    one.read_until()
    ticks = one.ticks()
    assert ticks["seq"].tolist() == list(range(1, len(ticks) + 1))
    assert (np.diff(ticks["event_ns"]) >= 0).all()
    assert (ticks["kind"] == l.TICK_TRADE).sum() == 6
    assert (ticks["kind"] == l.TICK_QUOTE).sum() == 7
    sessions = ticks[ticks["kind"] == l.TICK_SESSION]
    assert sessions["flags"].tolist() == [0, l.FLAG_END]
    assert (ticks[ticks["kind"] >= l.TICK_CLOCK]["instrument"] == l.NO_INSTRUMENT).all()
    assert set(ticks[ticks["kind"] < l.TICK_CLOCK]["instrument"].tolist()) == {0, 1}
    metrics = one.metrics()
    counted = {"ticks": len(ticks), "records": 13, "frames": 17, "frames_passed_over": 4, "connections": 2}
    assert {name: metrics[name] for name in counted} == counted
    assert one.row["state"] == l.PROC_FINISHED
    assert one.row["error_count"] == 0
    assert one.stop() == 0


def test_quotes_and_intervals_follow_the_stream(bench: Any) -> None:
    one = replay(bench, *SAMPLES)
    publisher = feed.Publisher(Child(one.boot, l.FEED, one.memory, logging.getLogger("feed")))
    while not publisher.finished:
        publisher.turn()
    quote, interval = one.memory.ticks.quotes[0], one.memory.ticks.intervals[0]
    assert (quote["bid"], quote["bid_lots"], quote["ask"], quote["last"], quote["last_lots"]) == (4205000, 100000, 4205010, 4205010, 3000)
    assert quote["version"] % 2 == interval["version"] % 2 == 0
    assert (interval["low"], interval["high"]) == (4200000, 4205010), "the sniper has taken nothing yet"
    perpetual = one.memory.ticks.intervals[1]
    assert (perpetual["low"], perpetual["high"]) == (230010, 230201), "a trade that is no market trade moves no extreme"
    assert one.memory.ticks.quotes[1]["last"] == 230011


def test_interval_begins_anew_behind_what_the_sniper_has_taken(bench: Any) -> None:
    one = replay(bench, *SAMPLES)
    publisher = feed.Publisher(Child(one.boot, l.FEED, one.memory, logging.getLogger("feed")))
    publisher.made = publisher.source.fill(publisher.ticks, publisher.marks)
    from hotpath.kernel import publish

    late = int(np.flatnonzero(publisher.ticks["event_ns"][: publisher.made] > 1704067290_000_000_000)[0])
    publish.publish_batch(publisher.arrays, publisher.ticks, publisher.marks, 0, late, 0.0, time.monotonic_ns() + 10**9)
    one.read()
    publish.publish_batch(publisher.arrays, publisher.ticks, publisher.marks, late, publisher.made, 0.0, time.monotonic_ns() + 10**9)
    interval = one.memory.ticks.intervals[0]
    assert interval["first_seq"] > late
    assert (interval["low"], interval["high"]) == (4205000, 4205010)


def test_feed_waits_for_its_slowest_reader_and_loses_nothing(bench: Any) -> None:
    one = simulate(bench)
    one.start()
    end = time.monotonic() + 20
    while int(one.memory.ticks.ring[0]["head"]) < 1024 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    assert int(one.memory.ticks.ring[0]["head"]) == 1024, "the ring is full and nobody has read"
    assert time.monotonic_ns() - int(one.row["beat_ns"]) < 100_000_000, "it waits alive"
    one.read(10)
    time.sleep(0.2)
    assert int(one.memory.ticks.ring[0]["head"]) == 1034
    assert one.stop() == 0


def test_pacing_keeps_event_time_to_wall_time(bench: Any) -> None:
    one = simulate(bench, speed=4.0)
    one.start()
    one.read_until(200)
    began, first = time.monotonic(), int(one.ticks()[-1]["event_ns"])
    while time.monotonic() - began < 1.5:
        one.read()
        time.sleep(0.005)
    event_s = (int(one.ticks()[-1]["event_ns"]) - first) / 1e9
    assert 0.85 * 6.0 < event_s < 1.15 * 6.0, f"{event_s:.2f} event seconds in 1.5 s at 4×"
    assert one.stop() == 0


def test_paced_replay_does_not_wait_out_the_gap_between_sessions(bench: Any) -> None:
    one = replay(bench, *SAMPLES, speed=1.0)
    began = time.monotonic()
    one.start()
    one.read_until(timeout_s=20)
    assert 3.0 < time.monotonic() - began < 12, "some 3.2 s of event time on both sides of a gap of 100 s"


@pytest.mark.parametrize("market", ["replay", "simulated"])
def test_stream_after_kill_9_is_that_of_an_unkilled_feed(bench: Any, market: str, tmp_path: Path) -> None:
    source = big_recording(tmp_path)
    make = (lambda: replay(bench, source, flatten_at_end=True)) if market == "replay" else (lambda: simulate(bench))
    enough = 1 << 30 if market == "replay" else 20_000
    whole = make()
    whole.start()
    whole.read_until(enough)
    expected, counted = whole.ticks(), whole.metrics()
    quotes = whole.memory.ticks.quotes.copy()
    one = make()
    rng = np.random.default_rng(3)
    for kill_at in np.sort(rng.integers(1, len(expected) - 2000, 8)):
        one.start()
        one.read_until(int(kill_at))
        time.sleep(float(rng.random()) * 0.01)
        one.kill()
        one.row["state"] = l.PROC_ABSENT
    one.start()
    one.read_until(enough)
    ticks = one.ticks()
    assert len(ticks) == len(expected)
    assert (ticks[CONTENT] == expected[CONTENT]).all()
    assert "goes on behind tick" in one.log.read_text()
    if market == "replay":
        assert one.metrics() == counted
        assert counted["records"] == (expected["kind"] <= l.TICK_QUOTE).sum()
        assert counted["bad_price"] > 1000
        for field in ("bid", "ask", "last", "event_ns"):
            assert (one.memory.ticks.quotes[field] == quotes[field]).all()


def test_what_a_paced_market_does_while_its_feed_is_dead_is_passed_over_and_told(bench: Any) -> None:
    whole = simulate(bench, speed=0.0)
    whole.start()
    whole.read_until(30_000)
    expected = whole.ticks()
    one = simulate(bench, speed=50.0)
    one.start()
    one.read_until(2_000)
    one.kill()
    one.row["state"] = l.PROC_ABSENT
    one.read()
    head, at = one.next - 1, int(one.taken[-1]["event_ns"][0])
    time.sleep(0.5)
    one.start()
    one.read_until(head + 500)
    ticks = one.ticks()
    (told,) = np.flatnonzero(ticks["flags"] & l.FLAG_GAP)
    gap = ticks[told]
    assert told == head
    assert gap["kind"] == l.TICK_CLOCK
    assert int(gap["price"]) == int(gap["event_ns"]) - at
    assert 0.5 * 50 <= int(gap["price"]) / 1e9 < 20 * 50
    begin = head + int(gap["lots"])
    assert (ticks[head + 1:][CONTENT[1:]] == expected[begin + 1: begin + len(ticks) - head][CONTENT[1:]]).all(), "it is the same market, later"
    assert int(expected[begin]["event_ns"]) == int(gap["event_ns"])
    assert "are passed over" in one.log.read_text()
    assert (one.metrics()["gaps"], one.metrics()["gap_ticks"]) == (1, int(gap["lots"]))


def test_where_processes_take_turns_the_market_waits_for_its_feed(bench: Any) -> None:
    one = simulate(bench, speed=50.0, lockstep=True)
    one.start()
    one.read_until(500)
    one.kill()
    one.row["state"] = l.PROC_ABSENT
    one.read()
    head = one.next - 1
    time.sleep(0.3)
    one.start()
    one.read_until(head + 200)
    ticks = one.ticks()
    assert not (ticks["flags"] & l.FLAG_GAP).any()
    assert np.diff(ticks["event_ns"].astype(np.int64)).max() < 10**9, "no time is missing"


def test_death_between_line_and_publish_is_made_good(bench: Any, tmp_path: Path) -> None:
    """The line of the tick that was never published is the other one; a half-written quote is written again."""
    one = replay(bench, big_recording(tmp_path, 3000))
    child = Child(one.boot, l.FEED, one.memory, logging.getLogger("feed"))
    first = feed.Publisher(child)
    first.turn()
    one.read()
    head = first.head
    lines, quote = one.memory.ticks.feed_lines, one.memory.ticks.quotes[0]
    lines[(head + 1) & 1]["seq"], lines[(head + 1) & 1]["position"] = l.BUSY, -77
    quote["version"] += 1
    quote["bid"] = -5
    kept = first.ticks[: first.made].copy()
    second = feed.Publisher(child)
    second.resume()
    while second.row < second.made:
        second.turn()
        one.read()
    ticks = one.ticks()
    assert ticks["seq"].tolist() == list(range(1, len(kept) + 1))
    assert (ticks[CONTENT[1:]] == kept[CONTENT[1:]]).all()
    assert quote["version"] % 2 == 0
    newest = kept[(kept["kind"] == l.TICK_QUOTE)][-1]
    assert quote["bid"] == newest["price"]


def test_a_tick_that_readers_may_have_taken_counts_as_published_whoever_died_before_the_head_moved(bench: Any, tmp_path: Path) -> None:
    """Else another one went out under its number, such as the one that tells of a gap, and those that were quick would never see it."""
    one = replay(bench, big_recording(tmp_path, 3000))
    first = feed.Publisher(Child(one.boot, l.FEED, one.memory, logging.getLogger("feed")))
    first.turn()
    one.read()
    head = first.head
    one.memory.ticks.ring[0]["head"] = head - 1
    second = feed.Publisher(Child(one.boot, l.FEED, one.memory, logging.getLogger("feed")))
    second.resume()
    assert second.head == head
    while second.row < second.made:
        second.turn()
        one.read()
    assert one.ticks()["seq"].tolist() == list(range(1, second.head + 1))


def test_file_that_changed_during_the_run_is_a_permanent_fault(bench: Any, tmp_path: Path) -> None:
    source = big_recording(tmp_path, 3000)
    one = replay(bench, source)
    one.start()
    one.read_until(500)
    one.kill()
    path = Path(source.path)
    path.write_text("\n".join(path.read_text().splitlines()[1000:]))
    one.start()
    one.process.join(20)
    assert one.process.exitcode == feed.EXIT_CONFIG
    assert "start the replay anew" in one.log.read_text()


def test_bad_records_are_passed_over_and_told_as_data_at_most_once_a_second(bench: Any, tmp_path: Path) -> None:
    one = replay(bench, big_recording(tmp_path, 3000))
    one.start()
    one.read_until()
    assert one.stop() == 0
    bad = sum(one.metrics()[name] for name in ("frames_bad", "bad_price", "crossed", "time_back"))
    told = [event for event in one.events if event.kind == "feed_error"]
    assert told
    assert {(event.source, event.data["class"], event.data["decision"]) for event in told} == {("feed", "data", "continue")}
    assert told[-1].text.endswith(f"{bad} in all")
    row = one.memory.board.activities[l.FEED * l.MAX_ACTIVITIES]
    assert (row["name"], int(row["errors"]), int(one.row["error_count"])) == (b"frames", bad, bad)
    assert len(told) <= 1 + one.metrics()["ticks"] // 100


def test_a_source_that_changed_is_fatal_and_the_journal_hears_it(bench: Any, tmp_path: Path) -> None:
    one = replay(bench, big_recording(tmp_path, 3000))
    publisher = feed.Publisher(Child(one.boot, l.FEED, one.memory, logging.getLogger("feed")))
    publisher.broken(feed.SourceError("a file has changed"))
    (event,) = one.events
    assert (event.kind, event.text, event.data["class"], event.data["decision"]) == ("feed_error", "a file has changed", "fatal", "stop")


def test_missing_file_ends_early_with_a_count_and_a_message(bench: Any, tmp_path: Path) -> None:
    one = replay(bench, SAMPLES[0], Source(str(tmp_path / "gone.gz"), "ETH/USDT:USDT"))
    one.start()
    one.read_until()
    assert one.row["error_count"] == 1
    assert one.metrics()["records"] == 8
    assert one.stop() == 0
    (told,) = one.events
    assert told.kind == "data_unread"
    assert "gone.gz: No such file or directory; name a readable file" in told.text


def test_unknown_symbol_is_a_permanent_fault(bench: Any) -> None:
    one = bench(("BTC/USDT",), market="replay", sources=(Source(SAMPLES[0].path, "SOL/USDT"),))
    one.start()
    one.process.join(20)
    assert one.process.exitcode == feed.EXIT_CONFIG
    assert "SOL/USDT is no instrument of this run" in one.log.read_text()


def test_feed_answers_on_the_bus_while_it_waits(bench: Any) -> None:
    one = simulate(bench)
    one.start()
    client = bus.Client(one.sockets, "feed")
    try:
        assert client.ask(messages.Ping(), 10.0) == messages.Pong(role="feed", pid=one.process.pid)
        answer = client.ask(messages.Query(what="feed"), 5.0)
        assert answer.data["market"] == "simulated"
        assert client.ask(messages.Query(what="weather"), 5.0).code == "unknown_query"
        assert client.ask(messages.Operate(action="flatten"), 5.0).code == "not_for_feed"
    finally:
        client.close()
    assert one.stop() == 0
    assert msgspec.json.encode(answer)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent: the real recordings are not part of the repository")
def test_real_recording_reaches_its_reader_whole(bench: Any) -> None:
    one = replay(bench, *(Source(str(REAL / f"spot_btcusdt_2024080{day}.gz"), "BTC/USDT") for day in (8, 9)))
    one.start()
    one.read_until(timeout_s=120)
    ticks = one.ticks()
    assert (ticks["kind"] <= l.TICK_QUOTE).sum() == one.metrics()["records"] == 37_797 + 55_281
    clocks = ticks[ticks["kind"] == l.TICK_CLOCK]["event_ns"]
    assert (np.diff(clocks) == 100_000_000).all(), "the two files join"
