"""Evidence: every reason to find a record strange, one channel a file, and the engine that asks them all."""
