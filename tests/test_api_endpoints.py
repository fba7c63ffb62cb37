"""Every endpoint of the API through `gradio_client`: what comes back, and what is refused, in one sentence."""

import base64

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from backend import wire
from backend.catalog import DECODERS, EMBEDDED, NAIMS, PAIRS
from backend.contracts import Result
from backend.endpoints.jobs import check_args
from backend.endpoints.uploads import PART_BYTES, Uploads
from backend.errors import BadInput, NotAvailable
from backend.images import encode_png
from backend.limits import Limits

STROKES = np.zeros((28, 28, 1))
STROKES[4:24, 12:16] = 1.0
PICTURE = base64.b64encode(encode_png(STROKES)).decode()
FINDING = "There is a large right pleural effusion."
QUICK = {"n_steps": 2, "samples": 1}


@pytest.fixture(scope="module")
def client(app_url) -> Client:
    return Client(f"{app_url}/api", token=False, verbose=False, httpx_kwargs={"timeout": 120})


CASES = {
    "predict": ({"image": PICTURE}, None),
    "attribute": ({"image": PICTURE, "method": "saliency"}, {"attribution": (1, 28, 28)}),
    "measure_faithfulness": (
        {"image": PICTURE, "methods": ["saliency", "ig"], "params": {"ig": {"n_steps": 5}}, "steps": 4},
        {"deletion_logit": (2, 5), "insertion_logit": (2, 5)},
    ),
    "measure_sensitivity": ({"image": PICTURE, "methods": ["saliency"], "subsets": 5}, {}),
    "check_randomisation": ({"image": PICTURE, "method": "saliency", "max_layers": 2}, {}),
    "show_path": ({"image": PICTURE, "frames": 3}, {}),
    "interpret_pair": ({"image": PICTURE, "text": FINDING, "params": QUICK}, {"image_map": None, "token_map": None}),
    "interpret_report": (
        {"image": PICTURE, "report": f"FINDINGS: {FINDING} No nodule.", "modality": "text", "params": QUICK},
        {},
    ),
    "score_pair": ({"image": PICTURE, "texts": [FINDING, "No nodule."]}, {}),
    "check_pair_randomisation": ({"image": PICTURE, "text": FINDING, "method": "saliency", "max_layers": 1}, {}),
    "shape_functions": ({"points": 5}, {}),
    "image_path": ({"rows": [0, 1], "frames": 9}, {"frames": (9, 32, 32, 3), "alphas": (9,), "effect": (9,)}),
    "image_corners": ({"rows": [0, 1, 2, 3], "side": 2}, {}),
    "image_direction": ({"attribute": "side", "row": 1, "frames": 3}, {}),
    "image_gallery": ({"n": 4}, {"rows": (4,), "effect": (4,)}),
    "explain_record": ({"row": 2}, {}),
    "decode_grid": ({"grid": [2, 3]}, {"grid": (2, 3, 64, 64, 3), "in_support": (2, 3)}),
    "block_table": ({"size": 3}, {}),
    "latent_scatter": ({"n": 20}, {}),
    "decoder_figures": ({"n": 20}, {}),
    "describe_support": ({"support": "u", "n": 10}, {}),
}


@pytest.mark.parametrize("endpoint", CASES)
def test_every_question_has_an_endpoint(client, endpoint):
    arguments, shapes = CASES[endpoint]
    answer = client.predict(**arguments, api_name=f"/{endpoint}")
    if shapes is None:
        assert answer["values"]["top"] and answer["image_id"]
        return
    result = wire.result_from_wire(answer)
    assert isinstance(result, Result) and result.arrays
    for name, shape in shapes.items():
        assert shape is None or result.arrays[name].shape == shape
    assert result.provenance.versions


def test_without_arrays_the_manifest_comes_alone(client):
    answer = client.predict(grid=[2, 3], arrays=False, api_name="/decode_grid")
    assert set(answer) == {"manifest"} and answer["manifest"]["arrays"]["grid"][:2] == [2, 3]


def test_a_report_is_cut_into_its_sentences(client):
    report = f"FINDINGS: {FINDING} No nodule."
    arguments = {"image": PICTURE, "report": report, "modality": "text", "params": QUICK, "arrays": False}
    answer = client.predict(**arguments, api_name="/interpret_report")
    assert answer["manifest"]["request"]["sentences"] == [FINDING, "No nodule."]


def test_any_request_tells_its_steps_and_ends_with_its_answer(client):
    image = client.predict(PICTURE, api_name="/put_image")
    params = {"samples": 6000}  # work that is over at once tells no step
    request = {"image_id": image["id"], "model": "digits-gap", "method": "rise", "params": params}
    job = client.submit(request, api_name="/run_with_progress")
    job.result(timeout=120)
    messages = job.outputs()
    assert all(message["answer"] is None for message in messages[:-1])
    result = wire.result_from_wire(messages[-1]["answer"])
    assert result.arrays["attribution"].shape == (1, 28, 28)
    told = [message["step"] for message in messages[:-1] if message["step"]]
    assert told and told[-1]["done"] <= told[-1]["total"]


