"""Another Prism behind a password: with its token it answers as without; with another one it says so, in one line."""

import threading
from collections.abc import Iterator

import pytest

from backend.contracts import AttributionRequest
from backend.entrance import Entrance
from backend.errors import NotAvailable
from backend.images import encode_png
from backend.remote import Connection, RemoteService
from backend.service import LocalService
from tests.helpers import random_images
from tests.helpers_service import CountingLibrary, service_with
from tests.served import api_app, served

PICTURE = encode_png(random_images(12, 12, 1).numpy())


@pytest.fixture(scope="module")
def engine() -> LocalService:
    return service_with(CountingLibrary())


@pytest.fixture(scope="module")
def url(engine) -> Iterator[str]:
    with served(api_app(engine, entrance=Entrance("sesame"))) as url:
        yield f"{url}/api"


def test_with_the_token_results_and_steps_come(url, engine):
    service, steps = RemoteService(Connection(url, "sesame")), []
    request = AttributionRequest(service.put_image(PICTURE).id, "tiny", "ig")
    there, here = service.run(request, steps.append, session="me.page"), engine.run(request)
    assert (there.arrays["attribution"] == here.arrays["attribution"]).all()
    assert [status.spec.key for status in service.models()] == ["tiny"] and service.status().problems == ()


# The last one: after tries in vain this address has to wait.
@pytest.mark.parametrize(("token", "sentence"), [("", "asks for a token"), ("open", "does not take the token")])
def test_without_it_there_is_one_sentence_however_often_it_is_asked(url, token, sentence):
    service = RemoteService(Connection(url, token, pauses_s=(0.05,)))
    request = AttributionRequest("0" * 64, "tiny", "ig")
    asks = (
        lambda: service.put_image(PICTURE),
        service.models,
        lambda: service.run(request),
        lambda: service.run(request),
    )
    for ask in asks:
        with pytest.raises(NotAvailable, match=sentence) as caught:
            ask()
        assert "PRISM_BACKEND_TOKEN" in caught.value.sentence and "open" not in caught.value.sentence
        threading.Event().wait(0.1)
    assert sentence in service.status().problems[0]
