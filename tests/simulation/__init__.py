"""The whole loop in one process, under seeds: `python -m tests.simulation --seeds N [--seed S]`.

What decides is the shipped code: the sniper's step and recovery, Armoury and Control, the Gateway with all it holds, the Recorder with its journal,
restore and salvage, the Watchdog with its policies. Simulated are only the clock, the processes (an object that is thrown away is a process that
died), the sockets between them, and the venue with its bad connection. A seed is a script, drawn before it begins; carrying it out takes no chance
and no time from outside, so it replays exactly.
"""
