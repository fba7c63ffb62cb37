"""The Gradio door of the real process: contract, sentences instead of tracebacks, one engine behind both doors."""

import base64

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from backend.catalog import ROWS_OF
from backend.contracts import Result
from backend.images import encode_png

STROKES = np.zeros((28, 28, 1))
STROKES[4:24, 12:16] = 1.0
PICTURE = base64.b64encode(encode_png(STROKES)).decode()


@pytest.fixture(scope="module")
def client(app_url) -> Client:
    return Client(f"{app_url}/api", verbose=False, httpx_kwargs={"timeout": 120})


def post(app_url: str, endpoint: str, *arguments) -> httpx.Response:
    return httpx.post(f"{app_url}/api/gradio_api/run/{endpoint}", json={"data": list(arguments)}, timeout=120)


def test_methods_and_models_are_listed(client):
    listed = [(row["family"], row["key"]) for row in client.predict(api_name="/methods")]
    assert listed == [(family, key) for family, rows in ROWS_OF.items() for key in rows]
    models = {row["key"]: row for row in client.predict(api_name="/models")}
    assert models["digits-gap"]["source"] == "embedded"
    assert not any("/" in str(row.get("weights", "")) for row in models.values()), "a path of the server is told"


def test_attribution_comes_back_whole(client):
    answer = client.predict(PICTURE, "digits-gap", "samp++", 1, "black,white", {"eta": 0.1}, 0, api_name="/attribute")
    result = Result.from_parts(answer["manifest"], base64.b64decode(answer["npz"]))
    assert result.arrays["attribution"].shape == (1, 28, 28)
    assert result.values["target"] == 1
    assert dict(result.request.params)["eta"] == 0.1
    assert result.request.baseline == ("black", "white")


def test_any_request_runs_on_a_kept_picture(client):
    image = client.predict(PICTURE, api_name="/put_image")
    attribution = {"image_id": image["id"], "model": "digits-gap", "method": "ig", "target": 1}
    request = {"kind": "faithfulness", "attributions": [attribution], "steps": 8}
    answer = client.predict(request, api_name="/run")
    result = Result.from_parts(answer["manifest"], base64.b64decode(answer["npz"]))
    assert result.arrays["deletion_logit"].shape == (1, 9)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((PICTURE, "nothing", "ig"), "unknown model"),
        ((PICTURE, "digits-gap", "nothing"), "unknown method"),
        ((PICTURE, "digits-gap", "ig", 10), r"classes are 0\.\.9"),
        ((PICTURE, "digits-gap", "ig", "seven"), "whole number"),
        ((PICTURE, "digits-gap", "ig", None, "purple"), "unknown baseline"),
        ((PICTURE, "digits-gap", "ig", None, "black", {"n_steps": 0}), r"1\.\.1000"),
        ((PICTURE, "digits-gap", "ig", None, "black", {"n_steps": [1]}), "expected a number"),
        ((PICTURE, "digits-gap", "ig", None, "black", [], 0), "whole|object|ig"),
        ((PICTURE, "digits-gap", "ig", None, "black", {}, -1), "seed"),
        (("no base64!", "digits-gap", "ig"), "base64"),
        ((base64.b64encode(b"no picture").decode(), "digits-gap", "ig"), "not a PNG"),
        ((None, "digits-gap", "ig"), "expected a string"),
    ],
)
def test_bad_input_is_one_sentence_and_a_4xx(app_url, arguments, sentence):
    defaults = (PICTURE, "digits-gap", "ig", None, "black", {}, 0, True)
    response = post(app_url, "attribute", *arguments, *defaults[len(arguments) :])
    if response.status_code == 200:  # an empty list of parameters is as good as none
        assert arguments[5] == []
        return
    assert response.status_code == 400, response.text
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(response.json()["error"])
    assert "Traceback" not in response.text


def test_the_client_sees_the_same_sentence(client):
    with pytest.raises(AppError, match="unknown method 'nothing'"):
        client.predict(PICTURE, "digits-gap", "nothing", api_name="/attribute")


def test_second_call_loads_and_computes_nothing(client):
    arguments = (PICTURE, "digits-gap", "grad-cam", 1, "black", {}, 0)
    first = client.predict(*arguments, api_name="/attribute")
    before = client.predict(api_name="/status")
    second = client.predict(*arguments, api_name="/attribute")
    after = client.predict(api_name="/status")
    assert second["manifest"] == first["manifest"]  # seconds included: it is the stored one
    assert (after["loads"], after["results"]) == (before["loads"], before["results"])


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "../README.md", "assets/provenance.json"])
def test_no_file_of_the_server_is_served(app_url, path):
    response = httpx.get(f"{app_url}/api/gradio_api/file={path}")
    assert response.status_code in (403, 404)
