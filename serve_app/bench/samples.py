"""What the requests of a load test came to, as plain data: a reply, or the kind of a failure, and when. Knows no HTTP and no statistics."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reply:
    """A good ending. `text_at`: when each piece of text came, on the clock of the run; empty for an answer that came whole.

    `cache` is the server's own word for how the answer was made (hit, join, miss, bypass), None where it says nothing.
    """

    prompt_tokens: int
    completion_tokens: int
    cache: str | None = None
    text_at: tuple[float, ...] = ()


class RequestFailed(Exception):
    """A bad ending. `kind` is what is counted: `status_429`, `timeout`, `broken` ..."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Latency counts from `planned_at`, which is before `sent_at` where the generator itself was late."""

    planned_at: float
    sent_at: float
    ended_at: float
    result: Reply | str


@dataclass(slots=True)
class Run:
    """Everything one load came to. `num_dropped`: arrivals that the bound of outstanding requests turned away, never sent.

    `cut_short`: the time was over before all requests were sent. `interrupted`: a person stopped it; what was in flight then has no sample.
    """

    samples: list[Sample] = field(default_factory=list)
    num_sent: int = 0
    num_dropped: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    cut_short: bool = False
    interrupted: bool = False

    @property
    def num_outstanding(self) -> int:
        """Requests in flight."""
        return self.num_sent - len(self.samples)


def joined(runs: list[Run]) -> Run:
    """Several runs, one after the other, as one."""
    return Run(
        [sample for run in runs for sample in run.samples],
        sum(run.num_sent for run in runs),
        sum(run.num_dropped for run in runs),
        sum(run.wall_s for run in runs),
        sum(run.cpu_s for run in runs),
        any(run.cut_short for run in runs),
        any(run.interrupted for run in runs),
    )
