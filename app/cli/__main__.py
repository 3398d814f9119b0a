"""`python -m app.cli`: the command line where the console script is not installed."""

import sys

from app.cli import main

sys.exit(main())
