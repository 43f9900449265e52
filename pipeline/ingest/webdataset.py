"""WebDataset and other archives: members `KEY.jpg`, `KEY.cls`, `KEY.json`, `KEY.txt` belong together by key.

A key is a member's name up to the first dot, as WebDataset has it. Archives without any such text beside their images
are read as class folders. Nothing is unpacked to disk.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from pipeline.archives import GZIPPED, TAR, ContainerError, Member, has_end, members, read_member
from pipeline.images import SUFFIXES
from pipeline.ingest.base import Listing
from pipeline.ingest.folders import listing_of
from pipeline.ingest.pairs import captioned
from pipeline.ingest.records import Records
from pipeline.ingest.shards import find_shards, is_source
from pipeline.ingest.sidecars import SIDECARS, Facts, check_size, facts_of
from pipeline.ingest.splits import splits_by_file_name
from pipeline.ingest.tables import SUFFIXES as TABLE_SUFFIXES
from pipeline.ingest.trees import MOST_DEPTH, Folder, Tree
from stages.errors import UserError
from stages.names import is_left_behind
from stages.params import DataParams
from stages.text import counted

DOTTED = tuple(f".{suffix}" for suffix in SIDECARS)


@dataclass
class Group:
    """The members of one key.

    Attributes:
        members: suffix, from the first dot on and in lower case -> member.
        facts: what its texts say about its image.
    """

    members: dict[str, Member] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    @property
    def images(self) -> list[str]:
        """The suffixes of its images, plain ones first."""
        return sorted(filter(_is_image, self.members), key=lambda suffix: suffix.count("."))

    @property
    def split_pair(self) -> tuple[str, str] | None:
        """An image and a text whose names have dots, so that the key parts them: `1.jpg` and `1.txt` of `b.1.jpg`."""
        texts = {suffix.rpartition(".")[0]: suffix for suffix in self.members if suffix.endswith(DOTTED)}
        return next(((i, texts[i.rpartition(".")[0]]) for i in self.images if i.rpartition(".")[0] in texts), None)


@dataclass
class Shard:
    """One archive.

    Attributes:
        name: below the source's folder.
        split: what its name says.
        groups: its members by key.
        left_behind: names of what systems leave behind -> how often, not among the members.
    """

    file: Path
    name: str
    split: str | None
    groups: dict[str, Group]
    left_behind: Counter[str] = field(default_factory=Counter)

    @property
    def tables(self) -> list[str]:
        """Names of its members that may name images."""
        found = (member for group in self.groups.values() for member in group.members.values())
        return [member.name for member in found if member.name.lower().endswith((*TABLE_SUFFIXES, ".json"))]


class WebDatasetReader:
    """One archive, a pattern `shard-{000..009}.tar`, or a folder of archives, directly or below train, val and test."""

    def matches(self, source: str) -> bool:
        """A name that ends as archives' do, or a folder that holds such files."""
        return is_source(source)

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images of all archives."""
        files = find_shards(source)
        if data.images is not None:
            raise UserError(f"{source}: archives hold their images; leave --images away", exit_code=2)
        folder = Path(source) if Path(source).is_dir() else files[0].parent
        names = [file.relative_to(folder).as_posix() for file in files]
        shards = []
        for file, name, split in zip(files, names, splits_by_file_name(names), strict=True):
            with _faults_of(file):
                shards.append(_read(file, name, split))
        groups = [group for shard in shards for group in shard.groups.values()]
        if not any(group.images for group in groups):
            raise UserError(f"{source}: no image in {len(shards)} archives{_found(groups)}")
        if any(not group.facts.is_empty or group.split_pair for group in groups):
            return _by_key(source, folder, shards, data)
        return _by_folder(source, folder, shards, data)


@contextmanager
def _faults_of(shard: Path) -> Iterator[None]:
    """Say in which archive a fault lies."""
    try:
        yield
    except ContainerError as error:
        raise UserError(f"{shard}: {error.strerror}") from error
    except OSError as error:
        raise UserError(f"{shard}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{shard}: {error}") from error


def _read(file: Path, name: str, split: str | None) -> Shard:
    """An archive's members by key, in its order, with what the texts among them say."""
    shard = Shard(file, name, split, defaultdict(Group))
    for member in members(file):
        folder, _, last = member.name.rpartition("/")
        left = next((part for part in PurePosixPath(member.name).parts if is_left_behind(part)), None)
        if left is not None:
            shard.left_behind[left] += 1
            continue
        key, _, suffix = last.partition(".")
        found = shard.groups[f"{folder}/{key}" if folder else key].members
        if suffix.lower() in found:
            raise ValueError(f"member {member.shown} stands there twice")
        found[suffix.lower()] = member
    _read_facts(shard)
    return shard


def _is_image(suffix: str) -> bool:
    return f".{suffix.rpartition('.')[2]}" in SUFFIXES


def _found(groups: list[Group]) -> str:
    """What there is instead of images."""
    kinds = Counter(f".{suffix}" if suffix else "without suffix" for group in groups for suffix in group.members)
    shown = ", ".join(f"{count} {kind[:20]}" for kind, count in kinds.most_common(5))
    return f" (found {shown or 'nothing'}; looked for {', '.join(sorted(SUFFIXES))})"


# By key


def _read_facts(shard: Shard) -> None:
    for key, group in shard.groups.items():
        if group.images:
            found = {suffix: group.members[suffix] for suffix in SIDECARS if suffix in group.members}
            try:
                group.facts = facts_of({s: partial(_text, shard.file, member) for s, member in found.items()})
            except ValueError as error:
                raise ValueError(f"key {key[:120]!a}: {error}") from error


