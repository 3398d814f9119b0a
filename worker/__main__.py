"""`python -m worker OPTIONS`: the Celery worker, as `zeropoint worker` starts it.

Celery's own command looks for its application in the working directory first, where a user may have a worker.py.
"""

import sys

from worker.main import app

sys.exit(app.worker_main(["worker", *sys.argv[1:]]))
