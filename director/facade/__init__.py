"""The director in process."""

from director.facade.director import Director

__all__ = ["Director"]