def _text(file: Path, member: Member) -> bytes:
    check_size(member.size)
    return read_member(file, member)


def _by_key(source: str, folder: Path, shards: list[Shard], data: DataParams) -> Listing:
    if data.split_folders is not None:
        raise UserError(f"{source}: split_folders is about class folders; leave it away", exit_code=2)
    records = Records()
    further, alone, ignored = Counter[str](), [], 0
    for shard in shards:
        for key, group in shard.groups.items():
            if not group.images:
                texts = [member for suffix, member in group.members.items() if suffix in SIDECARS]
                alone += [f"{shard.name}/{member.name}" for member in texts]
                ignored += len(group.members) - len(texts)
                continue
            with _faults_of(shard.file):
                _require_one_image(key, group)
                facts, path = group.facts, f"{shard.name}/{group.members[group.images[0]].name}"
                records.add(
                    path, split=shard.split, label=facts.label, unlabelled=facts.unlabelled, captions=facts.captions
                )
            further.update(group.images[1:])
            ignored += sum(suffix not in SIDECARS for suffix in group.members) - len(group.images)
    if further:
        shown = ", ".join(sorted(further)[:5])[:120]
        records.notes.append(f"{further.total()} further images of their keys are left out ({shown})")
    bare = sum(bool(group.images) and group.facts.is_empty for shard in shards for group in shard.groups.values())
    if bare:
        records.notes.append(f"{counted(bare, 'image has', 'images have')} no text of the same key")
    if alone:
        records.notes.append(f"{len(alone)} texts belong to no image (first: {alone[0][:120]})")
    records.notes += _odd(shards)
    tree = _tree(shards)
    listing = captioned(source, folder.resolve(), tree, records, data, shards=len(shards))
    return replace(listing, ignored=ignored)


def _require_one_image(key: str, group: Group) -> None:
    """Refuse images whose keys the rule throws together: `b.1.jpg` and `b.2.jpg` are both of key `b`.

    An image with a word of its own before the suffix (`0001.mask.png`) may stand beside one without (`0001.jpg`).
    """
    plain = [suffix for suffix in group.images if "." not in suffix]
    words = [suffix for suffix in group.images if re.search(r"[^\W\d_]", suffix.rpartition(".")[0])]
    several = len(plain) > 1 or len(group.images) > len(plain) + len(words) or (not plain and len(words) > 1)
    clash = tuple(group.images[:2]) if several and len(group.images) > 1 else group.split_pair
    if clash:
        one, other = clash
        what = "are two images" if _is_image(other) else "are an image and a text that do not meet"
        raise ValueError(
            f"members {group.members[one].shown} and {group.members[other].shown} {what} under one key, {key[:120]!a}: "
            "WebDataset's key is a member's name up to its first dot; rename them so that the only dot is that of the "
            "suffix (22_05.png for 22.05.png), or unpack the archive: in a folder the last dot counts"
        )


def _odd(shards: list[Shard]) -> list[str]:
    """Lines about archives that are read more slowly than they could be, or may be cut off."""
    open_end = [shard.name for shard in shards if shard.name.lower().endswith(TAR) and not has_end(shard.file)]
    cut = f"{counted(len(open_end), 'archive has', 'archives have')} no end mark and may be cut off"
    cut += f" (first: {''.join(open_end[:1])[:120]})"
    gzipped = sum(shard.name.lower().endswith(GZIPPED) for shard in shards)
    read = counted(gzipped, "gzipped archive is", "gzipped archives are")
    line = f"{read} read in place, unpacked once by each process: plain tars are quicker (gunzip)"
    return [line] * bool(gzipped) + [cut] * bool(open_end)


# By folder


def _by_folder(source: str, folder: Path, shards: list[Shard], data: DataParams) -> Listing:
    named = sorted({name for shard in shards for name in shard.tables})
    held = f"it holds {', '.join(named)[:120]}: unpack it and name that file as the source; " if named else ""
    try:
        listing = listing_of(source, folder.resolve(), _tree(shards), data)
        if named and len(listing.class_names) < 2:
            raise UserError(f"{source}: only one folder of images ({next(iter(listing.class_names.values()))[:80]!r})")
    except UserError as error:
        mend = f"{held}or put .cls, .json or .txt of the same key beside each image"
        raise UserError(f"{error}; {mend}", exit_code=error.exit_code) from error
    return replace(listing, notes=[*listing.notes, *_odd(shards)])


def _tree(shards: list[Shard]) -> Tree:
    """The folders of all archives as one; archives called after splits are split folders."""
    tree = Tree(Folder(""), Counter(), [])
    folders = {"": tree.root}
    for shard in shards:
        tree.left_behind.update(shard.left_behind)
        top = [shard.split] if shard.split else []
        for group in shard.groups.values():
            for suffix, member in group.members.items():
                parts = [*top, *PurePosixPath(member.name).parts[:-1]]
                if len(parts) > MOST_DEPTH:
                    raise UserError(f"{shard.file}: member {member.shown}: more than {MOST_DEPTH} folders")
                place = _folder(folders, "/".join(parts))
                if _is_image(suffix):
                    place.images.append(f"{shard.name}/{member.name}")
                else:
                    place.others += 1
    for place in folders.values():
        place.folders.sort(key=lambda child: child.name)
        place.images.sort()
    _count(tree.root)
    return tree


def _folder(folders: dict[str, Folder], path: str) -> Folder:
    """The folder of a path, made with those above it if it is not there."""
    if path not in folders:
        folders[path] = Folder(path)
        _folder(folders, path.rpartition("/")[0]).folders.append(folders[path])
    return folders[path]


def _count(folder: Folder) -> int:
    folder.total = len(folder.images) + sum(map(_count, folder.folders))
    return folder.total
