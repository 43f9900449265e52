"""One place reads pictures: odd formats come out upright and RGB, dangerous ones are refused."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.parametrize("size", [(1, 1), (30_000, 10), (10, 30_000)])
def test_odd_shapes_are_fine(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "blue").save(tmp_path / "x.png")
    assert open_rgb(tmp_path / "x.png").size == size


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_a_truncated_file_is_an_error_and_not_half_a_picture(suffix: str) -> None:
    buffer = io.BytesIO()
    picture((128, 40, 40), 0).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    assert open_rgb(buffer.getvalue()).size == (48, 48)
    with pytest.raises(ImageError):
        open_rgb(buffer.getvalue()[: len(buffer.getvalue()) // 2])


@pytest.mark.parametrize(
    ("data", "part"), [(b"", "empty file"), (b"no picture", "not an image"), (b"\0" * 99, "image")]
)
def test_bytes_that_are_no_picture_say_so_without_an_address(tmp_path: Path, data: bytes, part: str) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    for source in (data, tmp_path / "x.jpg"):
        with pytest.raises(ImageError, match=part) as caught:
            open_rgb(source)
        assert "0x" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ImageError, match="FileNotFound"):
        open_rgb(tmp_path / "none.jpg")


def test_bytes_and_file_give_the_same_picture(tmp_path: Path) -> None:
    picture((10, 200, 30), 1).save(tmp_path / "x.png")
    assert open_rgb(tmp_path / "x.png").tobytes() == open_rgb((tmp_path / "x.png").read_bytes()).tobytes()


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


def test_threads_that_decode_leave_the_warnings_of_others_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(file)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(open_rgb, [file] * 400))) == 400
    assert list(warnings.filters) == before
