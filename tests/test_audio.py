"""Sounds: decoding with one-sentence refusals, spectrograms of tones, and the third modality's tower and requests."""

import dataclasses
import io
import json

import numpy as np
import pytest
import soundfile
import torch

from backend import audio
from backend import service as engine
from backend.__main__ import main
from backend.contracts import (
    PairMapRequest,
    PairRandomisationRequest,
    PairScoreRequest,
    ReportMapsRequest,
    Result,
)
from backend.errors import BadInput
from backend.image_text import bottleneck
from backend.image_text.problem import Problem
from backend.images import encode_png
from backend.limits import LIMITS
from backend.models.spectrograms import LogMel, resample
from tests.helpers import relative_difference
from tests.pairs import HEARING, REPORT, SIDE, hearing_pair, pair_service
from tests.plain_m2ib import PlainBottleneck

RATE = 8000


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


# ----------------------------------------------------------------- decoding
@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", None)]
)
def test_files_come_back_as_they_were_made(format, subtype):
    decoded = audio.decode(wav(tone(440), format=format, subtype=subtype))
    np.testing.assert_allclose(decoded.samples, tone(440), atol=1e-4)
    assert (decoded.sample_rate, decoded.duration_s, decoded.notes) == (RATE, 0.5, ())


def test_channels_are_averaged_and_loud_samples_scaled():
    stereo = np.stack([tone(440), np.zeros(4000, np.float32)], 1)
    decoded = audio.decode(wav(stereo))
    np.testing.assert_allclose(decoded.samples, tone(440) / 2, atol=1e-4)
    assert decoded.notes == ("2 channels averaged",)
    loud = audio.decode(wav(8 * tone(440), subtype="FLOAT"))
    assert np.abs(loud.samples).max() == pytest.approx(1) and "scaled to 1" in loud.notes[0]


def test_what_is_encoded_is_decoded():
    for encode in (audio.encode_wav, audio.encode_flac):
        np.testing.assert_allclose(audio.decode(encode(tone(300), RATE)).samples, tone(300), atol=1e-4)


