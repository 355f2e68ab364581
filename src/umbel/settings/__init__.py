"""What can be configured: the kinds of values, and the table of all settings."""
