"""Configuration: formats, what overrides what, every fault at once with its remedy, freqtrade's names, the template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control import freqtrade
from control.config import Config, Run, load
from control.faults import ConfigError, leaves
from control.template import template, toml
from control.think.llm.config import Llm, Model
from hotpath.config import Instrument, Limits

OVERRIDE = {"TRADER_LIMITS__MAX_OPEN_POSITIONS": "3"}


def write(folder: Path, text: str, name: str = "trader.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def faults_of(folder: Path, text: str, name: str = "trader.toml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text, name), environment={})
    return [str(fault) for fault in caught.value.faults]


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_without_a_file_everything_has_its_default() -> None:
    assert load(environment={}) == Config()


@pytest.mark.parametrize(("name", "text"), [
    ("a.toml", '[limits]\nmax_open_positions = 7\n[instruments."FOO/USDT"]\ntick_size = "0.01"\nlot_size = "1"\n'),
    ("a.json", '{"limits": {"max_open_positions": 7}, "instruments": {"FOO/USDT": {"tick_size": "0.01", "lot_size": "1"}}}'),
    ("a.yaml", "limits: {max_open_positions: 7}\ninstruments:\n  FOO/USDT: {tick_size: '0.01', lot_size: '1'}\n"),
    ("a.yml", "limits: {max_open_positions: 7}\ninstruments:\n  FOO/USDT: {tick_size: '0.01', lot_size: '1'}\n"),
])
def test_the_suffix_says_the_format(tmp_path: Path, name: str, text: str) -> None:
    config = load(write(tmp_path, text, name), environment={})
    assert config.limits.max_open_positions == 7
    assert config.instruments == {"FOO/USDT": Instrument(tick_size="0.01", lot_size="1")}


@pytest.mark.parametrize(("name", "text"), [("a.toml", ""), ("a.json", "{}"), ("a.yaml", "# nothing\n")])
def test_an_empty_file_is_the_defaults(tmp_path: Path, name: str, text: str) -> None:
    assert load(write(tmp_path, text, name), environment={}) == Config()


def test_the_environment_overrides_the_file_and_a_flag_overrides_both(tmp_path: Path) -> None:
    path = write(tmp_path, "[limits]\nmax_open_positions = 7\n[run]\nseed = 4\n")
    assert load(path, environment=OVERRIDE).limits.max_open_positions == 3
    assert load(path, {"limits.max_open_positions": "2", "run.seed": None}, OVERRIDE) == msgspec.structs.replace(
        Config(), limits=Limits(max_open_positions=2), run=Run(seed=4))


@pytest.mark.parametrize(("name", "text", "section", "value"), [
    ("RUN__SYMBOLS", "BTC/USDT, ETH/USDT", "run", ("BTC/USDT", "ETH/USDT")),
    ("RUN__SPEED", "max", "run", "max"), ("RUN__SPEED", "30", "run", 30.0), ("RUN__LOCKSTEP", "true", "run", True),
    ("LIMITS__DAILY_LOSS_BPS", "none", "limits", None), ("PAPER__INITIAL_BALANCE", "2.5e3", "paper", 2500.0),
])
def test_text_from_the_environment_becomes_its_fields_type(name: str, text: str, section: str, value: Any) -> None:
    config = load(environment={f"TRADER_{name}": text})
    assert getattr(getattr(config, section), name.rpartition("__")[2].lower()) == value


def test_variables_of_others_are_left_alone() -> None:
    assert load(environment={"TRADER_SHM": "/x", "TRADERS__X": "1", "HOME": "/"}) == Config()


def test_a_limit_may_be_taken_away_where_the_format_has_no_null(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[limits]\ndaily_loss_bps = "none"\n'), environment={}).limits.daily_loss_bps is None
    assert load(write(tmp_path, '{"limits": {"daily_loss_bps": null}}', "a.json"), environment={}).limits.daily_loss_bps is None


def test_each_process_gets_its_section_as_it_was_configured() -> None:
    sections = load(environment=OVERRIDE).sections()
    assert msgspec.json.decode(sections["limits"], type=Limits).max_open_positions == 3
    assert set(sections) == set(Config.__struct_fields__)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_fault_is_told_at_once_by_path_source_and_remedy(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, """
        [limits]
        max_open_positons = 3
        daily_loss_bps = 20000
        [paper]
        initial_balance = nan
        order_latency_ms = "fast"
        [run]
        speed = -1
        [instruments."FOO/USDT"]
        tick_size = 0.01
        [nonsense]
        """)
    assert [fault.partition(" ")[0].rstrip(":") for fault in faults] == [
        "limits.max_open_positons", "limits.daily_loss_bps", "paper.initial_balance", "paper.order_latency_ms", "run.speed",
        'instruments."FOO/USDT".tick_size', 'instruments."FOO/USDT".lot_size', "nonsense"]
    assert all("trader.toml" in fault for fault in faults)
    text = "\n".join(faults)
    for remedy in ("did you mean limits.max_open_positions?", 'a whole number from 0 to 10_000 or "none"', "a number above 0",
                   "a whole number from 0 to 60_000", 'or "max"', "give text", "is missing", "known here: run, limits"):
        assert remedy in text


@pytest.mark.parametrize(("text", "says"), [
    ("stop_bps = 3", "write it as strategy.stop_bps"),
    ("[paper]\nmax_open_positions = 3", "write it as limits.max_open_positions"),
    ("[paper]\nmax_open_positon = 3", "did you mean limits.max_open_positions?"),
    ("limits = 3", r"write \[limits\]"),
    ("instruments = 3", r'write \[instruments."NAME"\]'),
    ("[hotpath]\ntick_slots = 5000", "hotpath.tick_slots.*not a power of two; use 4096 or 8192"),
    ('[run]\nsymbols = ["BTC/USDT", "BTC/USDT"]', "run.symbols.*BTC/USDT is there more than once"),
    ("[supervise]\nbackoff_first_ms = 9000", "supervise.backoff_first_ms.*longer"),
    ("[strategy]\nstop_bps = 0\ntime_stop_s = 0", "strategy.*stop_bps"),
    ("[strategy]\ncandle_s = 7", "strategy.*candle_s"),
    ('[hotpath]\nwait_strategy = "busy"', 'hotpath.wait_strategy.*"adaptive"'),
    ('[run]\ninstance = "../x"', "run.instance"),
    ('[run]\nbegin = "2026-02-30"', "run.begin.*2026-02-30.*is no time; write now, 2026-01-05"),
    ('[run]\nbegin = "1812-06-24T05:00"', "run.begin.*1812.*is no time"),
    ('[run]\nbegin = "soon"', "run.begin.*'soon'.*UTC"),
])
def test_a_fault_says_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    assert re.search(says, "\n".join(faults_of(tmp_path, text)))


@pytest.mark.parametrize(("name", "text", "says"), [
    ("a.toml", "[limits\n", "not readable: .*line 1"), ("a.json", "{", "not readable"), ("a.json", "[1]", "not sections"),
    ("a.json", "[" * 100_000, "not readable"), ("a.yaml", "a: [", "not readable"), ("a.yaml", "- 1", "not sections"),
    ("a.ini", "", "suffix"),
])
def test_a_file_that_is_no_configuration_is_named_with_the_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    (fault,) = faults_of(tmp_path, text, name)
    assert name in fault
    assert re.search(says, fault)


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*config template"):
        load(tmp_path / "gone.toml", environment={})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "binary.toml", environment={})


def test_a_fault_of_the_environment_or_of_a_flag_names_it() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"run.seed": "x"}, {"TRADER_LIMITS__MAX_POSITIONS": "3", "TRADER_PAPER__ORDER_LATENCY_MS": "soon"})
    text = str(caught.value)
    assert "(from --seed)" in text
    assert "(from TRADER_LIMITS__MAX_POSITIONS)" in text
    assert "(from TRADER_PAPER__ORDER_LATENCY_MS)" in text


# ── freqtrade ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("key", "value", "ours"), [
    ("stoploss", -0.1, "strategy.stop_bps = 1000"), ("max_open_trades", 4, "limits.max_open_positions = 4"),
    ("max_open_trades", -1, "limits.max_open_positions ("), ("stake_amount", 250, "strategy.size_bps = 250"),
    ("stake_amount", "unlimited", "strategy.size_bps ("), ("minimal_roi", {"60": 0.01, "0": 0.04}, "strategy.target_bps = 400"),
    ("dry_run_wallet", 1000, "paper.initial_balance = 1000"), ("dry_run_wallet", {"USDT": 500}, "paper.initial_balance = 500"),
    ("timeframe", "5m", "strategy.candle_s = 300"), ("trailing_stop", False, "strategy.trail_distance_bps = 0"),
    ("trailing_stop", True, "strategy.trail_distance_bps ("), ("trailing_stop_positive", 0.012, "strategy.trail_distance_bps = 120"),
    ("trailing_stop_positive_offset", 0.02, "strategy.trail_activation_bps = 200"), ("strategy", "MyClass", "run.strategies"),
    ("fee", 0.0025, "paper.spot_taker_fee_bps = 25 (ratio × 10 000, which strategies count with, too"),
    ("pair_whitelist", ["BTC/USDT"], 'run.symbols = ["BTC/USDT"]'), ("stoploss", "tight", "strategy.stop_bps ("),
])
def test_freqtrades_names_are_answered_with_ours_and_the_conversion(tmp_path: Path, key: str, value: Any, ours: str) -> None:
    (fault,) = faults_of(tmp_path, json.dumps({key: value}), "config.json")
    assert fault.startswith(f"{key} ")
    assert "freqtrade" in fault
    assert f"write {ours}" in fault


def test_every_name_that_freqtrades_are_answered_with_exists() -> None:
    ours = {path for path, _ in leaves(Config)}
    assert {word.path for word in freqtrade.WORDS.values()} - {""} <= ours


# ── template ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_template_loads_as_the_defaults_commented_out_or_not(tmp_path: Path) -> None:
    text = template()
    assert load(write(tmp_path, text), environment={}) == Config()
    uncommented = re.sub(r"^#(?=[a-z_]+ = )", "", text.partition("#[instruments")[0], flags=re.MULTILINE)
    assert len(uncommented) < len(text)
    assert load(write(tmp_path, uncommented), environment={}) == Config()


def test_the_template_names_and_explains_every_option() -> None:
    lines = template().splitlines()
    for path, _ in leaves(Config):
        name = path.rpartition(".")[2]
        (place, *_) = [number for number, line in enumerate(lines) if line.startswith(f"#{name} = ")]
        assert re.match(r"# \S.*: ", lines[place - 1]), f"{path} is not explained: give its type a Meta(description=…)"


def test_the_template_has_an_example_of_each_list_of_tables() -> None:
    example = template().partition("#[[llm.models]]")[2]
    for field in Model.__struct_fields__:
        assert re.search(rf"^#{field} = .*   # \S", example, re.MULTILINE), field


# ── lists of tables ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_models_of_an_llm_are_tables_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, """
        [llm]
        on_failure = "rules"
        [[llm.models]]
        base_url = "https://api.openai.com/v1"
        model = "a"
        api_key_env = "OPENAI_API_KEY"
        json = "strict"
        temperature = "none"
        [[llm.models]]
        base_url = "http://127.0.0.1:8080/v1"
        model = "b"
        """)
    llm = load(path, environment={"TRADER_LLM__TOKENS_PER_DAY": "5"}).llm
    assert [(one.model, one.json, one.temperature) for one in llm.models] == [("a", "strict", None), ("b", "schema", None)]
    assert (llm.on_failure, llm.tokens_per_day, llm.models[0].host) == ("rules", 5, "api.openai.com")
    assert msgspec.json.decode(load(path, environment={}).sections()["llm"], type=Llm).models == llm.models


def test_every_fault_of_every_table_is_told_and_no_value_that_may_be_a_secret(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, """
        [llm]
        on_failure = "pray"
        [[llm.models]]
        base_url = "https://me:SECRET@host/v1"
        model = "a"
        [[llm.models]]
        base_url = "http://host/v1"
        model = 3
        api_key = "SECRET"
        timeout_s = 0
        [[llm.models]]
        base_url = "http://host/v1"
        model = "c"
        api_key_env = "SECRET-1"
        """)
    assert [fault.partition(" ")[0] for fault in faults] == [
        "llm.on_failure", "llm.models[0].base_url", "llm.models[1].model", "llm.models[1].api_key", "llm.models[1].timeout_s",
        "llm.models[2].api_key_env"]
    text = "\n".join(faults)
    assert "SECRET" not in text
    for remedy in ("into an environment variable", "did you mean llm.models[1].api_key_env?", "a whole number from 1 to 600", "never the key"):
        assert remedy in text


@pytest.mark.parametrize("text", ['models = "SECRET"', 'models = ["SECRET"]', "models = 3", "[llm.models]\nbase_url = 'SECRET'"])
def test_a_list_of_tables_that_is_none_is_told_without_its_value(tmp_path: Path, text: str) -> None:
    (fault,) = faults_of(tmp_path, f"[llm]\n{text}\n")
    assert "write [[llm.models]]" in fault
    assert "SECRET" not in fault


def test_there_is_an_end_to_models_and_the_environment_names_none(tmp_path: Path) -> None:
    table = "[[llm.models]]\nbase_url = 'http://host/v1'\nmodel = 'm'\n"
    assert faults_of(tmp_path, table * 9)[0].partition(": ")[2] == "has 9 tables; give at most 8"
    with pytest.raises(ConfigError, match=r"write \[\[llm.models\]\]"):
        load(environment={"TRADER_LLM__MODELS": "a, b"})


@pytest.mark.parametrize(("value", "text"), [
    (None, '"none"'), (True, "true"), (131072, "131_072"), (1.5, "1.5"), ("a", '"a"'), (("a", "b"), '["a", "b"]'), ((), "[]")])
def test_values_are_written_as_toml(value: Any, text: str) -> None:
    assert toml(value) == text