def test_every_family_is_listed(client):
    models = {row["key"]: row for row in client.predict(api_name="/models")}
    assert models.keys() >= {*EMBEDDED, *DECODERS, *PAIRS, *NAIMS}
    assert {models[key]["task"] for key in ("digits-gap", "cxr-clip", "squares", "balls-l-additive")} == {
        "classification", "image_text", "additive_image", "additive_decoding",
    }  # fmt: skip


def test_an_evaluation_is_a_job(client):
    args = {"family": "additive_decoding", "model": "balls-l-additive", "n": 20, "seeds": 1}
    job = client.predict("evaluate", args, api_name="/submit_job")
    assert job["state"] in ("queued", "running", "done")
    assert job["id"] in [row["id"] for row in client.predict(api_name="/list_jobs")]
    client.predict(job["id"], api_name="/cancel_job")
    assert client.predict(job["id"], api_name="/job_status")["args"] == args


@pytest.mark.parametrize(
    ("endpoint", "arguments", "title", "sentence"),
    [
        ("measure_faithfulness", {"image": PICTURE, "methods": []}, "methods", "at least one"),
        ("measure_faithfulness", {"image": PICTURE, "methods": "ig", "params": {"rise": {}}}, "params", "rise"),
        ("measure_faithfulness", {"image": PICTURE, "methods": ["ig"], "steps": 1}, "steps", r"2\.\.1000"),
        ("interpret_pair", {"image": PICTURE, "text": ""}, "text", "empty"),
        ("interpret_pair", {"image": PICTURE, "text": 3}, "text", "expected a string"),
        ("interpret_pair", {"image": PICTURE, "text": "a", "model": "digits-gap"}, "model", "is made for"),
        ("score_pair", {"image": PICTURE, "texts": [3]}, "texts", "list"),
        ("image_path", {"rows": [0]}, "rows", "expected 2"),
        ("image_path", {"rows": [0, -1]}, "rows", "rows 0"),
        ("image_path", {"images": "no list"}, "images", "list"),
        ("image_path", {"rows": [0, 1], "frames": 10**9}, "frames", "expected"),
        ("image_direction", {"attribute": "beauty", "row": 0}, "attribute", "unknown attribute"),
        ("explain_record", {"values": 3}, "values", "JSON object"),
        ("decode_grid", {"grid": [9]}, "grid", "two whole numbers"),
        ("decode_grid", {"grid": [9, "9"]}, "grid", "whole number"),
        ("describe_support", {"support": "nowhere"}, "support", "nowhere"),
        ("decode_grid", {"arrays": "yes"}, "arrays", "true or false"),
        ("run", {"request": []}, "request", "JSON object"),
        ("run", {"request": {"kind": "nothing"}}, "kind", "unknown kind"),
        ("run_with_progress", {"request": {"kind": "decoding"}}, "model", "missing"),
        ("run_with_progress", {"request": {"kind": "support"}, "session": 3}, "session", "expected a string"),
        ("submit_job", {"kind": "fetch", "args": {}}, "kind", "unknown kind"),
        ("job_status", {"job": "../../etc"}, "job", "no job"),
        ("job_result", {"job": 3}, "job", "expected a string"),
    ],
)
def test_bad_arguments_are_one_sentence_that_names_the_field(client, endpoint, arguments, title, sentence):
    with pytest.raises(AppError, match=sentence) as caught:
        client.predict(**arguments, api_name=f"/{endpoint}")
    assert wire.read_title(caught.value.title) == ("BadInput", title)


def test_too_few_arguments_over_plain_http_are_a_bad_request(app_url):
    response = httpx.post(f"{app_url}/api/gradio_api/run/attribute", json={"data": [PICTURE]}, timeout=60)
    assert response.status_code == 400 and response.json()["error"] == "1 arguments; expected 8"


@pytest.mark.parametrize(
    ("address", "content", "sentence"),
    [
        ("run/attribute", b'{"data": NaN}', "not what this address expects"),
        ("run/attribute", b'{"data": 5}', "not what this address expects"),
        ("call/v2/attribute", b'{"picture": "x"}', "missing or unknown"),
        ("call/v2/attribute", b"{}", "missing or unknown"),
        ("call/v2/nothing", b"{}", "no such endpoint"),
    ],
)
def test_calls_that_gradio_would_fail_on_are_bad_requests(app_url, address, content, sentence):
    """Found by the fuzz tests: each of them was a 500."""
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{app_url}/api/gradio_api/{address}", content=content, headers=headers, timeout=60)
    assert response.status_code == 400 and sentence in response.json()["error"]


