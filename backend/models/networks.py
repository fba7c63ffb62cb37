"""Our own small classifiers, under the names of `architecture = "prism:NAME"`.

Every nonlinearity is a module of its own, used once and never in place, so that DeepLIFT, LRP and CAM find it.
The networks take normalised images and return logits.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backend.errors import BadInput


class LeNet(nn.Module):
    """Two 5 x 5 convolutions and a head, for 28 x 28 greys.

    `head="gap"`: a third convolution, global average pooling and one linear layer, as the original CAM wants it.
    `head="fc"`: two fully connected layers, as in LeNet.
    """

    def __init__(self, classes: int, channels: int = 1, head: str = "gap") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        if head == "gap":
            self.head = nn.Sequential(
                nn.Conv2d(32, 64, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(64, classes),
            )
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, 28, 28) -> (N, classes)."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.head(x)


class PlainCNN(nn.Module):
    """Four 3 x 3 convolutions that halve the image three times, global average pooling, one linear layer.

    It is trained with a batch norm behind each convolution (`is_normalised`), which `folded` then multiplies into
    the convolution: what ships is convolutions, ReLUs and poolings only, as propagation methods like it.
    """

    def __init__(self, classes: int, channels: int = 3, is_normalised: bool = False) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        layers: list[nn.Module] = []
        before = channels
        for width, stride, is_pooled in ((24, 2, False), (48, 1, True), (96, 1, True), (96, 1, False)):
            layers.append(nn.Conv2d(before, width, 3, stride, padding=1))
            if is_normalised:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            if is_pooled:
                layers.append(nn.MaxPool2d(2))
            before = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        return self.classifier(self.flatten(self.pool(self.features(x))))

    def folded(self) -> "PlainCNN":
        """The same function in evaluation mode, without batch norms."""
        plain = PlainCNN(self.classes, self.channels).to(self.classifier.weight)
        pairs = zip(self.features, self.features[1:], strict=False)
        fused = [fuse_conv_bn_eval(a.eval(), b.eval()) for a, b in pairs if isinstance(b, nn.BatchNorm2d)]
        for own, conv in zip((m for m in plain.features if isinstance(m, nn.Conv2d)), fused, strict=True):
            own.load_state_dict(conv.state_dict())
        plain.classifier.load_state_dict(self.classifier.state_dict())
        return plain.eval()


class ResidualBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), as in ResNet-18, with a ReLU module per use."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))


class SmallResNet(nn.Module):
    """A stem that halves the image and three stages of residual blocks, pooled and classified."""

    def __init__(
        self, classes: int, channels: int = 3, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 2
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 2, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        before = widths[0]
        for depth, width in enumerate(widths):
            stage = []
            for block in range(blocks):
                stage.append(ResidualBlock(before, width, stride=2 if depth > 0 and block == 0 else 1))
                before = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        return self.classifier(self.flatten(self.pool(self.stages(self.stem(x)))))


class SelfAttention(nn.Module):
    """Multi-head self-attention written out, so that hooks see the attention weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) -> (N, tokens, width)."""
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, tokens, width / heads)
        weights = self.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5)
        return self.project((weights @ v).transpose(1, 2).reshape(n, tokens, width))


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer perceptron, both residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A vision transformer on 8 x 8 patches that a small stack of convolutions embeds.

    The convolutional stem (Xiao et al., arXiv:2106.14881) learns from few images; the tokens are averaged, so that
    the classifier is linear on globally pooled features.
    """

    def __init__(
        self, classes: int, channels: int = 3, side: int = 64, width: int = 96, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 24, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, width, 3, 2, padding=1),
        )
        self.position = nn.Parameter(torch.zeros(1, (side // 8) ** 2, width))
        nn.init.normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, side, side) -> (N, classes)."""
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.position  # (N, tokens, width)
        return self.classifier(self.norm(self.blocks(tokens)).mean(dim=1))


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "lenet-gap": lambda classes, channels: LeNet(classes, channels, head="gap"),
    "lenet-fc": lambda classes, channels: LeNet(classes, channels, head="fc"),
    "plain-cnn": PlainCNN,
    "small-resnet": SmallResNet,
    "small-vit": SmallViT,
}


def build(name: str, classes: int, channels: int) -> nn.Module:
    """A freshly initialised network; its random numbers are PyTorch's global ones, so fork them around the call.

    Raises: BadInput: no such name; the sentence lists those there are.
    """
    if name not in NETWORKS:
        raise BadInput(f"unknown architecture 'prism:{name}'; one of {', '.join(NETWORKS)}", "architecture")
    return NETWORKS[name](classes, channels)


def build_for_training(name: str, classes: int, channels: int) -> nn.Module:
    """Like `build`, with the batch norms that only training needs; `finish` makes of it what `build` gives."""
    if name == "plain-cnn":
        return PlainCNN(classes, channels, is_normalised=True)
    return build(name, classes, channels)


def finish(network: nn.Module) -> nn.Module:
    """A trained network as it is kept: batch norms folded where the architecture has none."""
    return network.folded() if isinstance(network, PlainCNN) else network.eval()
