"""Colours, clips and scales of the maps; figure files; the two drawings (here and in the browser) agree."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from pages.shared import figures
from pages.shared.figures import Display, Panel
from pages.shared.map_grid import pack

RNG = np.random.default_rng(0)
MAP = RNG.normal(size=(12, 10)).astype(np.float32)
IMAGE = RNG.random((12, 10, 3)).astype(np.float32)


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of (n, 3) uint8 sRGB colours."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


def test_signed_colours_fall_evenly_on_both_sides_of_white():
    light = lightness(figures.SIGNED_COLOURS)
    middle = len(light) // 2
    assert light[middle] > 96 and figures.SIGNED_COLOURS[middle].min() > 240
    assert (np.diff(light[: middle + 1]) > -0.3).all() and (np.diff(light[middle:]) < 0.3).all()
    assert np.abs(light - light[::-1]).max() < 6  # equal strength looks equal on both sides
    blue, red = figures.SIGNED_COLOURS[0].astype(int), figures.SIGNED_COLOURS[-1].astype(int)
    assert blue[2] > blue[0] + 60 and red[0] > red[2] + 60


def test_unsigned_colours_rise_from_black():
    assert (np.diff(lightness(figures.UNSIGNED_COLOURS)) > -0.3).all()


def test_channels_are_summed():
    assert figures.channel_sum(np.ones((3, 2, 2))).tolist() == [[3, 3], [3, 3]]


def test_zero_is_white_and_the_limit_is_clipped():
    values = np.array([[-5.0, 0.0, 1.0, 5.0]])
    colours = figures.colourise(values, limit=1.0, diverging=True)
    assert (colours[0, 0] == figures.SIGNED_COLOURS[0]).all()
    assert (colours[0, 1] == figures.SIGNED_COLOURS[127]).all()
    assert (colours[0, 2] == colours[0, 3]).all()


def test_a_map_of_zeros_is_drawn():
    panel = Panel("a", "A", np.zeros((4, 4), np.float32))
    limit = figures.colour_limits([panel], Display())["a"]
    assert limit == 0
    assert (figures.draw_map(IMAGE[:4, :4], panel, Display(view="map"), limit) == figures.SIGNED_COLOURS[127]).all()


def test_one_scale_per_unit_or_each_its_own():
    small, large = Panel("s", "S", MAP), Panel("l", "L", MAP * 10)
    other = Panel("o", "O", MAP * 100, unit="probability")
    shared = figures.colour_limits([small, large, other], Display())
    own = figures.colour_limits([small, large, other], Display(scale="own"))
    assert shared["s"] == shared["l"] == own["l"] and shared["o"] == own["o"]
    assert own["l"] == pytest.approx(10 * own["s"])
    assert own["s"] == pytest.approx(np.percentile(np.abs(MAP), 99))
    assert "probability" in figures.scale_sentence([small, other], Display())
    assert figures.scale_sentence([small, large], Display()) == "One scale for all maps in logit."
    assert "own scale" in figures.scale_sentence([small], Display(scale="own"))


@pytest.mark.parametrize("values", ["signed", "absolute", "positive"])
def test_values_that_are_shown(values):
    shown = figures.shown_values(Panel("a", "A", MAP), Display(values=values))
    expected = {"signed": MAP, "absolute": np.abs(MAP), "positive": np.maximum(MAP, 0)}[values]
    assert (shown == expected).all()


def test_unsigned_maps_are_never_diverging():
    assert not figures.is_diverging(Panel("a", "A", MAP, signed=False), Display())


def test_a_map_without_a_zero_counts_from_its_lowest_value():
    raised = Panel("r", "R", 5.0 + np.abs(MAP) * 0.01, unit="relevance", origin="lowest")
    flat = Panel("f", "F", np.abs(MAP) * 0.01, signed=False, unit="relevance")
    limits = figures.colour_limits([raised, flat], Display())
    plain = figures.draw_map(IMAGE, flat, Display(view="map"), limits["f"]).astype(int)
    drawn = figures.draw_map(IMAGE, raised, Display(view="map"), limits["f"]).astype(int)
    darkest = np.unravel_index(raised.values.argmin(), MAP.shape)
    assert not figures.is_diverging(raised, Display())
    assert limits["r"] == limits["f"] == pytest.approx(np.percentile(flat.values, 99), rel=1e-4)
    assert (drawn[darkest] == figures.UNSIGNED_COLOURS[0]).all() and drawn.max() > 200
    assert np.abs(drawn - plain).max() < 12  # equal structure looks equal, whatever it stands on
    overlay = figures.draw_map(IMAGE, raised, Display(opacity=1.0, picture="grey"), limits["r"])
    assert (overlay[darkest] == np.round(figures.to_grey(IMAGE) * 255)[darkest]).all()


def test_the_legend_says_what_black_stands_for():
    relevance, nats = Panel("r", "R", MAP, unit="relevance", origin="lowest"), Panel("n", "N", MAP, False, "nats")
    assert figures.unit_of(relevance) == "relevance, black: its lowest value" and figures.unit_of(nats) == "nats"
    assert figures.scale_sentence([relevance, nats], Display()).endswith("where its colour bar says so.")
    assert "Black" not in figures.scale_sentence([nats], Display())
    svg = figures.static_figure(IMAGE, [relevance, nats], Display(), "T", "f", "svg").decode()
    assert figures.format_value(float(MAP.min())) in svg and "its lowest value" in svg


def test_the_browser_gets_the_structure_of_a_nearly_constant_map():
    values = (7.0 + 0.001 * np.abs(MAP)).astype(np.float32)
    blob = pack(IMAGE, [Panel("a", "A", values, unit="relevance", origin="lowest")], Display(), "a picture", None)
    length = struct.unpack_from("<I", blob)[0]
    row = json.loads(blob[4 : 4 + length])["panels"][1]
    sent = np.frombuffer(blob, "<f2", offset=4 + length, count=MAP.size).astype(np.float64).reshape(MAP.shape)
    assert row["origin"] == "lowest" and not row["signed"] and row["said_unit"].startswith("relevance, black")
    np.testing.assert_allclose(row["base"] + sent * row["factor"], values, rtol=1e-7, atol=0)
    assert len(np.unique(sent)) > 50


def test_an_overlay_leaves_the_image_where_nothing_is_attributed():
    values = np.zeros((12, 10), np.float32)
    values[3, 3] = 1.0
    drawn = figures.draw_map(IMAGE, Panel("a", "A", values), Display(opacity=1.0, picture="grey"), 1.0)
    grey = np.round(figures.to_grey(IMAGE) * 255)
    assert (drawn[0, 0] == grey[0, 0]).all() and (drawn[3, 3] == figures.SIGNED_COLOURS[-1]).all()


def test_colours_can_be_told_under_the_highest_value():
    scene = np.full((4, 2, 3), 0.9)
    scene[:, 0], scene[:, 1] = (0.8, 0.1, 0.1), (0.2, 0.3, 0.9)
    high = Panel("a", "A", np.ones((4, 2), np.float32), signed=False)
    red, blue = figures.draw_map(scene, high, Display(), 1.0)[0].astype(int)
    assert red[0] > blue[0] + 20 and blue[2] > red[2] + 20
    low = Panel("a", "A", np.zeros((4, 2), np.float32), signed=False)
    red, blue = figures.draw_map(scene, low, Display(), 1.0)[0].astype(int)
    assert red[0] > red[2] + 80 and blue[2] > blue[0] + 80  # where there is no map: muted, not gone


def test_a_grey_picture_is_grey_under_a_map_whatever_is_chosen():
    grey = np.repeat(IMAGE[:, :, :1], 3, axis=2)
    panel = Panel("a", "A", np.abs(MAP), signed=False)
    shown = [figures.draw_map(grey, panel, Display(picture=picture), 1.0) for picture in ("colour", "grey")]
    assert not figures.is_coloured(grey) and figures.is_coloured(IMAGE) and (shown[0] == shown[1]).all()
    headers = []
    for image in (grey, IMAGE):
        blob = pack(image, [panel], Display(), "a picture", None)
        headers.append(json.loads(blob[4 : 4 + struct.unpack_from("<I", blob)[0]]))
    assert headers[0]["coloured"] is None
    assert headers[1]["coloured"] == {"colour": figures.COLOUR_KEPT, "opacity": figures.OPACITY_KEPT}


@pytest.mark.parametrize("n", [1, 5])
def test_figure_files(n):
    panels = [Panel(str(i), f"Method {i} $x_{{1}}^$", MAP * i, caption="completeness gap 0.1%") for i in range(n)]
    png = figures.static_figure(IMAGE, panels, Display(), "Title", "seed 0")
    assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).std() > 5
    svg = figures.static_figure(IMAGE, panels, Display(), "Title", "seed 0", "svg")
    assert svg.lstrip().startswith(b"<?xml") and svg == figures.static_figure(
        IMAGE, panels, Display(), "Title", "seed 0", "svg"
    )


def test_the_object_is_outlined_if_the_display_says_so():
    panel, mask = [Panel("a", "A", MAP)], np.zeros(MAP.shape, bool)
    mask[3:8, 2:6] = True
    bare, outlined, off = (
        figures.static_figure(IMAGE, panel, Display(outline=outline), "T", "", "svg", given)
        for outline, given in ((True, None), (True, mask), (False, mask))
    )
    assert bare == off != outlined


def test_lines_differ_with_and_without_colour():
    styles = [figures.line_style(i) for i in range(16)]
    assert len({(s.colour, s.dash) for s in styles}) == 16
    assert len({(s.dash, s.marker) for s in styles}) == 16


def test_curves_are_plotted_on_any_background():
    x = np.linspace(0, 1, 9)
    curve = figures.Curve("ig", "IG", figures.line_style(0), x, 1 - x, area=0.5)
    plot = figures.plot_curves([curve], figures.DELETION_AXES)
    assert plot.layout.paper_bgcolor == "rgba(0,0,0,0)" and plot.layout.xaxis.title.text
    assert figures.curves_svg([(figures.DELETION_AXES, [curve])]).startswith("<svg")


def test_a_display_is_read_from_anything():
    shown = Display.from_mapping(
        {"view": "map", "values": "<script>", "clip": "95", "opacity": "2", "outline": "false"}
    )
    assert shown == Display(view="map", clip=95.0, outline=False)
    assert Display.from_mapping({"picture": "grey"}).picture == "grey"
    assert Display.from_mapping({"picture": "blue"}).picture == "colour"
    assert Display.from_mapping(Display(scale="own").as_mapping()) == Display(scale="own")


def test_the_browser_gets_three_digits_of_every_value():
    panels = [Panel("a", "A", MAP * 1e-9), Panel("b", "B", None, message="needs a pooled head")]
    blob = pack(IMAGE, panels, Display(), "a picture", MAP > 0)
    length = struct.unpack_from("<I", blob)[0]
    header = json.loads(blob[4 : 4 + length])
    row = header["panels"][1]
    values = np.frombuffer(blob, "<f2", offset=4 + length, count=MAP.size).astype(np.float64) * row["factor"]
    assert (4 + length) % 2 == 0 and row["height"] * row["width"] == MAP.size
    np.testing.assert_allclose(values.reshape(MAP.shape), MAP * 1e-9, rtol=5e-4, atol=1e-14)
    assert header["panels"][2]["offset"] is None and header["panels"][2]["message"] == "needs a pooled head"
    assert header["mask"]["bits"].count("1") == (MAP > 0).sum()
