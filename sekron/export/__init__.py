"""A network for other runtimes: as a file, and run there."""
