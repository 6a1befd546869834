"""`sekron dashboard`: the trials of a run in Optuna's own pages."""

from __future__ import annotations

from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer

from search.cli.arguments import Json, Run, Storage
from search.cli.output import print_json, say
from search.pipeline.readable_studies import readable_studies
from sekron.export.packages import needed

LOCAL = "127.0.0.1"
"""The dashboard asks nobody who they are, so it is for this machine alone."""


def dashboard(
    run: Run,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0: any.")] = 8080,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the trials of a run in a browser with optuna-dashboard, until it is interrupted.

    It shows a copy as of now: what is changed in it, or deleted, is not in the run.
    """
    pages = needed("optuna_dashboard", "dashboard").wsgi(readable_studies(run, storage))
    with _listening(port, pages) as server:
        url = f"http://{LOCAL}:{server.server_port}/"
        if as_json:
            print_json({"url": url})
        else:
            say(f"dashboard of {run}: {url} (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _listening(port: int, pages: Any) -> WSGIServer:
    """Return a server that has a port.

    Raises:
        OSError: If another one has it.
    """
    try:
        return make_server(LOCAL, port, pages, _Server, _Quiet)
    except OSError as error:
        raise OSError(
            f"port {port} must be free, but is not to be had ({error.strerror}); give another "
            "one by --port, 0 for any."
        ) from error


class _Server(ThreadingMixIn, WSGIServer):
    """A browser asks for several things at once, and keeps lines open."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """A line for every request would drown all else."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  named by its base
        """Say nothing."""
