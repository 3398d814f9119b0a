"""The API's server: `python -m app.api.server`, which is uvicorn with limits on time, and a stop in good order.

On SIGTERM and Ctrl-C it goes on listening while requests are worked on, for `stop_seconds` at most: whoever waits for
a job gets it as it is (202), an upload that is still coming and every new request 503 with Retry-After.
"""

import argparse
import asyncio
import gc
import logging
import resource
import socket
import sys

from fastapi import FastAPI
from uvicorn import Server
from uvicorn.importer import import_from_string

from app import logs, traces
from app.api.connection import SPARE, ApiConfig, Connection
from app.api.service_metrics import ServiceMetrics
from app.api.stopping import Stopping
from app.memory import TooMuchPromised, plan_memory
from app.metrics import answer_on_a_port
from app.settings import Settings, require_accounts
from app.storage import StorageAway, check_at_start

ACCEPTED_AT_ONCE = 64
"""New connections, before those that are there are read again."""
BACKLOG = 2048
"""Connections that the system holds until they are accepted."""
LOOKS = 5
"""Of uvicorn's ticks of 0.1 s, between two looks at the connections."""
LAST_SECONDS = 1
"""For what is sent to be read, once everyone is answered."""
KEEP_ALIVE_SECONDS = 20
"""For an idle connection: longer than clients keep one (httpx 5 s), who would else send a request as it closes."""
FILES = 256
"""Open files beside those of connections: the database's, programs that check uploads, logs."""
FILES_EACH = 3
"""Of a connection: its socket, an upload, and the file that the gate makes of it."""

log = logging.getLogger(__name__)


class ApiServer(Server):
    """uvicorn's, which looks at its connections and stops in good order."""

    def __init__(self, config: ApiConfig, stopping: Stopping) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._stop_seconds = config.settings.stop_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for listener in (listener for server in self.servers for listener in server.sockets):
            with listener.dup() as same:
                same.listen(BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        if counter % LOOKS == 0:
            self._look()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: object = None) -> None:  # noqa: ARG002 - as uvicorn calls it
        """Answer everyone, listening on, until the requests are answered that were here before."""
        self._stopping.begin()
        until = asyncio.get_running_loop().time() + self._stop_seconds
        before = set(self.server_state.tasks)
        while before & self.server_state.tasks and not self.force_exit and asyncio.get_running_loop().time() < until:
            self._look()
            await asyncio.sleep(0.05)
        for connection in self._connections():
            connection.give_up()
        self.config.timeout_graceful_shutdown = LAST_SECONDS
        await super().shutdown()

    def _look(self) -> None:
        for connection in self._connections():
            connection.look()

    def _connections(self) -> list[Connection]:
        return [one for one in self.server_state.connections if isinstance(one, Connection)]


def server_of(app: FastAPI, host: str, port: int, log_level: str | None = None) -> ApiServer:
    """Return a server of an application of `app.main`; its own settings are the server's."""
    config = ApiConfig(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,  # `request_id` logs each request, with its id
        log_config=None,
        log_level=log_level,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=ACCEPTED_AT_ONCE,  # asyncio accepts so many in one turn
    )
    config.settings = app.state.services.settings
    return ApiServer(config, app.state.stopping)


def require_files(settings: Settings) -> None:
    """Raise the limit on open files to what all connections may take. Raises SystemExit where the system forbids it."""
    needed = FILES + FILES_EACH * (settings.connections + SPARE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"The API does not start: {settings.connections} connections may need {needed} open files, and this process"
            f" may have {hard}. Raise the limit (ulimit -Hn), or lower ZEROPOINT_CONNECTIONS."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


def _host_of(listener: socket.socket) -> str:
    """Return the address at which an open file listens; one of this machine for a file without any."""
    inet = listener.family in (socket.AF_INET, socket.AF_INET6)
    return str(listener.getsockname()[0]) if inet else "localhost"


def main() -> None:
    """Serve an application until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m app.api.server")
    parser.add_argument("--app", default="app.main:create_app", help="what makes the application")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="an open file that listens at this address already")
    options = parser.parse_args()
    try:
        app = import_from_string(options.app)()
    except (OSError, ValueError) as error:
        raise SystemExit(f"The API does not start: {error}") from error
    settings: Settings = app.state.services.settings
    logs.configure(settings.log_level, settings.log_format)
    listeners = None if options.fd is None else [socket.socket(fileno=options.fd)]
    for host in [options.host, *map(_host_of, listeners or [])]:
        require_accounts(settings, host)
    require_files(settings)
    try:
        log.info("this API process %s", plan_memory(settings).check(api=True))
        check_at_start(app.state.services.storage)
    except (TooMuchPromised, StorageAway) as error:
        raise SystemExit(f"The API does not start: {error}") from error
    traces.configure(settings, "zeropoint-api", in_background=True)
    answer_on_a_port(settings, ServiceMetrics(app.state.services))
    gc.collect()
    gc.freeze()  # what is there stays: nobody waits while it is looked through for garbage
    server_of(app, options.host, options.port).run(listeners)


if __name__ == "__main__":
    main()
    sys.exit(0)
