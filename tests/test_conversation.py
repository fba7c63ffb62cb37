"""Steps and answer of work in a thread, as messages: few steps, and the answer as soon as it is there."""

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from backend import conversation
from backend.contracts import PredictionRequest, Provenance, Result, Step
from backend.conversation import Conversation
from backend.errors import BadInput

ANSWER = Result(
    request=PredictionRequest("id", "model"),
    arrays={"logits": np.zeros(3, np.float32)},
    values={},
    unit="logit",
    provenance=Provenance("digest", "CPU", "float32"),
)


def messages_of(work: Callable[[Callable[[Step], None]], Result]) -> list[dict]:
    """In a loop of its own thread: this one may have a browser's."""
    found: list[dict] = []

    async def collect() -> None:
        async for message in Conversation(work, threading.Event()).messages():
            found.append(message)

    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(collect())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
    return found


def test_an_answer_does_not_wait_until_a_step_is_due(monkeypatch):
    monkeypatch.setattr(conversation, "BETWEEN_STEPS_S", (60.0, 60.0))

    def work(on_step):
        on_step(Step(1, 2))
        return ANSWER

    (message,) = messages_of(work)  # nor is a step told that is over before anybody could see it
    assert message["step"] is None and message["answer"]["manifest"]["unit"] == "logit"


def test_only_the_newest_of_many_steps_is_told(monkeypatch):
    monkeypatch.setattr(conversation, "BETWEEN_STEPS_S", (0.05, 0.1))

    def work(on_step):
        for done in range(200):
            on_step(Step(done, 200))
            time.sleep(0.002)
        return ANSWER

    *steps, last = messages_of(work)
    told = [message["step"]["done"] for message in steps]
    assert 1 <= len(told) < 50 and told == sorted(set(told))
    assert last["answer"] is not None


def test_an_error_is_raised_where_the_messages_are_read():
    def work(on_step):
        raise BadInput("wrong", "target")

    with pytest.raises(BadInput, match="wrong"):
        messages_of(work)
