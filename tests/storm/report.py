"""What a storm has found: as a document, in words, and in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from operator import itemgetter
from statistics import median
from typing import Any

from tests.storm import sight as phases
from tests.storm.aim import POINT, SAMPLE, Shot
from tests.storm.run import BOUND_S, HARD, REPLAY, RESPAWN_S, SHIPPED_BOUND_S, SIMULATED, Result
from tests.storm.watch import OVERDUE

#: least share of the kills that hit where they were aimed (HARD) in each busy phase of the targets, and with an order in flight
BUSY_SHARE, IN_FLIGHT_SHARE = 0.05, 0.30
#: how a role ends by each signal; one that is told to stop first waits for those who stop before it
_ENDS = {"KILL": "death", "SEGV": "death", "STOP": "hang", "TERM": "stop"}
#: where kills were done, in words
_MARKETS = {REPLAY: "recorded data, a replay at a paced speed", SIMULATED: "SIMULATED MARKET, a paper instance that syncs"}
#: findings that are printed of a pass
_MOST_TOLD = 20


def hits(result: Result) -> list[Shot]:
    """Kills that hit a process where it stood."""
    return [shot for shot in result.shots if shot.signal in HARD]


def not_seen(result: Result) -> list[str]:
    """Points at which memory showed another phase than the one that they stand for."""
    return [f"{shot.point}: {shot.seen}" for shot in result.shots
            if shot.by == POINT and shot.seen not in phases.SEEN_AT.get(shot.point, (shot.phase,))]


def short_of(result: Result) -> list[str]:
    """What the kills did not cover, in words: without it "nothing was found" says little."""
    hit, short = hits(result), []
    if len(result.shots) < result.kills:
        short.append(f"{len(result.shots)} of {result.kills} kills were done")
    met = Counter(shot.phase for shot in hit)
    for phase, role in phases.ROLE_OF.items():
        if role in result.targets and met[phase] < BUSY_SHARE * len(result.shots):
            short.append(f"{met[phase]} kills in {phase} are less than {BUSY_SHARE:.0%}")
    flying = sum(1 for shot in hit if shot.in_flight)
    if flying < IN_FLIGHT_SHARE * len(result.shots):
        short.append(f"{flying} kills with an order in flight are less than {IN_FLIGHT_SHARE:.0%}")
    if strange := not_seen(result):
        short.append(f"at {len(strange)} points memory shows another phase ({'; '.join(sorted(set(strange)))})")
    return short


def holds(result: Result) -> bool:
    """Whether all holds."""
    return not result.failure and not any(one.findings for one in result.passes) and not short_of(result)


def document(result: Result) -> dict[str, Any]:
    """Everything, for --json."""
    figures, hit = Counter[str](), hits(result)
    for one in result.passes:
        figures.update(one.figures)
    recoveries: dict[str, list[float]] = {}
    for shot in result.shots:
        if shot.recovery_ms is not None:
            recoveries.setdefault(f"{shot.target} {_ENDS[shot.signal]}", []).append(shot.recovery_ms)
    return {
        "seed": result.seed, "kills": len(result.shots), "wanted": result.kills, "targets": result.targets, "signals": result.signals,
        "markets": {name: sum(shot.market == name for shot in result.shots) for name in _MARKETS},
        "wall_s": round(result.wall_s, 1), "passes": len(result.passes),
        "hits": len(hit), "obeyed": len(result.shots) - len(hit),
        "phases": {phase: {"kills": sum(shot.phase == phase for shot in hit),
                           **{by: sum(shot.phase == phase and shot.by == by for shot in hit) for by in (SAMPLE, POINT)}}
                   for phase in phases.PHASES},
        "by_target": dict(Counter(shot.target for shot in result.shots)), "by_signal": dict(Counter(shot.signal for shot in result.shots)),
        "aimed_elsewhere": sum(shot.phase != shot.wanted for shot in result.shots if shot.wanted != phases.IDLE),
        "points_not_seen": not_seen(result),
        "in_flight": sum(1 for shot in hit if shot.in_flight),
        "recovery_ms": {name: {"count": len(values), "median": round(median(values)), "most": round(max(values))}
                        for name, values in sorted(recoveries.items())},
        "unplanned_restarts": sum(one.unplanned for one in result.passes),
        "figures": dict(figures), "bound_s": result.bound_s,
        "longest_unwatched_s": round(max((one.unwatched_s for one in result.passes), default=0.0), 3),
        "longest_overdue_s": {kind: round(max((one.overdue_s[kind] for one in result.passes), default=0.0), 3) for kind in OVERDUE},
        "looks": sum(one.looks for one in result.passes), "looks_at_an_open_position": sum(one.looks_at_open for one in result.passes),
        "findings": [{"pass": number, **finding._asdict()} for number, one in enumerate(result.passes, 1) for finding in one.findings],
        "failure": result.failure, "short_of": short_of(result), "shots": [asdict(shot) for shot in result.shots], "holds": holds(result),
    }


def words(result: Result) -> list[str]:
    """The report for people; its last line is the verdict."""
    told = document(result)
    lines = [f"{told['markets'][name]} kills on {what}" for name, what in _MARKETS.items() if told["markets"][name]]
    lines += [f"{told['kills']} kills in {told['passes']} passes, {told['wall_s']:g} s, seed {result.seed}"]
    lines += [f"  {phase:<9}{met['kills']:>5} kills  ({met[SAMPLE]} met by sampling, {met[POINT]} by point)" for phase, met in told["phases"].items()]
    lines += [f"  TERM {told['obeyed']:>9} kills  (obeyed in their own time, in no phase of these)"] if told["obeyed"] else []
    lines += [f"  an order in flight: {told['in_flight']} ({told['in_flight'] / max(1, told['hits']):.0%}); "
              f"not met where aimed: {told['aimed_elsewhere']}; "
              f"restarts that nobody asked for: {told['unplanned_restarts']}; points at which memory shows another phase: "
              f"{len(told['points_not_seen'])}",
              "  by target: " + ", ".join(f"{name} {count}" for name, count in sorted(told["by_target"].items())),
              "  by signal: " + ", ".join(f"{name} {count}" for name, count in sorted(told["by_signal"].items()))]
    lines += [f"  back after {name}: median {one['median']} ms, at most {one['most']} ms ({one['count']})"
              for name, one in told["recovery_ms"].items()]
    kind, overdue_s = max(told["longest_overdue_s"].items(), key=itemgetter(1))
    overdue = f"{overdue_s} s overdue" + (f" ({kind})" if overdue_s else "")
    lines += ["  checked: " + ", ".join(f"{count:,} {name}" for name, count in told["figures"].items()),
              f"  longest without protection: {told['longest_unwatched_s']} s unwatched, {overdue} "
              f"(bound {result.bound_s:g} s; {told['looks_at_an_open_position']:,} of {told['looks']:,} looks at an open position)",
              f"  the bound is the longest heartbeat limit of sniper, gateway, feed and recorder, and {RESPAWN_S:g} s: {BOUND_S:g} s with the limits "
              f"here, {SHIPPED_BOUND_S:g} s with those that are shipped"]
    for number, one in enumerate(result.passes, 1):
        lines += [f"  pass {number}: {finding.rule}: {finding.text}" for finding in one.findings[:_MOST_TOLD]]
        if len(one.findings) > _MOST_TOLD:
            lines.append(f"  pass {number}: … and {len(one.findings) - _MOST_TOLD} more")
    lines += [f"  {text}" for text in told["short_of"]]
    if result.failure:
        lines.append(f"  {result.failure}")
    return [*lines, verdict(result)]


def verdict(result: Result) -> str:
    """One line."""
    broken = sum(len(one.findings) for one in result.passes)
    figures: Counter[str] = Counter()
    for one in result.passes:
        figures.update(one.figures)
    if holds(result):
        return (f"HOLDS: {len(result.shots)} kills, {figures['entries'] + figures['exits']:,} orders, {figures['fills']:,} fills; "
                "nothing lost, nothing twice, nothing left")
    causes = [f"{broken} promises broken"] if broken else []
    causes += ["the storm could not go on"] if result.failure else []
    causes += short_of(result)
    return f"BROKEN: {'; '.join(causes)} (seed {result.seed})"
