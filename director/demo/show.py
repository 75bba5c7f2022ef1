"""What the demo tells its user while the federation trains, and at the end."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from director.client import Metric

AGGREGATOR = "aggregator"


@dataclass
class Progress:
    """Turns the stream of metrics into one line per round."""

    rounds: int
    say: Callable[[str], None]
    on_first_result: Callable[[int], None] = lambda _round: None
    """Called with a round's number when the first result of it has arrived."""
    _seen: int = 0

    def follow(self, metrics: Iterable[Metric]) -> None:
        """Read the stream to its end."""
        for round_number, averages in self._rounds(metrics):
            self.say(self._line(round_number, averages))

    def _rounds(self, metrics: Iterable[Metric]) -> Iterator[tuple[int, dict[str, float]]]:
        current, averages = 0, dict[str, float]()
        for metric in metrics:
            if metric.origin != AGGREGATOR:
                if averages:
                    yield current, averages
                    averages = {}
                if metric.round > self._seen:
                    self._seen = metric.round
                    self.on_first_result(metric.round)
            else:
                current = metric.round
                averages[f"{metric.task}/{metric.name}"] = metric.value
        if averages:
            yield current, averages

    def _line(self, round_number: int, averages: dict[str, float]) -> str:
        """Write a round: its validation measured the model that it began from."""
        accuracy = averages.get("validate/accuracy", float("nan"))
        measured = f"model {round_number - 1:>2}: accuracy {accuracy:.4f} on the hospitals' validation data"
        if round_number > self.rounds:
            return f"  final     {measured}"
        return f"  round {round_number:>2}  {measured}, training loss {averages.get('train/loss', float('nan')):.4f}"
