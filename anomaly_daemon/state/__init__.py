"""What an entity leaves behind: a bounded table of columns and its checkpoints."""
