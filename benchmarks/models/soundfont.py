"""Recorded notes of a SoundFont 2 file whose pitch is certain: its sustain loop and its name must say the same."""

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

HEADER = struct.Struct("<20sIIIIIBbHH")  # of a sample: name, start, end, loop, rate, key, correction, link, type
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11, "#": 1, "b": -1, "": 0}
NOTE_NAME = re.compile(r"([A-G])([#b]?)-?\d")
UNPITCHED = re.compile("drum|tom|wave|noise|choir|str", re.IGNORECASE)
SHORTEST_LOOP = 60  # frames: a shorter one says little about the pitch
MOST_CYCLES = 4  # in a loop
NEAR = 0.35  # semitones between loop and name
LOWEST, HIGHEST = 50.0, 1400.0  # hertz
A4, A4_KEY, OCTAVE = 440.0, 69, 12


class Note(NamedTuple):
    """A note held for a while: `wave` at `rate`."""

    wave: Wave
    rate: int
    hertz: float


class Recording(NamedTuple):
    """A sample of the file; the loop is what a player repeats to hold the note."""

    name: str
    wave: Wave
    rate: int
    loop: slice


def notes(path: Path, seconds: float) -> list[Note]:
    """All notes whose pitch is certain, each held for so long, in the order of the file."""
    found = []
    for recording in _recordings(path.read_bytes()):
        hertz = _pitch(recording)
        if hertz is not None:
            found.append(Note(_hold(recording, seconds), recording.rate, hertz))
    return found


def _recordings(file: bytes) -> Iterator[Recording]:
    """What the chunks of samples and of their headers hold; the last header is an end mark."""
    frames = np.frombuffer(_chunk(file, b"smpl"), "<i2").astype(np.float32) / np.float32(2**15)
    for name, start, end, loop_start, loop_end, rate, *_ in list(HEADER.iter_unpack(_chunk(file, b"shdr")))[:-1]:
        title = name.split(b"\0")[0].decode("latin-1")
        yield Recording(title, frames[start:end], rate, slice(loop_start - start, loop_end - start))


def _chunk(file: bytes, name: bytes) -> bytes:
    at = file.index(name) + len(name)
    (length,) = struct.unpack_from("<I", file, at)
    return file[at + 4 : at + 4 + length]


def _pitch(recording: Recording) -> float | None:
    """The loop holds a whole number of cycles: the one with which it gives the note of the name."""
    named = NOTE_NAME.search(recording.name)
    length = recording.loop.stop - recording.loop.start
    if named is None or length < SHORTEST_LOOP or UNPITCHED.search(recording.name):
        return None
    expected = SEMITONES[named[1]] + SEMITONES[named[2]]
    for cycles in range(1, MOST_CYCLES + 1):
        hertz: float = recording.rate * cycles / length
        key = A4_KEY + OCTAVE * math.log2(hertz / A4)
        distance = (key - expected + OCTAVE / 2) % OCTAVE - OCTAVE / 2  # the octaves of names differ from font to font
        if abs(distance) < NEAR and LOWEST < hertz < HIGHEST:
            return hertz
    return None


def _hold(recording: Recording, seconds: float) -> Wave:
    frames, loop = int(seconds * recording.rate), recording.wave[recording.loop]
    repeats = 1 + frames // len(loop)
    return np.concatenate([recording.wave[: recording.loop.stop], *[loop] * repeats])[:frames]
