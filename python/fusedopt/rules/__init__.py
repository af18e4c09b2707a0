"""The update rules, one in each file."""
