"""The report of a backtest: one HTML file that opens without a network, with charts (plotly, its JavaScript inside) and tables.

Every text that is not this file's own is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from control.backtest.results import Results, Trip, by_symbol

#: round trips that the table shows; trades.parquet has all
MOST_TRIPS = 500
_GREEN, _RED, _BLUE, _GREY = "#1a7f4b", "#b3261e", "#2456a6", "#8a8f98"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p.facts { color: #5a6069; margin: .2rem 0 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .8rem; }
.figures div { border: 1px solid #dfe2e6; border-radius: 6px; padding: .5rem .7rem; }
.figures b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; } .figures span { color: #5a6069; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; } .scroll { overflow-x: auto; max-height: 34rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e6e8eb; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #fff; font-weight: 600; } td.text, th.text { text-align: left; }
td.wide { white-space: normal; min-width: 20rem; } .gain { color: #1a7f4b; } .loss { color: #b3261e; } .warn { color: #b3261e; font-weight: 600; }
"""


def write_report(results: Results, path: Path) -> None:
    """Write it whole."""
    import importlib

    javascript = importlib.import_module("plotly.offline").get_plotlyjs()

    body = [_head(results), _figures(results), "<h2>Equity</h2>", _equity(results), "<h2>By symbol</h2>", _symbols(results)]
    for symbol in results.prices:
        body += [f"<h2>{escape(symbol)}</h2>", _price(results, symbol)]
    body += ["<h2>Exits and refusals</h2>", _counts(results), "<h2>Trades</h2>", _trips(results.trips),
             "<h2>How orders were filled</h2>", _model(results)]
    title = f"Backtest {results.run_id}"
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><script>{javascript}</script></head><body>{''.join(body)}</body></html>",
        encoding="utf-8")


