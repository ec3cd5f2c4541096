"""Programs of simulations and worlds are modules beside the tests; worlds of the shop end with their test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch import World

sys.path.insert(0, str(Path(__file__).parent))
import world_shop as shop

Make = Callable[..., World]


@pytest.fixture
def make(anabranch_world: Make) -> Make:
    """Makes worlds that end with the test."""
    return lambda program=shop.app, **options: anabranch_world(program, **options)
