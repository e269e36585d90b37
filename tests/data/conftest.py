import functools
import http.server
import threading

import numpy as np
import pytest


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def send_header(self, keyword, value):
        # A lying server breaks off 100 bytes before the end it promised.
        if keyword == "Content-Length" and self.server.lie:
            value = str(int(value) + 100)
        super().send_header(keyword, value)


@pytest.fixture
def web(tmp_path_factory):
    """A web server on this machine: `folder` is what it serves, `url` where."""
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.folder, server.lie = folder, False
        server.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
