"""What exported scores are worth: read back, held against labels, measured. Knows files and arrays, no log and no model."""
