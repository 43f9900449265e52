"""One place reads pictures: odd formats come out upright and RGB, dangerous ones are refused."""

from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import ImageError, open_rgb


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert open_rgb(tmp_path / "x.jpg").size == (20, 40)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "F", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = picture((128, 128, 128), 0)
    if mode == "I;16":
        image = Image.fromarray(np.full((48, 48), 128 * 256, np.uint16))
    else:
        image = grey.convert("L").convert(mode) if mode in ("F", "1") else grey.convert(mode)
    image.save(tmp_path / "x.tif")
    found = open_rgb(tmp_path / "x.tif")
    assert (found.mode, found.size) == ("RGB", (48, 48))
    assert 100 < np.asarray(found).mean() < 156


def test_transparency_stands_on_white_and_animations_give_their_first_frame(tmp_path: Path) -> None:
    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert np.asarray(open_rgb(tmp_path / "x.png")).min() == 255
    frames = [Image.new("RGB", (5, 5), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert open_rgb(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match=r"DecompressionBomb|larger than"):
        open_rgb(tmp_path / "bomb.png")


@settings(deadline=None, max_examples=60)
@given(
    data=st.binary(max_size=300),
    head=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\x00"]),
)
def test_any_bytes_are_a_picture_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes
) -> None:
    file = tmp_path_factory.mktemp("bytes") / "x.jpg"
    file.write_bytes(head + data)
    try:
        assert open_rgb(file).mode == "RGB"
    except ImageError as error:
        caught = str(error)
    else:
        caught = ""
    assert "\n" not in caught
