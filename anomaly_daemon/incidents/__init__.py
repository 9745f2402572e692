"""What is announced of an entity and when: readings, quality and silence, lasting changes, and the words of alerts. Pure, by event time."""
