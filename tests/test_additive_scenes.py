"""Scenes of additive decoding: the renderer's sum is exact, supports sample, project and refuse as they should."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.additive_decoding import data, supports
from backend.additive_decoding.recipes import OWN_IMAGES, Recipe, parse_support
from backend.additive_decoding.renderer import SHAPES, coverage, draw, turn_hue
from backend.additive_decoding.scenes import HIGH, LOW, Scene
from backend.additive_decoding.sources import read_pictures
from backend.additive_decoding.supports import Boxes, Missing, Polygon, from_mask, make_support
from backend.additive_decoding.train import train
from backend.errors import BadInput, NotAvailable, PrismError

PLANE = Scene(free=("x", "y"), side=32)
FOUR = Scene(shapes=SHAPES, free=("x", "y", "hue", "size"), side=32, radius=0.09)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------- renderer
@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_shapes_area(shape):
    side, radius = 128, 0.25
    cover = coverage(shape, torch.tensor([[0.5, 0.5]]), torch.tensor([radius]), side)[0]
    area = {"ball": np.pi, "square": 2.0, "triangle": 3 * np.sqrt(3) / 4}.get(shape)  # inscribed in the unit disc
    assert cover.min() >= 0 and cover.max() <= 1
    if area is not None:
        assert float(cover.sum()) / side**2 == pytest.approx(area * radius**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_inside_their_disc(shape):
    cover = coverage(shape, torch.tensor([0.5, 0.5]), torch.tensor(0.25), 64)
    around = coverage("ball", torch.tensor([0.5, 0.5]), torch.tensor(0.25 + 1 / 64), 64)
    assert bool((cover <= around + 1e-6).all())


def test_y_points_up():
    cover = coverage("ball", torch.tensor([0.5, 0.9]), torch.tensor(0.08), 32)
    assert float(cover[:8].sum()) > 0 and float(cover[16:].sum()) == 0


@pytest.mark.parametrize("scene", [Scene(), PLANE, FOUR, dataclasses.replace(FOUR, free=("x", "y"))], ids=str)
def test_objects_that_do_not_touch_add_up_exactly(scene):
    support = make_support("apart" if "x" in scene.free else "rectangle", scene)
    latents = support.sample(50, generator())
    together = scene.draw(latents) - 1
    blocks = latents.view(50, scene.n_objects, -1)
    alone = [scene.draw_block(i, blocks[:, i]) for i in range(scene.n_objects)]
    assert float((together - sum(alone)).abs().max()) < 1e-6
    assert float(torch.stack([part.abs() for part in alone]).sum(0).max()) <= 1 + 1e-6  # no pixel is used twice
    assert float(together.min()) >= -1 - 1e-6 and float(together.max()) <= 1e-6


def test_occlusion_breaks_additivity():
    near = torch.tensor([[0.5, 0.5, 0.55, 0.5]])
    added, hidden = PLANE.draw(near), dataclasses.replace(PLANE, occlusion=True).draw(near)
    assert float((added - hidden).abs().max()) > 0.3
    apart = torch.tensor([[0.2, 0.2, 0.8, 0.8]])
    torch.testing.assert_close(PLANE.draw(apart), dataclasses.replace(PLANE, occlusion=True).draw(apart))


def test_a_linear_truth_is_affine_in_its_latents_and_a_curved_one_is_not():
    def bend(scene):
        low, middle, high = (scene.draw(torch.full((1, 2), v)) for v in (0.3, 0.5, 0.7))
        return float((low - 2 * middle + high).abs().max())

    assert bend(Scene(nonlinearity=0.0)) < 1e-5
    assert bend(Scene(nonlinearity=0.0)) < bend(Scene(nonlinearity=0.5)) < bend(Scene(nonlinearity=1.0))


def test_hue_turns_and_keeps_value():
    torch.testing.assert_close(
        turn_hue(torch.tensor([0.2, 0.6, 0.4]), torch.tensor(1.0)), torch.tensor([0.2, 0.6, 0.4])
    )
    assert float(turn_hue(torch.tensor([0.2, 0.6, 0.4]), torch.tensor(0.3)).max()) == pytest.approx(0.6)


def test_drawing_is_the_same_one_by_one():
    latents = make_support("apart", PLANE).sample(5, generator())
    torch.testing.assert_close(PLANE.draw(latents), torch.cat([PLANE.draw(z[None]) for z in latents]))
    places, size = latents.view(5, 2, 2), torch.full((5, 2), 0.1)
    assert draw(("ball", "digit"), places, size, torch.zeros(5, 2, 3), 16).shape == (5, 3, 16, 16)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shapes": ("ball",) * 50}, "shapes"),
        ({"shapes": ("ball", "cone")}, "shapes"),
        ({"free": ("y", "y")}, "free"),
        ({"free": ()}, "free"),
        ({"side": 4}, "side"),
        ({"radius": 0.9}, "radius"),
        ({"nonlinearity": 2.0}, "nonlinearity"),
        ({"nonlinearity": 0.5, "occlusion": True}, "nonlinearity"),
    ],
)
def test_impossible_scenes_are_refused(change, field):
    with pytest.raises(BadInput) as refusal:
        dataclasses.replace(Scene(), **change)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        ([[0.5, float("nan")]], "not a number"),
        ([[0.5, 1.5]], "outside the frame"),
        ([[0.5]], r"expected \(N, 2\)"),
    ],
)
def test_impossible_latents_are_refused(latents, words):
    with pytest.raises(BadInput, match=words):
        Scene().draw(torch.tensor(latents))


# ----------------------------------------------------------------- supports
def scene_for(name: str) -> Scene:
    return PLANE if name.startswith("apart") else Scene()


@pytest.mark.parametrize("name", supports.SUPPORTS)
def test_samples_lie_in_their_support_and_repeat_by_seed(name):
    support = make_support(name, scene_for(name))
    draws = support.sample(300, generator(1))
    assert draws.shape == (300, support.n_latents) and bool(support.contains(draws).all())
    torch.testing.assert_close(draws, support.sample(300, generator(1)))
    assert bool(support.extension(scene_for(name).blocks).contains(draws).all())


@pytest.mark.parametrize(
    ("name", "components"),
    [("rectangle", 1), ("l", 1), ("u", 1), ("bands", 2), ("corners", 2), ("dependent-linear", 1), ("apart", 1)],
)
def test_components(name, components):
    assert make_support(name, scene_for(name)).components() == components


def test_sampling_is_uniform():
    draws = make_support("l", Scene()).sample(20_000, generator())
    in_corner = ((draws < 0.5).all(1)).float().mean()
    assert float(in_corner) == pytest.approx(1 / 3, abs=0.015)  # three equal squares


def test_the_l_extends_to_the_square_and_misses_a_corner():
    blocks = Scene().blocks
    support = make_support("l", Scene())
    extension = support.extension(blocks)
    corner = torch.tensor([[0.8, 0.8], [0.51, 0.89]])
    assert bool(extension.contains(corner).all()) and not bool(support.contains(corner).any())
    missing = Missing(support, extension).sample(200, generator())
    assert bool((missing >= 0.5).all()) and not support.is_product(blocks)
    assert make_support("rectangle", Scene()).is_product(blocks)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=16, max_size=16).filter(any))
def test_a_painted_extension_is_the_product_of_its_shadows(cells):
    mask = np.array(cells).reshape(4, 4)
    support = from_mask(mask)
    np.testing.assert_array_equal(support.raster(4), mask)
    shadow = mask.any(1)[:, None] & mask.any(0)[None]
    np.testing.assert_array_equal(support.extension(((0,), (1,))).raster(4), shadow)
    assert support.components() == supports.count_components(mask)
    assert bool(support.contains(support.sample(20, generator())).all())


def test_a_support_of_one_cell_is_a_support():
    mask = np.zeros((64, 64), dtype=bool)
    mask[10, 20] = True
    draws = from_mask(mask).sample(50, generator())
    assert bool((draws[:, 0] * 64).floor().eq(10).all()) and bool((draws[:, 1] * 64).floor().eq(20).all())


def test_a_polygon_contains_and_projects_exactly():
    triangle = Polygon(((0.1, 0.1), (0.9, 0.1), (0.1, 0.5)))
    inside = torch.tensor([[0.2, 0.2], [0.8, 0.4], [0.05, 0.2], [0.5, 0.25]])
    assert triangle.contains(inside).tolist() == [True, False, False, True]
    extension = triangle.extension(((0,), (1,)))
    assert extension.low == pytest.approx((0.1, 0.1)) and extension.high == pytest.approx((0.9, 0.5))


def test_touching_objects_are_never_drawn_together():
    draws = make_support("apart", FOUR).sample(200, generator())
    places = draws.view(200, 4, 4)[..., :2]
    distance = torch.cdist(places, places) + torch.eye(4)
    assert float(distance.min()) >= 2 * FOUR.radius


def test_dependent_balls_keep_their_rule():
    draws = make_support("apart-dependent", PLANE).sample(500, generator())
    is_high = draws[:, :2].sum(1) >= 1
    assert bool((draws[is_high, 2] <= 0.5).all()) and bool((draws[~is_high, 2] >= 0.5).all())
    assert 0.3 < float(is_high.float().mean()) < 0.7


BOWTIE = [[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "unknown support"),
        ("apart", "move in x and y"),
        ("{", "not JSON"),
        ('{"circle": 1}', "either a polygon or a mask"),
        (json.dumps({"polygon": [[0.1, 0.1], [0.9, 0.1]]}), "3..500 vertices"),
        (json.dumps({"polygon": BOWTIE}), "crosses itself"),
        (json.dumps({"polygon": [[0.1, 0.1], [1.2, 0.1], [0.5, 0.5]]}), "outside the frame"),
        (json.dumps({"polygon": [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]}), "no area"),
        (json.dumps({"polygon": [[0.1, "a"], [0.5, 0.5], [0.9, 0.9]]}), "pairs of numbers"),
        ('{"polygon": [[0.1, NaN], [0.5, 0.5], [0.9, 0.1]]}', "not a number"),
        (json.dumps({"mask": ["00", "00"]}), "empty"),
        (json.dumps({"mask": ["01", "0"]}), "equally long rows"),
        (json.dumps({"mask": ["0x"]}), "0 and 1"),
        (json.dumps({"mask": ["1" * 300] * 300}), "at most 256"),
    ],
)
def test_impossible_supports_are_refused_with_one_sentence(text, words):
    with pytest.raises(BadInput, match=words) as refusal:
        parse_support(text, Scene())
    assert refusal.value.field == "support" and "\n" not in refusal.value.sentence


def test_boxes_outside_the_frame_are_refused():
    with pytest.raises(BadInput, match="outside the frame"):
        Boxes(torch.tensor([[[0.0, 0.0], [1.0, 1.5]]]))
    with pytest.raises(BadInput, match="2 latents; the scene has 4"):
        parse_support(json.dumps({"mask": ["11"]}), PLANE)


def test_too_crowded_scenes_are_refused():
    crowded = dataclasses.replace(FOUR, radius=0.29)
    with pytest.raises(BadInput, match="empty"):
        make_support("apart", crowded).sample(10, generator())


# ----------------------------------------------------------------- users' own scenes
@pytest.fixture
def dsprites(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "dsprites.npz"
    np.savez(path, imgs=(rng.random((20, 16, 16)) > 0.5).astype(np.uint8), latents_values=rng.random((20, 6)))
    return path


def test_dsprites_are_read(dsprites):
    found = data.load_dsprites(dsprites, n=8)
    assert found.images.shape == (8, 3, 16, 16) and set(found.images.unique().tolist()) <= {0.0, 1.0}
    assert found.latents.shape == (8, 5) and len(found.names) == 5 and found.blocks == ((0, 1, 2), (3, 4))
    assert float(found.latents.min()) == 0 and float(found.latents.max()) == 1
    torch.testing.assert_close(found.images, data.load_dsprites(dsprites, n=8).images)
    assert data.load_dsprites(dsprites, n=100, sha256=found.digest).digest == found.digest


def test_dsprites_that_are_none_are_refused(dsprites, tmp_path):
    with pytest.raises(BadInput, match="another sha256"):
        data.load_dsprites(dsprites, sha256="0" * 64)
    with pytest.raises(NotAvailable, match="no file"):
        data.load_dsprites(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", imgs=np.zeros((2, 4, 4)))
    with pytest.raises(BadInput, match="not dSprites"):
        data.load_dsprites(tmp_path / "other.npz")
    np.savez(tmp_path / "code.npz", imgs=np.array([{}], dtype=object), latents_values=np.zeros((1, 6)))
    with pytest.raises(BadInput, match="imgs is no plain array of numbers"):
        data.load_dsprites(tmp_path / "code.npz")
    with pytest.raises(BadInput, match="n is 0"):
        data.load_dsprites(dsprites, n=0)


@pytest.fixture
def clevr(tmp_path):
    scenes = []
    for i in range(4):
        Image.new("RGB", (48, 32), (40 * i, 10, 10)).save(tmp_path / f"scene_{i}.png")
        objects = [{"3d_coords": [i, 2.0 - i, 0.5]}, {"3d_coords": [-i, i / 2, 0.1]}]
        scenes.append({"image_filename": f"scene_{i}.png", "objects": objects})
    (tmp_path / "made_scenes.json").write_text(json.dumps({"scenes": scenes}))
    return tmp_path


def test_clevr_folders_are_read(clevr):
    found = data.load_clevr(clevr, side=16)
    assert found.images.shape == (4, 3, 16, 16) and found.latents.shape == (4, 6)
    assert found.blocks == ((0, 1, 2), (3, 4, 5)) and found.names[3] == "x of 2"
    assert found.latents[:, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    (clevr / "made_scenes.json").unlink()
    assert data.load_clevr(clevr, side=16).latents is None


@pytest.mark.parametrize("sizes", [(), (2, 3)])
def test_a_decoder_is_trained_on_a_users_sprites(tmp_path, sizes):
    rng = np.random.default_rng(0)
    path = tmp_path / "dsprites.npz"
    np.savez(path, imgs=(rng.random((60, 16, 16)) > 0.5).astype(np.uint8), latents_values=rng.random((60, 6)))
    recipe = dataclasses.replace(
        OWN_IMAGES, scene=Scene(side=16), images=str(path), block_sizes=sizes, width=12, rank=3, starts=3,
        start_steps=5, steps=5, batch=8,
    )  # fmt: skip
    card = train("own-images", folder=tmp_path, recipe=recipe)
    assert card["network"]["blocks"] == ([[0, 1], [2, 3, 4]] if sizes else [[0, 1, 2], [3, 4]])
    assert card["figures"]["rmse"] > 0 and card["figures"]["held_out_pictures"] == 6
    assert Image.open(tmp_path / card["grid"]).size == (4 * 16 + 4, 4 * 16 + 4)  # beside the pictures that lend blocks
    assert Recipe.from_json(json.loads(json.dumps(card["recipe"]))) == recipe


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"block_sizes": (5,)}, "blocks"),
        ({"images": "nothing.npz"}, "path"),
        ({"images": "own:nothing"}, "images"),
        ({"images": "own:../../secret"}, "images"),
    ],
)
def test_pictures_that_cannot_be_trained_on_are_refused(dsprites, change, field):
    recipe = dataclasses.replace(OWN_IMAGES, **{"scene": Scene(side=16), "images": str(dsprites), **change})
    with pytest.raises(PrismError) as refusal:
        recipe.make_source()
    assert refusal.value.field == field
    with pytest.raises(BadInput, match="20 pictures; training needs at least 50"):
        dataclasses.replace(OWN_IMAGES, scene=Scene(side=16), images=str(dsprites)).make_source()


def test_pictures_without_factors_need_the_sizes_of_their_blocks(clevr):
    (clevr / "made_scenes.json").unlink()
    with pytest.raises(BadInput, match="name the sizes of the blocks"):
        read_pictures(str(clevr), 16)


def test_clevr_folders_that_are_none_are_refused(clevr, tmp_path):
    with pytest.raises(NotAvailable, match="no folder"):
        data.load_clevr(tmp_path / "nothing")
    (clevr / "made_scenes.json").write_text("[]")
    with pytest.raises(BadInput, match="CLEVR's layout"):
        data.load_clevr(clevr)
    (clevr / "made_scenes.json").unlink()
    (clevr / "scene_0.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="scene_0.png is not a picture"):
        data.load_clevr(clevr)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no picture"):
        data.load_clevr(tmp_path / "empty")


def test_the_range_of_latents_is_the_frame_that_supports_use():
    assert make_support("rectangle", Scene()).low == pytest.approx((LOW, LOW))
    assert make_support("rectangle", Scene()).high == pytest.approx((HIGH, HIGH))