# ── words and figures ────────────────────────────────────────────────────────────────────────────────────────────────
def _moment(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"


def _signed(value: float) -> str:
    return f'<span class="{"gain" if value > 0 else "loss" if value < 0 else ""}">{value:+,.2f}</span>'


def _head(results: Results) -> str:
    files = ", ".join(escape(f"{name} ({symbol})") for name, symbol in results.sources)
    first, last = results.span_ns
    lines = [f"<h1>Backtest {escape(results.run_id)}</h1>",
             f'<p class="facts">{_moment(first)} to {_moment(last)} UTC · {escape(", ".join(results.strategies))} · seed {results.seed}<br>'
             f"{files}</p>"]
    for key, words in (("differences", "The books do not reconcile"), ("data_unread", "Not read to the end"), ("data_fault", "Faults in the data")):
        if texts := results.summary.get(key):
            lines.append(f'<p class="warn">{words}: {escape("; ".join(map(str, texts)))}</p>')
    return "".join(lines)


def _figures(results: Results) -> str:
    s = results.summary
    start, end = float(s["equity_start"]), float(s["equity_end"])
    figures = [
        ("return", f"{100 * (end / start - 1):+.3f} %" if start else "–"), ("equity at the end", f"{end:,.2f}"),
        ("realised P&L after fees", f"{float(s['realised_pnl']):+,.2f}"), ("fees", f"{float(s['fees']):,.2f}"),
        ("largest drawdown", f"{s['max_drawdown_pct']:.3f} %"), ("trades", f"{s['trades_closed']:,}"),
        ("win rate", "–" if s["win_rate"] is None else f"{100 * s['win_rate']:.1f} %"), ("fills", f"{s['fills']:,}"),
        ("ticks", f"{s['ticks_processed']:,}"), ("books reconcile", "yes" if s["reconciled"] else "NO")]
    return '<div class="figures">' + "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in figures) + "</div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[int] = (0,), wide: int = -1) -> str:
    """`rows` are HTML already; columns in `texts` stand left."""
    def kind(at: int) -> str:
        return ' class="text wide"' if at == wide else ' class="text"' if at in texts else ""

    heads = "".join(f"<th{kind(at)}>{escape(name)}</th>" for at, name in enumerate(head))
    body = "".join("<tr>" + "".join(f"<td{kind(at)}>{cell}</td>" for at, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _symbols(results: Results) -> str:
    return _table(("symbol", "trades", "wins", "P&L", "fees", "best", "worst", "held on average"), (
        (escape(row["symbol"]), f"{row['trades']:,}", f"{row['wins']:,}", _signed(row["pnl"]), f"{row['fees']:,.2f}", _signed(row["best"]),
         _signed(row["worst"]), f"{row['held_s']:,.0f} s") for row in by_symbol(results)))


def _counts(results: Results) -> str:
    rows = [(escape(name), f"{count:,}", what) for key, what in (("exit_reasons", "exit"), ("refusals", "refusal"))
            for name, count in sorted(results.summary[key].items(), key=lambda item: -item[1])]
    return _table(("reason", "count", "of"), rows, texts=(0, 2))


def _trips(trips: Sequence[Trip]) -> str:
    shown = trips[-MOST_TRIPS:]
    note = f"<p class='facts'>The last {len(shown)} of {len(trips):,}; trades.parquet has all.</p>" if len(trips) > len(shown) else ""
    return note + _table(("opened", "closed", "symbol", "strategy", "side", "size", "entry", "exit", "P&L", "fees", "exit by", "why it was opened"), (
        (_moment(trip.opened_ns), _moment(trip.closed_ns), escape(trip.symbol), escape(trip.strategy), trip.side, f"{trip.size:,.6g}",
         f"{trip.entry_price:,.8g}", f"{trip.exit_price:,.8g}", _signed(trip.pnl), f"{trip.fees:,.2f}", escape(trip.exit_reason), escape(trip.why))
        for trip in shown), texts=(0, 1, 2, 3, 4, 10), wide=11)


def _model(results: Results) -> str:
    paper = results.paper
    return (f"<p>By the paper venue's own code. An order is matched {paper['order_latency_ms']} ms of event time after it was sent. A market order "
            f"takes what is displayed at the touch, what is beyond it {paper['slippage_bps_per_touch']} bps worse for each displayed size; without "
            f"quotes it is filled {paper['half_spread_bps']} bps off the last price. A limit order waits behind all that is displayed at its price, "
            "until trades there have consumed it, the price is traded through, or the other side comes to it. Fees (maker / taker): spot "
            f"{paper['spot_maker_fee_bps']:g} / {paper['spot_taker_fee_bps']:g} bps, perpetuals {paper['perpetual_maker_fee_bps']:g} / "
            f"{paper['perpetual_taker_fee_bps']:g} bps.</p>")


# ── charts ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _chart(figure: Any, height: int) -> str:
    figure.update_layout(template="plotly_white", height=height, margin={"l": 60, "r": 20, "t": 20, "b": 40}, hovermode="x unified",
                         legend={"orientation": "h", "y": 1.08})
    figure.update_yaxes(tickformat=",.10~f")  # 61,850 and 0.0000123, not 61.85k and 12.3μ
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config={
        "displaylogo": False, "responsive": True,
        "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]})
    return html


def _plotly() -> Any:
    """Half a second's import, and its types say nothing of what it exports."""
    import importlib

    return importlib.import_module("plotly.graph_objects")


def _dates(times_ns: Any) -> Any:
    import numpy as np

    return np.asarray(times_ns, np.int64).astype("datetime64[ns]").astype("datetime64[ms]")


def _equity(results: Results) -> str:
    go = _plotly()
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.04)
    times = _dates(results.times)
    figure.add_trace(go.Scatter(x=times, y=results.equity, name="equity", line={"color": _BLUE, "width": 1.4}), 1, 1)
    figure.add_trace(go.Scatter(x=times, y=-results.drawdown_pct, name="drawdown, %", fill="tozeroy", line={"color": _RED, "width": 1}), 2, 1)
    figure.update_yaxes(title_text="USDT", row=1, col=1)
    figure.update_yaxes(title_text="drawdown, %", row=2, col=1)
    return _chart(figure, 460)


def _price(results: Results, symbol: str) -> str:
    go = _plotly()
    figure = go.Figure(go.Scatter(x=_dates(results.times), y=results.prices[symbol], name="price", line={"color": _GREY, "width": 1}, hoverinfo="y"))
    trips = [trip for trip in results.trips if trip.symbol == symbol]
    for side, mark, color in (("long", "triangle-up", _GREEN), ("short", "triangle-down", _RED)):
        found = [trip for trip in trips if trip.side == side]
        figure.add_trace(go.Scatter(
            x=_dates([trip.opened_ns for trip in found]), y=[trip.entry_price for trip in found], mode="markers", name=f"{side} entry",
            marker={"symbol": mark, "size": 9, "color": color}, text=[escape(f"{trip.strategy}: {trip.why}"[:160]) for trip in found],
            hovertemplate="%{y} %{text}<extra></extra>"))
    for gains, name, color in ((True, "exit with a gain", _GREEN), (False, "exit with a loss", _RED)):
        found = [trip for trip in trips if (trip.pnl > 0) == gains]
        figure.add_trace(go.Scatter(
            x=_dates([trip.closed_ns for trip in found]), y=[trip.exit_price for trip in found], mode="markers", name=name,
            marker={"symbol": "x", "size": 7, "color": color}, text=[escape(f"{trip.exit_reason} {trip.pnl:+.2f}") for trip in found],
            hovertemplate="%{y} %{text}<extra></extra>"))
    return _chart(figure, 380)
