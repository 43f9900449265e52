"""Who is answered: a page of this server, on this machine, of this session.

A page of another site can make a browser ask any address of this machine. It is refused by what the browser says of it:
the Host (a name of another site that was made to lead here, DNS rebinding), the Origin, Sec-Fetch-Site; and it cannot
know the token, which stands after the # of the printed address, where no server and no log sees it. Other users of the
machine do not know it either.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stages.command import say

TOKEN_HEADER = "x-session-token"
GUARDED = "/api/"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def one_line(error: Exception) -> str:
    """An exception that nobody expected, for people."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Guard:
    """Refuses what does not come from the page, and gives every answer the same headers.

    Args:
        hosts: what a browser may have in its address bar, such as `127.0.0.1:8000`.
        token: the session's.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], token: str) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        line = self.refusal(Headers(scope=scope), scope["path"])
        answer = self.app if line is None else JSONResponse({"error": line}, status_code=403)
        try:
            await answer(scope, receive, sending)
        except Exception as error:  # the page has been told (`trainer.serve.app`); the others go on
            say(f"note: {scope['path'][:80]} failed: {one_line(error)}")

    def refusal(self, headers: Headers, path: str) -> str | None:
        """Why a request is not answered; None where it is."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return "not an address of this page"
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return "asked by another site"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "asked by another site"
        said = headers.get(TOKEN_HEADER, "").encode("latin-1", "replace")
        if path.startswith(GUARDED) and not secrets.compare_digest(said, self.token.encode()):
            return "not this session: open the address that `trainer serve` printed last"
        return None
