"""The doctor: sound here, and what it says of an installation that is not."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from backend import doctor
from backend.__main__ import main
from backend.doctor import Finding


def only(findings) -> Finding:
    (finding,) = findings
    return finding


def test_this_installation_is_sound(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "check_hub", lambda: iter([Finding("hub", "note", "not asked in a test")]))
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    code = main(["doctor", "--json", "--port", str(port)])
    findings = json.loads(capsys.readouterr().out)
    assert code == 0, [finding for finding in findings if finding["level"] == "fix"]
    assert {"python", "libraries", "device", "memory", "disk", "weights", "hub", "port"} <= {
        f["check"] for f in findings
    }
    assert not (tmp_path / "home").exists(), "the doctor wrote something"


def test_what_must_be_fixed_is_told_with_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda port: iter([Finding("disk", "fix", "it is full", "free some")]))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == "fix  disk         it is full\n                  -> free some\n"


def test_libraries_that_are_missing_or_old(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("numpy>=999  # why\nno-such-library>=1\npillow>=1\n")
    finding = only(doctor.check_libraries(path))
    assert finding.level == "fix" and "pip install" in finding.todo
    assert "numpy is" in finding.said and "no-such-library is missing" in finding.said and "pillow" not in finding.said


def test_weights_that_were_changed(tmp_path):
    for ending in ("json", "safetensors"):
        shutil.copy(doctor.ROOT / "assets" / "weights" / f"digits-gap.{ending}", tmp_path)
    assert only(doctor.check_weights(tmp_path)).level == "ok"
    with (tmp_path / "digits-gap.safetensors").open("ab") as file:
        file.write(b"x")
    finding = only(doctor.check_weights(tmp_path))
    assert finding.level == "fix" and "digits-gap" in finding.said
    (tmp_path / "digits-gap.safetensors").unlink()
    assert only(doctor.check_weights(tmp_path)).level == "fix"


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        finding = only(doctor.check_port(taken.getsockname()[1]))
    assert finding.level == "fix" and "taken" in finding.said and "--server.port" in finding.todo


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PRISM_HOME", str(tmp_path / "file"))
    assert only(doctor.check_disk()).level == "fix"


def test_a_disk_that_is_full(monkeypatch, tmp_path):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert only(doctor.check_disk()).level == "fix"


def test_a_device_that_does_not_compute(monkeypatch):
    monkeypatch.setenv("PRISM_DEVICE", "cuda:99")
    finding = only(doctor.check_device())
    assert finding.level == "fix" and "PRISM_DEVICE=cpu" in finding.todo


def test_a_models_file_with_a_mistake(monkeypatch, tmp_path):
    (tmp_path / "models.toml").write_text("[[model]]\nkey = 5\n")
    monkeypatch.setenv("PRISM_MODELS", str(tmp_path / "models.toml"))
    assert only(doctor.check_models_file()).level == "fix"


@pytest.mark.parametrize(
    ("environment", "level"),
    [({}, "note"), ({"PRISM_PASSWORD": "x"}, "ok"), ({"PRISM_AUTH_HEADER": "not a name"}, "fix")],
)
def test_who_may_come_in(monkeypatch, environment, level):
    for name in ("PRISM_PASSWORD", "PRISM_AUTH_HEADER", "PRISM_TRUSTED_PROXIES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert only(doctor.check_settings()).level == level


def test_without_network_the_doctor_says_what_that_means(monkeypatch):
    import huggingface_hub

    class Silent:
        def head(self, *_, **__):
            raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "get_session", Silent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    finding = only(doctor.check_hub())
    assert finding.level == "note" and "what ships works" in finding.said


def test_a_check_that_falls_over_is_a_finding(monkeypatch):
    def fall():
        raise RuntimeError("oh")

    monkeypatch.setattr(doctor, "check_python", fall)
    monkeypatch.setattr(doctor, "check_hub", lambda: iter(()))
    assert next(iter(doctor.examine())).level == "fix"
    assert Path(doctor.ROOT / "app.py").exists()


def test_a_cluster_is_looked_for_only_if_one_is_named(monkeypatch):
    monkeypatch.delenv("PRISM_CLUSTER", raising=False)
    assert only(doctor.check_cluster()).level == "ok"
    monkeypatch.setenv("PRISM_CLUSTER", "127.0.0.1:9")
    monkeypatch.setattr("backend.cluster.environment.is_installed", lambda: False)
    finding = only(doctor.check_cluster())
    assert finding.level == "fix" and finding.todo == "run: pip install -r requirements-cluster.txt"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere"])
def test_a_cluster_that_is_not_there(monkeypatch, address):
    monkeypatch.setenv("PRISM_CLUSTER", address)
    finding = only(doctor.check_cluster())
    assert finding.level == "fix" and "backend serve" in finding.todo
