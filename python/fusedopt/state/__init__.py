"""State in and out: seen by name, replaced, saved, loaded and copied."""
