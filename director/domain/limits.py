"""Limits that more than one module checks."""

MEBIBYTE = 1 << 20

MAX_SAMPLES = 1 << 53
"""Samples of one contribution, at most: float64 counts exactly up to here."""
MAX_METRICS = 1000
"""Metrics of one contribution, at most."""
MAX_COLLABORATORS = 10_000
"""Collaborators of one experiment, at most."""
MAX_USERS = 1000
"""Users that one experiment is shared with, at most."""
MAX_MANIFEST_BYTES = 64 * MEBIBYTE
"""Bytes of one manifest, at most."""
MAX_CHUNK_BYTES = 4 * MEBIBYTE
"""Bytes of one chunk on the wire, at most, whatever the settings say."""
MAX_LISTED = 20
"""Names that a sentence or an event gives, at most; the rest is given as a number."""
MAX_FAILURE_TEXT = 65_536
"""Characters of a failure's message that are kept: the last ones."""
