"""A process whose machine has a wrong clock: `python -m tests.reliability.wrong_clock SECONDS SETTINGS ARCHIVE OUT`.

It is a worker, and a caller's API: it announces itself, keeps a model, submits two jobs, cancels one and does the
other. Standard output is the ids, as JSON.
"""

import datetime
import json
import sys
import time
from pathlib import Path

OFF_SECONDS = float(sys.argv[1])
right, right_ns = time.time, time.time_ns


class WrongDatetime(datetime.datetime):
    """Python's, by the wrong clock."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "WrongDatetime":
        return cls.fromtimestamp(right() + OFF_SECONDS, tz)


# At the border of the interpreter, before anything of ours is imported: what reads the system's clock reads this.
time.time = lambda: right() + OFF_SECONDS
time.time_ns = lambda: right_ns() + int(OFF_SECONDS * 1e9)
datetime.datetime = WrongDatetime  # type: ignore[misc]

from app.database import connected  # noqa: E402
from app.jobs import service, workers  # noqa: E402
from app.jobs.submission import Submission  # noqa: E402
from app.jobs.work import QuantizeWork  # noqa: E402
from app.settings import Settings  # noqa: E402
from app.storage import open_storage  # noqa: E402
from tests.factories import MOST, add_model  # noqa: E402
from tests.reliability.stand_in import StandIns  # noqa: E402
from worker.tasks import look  # noqa: E402
from zeropoint.schema.recipe import Recipe  # noqa: E402


def work(settings: Settings, archive: Path, out: Path) -> list[str]:
    with connected(settings) as sessions, sessions() as session:
        workers.announce_worker(session, "wrong", "cpu", {})
        model = add_model(session, open_storage(settings), archive)
        wish = Submission(model.id, QuantizeWork(Recipe(activations=None, formats=("safetensors",))))
        jobs = [service.submit(session, wish, MOST).id for _ in range(2)]
        service.request_cancel(session, jobs[0])
    look("wrong", settings, StandIns(settings.scratch_dir, out))
    return jobs


if __name__ == "__main__":
    sys.stdout.write(json.dumps(work(Settings(**json.loads(sys.argv[2])), Path(sys.argv[3]), Path(sys.argv[4]))))
