"""Step Functions `train`: pass where the gate passed this very dataset, else raise GateRefused with its sentence."""

from __future__ import annotations

from _runtime import client, handles
from stepforge.contracts.reports import GateReport
from stepforge.machines.gate import GateCheck, read_gate


@handles
def handler(request: GateCheck) -> GateReport:
    return read_gate(client("s3"), request)