def _broken_float() -> bytes:
    samples = tone(440)
    samples[7] = np.nan
    return wav(samples, subtype="FLOAT")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"ID3" + bytes(400), "neither WAV nor FLAC"),
        (b"OggS" + bytes(400), "neither WAV nor FLAC"),
        (encode_png(np.zeros((4, 4))), "neither WAV nor FLAC"),
        (b"RIFF" + bytes(40), "truncated or damaged"),
        (b"fLaC" + bytes(40), "truncated or damaged"),
        (wav(tone(440), format="FLAC")[:900], "truncated|ends after"),
        (wav(np.zeros(4000, np.float32)), "silent"),
        (wav(tone(440, 0.01)), "at least 0.05 s"),
        (wav(np.zeros((400, 9), np.float32)), "9 channels"),
        (wav(tone(440, 0.5, 2000), 2000), "sample rate is 2000"),
        (_broken_float(), "not numbers"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_what_cannot_be_heard_is_refused_in_one_sentence(data, said):
    with pytest.raises(BadInput, match=said) as refused:
        audio.decode(data)
    assert refused.value.field == "audio" and "\n" not in refused.value.sentence


def test_limits_of_size_and_length_are_told_before_anything_is_unpacked():
    with pytest.raises(BadInput, match="up to 0 MB"):
        audio.decode(wav(tone(440)), dataclasses.replace(LIMITS, max_audio_bytes=100))
    with pytest.raises(BadInput, match="up to 0 s"):
        audio.decode(wav(tone(440)), dataclasses.replace(LIMITS, max_audio_s=0.2))


# ----------------------------------------------------------------- spectrograms
@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_lies_in_the_band_of_its_frequency(hertz):
    hearing = LogMel()
    shown = hearing(tone(hertz, hearing.duration_s, hearing.sample_rate))
    band = int(shown[:, 100].argmax())
    assert shown.shape == (96, 256) and shown.min() >= 0 and shown.max() == 1
    width = hearing.edges_hz[band + 1] - hearing.edges_hz[band]
    assert hearing.edges_hz[band] - width <= hertz <= hearing.edges_hz[band + 1] + width


def test_silence_is_empty_and_time_runs_to_the_right():
    hearing = LogMel()
    assert not hearing(np.zeros(hearing.n_samples)).any()
    late = np.concatenate([np.zeros(hearing.n_samples // 2), tone(500, hearing.duration_s / 2, hearing.sample_rate)])
    shown = hearing(late)
    assert shown[:, :120].max() < 0.01 < shown[:, 136:].max()


def test_resampling_keeps_a_tone():
    made = resample(tone(500, 1.0, 44_100), 44_100, 16_000)
    assert len(made) == 16_000
    np.testing.assert_allclose(made[400:-400], tone(500, 1.0, 16_000)[400:-400], atol=2e-3)


def test_what_is_heard_is_cut_padded_and_said():
    sound = audio.DecodedAudio("x", tone(500, 1.0), RATE)
    heard, notes = audio.hear(sound, HEARING, 0.5)
    assert len(heard) == HEARING.n_samples and "0.4 s at once" in notes[0]
    heard, notes = audio.hear(sound, HEARING, 0.9)
    assert heard[900:].max() == 0 and "silence added" in notes[1]
    with pytest.raises(BadInput, match="lasts 1.0 s"):
        audio.hear(sound, HEARING, 2.0)


# ----------------------------------------------------------------- the tower
@pytest.mark.parametrize("pool_type", ["tok", "avg"])
def test_the_map_over_a_spectrogram_equals_a_plain_implementation(pool_type):
    pair, layer = hearing_pair(pool_type), 1
    spectrogram = torch.from_numpy(HEARING(tone(900, 0.4)))[None, None]
    with torch.no_grad():
        targets = pair.embed_texts([REPORT])
    problem = Problem(tower=pair.tower("audio"), inputs=spectrogram, targets=targets, seed=7)
    ours = bottleneck.attribute(problem, layer=layer, beta=0.1, sigma2=0.5, samples=4)
    plain = PlainBottleneck(hearing_pair(pool_type), "audio", layer).explain(
        spectrogram, pair.tokens(REPORT), seed=7, beta=0.1, sigma2=0.5, steps=10, samples=4
    )
    assert ours.maps.shape == (1, 4, 6)  # bands x times
    assert relative_difference(ours.maps[0].flatten(), plain[1:]) < 1e-4


def test_the_audio_tower_may_be_cut_anywhere():
    pair = hearing_pair()
    tower, inputs = pair.tower("audio"), torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = pair.module.audio(pair.module.audio.normalise(inputs))
        for layer in range(tower.n_layers):
            torch.testing.assert_close(tower.suffix(tower.prefix(inputs, layer), layer), whole, atol=1e-5, rtol=1e-4)
        features, attentions = tower.attend(inputs)
    torch.testing.assert_close(features, whole, atol=1e-5, rtol=1e-4)
    assert len(attentions) == tower.n_layers


# ----------------------------------------------------------------- requests
@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return pair_service(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def sound_id(service) -> str:
    return service.put_audio(wav(tone(900, 0.6))).id


def asked(sound_id: str | None, **changes) -> PairMapRequest:
    fields = {"audio_id": sound_id, "text": REPORT, "model": "sounds-clip", "params": (("n_steps", 2),), **changes}
    return PairMapRequest(**fields)


def test_a_sound_and_a_text_explain_each_other(service, sound_id):
    result = service.run(asked(sound_id))
    assert result.arrays["audio_map"].shape == (HEARING.n_mels, HEARING.n_frames) == result.arrays["pixels"].shape[:2]
    assert len(result.arrays["word_map"]) == len(result.arrays["control_word_map"]) == len(result.values["words"])
    assert len(result.values["sound"]["edges_hz"]) == HEARING.n_mels + 1
    report = service.run(
        ReportMapsRequest(
            audio_id=sound_id, sentences=(REPORT, "Small."), model="sounds-clip", params=(("n_steps", 2),)
        )
    )
    np.testing.assert_allclose(report.arrays["audio_map"][0], result.arrays["audio_map"], rtol=1e-4, atol=1e-5)
    score = service.run(PairScoreRequest(audio_id=sound_id, texts=(REPORT,), model="sounds-clip"))
    assert float(score.arrays["cosines"][0]) == pytest.approx(result.values["cosine"], rel=1e-5)


@pytest.mark.parametrize(
    "method", ["chefer", "grad-cam", "saliency", "rise", "kernel-shap", "rollout", "m2ib-contrast"]
)
def test_every_method_explains_a_sound(service, sound_id, method):
    few = {"rise": (("samples", 8),), "kernel-shap": (("samples", 16),)}
    result = service.run(asked(sound_id, method=method, modality="audio", params=few.get(method, ())))
    assert result.arrays["audio_map"].shape == (HEARING.n_mels, HEARING.n_frames)
    assert np.isfinite(result.arrays["audio_map"]).all()


def test_a_sound_and_a_picture_explain_each_other(service, sound_id):
    image_id = service.put_image(encode_png(np.random.default_rng(0).random((SIDE, SIDE, 3)))).id
    both = service.run(asked(sound_id, text=None, image_id=image_id))
    assert both.arrays["audio_map"].shape == (HEARING.n_mels, HEARING.n_frames)
    assert both.arrays["image_map"].shape == (SIDE, SIDE) and "word_map" not in both.arrays


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_the_tower_of_a_sound_can_be_randomised(service, sound_id, modality):
    request = PairRandomisationRequest(asked(sound_id, modality=modality), max_layers=2)
    result = service.run(request)
    own = "audio" if modality == "audio" else ""
    assert all(layer.startswith(own) for stage in result.values["stages"] for layer in stage["layers"])
    assert len(result.arrays["maps"]) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"audio_id": "0" * 64}, "audio"),
        ({"model": "cxr-clip"}, "model"),
        ({"start_s": 9.0}, "start_s"),
        ({"modality": "image"}, "modality"),
        ({"text": None}, "text"),
        ({"audio_id": None}, "image"),
        ({"image_id": "0" * 64}, "modality"),
        ({"control_id": "0" * 64}, "audio"),
    ],
)
def test_bad_requests_get_one_sentence(service, sound_id, changes, field):
    with pytest.raises(BadInput) as refused:
        service.run(asked(**{"sound_id": changes.pop("audio_id", sound_id), **changes}))
    assert refused.value.field == field


def test_the_command_line_takes_a_path(service, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "local_service", lambda: service)
    (tmp_path / "x.flac").write_bytes(wav(tone(900), format="FLAC"))
    body = {"family": "image_text", "model": "sounds-clip", "audio": "x.flac", "text": REPORT, "params": {"n_steps": 2}}
    (tmp_path / "request.json").write_text(json.dumps(body))
    assert main(["run", str(tmp_path / "request.json"), "--out", str(tmp_path / "out")]) == 0
    assert Result.load(tmp_path / "out").arrays["audio_map"].shape == (HEARING.n_mels, HEARING.n_frames)
    (tmp_path / "request.json").write_text(json.dumps({**body, "audio": "y.wav"}))
    assert main(["run", str(tmp_path / "request.json"), "--out", str(tmp_path / "out")]) == 2
    assert "audio: there is no file y.wav" in capsys.readouterr().err
