"""`Program`: the operations of a module in their order, and what the tensors are that it holds; whoever found them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node as Step


@dataclass(frozen=True, eq=False)
class Program:
    """A module as a list of operations of ATen.

    Args:
        graph: placeholders, operations and the output.
        names: what the module calls the tensor that a placeholder stands for; the input is not among them.
        parameters: those of the names that are parameters.
        values: what the module holds, by these names.
        lifted: those of the names that are no part of the module: tensors that its code makes or finds elsewhere.
        changed: names of what is another value after a call.
        result: which of the outputs is the module's own.
    """

    graph: torch.fx.Graph
    names: Mapping[str, str]
    parameters: frozenset[str]
    values: Mapping[str, Any]
    lifted: frozenset[str] = frozenset()
    changed: tuple[str, ...] = ()
    result: int = 0

    @staticmethod
    def of(exported: ExportedProgram) -> Program:
        """What torch.export found."""
        signature = exported.graph_signature
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        own = [k for k, spec in enumerate(signature.output_specs) if spec.kind.name == "USER_OUTPUT"]
        return Program(
            exported.graph_module.graph,
            names,
            frozenset(signature.parameters),
            {**exported.constants, **exported.state_dict},
            frozenset(signature.inputs_to_lifted_tensor_constants.values()),
            tuple(signature.buffers_to_mutate.values()),
            own[0],
        )

    def placeholders(self) -> Mapping[Step, str | None]:
        """The names of what the placeholders stand for; None for the input."""
        return {step: self.names.get(step.name) for step in self.graph.nodes if step.op == "placeholder"}

    def given(self, x: Tensor) -> dict[Step, Any]:
        """The values of the placeholders for an input."""
        return {step: x if name is None else self.values.get(name) for step, name in self.placeholders().items()}
