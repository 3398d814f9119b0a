"""The memory that a process may have: of the machine, or of the narrowest control group around it."""

from pathlib import Path

import pytest

from sandbox.machine import memory_bytes

GIB = 2**30


@pytest.fixture
def process(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemFree: 1 kB\nMemTotal: {8 * 2**20} kB\n")
    return tmp_path / "proc"


def limit(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"memory.max": "max\n"}, 8),
        ("0::/\n", {"memory.max": f"{3 * GIB}\n"}, 3),
        ("0::/a/b\n", {"a/memory.max": f"{2 * GIB}\n", "a/b/memory.max": "max\n"}, 2),
        ("0::/of/the/host\n", {"memory.max": f"{2 * GIB}\n"}, 2),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": f"{GIB}\n"}, 1),
        ("4:cpu,memory:/gone\n", {"memory/memory.limit_in_bytes": f"{5 * GIB}\n"}, 5),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8),
        ("3:cpu:/a\n", {"a/memory.max": f"{GIB}\n"}, 8),
    ],
)
def test_the_narrowest_limit_counts(
    process: Path, tmp_path: Path, membership: str, limits: dict[str, str], expected: int
) -> None:
    (process / "self" / "cgroup").write_text(membership)
    for path, text in limits.items():
        limit(tmp_path / "groups" / path, text)
    assert memory_bytes(tmp_path / "groups", process) == expected * GIB


def test_this_machine_has_some() -> None:
    assert memory_bytes() > 2**27
