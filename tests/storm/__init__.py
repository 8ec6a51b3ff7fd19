"""The storm: real processes over recorded data, killed at random moments and at every phase; then an independent checker. See __main__.py."""
