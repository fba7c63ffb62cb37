"""From line integrals to the picture on a viewer: scatter, noise, and what a digital detector's software does."""

import numpy as np
from PIL import ImageFont
from scipy import ndimage

from backend.radiographs.shapes import new_canvas, shrink


def render(integrals: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Expose and display; (N, N) line integrals without unit -> (N, N) uint8, dense is bright."""
    return finish(display(expose(integrals, generator), generator), generator)


def expose(integrals: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Negative logarithm of what the detector counts: Beer-Lambert, scatter as a broad blur, photon noise."""
    between = generator.uniform
    intensity = np.exp(-integrals * between(0.93, 1.07))
    scatter = between(0.08, 0.28) * 0.35 * ndimage.gaussian_filter(intensity, 0.09 * len(integrals))
    intensity = intensity + scatter + between(0.0005, 0.0015)
    photons = 10 ** between(4.5, 5.5)  # for each pixel in the open field
    noise = generator.normal(0, 1, intensity.shape) * np.sqrt(intensity / photons)
    return -np.log(np.clip(intensity + noise, 2e-4, None))


def display(log: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Compress the broad structure, keep the detail, sharpen, bend the tone curve; (N, N) -> (N, N) in [0, 1].

    A plain sigmoid instead made the lungs black and hid what lies in them.
    """
    between, side = generator.uniform, len(log)
    scale = side / 128
    log = ndimage.gaussian_filter(log, between(0, 0.45) * scale)
    middle = (slice(int(0.08 * side), int(0.95 * side)), slice(int(0.1 * side), int(0.9 * side)))
    floor = np.percentile(log[middle], 1) - 0.35  # air outside the body does not pull the base down
    log = floor + np.log1p(np.exp(np.clip((log - floor) * 6, -30, 30))) / 6
    base = ndimage.gaussian_filter(log, side * between(0.07, 0.11), mode="nearest")
    grey = between(0.5, 0.85) * base + between(0.95, 1.3) * (log - base)
    low, high = np.percentile(grey[middle], between(0.5, 2)), np.percentile(grey[middle], between(90, 97))
    grey = (grey - low) / (high - low)
    grey = grey + between(0.1, 0.45) * (grey - ndimage.gaussian_filter(grey, 1.2 * scale))
    grey = between(0.08, 0.18) + between(0.68, 0.8) * grey
    toe, shoulder = 0.06, between(0.72, 0.82)  # where the tone curve bends: lungs stay grey, bone does not burn out
    grey = np.where(grey < toe, toe * np.exp(np.minimum(grey - toe, 0) / toe), grey)
    rest = 1 - shoulder
    grey = np.where(grey > shoulder, shoulder + rest * np.tanh((grey - shoulder) / rest), grey)
    return grey.clip(0, 1) ** between(0.85, 1.2)


def finish(grey: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A side marker on about a third of the pictures, a black border on some; [0, 1] -> uint8."""
    between, side = generator.uniform, len(grey)
    pixels = grey * 255
    if generator.random() < 0.35:
        pixels = np.maximum(pixels, _marker(side, generator) * 255 * between(0.8, 1))
    if generator.random() < 0.12:
        top, bottom, left, right = generator.integers(0, int(0.04 * side) + 1, 4)
        inside = np.zeros_like(pixels)
        inside[top : side - bottom, left : side - right] = 1
        pixels = pixels * inside
    return pixels.clip(0, 255).astype(np.uint8)


def _marker(side: int, generator: np.random.Generator) -> np.ndarray:
    """The letter R or L at the upper corner of the patient's side, in [0, 1]."""
    is_right = generator.random() < 0.6
    x = generator.uniform(0.04, 0.12) if is_right else generator.uniform(0.86, 0.93)
    canvas, pen, scale = new_canvas(side)
    font = ImageFont.load_default(size=int(0.055 * side * scale))
    pen.text((x * side * scale, generator.uniform(0.03, 0.12) * side * scale), "R" if is_right else "L", 255, font)
    return shrink(canvas, side)
