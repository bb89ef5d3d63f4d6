"""CDP with a centre loss and random erasing."""

from dataclasses import dataclass

import torch
from nvidia.dali import fn

from model.network import Network
from model.options import ModelOptions
from train.methods.base import Method


class MyNetwork(Network):
    def __init__(self, options, num_classes, image_size):
        super().__init__(options, num_classes, image_size)
        self.centres = torch.nn.Parameter(torch.zeros(num_classes, self.width))

    def forward(self, images, infrared=None):
        return super().forward(images, infrared)._replace(extras={"centres": self.centres})


@dataclass(frozen=True)
class MyMethod(Method):
    centre_weight: float = 0.01
    """Weight of the centre loss."""

    @property
    def loss_weights(self):
        return super().loss_weights | {"centre": self.centre_weight}

    def network(self, num_classes, image_size):
        return MyNetwork(self.model, num_classes, image_size)

    def losses(self, out, batch, gather):
        centres = out.extras["centres"][batch.labels]
        centre = (out.features.float() - centres).square().sum(dim=1).mean()
        return super().losses(out, batch, gather) | {"centre": centre}

    def augment(self, image, draw):
        box = draw("my-erase", 2, lambda u, originals: 0.7 * u)  # top and left, 0…0.7
        return fn.erase(image, anchor=box, shape=[0.3, 0.3], normalized=True, axis_names="HW")


METHOD = MyMethod(model=ModelOptions("test_resnet", "none", bnneck=True))
