"""Metrics of each ticket, in the format of Prometheus."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tombola.serve.batcher import Rows
from tombola.serve.registry import Entry, Meant

CHOSEN = "*"  # in the place of a ticket: none was named
FIRST, RECENT = 200, 100  # samples: how confident a router was at first, and is of late
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Confidence:
    """The mean confidence of a router over its first samples, and over the last ones."""

    count: int = 0
    first: float = 0.0
    recent: float = 0.0

    def add(self, value: float) -> None:
        """One more sample."""
        self.count += 1
        if self.count <= FIRST:
            self.first += (value - self.first) / self.count
        self.recent += (value - self.recent) / min(self.count, RECENT)


class Metrics:
    """What a service counts; labels are names of what is served, never of what was asked for in vain."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        which, file = ("file", "ticket"), ("file",)
        status = "Requests, by status of the answer"
        self.requests = Counter("tombola_requests", status, (*which, "status"), registry=own)
        latency = "From the arrival of a request to its answer"
        self.seconds = Histogram("tombola_request_seconds", latency, which, registry=own)
        size = "Samples that went through the network together"
        self.batches = Histogram("tombola_batch_samples", size, which, buckets=SIZES, registry=own)
        routed = "Samples for which this ticket was chosen"
        self.routed = Counter("tombola_routed_samples", routed, which, registry=own)
        recent = "Mean confidence of the router, of late"
        self.confidence = Gauge("tombola_router_confidence", recent, file, registry=own)
        drift = "That, less the mean of the first samples since the file was loaded"
        self.drift = Gauge("tombola_router_confidence_drift", drift, file, registry=own)
        self._by_file: dict[str, Confidence] = {}

    def answered(self, meant: Meant | None, status: int, seconds: float) -> None:
        """A request has ended; nobody is meant where nobody could be."""
        labels = ("", "") if meant is None else (meant.entry.name, meant.ticket or CHOSEN)
        self.requests.labels(*labels, status).inc()
        self.seconds.labels(*labels).observe(seconds)

    def batch(self, meant: Meant, samples: int) -> None:
        """A batch went through the network."""
        self.batches.labels(meant.entry.name, meant.ticket or CHOSEN).observe(samples)

    def chosen(self, entry: Entry, rows: Rows) -> None:
        """These are the answers to samples for which no ticket was named."""
        for row in rows:
            self.routed.labels(entry.name, row["ticket"]).inc()
            # What is left of the confidence in ticket and answer without the answer.
            if entry.tickets.router is not None and row["probability"] != 0:
                found = self._by_file.setdefault(entry.name, Confidence())
                found.add(row["confidence"] / (row["probability"] or 1.0))
                self.confidence.labels(entry.name).set(found.recent)
                self.drift.labels(entry.name).set(found.recent - found.first)

    def forget(self, file: str) -> None:
        """Drop what was counted of a file, which is gone or another one by now."""
        self._by_file.pop(file, None)
        for metric in (self.requests, self.seconds, self.batches, self.routed, self.confidence, self.drift):
            metric.remove_by_labels({"file": file})

    def text(self) -> bytes:
        """All of it, for ``GET /metrics``."""
        return generate_latest(self._registry)
