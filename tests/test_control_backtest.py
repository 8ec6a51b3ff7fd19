"""`trader-ctl backtest` by hand-made data: what it writes, what it refuses and how, and that nothing stays half written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from control.backtest.command import Ended, Ending
from control.record.summary import FILL
from control.serve.ctl import main

BIN = Path(sys.executable).parent
START = 1_746_316_800  # 2025-05-04 00:00 UTC
#: trades often in the wave below
LIVELY = """
[limits]
max_entries_per_day = 1000
min_confidence = 0.0
[strategy]
candle_s = 60
interval_s = 60
mean_minutes = 10
range_minutes = 10
stretch_sigma = 0.5
"""
#: a class and a reason whose texts are HTML
NASTY = """
from control.think.strategy import Condition, Strategy, equity_bps

class Nasty(Strategy):
    interval_s = 60

    def plan(self, market, portfolio, knowledge):
        made = []
        for symbol, facts in market.facts.items():
            last = market.quotes[symbol].last
            if symbol not in portfolio.positions and last > 0:
                made += [Condition(symbol=symbol, side="buy", level=facts.price_text(last * (1 + k / 1e4)), direction="up", size=equity_bps(200),
                                   confidence=0.9, stop_bps=30, target_bps=30, time_stop_s=600, valid_for_s=60,
                                   why="<script>alert(1)</script> & </td>") for k in (1, 3)]
        return made
