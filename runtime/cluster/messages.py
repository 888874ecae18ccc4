"""The protocol's gRPC messages, for processes that pickle them: Serve's proxies and replicas."""

from __future__ import annotations

import sys

from tritonclient.grpc import service_pb2, service_pb2_grpc

__all__ = ["service_pb2", "service_pb2_grpc"]

# Messages are pickled under the name that tritonclient's module was generated with. No module has
# that name.
sys.modules.setdefault("grpc_service_pb2", service_pb2)
