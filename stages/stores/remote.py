"""A cache on an object store (`--cache s3://BUCKET/FOLDER`), for reading: what is read is fetched first.

A local folder stands for the remote one: it names every store there is, and a store is fetched whole when it is first
read (`fetch`), so that everything that reads a cache reads this one. What was fetched stays until the remote file has
another size or time. pyarrow's own S3 file system does the work: credentials and region from the environment or
`~/.aws` as AWS has them (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...), `AWS_ENDPOINT_URL` for any server that speaks S3.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stages.command import progress_bar, say
from stages.errors import UserError
from stages.files import atomic_file, remove_tree, user_errors, write_text
from stages.stores.parted import LIST, OBJECTS, PART, is_part, read_list

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

KINDS = ("manifest", "prompts", "text", "images")
TRIES = 5
"""Of each request, by the AWS library that pyarrow brings; it waits longer each time."""
BLOCK = 16 * 2**20
AT_ONCE = 8
_PARTITION = re.compile(r"[a-z_]+=[^/\0]+")


def remote(path: Path | str) -> str | None:
    """`s3://BUCKET/FOLDER` where that is what a path means; `Path` takes one of the two slashes away."""
    found = re.fullmatch(r"s3:/+(.+?)/*", str(path))
    return f"s3://{found[1]}" if found else None


def local(name: str, path: Path, reads: bool) -> Path:
    """An argument of a command, or the local folder in place of a cache on an object store.

    Args:
        name: of the argument.
        reads: whether the command only reads the cache.

    Raises:
        UserError: it writes, another folder than the cache is to lie there, or the cache cannot be read.
    """
    url = remote(path)
    if url is None:
        return path
    if name in ("cache", "features") and reads:
        return mirror(url)
    raise UserError(
        f"{url}: an object store is only read, and this command writes there: write to a local folder and copy it, "
        "e.g. with `aws s3 sync` or `rclone sync`",
        exit_code=2,
    )


def mirror(url: str) -> Path:
    """The local folder that stands for a remote cache, brought up to date with what is there; fetches no store yet.

    Raises:
        UserError: no such bucket, wrong credentials, no answer, no store there, or the disk is full.
    """
    from platformdirs import user_cache_path

    there = _listed(url)
    if not there:
        _require_bucket(url)
        raise UserError(f"{url}: no store there: name the folder that holds manifest/, text/ and images/")
    root = user_cache_path("aape") / "objects" / hashlib.sha256(f"{_endpoint()} {url}".encode()).hexdigest()[:16]
    with user_errors(root):
        records = root / OBJECTS
        for old in sorted(records.rglob("*.json")):
            gone = old.relative_to(records).with_name(old.stem)
            if gone.as_posix() not in there:
                remove_tree(root / gone)
                old.unlink(missing_ok=True)
        for place, files in there.items():
            record = _record(root, root / place)
            if _read(record).get("files") == files:
                continue
            remove_tree(root / place)
            (root / place).mkdir(parents=True)
            for name in {LIST, PART} & files.keys():
                (root / place / name).touch()
            write_text(record, json.dumps({"url": url, "files": files, "fetched": False}))
    return root


def fetch(root: Path, folder: Path) -> None:
    """Bring the files of a partition, where `root` stands for a remote cache and they have not been brought yet.

    Raises:
        UserError: the object store does not answer or refuses, a file has gone, or the disk is full.
    """
    record = _record(root, folder)
    about = _read(record)
    if not about or about["fetched"]:
        return
    place, files = folder.relative_to(root).as_posix(), about["files"]
    source = f"{about['url']}/{place}"
    size = sum(size for size, _ in files.values())
    with user_errors(folder):
        free = shutil.disk_usage(root).free
    if size > free:
        raise UserError(
            f"{source}: {_mega(size)} MB, and {root} has {_mega(free)} MB left: free some space, or set XDG_CACHE_HOME"
        )
    say(f"fetching {source}: {_mega(size)} MB")
    store = _open(about["url"])
    with progress_bar(place, total=size, unit="byte") as bar, _told(source):

        def bring(name: str, to: Path | None = None) -> None:
            target = to or folder / name
            if name in files and not (target.is_file() and target.stat().st_size == files[name][0]):
                _copy(store, f"{source.removeprefix('s3://')}/{name}", target, files[name][0], bar.update)

        wanted = [PART] if PART in files else []
        if LIST in files:
            listed = folder / f".{LIST}.new"
            bring(LIST, listed)
            wanted += [file.name for file, _ in read_list(listed)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(bring, wanted))
        if LIST in files:
            listed.replace(folder / LIST)
    write_text(record, json.dumps({**about, "fetched": True}))


def _listed(url: str) -> dict[str, dict[str, list[int]]]:
    """Partition, as a path below the cache -> the files of its store -> size and time."""
    from pyarrow.fs import FileSelector, FileType

    base = url.removeprefix("s3://")
    store = _open(url)
    found: dict[str, dict[str, list[int]]] = {}
    for kind in KINDS:
        with _told(url):
            infos = store.get_file_info(FileSelector(f"{base}/{kind}", recursive=True, allow_not_found=True))
        for info in infos:
            place, _, name = info.path.removeprefix(f"{base}/").rpartition("/")
            plain = all(map(_PARTITION.fullmatch, place.split("/")[1:]))
            if info.type == FileType.File and plain and (is_part(name) or name == LIST):
                found.setdefault(place, {})[name] = [info.size, info.mtime_ns]
    return {place: files for place, files in sorted(found.items()) if {LIST, PART} & files.keys()}


def _require_bucket(url: str) -> None:
    from pyarrow.fs import FileType

    with _told(url):
        bucket = _open(url).get_file_info(url.removeprefix("s3://").partition("/")[0])
    if bucket.type == FileType.NotFound:
        raise UserError(f"{url}: no such bucket")


def _open(url: str) -> "S3FileSystem":
    try:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region
    except ImportError as error:
        raise UserError(f"{url}: this pyarrow was built without S3: pip install pyarrow") from error
    bucket = url.removeprefix("s3://").partition("/")[0]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
        raise UserError(
            f"{url}: expected s3://BUCKET/FOLDER; keys and endpoints come from the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)",
            exit_code=2,
        )
    endpoint = _endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with _told(url):
        how: dict[str, Any] = {"region": region or ("us-east-1" if endpoint else resolve_s3_region(bucket))}
        if endpoint:
            parts = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
            how |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        return S3FileSystem(retry_strategy=AwsStandardS3RetryStrategy(max_attempts=TRIES), **how)


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _copy(store: "S3FileSystem", key: str, target: Path, size: int, count: Callable[[int], object]) -> None:
    """One file, in blocks that are asked for again one by one where a connection drops."""
    with store.open_input_file(key) as source, atomic_file(target) as work, work.open("wb") as out:
        while block := source.read(BLOCK):
            out.write(block)
            count(len(block))
        if out.tell() != size:
            raise UserError(f"s3://{key}: {out.tell()} bytes came of the {size} that were listed: run this again")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what the object store answers into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{url}: a file has gone meanwhile: run this again ({_short(error)})") from error
    except OSError as error:
        if error.errno is not None and "AWS Error" not in str(error):
            raise  # of this machine's disk
        raise UserError(f"{url}: {_meaning(str(error))} ({_short(error)})") from error


def _meaning(answer: str) -> str:
    if "NO_SUCH_BUCKET" in answer or "NoSuchBucket" in answer or "not found" in answer:
        return "no such bucket"
    if re.search(r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|AccessKeyId|Forbidden|status 40[13]|credential", answer):
        return "the object store refuses these keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if re.search(r"SLOW_DOWN|SlowDown|THROTTL|Throttl|status 503|status 429|SERVICE_UNAVAILABLE", answer):
        return f"the object store is too busy, {TRIES} times in a row: try again later"
    if re.search(r"NETWORK_CONNECTION|curlCode|timeout|Timeout", answer):
        return f"the object store does not answer, {TRIES} times in a row: look at the network{_unset()}"
    return "the object store does not give it"


def _unset() -> str:
    """What the environment does not say of the object store, or the address that it does."""
    if endpoint := _endpoint():
        return f" and at AWS_ENDPOINT_URL, which is {endpoint}"
    keys = (
        any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"))
        or Path("~/.aws").expanduser().exists()
    )
    lacking = "" if keys else "; no keys are set (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
    return f"; it was asked of AWS itself, since AWS_ENDPOINT_URL names no other server{lacking}"


_ANSWER = re.compile(r"AWS Error (?P<kind>\w+) during (?P<what>\w+) operation: (?P<why>[^;]*)")


def _short(error: Exception) -> str:
    """The object store's own words, without those that name the bucket once more."""
    text = " ".join(str(error).split())
    if found := _ANSWER.search(text):
        text = f"{found['what']}: {found['why'].strip() or found['kind']}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def _record(root: Path, folder: Path) -> Path:
    return root / OBJECTS / f"{folder.relative_to(root).as_posix()}.json"


def _read(record: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    except (OSError, ValueError):
        return {}


def _mega(size: int) -> str:
    return f"{size / 1e6:.1f}"
