import io

import pytest
import torch
from rich.console import Console
from torch import nn

import bbpyro
from bbpyro.bars import is_drawn


def test_a_bar_is_drawn_where_somebody_sees_it():
    terminal, pipe = Console(file=io.StringIO(), force_terminal=True), Console(file=io.StringIO())
    assert is_drawn(terminal)
    assert not is_drawn(pipe) and not is_drawn(False)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_pipe_gets_neither_bars_nor_empty_lines_in_their_place(is_terminal):
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(nn.Sequential(nn.Linear(4, 3))), num_data=20)
    bbpyro.fit(bnn, x, y, num_epochs=2, progress=console)
    bbpyro.predict(bnn, x, 3, progress=console)
    bbpyro.to_arviz(bnn, x, y, 20, progress=console)
    assert (console.file.getvalue() != "") is is_terminal
