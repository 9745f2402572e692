"""The verbs of the command line, one screen each."""
