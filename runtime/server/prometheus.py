"""Metrics for Prometheus, under Triton's names where it has them.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.registry import Collector

from runtime.server.service import Service

__all__ = ["CONTENT_TYPE", "exposition"]

LABELS = ("model", "version")
# Triton's reasons of a failure, by the exception's name; all others are OTHER.
REASONS = {"QueueFullError": "REJECTED", "ExpiredError": "CANCELED", "EngineError": "BACKEND"}
OTHER = "OTHER"
COUNTERS = {
    "nv_inference_request_success": "Successful requests",
    "nv_inference_count": "Faces restored",
    "nv_inference_exec_count": "Runs of the engine",
    "nv_inference_request_duration_us": "Time of successful requests, microseconds",
    "nv_inference_queue_duration_us": "Time in the queue, microseconds",
    "nv_inference_compute_infer_duration_us": "Time in runs, microseconds",
}


class _Models(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        counters = {
            name: CounterMetricFamily(name, about, labels=LABELS)
            for name, about in COUNTERS.items()
        }
        failures = CounterMetricFamily(
            "nv_inference_request_failure", "Failed requests", labels=(*LABELS, "reason")
        )
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Faces that wait or run", labels=LABELS
        )
        for model in self._service.models:
            known, labels = model.statistics, (model.name, model.version)
            values = (
                known.requests["success"],
                known.faces,
                known.runs,
                *(time / 1e3 for time in (known.total, known.queue, known.compute)),
            )
            for counter, value in zip(counters.values(), values, strict=True):
                counter.add_metric(labels, value)
            # From the start, so that the first failure of a kind is an increase.
            failed = dict.fromkeys((*REASONS.values(), OTHER), 0)
            for outcome, count in known.requests.items():
                if outcome != "success":
                    failed[REASONS.get(outcome, OTHER)] += count
            for reason, count in failed.items():
                failures.add_metric((*labels, reason), count)
            pending.add_metric(labels, model.pending)
        yield from counters.values()
        yield failures
        yield pending


def exposition(service: Service) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Models(service))
    # The library ends counters' names in _total. Triton's names end without.
    return generate_latest(registry).replace(b"_total", b"")
