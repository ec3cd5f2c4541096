from pathlib import Path

import prediction
import pytest
from anabranch import World

TRIPS = Path(__file__).with_name("prediction.csv")


def test_a_model_learns_the_line_through_the_trips():
    with World(prediction.app) as world:
        models = world.run({"trips": TRIPS}, key="city").tables["models"]
    oslo = prediction.Model(**models["oslo"])
    assert oslo.trips == 4
    assert oslo.predict(10.0) == pytest.approx(23.0)  # 3 minutes, and 2 for each km


def test_two_replays_give_one_model():
    with World(prediction.app) as world:
        one = world.run({"trips": TRIPS}, key="city").tables["models"]
        two = world.run({"trips": TRIPS}, key="city", workers=3).tables["models"]
    assert one == two
