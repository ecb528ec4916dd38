"""Graph and histograms of the networks in TensorBoard."""

import struct

import pytest
import torch
from support.toy import toy_config, toy_state
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.graph_pb2 import GraphDef

from stylegan_ray.report.histograms import save_graph, weight_histograms


def events(path):
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


@pytest.fixture
def state():
    return toy_state(toy_config())


def test_every_weight_has_a_histogram(state):
    with torch.no_grad():
        state.D.get_parameter("b4.out.bias").fill_(3.0)
    found = {
        content.value[0].tag: content.value[0].histo for content in weight_histograms({"G": state.G, "D": state.D})
    }
    parameters = {f"{part}/{name}": p for part in "GD" for name, p in getattr(state, part).named_parameters()}
    assert found.keys() == parameters.keys()
    for name, histogram in found.items():
        values = parameters[name].detach().double()
        assert histogram.num == values.numel()
        assert (histogram.min, histogram.max) == pytest.approx((values.min().item(), values.max().item()))
        assert sum(histogram.bucket) == values.numel(), name


def test_weights_that_are_not_finite_are_named(state, caplog):
    with torch.no_grad():
        state.D.get_parameter("b4.out.weight")[0, 0] = float("nan")
    assert len(list(weight_histograms({"D": state.D}))) == len(list(state.D.parameters())) - 1
    assert "D.b4.out.weight" in caplog.text


@pytest.mark.parametrize("preset", ["config-f", "config-b", "config-a"])
def test_the_graph_shows_the_layers(preset, tmp_path):
    state = toy_state(toy_config(preset))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    save_graph(tmp_path, state.G, state.D)
    assert torch.equal(torch.rand(1), expected), "the graph has drawn numbers"
    assert state.G.training and not state.G.get_parameter("mapping.dense0.weight").is_meta
    (file,) = tmp_path.iterdir()
    (graph,) = [GraphDef.FromString(event.graph_def) for event in events(file) if event.graph_def]
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node), "names are used twice"
    assert {name for node in graph.node for name in node.input} <= nodes.keys()
    for part in "GD":
        for name, tensor in getattr(state, part).state_dict().items():
            shape = nodes[f"{part}/{name.replace('.', '/')}"].attr["_output_shapes"].list.shape[0]
            assert [dim.size for dim in shape.dim] == list(tensor.shape)
    assert reachable(nodes, graph.node[-1].name) >= {"z", "labels", "G/mapping/dense0/weight", "D/b4/out/weight"}


def reachable(nodes, name):
    """The nodes that one depends on."""
    found, todo = set(), [name]
    while todo:
        if (here := todo.pop()) not in found:
            found.add(here)
            todo += nodes[here].input
    return found