"""


@pytest.fixture
def candles(tmp_path: Path) -> Path:
    """Twelve hours of minutes in a wave, and some noise."""
    rng = np.random.default_rng(3)
    close = 60_000 + 600 * np.sin(np.arange(720) / 25) + rng.normal(0, 25, 720).cumsum()
    opened = np.concatenate([[60_000], close[:-1]])
    high, low = np.maximum(opened, close) + rng.uniform(0, 60, 720), np.minimum(opened, close) - rng.uniform(0, 60, 720)
    path = tmp_path / "um_btcusdt_1m.csv"
    pl.DataFrame({"date": (START + 60 * np.arange(720)) * 1000, "open": opened.round(1), "high": high.round(1), "low": low.round(1),
                  "close": close.round(1), "volume": rng.uniform(1, 50, 720).round(3)}).write_csv(path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "lively.toml"
    path.write_text(LIVELY)
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command in this process."""
    code = main(["backtest", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_backtest_writes_what_any_run_writes_and_its_tables_agree_with_it(candles: Path, config: Path, tmp_path: Path,
                                                                           capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, text, _ = told(capsys, "--data", candles, "--config", config, "--out", out, "--json")
    assert code == 0
    summary, reply = json.loads((out / "summary.json").read_text()), json.loads(text)
    assert (reply["type"], reply["data"]["run_dir"]) == ("done", str(out))
    assert (summary["mode"], summary["reconciled"]) == ("backtest", True)
    assert summary["ticks_processed"] == summary["ticks_published"] > 4 * 720
    assert len(np.frombuffer((out / "fills.bin").read_bytes(), FILL)) == summary["fills"] >= 20
    trades, equity = pl.read_parquet(out / "trades.parquet"), pl.read_parquet(out / "equity.parquet")
    assert trades.height == summary["trades_closed"] > 5
    assert trades["pnl"].sum() == pytest.approx(float(summary["realised_pnl"]), abs=1e-6)
    assert dict(trades["exit_reason"].value_counts().iter_rows()) == summary["exit_reasons"]
    assert trades.filter(pl.col("closed") <= pl.col("opened")).is_empty()
    assert equity["time"].is_sorted()
    assert equity["equity"][0] == 10_000
    assert equity["equity"][-1] == pytest.approx(float(summary["equity_end"]), rel=2e-3)
    assert float(equity["drawdown_pct"].max()) <= summary["max_drawdown_pct"] + 1e-3
    assert list(tmp_path.glob(".*")) == []


class Texts(HTMLParser):
    """Elements and texts of a page, scripts apart."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]
        self._script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.texts.append(data)


def test_the_report_is_one_file_whose_texts_are_escaped(candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strategy, out = tmp_path / "nasty.py", tmp_path / "out"
    strategy.write_text(NASTY)
    assert told(capsys, "--data", f"{candles}=BTC/USDT:USDT", "--strategy", f"{strategy}:Nasty", "--out", out)[0] == 0
    html = (out / "report.html").read_text()
    page = Texts()
    page.feed(html)
    assert page.sources == [], "nothing is fetched"
    assert any("<script>alert(1)</script> & </td>" in text for text in page.texts), "the reason is there, as text"
    outside = re.sub(r"<script[^>]*>.*?</script>", "", html, flags=re.S)
    assert "alert(1)" not in outside.replace("&lt;script&gt;alert(1)", "")
    assert page.tags.count("table") >= 3
    assert html.count("Plotly.newPlot(") >= 2
    for words in ("Equity", "BTC/USDT:USDT", "By symbol", "Trades", "How orders were filled"):
        assert any(words in text for text in page.texts), words


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--data", "nowhere.gz"], 2, "nowhere.gz: no such file"),
    (["--data", "DATA", "--from", "2025-05-05", "--to", "2025-05-04"], 2, "--from: 2025-05-05 is not before --to 2025-05-04"),
    (["--data", "DATA", "--from", "soon"], 2, "--from: 'soon' is no time; write 2025-05-04"),
    (["--data", "DATA", "--to", "2020-01-01"], 2, "--data: there is no trade, quote or candle in that time"),
    (["--data", "DATA", "--strategy", "fortune"], 2, "strategy 'fortune' is none of momentum"),
    (["--data", "DATA", "--strategy", "nofile.py:A"], 2, "--strategy nofile.py:A: there is no file"),
    (["--data", "DATA", "--config", "BAD"], 4, "limits.max_open_positions"),
    (["--data", "DATA", "--config", "none.toml"], 4, "none.toml: No such file"),
    (["--data", "EMPTY"], 2, "is empty"),
    (["--data", "DATA=DOGE"], 2, "DOGE"),
    (["--data", "NAMELESS"], 2, "its name does not say which instrument it holds; write"),
    (["--data", "DATA", "--out", "FULL"], 2, "is there already and not empty; name a new folder"),
    (["--data", "DATA", "--out", "DATA"], 2, "name a new folder"),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_input_is_named_with_its_remedy_and_leaves_nothing(candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                              monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str,
                                                              as_json: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("[limits]\nmax_open_positions = 0\n")
    (tmp_path / "spot_btcusdt_empty.csv").write_text("")
    (tmp_path / "nameless.csv").write_bytes(candles.read_bytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {"DATA": candles, "BAD": "bad.toml", "EMPTY": "spot_btcusdt_empty.csv", "FULL": "full", "NAMELESS": "nameless.csv",
              "DATA=DOGE": f"{candles}=DOGE"}
    before = sorted(tmp_path.rglob("*"))
    given, out, err = told(capsys, *(places.get(one, one) for one in arguments), *(["--json"] if as_json else []))
    assert given == code, out + err
    text = json.loads(out)["text"] if as_json else err
    assert words in text
    assert "Traceback" not in err
    left = [path for path in tmp_path.rglob("*") if path not in before]
    assert [path for path in left if path.is_file() or path.name.startswith(".")] == []


def test_help_names_the_exit_codes_and_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("backtest", "parity"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert "1 parity found differences" in text
        assert f"trader-ctl {command} " in text.partition("examples:")[2]


def test_a_signal_is_heard_where_nothing_can_be_torn_and_a_second_one_at_once() -> None:
    ending = Ending()
    ending.look()
    ending.take(signal.SIGTERM, None)
    with pytest.raises(Ended) as first:
        ending.look()
    assert first.value.number == signal.SIGTERM
    with pytest.raises(Ended) as second:
        ending.take(signal.SIGINT, None)
    assert second.value.number == signal.SIGINT


def test_a_backtest_that_is_interrupted_leaves_nothing(candles: Path, config: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time\n\nclass Slow:\n    interval_s = 60\n\n    def plan(self, market, portfolio, knowledge):\n"
                    "        time.sleep(0.2)\n        return []\n")
    process = subprocess.Popen([BIN / "trader-ctl", "backtest", "--data", f"{candles}=BTC/USDT:USDT", "--strategy", f"{slow}:Slow", "--out",
                                tmp_path / "out"], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".out.part*/state/journal/data.mdb")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert list(tmp_path.glob(".out*")) == []
    assert not (tmp_path / "out").exists()
    assert [path for path in Path("/dev/shm").glob("trader-backtest-*")] == [] if os.path.isdir("/dev/shm") else True


def test_a_strategy_that_raises_is_journaled_and_the_run_goes_on(candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, out = tmp_path / "broken.py", tmp_path / "out"
    broken.write_text("class Broken:\n    interval_s = 60\n\n    def plan(self, market, portfolio, knowledge):\n"
                      "        raise RuntimeError('no idea')\n")
    code, text, _ = told(capsys, "--data", f"{candles}=BTC/USDT:USDT", "--strategy", f"{broken}:Broken", "--out", out, "--json")
    assert (code, json.loads(text)["data"]["fills"]) == (0, 0)
    from control.record.journal import Journal

    journal = Journal(out / "state" / "journal")
    kinds = [event.kind for _, event in journal.events()]
    journal.close()
    assert kinds.count("strategy_error") > 700


def test_a_part_of_a_candle_file_that_cannot_be_read_is_told_by_the_exit_code(candles: Path, tmp_path: Path, config: Path,
                                                                             capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    whole = gzip.compress(candles.read_bytes())
    cut = tmp_path / "um_btcusdt_cut.csv.gz"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    code, text, _ = told(capsys, "--data", cut, "--config", config, "--out", tmp_path / "out", "--json")
    reply = json.loads(text)
    assert code == 7
    assert "the gzip data end in the middle" in reply["data"]["data_unread"][0]
    assert reply["data"]["ticks_processed"] > 1000


def test_status_stays_light() -> None:
    """`trader-ctl status` loads nothing of what a backtest needs."""
    code = ("import sys\nfrom control.serve.ctl import main\nmain(['--instance', 'no-such-one', 'status'])\n"
            "print([name for name in ('numba', 'numpy', 'polars', 'plotly', 'typer') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
