"""Data sets that users bring: each in its own layout, as tiny as can be, up to the table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.image_text import evaluate, loaders
from backend.image_text.held import Held
from backend.images import encode_png
from backend.runtime import Runtime
from tests.pairs import SIDE, tiny_pair

TEXTS = ("a small nodule", "no effusion", "the lungs are clear", "effusion in the left lung")


def picture(path: Path, seed: int, shape: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.random.default_rng(seed).random(shape)))  # PNG whatever the ending says


def ms_cxr(folder: Path) -> None:
    fields = ["category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height", "dicom_id"]
    with (folder / "MS_CXR_Local_Alignment_v1.0.0.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, fields)
        rows.writeheader()
        for k, text in enumerate(TEXTS):
            path = f"files/p10/p{k}/s{k}/{k}.jpg"
            picture(folder / path, k)
            row = {"category_name": "Nodule", "label_text": text, "path": path, "image_width": 60, "image_height": 40}
            rows.writerow({**row, "x": 20, "y": 10, "w": 10, "h": 10, "dicom_id": k})
            rows.writerow({**row, "x": 30, "y": 20, "w": 10, "h": 10, "dicom_id": k})


def conceptual_captions(folder: Path) -> None:
    lines = [f"{text}\thttp://host.example/a/{k}.jpg?w=3" for k, text in enumerate(TEXTS)]
    (folder / "Validation_GCC-1.1.0-Validation.tsv").write_text(
        "\n".join([*lines, "gone\thttp://host.example/gone.jpg"])
    )
    for k in range(3):
        picture(folder / "images" / f"{k}.jpg", k)
    picture(folder / "images" / "000000003.png", 3)


def roco(folder: Path) -> None:
    for split in ("train", "test"):
        place = folder / split / "radiology"
        for k in range(2):
            picture(place / "images" / f"ROCO_{split}{k}.jpg", k)
        lines = [f"ROCO_{split}{k}\t {TEXTS[k]}\n" for k in range(2)] + ["ROCO_missing\tgone\n"]
        (place / "captions.txt").write_text("".join(lines))


def rsicd(folder: Path) -> None:
    rows = [{"filename": f"{k}.jpg", "sentences": [{"raw": text}], "split": "test"} for k, text in enumerate(TEXTS)]
    (folder / "dataset_rsicd.json").write_text(json.dumps({"images": rows}))
    for k in range(len(TEXTS)):
        picture(folder / "RSICD_images" / f"{k}.jpg", k)


LAYOUTS = {"MS-CXR": ms_cxr, "Conceptual Captions": conceptual_captions, "ROCO": roco, "RSICD": rsicd}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_up_to_the_table(name, tmp_path):
    LAYOUTS[name](tmp_path)
    found, listed = loaders.list_pairs(tmp_path)
    assert found == name and len(listed) == 4
    pair = tiny_pair(images="radiograph")
    with torch.no_grad():
        held = Held(pair.embed_images(torch.rand(3, 1, SIDE, SIDE)), pair.embed_texts(["clear", "no effusion"]))
    bench = loaders.user_bench(pair, held, tmp_path, 10)
    table = evaluate.evaluate(bench, Runtime("cpu"), ("saliency",))
    cells = {row["name"]: row["metrics"] for row in table["rows"]}
    assert table["n"] == 2 and name in table["about"] and cells["saliency"]["image_drop"]["n"] == 2
    assert ("iou" in cells["saliency"]) == (name == "MS-CXR")


def test_boxes_follow_the_picture_into_the_model(tmp_path):
    ms_cxr(tmp_path)
    _, listed = loaders.list_pairs(tmp_path)
    assert len(listed[0].boxes) == 2  # two boxes of one phrase on one image
    mask = loaders._mask(listed[0].boxes, (40, 60), tiny_pair(images="radiograph"))
    # 60 x 40 is scaled by 32 / 40 and loses 8 columns on either side
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[8:16, 8:16] = expected[16:24, 16:24] = True
    assert (mask ^ expected).double().mean() < 0.02


@pytest.mark.parametrize("damage, sentence", [
    (lambda folder: None, "no known data set"),
    (lambda folder: (folder / "dataset_rsicd.json").write_text("[]"), "RSICD"),
    (lambda folder: (folder / "MS_CXR_Local_Alignment.csv").write_text("a,b\n1,2\n"), "line 2"),
    (lambda folder: (folder / "captions.txt").write_text("ROCO_1\tgone\n"), "none of the listed"),
])  # fmt: skip
def test_what_is_no_data_set_is_refused(tmp_path, damage, sentence):
    damage(tmp_path)
    with pytest.raises(BadInput, match=sentence):
        loaders.list_pairs(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="there is no"):
        loaders.list_pairs(tmp_path / "nowhere")
