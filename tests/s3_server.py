"""A real S3 server (moto) on this machine, which does wrong what a test asks it to."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Server:
    """An S3 server and what it is to do wrong.

    Attributes:
        asked: method and path of each request.
        faults: what to do to the next requests: an S3 error code, `drop` the connection before the answer, or break it
            after `half` of it.
    """

    address: str
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def at_hand(self, patch: Any, home: Path) -> None:
        """Have the environment lead to it, without a fault, and what is fetched lie below `home`."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "right")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", self.address)
        patch.setenv("XDG_CACHE_HOME", str(home))
        self.faults.clear()

    def gets(self, name: str) -> int:
        return sum(line.startswith("GET ") and line.endswith(name) for line in self.asked)


@contextmanager
def serving() -> Iterator[Server]:
    """Run the server in a thread."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").disabled = True
    inner = DomainDispatcherApplication(create_backend_app)
    server = Server("")

    def faulty(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        server.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        fault = server.faults.pop(0) if server.faults else ""
        if "Credential=wrong/" in environ.get("HTTP_AUTHORIZATION", ""):
            fault = "InvalidAccessKeyId"
        if fault == "drop":
            environ["werkzeug.socket"].close()
            raise ConnectionResetError
        if fault == "half" and environ["REQUEST_METHOD"] == "GET":
            start("200 OK", [("Content-Length", "100000"), ("Content-Type", "application/octet-stream")])
            return [b"half of it"]
        if fault and fault != "half":
            start({"SlowDown": "503 Slow Down"}.get(fault, "403 Forbidden"), [("Content-Type", "application/xml")])
            return [f"<Error><Code>{fault}</Code><Message>{fault}</Message></Error>".encode()]
        return inner(environ, start)

    http = make_server("127.0.0.1", 0, faulty, threaded=True)
    server.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield server
    http.shutdown()
    thread.join()


def client(server: Server) -> Any:
    from pyarrow.fs import S3FileSystem

    return S3FileSystem(
        endpoint_override=server.address.removeprefix("http://"), scheme="http", region="us-east-1",
        allow_bucket_creation=True,
    )  # fmt: skip


def upload(cache: Path, server: Server) -> None:
    """Have the bucket hold what the cache holds and nothing else."""
    store = client(server)
    store.create_dir("bucket")
    store.delete_dir_contents("bucket", missing_dir_ok=True)
    for file in sorted(path for path in cache.rglob("*") if path.is_file()):
        with store.open_output_stream(f"bucket/some/cache/{file.relative_to(cache).as_posix()}") as out:
            out.write(file.read_bytes())
