"""A real cluster of two replicas on loopback: answers as here, and none lost when a replica is killed."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from backend import doctor, engines
from backend.cluster import environment
from backend.cluster.connection import ClusterConnection
from backend.cluster.connector import join_rows
from backend.cluster.settings import ClusterSettings
from backend.contracts import (
    AttributionRequest,
    DecodingRequest,
    FaithfulnessRequest,
    PredictionRequest,
    digest,
)
from backend.errors import BadInput, Busy, Cancelled, NotAvailable, Superseded
from backend.images import encode_png
from backend.remote import RemoteService
from backend.runtime import Runtime
from backend.service import LocalService
from tests.conftest import ROOT, free_port
from tests.helpers_service import Asker, untimed
from tests.waiting import wait_until

START_S = 240.0
pytestmark = pytest.mark.timeout(600)  # the first test starts the cluster; on a machine with much to do that takes long


def picture(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).random((28, 28, 1)))


PICTURE = picture(7)
IMAGE = digest(PICTURE)
MAP = AttributionRequest(IMAGE, "digits-gap", "samp++", target=1)
SLOW = replace(MAP, method="rise", params=(("samples", 20_000),))


class Cluster:
    """`python -m backend serve` as a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.log = home, home / "serve.log"
        self.start()

    def start(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "backend", "serve", "--replicas", "2", "--port", self.address.split(":")[1]]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=settings(self.home)
            )

    def await_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while "ready; start the pages" not in self.log.read_text():
            assert time.monotonic() < deadline, f"the cluster did not start: {self.log.read_text()[-2000:]}"
            if self.process.poll() is not None:
                assert "too much to do" in self.log.read_text(), f"the cluster ended: {self.log.read_text()[-2000:]}"
                self.start()
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self, deployment: str = "replica") -> list[psutil.Process]:
        """Processes of replicas that live; of the engine, or of the board."""
        mark = f"ServeReplica:prism:{deployment}"
        return [process for process in self.processes() if mark in " ".join(command_of(process))]

    def stop(self) -> None:
        processes = self.processes() if self.process.poll() is None else []
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        for process in [*processes, self.process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty if it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def settings(home: Path) -> dict[str, str]:
    return {**os.environ, "PRISM_HOME": str(home), "OMP_NUM_THREADS": "1", "PRISM_DEVICE": "cpu"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cluster(home) -> Iterator[Cluster]:
    cluster = Cluster(home)
    try:
        cluster.await_ready()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def service(cluster, home) -> Iterator[RemoteService]:
    """As the pages have it: chosen by the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRISM_HOME", str(home))
        patch.setenv("PRISM_CLUSTER", cluster.address)
        service = engines.service()
        service.put_image(PICTURE)
        yield service
        service.connection.close()
        engines._cluster.cache_clear()


@pytest.fixture(scope="module")
def here(one_thread) -> LocalService:
    """An engine in this process, on as many threads as a replica."""
    service = LocalService(Runtime("cpu"))
    service.put_image(PICTURE)
    return service


# ----------------------------------------------------------------- as here
@pytest.mark.parametrize(
    "request_",
    [
        PredictionRequest(IMAGE, "digits-gap"),
        MAP,
        replace(MAP, method="rise", params=(("samples", 300),), baseline=("black", "white"), seed=3),
        FaithfulnessRequest((MAP, replace(MAP, method="ig")), steps=5),
        DecodingRequest("balls-l-additive", grid=(2, 3)),
    ],
    ids=lambda request: f"{request.kind}.{getattr(request, 'method', '')}",
)
def test_answers_equal_those_computed_here_bit_for_bit(service, here, request_):
    theirs, ours = service.run(request_), here.run(request_)
    assert untimed(theirs) == untimed(ours)
    assert {n: a.tobytes() for n, a in theirs.arrays.items()} == {n: a.tobytes() for n, a in ours.arrays.items()}


def test_an_answer_that_was_given_before_needs_no_replica(service, cluster):
    request = replace(MAP, seed=77)
    first, replicas = service.run(request), cluster.replicas()
    for process in replicas:
        process.suspend()
    try:
        assert service.run(request) == first
    finally:
        for process in replicas:
            process.resume()


def test_errors_keep_their_class_sentence_and_field(service, here):
    wrong = replace(MAP, target=99)
    with pytest.raises(BadInput) as theirs:
        service.run(wrong)
    with pytest.raises(BadInput) as ours:
        here.run(wrong)
    assert (theirs.value.sentence, theirs.value.field) == (ours.value.sentence, ours.value.field)
    with pytest.raises(BadInput, match="unknown model"):
        service.run(replace(MAP, model="no-such-model"))


def test_progress_arrives_and_leaving_stops_the_work(service):
    seen = []

    def leave(step) -> None:
        seen.append(step)
        if step.done > 1000:
            raise Cancelled

    with pytest.raises(Cancelled):
        service.run(SLOW, leave)
    assert seen[-1].total > seen[-1].done > 0
    wait_until(lambda: service.status().flights == 0)


def test_a_newer_request_of_a_session_takes_the_older_ones_place(service):
    older = Asker(service, replace(SLOW, seed=1), "visitor.path")
    wait_until(lambda: older.messages)
    service.run(replace(MAP, seed=5), session="visitor.path")
    older.join(timeout=10)
    assert type(older.error) is Superseded


def test_status_and_models_are_those_of_all_replicas(service, here):
    assert "digits-gap" in {row.spec.key for row in service.models() if row.is_loaded}
    assert [row.spec for row in service.models()] == [row.spec for row in here.models()]
    wait_until(lambda: service.status().device == "2 replicas: CPU, 1 thread")


def own_model(key: str) -> tuple[dict[str, Any], bytes]:
    """The fields and the weights of a small classifier."""
    from safetensors.torch import save

    from backend.models import networks

    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = save(networks.build("lenet-gap", 3, 1).state_dict())
    fields = {
        "key": key, "task": "classification", "architecture": "prism:lenet-gap", "labels": ["a", "b", "c"],
        "input_size": [28, 28], "channels": "L",
    }  # fmt: skip
    return fields, weights


def add_own_model(service: RemoteService, key: str) -> None:
    assert service.add_model(*own_model(key)).key == key


def ask_everywhere(service: RemoteService, model: str) -> None:
    """Several at once, so that each replica gets some."""
    callers = [Asker(service, replace(MAP, model=model, seed=seed)) for seed in range(6)]
    for caller in callers:
        caller.join(timeout=60)
        assert caller.error is None and caller.result is not None


def test_a_model_of_ones_own_is_known_to_every_replica(service, cluster):
    add_own_model(service, "own")
    ask_everywhere(service, "own")
    service.remove_model("own")
    with pytest.raises(BadInput, match="unknown model"):
        service.run(PredictionRequest(IMAGE, "own"))


def test_the_doctor_reaches_it(service):
    (finding,) = doctor.check_cluster()
    assert finding.level == "ok" and "replica" in finding.said


# ----------------------------------------------------------------- batches through Ray Data
def test_a_killed_batch_goes_on_where_it_stopped(service, cluster, home, tmp_path):
    digits = [f"{ROOT}/assets/examples/digit-{digit}.png" for digit in (2, 3, 4, 5)]
    table = tmp_path / "table.csv"
    rows = [f"{digit},rise,{samples}" for samples in range(1000, 1010) for digit in digits]
    table.write_text("\n".join(("image,method,params.samples", *rows, "none.png,ig,")) + "\n")
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"family": "path_attribution", "model": "digits-gap", "seed": 3}))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "backend", "batch", str(table), "--request", str(request), "--out", str(out)]
    command += ["--engine", "ray", "--workers", "1", "--join", cluster.address]

    def answered() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (out / "rows").glob("*.json")}

    process = subprocess.Popen(command, cwd=ROOT, env=settings(home), start_new_session=True)
    try:
        wait_until(lambda: len(answered()) >= 3, timeout_s=240)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(2.0)  # the worker may end the block of rows that it was at
    kept = answered()
    assert 3 <= len(kept) < len(rows)
    again = subprocess.run(command, cwd=ROOT, env=settings(home), capture_output=True, text=True, timeout=200)
    assert again.returncode == 1, again.stderr  # one row names no file
    assert f"40 answered ({len(kept)} by an earlier run), 1 refused" in again.stdout
    assert {name: answered()[name] for name in kept} == kept
    found = pd.read_parquet(out / "results.parquet")
    assert list(found["row"]) == list(range(1, 42)) and (found["error"] != "").sum() == 1


# ----------------------------------------------------------------- closed to others, and nothing on the disk
def test_ray_listens_on_loopback_and_asks_for_the_token(service, cluster, home):
    code = f"import ray; ray.init(address='{cluster.address}', log_to_driver=False)"
    stranger = {**settings(home), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    stranger["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else it looks on the other addresses, where nobody listens
    said = home / "stranger.log"
    with said.open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], env=stranger, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Unauthenticated" in said.read_text())
    finally:
        process.kill()
        process.wait()
    assert (home / "cluster" / "token").stat().st_mode & 0o077 == 0
    open_to_all = [
        (process.name(), connection.laddr.port)
        for process in cluster.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip in ("::", "0.0.0.0")
    ]
    # Each process of a deployment has one port for calls between deployments, which Ray binds to every address and
    # gives no setting for: two replicas and the board. It asks for the token too.
    assert len(open_to_all) <= 3


@pytest.mark.slow  # Ray asks again for twenty seconds
def test_who_has_another_token_is_told(service, cluster, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRISM_HOME", str(tmp_path))
        connection = ClusterConnection(cluster.address, pauses_s=())
        with pytest.raises(NotAvailable, match="asks for its token"):
            connection.call("/status")
        connection.close()


def test_inputs_and_answers_are_not_in_rays_shared_memory_or_files(service, cluster):
    marker = b"prism-health-marker-" * 20_000  # longer than what Ray itself would send in a message
    data = PICTURE + marker  # what stands behind a picture's end is not looked at
    image = service.put_image(data).id
    service.run(replace(MAP, image_id=image, seed=11))
    sessions = {
        Path(part.split("=", 1)[1])
        for process in cluster.processes()
        for part in command_of(process)
        if part.startswith(("--session-dir=", "--session_dir="))
    }
    assert sessions
    for folder in sessions:
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"prism-health-marker" not in path.read_bytes(), path


# ----------------------------------------------------------------- replicas die
def test_no_request_is_lost_when_a_replica_is_killed(service, here, cluster):
    pictures = [picture(100 + number) for number in range(12)]
    ids = [service.put_image(data).id for data in pictures]
    for data in pictures:
        here.put_image(data)
    requests = [
        replace(MAP, image_id=image, method="rise", params=(("samples", 4_000),), seed=number)
        for number, image in enumerate(ids)
    ]
    before = {process.pid for process in cluster.replicas()}
    assert len(before) == 2
    callers = [Asker(service, request, f"visitor{n}.path") for n, request in enumerate(requests)]
    wait_until(lambda: sum(any(caller.messages) for caller in callers) >= 4)
    victim = max(cluster.replicas(), key=lambda process: process.cpu_times().user)  # one that is at work
    os.kill(victim.pid, signal.SIGKILL)
    for caller in callers:
        caller.join(timeout=90)
    assert [caller.error for caller in callers] == [None] * len(callers)
    assert any("a replica stopped" in message for caller in callers for message in caller.messages)
    for caller in callers[::4]:
        assert untimed(caller.result) == untimed(here.run(caller.request))
    wait_until(lambda: len({process.pid for process in cluster.replicas()} - {victim.pid}) == 2, timeout_s=60)


def test_a_model_of_ones_own_outlives_the_board(service, cluster):
    """The board that Ray starts anew is told of it by the replicas, and tells a replica that starts later."""
    add_own_model(service, "lasting")
    (board,) = cluster.replicas("board")
    os.kill(board.pid, signal.SIGKILL)
    wait_until(lambda: {process.pid for process in cluster.replicas("board")} - {board.pid}, timeout_s=60)
    wait_until(
        lambda: service.status().device.startswith("2 replicas"), timeout_s=60
    )  # both have told it what they know
    first, last = cluster.replicas()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: len({process.pid for process in cluster.replicas()} - {first.pid}) == 2, timeout_s=60)
    os.kill(last.pid, signal.SIGKILL)  # so that one answers that never heard of it from who added it
    assert service.run(replace(MAP, model="lasting", seed=100)).arrays
    service.remove_model("lasting")


def test_a_cluster_that_is_gone_is_one_sentence(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRISM_HOME", str(home))
        connection = ClusterConnection(f"127.0.0.1:{free_port()}", pauses_s=())
        with pytest.raises(Busy, match="does not answer; your inputs are kept"):
            RemoteService(connection).run(DecodingRequest("balls-l-additive"))
        connection.close()


# ----------------------------------------------------------------- several machines
@pytest.mark.slow  # a cluster of its own, and a second node of it
def test_a_second_machine_takes_the_replicas_that_the_first_has_no_core_for(tmp_path):
    """Two nodes of Ray on this machine, at two of its addresses, started as the README says."""
    cores = os.cpu_count() or 1
    listed = tmp_path / "cluster.toml"
    listed.write_text(f"min_replicas = {cores + 1}\nmax_replicas = {cores + 1}\n")
    address, log = f"127.0.0.2:{free_port()}", tmp_path / "serve.log"
    command = [sys.executable, "-m", "backend", "serve", "--host", "127.0.0.2", "--port", address.split(":")[1]]
    environment_ = settings(tmp_path)
    with log.open("w") as output:
        head = subprocess.Popen(
            [*command, "--settings", str(listed)], cwd=ROOT, env=environment_, stdout=output, stderr=subprocess.STDOUT
        )
    token = tmp_path / "cluster" / "token"
    there = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    ray = Path(sys.executable).with_name("ray")
    join = [ray, "start", "--address", address, "--object-store-memory", "268435456", "--num-cpus", "4", "--block"]
    other, connection = None, ClusterConnection(address)
    try:
        wait_until(lambda: head.poll() is not None or "Started Serve" in log.read_text(), timeout_s=START_S)
        other = subprocess.Popen(
            join, cwd=ROOT, env={**environment_, **there, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
        )
        wait_until(lambda: head.poll() is not None or "ready; start the pages" in log.read_text(), timeout_s=START_S)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PRISM_HOME", str(tmp_path))
            service = RemoteService(connection)
            service.put_image(PICTURE)
            ask_everywhere(service, "digits-gap")
            wait_until(lambda: service.status().device.startswith(f"{cores + 1} replicas"), timeout_s=60)
        behind = [" ".join(command_of(process)) for process in psutil.Process(other.pid).children(recursive=True)]
        assert sum("ServeReplica:prism:replica" in line for line in behind) == 1
    finally:
        connection.close()
        for process in filter(None, (other, head)):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=40)


# ----------------------------------------------------------------- settings, without a cluster
def test_settings_come_from_a_file_and_flags(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text("max_replicas = 8\ngpus = 0.5\n")
    found = ClusterSettings.read(str(path), {"port": 7000, "host": None})
    assert (found.max_replicas, found.gpus, found.port, found.host) == (8, 0.5, 7000, "127.0.0.1")
    assert not found.is_fixed


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("min_replicas = 0", "min_replicas"),
        ("threads = true", "threads"),
        ("cpus = 'many'", "cpus"),
        ("max_replicas = 1", "max_replicas"),
        ("colour = 3", "settings"),
        ("=", "settings"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, text, field):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        ClusterSettings.read(str(path))
    assert refused.value.field == field


@pytest.mark.parametrize("address", ["", "host", "host:", "host:0", "host:99999", ":1"])
def test_an_address_without_host_and_port_is_refused(address):
    with pytest.raises(BadInput, match="HOST:PORT"):
        environment.read_address(address)


def test_what_pages_use_imports_no_ray():
    """In a process of its own: the collection of doctests imports the replica's module into this one."""
    modules = "backend.engines, backend.api, backend.remote, backend.batch, backend.cluster.connection, backend.doctor"
    code = f"import sys, {modules}; sys.exit(any(name.partition('.')[0] == 'ray' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_two_engines_at_once_are_refused(monkeypatch):
    monkeypatch.setenv("PRISM_CLUSTER", "127.0.0.1:1")
    monkeypatch.setenv("PRISM_BACKEND_URL", "http://127.0.0.1:1/api")
    with pytest.raises(BadInput, match="only one engine"):
        engines.service()


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(environment, "is_installed", lambda: False)
    with pytest.raises(NotAvailable, match="requirements-cluster.txt"):
        ClusterConnection("127.0.0.1:1", pauses_s=()).call("/status")
    with pytest.raises(NotAvailable, match="requirements-cluster.txt"):
        environment.prepare(True, {})


def test_rows_of_replicas_are_joined():
    row = {"key": "a", "spec": None, "is_loaded": False, "nbytes": 0, "digest": ""}
    loaded = {**row, "is_loaded": True, "nbytes": 5, "digest": "d"}
    assert join_rows([[row], [loaded], [loaded]]) == [{**loaded, "nbytes": 10}]


def test_a_replica_hears_of_a_model_that_came_while_it_tried_its_own(monkeypatch):
    """Both are told to the board in the order in which they are found to be good."""
    from backend.cluster import replica as module
    from backend.cluster.board import Board

    async def both_know() -> list[set[str]]:
        board = Board()

        async def record(change: dict[str, Any]) -> list[Any]:
            if change.get("add", {}).get("key") == "slow":
                await quick.add_model(*own_model("quick"))
            return await board.record(change)

        calls = {"changes_since": board.changes_since, "report": board.report, "record": record}
        handle = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})
        slow, quick = (module.Replica(torch.get_num_threads(), handle) for _ in range(2))
        await slow.add_model(*own_model("slow"))
        await quick.check_health()
        await slow.remove_model("quick")
        await quick.check_health()
        return [set(one.service.library.specs()) & {"slow", "quick"} for one in (slow, quick)]

    assert with_replicas_here(monkeypatch, both_know()) == [{"slow"}, {"slow"}]


