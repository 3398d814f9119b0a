"""Keeps the main process from forking while one of its threads uses the database.

A pool process is a fork of the main one, and SQLite's locks do not survive it: the copy of a lock that was held
would shut the database to the new process for ever. A connection to PostgreSQL would be shared by two.
"""

import os
import threading

no_fork = threading.Lock()
"""Whoever holds it has connections; a fork waits until nobody does."""

os.register_at_fork(before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=no_fork.release)
