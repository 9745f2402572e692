"""From exported scores to other settings: the search, its two objectives, and the patch that comes out."""
