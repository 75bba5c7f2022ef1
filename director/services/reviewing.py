"""Ask the review callback. It is foreign code, and may take any length of time."""

import asyncio
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

ReviewCallback = Callable[[str, Path], bool]
"""Called with the experiment's name and the path of its plan; returns whether it may run."""


def ask(callback: ReviewCallback, name: str, plan: str) -> asyncio.Future[bool]:
    """Call the callback in a daemon thread.

    Everything that it raises, SystemExit too, becomes a RuntimeError of this review; the process goes on.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def settle(approved: bool, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(approved)
        else:
            answer.set_exception(error)

    def call() -> None:
        approved, error = False, None
        try:
            with tempfile.TemporaryDirectory(prefix="director-review-") as folder:
                path = Path(folder) / "plan.yaml"
                path.write_text(plan, encoding="utf-8")
                approved = bool(callback(name, path))
        except BaseException as raised:
            error = RuntimeError(f"the review callback raised {type(raised).__name__}: {raised}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, approved, error)

    threading.Thread(target=call, name="review", daemon=True).start()
    return answer
