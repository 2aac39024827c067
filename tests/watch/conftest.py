import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

for folder in ("watch", "report"):  # the driven browser, and the made-up runs of the report's tests
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """Made-up runs need not survive a power cut: forcing every step of them to the disk would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def serving():
    """Serve folders: ``with serving(folder, control=True) as server``."""
    from anypo.watch import Server

    @contextmanager
    def serve(*places, control=False):
        with Server(places, control=control) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()

    return serve
