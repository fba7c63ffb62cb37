"""Decoders of a user's own pictures: files in, one sentence for each bad one, a job, figures; nothing left behind."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from streamlit.testing.v1 import AppTest

from backend import archives, jobs, tables
from backend.additive_decoding import own_data, own_store
from backend.additive_decoding.own_data import OwnPictures, Roles
from backend.additive_decoding.sources import read_pictures
from backend.errors import BadInput
from backend.jobs import JobQueue
from backend.limits import Limits
from backend.models.additive_decoder import LINKS, Autoencoder
from pages.decoder import own_pictures

N, SIDE = 60, 16


def sprites(n: int = 600, **changes: np.ndarray) -> bytes:
    """A file in dSprites' layout; picture i begins with the bits of i."""
    images = np.zeros((n, SIDE, SIDE), np.uint8)
    for bit in range(10):
        images[:, 0, bit] = np.arange(n) >> bit & 1
    arrays = {"imgs": images, "latents_values": np.arange(n * 6.0).reshape(n, 6)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**arrays, **changes})
    return buffer.getvalue()


def archive(n: int = N, extra: dict[str, bytes] | None = None, prefix: str = "images/") -> bytes:
    """Pictures whose grey value rises, and other files beside them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for i in range(n):
            picture = io.BytesIO()
            Image.new("RGB", (24, 20), (i, i, i)).save(picture, "PNG")
            file.writestr(f"{prefix}scene_{i}.png", picture.getvalue())
        for name, data in (extra or {}).items():
            file.writestr(name, data)
    return buffer.getvalue()


def factors_table(n: int = N, broken: str = "") -> tables.Table:
    rows = [f"scene_{i}.png,{i / 2},{'ab'[i % 2]},{i * i}" for i in range(n)]
    return tables.read_table("\n".join(["file,height,kind,size", *rows[:-1], broken or rows[-1]]).encode())


def read_all(*args, **kwargs) -> OwnPictures:
    *_, (seen, total, found) = own_data.read_archive(*args, **kwargs)
    assert seen == total == len(found)
    return found


# ----------------------------------------------------------------- dSprites
def test_a_sprite_file_is_streamed_to_the_rows_that_are_wanted():
    found = own_data.read_sprites(sprites(), n=100, seed=3)
    index = own_data.draw_lots(600, 100, 3)
    bits = (found.pixels[:, 0, :10, 0] > 0) @ (1 << np.arange(10))
    assert np.array_equal(bits, index)
    assert np.array_equal(found.factors, index[:, None] * 6.0 + np.arange(1, 6))  # colour is left out
    assert found.names == own_data.DSPRITES_FACTORS and found.sizes == (3, 2)
    assert len(own_data.read_sprites(sprites(), n=10_000)) == 600


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no archive", "not dSprites"),
        (sprites()[:-3000], "not dSprites"),
        (archive(3), "not dSprites"),
        (sprites(imgs=np.array([{}] * 600, dtype=object)), "imgs is no plain array of numbers"),
        (sprites(latents_values=np.array([{}] * 600, dtype=object)), "latents_values is no plain array"),
        (sprites(imgs=np.zeros((600, 16, 12), np.uint8)), "square pictures"),
        (sprites(imgs=np.zeros((599, 16, 16), np.uint8)), "square pictures"),
        (sprites(imgs=np.full((600, 16, 16), 7, np.uint8)), "pixels between 0 and 1"),
        (sprites(imgs=np.full((600, 16, 16), np.nan)), "pixels between 0 and 1"),
        (sprites(latents_values=np.full((600, 6), np.inf)), "finite numbers"),
        (sprites(latents_values=np.zeros((600, 3))), "finite numbers"),
    ],
)
def test_files_that_are_no_dsprites_are_refused_with_one_sentence(data, words):
    with pytest.raises(BadInput, match=words) as refusal:
        own_data.read_sprites(data)
    assert refusal.value.field == "images"


def test_a_sprite_file_that_would_fill_the_memory_is_refused_before_it_is_unpacked():
    with pytest.raises(BadInput, match="up to 0 MB are read"):
        own_data.read_sprites(sprites(), limits=dataclasses.replace(Limits(), max_sprite_bytes=1000))
    with pytest.raises(BadInput, match="up to 0 MB are read"):
        own_data.read_sprites(sprites(), limits=dataclasses.replace(Limits(), max_archive_bytes=1000))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 2**10, 2**10)}
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("latents_values.npy", header.getvalue())
        file.writestr("imgs.npy", header.getvalue())
    with pytest.raises(BadInput, match="MB are read"):
        own_data.read_sprites(buffer.getvalue())


# ----------------------------------------------------------------- archives
def test_pictures_get_their_factors_from_a_table():
    found = read_all(archives.open_archive(archive()), 8, factors_table())
    assert found.pixels.shape == (N, 8, 8, 3) and found.names == ("height", "kind", "size")
    assert np.array_equal(found.pixels[:, 0, 0, 0], np.arange(N))
    assert np.array_equal(found.factors[:, 0], np.arange(N) / 2) and set(found.factors[:, 1]) == {0, 1}
    chosen = read_all(archives.open_archive(archive()), 8, factors_table(), Roles("file", ("size",)))
    assert chosen.names == ("size",) and chosen.factors.shape == (N, 1)


def test_pictures_get_their_factors_from_a_scenes_file_or_from_nowhere():
    objects = [[{"3d_coords": [i, 0, 1]}, {"3d_coords": [0, -i, 2]}] for i in range(N)]
    scenes = {"scenes": [{"image_filename": f"scene_{i}.png", "objects": o} for i, o in enumerate(objects)]}
    data = archive(extra={"CLEVR_scenes.json": json.dumps(scenes).encode()})
    found = read_all(archives.open_archive(data), 8)
    assert found.sizes == (3, 3) and found.names[4] == "y of 2"
    assert np.array_equal(found.factors[:, 4], -found.pixels[:, 0, 0, 0].astype(float))
    plain = read_all(archives.open_archive(archive()), 8)
    assert plain.factors is None and plain.names == () and len(plain) == N


@pytest.mark.parametrize(
    ("data", "table", "words"),
    [
        (archive(10), None, "there are 10 pictures; training needs at least 50"),
        (archive(), factors_table(broken="elsewhere.png,1,a,2"), "row 60: there is no picture 'elsewhere.png'"),
        (archive(), factors_table(broken="scene_1.png,,a,2"), "row 60: height is missing"),
        (archive(), factors_table(broken="scene_1.png,tall,a,2"), "row 60: height is 'tall'; expected a number"),
        (archive(extra={"images/scene_9.png": b"no picture"}, prefix="other/"), None, "row [0-9]+: "),
        (archive(extra={"a_scenes.json": b"[]"}), None, "CLEVR's layout"),
        (archive(extra={"a_scenes.json": b'{"scenes": []}'}), None, "no picture of the archive is named"),
        (
            archive(extra={"a_scenes.json": b'{"scenes": [{"image_filename": "scene_1.png", "objects": []}]}'}),
            None,
            "there are 1 pictures",
        ),
    ],
)
def test_archives_that_cannot_be_trained_on_are_refused_with_one_sentence(data, table, words):
    with pytest.raises(BadInput, match=words):
        list(own_data.read_archive(archives.open_archive(data), 8, table))


def test_places_need_three_finite_coordinates():
    with pytest.raises(BadInput, match="not 3 finite coordinates"):
        own_data.stack_places([[[0.0, float("nan"), 1.0]]])
    assert own_data.stack_places([[[0.0, 1.0, 2.0]], []]) == (None, (), ())


def test_tables_that_name_no_pictures_are_refused():
    table = tables.read_table(b"a,b\n1,2\n3,5\n4,6\n7,7")
    with pytest.raises(BadInput, match="no column of the table names pictures"):
        own_data.guess_roles(table)
    with pytest.raises(BadInput, match="names the pictures; it is no factor"):
        own_data.read_factors(factors_table(), Roles("file", ("file",)))


@pytest.mark.parametrize("text", ["", "3", "3, x", "0, 2", "-1, 2", "40, 40", "1" * 30 + ",2", "³, 2"])
def test_sizes_that_are_no_partition_are_refused(text):
    with pytest.raises(BadInput) as refusal:
        own_data.parse_sizes(text)
    assert refusal.value.field == "blocks"


# ----------------------------------------------------------------- kept pictures and jobs
@pytest.fixture
def home(tmp_path, monkeypatch) -> JobQueue:
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    return JobQueue(tmp_path / "jobs", {"train": "backend.training:job"})


def pictures(n: int = N) -> OwnPictures:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (n, SIDE, SIDE, 3)).astype(np.uint8)
    return OwnPictures(pixels, rng.random((n, 2)).astype(np.float32), ("up", "right"), (1, 1), "f" * 64)


def job_of(images: str, **recipe: object) -> dict:
    small = {"width": 12, "rank": 3, "starts": 3, "start_steps": 5, "steps": 5, "batch": 8, "scene": {"side": SIDE}}
    body = {"base": own_store.RECIPE, "images": images, "block_sizes": [1, 1], **small, **recipe}
    return {"name": own_store.RECIPE, "family": own_store.FAMILY, "seed": 0, "recipe": body, "title": "mine"}


def test_kept_pictures_come_back_equal(home):
    first = pictures()
    key = own_store.keep(first)
    assert own_store.keep(pictures()) == key
    again = own_store.read(key)
    assert np.array_equal(again.pixels, first.pixels) and np.array_equal(again.factors, first.factors)
    assert (again.names, again.sizes) == (first.names, first.sizes)
    without = dataclasses.replace(first, factors=None, names=(), sizes=())
    assert own_store.read(own_store.keep(without)).factors is None
    source = read_pictures(own_store.PREFIX + key, 8)
    assert (
        source.side == 8 and source.blocks == ((0,), (1,)) and source.draw(source.hold_out(3, None), 4).shape[-1] == 4
    )


def test_a_training_on_kept_pictures_is_a_job_and_is_forgotten_with_them(home, tmp_path):
    images = own_store.PREFIX + own_store.keep(pictures())
    done = home.submit("train", job_of(images))
    card = home.attach(done)
    assert card["figures"]["rmse"] > 0 and card["figures"]["rmse_of_mean"] == pytest.approx(0.264, abs=0.005)
    assert card["recipe"]["images"] == images and str(tmp_path) not in json.dumps(card)
    other = home.submit("train", job_of(images, kind="masked"))
    home.attach(other)
    assert [job.id for job in own_store.trainings(home)] == [other, done]
    with zipfile.ZipFile(io.BytesIO(own_store.pack_model(home, done))) as packed:
        assert set(packed.namelist()) == {"own-images.json", "own-images.safetensors", "own-images-grid.png"}
    own_store.forget(home, done)
    assert list((tmp_path / "data").iterdir()), "another training still needs them"
    own_store.forget(home, other)
    assert not list((tmp_path / "data").iterdir()) and not own_store.trainings(home)


@pytest.mark.parametrize("link", LINKS)
def test_decoders_add_to_the_mean_picture_and_bring_it_along(home, tmp_path, link):
    """Without any block, a decoder of own pictures answers their mean, at every side it grows to."""
    images = own_store.PREFIX + own_store.keep(pictures())
    card = home.attach(home.submit("train", job_of(images, link=link)))
    assert card["network"]["background"] is True
    folder = next((tmp_path / "jobs").glob("*/own-images.safetensors")).parent
    state = load_file(folder / "own-images.safetensors")
    mean, contrast = read_pictures(images, SIDE).background()
    torch.testing.assert_close(state["decoder.background"].float(), mean, atol=1e-3, rtol=0)
    assert float(state["decoder.contrast"]) == pytest.approx(contrast, abs=1e-3)
    model = Autoencoder(**card["network"])
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    for net in model.decoder.nets:
        net.profiles.weight.data.zero_()
        net.profiles.bias.data.zero_()
    torch.testing.assert_close(model.decode(torch.zeros(1, 2))[0], mean, atol=2e-3, rtol=0)
    assert model.decoder.standardise(mean[None]).sub(1).abs().max() < 0.01


def test_pictures_that_were_forgotten_fail_with_their_sentence(home):
    job = home.submit("train", job_of(own_store.PREFIX + "0" * 64))
    with pytest.raises(BadInput, match="were forgotten; bring them again"):
        home.attach(job)


# ----------------------------------------------------------------- the page
def fake_training(args: dict, context: object) -> dict:
    """Stands in for a training run: its answer, without its work."""
    figures = {"rmse": 0.05, "rmse_of_mean": 0.2, "lms_tree": 97.5, "held_out_pictures": 6}
    return {"figures": figures, "grid": "own-images-grid.png"}


@pytest.fixture
def desk(home, tmp_path, monkeypatch):
    """The part of the page alone, with a queue that trains nothing."""
    queue = JobQueue(tmp_path / "jobs", {"train": f"{__name__}:fake_training"})
    monkeypatch.setattr(jobs, "default_queue", lambda: queue)
    for module in ("own_pictures", "previews"):
        monkeypatch.setattr(f"pages.decoder.{module}.jobs", lambda: queue)
    return AppTest.from_function(own_pictures_alone, default_timeout=60), queue


def own_pictures_alone() -> None:
    from pages.decoder.own_pictures import show_own_pictures

    show_own_pictures()


def texts(page: AppTest) -> str:
    return "\n".join(item.value for item in (*page.markdown, *page.caption)).replace("\\", "")


def test_pictures_with_a_table_are_trained_on_and_told(desk):
    page, queue = desk
    page.session_state["decoder.own.files"] = archives.open_archive(archive())
    page.session_state["decoder.own.table"] = factors_table()
    page.session_state["decoder.own.name"] = "scenes.zip"
    page.run()
    assert not page.exception and "60 pictures, 3 factors" in texts(page)
    page.text_input(key="decoder.own.sizes").set_value("5").run()
    assert "expected two or more" in texts(page) and page.button(key="decoder.own.train").disabled
    page.text_input(key="decoder.own.sizes").set_value("2, 1").run()
    assert "block 1**: height, kind" in texts(page)
    page.segmented_control(key="decoder.own.kind").set_value("masked").run()
    page.button(key="decoder.own.train").click().run()
    assert not page.exception
    (job,) = queue.list()
    queue.attach(job.id)
    recipe = job.args["recipe"]
    assert (recipe["kind"], recipe["block_sizes"], recipe["scene"]) == ("masked", [2, 1], {"side": 32})
    assert recipe["encoder"] == "convolutional", "these pictures are grey"
    page.run()
    assert "Masked decoder of scenes.zip" in texts(page) and "0.0500" in texts(page) and "97.5" in texts(page)
    page.button(key=f"decoder.own.forget.{job.id}").click().run()
    assert not page.exception and not queue.list()


def test_a_table_that_does_not_fit_is_one_sentence_and_the_rest_stays(desk):
    page, queue = desk
    page.session_state["decoder.own.files"] = archives.open_archive(archive())
    page.session_state["decoder.own.table"] = factors_table(broken="elsewhere.png,1,a,2")
    page.run()
    assert not page.exception and "row 60: there is no picture 'elsewhere.png'" in texts(page)
    assert not page.button and page.session_state["decoder.own.files"] is not None


def test_what_was_refused_leaves_the_file_before_on_the_desk(desk, monkeypatch):
    page, _ = desk
    with pytest.raises(BadInput):
        own_pictures._begin("new.npz", b"broken")
    page.session_state["decoder.own.sprites"] = own_data.read_sprites(sprites())
    page.session_state["decoder.own.refusal"] = "new.npz: the file is not dSprites"
    page.run()
    assert "the file is not dSprites" in texts(page) and "600 pictures, 5 factors" in texts(page)
    assert page.text_input(key="decoder.own.sizes").value == "3, 2"


def test_the_paths_of_an_archive_stay_inside_it():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../outside.png", Path(__file__).read_bytes())
    with pytest.raises(BadInput, match="leads outside"):
        archives.open_archive(buffer.getvalue())