def test_openapi_and_mcp_describe_every_endpoint(app_url):
    paths = httpx.get(f"{app_url}/api/gradio_api/openapi.json").json()["paths"]
    tools = {tool["name"]: tool for tool in httpx.get(f"{app_url}/api/gradio_api/mcp/schema").json()}
    listed = {*CASES, "methods", "models", "status", "put_image", "put_audio", "run", "run_with_progress"}
    listed |= {"attribute_effects", "compare_models", "submit_job", "job_status", "list_jobs", "cancel_job"}
    for name in (*listed, "job_result"):
        assert any(path.endswith(f"/{name}") for path in paths), name
        assert len(tools[name]["description"]) > 30
        for argument, schema in tools[name]["inputSchema"]["properties"].items():
            assert schema.get("description"), f"{name}: {argument} is not described"
    assert "add_model" not in tools and "put_part" not in tools  # for other Prisms, not for programs


# ----------------------------------------------------------------- what may be asked of the server's own files
TRAIN = {
    "name": "live",
    "family": "additive_decoding",
    "seed": 0,
    "recipe": {"base": "live", "kind": "additive", "support": "l", "scene": {"shapes": ["ball", "square"]}},
}


def changed(**recipe) -> dict:
    return {**TRAIN, "recipe": {**TRAIN["recipe"], **recipe}}


def own(**recipe) -> dict:
    images = f"own:{'0' * 64}"
    mine = {"base": "own-images", "kind": "additive", "images": images, "block_sizes": [2, 2], "scene": {"side": 32}}
    return {**TRAIN, "name": "own-images", "title": "mine", "recipe": {**mine, **recipe}}


@pytest.mark.parametrize(
    ("kind", "args", "field"),
    [
        ("evaluate", {"family": "image_text", "model": "cxr-clip", "data": "/etc"}, "data"),
        ("evaluate", {"n": 5}, "model"),
        ("evaluate", {"model": "digits-gap", "n": 10**9}, "n"),
        ("evaluate", {"model": "digits-gap", "n": True}, "n"),
        ("evaluate", {"model": "digits-gap", "methods": [3]}, "methods"),
        ("train", {**TRAIN, "name": "digits-gap"}, "name"),
        ("train", {**TRAIN, "family": "path_attribution"}, "name"),
        ("train", changed(base="balls-four"), "base"),
        ("train", changed(images="/etc"), "images"),
        ("train", own(images="/etc"), "images"),
        ("train", own(images="own:../../etc"), "images"),
        ("train", own(block_sizes=[0]), "block_sizes"),
        ("train", own(scene={"side": 4096}), "side"),
        ("train", changed(steps=10**9), "steps"),
        ("train", changed(scene={"side": 4096}), "side"),
        ("train", changed(scene={"shapes": [3]}), "shapes"),
        ("train", changed(support="nowhere"), "support"),
        ("train", {**TRAIN, "seed": -1}, "seed"),
        ("fit_own", {"data": "x"}, "encoder"),
        ("batch", {}, "kind"),
        ("train", "no object", "args"),
    ],
)
def test_jobs_that_would_touch_files_or_never_end_are_refused(kind, args, field):
    with pytest.raises(BadInput) as caught:
        check_args(kind, args)
    assert caught.value.field == field


def test_what_the_pages_submit_is_let_through():
    assert check_args("train", TRAIN) == TRAIN
    assert check_args("train", own()) == own()
    asked = {"family": "additive_decoding", "model": "balls-l-additive", "seeds": 3, "n": 500}
    assert check_args("evaluate", asked) == asked


# ----------------------------------------------------------------- files in parts
KEY = "0123456789abcdef"


def test_parts_come_in_order_twice_or_again():
    uploads = Uploads()
    assert uploads.add(KEY, 0, b"abc") == 3
    assert uploads.add(KEY, 3, b"def") == 6
    assert uploads.add(KEY, 3, b"def") == 6  # asked again after a broken line
    assert uploads.take(KEY) == b"abcdef"
    with pytest.raises(BadInput, match="no longer held"):
        uploads.take(KEY)


@pytest.mark.parametrize(
    ("key", "offset", "part", "field"),
    [
        ("short", 0, b"", "upload"),
        ("../../../../etc/passwd", 0, b"", "upload"),
        (KEY, -1, b"", "offset"),
        (KEY, "0", b"", "offset"),
        (KEY, 5, b"", "upload"),
        (KEY, 0, bytes(PART_BYTES + 1), "part"),
    ],
)
def test_parts_that_cannot_be_are_refused(key, offset, part, field):
    with pytest.raises(BadInput) as caught:
        Uploads().add(key, offset, part)
    assert caught.value.field == field


def test_uploads_are_bounded_and_forgotten():
    now = 0.0
    uploads = Uploads(Limits(max_weights_bytes=10, max_archive_bytes=10), lambda: now)
    uploads.add(KEY, 0, b"12345678")
    with pytest.raises(BadInput, match="on their way"):
        uploads.add(KEY[::-1], 0, b"123")
    for n in range(15):  # and the one above: as many as there may be
        uploads.add(f"{n:016}", 0, b"")
    with pytest.raises(NotAvailable):
        uploads.add("f" * 16, 0, b"")
    now = 700.0
    assert uploads.add("f" * 16, 0, b"1234567890") == 10
