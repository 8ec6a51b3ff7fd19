"""A soak: does anything grow? See __main__.py."""
