"""Asking models: in their order, each behind its breaker, within the day's budget, with one repair of a bad reply, until one reply can be used.

| what happens                                        | class      | what follows                                                          |
|-----------------------------------------------------|------------|-----------------------------------------------------------------------|
| no key in the variable; 401, 403                    | fatal      | the model is not asked again in this run; the next one is             |
| 429, 503 with Retry-After                           | rate limit | the model is left alone for as long as it asks; the next one          |
| no connection, time-out, a connection that breaks   | network    | the next model; after `breaker_failures` it is left alone             |
| any other error of the endpoint                     | API        | the same                                                              |
| refusal, empty, cut off, packed, huge, no completion | data       | the same                                                              |
| a reply that is not what the contract says          | data       | it is told so once, and may answer again; then the same               |
| budget spent, deadline over                         |            | nothing is asked; the exchange says why                               |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from control.think.llm.briefing import clean
from control.think.llm.budget import Budget, Spent, cost_of, seconds_left, tokens_of, worst_of
from control.think.llm.config import Llm, Model
from control.think.llm.contract import BadReply, decode
from control.think.llm.exchange import Asking, Attempt, Exchange
from control.think.llm.prompt import Message, Prompt
from control.think.llm.wire import Answer, Cut, WireError, post
from hotpath.breaker import Breaker
from hotpath.errors import Decision, ErrorManager, Kind
from ipc import layout as l

#: characters of a reply that are kept: as it is recorded, and as the model is shown it again for its repair
REPLY_MOST, REPAIR_MOST = 100_000, 4_000
#: bytes that the repair of a reply adds to its prompt at most: the reply, in the longest encoding, and what is wrong with it
_REPAIR_BYTES = 4 * REPAIR_MOST + 2_000
#: with less left of the deadline no request is begun
_LEAST_S = 0.5
#: how long a model is not asked that is not asked again in this run
_NEVER_S = 86_400.0
#: how long one that has reached the contract's author is told of a model that refused
_SHOWN = 300


class Asked(NamedTuple):
    """An exchange, and what was decided about the models that failed or work again."""

    exchange: Exchange
    decisions: list[Decision]


class _Line:
    """One model: its key, and how it is getting on. The key is in no repr."""

    def __init__(self, number: int, model: Model, environment: Mapping[str, str], settings: Llm) -> None:
        self.model = model
        self.errors = ErrorManager(f"llm {number} {clean(model.model, 30)}",
                                   Breaker(settings.breaker_failures, settings.breaker_cooldown_s * 1_000_000_000))
        self.key, self.fault = "", ""
        if model.api_key_env:
            self.key = environment.get(model.api_key_env, "").strip()
            if not self.key:
                self.fault = f"the environment has no {model.api_key_env}; set it to the key"
            elif not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
                self.key, self.fault = "", f"{model.api_key_env} holds no key that can be sent; look for quotes and line ends in it"


class Client:
    """The models of a run, for every strategy in it that asks. `ask` waits, so it is called in a thread; `cut` makes it come back. Raises nothing."""

    def __init__(self, settings: Llm, environment: Mapping[str, str], spent: Spent | None = None,
                 clock_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._settings, self._clock_ns, self._wall_ns = settings, clock_ns, wall_ns
        self.budget = Budget(settings, spent)
        self._lines = [_Line(number, model, environment, settings) for number, model in enumerate(settings.models, 1)]
        self._cuts: set[Cut] = set()
        self._closed = False
        #: what was decided before a question was put: its answer tells it
        self._untold: list[Decision] = []
        self._lock = threading.Lock()

    @property
    def activities(self) -> list[ErrorManager]:
        """How each model is getting on, for the board."""
        return [line.errors for line in self._lines]

    def cut(self) -> None:
        """End what is under way, and ask nothing any more."""
        self._closed = True
        for cut in tuple(self._cuts):
            cut.now()

    def asking(self, prompt: Prompt, schema: dict[str, Any], briefing_ns: int = 0) -> Asking | Asked:
        """What asking may take at most: each model once, one of them twice, no more than is left of the day. Or, where none may be asked now, the
        exchange that says so."""
        question = _Question(self, prompt, schema, self._wall_ns())
        lines = [line for line in self._lines if question.may_come_to(line)]
        if not lines:
            return question.ended(None, briefing_ns)
        with self._lock:
            self._untold += question.decisions
        worst = [worst_of(line.model, question.size(line.model)) for line in lines]
        repairs = [worst_of(line.model, question.size(line.model) + _REPAIR_BYTES) for line in lines]
        tokens, cost = self.budget.within(sum(one for one, _ in worst) + max(one for one, _ in repairs),
                                          sum(one for _, one in worst) + max(one for _, one in repairs), question.wall_ns)
        return Asking(prompt_sha256=prompt.sha256, briefing_ns=briefing_ns, asked_wall_ns=question.wall_ns, tokens=tokens, cost=cost)

    def ask(self, prompt: Prompt, schema: dict[str, Any], briefing_ns: int = 0, asked_wall_ns: int = 0) -> Asked:
        """Ask one model after the other until a reply can be used, or the deadline is over. `asked_wall_ns` is that of its Asking."""
        question = _Question(self, prompt, schema, asked_wall_ns or self._wall_ns())
        with self._lock:
            question.decisions, self._untold = self._untold, []
        winner = next((attempt for line in self._lines if (attempt := question.put_to(line)) is not None), None)
        return question.ended(winner, briefing_ns)


class _Question:
    """One exchange under way."""

    def __init__(self, client: Client, prompt: Prompt, schema: dict[str, Any], wall_ns: int) -> None:
        self._client, self._prompt, self._schema = client, prompt, schema
        self._schema_bytes = len(msgspec.json.encode(schema))
        self._began_ns = client._clock_ns()
        self.wall_ns = wall_ns
        self.attempts: list[Attempt] = []
        self.decisions: list[Decision] = []
        self._may_repair = True

    def ended(self, winner: Attempt | None, briefing_ns: int) -> Asked:
        """The exchange as a whole. What nobody was sent is not kept."""
        attempts, asked = tuple(self.attempts), any(one.asked for one in self.attempts)
        failure = "" if winner else "; ".join(f"{one.model}: {one.error}" for one in attempts) or "no model is configured in [llm]"
        exchange = Exchange(
            prompt_sha256=self._prompt.sha256, messages=self._prompt.messages if asked else (), briefing_ns=briefing_ns, asked_wall_ns=self.wall_ns,
            failure=failure, latency_ms=self._elapsed_ns() // 1_000_000, tokens_in=sum(one.tokens_in for one in attempts),
            tokens_out=sum(one.tokens_out for one in attempts), cost=sum(one.cost for one in attempts), attempts=attempts,
            wait_s=0.0 if winner else round(min((self._wait_s(line) for line in self._client._lines), default=_NEVER_S), 3))
        if winner:
            exchange = msgspec.structs.replace(exchange, reply=winner.reply, model=winner.model, host=winner.host,
                                               finish_reason=winner.finish_reason)
        return Asked(exchange, self.decisions)

    def may_come_to(self, line: _Line) -> bool:
        """Whether this model may be asked, as far as that is known before; where not, an attempt says why."""
        if line.fault:
            return self._is_at_fault(line)
        if not self._fits(line, list(self._prompt.messages)):
            return False
        return not self._wait_s(line) or self._left_alone(line)

    def _wait_s(self, line: _Line) -> float:
        """For how long this model is not asked."""
        now_ns, breaker = self._client._clock_ns(), line.errors.breaker
        if line.fault or breaker.state == l.BREAKER_STOPPED:
            return _NEVER_S
        spent = self._client.budget.refusal(line.model, self.size(line.model), self.wall_ns)
        return max(breaker.pause_ns(now_ns) / 1e9, seconds_left(self._client._wall_ns()) if spent else 0.0)

    def _elapsed_ns(self) -> int:
        """Since it began."""
        return self._client._clock_ns() - self._began_ns

    def put_to(self, line: _Line) -> Attempt | None:
        """Ask one model; its attempt where the reply can be used."""
        messages = list(self._prompt.messages)
        if not self._may_ask(line, messages):
            return None
        attempt, failure = self._request(line, messages, repair=False)
        if failure is None and attempt.error and self._may_repair and self._fits(line, messages):
            self._may_repair = False
            messages += [Message("assistant", attempt.reply[:REPAIR_MOST]),
                         Message("user", f"That cannot be used: {attempt.error}. Answer again, with one JSON object as the contract says.")]
            attempt, failure = self._request(line, messages, repair=True)
        if not attempt.asked:
            return None
        now_ns = self._client._clock_ns()
        if not attempt.error:
            if (decision := line.errors.succeeded(now_ns)) is not None:
                self.decisions.append(decision)
            return attempt
        failure = failure or WireError(Kind.DATA, attempt.error)
        self.decisions.append(line.errors.failed(failure.kind, clean(attempt.error, _SHOWN), now_ns, pause_s=failure.pause_s))
        return None

    def _may_ask(self, line: _Line, messages: list[Message]) -> bool:
        """Whether a request may be made; where not, the attempt says why."""
        if line.fault:
            return self._is_at_fault(line)
        if not self._fits(line, messages):
            return False
        return line.errors.permits(self._client._clock_ns()) or self._left_alone(line)

    def _is_at_fault(self, line: _Line) -> bool:
        """It has no key. That is decided once."""
        if line.errors.breaker.state != l.BREAKER_STOPPED:
            self.decisions.append(line.errors.failed(Kind.FATAL, line.fault, self._client._clock_ns()))
        return self._not_asked(line, line.fault, Kind.FATAL)

    def _left_alone(self, line: _Line) -> bool:
        """Its breaker is open."""
        now_ns, breaker = self._client._clock_ns(), line.errors.breaker
        return self._not_asked(line, "not asked again in this run after a fatal failure" if breaker.state == l.BREAKER_STOPPED else
                               f"left alone for {breaker.pause_ns(now_ns) / 1e9:.0f} s after {breaker.failures} failures")

    def _fits(self, line: _Line, messages: list[Message]) -> bool:
        """Whether deadline and budget have room for a request."""
        if self._client._closed:
            return self._not_asked(line, "the program ends")
        if self._left_s() < _LEAST_S:
            return self._not_asked(line, f"llm.deadline_s = {self._client._settings.deadline_s} is over")
        refusal = self._client.budget.refusal(line.model, self.size(line.model, messages), self.wall_ns)
        return self._not_asked(line, refusal) if refusal else True

    def _not_asked(self, line: _Line, why: str, kind: str = "") -> bool:
        self.attempts.append(Attempt(model=line.model.model, host=line.model.host, asked=False, error=why, kind=kind))
        return False

    def _left_s(self) -> float:
        return self._client._settings.deadline_s - self._elapsed_ns() / 1e9

    def size(self, model: Model, messages: Sequence[Message] = ()) -> int:
        """Bytes that become tokens of the prompt; a schema does where the endpoint puts it there."""
        return (sum(len(message.content.encode()) for message in messages or self._prompt.messages)
                + self._schema_bytes * (model.json in ("schema", "strict")))

    def _request(self, line: _Line, messages: list[Message], repair: bool) -> tuple[Attempt, WireError | None]:
        """One request: its attempt, and the failure where there is no reply that could be judged. An error without a failure may be repaired."""
        client, model, size = self._client, line.model, self.size(line.model, messages)
        if refusal := client.budget.hold(model, size, self.wall_ns):  # somebody else was quicker
            self._not_asked(line, refusal)
            return self.attempts[-1], WireError(Kind.GENERAL, refusal)
        began_ns, timeout_s = client._clock_ns(), min(float(model.timeout_s), self._left_s())
        cut = Cut(timeout_s)
        client._cuts.add(cut)
        if client._closed:  # in between
            cut.now()
        answer, failure, error = None, None, ""
        try:
            answer = post(model, line.key, messages, self._schema, timeout_s, cut)
        except WireError as caught:
            failure = caught
        finally:
            client._cuts.discard(cut)
        if answer is not None:
            failure = _unusable(answer, model)
            error = "" if failure else _fault_of(answer.text, client._settings.most_conditions)
        tokens_in, tokens_out, estimated = self._tokens(model, messages, answer, failure)
        cost = cost_of(model, tokens_in, tokens_out)
        client.budget.settle(model, size, tokens_in + tokens_out, cost, self.wall_ns)
        attempt = Attempt(
            model=model.model, host=model.host, repair=repair, error=failure.text if failure else error,
            kind=str(failure.kind if failure else Kind.DATA if error else ""), finish_reason=answer.finish_reason if answer else "",
            reply=answer.text[:REPLY_MOST] if answer else "", latency_ms=(client._clock_ns() - began_ns) // 1_000_000,
            tokens_in=tokens_in, tokens_out=tokens_out, cost=cost, estimated=estimated)
        self.attempts.append(attempt)
        return attempt, failure

    def _tokens(self, model: Model, messages: list[Message], answer: Answer | None, failure: WireError | None) -> tuple[int, int, bool]:
        """(of the prompt, of the reply, whether they are estimated)."""
        known_in, known_out = (None, None) if failure is None else failure.tokens
        if answer is not None:
            known_in, known_out = answer.tokens_in, answer.tokens_out
        elif failure is not None and not failure.billed and known_in is known_out is None:
            return 0, 0, False
        # what it was doing when it failed nobody says, nor what it thought before it answered
        return (tokens_of(self.size(model, messages)) if known_in is None else known_in, model.max_tokens if known_out is None else known_out,
                known_in is None or known_out is None)


def _unusable(answer: Answer, model: Model) -> WireError | None:
    """Why an answer holds no reply: nothing that another word to the model would mend."""
    if answer.refusal or answer.finish_reason == "content_filter":
        return WireError(Kind.DATA, f"the model refuses to answer: {answer.refusal or 'content filter'}")
    if answer.finish_reason == "length":
        return WireError(Kind.DATA, f"the reply was cut off at max_tokens = {model.max_tokens}; raise it, or lower llm.most_conditions")
    if not answer.text.strip():
        return WireError(Kind.DATA, f"the reply is empty (finish_reason {answer.finish_reason or 'none'})")
    if len(answer.text) > REPLY_MOST:
        return WireError(Kind.DATA, f"the reply has {len(answer.text)} characters, more than {REPLY_MOST}")
    return None


def _fault_of(text: str, most: int) -> str:
    try:
        decode(text, most)
    except BadReply as bad:
        return str(bad)
    return ""