def test_a_replica_counts_once_it_has_told_a_new_board_what_it_knows(monkeypatch):
    """A board that is being started does not answer at first: who reports to it must have been heard by then."""
    from ray.exceptions import RayActorError

    from backend.cluster import replica as module
    from backend.cluster.board import Board

    async def counted() -> list[tuple[int, int]]:
        boards, silent = [Board()], set()

        def handle_of(name: str) -> SimpleNamespace:
            async def call(*arguments: Any) -> Any:
                if name in silent:
                    raise RayActorError
                return await getattr(boards[-1], name)(*arguments)

            return SimpleNamespace(remote=call)

        async def known() -> tuple[int, int]:
            await replica.check_health()
            _, changes = await boards[-1].changes_since("", 0)
            return len(await boards[-1].reports()), len(changes)

        board = SimpleNamespace(**{name: handle_of(name) for name in ("changes_since", "report", "record", "remind")})
        replica = module.Replica(torch.get_num_threads(), board)
        await replica.add_model(*own_model("kept"))
        boards.append(Board())
        silent.add("changes_since")
        early = await known()
        silent.clear()
        return [early, await known()]

    assert with_replicas_here(monkeypatch, counted()) == [(0, 0), (1, 1)]


def with_replicas_here(monkeypatch: pytest.MonkeyPatch, work: Coroutine[Any, Any, Any]) -> Any:
    """Do work in which replicas are made in this process, without Ray."""
    from backend.cluster import replica as module

    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="one"))
    monkeypatch.setattr(module.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(module, "local_service", lambda: LocalService(Runtime("cpu")))
    with ThreadPoolExecutor(1) as pool:  # this thread may have a browser's loop
        return pool.submit(asyncio.run, work).result()
