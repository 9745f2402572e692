"""Online statistics as slabs: one value per entity, updated for many entities at once."""
