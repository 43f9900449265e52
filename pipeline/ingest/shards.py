"""Which archives a source stands for: one, a pattern `shard-{000..009}.tar`, or those of a folder."""

import os
import re
from itertools import product
from pathlib import Path

from pipeline.archives import ARCHIVES, TAR
from pipeline.images import SUFFIXES
from pipeline.ingest.splits import SPLIT_NAMES
from stages.errors import UserError

PACKED = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".rar", ".7z")
"""Archives that cannot be read at random, or not at all."""
MOST_SHARDS = 100_000


def is_source(source: str) -> bool:
    """Whether a source is an archive by its name, or a folder of archives."""
    place = Path(source)
    if place.is_dir():
        return bool(_archives_in(place))
    return source.lower().endswith((*ARCHIVES, *PACKED)) and (place.exists() or "{" in source)


def find_shards(source: str) -> list[Path]:
    """The archives of a source, in order.

    Raises:
        UserError: packed in a way that is not read, missing, or in several folders without a common one.
    """
    place = Path(source)
    if place.is_dir():
        shards = _archives_in(place)
    elif place.is_file() or "{" not in source:
        shards = [place]
    else:
        shards = [Path(name) for name in _expanded(source)]
        missing = [shard for shard in shards if not shard.is_file()]
        if missing:
            raise UserError(f"{source}: {len(missing)} of {len(shards)} archives are not there (first: {missing[0]})")
        if len({shard.parent for shard in shards}) > 1:
            raise UserError(f"{source}: archives of several folders; name the folder above them", exit_code=2)
    packed = [shard for shard in shards if shard.name.lower().endswith(PACKED)]
    if packed:
        raise UserError(
            f"{source}: {len(packed)} archives of a kind that is not read in place (first: {packed[0].name}); unpack "
            "them to a plain .tar (xz -d, bzip2 -d, zstd -d) or to a folder"
        )
    return shards


def _archives_in(folder: Path) -> list[Path]:
    """The archives in a folder and in its split folders; beside images only plain tars, which are no downloads.

    A packed archive beside the tar that it unpacks to is left out.
    """
    below = sorted(f for f in folder.iterdir() if f.name.lower() in SPLIT_NAMES and f.is_dir())
    suffixes = TAR if _has_images(folder) else (*ARCHIVES, *PACKED)
    found = [
        file
        for place in (folder, *below)
        for file in sorted(place.iterdir())
        if file.name.lower().endswith(suffixes) and file.is_file() and not file.name.startswith(".")
    ]
    plain = {file.with_suffix("") for file in found if file.name.lower().endswith(TAR)}
    return [file for file in found if file.name.lower().endswith(TAR) or _stem(file) not in plain]


def _stem(file: Path) -> Path:
    suffix = next(s for s in (*ARCHIVES, *PACKED) if file.name.lower().endswith(s))
    return file.with_name(file.name[: -len(suffix)])


def _has_images(folder: Path) -> bool:
    walk = os.walk(folder)
    return any(os.path.splitext(name)[1].lower() in SUFFIXES for *_, names in walk for name in names)  # noqa: PTH122


def _expanded(pattern: str) -> list[str]:
    """`x-{000..002}-{a,b}.tar` -> the names it stands for.

    Raises:
        UserError: no such pattern, or more than `MOST_SHARDS` names.
    """
    pieces: list[list[str]] = []
    n_names = 1
    for text, inside in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", pattern):
        span = re.fullmatch(r"([0-9]{1,12})\.\.([0-9]{1,12})", inside)
        pieces.append([text])
        if span:
            first, last = int(span[1]), int(span[2])
            n_names *= max(0, last - first + 1)
            if not 0 < n_names <= MOST_SHARDS:
                raise UserError(
                    f"{pattern}: {{{inside}}} stands for no names, or for more than {MOST_SHARDS}", exit_code=2
                )
            pieces.append([str(number).zfill(len(span[1])) for number in range(first, last + 1)])
        elif inside:
            pieces.append(inside.split(","))
            n_names *= len(pieces[-1])
    if n_names > MOST_SHARDS:
        raise UserError(f"{pattern}: stands for more than {MOST_SHARDS} names", exit_code=2)
    return ["".join(parts) for parts in product(*pieces)]
