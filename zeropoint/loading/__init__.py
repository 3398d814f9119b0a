"""Open saved results: in this process, in a second one, and with the software that each format is for."""
