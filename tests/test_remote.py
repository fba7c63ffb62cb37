"""Another Prism as engine: a real second process on loopback answers as this one does, goes away, and comes back."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save

from backend import remote
from backend.contracts import (
    AttributionRequest,
    BlockTableRequest,
    DecodingRequest,
    FaithfulnessRequest,
    ImagePathRequest,
    PairMapRequest,
    PairScoreRequest,
    PathRequest,
    PredictionRequest,
    RecordRequest,
    ReportMapsRequest,
    Result,
    ShapeFunctionsRequest,
    Step,
    SupportRequest,
    digest,
)
from backend.errors import BadInput, Cancelled, NotAvailable, Superseded
from backend.images import encode_png
from backend.jobs import ENDED
from backend.models import networks
from backend.remote import Connection, RemoteJobs, RemoteService
from backend.runtime import Runtime
from backend.service import LocalService
from tests.conftest import await_app, free_port, start_app
from tests.helpers_service import Asker, untimed
from tests.waiting import wait_until

STROKES = np.zeros((28, 28, 1))
STROKES[4:24, 12:16] = 1.0
PICTURE = encode_png(STROKES)
IMAGE = digest(PICTURE)
MAP = AttributionRequest(IMAGE, "digits-gap", "samp++", target=1)
EVERYTHING = ("black", "blur:1", "blur:2", "blur:3", "grey", "mean", "noise", "white")
SLOW = AttributionRequest(IMAGE, "digits-gap", "rise", target=1, baseline=EVERYTHING, params=(("samples", 20_000),))
PAIR = {"model": "cxr-clip", "params": (("n_steps", 2), ("samples", 1))}


@dataclass
class Server:
    """A second Prism that can be killed and started again at the same address."""

    home: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        self.process = start_app(self.home, self.port, OMP_NUM_THREADS="1", PRISM_DEVICE="cpu")
        await_app(self.process, self.home, self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), free_port())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def connection(server) -> Connection:
    return Connection(server.url)


@pytest.fixture(scope="module")
def service(connection) -> RemoteService:
    service = RemoteService(connection)
    service.put_image(PICTURE)
    return service


@pytest.fixture(scope="module")
def here(one_thread) -> LocalService:
    """An engine in this process, on as many threads as the server."""
    service = LocalService(Runtime("cpu"))
    service.put_image(PICTURE)
    return service


def flights(connection: Connection) -> int:
    return connection.call("/status")["flights"]


@pytest.mark.parametrize(
    "request_",
    [
        PredictionRequest(IMAGE, "digits-gap"),
        MAP,
        replace(MAP, method="rise", params=(("samples", 300),), baseline=("black", "white"), seed=3),
        FaithfulnessRequest((MAP, replace(MAP, method="ig")), steps=5),
        PathRequest(MAP, frames=3),
        PairMapRequest(IMAGE, "There is a large right pleural effusion.", **PAIR),
        ReportMapsRequest(IMAGE, ("No effusion.", "A nodule."), modality="text", **PAIR),
        PairScoreRequest(IMAGE, ("No effusion.",)),
        ShapeFunctionsRequest("squares", points=5),
        ImagePathRequest("squares", rows=(0, 1), frames=9),
        ImagePathRequest("squares", image_ids=(IMAGE, IMAGE), frames=9),
        RecordRequest("squares", row=2),
        DecodingRequest("balls-l-additive", grid=(2, 3)),
        BlockTableRequest("balls-l-additive", size=3),
        SupportRequest(n=10),
    ],
    ids=lambda request: f"{request.kind}.{getattr(request, 'method', '')}",
)
def test_answers_equal_those_computed_here_bit_for_bit(service, here, request_):
    theirs, ours = service.run(request_), here.run(request_)
    assert untimed(theirs) == untimed(ours)
    assert theirs.request == ours.request and theirs.provenance.forward_passes == ours.provenance.forward_passes
    assert {n: a.tobytes() for n, a in theirs.arrays.items()} == {n: a.tobytes() for n, a in ours.arrays.items()}


def test_steps_and_maps_on_their_way_come_along(service):
    steps: list[Step] = []
    with pytest.raises(Cancelled):
        service.run(SLOW, lambda step: _leave_after_two_maps(steps, step))
    maps = _distinct(step.partial for step in steps)
    assert len(maps) >= 2 and all(isinstance(partial, Result) for partial in maps)
    assert steps[-1].total >= steps[-1].done > 0


def _leave_after_two_maps(steps: list[Step], step: Step) -> None:
    steps.append(step)
    if len(_distinct(step.partial for step in steps)) >= 2:
        raise Cancelled


def _distinct(partials) -> list:
    found: list = []
    for partial in partials:
        if partial is not None and all(partial is not other for other in found):
            found.append(partial)
    return found


def test_leaving_stops_the_work_on_the_server(service, connection):
    def leave(step: Step) -> None:
        if step.done:
            raise RuntimeError("the page runs again")

    with pytest.raises(RuntimeError):
        service.run(replace(SLOW, seed=1), leave)
    wait_until(lambda: flights(connection) == 0)


def test_cancel_and_latest_wins_hold_for_each_visitor(service, connection):
    def ask(session: str, seed: int) -> Asker:
        return Asker(service, replace(SLOW, seed=seed), session)

    older, other = ask("me.page", 11), ask("you.page", 12)
    wait_until(lambda: flights(connection) == 2)
    newer = ask("me.page", 13)
    older.join(30)
    assert type(older.error) is Superseded
    assert newer.is_alive() and other.is_alive()
    for asker in (newer, other):
        service.cancel(asker.session)
        asker.join(30)
        assert isinstance(asker.error, Cancelled)
    wait_until(lambda: flights(connection) == 0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"target": 77}, "target"), ({"method": "nothing"}, "method"), ({"image_id": "0" * 64}, "image")],
)
def test_errors_keep_class_sentence_and_field(service, here, changes, field):
    told = []
    for engine in (service, here):
        with pytest.raises(BadInput) as caught:
            engine.run(replace(MAP, **changes))
        told.append((type(caught.value), caught.value.sentence, caught.value.field))
    assert told[0] == told[1] and told[0][2] == field


def test_a_picture_that_is_none_is_refused_as_here(service):
    with pytest.raises(BadInput, match="not a PNG"):
        service.put_image(b"no picture")


def test_models_and_status_are_the_servers(service, here):
    assert [status.spec for status in service.models()] == [status.spec for status in here.models()]
    assert "digits-gap" in service.status().loaded and service.status().problems == ()


def test_a_model_of_ones_own_goes_there_and_away_again(service, monkeypatch):
    monkeypatch.setattr(remote, "PART_BYTES", 50_000)  # more than one part
    weights = save({name: tensor for name, tensor in networks.build("lenet-gap", 10, 1).state_dict().items()})
    fields = {
        "key": "mine", "architecture": "prism:lenet-gap", "labels": [str(i) for i in range(10)],
        "input_size": [28, 28], "channels": "L", "mean": [0.0], "std": [1.0], "value_range": [0.0, 1.0],
    }  # fmt: skip
    with pytest.raises(BadInput, match="labels"):
        service.add_model({**fields, "labels": ["a"]}, weights)
    spec = service.add_model(fields, weights)
    assert spec in [status.spec for status in service.models()]
    assert service.run(PredictionRequest(IMAGE, "mine")).values["top"]
    service.remove_model("mine")
    assert "mine" not in [status.spec.key for status in service.models()]
    with pytest.raises(BadInput):
        service.remove_model("digits-gap")


def test_jobs_run_there(connection):
    queue = RemoteJobs(connection)
    args = {"family": "additive_decoding", "model": "balls-l-additive", "seeds": 1, "n": 20}
    job = queue.submit("evaluate", args)
    steps: list[Step] = []
    result = queue.attach(job, steps.append)
    assert result["model"] == "balls-l-additive" and queue.result(job) == result
    status = queue.status(job)
    assert status in queue.list() and (status.state, status.args) == ("done", args)
    assert queue.read_file(job, "preview.npz") is None
    queue.cancel(job)  # of a job that has ended: nothing happens
    queue.forget(job)
    with pytest.raises(BadInput, match="no job"):
        queue.status(job)


def test_a_running_job_is_cancelled_there(connection):
    queue = RemoteJobs(connection)
    recipe = {"base": "live", "kind": "additive", "support": "l", "scene": {}}
    job = queue.submit("train", {"name": "live", "family": "additive_decoding", "seed": 0, "recipe": recipe})
    wait_until(lambda: queue.status(job).state == "running")
    with pytest.raises(BadInput, match="running"):
        queue.forget(job)
    queue.cancel(job)
    wait_until(lambda: queue.status(job).state in ENDED)
    with pytest.raises(Cancelled):
        queue.attach(job)


@pytest.mark.parametrize("url", ["server:8501", "ftp://server/api", "", "http://"])
def test_an_address_that_cannot_be_is_refused(url):
    with pytest.raises(BadInput, match="PRISM_BACKEND_URL"):
        Connection(url)


def test_nobody_there_is_one_sentence_and_soon_told():
    service = RemoteService(Connection(f"http://someone:secret@127.0.0.1:{free_port()}/api", pauses_s=(0.05,)))
    assert service.put_image(PICTURE).id == IMAGE  # kept, and sent when somebody is there
    for ask in (lambda: service.run(MAP), service.models):
        with pytest.raises(NotAvailable, match="does not answer") as caught:
            ask()
        assert "secret" not in caught.value.sentence
    assert "does not answer" in service.status().problems[0]


# The last one: it kills the server that the others share.
def test_a_server_that_goes_away_and_comes_back(server, service):
    models, asker = service.models(), Asker(service, replace(SLOW, seed=2))
    wait_until(lambda: asker.messages and asker.messages[-1])
    server.kill()
    asker.join(40)
    assert isinstance(asker.error, NotAvailable) and "does not answer" in asker.error.sentence
    assert any("try 2 of" in message for message in asker.messages)
    other = service.put_image(encode_png(STROKES.transpose(1, 0, 2))).id
    assert service.models() == models  # what was known of it is still told
    assert "does not answer" in service.status().problems[0]
    server.start()
    wait_until(lambda: not service.status().problems)
    assert service.run(MAP).values["target"] == 1  # its picture was put in again by itself
    assert service.run(PredictionRequest(other, "digits-gap")).values["top"]
