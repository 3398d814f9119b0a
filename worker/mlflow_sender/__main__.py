"""The program: `python -m worker.mlflow_sender`, which a worker starts where a setting names an MLflow server."""

import logging
import signal
import warnings

from app import logs
from app.database import connected
from app.settings import get_settings
from app.storage import open_storage
from worker.mlflow_sender.sender import Sender
from worker.mlflow_sender.tracking import Tracking


def main() -> None:
    """Look again and again until SIGTERM comes, then once more."""
    settings = get_settings()
    logs.configure(settings.log_level, settings.log_format)
    warnings.simplefilter("ignore")
    for library in ("mlflow", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # a line for each try, while a server is away
    stop = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with connected(settings) as sessions:
        sender = Sender(sessions, open_storage(settings), Tracking(str(settings.mlflow_tracking_uri)))
        while signal.sigtimedwait(stop, sender.look()) is None:
            pass
        sender.look()


if __name__ == "__main__":
    main()
