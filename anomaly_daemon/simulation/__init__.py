"""Labelled synthetic streams: pumps with faults, cards with frauds; seeded, vectorised, in chunks of flat memory."""
