"""A small training by DeepCluster-v2 or SeLa-v2, on one process or several.

A linear encoder, plain SGD, gradients averaged over the processes as DDP does. What the
gloo processes of the tests run; importable by spawned children.
"""

import torch
from torch.nn import functional

from vissl_swav.backends.torch_collective import collective as torch_collective
from vissl_swav.core.collective import LOCAL
from vissl_swav.core.deepcluster_v2 import DeepClusterV2
from vissl_swav.core.sela_v2 import SeLaV2

METHODS = {
    "deepcluster_v2": (DeepClusterV2, {"empty_clusters": "keep"}),
    "sela_v2": (SeLaV2, {"tolerance": 1e-3}),
}
SEED = 3


class Training:
    """`pictures (V, N, P)`: the crops of all images, as vectors.

    Args:
        name: a method of `METHODS`.
        pictures: float64, or float32 for a method that stays as it was made.
        encoder: W (D, P).
        prototypes: (K, D) a head; DeepCluster-v2 finds its own.
        settings: of the method.
        collective: the processes.
    """

    def __init__(
        self, name, *, pictures, encoder, prototypes, settings, collective=LOCAL, lr=0.5
    ):
        method, defaults = METHODS[name]
        num_crops, num_images, _ = pictures.shape
        self.method = method(
            num_images=num_images,
            num_crops=num_crops,
            num_prototypes=[len(C) for C in prototypes],
            embedding_dim=encoder.shape[0],
            **{**defaults, **settings},
        )
        if pictures.dtype == torch.float64:
            self.method.double()
        self.trained = name == "sela_v2"
        self.pictures, self.collective, self.lr = pictures, collective, lr
        self.encoder = encoder.clone().requires_grad_()
        self.prototypes = [C.clone().requires_grad_(self.trained) for C in prototypes]

    def encode(self, images):
        """Z (V * B, D), crop-major."""
        X = self.pictures[:, images].flatten(0, 1)
        return functional.normalize(X @ self.encoder.t(), dim=1)

    @torch.no_grad()
    def fill(self, images):
        self.method.remember(self.encode(images), images)

    def assign(self, epoch):
        found = self.method.assign(
            self.prototypes, epoch=epoch, seed=SEED, collective=self.collective
        )
        if not self.trained:
            self.prototypes = found.prototypes
        return found

    def step(self, images):
        """The loss of this process, and the encoder's averaged gradient."""
        Z = self.encode(images)
        scores = [Z @ C.t() for C in self.prototypes]
        loss = self.method(scores, images, collective=self.collective)
        loss.backward()
        self.method.remember(Z, images)
        trained = [self.encoder, *(self.prototypes if self.trained else [])]
        gradients = []
        with torch.no_grad():
            for weight in trained:
                summed = self.collective.all_reduce_sum(weight.grad)
                gradients.append(summed / self.collective.world_size)
                weight -= self.lr * gradients[-1]
                weight.grad = None
            for C in trained[1:]:
                C.copy_(functional.normalize(C, dim=1))
        return loss.detach(), gradients[0]

    def state(self):
        """Copies, as a checkpoint would hold them."""
        buffers = {k: v.clone() for k, v in self.method.state_dict().items()}
        weights = [w.detach().clone() for w in (self.encoder, *self.prototypes)]
        return buffers, weights

    @torch.no_grad()
    def load(self, state):
        buffers, (encoder, *prototypes) = state
        self.method.load_state_dict(buffers)
        self.encoder.copy_(encoder)
        for C, saved in zip(self.prototypes, prototypes, strict=True):
            C.copy_(saved)


def toy(*, num_images=43, num_crops=3, dtype=torch.float64, widths=(5, 4, 6)):
    """Arguments of `Training`: images of eight kinds, three heads."""
    generator = torch.Generator().manual_seed(11)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    kinds = normal(8, 9)[torch.arange(num_images) % 8]
    pictures = kinds + 0.5 * normal(num_crops, num_images, 9)
    prototypes = [functional.normalize(normal(K, 4), dim=1) for K in widths]
    return {"pictures": pictures, "encoder": normal(4, 9), "prototypes": prototypes}


def epochs_of(num_images, num_epochs, batch=8):
    """Global batches `[epoch][step]`, the last one smaller."""
    generator = torch.Generator().manual_seed(5)
    orders = [
        torch.randperm(num_images, generator=generator) for _ in range(num_epochs)
    ]
    return [list(order.split(batch)) for order in orders]


def without_label(epochs):
    """Images that the filling pass leaves out: the end of the first batch."""
    return epochs[0][0][5:]


def train(training, epochs, share_of_batch=slice(None)):
    """The whole cycle; every process takes its slice of each batch."""
    left_out = set(without_label(epochs).tolist())
    for batch in epochs[-1]:
        mine = [i for i in batch[share_of_batch].tolist() if i not in left_out]
        training.fill(torch.tensor(mine, dtype=torch.long))
    found, labels, losses, gradients = [], [], [], []
    for epoch, batches in enumerate(epochs):
        found.append(training.assign(epoch))
        labels.append(training.method.labels.labels.clone())
        for batch in batches:
            loss, gradient = training.step(batch[share_of_batch])
            losses.append(loss)
            gradients.append(gradient)
    return {
        "found": found,
        "labels": labels,
        "losses": torch.stack(losses),
        "gradients": torch.stack(gradients),
        "encoder": training.encoder.detach(),
        "rows": len(training.method.bank),
    }


def cycles_of_shards(rank, world_size, cases):
    """`{case: what `train` found, or the error's text}`; a case is (method, shares)."""
    results = {}
    for name, shares in cases:
        arguments = toy()
        epochs = epochs_of(arguments["pictures"].shape[1], 3)
        training = Training(
            name, **arguments, settings={}, collective=torch_collective()
        )
        start = sum(shares[:rank])
        mine = slice(start, start + shares[rank])
        try:
            results[name, shares] = train(training, epochs, mine)
        except ValueError as error:
            results[name, shares] = str(error)
    return results
