"""Objects as plain dictionaries, in the format that Keras 3 uses."""
