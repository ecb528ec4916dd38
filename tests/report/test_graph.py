"""The graph of the networks in TensorBoard."""

from importlib.util import find_spec

import pytest
import torch
from support.reports import events_in
from support.toy import toy_config, toy_state
from tensorboardX.proto.graph_pb2 import GraphDef

from stylegan_ray.config import ConfigError
from stylegan_ray.report.graph import check_graph, graph_file

has_tensorboard = find_spec("tensorboard") is not None


@pytest.mark.skipif(not has_tensorboard, reason="the tracer comes with TensorBoard")
@pytest.mark.parametrize("preset", ["config-f", "config-b", "config-a"])
def test_the_graph_shows_the_layers(preset):
    state = toy_state(toy_config(preset))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    name, content = graph_file(state.G, state.D)
    assert torch.equal(torch.rand(1), expected), "the graph has drawn random numbers"
    assert state.G.training and state.D.training and name.startswith("tensorboard/")
    (graph,) = [GraphDef.FromString(event.graph_def) for event in events_in(content) if event.graph_def]
    scopes = {node.name for node in graph.node}
    for layer in ("[G]", "[mapping]", "[synthesis]", "[D]"):
        assert any(layer in scope for scope in scopes), layer


@pytest.mark.skipif(has_tensorboard, reason="TensorBoard is installed")
def test_a_missing_tensorboard_is_named_before_a_run_starts():
    check_graph(toy_config())
    with pytest.raises(ConfigError, match=r"train\.save_tf_graph=true.*stylegan-ray\[tensorboard\]"):
        check_graph(toy_config(**{"train.save_tf_graph": True}))
