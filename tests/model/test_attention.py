"""Non-local blocks: the formula, where they are, and AGW's network as a whole."""

from collections import Counter

import pytest
import torch
from torch import nn

from model.attention import NonLocal
from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError

SIZE = (32, 16)
AGW = {
    "structure": "two-stems",
    "last_stride": 1,
    "non_local": True,
    "pooling": "gem",
    "bnneck": True,
    "bnneck_bias": False,
    "classifier_bias": False,
    "dropout": 0.0,
}


def small(**options) -> Network:
    torch.manual_seed(0)
    return Network(ModelOptions("test_resnet", "none", **options), 5, SIZE)


def pixels(n: int = 4) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, 3, *SIZE), dtype=torch.uint8, generator=rng)


@pytest.mark.parametrize("inner", [1, 3])
def test_a_block_is_the_formula(inner):
    """z_i = x_i + BN(W y_i), y_i = 1/N Σ_j θ(x_i)·φ(x_j) g(x_j), one position at a time."""
    torch.manual_seed(0)
    block = NonLocal(6, inner).double().eval()
    for weight in block.norm.parameters():
        nn.init.uniform_(weight, 0.5, 1.5)
    block.norm.running_mean.uniform_(-1, 1)
    block.norm.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)

    def linear(conv: nn.Conv2d, vector: torch.Tensor) -> torch.Tensor:
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    expected = torch.empty_like(x)
    for b in range(2):
        places = [x[b, :, row, column] for row in range(3) for column in range(2)]
        for i, here in enumerate(places):
            y = torch.zeros(inner, dtype=torch.float64)
            for there in places:
                affinity = linear(block.theta, here) @ linear(block.phi, there)
                y += affinity * linear(block.g, there) / len(places)
            w, norm = linear(block.w, y), block.norm
            scaled = (w - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
            expected[b, :, i // 2, i % 2] = here + scaled * norm.weight + norm.bias
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("backbone", "behind"),
    [
        ("resnet50", ["layer2.2", "layer2.3", "layer3.3", "layer3.4", "layer3.5"]),
        ("resnet18", ["layer2.1", "layer3.1"]),
        ("resnet10t", ["layer2.0", "layer3.0"]),
        ("resnet101", ["layer2.2", "layer2.3", "layer3.20", "layer3.21", "layer3.22"]),
    ],
)
def test_blocks_are_where_agw_has_them(backbone, behind):
    network = Network(ModelOptions(backbone, "none", non_local=True), 5, SIZE)
    found = [n for n, m in network.backbone.named_modules() if isinstance(m, NonLocal)]
    assert found == [f"{name}.non_local" for name in behind]


@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_changes_nothing_and_a_trained_one_does(training):
    plain, attending = (small(non_local=on).train(training) for on in (False, True))
    attending.load_state_dict(plain.state_dict(), strict=False)
    features = plain(pixels()).features
    assert torch.equal(attending(pixels()).features, features)
    for name, weight in attending.named_parameters():
        if name.endswith("non_local.norm.weight"):
            nn.init.ones_(weight)
    assert not torch.allclose(attending(pixels()).features, features)


def test_every_weight_of_a_block_is_trained():
    network = small(non_local=True)
    for name, weight in network.named_parameters():
        if name.endswith("non_local.norm.weight"):
            nn.init.ones_(weight)
    network(pixels()).features.square().sum().backward()
    of_blocks = [(n, w) for n, w in network.named_parameters() if ".non_local." in n]
    assert len(of_blocks) == 2 * 10
    # Batch norm cancels the bias before it, so its gradient is only rounding error.
    assert all(w.grad.abs().max() > 0 for n, w in of_blocks if not n.endswith("w.bias"))


@pytest.mark.parametrize(("inner", "channels"), [("one", 1), ("half", 24)])
def test_channels_inside_a_block(inner, channels):
    block = small(non_local=True, non_local_inner=inner).backbone.layer2[0].non_local
    assert block.theta.weight.shape[:2] == (channels, 48)


def test_agws_network_has_as_many_weights_as_the_authors_code():
    """Counted in their code: what `embed_net(395)` trains, and the frozen bias of its BNNeck."""
    network = Network(ModelOptions("resnet50", "none", **AGW), 395, SIZE)
    counts: Counter[str] = Counter()
    for name, weight in network.named_parameters():
        part = name.split(".")
        where = "non-local" if "non_local" in part else part[0]
        counts[where + (f" {part[1]}" if part[0] in ("backbone", "enter") else "")] += len(
            weight.flatten()
        )
    # θ, φ and g: c + 1 each; W: c and c; its batch norm: 2c.
    block = {c: 3 * (c + 1) + 2 * c + 2 * c for c in (512, 1024)}
    stem = 7 * 7 * 3 * 64 + 2 * 64

    def bottleneck(enters: int, inside: int, shortcut: bool) -> int:
        leaves = 4 * inside
        convolutions = enters * inside + 9 * inside * inside + inside * leaves
        return convolutions + 2 * (2 * inside + leaves) + shortcut * (enters * leaves + 2 * leaves)

    def stage(enters: int, inside: int, num: int) -> int:
        others = (num - 1) * bottleneck(4 * inside, inside, False)
        return bottleneck(enters, inside, True) + others

    assert counts == {
        "enter rgb": stem,  # 9,536
        "enter infrared": stem,
        "backbone layer1": stage(64, 64, 3),  # 215,808
        "backbone layer2": stage(256, 128, 4),  # 1,219,584
        "backbone layer3": stage(512, 256, 6),  # 7,098,368
        "backbone layer4": stage(1024, 512, 3),  # 14,964,736
        "non-local layer2": 2 * block[512],  # 7,174
        "non-local layer3": 3 * block[1024],  # 21,513
        "neck": 2 * 2048,
        "classifier": 2048 * 395,
    }
    assert sum(counts.values()) == 24_359_311


def test_agws_neck_has_a_bias_that_stays_0_and_its_classifier_none():
    network = small(**AGW)
    assert network.classifier.bias is None
    optimizer = torch.optim.Adam(network.parameters(), 0.1, weight_decay=0.1)
    out = network(pixels(), torch.arange(4) >= 2)
    (out.logits.square().sum() + out.embedding.sum()).backward()
    before = network.neck.weight.clone()
    optimizer.step()
    assert network.neck.bias.abs().max() == 0
    assert not torch.equal(network.neck.weight, before)


def test_non_local_blocks_without_a_resnet_are_refused():
    with pytest.raises(InputError, match=r"--model.non-local: lcnet_035 is not a ResNet .* layer2"):
        Network(ModelOptions("lcnet_035", "none", non_local=True), 3, SIZE)
