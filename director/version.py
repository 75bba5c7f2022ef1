"""The version, and nothing else."""

__version__ = "0.2.1"
