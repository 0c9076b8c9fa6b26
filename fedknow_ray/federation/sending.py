"""What a client sends after a training visit: its update as it is, or compressed, and the work and memory that takes.

Compression comes after learning and knows nothing of it: the update is what the method trained, the broadcast is what
the visit started from, and what compression left unsent stays in the client's state until its next update.
"""

from __future__ import annotations

from dataclasses import replace

from fedknow_ray.errors import DivergenceError, UserError
from fedknow_ray.federation.visit import SharedModel, VisitKind, VisitOrder, place_of
from fedknow_ray.methods.method import ClientState, Method, Plan
from fedknow_ray.simulation.work import Work, WorkItem
from fedknow_ray.transport.compression import Compressor
from fedknow_ray.transport.payload import Buffer, encode


def compression_work(compressor: Compressor | None) -> Work:
    """Return the work of one update: one item of the phase "compress", nothing without compression."""
    if compressor is None:
        return Work.none()
    return Work((WorkItem("compress", 1, compressor.flops, compressor.moved_bytes),))


def plan_sending(plan: Plan, order: VisitOrder, method: Method, compressor: Compressor | None) -> Plan:
    """Return a visit's plan with what compression adds to it.

    The residual is there in every visit, from the first one on. A training visit compresses when gradients, optimizer
    and activations are gone: it holds what is resident, and the encoded update.
    """
    if compressor is None or not method.federated:
        return plan
    peak, work = plan.peak_memory_bytes, plan.work
    if order.kind is VisitKind.TRAIN:
        peak = max(peak, method.costs.resident_bytes(order.facts) + compressor.update_bytes)
        work = work + compression_work(compressor)
    return Plan(work, peak + compressor.residual_bytes)


def send(
    order: VisitOrder, state: ClientState, update: SharedModel, broadcast: SharedModel, compressor: Compressor | None
) -> tuple[ClientState, Buffer, Work]:
    """Return the client's new state, its encoded update, and the work of compressing it.

    Raises:
        DivergenceError: if the update is no finite number; says where.
        UserError: if it cannot be sent in the chosen type; says where.
    """
    if compressor is None:
        return state, update.payload(), Work.none()
    try:
        sent, residual_N = compressor.compress(update.arrays(), broadcast.arrays(), state.residual_N)
    except DivergenceError as error:
        raise DivergenceError(f"{place_of(order)}: {error.args[0]}") from error
    except UserError as error:
        raise UserError(f"{place_of(order)}: {error.args[0]}") from error
    return replace(state, residual_N=residual_N), encode(sent), compression_work(compressor)
