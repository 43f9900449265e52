"""One place reads pictures: odd formats come out upright and RGB, dangerous ones are refused."""

import io
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, TiffImagePlugin

from pipeline.images import ImageError, open_picture, open_rgb
from pipeline.ingest import ingest
from stages.params import DataParams


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


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def tiff(values: np.ndarray, **tags: object) -> bytes:
    """A TIFF of one channel; tags by number, as `t258=...`."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[int(name[1:])] = value
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=info)
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, with 1 (grey), 2 (grey, alpha), 3 or 4 channels."""
    height, width, channels = (*values.shape, 1)[:3]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        ((RAMP).astype(np.float32), "0 to 1"),
        ((RAMP * 2 - 1).astype(np.float32), "-1 to 1"),
        ((RAMP * 255).astype(np.float32), "8 bits"),
        ((RAMP * 65535).astype(np.float32), "16 bits"),
        ((RAMP * 1e7).astype(np.float32), "the range of its own pixels"),
        ((RAMP * 2000 - 1000).astype(np.int32), "the range of its own pixels"),
        ((RAMP * 1e6).astype(np.int32), "the range of its own pixels"),
        *(((RAMP * (2**bits - 1)).astype(np.uint16), f"{bits} bits") for bits in (1, 8, 10, 12, 14, 16)),
    ],
    ids=str,
)
def test_values_of_more_than_8_bits_come_out_over_the_whole_range(values: np.ndarray, scaled: str) -> None:
    picture = open_picture(tiff(values))
    found = np.asarray(picture.image)[..., 0]
    assert picture.scaled == scaled
    assert (found.min(), found.max()) == (0, 255)
    if scaled != "1 bits":
        assert np.abs(found - RAMP * 255).max() <= 1
    assert open_rgb(tiff(values)).tobytes() == picture.image.tobytes()


def test_pictures_of_8_bits_are_left_as_they_are() -> None:
    dark = Image.fromarray(np.full((8, 8), 3, np.uint8))
    buffer = io.BytesIO()
    dark.save(buffer, "PNG")
    picture = open_picture(buffer.getvalue())
    assert (picture.scaled, picture.image.getpixel((0, 0))) == (None, (3, 3, 3))


def test_the_range_that_a_file_says_counts_where_its_pixels_keep_to_it() -> None:
    values = (RAMP * 1000).astype(np.uint16)
    said = open_picture(tiff(values, t280=0, t281=2000))
    assert said.scaled == "the range that the file says"
    assert np.asarray(said.image).max() == 128
    for high in (500, 65535):  # wrong, or nothing but its type
        assert open_picture(tiff(values, t280=0, t281=high)).scaled == "10 bits"
    floats = open_picture(tiff((RAMP * 0.5).astype(np.float32), t340=0.0, t341=2.0))
    assert np.asarray(floats.image).max() == 64


def test_white_is_zero_is_turned_round() -> None:
    found = np.asarray(open_rgb(tiff((RAMP * 65535).astype(np.uint16), t262=0)))
    assert (found[0, 0, 0], found[-1, -1, 0]) == (255, 0)


def test_pixels_that_are_no_number_are_black_and_said() -> None:
    values = (RAMP * 200).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    picture = open_picture(tiff(values))
    assert picture.scaled == "8 bits (pixels that are no number are black)"
    assert np.asarray(picture.image)[0, :3].max() == 0
    assert np.asarray(picture.image).max() == 200
    with pytest.raises(ImageError, match="no pixel is a number"):
        open_rgb(tiff(np.full((4, 4), np.nan, np.float32)))


@pytest.mark.parametrize("bits", [8, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colours_of_16_bits_use_all_of_them(bits: int, channels: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (20, 30, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = 65535
    picture = open_picture(png(values[..., 0] if channels == 1 else values))
    colours = values[..., :3] if channels > 2 else values[..., [0, 0, 0]]
    assert picture.scaled == f"{bits} bits"
    assert np.abs(np.asarray(picture.image) - colours * (255 / (2**bits - 1))).max() < 1.01


def test_a_wide_picture_is_turned_upright() -> None:
    values = (RAMP[:32] * 4095).astype(np.uint16)
    assert open_rgb(tiff(values, t274=6)).size == (32, 64)


def test_ingest_counts_how_images_were_scaled(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "wide" / name).mkdir(parents=True)
        (tmp_path / "wide" / name / "float.tif").write_bytes(tiff(RAMP.astype(np.float32)))
        (tmp_path / "wide" / name / "twelve.png").write_bytes(png((RAMP * 4095).astype(np.uint16)))
        picture((9, 9, 9), 0).save(tmp_path / "wide" / name / "plain.png")
    summary = ingest("w", str(tmp_path / "wide"), data=DataParams(), cache=tmp_path / "cache")
    said = "4 images of more than 8 bits a channel are scaled to 8: 2 from 0 to 1, 2 from 12 bits"
    assert summary.notes == [said, "6 images stand in two classes: the same file under both"]


@settings(deadline=None, max_examples=80)
@given(
    values=hnp.arrays(
        st.sampled_from([np.uint16, np.int32, np.float32]), (3, 4),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 60000},
    )
)  # fmt: skip
def test_no_wide_picture_is_all_black_and_its_order_is_kept(values: np.ndarray) -> None:
    found = np.asarray(open_rgb(tiff(values)))[..., 0].ravel().astype(int)
    assert (np.diff(found[np.argsort(values, axis=None, kind="stable")]) >= 0).all()
    if values.max() >= 1 and values.dtype != np.float32:
        assert found.max() > 0
