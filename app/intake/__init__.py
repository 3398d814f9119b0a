"""What may come in. Reads uploads with the standard library alone: nothing is unpickled, evaluated or imported."""
