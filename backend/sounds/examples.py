"""Sounds that ship: `write_examples` makes them from numbers that no split has."""

import json
from pathlib import Path

from PIL import Image

from backend.audio import encode_flac
from backend.image_text.examples import FOLDER, LISTS
from backend.sounds.captions import noun, sentence
from backend.sounds.data import clip, generator_of, picture_of
from backend.sounds.synthesis import RATE, SPECTROGRAM, Clip

_WANTED = (("siren", "dog"), ("bell", "bird"), ("telephone", "engine"), ("rain", "drum"))
_APART_S = 0.1  # between two sounds of an example


def write_examples(folder: Path = FOLDER) -> list[str]:
    """Write clips of two sounds, one after the other, a picture for each, and their list; returns their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, kinds in enumerate(_WANTED, 1):
        key, made = f"sound-{number:02}", _first(kinds)
        (folder / f"{key}.flac").write_bytes(encode_flac(made.samples, RATE))
        drawn = picture_of(made, generator_of("examples", number, kinds=kinds))
        Image.fromarray(drawn).save(folder / f"{key}-picture.png", optimize=True)
        said = [f"{sentence(sound.kind)}.".capitalize() for sound in made.sounds]
        first, second = (noun(sound.kind) for sound in made.sounds)
        said.append(f"{first} before {second}.".capitalize())
        found = []
        for k, sound in enumerate(made.sounds):
            left, right = (round(at * RATE / SPECTROGRAM.hop) for at in (sound.start_s, sound.end_s))
            box = [left, 0, min(right, SPECTROGRAM.n_frames), SPECTROGRAM.n_mels]
            about = {"kind": sound.kind, "side": "", "place": "", "size": ""}
            found.append({**about, "sentence": k, "box": box, "mask": ""})
        files = {"image": f"{key}.flac", "picture": f"{key}-picture.png"}
        rows.append({"key": key, **files, "report": said, "findings": found})
    size = [SPECTROGRAM.n_frames, SPECTROGRAM.n_mels]
    told = {"command": "backend.sounds.examples.write_examples", "size": size, "examples": rows}
    (folder / LISTS["sounds-clip"]).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return [row["key"] for row in rows]


def _first(kinds: tuple[str, ...]) -> Clip:
    number = 0
    while True:
        made = clip("examples", number, kinds=kinds)
        if made.sounds[1].start_s - made.sounds[0].end_s > _APART_S:
            return made
        number += 1
