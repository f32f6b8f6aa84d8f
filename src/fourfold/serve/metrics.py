"""Numbers for Prometheus, in a registry of this server's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from fourfold.serve.schema import VerbForm
from fourfold.tasks.continuous import Growing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
    """What a server counts. Labels take few values: systems and verbs, never what a client makes up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fourfold_requests", "Requests by what was asked, method and status.",
            ("route", "method", "status"), registry=self.registry,
        )  # fmt: skip
        self.latency = Histogram(
            "fourfold_request_seconds", "Seconds from the request to its last byte.", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.work = Histogram(
            "fourfold_verb_seconds", "Seconds that a verb worked.", ("system", "verb"),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "fourfold_batch_calls", "Calls that were made as one.", ("system", "verb"),
            buckets=SIZES, registry=self.registry,
        )  # fmt: skip
        self.first = Histogram(
            "fourfold_first_words_seconds", "Seconds from a request for text to its first words.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "fourfold_tokens", "Tokens of texts that grew: read of prompts, reused of prompts, made.",
            ("kind",), registry=self.registry,
        )  # fmt: skip
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is read."""
        Gauge(f"fourfold_{name}", text, registry=self.registry).set_function(value)

    def worked(self, form: VerbForm, calls: int, seconds: float) -> None:
        """Some calls were answered."""
        self.work.labels(form.system, form.verb).observe(seconds)
        self.batches.labels(form.system, form.verb).observe(calls)

    def grown(self, form: VerbForm, texts: Sequence[Growing], beside: int, seconds: float) -> None:
        """Some texts of one call grew, beside others."""
        self.work.labels(form.system, form.verb).observe(seconds)
        self.batches.labels(form.system, form.verb).observe(beside + len(texts))
        for text in texts:
            self.tokens.labels("read").inc(len(text.prompt) - text.reused)
            self.tokens.labels("reused").inc(text.reused)
            self.tokens.labels("made").inc(text.made)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.requests.labels(route, method, str(status)).inc()
        self.latency.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
