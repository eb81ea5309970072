"""The example against the embedded Supabase, for development: python3 serve.py ana@example.com PASSWORD

Serves the page and the database from one origin, http://127.0.0.1:8000, because the embedded Supabase lets no page of
another origin sign in. Signs the user up, unless there is one, and makes them an owner of each session. It needs
`npm ci` or `make setup` in this repository, and nothing else. A hosted Supabase needs none of this.
"""

from __future__ import annotations

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

HERE = Path(__file__).resolve().parent
PACKAGES = HERE.parents[1] / "node_modules"
FILES = {
    "/": (HERE / "index.html", "text/html; charset=utf-8"),
    "/supabase.js": (PACKAGES / "@supabase/supabase-js/dist/umd/supabase.js", "text/javascript"),
    "/qrcode.mjs": (PACKAGES / "qrcode-generator/dist/qrcode.mjs", "text/javascript"),
}
DIRECT = build_opener(ProxyHandler({}))  # the embedded Supabase is on this machine
FORWARDED = ("accept", "apikey", "authorization", "content-type", "prefer", "range", "x-client-info")
RETURNED = ("content-type", "content-range")


def ask(url: str, key: str, body: Any = None, **headers: str) -> Any:
    """A request of our own to the embedded Supabase: its answer, or HTTPError."""
    sent = {"apikey": key, "Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    with DIRECT.open(Request(url, json.dumps(body).encode() if body is not None else None, sent)) as answer:  # noqa: S310
        return json.loads(answer.read() or "null")


def let_in(endpoint: dict[str, str], email: str, password: str) -> int:
    """Sign up, or in, and become an owner of every session: how many there are."""
    url, who = endpoint["url"], {"email": email, "password": password}
    try:
        user = ask(f"{url}/auth/v1/signup", endpoint["publishable_key"], who)["user"]
    except HTTPError:
        user = ask(f"{url}/auth/v1/token?grant_type=password", endpoint["publishable_key"], who)["user"]
    sessions = ask(f"{url}/rest/v1/wa_sessions?select=id", endpoint["key"])
    rows = [{"session_id": session["id"], "user_id": user["id"], "role": "owner"} for session in sessions]
    ask(f"{url}/rest/v1/session_members", endpoint["key"], rows, Prefer="resolution=merge-duplicates")
    return len(rows)


def make_server(endpoint: dict[str, str], port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if self.path == "/config.json":
                config = {"url": f"http://{self.headers['Host']}", "publishable_key": endpoint["publishable_key"]}
                self.answer(200, {"content-type": "application/json"}, json.dumps(config).encode())
            elif self.path in FILES:
                file, mime = FILES[self.path]
                self.answer(200, {"content-type": mime}, file.read_bytes())
            else:
                body = self.rfile.read(int(self.headers.get("content-length") or 0)) or None
                headers = {name: self.headers[name] for name in FORWARDED if name in self.headers}
                try:
                    done = DIRECT.open(Request(endpoint["url"] + self.path, body, headers, method=self.command))  # noqa: S310
                except HTTPError as refused:
                    done = refused
                with done:
                    kept = {name: done.headers[name] for name in RETURNED if name in done.headers}
                    self.answer(done.status, kept, done.read())

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = forward

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        def log_message(self, *_: object) -> None:
            """Nothing: URLs of files are signed, and a log is no place for them."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description="The example against the embedded Supabase.")
    parser.add_argument("email")
    parser.add_argument("password", help="six characters or more")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=os.environ.get("WORKER_DATA_DIR", HERE.parents[1] / "data"))
    args = parser.parse_args()
    endpoint = json.loads((Path(args.data) / "embedded.endpoint.json").read_text())
    count = let_in(endpoint, args.email, args.password)
    print(f"{args.email} may read {count} session(s). Open http://127.0.0.1:{args.port} and sign in.", flush=True)
    with make_server(endpoint, args.port) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
