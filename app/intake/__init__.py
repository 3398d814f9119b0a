"""The intake: reads uploads with the standard library only; nothing is unpickled, evaluated or imported."""
