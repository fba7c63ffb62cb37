"""Own data from paths: listings of Inside Airbnb, tables with pictures, and the ways to code pictures."""

import dataclasses
import gzip
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import archives
from backend.__main__ import main
from backend.additive_image import listings, own_data, own_files, own_store, own_training
from backend.additive_image.data import make_dataset
from backend.additive_image.nam import HeadSettings
from backend.contracts import ImageGalleryRequest, ImagePathRequest, RecordRequest, ShapeFunctionsRequest
from backend.errors import BadInput, NotAvailable
from backend.images import encode_png
from backend.jobs import JobQueue, default_folder
from backend.limits import Limits
from backend.models import coders
from backend.service import LocalService
from backend.tables import read_table

N = 60
HEADER = (
    "id,listing_url,host_id,host_picture_url,neighbourhood_cleansed,room_type,accommodates,price,review_scores_rating"
)


def listings_csv(n: int = N) -> bytes:
    """As Inside Airbnb writes them: quoted texts over two lines, prices as people read them, much that is empty."""
    rng = np.random.default_rng(0)
    rows = [HEADER.replace("listing_url", "description")]
    for i in range(n):
        room, guests = rng.choice(["Entire home/apt", "Private room"]), rng.integers(1, 7)
        price = "" if i == 3 else "$0.00" if i == 4 else f'"${900 + 60 * guests + i:,.2f}"'
        address = f"https://a0.example/im/pictures/user/{i}.jpg?aki_policy=profile_x_medium"
        text = f'"Sunny, near\nthe sea {i}"'
        rows.append(f"{100 + i},{text},{7000 + i},{address},Ward {i % 3},{room},{guests},{price},")
    return "\n".join(rows).encode()


def portraits_in(folder: Path, n: int = N) -> Path:
    """Called by host, by listing, or as the address ends; one is missing, one is damaged."""
    folder.mkdir()
    for i in range(n):
        name = (f"{7000 + i}.png", f"{100 + i}.png", f"{i}.png")[i % 3]
        data = b"damaged" if i == 7 else encode_png(np.full((9 + i % 5, 8, 3), i / n))
        if i != 6:
            (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def airbnb(tmp_path, monkeypatch) -> tuple[str, str]:
    """Paths of the table and of the pictures, and a disk of its own."""
    monkeypatch.setenv("PRISM_HOME", str(tmp_path / "home"))
    (tmp_path / "listings.csv.gz").write_bytes(gzip.compress(listings_csv()))
    return str(tmp_path / "listings.csv.gz"), str(portraits_in(tmp_path / "hosts"))


# ----------------------------------------------------------------- listings
def test_listings_are_known_by_their_columns_and_adapted():
    table = listings.adapt(read_table(gzip.compress(listings_csv())))
    choices = own_data.guess_choices(table)
    assert (choices.target, choices.pictures, choices.link) == ("log price", "host_picture_url", "identity")
    assert choices.features == ("accommodates", "room_type", "neighbourhood_cleansed")
    prices, logs = table.numbers("price"), table.numbers("log price")
    assert prices[0] > 900 and logs[0] == pytest.approx(math.log(prices[0]), abs=1e-5)
    assert np.isnan(logs[[3, 4]]).all()
    assert listings.adapt(table) is table
    plain = read_table(b"a,b\n1,2\n3,4\n")
    assert listings.adapt(plain) is plain


def test_hosts_are_found_by_host_listing_or_address_and_the_rest_is_told_by_row(airbnb):
    with pytest.raises(BadInput) as error:
        own_files.job_args(*airbnb)
    sentence = error.value.sentence
    assert sentence.startswith("4 of 60 rows cannot be used (row 4: log price is missing; row 5: log price is missing")
    assert "row 7: there is no picture '7006'" in sentence and "row 8:" in sentence and "--leave-out" in sentence
    args = own_files.job_args(*airbnb, encoder="pca", seed=3, leave_out=True)
    dataset = own_store.read(args["data"])
    assert len(dataset) == N - 4 and dataset.images.shape[1:] == (64, 64, 3) and args["seed"] == 3
    kept = [i for i in range(N) if i not in (3, 4, 6, 7)]
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], [round(i / N * 255) for i in kept])


def test_a_gzip_table_is_bounded_and_a_damaged_one_refused():
    bomb = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    with pytest.raises(BadInput, match="unpacks to more than"):
        read_table(bomb, Limits(max_archive_bytes=1000))
    with pytest.raises(BadInput, match="damaged"):
        read_table(bomb[:200])


def test_two_portraits_of_one_name_are_told_by_row(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "7000.png").write_bytes(encode_png(np.zeros((4, 4, 3))))
    table = listings.adapt(read_table(listings_csv()))
    files = archives.open_folder(tmp_path)
    names = listings.picture_names(table, files)
    *_, (_, pictures) = archives.read_pictures(files, names[:1], 4, "host_picture_url")
    assert "2 pictures are called '7000'" in pictures.problems[0].sentence


