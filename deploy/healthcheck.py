#!/usr/bin/env python3
"""Exit code 0 if the worker in this container answers /healthz; the image's HEALTHCHECK (there is no curl in it)."""

import http.client
import os
import sys

TIMEOUT_SECONDS = 4.0  # below the 5 s that the container engine waits


def main() -> int:
    """Ask once; a worker that does not answer is a line and exit code 1, not a stack trace."""
    port = int(os.environ.get("WORKER_HTTP_PORT") or 3001)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except OSError as error:
        print(f"/healthz on port {port}: {error}")
        return 1
    finally:
        connection.close()
    print(f"/healthz on port {port}: {status}")
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
