"""The straight line from a record to an incident: functions in a row, no effects."""