def test_more_pictures_than_may_be_held_are_refused():
    files = archives.PictureFiles(("p.png",), lambda path: b"")
    with pytest.raises(BadInput, match="up to 2 fit"):
        next(archives.read_pictures(files, ["p.png"] * 3, 10, "picture", Limits(max_unpacked_bytes=600)))


# ----------------------------------------------------------------- the command line
def fake_fit(args: dict, context: object) -> dict:
    return {"held_out_score": 0.5, **args}


def test_train_own_submits_a_job(airbnb, monkeypatch, capsys):
    queue = JobQueue(default_folder(), {own_store.JOB_KIND: f"{__name__}:fake_fit"})
    monkeypatch.setattr("backend.jobs.default_queue", lambda: queue)
    assert main(["train", "own", "--data", airbnb[0], "--images", airbnb[1], "--leave-out", "--encoder", "pca"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["encoder"] == "pca" and printed["title"] == "log price of listings.csv.gz"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "data: training on your own table is"),
        (["--data", "nowhere.csv"], "data: cannot read nowhere.csv"),
        (["--data", "{table}", "--images", "{images}", "--encoder", "magic"], "encoder: unknown encoder 'magic'"),
        (["--data", "{table}", "--images", "{images}", "--target", "cost"], "columns: there is no column 'cost'"),
        (["--data", "{table}", "--images", "/nowhere"], "images: cannot read /nowhere"),
        (["--data", "{table}", "--images", "{images}"], "data: 4 of 60 rows cannot be used"),
    ],
)
def test_what_stands_against_it_is_one_line(airbnb, capsys, arguments, sentence):
    given = [part.format(table=airbnb[0], images=airbnb[1]) for part in arguments]
    assert main(["train", "own", *given]) == 2
    assert capsys.readouterr().err.startswith(f"prism: {sentence}")


