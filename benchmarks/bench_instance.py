"""The former name of benchmarks/paper.py."""

from benchmarks.paper import COMPILE_PATIENCE_S, CONTROL_P99_MS, FIRST_TICK_S, PSS_MB, Instance, launcher, quantile

__all__ = ["COMPILE_PATIENCE_S", "CONTROL_P99_MS", "FIRST_TICK_S", "PSS_MB", "Instance", "launcher", "quantile"]
