"""What TensorBoard shows of the networks themselves: their graph, and histograms of their weights."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # type: ignore
from tensorboardX.proto.graph_pb2 import GraphDef  # type: ignore
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

HISTOGRAM_BINS = 64


def weight_histograms(networks: Mapping[str, nn.Module]) -> Iterator[Any]:
    """A summary for each trainable tensor, named network/tensor; one that is not finite is left out and logged."""
    for part, network in networks.items():
        for name, parameter in network.named_parameters():
            values = parameter.detach().float().cpu()
            if not values.isfinite().all():
                log.warning("no histogram of %s.%s: its values are not finite", part, name)
                continue
            yield summary.histogram(f"{part}/{name}", values.numpy(), _edges(values))


def _edges(values: Tensor) -> Any:
    """Equal bins between the smallest and the largest value; a little wider where all values are the same."""
    low, high = values.min().item(), values.max().item()
    room = 0.0 if high > low else max(abs(low), 1.0) * 1e-3
    return torch.linspace(low - room, high + room, HISTOGRAM_BINS + 1, dtype=torch.float64).numpy()


def save_graph(folder: Path, G: Any, D: nn.Module) -> None:
    """Writes the graph of D(G(z)) at full resolution into a TensorBoard file of its own."""
    content = network_graph(G, D).SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}.graph")
    writer.write_event(Event(wall_time=time.time(), graph_def=content))
    writer.close()


def network_graph(G: Any, D: nn.Module) -> Any:
    """The GraphDef of D(G(z)) for one sample: every operation under its layer. Nothing is computed."""
    networks = {"G": copy.deepcopy(G).to("meta"), "D": copy.deepcopy(D).to("meta")}
    like = next(networks["G"].parameters())
    z, labels = (like.new_empty(1, size) for size in (G.z_dim, G.label_size))
    recorder = GraphRecorder(networks)
    recorder.node("z", "Placeholder", [], [z])
    recorder.node("labels", "Placeholder", [], [labels])
    with torch.no_grad(), recorder:
        networks["D"](networks["G"](z, labels), labels)
    return recorder.graph


class GraphRecorder(TorchDispatchMode):
    """Notes the operations that run inside; their names begin with the layer that runs them."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.graph = GraphDef()
        self._running: list[str] = []
        self._makers: dict[int, str] = {}
        self._alive: list[Tensor] = []
        """Keeps what was made, since the id of a lost tensor is given to another one."""
        self._counts: dict[str, int] = {}
        for part, network in networks.items():
            for name, module in network.named_modules(prefix=part):
                self._watch(name.replace(".", "/"), module)

    def _watch(self, name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda *_: self._running.append(name))
        module.register_forward_hook(lambda *_: self._running.pop() and None)
        held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for tensor_name, tensor in held:
            self.node(f"{name}/{tensor_name}", "Variable", [], [tensor])

    def node(self, name: str, op: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Adds a node that makes the outputs."""
        node = self.graph.node.add(name=name, op=op)
        node.input.extend(dict.fromkeys(self._makers[id(x)] for x in inputs if id(x) in self._makers))
        for tensor in outputs:
            self._makers[id(tensor)] = name
            self._alive.append(tensor)
            shape = node.attr["_output_shapes"].list.shape.add()
            for size in tensor.shape:
                shape.dim.add(size=size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = ([x for x in tree_leaves(tree) if isinstance(x, Tensor)] for tree in ((args, kwargs), result))
        op = func._overloadpacket.__name__
        name = "/".join([*self._running[-1:], op])
        self._counts[name] = count = self._counts.get(name, 0) + 1
        self.node(name if count == 1 else f"{name}_{count}", op, inputs, outputs)
        return result