def test_listings_are_evaluated_with_the_papers_figures_beside(airbnb, monkeypatch, capsys):
    few = HeadSettings(members=2, epochs=4, batch=16, hidden=16)
    monkeypatch.setattr(own_training, "head_settings", lambda n: few)
    command = ["evaluate", "additive_image", "--data", airbnb[0], "--images", airbnb[1], "--encoder", "pca"]
    assert main([*command, "--json"]) == 2  # four rows cannot be used, and nobody agreed to leave them out
    assert "--leave-out" in capsys.readouterr().err
    assert main([*command, "--leave-out", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["paper"]["r2"] == [0.42, 0.46] and figures["rows"] + figures["n"] == N - 4
    assert {"score", "table_score", "ebm_score", "black_box_score", "concurvity"} <= set(figures)
    assert main([*command, "--model", "hosts"]) == 2 and main(["evaluate", "additive_image"]) == 2
    assert "give either --model or --data" in capsys.readouterr().err


# ----------------------------------------------------------------- coders
def own_squares(n: int, side: int):
    """A data set as a user would bring it: nobody knows an effect."""
    drawn = make_dataset("squares", n)
    pictures = torch.from_numpy(drawn.images[slice(None)]).permute(0, 3, 1, 2).float()
    sized = torch.nn.functional.interpolate(pictures, (side, side)).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return dataclasses.replace(drawn, images=sized, effects={}, attributes={}, image_effect=None, shown_attribute="")


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Short fits, and a disk of one's own."""
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    few = HeadSettings(members=2, epochs=4, batch=64, hidden=16)
    monkeypatch.setattr(own_training, "head_settings", lambda n: few)
    return tmp_path / "jobs" / "abc1"


def fitted(folder: Path, encoder: str, side: int, n: int = 120) -> dict:
    """The card of a model that a job has fitted, where the service finds it."""
    folder.mkdir(parents=True)
    dataset = own_squares(n, side)
    return own_training.fit_own(dataset, encoder, 0, folder, about={"data": own_store.keep(dataset), "title": "sq"})


def test_principal_components_are_exact_on_what_they_span():
    basis = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shares = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) / 3
    images = torch.einsum("nk,kchw->nchw", shares, basis)
    coder = coders.PrincipalCoder(8, 3)
    assert coder.fit(images, 0) == pytest.approx(1.0, abs=1e-4)
    codes = coder.encode(images)
    torch.testing.assert_close(codes.std(0), torch.ones(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(coder.decode(codes), images, atol=1e-3, rtol=0)
    with pytest.raises(BadInput, match="more than 3 are needed"):
        coder.fit(images[:3], 0)


def test_components_fit_draw_and_are_evaluated(quick):
    card = fitted(quick, "pca", 64)
    assert card["encoder"] == "pca" and 0 < json.loads((quick / "own-dae.json").read_text())["variance_kept"] <= 1
    figures = json.loads((quick / own_store.EVALUATION).read_text())
    assert {"score", "table_score", "ebm_score", "black_box_score", "concurvity", "interaction"} <= set(figures)
    assert figures["ceiling"] is None and figures["effects"] == {}
    service = LocalService()
    path = service.run(ImagePathRequest("job-abc1", rows=(0, 5), frames=9))
    assert path.arrays["frames"].shape == (9, 64, 64, 3) and path.provenance.forward_passes > 0
    assert service.run(RecordRequest("job-abc1")).values["terms"][-1] == "image"


def test_a_small_diffusion_autoencoder_is_trained_and_its_progress_told(quick, monkeypatch):
    whole, few = own_training.autoencoder_recipe, {"encoder_steps": 4, "steps": 3, "batch": 4}
    monkeypatch.setattr(own_training, "autoencoder_recipe", lambda key: dataclasses.replace(whole(key), **few))
    dataset, seen = own_squares(80, 32), []
    quick.mkdir(parents=True)
    about = {"data": own_store.keep(dataset), "title": "sq"}
    own_training.fit_own(dataset, "short", 0, quick, seen.append, about=about)
    shares = [step.fraction for step in seen]
    assert shares == sorted(shares) and 0.9 < shares[-1] <= 1
    told = " ".join(step.message for step in seen)
    for words in ("learning to see the pictures", "fitting the effects", "comparing with other models"):
        assert words in told
    path = LocalService().run(ImagePathRequest("job-abc1", rows=(0, 5), frames=9))
    assert path.arrays["frames"].shape == (9, 32, 32, 3)


TINY = "test_vit.r160_in1k"  # of timm: small, and of the kind that needs its side named


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and a hub that does not answer."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: "http://127.0.0.1:9/nobody-listens-here")
    return tmp_path / "hub"


def put_into_cache(hub: Path) -> None:
    """Random weights in the hub's own layout."""
    import timm
    from safetensors.torch import save_file

    repository = timm.get_pretrained_cfg(TINY).hf_hub_id
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(TINY).state_dict()
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")


def test_without_network_a_hub_encoder_fails_in_one_sentence(quick, hub):
    with pytest.raises(NotAvailable, match="does not answer; connect once, or see the pictures another way") as raised:
        fitted(quick, "dinov2", 28)
    assert raised.value.field == "encoder"
    with pytest.raises(BadInput, match="timm has no network with weights named"):
        coders.fetch_hub_coder("no_such_net", 4)


def test_a_hub_encoder_codes_and_never_draws(quick, hub):
    put_into_cache(hub)
    seen = []
    dataset = own_squares(70, 28)
    quick.mkdir(parents=True)
    about = {"data": own_store.keep(dataset), "title": "sq"}
    card = own_training.fit_own(dataset, f"timm:{TINY}", 0, quick, lambda step: seen.append(step.message), about=about)
    assert "pictures seen" in seen[1] and card["encoder"] == f"timm:{TINY}"
    service = LocalService()
    assert len(service.run(ImageGalleryRequest("job-abc1", n=5)).arrays["images"]) == 5
    assert "shape_wave" in service.run(ShapeFunctionsRequest("job-abc1")).arrays
    assert service.run(RecordRequest("job-abc1")).values["terms"][-1] == "image"
    with pytest.raises(NotAvailable, match="cannot draw them, so there is no film strip"):
        service.run(ImagePathRequest("job-abc1", rows=(0, 5)))


def test_every_encoder_says_what_it_can_and_cannot_show():
    for key, encoder in own_store.ENCODERS.items():
        assert encoder.key == key and len(encoder.can) > 40 and len(encoder.cannot) > 40
    assert not own_store.find_encoder(f"timm:{TINY}").can_draw
    with pytest.raises(BadInput, match="unknown encoder 'x'"):
        own_store.find_encoder("x")


def test_a_model_is_taken_away_with_its_evaluation(quick, monkeypatch):
    queue = JobQueue(quick.parent, {own_store.JOB_KIND: f"{__name__}:fake_fit"})
    job = queue.submit(own_store.JOB_KIND, {"data": "none", "encoder": "pca", "seed": 0, "title": "t"})
    queue.attach(job)
    assert own_store.evaluation(queue, job) is None and own_store.evaluation(queue, "nobody") is None
    (queue.folder / job / own_store.EVALUATION).write_text('{"score": 0.5}')
    assert own_store.evaluation(queue, job) == {"score": 0.5}
    with zipfile.ZipFile(io.BytesIO(own_store.pack_model(queue, job))) as archive:
        assert archive.namelist() == [own_store.EVALUATION]
