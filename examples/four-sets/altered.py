"""Sixteen pictures of each image, altered in colour and shape and never cropped: a stand-in for a diffusion model's.

    python examples/four-sets/altered.py data/clothing-small altered
    pipeline embed-images --dataset clothing-small --views 16 --views-from altered

A generative model draws other pictures of the same thing; none runs here. These are the same photograph in perspective,
turned, in other colours and tones: unlike random crops they show the whole of it. The same bytes every time.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

VIEWS, SIZE, GREY = 16, 320, (127, 127, 127)
TONES = (
    lambda image: image, ImageOps.autocontrast, ImageOps.equalize, lambda image: ImageOps.posterize(image, 3),
    lambda image: ImageOps.solarize(image, 170), lambda image: image.filter(ImageFilter.GaussianBlur(2)),
)  # fmt: skip


def altered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """In a random perspective, turned by up to 30 degrees, with its hue, colours, light and tones changed."""
    width, height = image.size
    away = rng.uniform(-0.25, 0.1, (4, 2)) * image.size  # of each corner, outwards more than inwards
    left_top, left_bottom, right_bottom, right_top = away
    corners = [*left_top, left_bottom[0], height - left_bottom[1], *(image.size - right_bottom),
               width - right_top[0], right_top[1]]  # fmt: skip
    image = image.transform(image.size, Image.Transform.QUAD, [float(at) for at in corners],
                            Image.Resampling.BICUBIC, fillcolor=GREY)  # fmt: skip
    image = image.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC, fillcolor=GREY)
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point(lambda at, by=int(rng.integers(-40, 40)): (at + by) % 256)
    image = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        image = enhance(image).enhance(rng.uniform(0.5, 1.5))
    return TONES[rng.integers(len(TONES))](image)


def main() -> None:
    """Write OUT/IMAGE-PATH/NN.jpg."""
    source, out = map(Path, sys.argv[1:3])
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for file in files:
        path = file.relative_to(source)
        own = out / path.with_suffix("")
        own.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        image.thumbnail((SIZE, SIZE))
        rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
        for view in range(VIEWS):
            altered(image, rng).save(own / f"{view:02d}.jpg", quality=90)


if __name__ == "__main__":
    main()
