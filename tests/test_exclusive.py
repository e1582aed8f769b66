import threading

import torch
from torch import nn

import bbpyro


def network() -> bbpyro.BetaBernoulliNetwork:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=40)


def test_fits_and_predictions_in_threads_give_the_numbers_that_they_give_alone():
    x, y = torch.randn(40, 4), torch.randint(3, (40,))
    networks = [network() for _ in range(8)]  # by one seed, which is the process's

    def work(results: list[list[float]], seed: int) -> None:
        bnn = networks.pop()
        bbpyro.BetaBernoulliNetwork(bnn.net, num_data=40)  # which tries its prior, by draws
        history = bbpyro.fit(bnn, x, y, num_epochs=3, batch_size=5, seed=seed, progress=False)
        bbpyro.predict(bnn, x, 3)
        bbpyro.to_arviz(bnn, x, y, 10, progress=False)
        results[seed] += [record["loss"] for record in history]

    alone: list[list[float]] = [[] for _ in range(4)]
    together: list[list[float]] = [[] for _ in range(4)]
    for seed in range(4):
        work(alone, seed)
    threads = [threading.Thread(target=work, args=(together, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_callback_may_predict():
    x, y = torch.randn(40, 4), torch.randint(3, (40,))
    bnn, shapes = network(), []
    bbpyro.fit(
        bnn, x, y, num_epochs=2, progress=False, on_epoch=lambda _: shapes.append(bbpyro.predict(bnn, x, 2).shape)
    )
    assert shapes == [(40, 3), (40, 3)]


def test_a_network_may_be_compacted_while_another_thread_trains_it():
    x, y = torch.randn(40, 4), torch.randint(3, (40,))
    bnn, sizes = network(), []

    def compact() -> None:
        for _ in range(5):
            sizes.append(bbpyro.compact(bnn, x)(x).shape)

    thread = threading.Thread(target=compact)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=5, progress=False, on_epoch=lambda s: thread.ident or thread.start())
    thread.join()
    assert sizes == [(40, 3)] * 5
