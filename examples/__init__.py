"""Programs to run and to read."""

# Without this file, a package that is installed beside ours and has this name too would be imported in its place.
