"""Every effect of every operation, in order: what a crash comes before. A step that is new is missing here, and a test
says so.
"""

BEGIN_BLOB = ["open tmp/*", "lock tmp/*", "write tmp/*", "fsync", "chmod tmp/*"]
END_BLOB = ["mkdir blobs/../..", "rename tmp/*", "fsync", "fsync"]
BLOB = [*BEGIN_BLOB, *END_BLOB]

STATE = ["UPDATE jobs", "INSERT audit", "UPDATE jobs", "INSERT job_events"]
REQUEUE = ["UPDATE jobs", "UPDATE attempts", "UPDATE jobs", "INSERT job_events", "INSERT tallies"]
RETURN = [*REQUEUE, "UPDATE attempts"]
END = ["UPDATE jobs", "INSERT tallies", "UPDATE attempts", "UPDATE jobs", "INSERT job_events", "UPDATE attempts"]
PHASE = ["UPDATE jobs", "UPDATE jobs", "INSERT job_events", "COMMIT"]

CLAIM = [
    *("UPDATE jobs", "INSERT attempts", "INSERT turns", "INSERT tallies"),
    *("UPDATE jobs", "INSERT job_events", "COMMIT"),
]
PROCESS = [
    "open scratch/sweep.lock",
    "lock scratch/sweep.lock",
    "mkdir scratch/spare",
    "lock scratch/spare",
    "open scratch/spare/stderr.log",
    "start in scratch/spare",
    "mkdir scratch/job",
    "rename scratch/spare",
]
FETCH = [
    "open scratch/job/1/model.pt2",
    "write scratch/job/1/model.pt2",
    "mkdir scratch/job/1/checkpoints",
    "open scratch/job/1/job.json",
    "write scratch/job/1/job.json",
]
CHECKPOINT, WEIGHTS, REPORT, MANIFEST = BLOB, BLOB, BLOB, BLOB
SUCCEED = [*END, "INSERT artifacts", "INSERT tallies", "COMMIT"]
REMOVE = ["remove in scratch", "remove in scratch"]

STEPS = {
    "upload": [
        *("open tmp/*", "lock tmp/*", "open tmp/*", "lock tmp/*", "write tmp/*"),
        *("mkdir tmp/folder", "start in tmp/folder", "write tmp/*", "remove tmp/folder"),
        *("fsync", "chmod tmp/*", "mkdir blobs/..", *END_BLOB),
        *("INSERT version_counts", "INSERT audit", "INSERT models", "COMMIT", "remove tmp/*", "answer"),
    ],
    "submit": [
        "INSERT jobs",
        "INSERT job_tags",
        "UPDATE jobs",
        "INSERT audit",
        "INSERT job_events",
        "COMMIT",
        "answer",
    ],
    "cancel": [*STATE, "COMMIT", "answer"],
    "delete": ["INSERT audit", "DELETE models", "COMMIT", "answer"],
    "look": [
        *(*CLAIM, *PROCESS, *FETCH, "tell to go"),
        *(*CHECKPOINT, *WEIGHTS, *REPORT, *MANIFEST),
        *(*SUCCEED, *REMOVE, "answer"),
    ],
    "beat": [*PHASE, "UPDATE jobs", "INSERT checkpoints", "COMMIT", *PHASE, "UPDATE jobs", "COMMIT"],
    "renew": ["UPDATE jobs", "COMMIT", "answer"],
    "fail": [*BLOB, *END, "INSERT artifacts", "COMMIT", "answer"],
    "try_again": [*RETURN, "COMMIT", "answer"],
    "release": [*RETURN, "COMMIT", "answer"],
    "recover": ["INSERT tallies", *REQUEUE, "DELETE checkpoints", "DELETE workers", "COMMIT", "answer"],
    "remove_stale": ["open scratch/sweep.lock", "lock scratch/sweep.lock", "lock scratch/job/1", *REMOVE, "answer"],
    "collect_garbage": ["remove blobs/../../*", "answer"],
}

OPEN_BUCKET = ["mkdir scratch/storage", "open scratch/storage/lock"]
FILE = ["open scratch/storage/*", "lock scratch/storage/*", "write scratch/storage/*"]
PUT = ["PUT blobs/*/*", "body"]
WRITTEN = [*FILE, *PUT, "remove in scratch"]

BUCKET_STEPS = {
    "upload": [
        *("open scratch/storage/*", "lock scratch/storage/*", *FILE),
        *("mkdir scratch/storage/folder", "start in scratch/storage/folder", "write scratch/storage/*"),
        *(
            "remove in scratch",
            *PUT,
            "remove in scratch",
            "INSERT version_counts",
            "INSERT audit",
            "INSERT models",
            "COMMIT",
            "remove in scratch",
            "answer",
        ),
    ],
    "look": [
        *(*OPEN_BUCKET, *CLAIM, *PROCESS, *FETCH, "tell to go"),
        *(*WRITTEN, *PUT, *PUT, *WRITTEN),
        *(*SUCCEED, *REMOVE, "answer"),
    ],
    "fail": [*PUT, *STEPS["fail"][len(BLOB) :]],
    "collect_garbage": [
        *("open scratch/storage/lock", "PUT check"),
        *(*2 * ["DELETE blobs/*/*", "DELETE blobs/*/*.stamp"], "answer"),
    ],
}
"""Those that differ where blobs are in a bucket. A request is two steps: its head, and its body."""

STEPS_IN = {"folder": STEPS, "s3": BUCKET_STEPS}

_DONE = [*SUCCEED, *REMOVE, "answer"]
_FIRST = STEPS["look"].index("tell to go") + 1 + len(CHECKPOINT)
_LAST = len(STEPS["look"]) - len(_DONE)
PUBLISHING = {
    "folder": [*range(_FIRST, _FIRST + len(WEIGHTS)), *range(_LAST, len(STEPS["look"]))],
    "s3": range(BUCKET_STEPS["look"].index("tell to go") + 1 + len(WRITTEN), len(BUCKET_STEPS["look"])),
}
"""Of `look`: from the first artifact to the end; in a folder the others are stored as the first is."""


def around_a_commit(operation: str, point: int) -> bool:
    """Where databases may differ: PostgreSQL is tried there alone, SQLite everywhere."""
    return "COMMIT" in STEPS[operation][max(0, point - 1) : point + 1]


def commits_before(stored: str, operation: str, point: int) -> int:
    """How many transactions had been made by then."""
    return STEPS_IN[stored][operation][:point].count("COMMIT")
